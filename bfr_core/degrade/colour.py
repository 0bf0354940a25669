"""The colour part of a degradation, on tensors of one picture."""

from __future__ import annotations

import torch
from torch import Tensor

from ..media.luma import luma
from .drawing import NO_JITTER, DegradeParams


def to_gray(image: Tensor) -> Tensor:
    """Return (3, H, W) with its luma in every channel."""
    return luma(image).expand(3, -1, -1)


def change_colour(image: Tensor, params: DegradeParams) -> Tensor:
    """Shift, jitter and turn gray, in this order, each clamped to [0, 1]."""
    if any(params.colour_shift):
        image = (image + image.new_tensor(params.colour_shift).reshape(3, 1, 1) / 255).clamp(0, 1)
    if tuple(params.jitter) != NO_JITTER:
        brightness, contrast, saturation, hue = params.jitter
        image = (image * brightness).clamp(0, 1)
        mean = luma(image).mean()
        image = ((image - mean) * contrast + mean).clamp(0, 1)
        gray = luma(image)
        image = _turn_hue(((image - gray) * saturation + gray).clamp(0, 1), hue)
    if params.gray and params.gray_on != "clean":
        image = to_gray(image)
    return image


def _turn_hue(image: Tensor, turns: float) -> Tensor:
    """Turn the hue of (3, H, W), keeping HSV value and saturation."""
    red, green, blue = image
    value = torch.maximum(torch.maximum(red, green), blue)
    span = value - torch.minimum(torch.minimum(red, green), blue)
    safe = span.clamp(min=1e-12)  # gray has no hue, and `span` 0 leaves it alone below
    green_or_blue = torch.where(value == green, blue - red + 2 * safe, red - green + 4 * safe)
    sector = torch.where(value == red, green - blue, green_or_blue) / safe
    # Each channel falls from `value` by `span` times a trapezoid of the hue (Smith, Color gamut transform pairs, 1978).
    phase = sector + image.new_tensor((5 + 6 * turns, 3 + 6 * turns, 1 + 6 * turns)).reshape(3, 1, 1)
    phase = phase - 6 * (phase / 6).floor()
    return value - span * torch.minimum(phase, 4 - phase).clamp(0, 1)
