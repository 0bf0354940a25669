"""What the check of faces learns from: what the detector believes in training pictures, aligned by its own points.

Each training picture is searched upright and turned by quarters. What is found with the points of a face where they
are gives faces; what is found where none is, or with points that lie elsewhere, gives the rest: false alarms, and
faces that were taken for something turned.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import cv2
import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from bfr_core.bench.detector import to_frames
from bfr_core.errors import SettingsError
from bfr_core.faces.align import sample, similarity
from bfr_core.faces.check import VIEW_TEMPLATE
from bfr_core.faces.pyramid import overlap
from bfr_core.models.roles import FaceDetector
from bfr_core.networks.face_check import FaceCheckNet

from ..data import Examples
from ..stage import Check, Nets, Validator
from .labelled import LabelledPictures
from .objects import thing
from .photograph import light, photograph
from .scenes import SceneMixer

MARGIN = 8
"""Pixels that a stored crop shows more on each side than the network sees, for turning and shifting."""
STORED = FaceCheckNet.SIZE + 2 * MARGIN
THRESHOLD = 0.3
"""Score from which the detector is believed here: far less than it needs by itself."""
_NEAR, _FAR = 0.25, 0.6
"""Mean distance of the points from those of a face, in distances of its eyes, up to which it is that face, and from
which it is none; what lies between teaches nothing."""
_THINGS = 0.35
"""Share of the pictures that show things instead of faces."""
_UNKNOWN = -1


@dataclass(frozen=True, slots=True)
class Views:
    """Aligned crops of what was found, N in all."""

    images: np.ndarray
    """(N, STORED, STORED, 3) uint8."""
    face: np.ndarray
    """(N,) bool."""
    bad: dict[str, str]
    """Pictures that could not be used, and why."""


class ViewExamples(Examples[LabelledPictures]):
    """Draw crops, faces and others in turn.

    Shapes: image (SIZE, SIZE, 3) uint8; face () bool.

    Args:
        views: what to draw from.
        pictures: where they were cut from.
        seed: together with the index it decides everything random.
    """

    def __init__(self, views: Views, pictures: LabelledPictures, seed: int) -> None:
        super().__init__(pictures, seed)
        self.views = views
        self.groups = [np.flatnonzero(views.face == wanted) for wanted in (True, False)]

    def example(self, index: int, rng: np.random.Generator, bad: dict[str, str]) -> dict[str, Any]:
        """Return crop `index`; `bad` takes the pictures that gave none because they could not be used."""
        bad |= self.views.bad
        row = int(rng.choice(self.groups[index % 2]))
        return {"image": vary(self.views.images[row], rng), "face": self.views.face[row]}


def vary(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Turn, scale, shift, squeeze, mirror, cover and relight a stored crop, and cut out what the network sees."""
    size, angle, scale = FaceCheckNet.SIZE, math.radians(rng.normal(0, 4)), math.exp(rng.normal(0, 0.05))
    # Narrower, as heads turned aside are between their points.
    squeeze = rng.uniform(0.75, 1) if rng.random() < 0.2 else 1.0
    mirror = -1.0 if rng.random() < 0.5 else 1.0
    c, s = math.cos(angle) * scale, math.sin(angle) * scale
    linear = np.array([[c, -s], [s, c]]) @ np.diag([mirror * squeeze, 1.0])
    shift = (size - 1) / 2 + rng.normal(0, 1, 2) - linear @ np.full(2, (STORED - 1) / 2)
    warp = np.column_stack((linear, shift))
    image = cv2.warpAffine(image, warp, (size, size), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    if rng.random() < 0.12:
        x, y = (int(v) for v in rng.integers(0, size, 2))
        half = rng.integers(4, 14, 2)
        image[max(y - half[1], 0) : y + half[1], max(x - half[0], 0) : x + half[0]] = rng.integers(0, 256, 3)
    if rng.random() < 0.3:
        image = cv2.GaussianBlur(image, (0, 0), rng.uniform(0.3, 2.5))
    if rng.random() < 0.5:
        gain, lift = math.exp(rng.normal(0, 0.25)), rng.normal(0, 15)
        image = np.clip(image * np.float32(gain) + np.float32(lift), 0, 255).astype(np.uint8)
    if rng.random() < 0.25:
        image = np.repeat(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)[..., None], 3, 2)
    return image


def collect(
    detector: FaceDetector, pictures: LabelledPictures, *, count: int, sides: Sequence[int], seed: int
) -> Views:
    """Search `count` training pictures of these sides in turn, and keep what is found.

    Raises:
        SettingsError: no face is found, or nothing else.
    """
    rows: list[tuple[np.ndarray, bool]] = []
    mixers = [SceneMixer(pictures, size=side, seed=seed) for side in sides]
    bad: dict[str, str] = {}
    for index in tqdm(range(count), desc="Searching training pictures", unit="picture", disable=None):
        rng = np.random.Generator(np.random.PCG64([seed, index, 2]))
        if rng.random() < _THINGS:
            rows += [(crop, False) for crop in _alarms(detector, thing(rng, sides[index % len(sides)]))]
            continue
        made, unusable = mixers[index % len(mixers)][index]
        bad |= unusable
        rows += _searched(detector, made, rng)
    faces = sum(face for _, face in rows)
    if not 0 < faces < len(rows):
        raise SettingsError(
            "Cannot train the check of faces",
            found=f"{count} pictures gave {faces} faces and {len(rows) - faces} others; expected some of each",
            kept="Nothing was started",
            todo="Search more pictures (--set pictures=N)",
        )
    images, face = (np.stack(column) for column in zip(*rows, strict=True))
    return Views(images, face, bad)


def _searched(
    detector: FaceDetector, made: Mapping[str, Any], rng: np.random.Generator
) -> list[tuple[np.ndarray, bool]]:
    """Search a picture of the mixer in four positions, and cut out what is found."""
    rows: list[tuple[np.ndarray, bool]] = []
    image, points, boxes = made["image"], made["points"].astype(np.float64), made["boxes"].astype(np.float64)
    kind, side = made["kind"], made["image"].shape[0]
    for turns in range(4):
        frame = torch.rot90(to_frames(image)[0], turns, (1, 2)).contiguous()
        for face in detector.detect(frame[None], threshold=THRESHOLD)[0]:
            which = _match(_back(face.points, turns, side), points, boxes, kind)
            if which != _UNKNOWN:
                rows.append((_cut(frame, face.points), bool(which)))
    frame = to_frames(image)[0]
    for which in np.flatnonzero(kind == 1):
        # Framed as a detector that errs would: a little, which is still a face, or so that it is none.
        five, eyes = points[which], np.linalg.norm(points[which][1] - points[which][0])
        if rng.random() < 0.3:
            rows.append((_cut(frame, five + rng.normal(0, 0.07, (5, 2)) * eyes), True))
        if rng.random() < 0.15:
            rows.append((_cut(frame, _displaced(five, rng)), False))
    return rows


def _displaced(points: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return points of a face turned far, or moved away by about its size, or far too large or small."""
    middle, draw = points.mean(0), rng.random()
    angle, scale, shift = 0.0, 1.0, np.zeros(2)
    if draw < 0.5:
        angle = math.radians(rng.uniform(60, 300))
    elif draw < 0.8:
        far = rng.uniform(0.9, 1.6) * np.ptp(points[:, 1])
        way = rng.uniform(0, 2 * math.pi)
        shift = far * np.array([math.cos(way), math.sin(way)])
    else:
        scale = math.exp(rng.choice([-1, 1]) * rng.uniform(0.8, 1.4))
    c, s = math.cos(angle) * scale, math.sin(angle) * scale
    return (points - middle) @ np.array([[c, -s], [s, c]]).T + middle + shift


def _match(points: np.ndarray, truth: np.ndarray, boxes: np.ndarray, kind: np.ndarray) -> int:
    """Return 1 for a face of the picture, 0 for none, _UNKNOWN where that cannot be said."""
    known = np.flatnonzero(kind > 0)
    if not len(known):
        return 0
    eyes = np.linalg.norm(truth[known, 1] - truth[known, 0], axis=1).clip(1)
    apart = np.linalg.norm(truth[known] - points, axis=2).mean(1) / eyes
    nearest = int(apart.argmin())
    if apart[nearest] <= _NEAR:
        return 1 if kind[known[nearest]] == 1 else _UNKNOWN
    # Beside faces that can hardly be seen, nobody knows.
    low, high = points.min(0), points.max(0)
    shared, _ = overlap(np.concatenate((low, high)), boxes[known])
    if ((shared > 0.02) & (kind[known] != 1)).any():
        return _UNKNOWN
    return 0 if apart[nearest] >= _FAR else _UNKNOWN


def _back(points: np.ndarray, turns: int, side: int) -> np.ndarray:
    for _ in range(turns):
        points = np.stack((side - points[:, 1], points[:, 0]), 1)
    return points


def _alarms(detector: FaceDetector, image: np.ndarray) -> list[np.ndarray]:
    """Return what is found in a picture without faces, in four positions."""
    crops = []
    for turns in range(4):
        frame = torch.rot90(to_frames(image)[0], turns, (1, 2)).contiguous()
        crops += [_cut(frame, face.points) for face in detector.detect(frame[None], threshold=THRESHOLD)[0]]
    return crops


def _cut(frame: Tensor, points: np.ndarray) -> np.ndarray:
    crop = sample(frame, similarity(points, VIEW_TEMPLATE + MARGIN), STORED).clamp_(0, 1)
    return (crop * 255).round().byte().permute(1, 2, 0).numpy()


class CheckValidator(Validator):
    """Judge what a detector finds in held-out scenes, as they are and degraded, and in other things than were learnt.

    `faces_kept` is the share of found faces that are still taken for faces, `alarms_left` the share of the rest that
    are.

    Args:
        pictures: labelled ones; their held-out scenes are used.
        detector: whose finds are judged.
        limit: most scenes to use, and pictures of things.
        least: likelihood from which something is a face.
    """

    columns: ClassVar[str] = "faces that were found | what else was"

    def __init__(self, pictures: LabelledPictures, detector: FaceDetector, *, limit: int, least: float) -> None:
        self.least = least
        numbers = pictures.held[:: max(len(pictures.held) // limit, 1)][:limit]
        rows: list[tuple[np.ndarray, bool]] = []
        for place, number in enumerate(numbers):
            scene = pictures.labelled(number)
            rng = np.random.Generator(np.random.PCG64([5, place]))
            x, y, w, h = scene.boxes.T
            made = {
                "image": _square(scene.pyramid[0]), "points": scene.points, "kind": np.ones(len(scene.boxes)),
                "boxes": np.stack((x, y, x + w, y + h), 1),
            }  # fmt: skip
            rows += _searched(detector, made, rng)
            worse, _ = photograph(rng, light(rng, made["image"]), np.sqrt(w * h).tolist())
            rows += _searched(detector, {**made, "image": worse}, rng)
            rows += [(crop, False) for crop in _alarms(detector, thing(rng, 256))]
        self.images, self.face = (np.stack(column) for column in zip(*rows, strict=True))

    def run(self, nets: Nets) -> Check:
        """Judge every crop once."""
        inner = self.images[:, MARGIN:-MARGIN, MARGIN:-MARGIN]
        batch = torch.from_numpy(np.ascontiguousarray(inner)).permute(0, 3, 1, 2).float() / 255
        where = next(nets["net"].parameters()).device
        with torch.inference_mode():
            said = torch.cat([nets["net"](part.to(where)).cpu() for part in batch.split(256)]).sigmoid().numpy()
        taken = said >= self.least
        figures = {
            "faces_kept": float(taken[self.face].mean()),
            "alarms_left": float(taken[~self.face].mean()),
            "faces": float(self.face.sum()),
            "alarms": float((~self.face).sum()),
        }
        order = [np.flatnonzero(self.face)[:8], np.flatnonzero(~self.face)[:8]]
        return Check(figures, [[inner[a], inner[b]] for a, b in zip(*order, strict=False)])


def _square(image: np.ndarray) -> np.ndarray:
    """Return a picture with its right or its bottom drawn out to a square."""
    height, width = image.shape[:2]
    side = max(height, width)
    return cv2.copyMakeBorder(image, 0, side - height, 0, side - width, cv2.BORDER_REFLECT)
