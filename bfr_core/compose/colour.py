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
"""What codecs leave of colour in a picture of one tint, and the squares over which that is judged. Of 146 portraits,
sharp and degraded, one passes for tinted, whose colours differ by 5 of 255."""

_SHARE = 1 / 24
"""Scale of colours that are the input's, a standard deviation as a share of the side of a face's square: lips are
larger. Less would bring the bleeding of a codec's colours back. On held-out faces it costs methods whose colours are
right .04 dB at most and no identity, and gains .2 to .7 dB in one whose colours drift."""
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
    """Return the face in the tint of the crop, None where the crop is not of one tint.

    A picture is of one tint where its colour follows from its light alone. The tint is fitted to the crop as a parabola
    of the light, on means over 16 x 16 pixels, which a codec's noise does not reach.
    """
    means = F.avg_pool2d(crop[None], min(_POOLED, *crop.shape[-2:]))[0].flatten(1).double()
    light = means.mean(0)
    powers = torch.stack([torch.ones_like(light), light, light.square()], 1)
    # Ridge: where the light hardly changes, the parabola must not bend away between.
    normal = powers.T @ powers + 1e-3 * torch.eye(3, dtype=torch.double, device=crop.device)
    fitted = torch.linalg.solve(normal, powers.T @ (means - light).T)
    if bool(((means - light).T - powers @ fitted).abs().max() > _TINT_TOLERANCE):
        return None

    def tinted(gray: Tensor) -> Tensor:
        tint = torch.stack([torch.ones_like(gray), gray, gray.square()], -1) @ fitted.to(gray)
        return (gray + tint.permute(2, 0, 1)).clamp_(0, 1).contiguous()

    # Noise in colours is gray on the mean, and yet no picture of one tint.
    if bool((crop - tinted(crop.mean(0))).abs().mean() > _TINT_TOLERANCE / 2):
        return None
    return tinted(face.mean(0))
