"""What only one method has to show: the node modules that it names in its declaration.

Such a module has its node classes in `NODES`, in the order of menus, and in `KINDS` how inputs of a kind come in that
no other method takes.
"""

from __future__ import annotations

import importlib
from types import ModuleType
from typing import TYPE_CHECKING

from ..bfr_core.registry import Method
from .types import KINDS, Beside

if TYPE_CHECKING:
    from .compat import io


def node_modules(method: Method) -> list[ModuleType]:
    """Return the modules that a method names: of this package where a name begins with a dot."""
    return [importlib.import_module(name, __package__) for name in method.nodes]


def own_nodes(method: Method) -> list[type[io.ComfyNode]]:
    """Return the node classes that only this method has."""
    return [node for module in node_modules(method) for node in module.NODES]


def input_kind(method: Method, kind: str) -> Beside:
    """Return how inputs of a kind come in that the method declares."""
    known = dict(KINDS)
    for module in node_modules(method):
        known |= getattr(module, "KINDS", {})
    return known[kind]
