"""Faces as other packs pass them: FACE_LANDMARKS of the core's MediaPipe nodes, and SEGS of the Impact Pack.

Both are plain values, read and made here without either being installed.
"""

from __future__ import annotations

from collections import namedtuple
from collections.abc import Sequence
from typing import Any

import numpy as np

from ..bfr_core.errors import InputMediaError
from ..bfr_core.faces.align import points_from_box
from ..bfr_core.faces.foreign import box_of_points, points_of_mesh, region_around
from ..bfr_core.types import Face
from .compat import io

LandmarksSocket = io.Custom("FACE_LANDMARKS")
SegsSocket = io.Custom("SEGS")

Seg = namedtuple(
    "SEG",
    ("cropped_image", "cropped_mask", "confidence", "crop_region", "bbox", "label", "control_net_wrapper"),
    defaults=(None,),
)
"""One face, with the fields of the Impact Pack's own class, in its order: nodes read them by name and by place."""


def landmarks_input(meant: str) -> Any:
    """Return the socket of landmarks; `meant` says what is done with them."""
    return LandmarksSocket.Input("landmarks", optional=True, tooltip=f"From MediaPipe Face Landmarker: {meant}")


def segs_input(meant: str) -> Any:
    """Return the socket of segments; `meant` says what is done with them."""
    return SegsSocket.Input("segs", optional=True, tooltip=f"From a detector of the Impact Pack: {meant}")


def faces_of_landmarks(landmarks: Any, frames: int, shape: tuple[int, int]) -> list[list[Face]]:
    """Read the faces of each frame, with their own points.

    Args:
        landmarks: a dictionary with the faces of each frame, and the size of the frames.
        frames: how many frames there are.
        shape: their height and width.

    Raises:
        InputMediaError: something else, or landmarks of other images.
    """
    try:
        per_frame = [list(faces) for faces in landmarks["frames"]]
        size = tuple(int(side) for side in landmarks["image_size"])
    except (TypeError, KeyError, ValueError) as error:
        raise _unread("face landmarks", f"found {type(landmarks).__name__}; expected faces for each image") from error
    if len(per_frame) != frames or size != tuple(shape):
        raise _unread(
            "face landmarks",
            f"they are of {len(per_frame)} images of {size[-1]} x {size[0]} pixels, and {frames} of {shape[1]} x "
            f"{shape[0]} came in; expected those of the same images",
        )
    return [[_face_of_mesh(face) for face in faces] for faces in per_frame]


def _face_of_mesh(face: Any) -> Face:
    try:
        mesh = np.asarray(face["landmarks_xy"], np.float64)
        score = float(face.get("score", 1.0))
    except (TypeError, KeyError, ValueError, AttributeError) as error:
        raise _unread("face landmarks", f"found {type(face).__name__}; expected faces with landmarks_xy") from error
    points = points_of_mesh(mesh)
    return Face(box_of_points(mesh), points, score)


def faces_of_segs(segs: Any, frames: int, shape: tuple[int, int]) -> list[list[Face]]:
    """Read segments as the faces of every frame, their points placed where an upright face has them.

    Args:
        segs: height and width of the image, and its segments.
        frames: how many frames there are.
        shape: their height and width.

    Raises:
        InputMediaError: something else, or segments of an image of another size.
    """
    try:
        (height, width), found = segs
        faces = [_face_of_seg(seg) for seg in found]
    except (TypeError, ValueError, AttributeError) as error:
        raise _unread("segments", f"found {type(segs).__name__}; expected SEGS, with a bbox each") from error
    if (int(height), int(width)) != tuple(shape):
        raise _unread(
            "segments",
            f"they are of an image of {width} x {height} pixels, and {shape[1]} x {shape[0]} came in; expected the "
            "same size",
        )
    return [list(faces) for _ in range(frames)]


def _face_of_seg(seg: Any) -> Face:
    x0, y0, x1, y1 = (float(value) for value in seg.bbox)
    if not (np.isfinite([x0, y0, x1, y1]).all() and x1 > x0 and y1 > y0):
        raise _unread("segments", f"found a box of {x1 - x0:g} x {y1 - y0:g} pixels; expected one that holds a face")
    confidence = getattr(seg, "confidence", None)
    score = 1.0 if confidence is None else float(np.asarray(confidence, np.float64).reshape(-1)[0])
    return Face((x0, y0, x1, y1), points_from_box((x0, y0, x1, y1)), score)


def to_segs(faces: Sequence[Face], shape: tuple[int, int]) -> tuple[tuple[int, int], list[Seg]]:
    """Return the faces of one image as segments: the box of each is its mask, in a region around it.

    Args:
        faces: of the image.
        shape: its height and width.
    """
    segs = []
    for face in faces:
        left, top, right, bottom = region_around(face.box, shape)
        mask = np.zeros((bottom - top, right - left), np.float32)
        x0, y0, x1, y1 = (round(value) for value in face.box)
        mask[max(y0 - top, 0) : max(y1 - top, 0), max(x0 - left, 0) : max(x1 - left, 0)] = 1
        box = [max(x0, 0), max(y0, 0), min(x1, shape[1]), min(y1, shape[0])]
        segs.append(Seg(None, mask, face.score, [left, top, right, bottom], box, "face"))
    return shape, segs


def _unread(what: str, found: str) -> InputMediaError:
    return InputMediaError(
        f"Cannot read these {what}",
        found=found,
        kept="The image is unchanged",
        todo="Connect them to the node that makes them, with the same image as here",
    )
