"""Soft masks of the parts of an aligned face: eyes, brows, mouth, nose, skin, and the rest.

They follow landmarks of 68 (300-W), 98 (WFLW), 468 or 478 points (MediaPipe's mesh) where there are any, and the five
points of the detector otherwise: then the mean outlines of a face are moved by what the five points stray from theirs.

Convention: coordinates are continuous (see `types`), in the pixels of the crop; pixel (i, j) is judged at its centre.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from ..compose.masks import ramp
from ..errors import InputMediaError, SettingsError
from ..types import FaceCrop
from .align import transform

PARTS = ("eyes", "brows", "mouth", "nose", "skin", "background")
"""The parts of a crop. Where two outlines overlap, the part named first has the pixel; hair and ears are background."""

POINT_COUNTS = (5, 68, 98, 468, 478)
"""Layouts of landmarks: the detector's five, 300-W, WFLW, MediaPipe's mesh without and with irises."""

FEATHER = 0.02
"""Default width of the soft edge outside each outline, as a share of the crop's side."""

_WORK = 512
"""Largest side at which outlines are drawn; wider crops get these masks enlarged, whose edges are soft anyway."""

_FOREHEAD = 0.6
"""From the eyes to the hairline, as a share of the way from the eyes to the chin: no landmark marks the hairline."""

_TURN = 1.9
"""How far the sides of a turned face shift against the nose, per pixel the nose strays from the other points: fitted to
the mesh of 496 aligned faces, in which it halves the error of the outline (17 to 7 px of 512); the chin stays."""

_TEMPLATE = 512
_ANCHORS = np.array([[193.0, 240.6], [319.0, 240.6], [256.0, 319.3], [198.0, 368.1], [314.0, 368.1]])
# The outlines below and these anchors are means over the 327 frontal ones among 400 freely licensed aligned faces:
# MediaPipe's mesh and the embedded detector's points, made symmetric. Halves are drawn, in the FFHQ crop of 512 px,
# from the viewer's left; `_mirrored` makes the other.
_EYE = ((168, 247), (175, 244), (192, 239), (213, 242), (223, 250), (215, 252), (196, 254), (178, 251))
_BROW = ((146, 221), (178, 204), (229, 207), (233, 224), (182, 214), (153, 227))
_NOSE = ((241, 241), (237, 277), (228, 296), (221, 302), (212, 316), (219, 329), (240, 336))
_UPPER_LIP = ((195, 367), (209, 362), (238, 359), (256, 361))
_LOWER_LIP = ((202, 376), (223, 394), (239, 400), (256, 401))
_JAW = (
    *((119, 257), (120, 284), (121, 312), (125, 342), (133, 374), (146, 399)),
    *((160, 417), (179, 434), (195, 446), (212, 456), (231, 463), (256, 466)),
)


@dataclass(frozen=True, slots=True)
class _Outlines:
    """Closed outlines, each (N, 2); the jaw alone is open and runs from ear to ear."""

    eyes: tuple[np.ndarray, np.ndarray]
    brows: tuple[np.ndarray, np.ndarray]
    nose: np.ndarray
    mouth: np.ndarray
    jaw: np.ndarray
    brow_width: float = 0.0
    """Added around the brows, as a share of the distance between the eyes."""
    nose_width: float = 0.0
    """Likewise around the nose."""


@dataclass(frozen=True, slots=True)
class _Layout:
    """Which landmarks make the outlines."""

    eyes: tuple[Sequence[int], Sequence[int]]
    brows: tuple[Sequence[int], Sequence[int]]
    nose: Sequence[int]
    mouth: Sequence[int]
    jaw: Sequence[int]
    brow_width: float = 0.0
    nose_width: float = 0.0


# 300-W marks brows by one line and the nose by its ridge and nostrils, so both are widened.
_W300 = _Layout(
    eyes=(range(36, 42), range(42, 48)),
    brows=(range(17, 22), range(22, 27)),
    nose=(27, 31, 32, 33, 34, 35),
    mouth=range(48, 60),
    jaw=range(17),
    brow_width=0.08,
    nose_width=0.06,
)
_WFLW = _Layout(
    eyes=(range(60, 68), range(68, 76)),
    brows=(range(33, 42), range(42, 51)),
    nose=(51, 55, 56, 57, 58, 59),
    mouth=range(76, 88),
    jaw=range(33),
    nose_width=0.06,
)
_MESH = _Layout(
    eyes=(
        (33, 246, 161, 160, 159, 158, 157, 173, 133, 155, 154, 153, 145, 144, 163, 7),
        (362, 398, 384, 385, 386, 387, 388, 466, 263, 249, 390, 373, 374, 380, 381, 382),
    ),
    brows=((70, 63, 105, 66, 107, 55, 65, 52, 53, 46), (300, 293, 334, 296, 336, 285, 295, 282, 283, 276)),
    nose=(
        *(168, 193, 245, 188, 174, 198, 209, 129, 64, 98, 97),
        *(2, 326, 327, 294, 358, 429, 420, 399, 412, 465, 417),
    ),
    mouth=(61, 185, 40, 39, 37, 0, 267, 269, 270, 409, 291, 375, 321, 405, 314, 17, 84, 181, 91, 146),
    jaw=(
        *(127, 234, 93, 132, 58, 172, 136, 150, 149, 176, 148, 152),
        *(377, 400, 378, 379, 365, 397, 288, 361, 323, 454, 356),
    ),
)
_LAYOUTS = {68: _W300, 98: _WFLW, 468: _MESH, 478: _MESH}


def crop_points(crop: FaceCrop) -> np.ndarray:
    """Return the five points of a face in the pixels of its crop, (5, 2) float64."""
    return transform(crop.matrix, crop.face.points)


def part_masks(points: Any, size: int, *, feather: float = FEATHER, grow: float = 0.0) -> dict[str, Tensor]:
    """Return a soft mask for each of PARTS; together they are 1 at every pixel.

    Shapes: points (K, 2) in the pixels of the crop, K one of POINT_COUNTS; each mask (size, size) float32 [0, 1].

    Args:
        points: landmarks, an array or tensor.
        size: side of the crop, in pixels.
        feather: width of the soft edge, outside each outline, as a share of the side.
        grow: moves the outlines of eyes, brows, mouth and nose outwards by this share of the side; below 0 inwards.

    Raises:
        InputMediaError: the points are of no known layout, or not finite.
        SettingsError: feather or grow is out of range.
    """
    if not (0 <= feather <= 0.5 and -0.5 <= grow <= 0.5):
        raise SettingsError(
            "Cannot draw face parts with this edge",
            found=f"feather {feather:g} and grow {grow:g}; expected 0 to 0.5 and -0.5 to 0.5, as shares of the side",
            kept="Nothing was drawn",
            todo="Give values in range; 0.02 and 0 are usual",
        )
    landmarks = _checked(points)
    side = min(size, _WORK)
    outlines = _outlines(landmarks * (side / size), side)
    eye_distance = float(np.linalg.norm(outlines.eyes[1].mean(0) - outlines.eyes[0].mean(0)))
    wide, soft = grow * side, feather * side
    brows, nose = wide + outlines.brow_width * eye_distance, wide + outlines.nose_width * eye_distance
    drawn = {
        "eyes": torch.maximum(*(_filled(outline, side, wide, soft) for outline in outlines.eyes)),
        "brows": torch.maximum(*(_filled(outline, side, brows, soft) for outline in outlines.brows)),
        "mouth": _filled(outlines.mouth, side, wide, soft),
        "nose": _filled(outlines.nose, side, nose, soft),
        "skin": _filled(_face(outlines), side, 0.0, soft),
    }
    masks, left = {}, torch.ones(side, side)
    for name, mask in drawn.items():
        masks[name] = left * mask
        left = left * (1 - mask)
    masks["background"] = left
    if side == size:
        return masks
    large = F.interpolate(torch.stack(list(masks.values()))[None], (size, size), mode="bilinear", align_corners=False)
    return dict(zip(masks, large[0], strict=True))


def face_outline(points: np.ndarray, side: int) -> np.ndarray:
    """Return the outline of a face from its five points: the jaw, closed over the forehead at the hairline.

    Shapes: points (5, 2) in the pixels of a crop of `side`; returns (N, 2), in order around it.
    """
    return _face(_outlines(points, side))


def select_parts(masks: dict[str, Tensor], names: Collection[str]) -> Tensor:
    """Return the mask of some parts together: their sum, as they share no pixel in full.

    Raises:
        SettingsError: a name is none of PARTS, or none is given.
    """
    unknown = [name for name in names if name not in PARTS]
    if unknown or not names:
        raise SettingsError(
            "Cannot make a mask of these face parts",
            found=f"found {', '.join(unknown) or 'no part at all'}; expected some of {', '.join(PARTS)}",
            kept="Nothing was drawn",
            todo="Choose at least one part",
        )
    return torch.stack([masks[name] for name in PARTS if name in names]).sum(0).clamp(0, 1)


def _checked(points: Any) -> np.ndarray:
    found = points.detach().cpu().numpy() if isinstance(points, Tensor) else np.asarray(points)
    right = found.ndim == 2 and found.shape[1] == 2 and len(found) in POINT_COUNTS
    if not right or not np.isfinite(found).all():
        raise InputMediaError(
            "Cannot draw the parts of this face",
            found=f"found points of shape {found.shape}{' with values that are not finite' if right else ''}; expected "
            f"({' or '.join(map(str, POINT_COUNTS))}, 2), finite",
            kept="Nothing was drawn",
            todo="Give the detector's five points, or landmarks of 300-W, WFLW or MediaPipe's mesh",
        )
    return found.astype(np.float64)


def _mirrored(half: Sequence[tuple[int, int]]) -> np.ndarray:
    """Return the other half of an outline, backwards, so that both together run around."""
    return np.array([(_TEMPLATE - x, y) for x, y in reversed(half)], np.float64)


def _outlines(points: np.ndarray, side: int) -> _Outlines:
    """Return the outlines of a face from its landmarks."""
    if layout := _LAYOUTS.get(len(points)):
        return _Outlines(
            (points[list(layout.eyes[0])], points[list(layout.eyes[1])]),
            (_hull(points[list(layout.brows[0])]), _hull(points[list(layout.brows[1])])),
            points[list(layout.nose)],
            points[list(layout.mouth)],
            points[list(layout.jaw)],
            layout.brow_width,
            layout.nose_width,
        )
    scale = side / _TEMPLATE
    strays = points / scale - _ANCHORS

    def moved(outline: Any) -> np.ndarray:
        """Move each point as the five points near it stray, the nearest most: never by more than one of them did."""
        there = np.asarray(outline, np.float64)
        near = 1 / (((there[:, None] - _ANCHORS) ** 2).sum(2) + 1.0)
        return (there + near @ strays / near.sum(1, keepdims=True)) * scale

    turn = strays[2, 0] - strays[[0, 1, 3, 4], 0].mean()
    jaw = np.array([*_JAW, *_mirrored(_JAW)[1:]], np.float64)
    top, chin = jaw[:, 1].min(), jaw[:, 1].max()
    aside = -_TURN * turn * (1 - ((jaw[:, 1] - top) / (chin - top)) ** 4)
    return _Outlines(
        (moved(_EYE), moved(_mirrored(_EYE))),
        (moved(_BROW), moved(_mirrored(_BROW))),
        moved([*_NOSE, *_mirrored(_NOSE)]),
        moved([*_UPPER_LIP, *_mirrored(_UPPER_LIP)[1:], *_mirrored(_LOWER_LIP)[::-1][:-1], *_LOWER_LIP[::-1]]),
        moved(jaw) + np.stack([aside, np.zeros_like(aside)], 1) * scale,
    )


def _hull(points: np.ndarray) -> np.ndarray:
    """Return the convex hull of points, whatever their order: annotators of brows do not agree on one.

    Source: Andrew's monotone chain.
    """
    ordered = sorted(map(tuple, points.tolist()))

    def half(run: Sequence[tuple[float, ...]]) -> list[tuple[float, ...]]:
        chain: list[tuple[float, ...]] = []
        for x, y in run:
            while len(chain) > 1:
                (ax, ay), (bx, by) = chain[-2:]
                if (bx - ax) * (y - ay) - (by - ay) * (x - ax) > 0:
                    break
                chain.pop()
            chain.append((x, y))
        return chain[:-1]

    hull = half(ordered) + half(ordered[::-1])
    return np.array(hull or ordered[:1])


def _face(outlines: _Outlines) -> np.ndarray:
    """Close the jaw over the forehead: half an ellipse from ear to ear, up to where the hairline usually is."""
    jaw = outlines.jaw
    eyes = (outlines.eyes[0].mean(0) + outlines.eyes[1].mean(0)) / 2
    across, middle = (jaw[-1] - jaw[0]) / 2, (jaw[0] + jaw[-1]) / 2
    # The ellipse starts at the ears, which lie at another height than the eyes.
    up = (eyes - jaw[len(jaw) // 2]) * _FOREHEAD + (eyes - middle)
    angles = np.linspace(0, np.pi, 19)[1:-1, None]
    return np.concatenate([jaw, middle + across * np.cos(angles) + up * np.sin(angles)])


def _filled(outline: np.ndarray, side: int, grow: float, soft: float) -> Tensor:
    """Draw one closed outline: 1 inside, falling to 0 within `soft` pixels outside it.

    Shapes: outline (N, 2); returns (side, side) float32.
    """
    reach = max(grow, 0.0) + soft + 2
    x0, y0 = np.clip(np.floor(outline.min(0) - reach), 0, side).astype(int)
    x1, y1 = np.clip(np.ceil(outline.max(0) + reach), 0, side).astype(int)
    mask = torch.zeros(side, side)
    if x0 < x1 and y0 < y1:
        outside = signed_distance(outline, x0, y0, x1, y1) - grow
        # A hard edge still covers the pixel it crosses by its share.
        width = max(soft, 1.0)
        offset = 0.0 if soft >= 1 else 0.5
        mask[y0:y1, x0:x1] = ramp(torch.from_numpy(1 - (outside + offset) / width).float(), 1.0)
    return mask


def signed_distance(outline: np.ndarray, x0: int, y0: int, x1: int, y1: int) -> np.ndarray:
    """Return how far the centres of pixels lie outside a closed outline, negative inside.

    Shapes: outline (N, 2) in order around it, convex or not; returns (y1 - y0, x1 - x0) float64, in pixels.
    """
    x = np.arange(x0, x1) + 0.5
    y = (np.arange(y0, y1) + 0.5)[:, None]
    nearest = np.full((y1 - y0, x1 - x0), np.inf)
    inside = np.zeros(nearest.shape, bool)
    for (ax, ay), (bx, by) in zip(outline, np.roll(outline, -1, 0), strict=True):
        dx, dy = bx - ax, by - ay
        along = ((x - ax) * dx + (y - ay) * dy) / max(dx * dx + dy * dy, 1e-12)
        along = np.clip(along, 0, 1)
        np.minimum(nearest, (x - ax - along * dx) ** 2 + (y - ay - along * dy) ** 2, out=nearest)
        # Even-odd: a ray to the right of the pixel crosses this edge.
        if ay != by:
            inside ^= ((ay > y) != (by > y)) & (x < (y - ay) * dx / dy + ax)
    distance = np.sqrt(nearest)
    return np.where(inside, -distance, distance)
