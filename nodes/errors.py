"""Errors as people meet them: hosts show the name of an error's class before its message."""

from __future__ import annotations

import functools
import re
from typing import Any

from ..bfr_core.errors import BfrError
from .compat import io

_WRAPPED: set[Any] = set()


def in_words(node: type[io.ComfyNode]) -> type[io.ComfyNode]:
    """Return a node whose errors are called in words where a host shows them, which puts a path there otherwise.

    What is no error of this pack, such as a host's cancel or memory that ran out, passes as it is.
    """
    inner: Any = node.execute.__func__  # type: ignore[attr-defined]
    if inner in _WRAPPED:  # hosts may ask for the nodes again
        return node

    @functools.wraps(inner)
    def execute(cls: type[io.ComfyNode], *args: Any, **inputs: Any) -> Any:
        try:
            return inner(cls, *args, **inputs)
        except BfrError as error:
            error.__class__ = _named(type(error))
            raise

    _WRAPPED.add(execute)
    node.execute = classmethod(execute)  # type: ignore[attr-defined]
    return node


@functools.cache
def _named(kind: type[BfrError]) -> type[BfrError]:
    """Return an error class called by words: "Settings error" of SettingsError."""
    words = re.sub(r"(?<!^)(?=[A-Z])", " ", kind.__name__).capitalize()
    # A host leaves the module out where it is this one.
    return type(kind.__name__, (kind,), {"__module__": "builtins", "__qualname__": words})
