"""The values that pass between the rooms of the package.

Tensors: RGB, float32, [0, 1], (B, 3, H, W) inside the package; ComfyUI's (B, H, W, C) is turned at its edge.

Coordinates: continuous pixels. The top-left pixel covers [0, 1) x [0, 1), its centre lies at (0.5, 0.5), x runs
right and y down. Scaling a picture by s scales coordinates by s and nothing else, so no half-pixel term appears
anywhere except where pixels are sampled.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Protocol

if TYPE_CHECKING:
    import numpy as np
    import torch

Numbers = Mapping[str, Sequence[float]]
"""What was read in faces: by name, a number for each face."""

POINT_NAMES = ("left eye", "right eye", "nose", "left mouth corner", "right mouth corner")
"""Order of the five points; left and right are the viewer's."""


FaceOrigin = Literal["found", "drawn", "empty"]


@dataclass(frozen=True, slots=True)
class Face:
    """One detected face in the pixels of its frame."""

    box: tuple[float, float, float, float]
    """x0, y0, x1, y1; may reach beyond the frame."""
    points: np.ndarray
    """(5, 2) float64, order of POINT_NAMES."""
    score: float
    """Confidence in [0, 1]; 1.0 where a person or another tool gave the box."""
    index: int | None = None
    """Its place among all faces that were found in its frame, also where others were left out since; None: its place in
    the list it comes in. The noise of a face depends on it."""
    origin: FaceOrigin = "found"
    """found: by a detector. drawn: a person drew the box, which is an order: no filter leaves it alone. empty: the box
    was given, and no face was found in it."""
    turned: int = 0
    """Degrees to the left by which the frame had to be turned for the face to be found, 0 to 359."""

    @property
    def size(self) -> float:
        """Geometric mean of the box's sides, in pixels."""
        x0, y0, x1, y1 = self.box
        return (max(x1 - x0, 0.0) * max(y1 - y0, 0.0)) ** 0.5

    @property
    def eye_distance(self) -> float:
        """Distance between the eyes, in pixels."""
        dx, dy = self.points[1] - self.points[0]
        return float((dx * dx + dy * dy) ** 0.5)


@dataclass(frozen=True, slots=True)
class FaceCrop:
    """A face turned upright into a square of the FFHQ template."""

    image: torch.Tensor
    """(3, S, S) float32 [0, 1]."""
    matrix: np.ndarray
    """(2, 3) float64 similarity: frame coordinates to crop coordinates."""
    face: Face
    frame_index: int = 0
    """Which frame of a batch the face was found in."""

    @property
    def size(self) -> int:
        """Side of the crop, in pixels."""
        return int(self.image.shape[-1])

    @property
    def scale(self) -> float:
        """Crop pixels per frame pixel; above 1 the face is enlarged on its way in."""
        a, b = self.matrix[0, 0], self.matrix[1, 0]
        return float((a * a + b * b) ** 0.5)


FaceAction = Literal["restored", "kept"]


@dataclass(slots=True)
class FaceReport:
    """What was done to one face, and why."""

    frame_index: int
    face_index: int
    box: tuple[float, float, float, float]
    score: float
    scale: float
    action: FaceAction
    reason: str = ""
    likeness: float | None = None
    """Cosine to the nearest of the people asked for, or else of those to leave alone; None where nobody was named."""
    drift: float | None = None
    """How far restoring moved the identity, see `faces.identity.drift`; None where nobody asked, or not restored."""
    sharpness: float | None = None
    """Of the input, 0 to 1, see `faces.quality.sharpness`; None where nobody asked."""
    turned: int = 0
    """Degrees to the left by which the picture had to be turned for the face to be found."""
    seconds: float = field(default=0.0, compare=False)
    """Time that restoring took: its share of the batch it was in."""


@dataclass(slots=True)
class RestoreReport:
    """What was done to one picture or batch."""

    method: str
    config: str
    detector: str
    seed: int
    strength: float
    colours: Literal["input", "method"] = "input"
    """Whose colours restored faces have, at the scale of lips and larger."""
    upscale: int = 1
    """How many times as wide and as high the result is; boxes and scales are those of the input."""
    upscaled_by: str = ""
    """What made all but the faces larger."""
    faces: list[FaceReport] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    """Everything that was not done as asked: retries, smaller batches, changed settings; and what the method read in
    the faces, summed up over the run as far as it had come."""
    seconds: dict[str, float] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Return the report as plain JSON types."""
        return asdict(self)


@dataclass(slots=True)
class Heard:
    """What was said while faces were restored, to be said again where they are shown without being restored anew."""

    notes: list[str] = field(default_factory=list)
    numbers: list[tuple[str, Numbers]] = field(default_factory=list)
    """By `Runtime.tell`, batch by batch."""


class Upscaler(Protocol):
    """Makes pictures larger."""

    @property
    def name(self) -> str:
        """What it is, in the words of a report."""
        ...

    @property
    def key(self) -> str:
        """What tells it from others: a film is continued by the same one only."""
        ...

    def __call__(self, frame: torch.Tensor, factor: int) -> torch.Tensor:
        """Return (1, 3, factor * H, factor * W) of (1, 3, H, W), both float32 RGB, meant as [0, 1].

        What lies outside [0, 1] is light that is kept.
        """
        ...
