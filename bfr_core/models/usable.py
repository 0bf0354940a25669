"""Which files of a folder a model of a role can use, told by their headers: lists are made often, files are large."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from ..errors import WeightsError
from ..registry import methods
from .checkpoints.files import some
from .checkpoints.parts import find_contents, open_mapped, state_of
from .registry import describe, specs
from .roles import ROLES
from .spec import TORCH_SUFFIXES, ModelSpec

_KEPT_ANSWERS = 4096


def unfit(role: str, path: Path) -> str:
    """Say in one sentence why no model of a role can use a file; empty where one can, or nobody can tell cheaply.

    Hardly anything of the file is read, and nothing of it twice while it stays as it is.

    Args:
        role: one of `roles.ROLES`.
        path: the file.
    """
    try:
        state = path.stat()
    except OSError:  # gone meanwhile: said by who opens it
        return ""
    return _unfit(role, path, state.st_mtime_ns, state.st_size)


@lru_cache(_KEPT_ANSWERS)
def _unfit(role: str, path: Path, modified: int, size: int) -> str:
    suffix = path.suffix.lower()
    reads = [spec for spec in specs(role) if suffix in spec.suffixes]
    if suffix not in TORCH_SUFFIXES or not reads:
        return ""
    try:
        loaded = open_mapped(path)
        if loaded is None:
            return ""
        keys = state_of(loaded).keys()
        if _fits(role, path, loaded, reads):
            return ""
    except WeightsError as error:
        return f"{path.name}: {error.found.split(';')[0]}"
    held = describe(keys, role) or (f"a network with {some(list(keys))}" if keys else "no weights")
    return f"{path.name} holds {held}, nothing that a {ROLES[role].title} here is made of"


def _fits(role: str, path: Path, loaded: Mapping[Any, Any], reads: list[ModelSpec]) -> bool:
    keys = state_of(loaded).keys()
    if role == "restorer":
        whole: list[Callable[[Any], str | None]] = [method.recognise for method in methods().values()]
        return any(recognise(keys) for recognise in whole) or find_contents(path, loaded) is not None
    # What cannot be told by its keys is left to who opens it.
    return any(spec.detect is None or spec.detect(keys) for spec in reads)
