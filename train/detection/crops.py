"""What the second look learns from: the places a search names in training pictures, cut out.

What the search names and is a face gives crops with box and points. What it names and is none gives the false alarms.
Faces framed at random are added, as a search that errs otherwise would frame them: they teach the points, not the
score.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from tqdm import tqdm

from bfr_core.backends.detectors.embedded import MIRRORED_POINTS, crop_square
from bfr_core.bench.detector import to_frames
from bfr_core.errors import SettingsError
from bfr_core.faces.pyramid import overlap
from bfr_core.networks.face_detector import FaceRefinerNet
from bfr_core.types import Face

from ..data import Examples
from .labelled import LabelledPictures
from .scenes import SceneMixer
from .trained import TrainedDetector

STORED = 96
"""Side of the stored crops; they show half as much again as the network sees, for shifting and scaling."""
SPREAD = STORED / FaceRefinerNet.SIZE
_UNKNOWN = -2
_GROUPS = ("found faces", "false alarms", "faces framed at random")
_FOUND, _ALARM, _RANDOM = range(3)
_TURNS = (0, 1, 2, 0, 1, 0, 1, 2)
"""Group of each of eight crops in a row: three faces, three false alarms, two framed at random."""


@dataclass(frozen=True, slots=True)
class Crops:
    """Crops of candidates, N in all."""

    images: np.ndarray
    """(N, STORED, STORED, 3) uint8."""
    logits: np.ndarray
    """(N,) float32 of the search; 0 for faces framed at random."""
    group: np.ndarray
    """(N,) int, into _GROUPS."""
    boxes: np.ndarray
    """(N, 4) float32 in units of the stored crop; zeros for false alarms."""
    points: np.ndarray
    """(N, 5, 2) float32."""
    bad: dict[str, str]
    """Pictures that could not be used, and why."""


class CropExamples(Examples[LabelledPictures]):
    """Draw crops as the network sees them.

    Shapes: image (SIZE, SIZE, 3) uint8; logit () of the search; judged () bool, whether the score counts; face () bool;
    box (4,) x0, y0, x1, y1 and points (5, 2) float32 in units of the crop.

    Args:
        crops: what to draw from, each group as often as _TURNS says however large it is.
        pictures: where they were cut from.
        seed: together with the index it decides everything random.
    """

    def __init__(self, crops: Crops, pictures: LabelledPictures, seed: int) -> None:
        super().__init__(pictures, seed)
        self.crops = crops
        self.groups = [np.flatnonzero(crops.group == number) for number in range(len(_GROUPS))]

    def example(self, index: int, rng: np.random.Generator, bad: dict[str, str]) -> dict[str, Any]:
        """Return crop `index`; `bad` takes the pictures that gave no crops because they could not be used."""
        bad |= self.crops.bad
        group = _TURNS[index % len(_TURNS)]
        row = int(rng.choice(self.groups[group]))
        image, matrix = vary(self.crops.images[row], rng)
        box, points = move(matrix, self.crops.boxes[row] * STORED, self.crops.points[row] * STORED)
        return {
            "image": image,
            "logit": self.crops.logits[row],
            "judged": np.array(group != _RANDOM),
            "face": np.array(group != _ALARM),
            "box": (box / FaceRefinerNet.SIZE).astype(np.float32),
            "points": (points / FaceRefinerNet.SIZE).astype(np.float32),
        }


def vary(image: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Turn, scale, shift, mirror and relight a stored crop; return it with the matrix that moves its coordinates.

    Convention: the matrix (2, 3) maps continuous pixels of the stored crop to those of the result.
    """
    size = FaceRefinerNet.SIZE
    scale = math.exp(rng.normal(0, 0.06))
    shift = rng.normal(0, 1.5, 2)
    angle = math.radians(rng.normal(0, 4))
    mirror = rng.random() < 0.5
    c, s = math.cos(angle) * scale, math.sin(angle) * scale
    linear = np.array([[c, -s], [s, c]]) @ np.diag([-1.0 if mirror else 1.0, 1.0])
    move_by = size / 2 + shift - linear @ np.full(2, STORED / 2)
    # OpenCV puts the centre of the first pixel at 0, not at 0.5.
    warp = np.column_stack((linear, move_by + linear @ np.full(2, 0.5) - 0.5))
    image = cv2.warpAffine(image, warp, (size, size), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    if rng.random() < 0.5:
        gain, lift = math.exp(rng.normal(0, 0.2)), rng.normal(0, 12)
        image = np.clip(image * np.float32(gain) + np.float32(lift), 0, 255).astype(np.uint8)
    if rng.random() < 0.15:
        image = np.repeat(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)[..., None], 3, 2)
    return image, np.column_stack((linear, move_by))


def move(matrix: np.ndarray, box: np.ndarray, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return box (4,) and points (5, 2) after a similarity (2, 3), left and right exchanged where it mirrors.

    The box keeps its sides upright: they are scaled, not turned.
    """
    linear, shift = matrix[:, :2], matrix[:, 2]
    determinant = float(np.linalg.det(linear))
    centre = linear @ ((box[:2] + box[2:]) / 2) + shift
    half = (box[2:] - box[:2]) / 2 * math.sqrt(abs(determinant))
    moved = points @ linear.T + shift
    return np.concatenate((centre - half, centre + half)), moved[MIRRORED_POINTS] if determinant < 0 else moved


def collect(
    detector: TrainedDetector, pictures: LabelledPictures, *, count: int, sides: Sequence[int], seed: int
) -> Crops:
    """Search `count` training pictures of these sides in turn, and keep what is named.

    Raises:
        SettingsError: the search names no face, or nothing else.
    """
    rows: list[tuple[np.ndarray, float, int, np.ndarray, np.ndarray]] = []
    mixers = [SceneMixer(pictures, size=side, seed=seed) for side in sides]
    bad: dict[str, str] = {}
    for index in tqdm(range(count), desc="Searching training pictures for crops", unit="picture", disable=None):
        made, unusable = mixers[index % len(mixers)][index]
        bad |= unusable
        for face in detector.detect(to_frames(made["image"]))[0]:
            which = _match(face, made)
            if which != _UNKNOWN:
                logit = math.log(face.score / (1 - min(face.score, 0.99)))
                rows.append(_cut(made, face, which, logit, _FOUND if which >= 0 else _ALARM))
        rng = np.random.Generator(np.random.PCG64([seed, index, 1]))
        for which in np.flatnonzero(made["kind"] == 1):
            framed = _framed_at_random(made["boxes"][which].astype(float), made["points"][which], rng)
            rows.append(_cut(made, framed, int(which), 0.0, _RANDOM))
    counts = [sum(row[2] == group for row in rows) for group in range(len(_GROUPS))]
    if not all(counts):
        raise SettingsError(
            "Cannot train the second look",
            found=f"{count} pictures gave {', '.join(f'{n} {name}' for n, name in zip(counts, _GROUPS, strict=True))}; "
            "expected some of each",
            kept="The search is unchanged",
            todo="Search more pictures (--set pictures=N), or give a search that was trained for longer",
        )
    images, logits, group, boxes, points = (np.stack(column) for column in zip(*rows, strict=True))
    return Crops(images, logits.astype(np.float32), group, boxes.astype(np.float32), points.astype(np.float32), bad)


def _framed_at_random(box: np.ndarray, points: np.ndarray, rng: np.random.Generator) -> Face:
    x0, y0, x1, y1 = box
    size = math.sqrt((x1 - x0) * (y1 - y0))
    dx, dy = rng.normal(0, 0.07, 2) * size
    grow = math.exp(rng.normal(0, 0.12))
    cx, cy, w, h = (x0 + x1) / 2 + dx, (y0 + y1) / 2 + dy, (x1 - x0) * grow / 2, (y1 - y0) * grow / 2
    return Face((cx - w, cy - h, cx + w, cy + h), points, 1.0)


def _match(face: Face, made: Mapping[str, np.ndarray]) -> int:
    """Return which labelled face this is, -1 for none, _UNKNOWN where that cannot be said."""
    iou, within = overlap(np.array(face.box), made["boxes"].astype(np.float64))
    known = made["kind"] > 0
    if not known.any():
        return -1
    best = int(np.argmax(np.where(known, iou, -1)))
    if iou[best] > 0.4:
        return best if made["kind"][best] == 1 else _UNKNOWN
    return -1 if float((iou * known).max()) < 0.15 and float((within * known).max()) < 0.5 else _UNKNOWN


def _cut(
    made: Mapping[str, np.ndarray], face: Face, which: int, logit: float, group: int
) -> tuple[np.ndarray, float, int, np.ndarray, np.ndarray]:
    left, top, side = crop_square(face, FaceRefinerNet.MARGIN * SPREAD)
    size = made["image"].shape[0]
    pads = (max(-top, 0), max(top + side - size, 0), max(-left, 0), max(left + side - size, 0))
    inside = made["image"][max(top, 0) : max(top + side, 0), max(left, 0) : max(left + side, 0)]
    padded = cv2.copyMakeBorder(inside, *pads, cv2.BORDER_CONSTANT, value=(128, 128, 128))
    way = cv2.INTER_AREA if side > STORED else cv2.INTER_LINEAR
    image = cv2.resize(padded, (STORED, STORED), interpolation=way)
    if group == _ALARM:
        return image, logit, group, np.zeros(4), np.zeros((5, 2))
    corner = np.array([left, top], np.float64)
    box = (made["boxes"][which] - np.tile(corner, 2)) / side
    return image, logit, group, box, (made["points"][which] - corner) / side
