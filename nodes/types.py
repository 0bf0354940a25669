"""The socket types of this pack. Prefixed, so that no other pack's payload can arrive on one."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from torch import Tensor

from ..bfr_core.registry import MASK
from ..bfr_core.types import Face, FaceCrop
from .compat import io
from .host import mask_layers

if TYPE_CHECKING:
    from ..bfr_core.video.choose import TrackSelection
    from ..bfr_core.video.reader import OnDamage

DetectorSocket = io.Custom("BFR_DETECTOR")
FacesSocket = io.Custom("BFR_FACES")
CropsSocket = io.Custom("BFR_CROPS")
RestorerSocket = io.Custom("BFR_RESTORER")
TracksSocket = io.Custom("BFR_TRACKS")

CATEGORY = "Faces"
RESTORE, FIND, GUIDE, FILM, EDIT, MEASURE, TRAIN_AIDS, EXAMPLES = (
    f"{CATEGORY}/{room}" for room in ("Restore", "Find", "Guide", "Film", "Edit", "Measure", "Train aids", "Examples")
)
"""Rooms of the menu. Saved graphs do not hold them: a node may move."""


@dataclass(frozen=True, slots=True)
class Crops:
    """What BFR_CROPS carries: where each aligned face came from."""

    crops: tuple[FaceCrop, ...]
    frames: int
    """Frames of the batch the faces were found in."""
    size: tuple[int, int]
    """Height and width of those frames: pasted into another size, every face would land beside its place."""


@dataclass(frozen=True, slots=True)
class TrackChoice:
    """What BFR_TRACKS carries: whom of a video to restore. Numbers of tracks mean something in that video alone."""

    source: str
    """Key of the video that was analysed."""
    name: str
    """Of the video, for messages."""
    choice: TrackSelection
    detector: Any
    """What found the faces: by another one they may be counted otherwise."""
    on_damage: OnDamage = "stop"
    """What was done where frames cannot be decoded: it counts them otherwise, too."""


Faces = list[list[Face]]
"""What BFR_FACES carries: the faces of each frame."""


@dataclass(frozen=True, slots=True)
class Beside:
    """How one kind of input that a method declares beside the faces comes in."""

    socket: Any
    rows: Callable[[Any, str, int], Tensor]
    """Makes the method's tensor of what the socket carries, the restorer's config and how many faces there are."""


KINDS: Mapping[str, Beside] = {
    MASK: Beside(io.Mask, lambda mask, config, count: mask_layers(mask, count)[:, None]),
}
"""By `Input.kind`: any method may declare inputs of these kinds; for those of one method see `own.input_kind`."""
