"""Which faces to leave alone, as restoring would help nobody: too small, turned away, sharp already.

Photos ask for each face, films once for a whole track, by medians over its frames.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from ..errors import SettingsError
from ..media.luma import luma
from ..types import Face
from .align import FFHQ_TEMPLATE, sample, similarity

CROP = 384
"""Side of the crop in which sharpness is measured and people are told apart."""

SHARP = 0.55
"""Sharpness from which a face is left alone. Of 28 clean portraits two thirds reach it (5 % are below 0.49, half below
0.57); of the same shrunk to half, or blurred by a pixel of 512, under 5 % do, and of those degraded mildly 2 %."""
SHARP_ALREADY, WOULD_SOFTEN = "sharp already", "restoring would soften it"
"""How the reasons of faces that have nothing to gain begin."""
MAX_ENLARGED = 1.5
"""Enlargement of a crop from which no face counts as sharp: what is not in the frame, its edges cannot show."""
MAX_YAW = 55.0
"""Turn from which the far eye is hidden and the template no longer fits. None of 179 faces of photos that the embedded
detector found is turned as far (the most is 47); those of profiles it hardly finds."""
NOSE = 0.27
"""How far the nose stands out, in distances of the eyes. By eye on photos, faces turned by 25, 35 and 50 degrees do
measure so; of heads it is about 0.4, but detectors draw the points of a turned face towards those of a frontal one."""
SOFTENED, MIN_DETAIL = 0.45, 0.9
"""A face at least so sharp is left alone where it would keep less than this share of its fine detail. Of 42 clean
portraits the least sharp has 0.49, and the embedded restorer leaves them 0.45 to 0.79 of their detail; blurred by a
pixel of 512 they gain, or keep 0.94; of 19 degraded photos the sharpest has 0.40."""
_FINE, _COARSE = 0.8, 2.0
"""Widths of the two Gaussians that edges are looked at with, in pixels of the crop."""
_SHARPEST = 0.7
"""Width of an edge of sharpness near 1: a step, as sampling shows it."""
_STRONGEST = 0.1
"""Share of the edges that are measured: those that stand out of noise."""
_FACE = (0.15, 0.12, 0.85, 0.94)
"""Left, top, right and bottom of the face in the crop, as shares: what is behind it may be sharper or less."""


def sharpness(crop: Tensor) -> float:
    """Return how sharp an aligned face is, 0 to 1: the width of the sharpest possible edge over that of its edges.

    A step that was blurred has a slope that depends on the Gaussian it is looked at with; two such slopes give the
    blur. Only the crests of the strongest edges are measured, and the finer slope along the direction of the coarser,
    so that noise, which has no direction, cancels: with noise of 15 levels the figures are the same to 0.01.

    Shapes: crop (3, CROP, CROP) in [0, 1].
    Source: the ratio of Zhuo and Sim, "Defocus map estimation from a single image" (2011).
    """
    light = luma(crop)[None]
    (fine_x, fine_y), (x, y) = _slopes(light, _FINE), _slopes(light, _COARSE)
    steep = torch.hypot(x, y).clamp(min=1e-9)
    side = crop.shape[-1]
    left, top, right, bottom = (round(share * side) for share in _FACE)
    rows, columns = torch.arange(top, bottom)[:, None], torch.arange(left, right)[None]
    inside = (slice(top, bottom), slice(left, right))
    step_x, step_y = ((part / steep).round().long()[inside] for part in (x, y))
    ahead, behind = (steep[rows + sign * step_y, columns + sign * step_x] for sign in (1, -1))
    crest = (steep[inside] >= ahead) & (steep[inside] >= behind)
    strengths = steep[inside][crest]
    chosen = crest & (steep[inside] >= torch.quantile(strengths, 1 - _STRONGEST))
    along = ((fine_x * x + fine_y * y) / steep)[inside]
    ratio = float(along[chosen].sum() / steep[inside][chosen].sum())
    if ratio <= 1:
        return 0.0
    blur = max((_COARSE**2 - (ratio * _FINE) ** 2) / (ratio**2 - 1), 0.0)
    return _SHARPEST / (blur + _SHARPEST**2) ** 0.5


def _slopes(light: Tensor, sigma: float) -> tuple[Tensor, Tensor]:
    """Return the derivatives of a blurred picture along x and y, (H, W) each, from (1, 1, H, W)."""
    reach = math.ceil(3 * sigma)
    x = torch.arange(-reach, reach + 1, dtype=light.dtype, device=light.device)
    bell = torch.exp(-x * x / (2 * sigma * sigma))
    bell = bell / bell.sum()
    slope = x / (sigma * sigma) * bell
    padded = F.pad(light, (reach, reach, reach, reach), mode="reflect")
    across = F.conv2d(F.conv2d(padded, slope.view(1, 1, 1, -1)), bell.view(1, 1, -1, 1))
    down = F.conv2d(F.conv2d(padded, bell.view(1, 1, 1, -1)), slope.view(1, 1, -1, 1))
    return across[0, 0], down[0, 0]


@dataclass(frozen=True, slots=True)
class QualityFilter:
    """Limits beyond which a face is left alone.

    Raises:
        SettingsError: a limit is out of range.
    """

    min_size: float = 32.0
    """Least size of the box, in pixels (geometric mean of its sides); 0 for any. Of films: photos have a `min_size` of
    their own among their options."""
    sharp: float = SHARP
    """Sharpness from which a face has nothing to gain; above 1 for never."""
    min_detail: float = MIN_DETAIL
    """Of photos: share of its fine detail that a fairly sharp face must keep, or else it is left alone; 0 for any."""
    max_yaw: float = MAX_YAW
    """Largest turn aside, in degrees; 90 for any."""
    min_seconds: float = 0.3
    """Of films: least time in sight of a face that comes and goes within a shot: most of them are none, and one that is
    would be gone before it has faded in."""

    def __post_init__(self) -> None:
        limits = {"min_size": 1e6, "sharp": 10.0, "min_detail": 1.0, "max_yaw": 90.0, "min_seconds": 1e6}
        for name, most in limits.items():
            value = getattr(self, name)
            if not 0 <= value <= most:
                raise SettingsError(
                    f"Cannot leave faces alone by {name} {value}",
                    found=f"expected 0 to {most:g}",
                    kept="Nothing was started",
                    todo=f"Give a {name} in that range",
                )

    def reason(self, facts: Mapping[str, float], size: int = 512) -> str:
        """Say why a face is to be left alone, empty where it is not.

        Args:
            facts: what is known of it: `yaw` in degrees, `side` of its crop in pixels of the frame, and, where they
                are to be judged, `size` of its box in pixels and `sharpness`.
            size: side of the restorer's crop, in pixels.
        """
        if facts.get("size", self.min_size) < self.min_size:
            return f"{facts['size']:.0f} px is below the minimum of {self.min_size:g} px"
        if facts["yaw"] > self.max_yaw:
            return f"turned {facts['yaw']:.0f} degrees aside, more than {self.max_yaw:g}"
        sharp, enlarged = facts.get("sharpness"), size / facts["side"]
        if sharp is not None and sharp >= self.sharp and enlarged < MAX_ENLARGED:
            return f"{SHARP_ALREADY}: {sharp:.2f}, at least {self.sharp:g}"
        return ""

    def softens(self, sharp: float, before: Tensor, after: Tensor) -> str:
        """Say why a restored face of a photo is to be left alone after all, empty where it is not.

        Shapes: before, after (3, S, S) in [0, 1], the aligned face.

        Args:
            sharp: sharpness of the face as it came.
            before: as it came.
            after: as it would be shown.
        """
        if sharp < SOFTENED or (kept := detail(after) / max(detail(before), 1e-9)) >= self.min_detail:
            return ""
        return f"{WOULD_SOFTEN}: {kept:.2f} of its fine detail would be left, less than {self.min_detail:g}"


def detail(crop: Tensor) -> float:
    """Return how much fine detail an aligned face holds: the variance of its Laplacian, in squared levels of 255.

    Unlike `sharpness` it measures texture, such as skin and hair, and noise too.

    Shapes: crop (3, S, S) in [0, 1].
    """
    light, side = luma(crop)[None] * 255, crop.shape[-1]
    left, top, right, bottom = (round(share * side) for share in _FACE)
    kernel = light.new_tensor([[0, 1, 0], [1, -4, 1], [0, 1, 0]]).view(1, 1, 3, 3)
    return float(F.conv2d(light[..., top:bottom, left:right], kernel).var())


def sharpness_at(frame: Tensor, matrix: np.ndarray, size: int, side: int = CROP) -> float:
    """Return how sharp a face of a frame is, 0 to 1.

    Shapes: frame (3, H, W) in [0, 1]; matrix (2, 3), frame to the crop of `size` pixels.

    Args:
        frame: where the face is.
        matrix: where it lies there.
        size: side of the crop that the matrix leads to.
        side: of the crop in which it is looked at, in pixels.
    """
    return sharpness(sample(frame, matrix * (side / size), side, linear=True).clamp_(0, 1))


def photo_facts(frame: Tensor, face: Face, size: int = 512, *, upscale: int = 1) -> dict[str, float]:
    """Return what `QualityFilter.reason` judges a face of a photo by; its size is up to the photo's own limit.

    Shapes: frame (3, H, W) in [0, 1].

    Args:
        frame: where the face is.
        face: one of its faces.
        size: side of the restorer's crop, in pixels: what is enlarged too much for it is not looked at.
        upscale: how many times the picture is enlarged: then no face is sharp already that has fewer pixels than the
            restorer gives.

    Raises:
        InputMediaError: the face's points do not define a similarity.
    """
    matrix = similarity(face.points, FFHQ_TEMPLATE * (CROP / 512))
    side = CROP / math.hypot(matrix[0, 0], matrix[1, 0])
    facts = {"yaw": float(yaw(face.points[None])[0]), "side": side}
    if size / side < (MAX_ENLARGED if upscale == 1 else 1.0):
        facts["sharpness"] = sharpness_at(frame, matrix, CROP)
    return facts


def yaw(points: np.ndarray) -> np.ndarray:
    """Return how far faces are turned aside, (n,) degrees, 0 to 90, from (n, 5, 2) points.

    The nose stands out from the line between the eyes, so it moves aside by the sine of the turn while the eyes draw
    together by its cosine; the tangent needs no size. It is a coarse measure, good to about ten degrees.
    """
    points = np.asarray(points, np.float64)
    across = points[:, 1] - points[:, 0]
    down = points[:, 3:].mean(1) - points[:, :2].mean(1)
    # Aside is measured from the line that joins the middles of eyes and mouth, so that a tilt or a nod is no turn.
    nose = points[:, 2] - points[:, :2].mean(1)
    flat = across[:, 0] * down[:, 1] - across[:, 1] * down[:, 0]
    flat = np.where(np.abs(flat) < 1e-9, 1e-9, flat)
    aside = (nose[:, 0] * down[:, 1] - nose[:, 1] * down[:, 0]) / flat
    return np.degrees(np.arctan2(np.abs(aside), NOSE * np.maximum(np.sign(flat), 0)))
