"""Finds the models of a role: every file of `backends/<role>s/` declares one as SPEC, or several as SPECS."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Collection

from ..errors import ModelError
from .checkpoints.foreign import foreign
from .roles import ROLES
from .spec import ModelSpec


def specs(role: str) -> tuple[ModelSpec, ...]:
    """Return every declared model of a role, in the order of a list.

    The folder is read anew each time, so that a package which adds a folder to the path of `backends.<role>s` is seen.
    """
    package = importlib.import_module(f"..backends.{role}s", __package__)
    found: list[ModelSpec] = []
    for module in pkgutil.iter_modules(package.__path__):
        if not module.name.startswith("_"):
            loaded = importlib.import_module(f"{package.__name__}.{module.name}")
            found += getattr(loaded, "SPECS", None) or (loaded.SPEC,)
    return tuple(sorted(found, key=lambda spec: (spec.order, spec.id)))


def get_spec(role: str, name: str = "") -> ModelSpec:
    """Return the model of a role called `name`, the first for an empty name.

    Raises:
        ModelError: there is none.
    """
    known = specs(role)
    for spec in known:
        if name in ("", spec.id):
            return spec
    raise ModelError(
        f"Unknown {ROLES[role].title} {name!r}",
        found=f"expected one of {', '.join(spec.id for spec in known)}",
        kept="Nothing was changed",
        todo=f"Choose a {ROLES[role].title} from the list",
    )


def describe(keys: Collection[str], role: str = "") -> str | None:
    """Say what a state dict with these keys is of, None where nobody knows.

    A model of the role that was asked for comes first, then what people mistake for one of ours, then other roles'.
    """
    titles = {name: [spec.title for spec in specs(name) if spec.detect and spec.detect(keys)] for name in ROLES}
    named = [*titles.pop(role, []), foreign(keys), *(title for others in titles.values() for title in others)]
    return next(filter(None, named), None)
