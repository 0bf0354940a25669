"""The socket types of this pack. Prefixed, so that no other pack's payload can arrive on one."""

from __future__ import annotations

from dataclasses import dataclass

from ..bfr_core.types import Face, FaceCrop
from .compat import io

DetectorSocket = io.Custom("BFR_DETECTOR")
FacesSocket = io.Custom("BFR_FACES")
CropsSocket = io.Custom("BFR_CROPS")
RestorerSocket = io.Custom("BFR_RESTORER")

CATEGORY = "BFR/faces"


@dataclass(frozen=True, slots=True)
class Crops:
    """What BFR_CROPS carries: where each aligned face came from."""

    crops: tuple[FaceCrop, ...]
    frames: int
    """Frames of the batch the faces were found in."""
    size: tuple[int, int]
    """Height and width of those frames: pasted into another size, every face would land beside its place."""


Faces = list[list[Face]]
"""What BFR_FACES carries: the faces of each frame."""
