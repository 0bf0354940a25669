"""Soft masks in the square of a crop, 1 where the restored face shows and 0 where the frame stays."""

from __future__ import annotations

import torch
from torch import Tensor

from ..errors import InputMediaError

FEATHER = 0.12
"""Width of the ramp inside each edge of the crop, as a share of its side."""


def ramp(inside: Tensor, feather: float = FEATHER) -> Tensor:
    """Return a mask that rises inwards from the edge of a crop.

    It is the smooth step 3t^2 - 2t^3, whose slope is zero at both ends: a linear ramp shows as a faint frame.

    Shapes: inside, any shape, distance to the nearest edge as a share of the side, negative outside; returns the
    same shape in [0, 1], exactly 0 at and beyond the edge.
    """
    t = (inside / max(feather, 1e-6)).clamp_(0, 1)
    return (3 - 2 * t).mul_(t).mul_(t)


def check_mask(mask: Tensor, size: int) -> Tensor:
    """Return `mask` as (size, size) float32 in [0, 1], resized where its size differs.

    Raises:
        InputMediaError: it is not two-dimensional, or holds values outside [0, 1] or NaN.
    """
    found = None
    if mask.ndim != 2:
        found = f"it has shape {tuple(mask.shape)}, expected (H, W)"
    else:
        mask = mask.float()
        if not bool(((mask >= 0) & (mask <= 1)).all()):
            found = "it holds values outside [0, 1] or NaN"
    if found:
        raise InputMediaError(
            "Cannot use this face mask", found=found, kept="The picture is unchanged", todo="Give a mask of 0 to 1"
        )
    if mask.shape != (size, size):
        mask = torch.nn.functional.interpolate(mask[None, None], (size, size), mode="bilinear", antialias=True)[0, 0]
    return mask.clamp(0, 1)
