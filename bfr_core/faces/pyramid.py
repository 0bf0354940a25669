"""How large a picture is searched for faces, and how what the searches find becomes one list.

Every picture is searched twice: once at the size that its smallest wanted faces need, and once much reduced, where
a face that fills the frame is no larger than those the networks know. Both searches see overlapping ranges of sizes,
so faces of middling size are found twice and merged.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from ..types import Face

_FULL_AREA = 1280 * 720
"""Pictures up to this many pixels are searched at their own size; 2 cores then need about 0.1 s."""
_LEAST_SCALE = 2 / 3
"""Larger ones are shrunk to that area, but no further than this: 24 px in a 4K picture are still 16 px."""
_MOST_AREA = 3840 * 2160
"""Bound on what is searched at once, so that a picture of 100 megapixels needs no more memory than one of 33."""
_REDUCED_SIDE = 320
"""Long side of the second search; a face of the first one's largest comfortable size, 250 px of 1920, is 42 px here."""
_MULTIPLE = 32


@dataclass(frozen=True, slots=True)
class PyramidLevel:
    """One search of a picture at one size."""

    width: int
    height: int
    """Size the picture is brought to."""
    scale_x: float
    scale_y: float
    """Exactly width and height over the picture's own."""

    @property
    def padded(self) -> tuple[int, int]:
        """Width and height after padding at the right and the bottom to what the networks need."""
        return -(-self.width // _MULTIPLE) * _MULTIPLE, -(-self.height // _MULTIPLE) * _MULTIPLE


def pyramid(width: int, height: int) -> list[PyramidLevel]:
    """Return the searches for a picture of this size, the finest first."""
    area = width * height
    scale = min(1.0, math.sqrt(_FULL_AREA / area))
    scale = max(scale, min(_LEAST_SCALE, math.sqrt(_MOST_AREA / area)))
    scales = [min(scale, 1.0)]
    reduced = min(_REDUCED_SIDE, 0.5 * scale * max(width, height)) / max(width, height)
    if reduced * max(width, height) >= 48:
        scales.append(reduced)
    passes = []
    for value in scales:
        w, h = max(round(width * value), 1), max(round(height * value), 1)
        passes.append(PyramidLevel(w, h, w / width, h / height))
    return passes


@dataclass(frozen=True, slots=True)
class Candidates:
    """What one search found, in pixels of the picture."""

    boxes: np.ndarray
    """(N, 4) float64 x0, y0, x1, y1."""
    points: np.ndarray
    """(N, 5, 2) float64."""
    scores: np.ndarray
    """(N,) float64."""


def to_frame(boxes: np.ndarray, points: np.ndarray, scores: np.ndarray, at: PyramidLevel) -> Candidates:
    """Bring what was found in the searched picture back to the frame's pixels."""
    scale = np.array([at.scale_x, at.scale_y])
    boxes = np.asarray(boxes, np.float64).reshape(-1, 4) / np.tile(scale, 2)
    points = np.asarray(points, np.float64).reshape(-1, 5, 2) / scale
    scores = np.clip(np.asarray(scores, np.float64).reshape(-1), 0.0, 1.0)
    good = np.isfinite(boxes).all(1) & np.isfinite(points).all((1, 2)) & np.isfinite(scores)
    return Candidates(boxes[good], points[good], scores[good])


def overlap(box: np.ndarray, others: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the IoU of `box` with each of `others`, and the shared area as a share of the smaller of the two."""
    shared = np.clip(np.minimum(box[2:], others[:, 2:]) - np.maximum(box[:2], others[:, :2]), 0, None).prod(1)
    area, areas = (box[2:] - box[:2]).prod(), (others[:, 2:] - others[:, :2]).prod(1)
    iou = shared / np.maximum(area + areas - shared, 1e-9)
    return iou, shared / np.maximum(np.minimum(area, areas), 1e-9)


def merge(found: list[Candidates], *, iou: float = 0.4, inside: float = 0.75, blend: float = 0.6) -> list[Face]:
    """Return one face for every cluster of candidates, the biggest face first.

    The best of a cluster is averaged, weighted by score, with those that nearly agree with it: neighbouring cells
    err independently, so the points get steadier.

    Args:
        found: candidates of all searches.
        iou: candidates that overlap a better one by more are the same face.
        inside: so are those of which this share lies within a better one, or the other way round.
        blend: IoU from which a candidate takes part in the average.
    """
    boxes, points, scores = (
        np.concatenate([getattr(part, name) for part in found]) for name in ("boxes", "points", "scores")
    )
    order = np.argsort(-scores, kind="stable")
    faces: list[Face] = []
    while len(order):
        best, rest = order[0], order[1:]
        shared, within = overlap(boxes[best], boxes[rest])
        agree = np.concatenate(([best], rest[shared > blend]))
        weights = (
            (scores[agree] / scores[agree].sum()) if scores[agree].sum() > 0 else np.full(len(agree), 1 / len(agree))
        )
        box = weights @ boxes[agree]
        face = np.tensordot(weights, points[agree], 1)
        x0, y0, x1, y1 = map(float, box)
        faces.append(Face((x0, y0, x1, y1), face, float(scores[best])))
        order = rest[(shared <= iou) & (within <= inside)]
    return sorted(faces, key=lambda face: -face.size)
