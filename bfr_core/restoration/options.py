"""What a person may choose about restoring, beside the settings of the method."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, get_args

from ..bounds import bounded, check_bounds
from ..compose.masks import FEATHER
from ..faces.quality import QualityFilter

if TYPE_CHECKING:
    from ..faces.people import DriftLimit, People
    from ..registry import Config
    from ..types import Upscaler

UPSCALES = (1, 2, 4)
"""How many times as wide and as high a result can be."""

Colours = Literal["auto", "input", "method"]
"""Whose colours restored faces have, at the scale of lips and larger. input: those of the picture; method: what the
network paints; auto: see `colours_of`."""

COLOURS: tuple[str, ...] = get_args(Colours)
COLOURS_HELP = (
    "Whose colours faces have: of the input, of the method, or auto, which is the input's for compact weights and the "
    "method's own for published ones"
)

GRAIN_HELP = "How much of the grain around faces is put back into them: 0 none, 1 all; clean pictures get none"


def colours_of(asked: Colours, config: Config) -> Literal["input", "method"]:
    """Return whose colours `asked` means; `auto` is as the config declares it."""
    return config.colours if asked == "auto" else asked


@dataclass(frozen=True, slots=True)
class RestoreOptions:
    """What is done to the faces of pictures."""

    strength: float = bounded(1.0, 0, 1)
    seed: int = 0
    threshold: float | None = bounded(None, 0, 1)
    """Least confidence of a face; None for the detector's own."""
    max_faces: int = bounded(0, 0, 4096)
    """Restore this many of the largest faces; 0 for all."""
    min_size: float = bounded(16.0, 0, 1e6)
    """Leave faces smaller than this many pixels: there is nothing in them to restore from."""
    quality_filter: QualityFilter | None = field(default_factory=QualityFilter)
    """Which faces have nothing to gain: sharp already, or turned too far aside; its `min_size` and `min_seconds` are of
    films. None for everybody has. A box that a person drew, aligned faces and whole pictures are not filtered."""
    people: People | None = None
    """Whom to restore, chosen among the faces that are large enough and before the largest are counted."""
    drift_limit: DriftLimit | None = None
    """Which restored faces to take back."""
    feather: float = bounded(FEATHER, 0, 0.5)
    grain: float = bounded(1.0, 0, 1)
    """How much of the grain around faces is put back into them; pictures without grain get none."""
    colours: Colours = field(default="auto", metadata={"choices": COLOURS})
    settings: Mapping[str, Any] = field(default_factory=dict)
    """Of the method."""
    upscale: int = field(default=1, metadata={"choices": UPSCALES})
    """How many times as wide and as high the result is. Faces are found and cut out in the picture as it is, and go
    into the larger one as the restorer gives them."""
    upscaler: Upscaler | None = None
    """What makes all else larger; None: Lanczos."""

    def check(self) -> None:
        """Raise SettingsError where a value is out of range."""
        check_bounds(self, "restore")
