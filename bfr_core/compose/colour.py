"""The colours of a restored face: those of the picture it is pasted into.

A restorer adds detail. Where it changes colours over large parts of a face, that is its error and not a finding about
the person: compact generators drift to the mean complexion of what they were trained on, and paint skin and lips into
old photographs. So colours are taken from the input, at the scale at which even a poor input still has them right,
and light, with all detail, from the restored face.

Source: ours. StableSR (Wang et al., IJCV 2024) exchanges low frequencies likewise, light among them, which would bring
blotches of the degradation back.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from ..media.luma import luma

_TINT_TOLERANCE, _POOLED = 8 / 255, 16
"""What codecs leave of colour where a picture is of one tint, and the squares over which that is judged."""
_PLACE, _RIDGE = 4.0, 4e-4
"""Standard deviation, in such squares, of the place over which a tint may change: a print fades from its edges, and
lips are smaller than that. Squared change of light below which a tint does not follow it."""

_SHARE = 1 / 48
"""Scale of colours that are the input's, a standard deviation as a share of the side of a face's square: half of an
eye or a lip. On held-out faces shrunk to a quarter and stored as JPEG of quality 60, lips of the method that strays
most are 2.7 levels off where 1/24 leaves 5.0; of the others lips and skin stay as near to the truth as they were, and
eyes within a level. With 1/80 eyes are those of the codec, whose colours bleed."""
_COARSE = 3.0
"""Pixels of the small picture in which the blur is done, for each standard deviation."""


def keep_colours(crop: Tensor, face: Tensor, size: int | None = None) -> Tensor:
    """Return a restored face in the colours of its input.

    What is of one tint in the input is so in the result, gray being no tint at all. Elsewhere colours (what is left of
    RGB without its luma) keep the restored face's detail, and have the input's values over larger parts.

    Shapes: crop and face (3, H, W) in [0, 1]; the result is the same.

    Args:
        crop: what was restored.
        face: what became of it.
        size: side of a face's square in pixels where the picture is not one; None: its longer side.
    """
    tinted = _tinted(crop, face)
    return _shifted(crop, face, size or max(crop.shape[-2:])) if tinted is None else tinted


def _shifted(crop: Tensor, face: Tensor, size: int) -> Tensor:
    """Return the face with the input's colours at large scales."""
    wrong = (crop - luma(crop)) - (face - luma(face))
    return (face + _blurred(wrong, size * _SHARE)).clamp_(0, 1)


def _blurred(image: Tensor, sigma: float) -> Tensor:
    """Return (3, H, W) after a Gaussian blur of `sigma` pixels, computed on a small picture and enlarged."""
    height, width = image.shape[-2:]
    shrink = max(sigma / _COARSE, 1.0)
    small = (max(math.ceil(height / shrink), 1), max(math.ceil(width / shrink), 1))
    pooled = F.interpolate(image[None], small, mode="area")
    sigma /= shrink
    radius = math.ceil(3 * sigma)
    kernel = torch.exp(-0.5 * (torch.arange(-radius, radius + 1, device=image.device, dtype=image.dtype) / sigma) ** 2)
    kernel = (kernel / kernel.sum()).expand(3, 1, 1, -1)
    padded = F.pad(pooled, (radius,) * 4, mode="replicate")
    blurred = F.conv2d(F.conv2d(padded, kernel, groups=3), kernel.transpose(2, 3), groups=3)
    return F.interpolate(blurred, (height, width), mode="bicubic")[0]


def _tinted(crop: Tensor, face: Tensor) -> Tensor | None:
    """Return the face in the tint of the crop, None where the crop is not of one tint at each place.

    There the colour follows from the light alone. How, is fitted to the crop around each place as a straight line, on
    means over 16 x 16 pixels, which a codec's noise does not reach: prints fade unevenly.
    """
    height, width = crop.shape[-2:]
    small = (max(math.ceil(height / _POOLED), 1), max(math.ceil(width / _POOLED), 1))
    means = F.interpolate(crop[None], small, mode="area")[0]
    light = means.mean(0, keepdim=True)
    colour = means - light
    around, mean, square, both = (_around(part) for part in (colour, light, light * light, colour * light))
    slope = (both - around * mean) / ((square - mean * mean).clamp(min=0) + _RIDGE)
    base = around - slope * mean
    if bool((colour - slope * light - base).abs().max() > _TINT_TOLERANCE):
        return None
    slope, base = (F.interpolate(part[None], (height, width), mode="bilinear")[0] for part in (slope, base))

    def tinted(gray: Tensor) -> Tensor:
        return (gray + slope * gray + base).clamp_(0, 1)

    # Noise in colours is gray on the mean, and yet no picture of one tint.
    if bool((crop - tinted(crop.mean(0, keepdim=True))).abs().mean() > _TINT_TOLERANCE / 2):
        return None
    return tinted(face.mean(0, keepdim=True))


def _around(means: Tensor) -> Tensor:
    """Return (C, h, w) averaged over the place around each square; beyond the border there is nothing."""
    reach = math.ceil(3 * _PLACE)
    kernel = torch.exp(-0.5 * (torch.arange(-reach, reach + 1, device=means.device, dtype=means.dtype) / _PLACE) ** 2)

    def summed(part: Tensor) -> Tensor:
        once = F.conv2d(part[:, None], kernel.view(1, 1, 1, -1), padding=(0, reach))
        return F.conv2d(once, kernel.view(1, 1, -1, 1), padding=(reach, 0))[:, 0]

    return summed(means) / summed(torch.ones_like(means))
