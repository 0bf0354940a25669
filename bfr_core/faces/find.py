"""Searching a picture for faces at any angle, and in boxes that a person or another tool gave.

Detectors know faces that stand. So a picture is searched turned by quarters too, what is found there is looked at again
in a crop that is turned upright by its points, and all that was found has to pass the check of its aligned crop.

Films do not come through here: a frame without a face is nothing special in them, and turned searches would cost four
times as much in each.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from ..errors import InputMediaError
from ..models.roles import FaceDetector
from ..types import Face
from .align import FFHQ_TEMPLATE, invert, sample, similarity, transform
from .check import LEAST, NO_FACE, is_doubtful, likelihoods_of
from .pyramid import overlap
from .quality import yaw

SURE, TURNED = 0.95, 0.9
"""Scores of a face that is believed without looking further, and of one in a turned picture. Of 65 photos with upright
faces the surest has 0.97 or more; turned, where they should not be seen, nothing reaches 0.95. In 202 pictures without
faces the turned searches find one of 0.8, and none of 0.9."""
TURNED_PX = 24.0
"""Least size of a face that is believed in a turned picture: most false alarms are smaller."""
GLANCE_SIDE = 640
"""Long side in which a picture with a sure face is searched turned: faces that lie among others that stand are rarer
than pictures without, and this costs less than the upright search did."""
_CANDIDATE = 0.5
"""Score in a turned picture from which a place is looked at again, turned upright: a face that leans by half a quarter
more has so much."""
_AGAIN_PX, _AGAIN_SCALE = 192, 0.32
"""Side of that crop, and its scale to the FFHQ template: the face is some 90 px there, which searches know best."""
_MOST_AGAIN = 16
"""Places of a picture that are looked at again, the surest."""
_NAMED = 15
"""Degrees to which notes round an angle."""
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


@dataclass(frozen=True, slots=True)
class _Reading:
    """Something in a picture that was taken for a face."""

    face: Face
    likelihood: float = 1.0
    """That it is one, by its aligned crop."""

    @property
    def worth(self) -> float:
        return self.face.score * self.likelihood


def find_faces(
    frame: Tensor,
    detector: FaceDetector,
    *,
    threshold: float | None = None,
    boxes: Sequence[Face] | None = None,
    check: bool = True,
) -> FoundFaces:
    """Find the faces of one picture, at whatever angle, or of the boxes given in it.

    The picture is searched turned by 90, 180 and 270 degrees too: at a glance where a face that stands is surely there,
    and closely where none is, as scans lie. What is found has the coordinates of the frame.

    Shapes: frame (3, H, W) float32 RGB.

    Args:
        frame: the picture.
        detector: what searches.
        threshold: least score; None for the detector's own. Below 0.5 nothing is left out by the check.
        boxes: look in these alone; each is in the result, with the points of the face in it.
        check: leave out, with a note, what is no face by its aligned crop, see `check.is_doubtful`.

    Returns:
        The faces, the biggest first, or in the order of the boxes.
    """
    start = time.perf_counter()
    check = check and boxes is None and is_doubtful(detector)
    inside = frame.clamp(0, 1)
    notes = []
    least = LEAST if check and (threshold is None or threshold >= LEAST) else 0.0
    readings = _search(inside, detector, threshold, check=check)
    faces = [reading.face for reading in readings if reading.likelihood >= least]
    if boxes is not None:
        faces = [_in_box(inside, box, faces, detector) for box in boxes]
    else:
        # Only what the upright search believed: nobody would have restored what was seen turned on the way.
        notes += _thrown_out([one for one in readings if one.likelihood < least and not one.face.turned])
        if not faces:
            notes.append(_nobody(threshold))
    turned = [round(face.turned / _NAMED) * _NAMED % 360 or 360 for face in faces if face.turned]
    for angle in sorted(set(turned)):
        what = "1 face was" if turned.count(angle) == 1 else f"{turned.count(angle)} faces were"
        notes.append(f"{what} found when the picture was turned by about {angle} degrees to the left")
    return FoundFaces(faces, "given" if boxes is not None else detector.name, time.perf_counter() - start, notes)


def _nobody(threshold: float | None) -> str:
    least = "" if threshold is None else f" of {threshold:g}"
    return (
        f"No face was found, at any angle. Try a threshold{least and ' below that'}"
        f"{least or ' of 0.5'}; or, where the whole picture is one face, restore it as aligned (--aligned)"
    )


def _thrown_out(readings: Sequence[_Reading]) -> list[str]:
    """Say what was left out by the check, one note for all."""
    if not readings:
        return []
    places = []
    for reading in sorted(readings, key=lambda reading: -reading.face.score)[:_MOST_AGAIN]:
        x0, y0, x1, y1 = (round(value) for value in reading.face.box)
        places.append(f"{NO_FACE.format(reading.face.score)} (at {x0}, {y0} to {x1}, {y1})")
    return [f"What {'; what '.join(places)}. Where it is one after all, a threshold below 0.5 or a box lets it pass"]


def _search(frame: Tensor, detector: FaceDetector, threshold: float | None, *, check: bool) -> list[_Reading]:
    """Return what is taken for a face in a frame in [0, 1], the biggest first; of readings of one place the best."""
    upright = detector.detect(frame[None], threshold=threshold)[0]
    readings = _checked(frame, upright, check=check)
    # What does not pass may be a face whose points were taken for those of one that stands.
    doubtful = [reading.face for reading in readings if reading.likelihood < LEAST]
    sure = [reading.face for reading in readings if reading.face.score >= SURE and reading.likelihood >= LEAST]
    lying = [] if sure and not is_doubtful(detector) else _lying(frame, detector, threshold, glance=bool(sure))
    places = [face for face in [*doubtful, *lying] if not _is_among(face, sure)]
    places = sorted(places, key=lambda face: -face.score)[:_MOST_AGAIN]
    surest = max((face.score for face in upright), default=0.0)
    again = [seen for place in places if (seen := _again(frame, place, detector, threshold, surest)) is not None]
    return _best([*readings, *_checked(frame, again, check=check)])


def _checked(frame: Tensor, faces: Sequence[Face], *, check: bool) -> list[_Reading]:
    likely = likelihoods_of(frame, faces) if check else [1.0] * len(faces)
    return [_Reading(face, value) for face, value in zip(faces, likely, strict=True)]


def _lying(frame: Tensor, detector: FaceDetector, threshold: float | None, *, glance: bool) -> list[Face]:
    """Return what the frame turned by quarters may hold, in its own coordinates."""
    height, width = frame.shape[1:]
    scale = min(GLANCE_SIDE / max(height, width), 1.0) if glance else 1.0
    seen = frame
    if scale < 1:
        size = [max(round(side * scale), 1) for side in (height, width)]
        seen = F.interpolate(frame[None], size, mode="bilinear", antialias=True)[0]
    scales = np.array([seen.shape[2] / width, seen.shape[1] / height])
    found = []
    for turns in (1, 2, 3):
        turned = torch.rot90(seen, turns, (1, 2)).contiguous()
        for face in detector.detect(turned[None], threshold=max(threshold or 0.0, _CANDIDATE))[0]:
            if face.size >= TURNED_PX and _is_sane(face):
                there = _turned_back(face, turns, seen.shape[1:])
                corners = (np.array(there.box).reshape(2, 2) / scales).ravel().tolist()
                found.append(replace(there, box=(*corners[:2], *corners[2:]), points=there.points / scales))
    return found


def _again(frame: Tensor, place: Face, detector: FaceDetector, threshold: float | None, surest: float) -> Face | None:
    """Look at a place again, turned upright by its points; unseen there, it must be surer than all that stands."""
    try:
        matrix = similarity(place.points, (FFHQ_TEMPLATE - FFHQ_TEMPLATE.mean(0)) * _AGAIN_SCALE + _AGAIN_PX / 2)
    except InputMediaError:
        return None
    crop = sample(frame, matrix, _AGAIN_PX).clamp_(0, 1)
    least = max(threshold or 0.0, TURNED)
    near = [
        face
        for face in detector.detect(crop[None], threshold=least)[0]
        if _is_sane(face) and np.linalg.norm(face.points.mean(0) - _AGAIN_PX / 2) < face.size / 2
    ]
    if not near:
        return place if place.turned and place.score >= least and place.score > surest else None
    seen = _from_crop(max(near, key=lambda face: face.score), invert(matrix))
    return seen if place.turned else replace(seen, turned=0)


def _from_crop(face: Face, matrix: np.ndarray) -> Face:
    """Return a face of a crop in the coordinates of the frame that the matrix leads to, with the box of an ellipse."""
    x0, y0, x1, y1 = face.box
    x, y = transform(matrix, np.array([[(x0 + x1) / 2, (y0 + y1) / 2]]))[0].tolist()
    # The box around the turned box would grow by half at 45 degrees.
    half_x, half_y = np.hypot(matrix[:, 0] * (x1 - x0) / 2, matrix[:, 1] * (y1 - y0) / 2).tolist()
    points = transform(matrix, face.points)
    return replace(
        face, box=(x - half_x, y - half_y, x + half_x, y + half_y), points=points, turned=_degrees_left(points)
    )


def _degrees_left(points: np.ndarray) -> int:
    """Return by how many degrees to the left a picture is to be turned for a face to stand, 0 to 359."""
    matrix = similarity(points, FFHQ_TEMPLATE)
    return round(math.degrees(math.atan2(-matrix[1, 0], matrix[0, 0]))) % 360


def _is_among(face: Face, others: Sequence[Face]) -> bool:
    """Return whether the middle of a face lies in one of the others, or the other way round, and they overlap."""
    return any(_is_inside(face, other) or _is_inside(other, face) for other in others)


def _is_inside(face: Face, other: Face) -> bool:
    x, y = face.points.mean(0)
    x0, y0, x1, y1 = other.box
    return bool(x0 <= x <= x1 and y0 <= y <= y1) and face.size > other.size / 3


def _rank(reading: _Reading) -> tuple[bool, float]:
    """Order readings of one place: faces first, the best of them, then what the upright search believed most."""
    is_face = reading.likelihood >= LEAST
    return not is_face, -reading.worth if is_face else bool(reading.face.turned) - reading.face.score


def _best(readings: Sequence[_Reading]) -> list[_Reading]:
    """Return the best reading of each place, the biggest face first."""
    best: list[_Reading] = []
    for reading in sorted(readings, key=_rank):
        if not _is_among(reading.face, [other.face for other in best]):
            best.append(reading)
    return sorted(best, key=lambda reading: -reading.face.size)


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
    return replace(face, box=(x0, y0, x1, y1), points=points, turned=_degrees_left(points))


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
    for face in (reading.face for reading in _search(part, detector, _IN_BOX, check=False)):
        corners = (np.array(face.box).reshape(2, 2) / scales + (left, top)).ravel().tolist()
        x0, y0, x1, y1 = corners
        faces.append(replace(face, box=(x0, y0, x1, y1), points=face.points / scales + (left, top)))
    return _most_alike(box, faces, SAME_FACE)
