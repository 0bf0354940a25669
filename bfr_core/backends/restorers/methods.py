"""The methods under `methods/`, as models like all others."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ... import registry
from ...models.spec import Checkpoint, ModelSpec

if TYPE_CHECKING:
    from ...restorer import Restorer


def __getattr__(name: str) -> Any:
    """Give SPECS, made anew each time from the methods that are declared then."""
    if name == "SPECS":
        return tuple(_declared(method, order) for order, method in enumerate(registry.methods().values()))
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def _declared(method: registry.Method, order: int) -> ModelSpec:
    first = method.configs[0]

    def load(checkpoint: Checkpoint) -> Restorer:
        from ...restorer import load_restorer

        return load_restorer(method.id, checkpoint.config, weights=checkpoint.given)

    return ModelSpec(
        method.id,
        "restorer",
        method.title,
        "on the card of each file",
        load,
        embedded=(*first.embedded, *first.shared.values()),
        beside=_beside,
        order=order,
    )


def _beside(path: Path) -> Sequence[Path]:
    """Return the files of a folder, or those around a file that is named like a part of a network."""
    from ...models.checkpoints.parts import candidates

    names = {Path(part.file).stem for method in registry.methods().values() for part in method.parts}
    if path.is_dir() or path.stem in names:
        return candidates(path if path.is_dir() else path.parent)
    return (path,)
