"""What a weight file says of itself, in the metadata of safetensors: it tells apart files whose keys are the same."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path

import safetensors
from safetensors import safe_open

from ...registry import methods

_PREFIX = "bfr."
"""Of our entries among those of others."""


@dataclass(frozen=True, slots=True)
class Origin:
    """What a file was trained as: the fields of its card that go with the file where the card does not."""

    method: str
    config: str
    title: str
    """Of the training stage."""

    @property
    def words(self) -> str:
        """What the file is, for messages."""
        known = methods().get(self.method)
        # A method of one stage and that stage have the same title.
        named = dict.fromkeys((known.title if known else self.method, self.title))
        return f"{', '.join(named)}, config {self.config}"

    def metadata(self) -> dict[str, str]:
        """Return the entries to write into a file."""
        return {_PREFIX + name: value for name, value in asdict(self).items()}


def read_origin(path: Path) -> Origin | None:
    """Return what a file says of itself; None where it says nothing, is of another kind, or cannot be read."""
    if path.suffix != ".safetensors" or not path.is_file():
        return None
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            said = file.metadata() or {}
    except (safetensors.SafetensorError, OSError):  # said by who reads its tensors
        return None
    names = [_PREFIX + name for name in Origin.__slots__]
    return Origin(*(said[name] for name in names)) if all(name in said for name in names) else None
