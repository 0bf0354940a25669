"""The core type BOUNDING_BOX: dictionaries of x, y, width and height, loose, in a list, or in a list for each frame."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..bfr_core.errors import InputMediaError
from ..bfr_core.faces.align import points_from_box
from ..bfr_core.types import Face


def from_faces(frames: Sequence[Sequence[Face]], factor: int = 1) -> list[list[dict[str, Any]]]:
    """Return faces as boxes, a list for each frame: the one nesting that every core node reads.

    Args:
        frames: the faces of each.
        factor: times as wide and as high as the frames they were found in are those that the boxes are for.
    """
    return [
        [
            {
                "x": face.box[0] * factor,
                "y": face.box[1] * factor,
                "width": (face.box[2] - face.box[0]) * factor,
                "height": (face.box[3] - face.box[1]) * factor,
                "label": "face",
                "score": face.score,
            }
            for face in faces
        ]
        for faces in frames
    ]


def to_faces(boxes: Any, frames: int) -> list[list[Face]]:
    """Read boxes in any of their nestings as faces, their points placed where an upright face has them.

    A single list is taken for every frame.

    Raises:
        InputMediaError: something else than boxes, an empty or infinite box, or another number of frames.
    """
    if isinstance(boxes, dict):
        boxes = [boxes]
    if not isinstance(boxes, (list, tuple)):
        raise _error(f"found {type(boxes).__name__}")
    nested = [list(item) for item in boxes if isinstance(item, (list, tuple))]
    per_frame = nested if nested else [list(boxes)] * frames
    if nested and len(nested) != len(boxes):
        raise _error("found boxes and lists of boxes mixed")
    if len(per_frame) == 1:
        per_frame = per_frame * frames
    if len(per_frame) != frames:
        raise _error(f"found boxes for {len(per_frame)} frames, but {frames} images")
    return [[_face(box) for box in frame] for frame in per_frame]


def _face(box: Any) -> Face:
    try:
        x, y, width, height = (float(box[name]) for name in ("x", "y", "width", "height"))
        score = float(box.get("score", 1.0))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise _error(f"found {box!r}") from error
    if not (0 < width < 1e6 and 0 < height < 1e6 and abs(x) < 1e6 and abs(y) < 1e6):
        raise _error(f"found a box of {width:g} x {height:g} pixels at ({x:g}, {y:g})")
    corners = (x, y, x + width, y + height)
    # Detectors say how sure they are; a box without a score was drawn by hand.
    return Face(corners, points_from_box(corners), score, origin="found" if "score" in box else "drawn")


def _error(found: str) -> InputMediaError:
    return InputMediaError(
        "Cannot read these bounding boxes",
        found=f"{found}; expected dictionaries with x, y, width and height in pixels",
        kept="The image is unchanged",
        todo="Connect a BOUNDING_BOX output of a face detector",
    )
