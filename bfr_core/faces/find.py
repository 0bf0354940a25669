"""Searching a picture for faces, also turned, and in boxes that a person or another tool gave.

Films do not come through here: a frame without a face is nothing special in them, and turned searches would cost four
times as much in each.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from ..models.roles import FaceDetector
from ..types import Face
from .pyramid import overlap
from .quality import yaw

SURE, TURNED = 0.95, 0.9
"""Scores of a face that is believed without looking further, and of one in a turned picture. Of 65 photos with upright
faces the surest has 0.97 or more; turned, where they should not be seen, nothing reaches 0.95. In 202 pictures without
faces the turned searches find one of 0.8, and none of 0.9."""
TURNED_PX = 24.0
"""Least size of a face that is believed in a turned picture: most false alarms are smaller."""
_MAX_ROLL, _MAX_YAW = 50.0, 65.0
"""Most that a face which was found in a turned picture may lean and look aside in it, in degrees."""
SAME_FACE = 0.3
"""Least overlap (IoU) of a given box with a detected face for the two to be the same: tools draw boxes differently."""
_ENLARGED = 1.8
"""Side of the square that is looked at again around a box, in sides of the box."""
_IN_BOX = 0.3
"""Least score of a face there: the box says where it is. In 72 boxes beside faces nothing has so much."""
_BOX_PX = 128
"""Size that the face in a box is brought to, which the search knows best."""


@dataclass(frozen=True, slots=True)
class FoundFaces:
    """What a search of one picture gave."""

    faces: list[Face]
    detector: str
    """Name of what searched; "given" where the boxes were."""
    seconds: float = 0.0
    """Time it took."""
    notes: list[str] = field(default_factory=list)
    """What a person is to know of it, for the report."""

    @staticmethod
    def given(faces: Sequence[Face]) -> FoundFaces:
        """Return faces that were found elsewhere."""
        notes = [] if faces else ["No faces were given with this picture: nothing was restored"]
        return FoundFaces(list(faces), "given", notes=notes)


def find_faces(
    frame: Tensor, detector: FaceDetector, *, threshold: float | None = None, boxes: Sequence[Face] | None = None
) -> FoundFaces:
    """Find the faces of one picture, or of the boxes given in it.

    Where nothing upright is surely a face, the picture is searched turned by 90, 180 and 270 degrees too, as scans lie;
    what is found there has the coordinates of the frame.

    Shapes: frame (3, H, W) float32 RGB.

    Args:
        frame: the picture.
        detector: what searches.
        threshold: least score; None for the detector's own.
        boxes: look in these alone; each is in the result, with the points of the face in it.

    Returns:
        The faces, the biggest first, or in the order of the boxes.
    """
    start = time.perf_counter()
    inside = frame.clamp(0, 1)
    faces = _search(inside, detector, threshold)
    notes = []
    if boxes is not None:
        faces = [_in_box(inside, box, faces, detector) for box in boxes]
    elif not faces:
        least = "" if threshold is None else f" of {threshold:g}"
        notes.append(
            f"No face was found, upright or turned by 90, 180 or 270 degrees. Try a threshold{least and ' below that'}"
            f"{least or ' of 0.5'}; or, where the whole picture is one face, restore it as aligned (--aligned)"
        )
    for turned in sorted({face.turned for face in faces} - {0}):
        number = sum(face.turned == turned for face in faces)
        what = "1 face was" if number == 1 else f"{number} faces were"
        notes.append(f"{what} found when the picture was turned by {turned} degrees to the left")
    return FoundFaces(faces, "given" if boxes is not None else detector.name, time.perf_counter() - start, notes)


def _search(frame: Tensor, detector: FaceDetector, threshold: float | None) -> list[Face]:
    """Return the faces of a frame in [0, 1], upright or, where none is sure, turned."""
    upright = detector.detect(frame[None], threshold=threshold)[0]
    surest = max((face.score for face in upright), default=0.0)
    if surest >= SURE:
        return upright
    best, most = upright, surest
    for turns in (1, 2, 3):
        turned = torch.rot90(frame, turns, (1, 2)).contiguous()
        found = detector.detect(turned[None], threshold=max(threshold or 0.0, TURNED))[0]
        sane = [face for face in found if face.size >= TURNED_PX and _is_sane(face)]
        score = sum(face.score for face in sane)
        if score > most:
            best, most = [_turned_back(face, turns, frame.shape[1:]) for face in sane], score
    return best


def _is_sane(face: Face) -> bool:
    """Return whether the points lie as those of a face do: eyes over mouth and level, nose between, inside the box."""
    eyes, mouth = face.points[:2].mean(0), face.points[3:].mean(0)
    across, down = face.points[1] - face.points[0], mouth - eyes
    leans = [np.degrees(np.arctan2(across[1], across[0])), np.degrees(np.arctan2(-down[0], down[1]))]
    x0, y0, x1, y1 = face.box
    inside = (face.points >= (x0, y0)) & (face.points <= (x1, y1))
    return bool(max(map(abs, leans)) <= _MAX_ROLL and inside.all() and yaw(face.points[None])[0] <= _MAX_YAW)


def _turned_back(face: Face, turns: int, shape: Sequence[int]) -> Face:
    """Return a face of a frame of `shape` (H, W) that was found when it was turned left by quarters."""
    height, width = shape
    corners = np.array([face.box[:2], face.box[2:]])
    points, corners = (_back(xy, turns, height, width) for xy in (face.points, corners))
    (x0, y0), (x1, y1) = corners.min(0).tolist(), corners.max(0).tolist()
    return replace(face, box=(x0, y0, x1, y1), points=points, turned=90 * turns)


def _back(xy: np.ndarray, turns: int, height: int, width: int) -> np.ndarray:
    """Turn (N, 2) coordinates back into a frame that was turned left by quarters."""
    x, y = xy.T
    return np.stack({1: (width - y, x), 2: (width - x, height - y), 3: (y, height - x)}[turns], 1)


def _in_box(frame: Tensor, box: Face, found: Sequence[Face], detector: FaceDetector) -> Face:
    """Return a given box with the points of the face in it, or as an empty one."""
    face = _most_alike(box, found, SAME_FACE) or _look_again(frame, box, detector) or _most_alike(box, found, 0.0)
    if face is None:
        return replace(box, origin="empty")
    return replace(box, points=face.points, turned=face.turned)


def _most_alike(box: Face, faces: Sequence[Face], least: float) -> Face | None:
    """Return the face that overlaps a box most, by `least` (IoU) at least, and whose middle lies in the box."""
    x0, y0, x1, y1 = box.box
    near = [face for face in faces if x0 <= face.points[:, 0].mean() <= x1 and y0 <= face.points[:, 1].mean() <= y1]
    if not near:
        return None
    shared, _ = overlap(np.array(box.box), np.array([face.box for face in near]))
    best = int(shared.argmax())
    return near[best] if shared[best] >= least else None


def _look_again(frame: Tensor, box: Face, detector: FaceDetector) -> Face | None:
    """Search around a box for a face that the whole picture's search missed: very blurred, say."""
    height, width = frame.shape[1:]
    x0, y0, x1, y1 = box.box
    reach = _ENLARGED / 2 * max(x1 - x0, y1 - y0)
    x, y = (x0 + x1) / 2, (y0 + y1) / 2
    left, top = max(round(x - reach), 0), max(round(y - reach), 0)
    right, bottom = min(round(x + reach), width), min(round(y + reach), height)
    if right - left < 2 or bottom - top < 2:
        return None
    scale = _BOX_PX / max(box.size, 1.0)
    size = [max(round(side * scale), 1) for side in (bottom - top, right - left)]
    part = F.interpolate(frame[None, :, top:bottom, left:right], size, mode="bilinear", antialias=True)[0]
    scales = np.array([size[1] / (right - left), size[0] / (bottom - top)])
    faces = []
    for face in _search(part, detector, _IN_BOX):
        corners = (np.array(face.box).reshape(2, 2) / scales + (left, top)).ravel().tolist()
        x0, y0, x1, y1 = corners
        faces.append(replace(face, box=(x0, y0, x1, y1), points=face.points / scales + (left, top)))
    return _most_alike(box, faces, SAME_FACE)
