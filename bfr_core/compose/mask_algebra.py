"""Putting soft masks together, and showing them over the pictures they belong to."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from ..errors import InputMediaError, SettingsError

OPERATIONS: Mapping[str, Callable[[Tensor, Tensor], Tensor]] = {
    "union": torch.maximum,
    "intersection": torch.minimum,
    "subtract": lambda a, b: (a - b).clamp_min(0),
    "multiply": torch.mul,
}
"""Of two masks in [0, 1]; the first two are those of fuzzy sets (Zadeh)."""

MAX_FEATHER = 0.25
"""Widest blur, as a share of the shorter side: beyond it a mask of a face is one grey."""


def combine_masks(
    a: Tensor, b: Tensor | None = None, *, operation: str = "intersection", invert: bool = False, feather: float = 0.0
) -> Tensor:
    """Return one mask of two: the operation first, then the inversion, then the blur.

    Shapes: a (N, H, W), b (M, h, w), both in [0, 1], N and M equal or one of them 1; returns (max(N, M), H, W). A `b`
    of another size is brought to that of `a`.

    Args:
        a: the first mask of each face, or one for all.
        b: the second; None leaves `a` as it is.
        operation: one of OPERATIONS; subtract takes `b` away from `a`.
        invert: swap 0 and 1.
        feather: standard deviation of the blur, as a share of the shorter side.

    Raises:
        InputMediaError: a mask has another shape, holds NaN or values outside [0, 1], or the numbers do not match.
        SettingsError: an unknown operation, or a feather out of range.
    """
    if operation not in OPERATIONS or not 0 <= feather <= MAX_FEATHER:
        raise SettingsError(
            "Cannot combine these masks",
            found=f"operation {operation!r} with feather {feather:g}; expected one of {', '.join(OPERATIONS)} and 0 to "
            f"{MAX_FEATHER:g}",
            kept="Nothing was combined",
            todo="Choose values in range",
        )
    result = _checked(a)
    if b is not None:
        other = _checked(b)
        if len(result) != len(other) and 1 not in (len(result), len(other)):
            raise InputMediaError(
                "Cannot combine these masks",
                found=f"found {len(result)} and {len(other)} masks; expected equal numbers, or one for all",
                kept="Nothing was combined",
                todo="Make both from the same faces",
            )
        size = (result.shape[-2], result.shape[-1])
        if tuple(other.shape[-2:]) != size:
            other = F.interpolate(other[:, None], size, mode="bilinear", antialias=True, align_corners=False)[:, 0]
        result = OPERATIONS[operation](*torch.broadcast_tensors(result, other.clamp(0, 1)))
    if invert:
        result = 1 - result
    if feather:
        result = _blurred(result, feather * min(result.shape[-2:]))
    return result.clamp(0, 1)


def overlay(pictures: Tensor, masks: Tensor, *, opacity: float = 0.5) -> Tensor:
    """Show masks over pictures: orange where they are 1, the picture darkened where they are 0.

    Shapes: pictures (N, 3, H, W) RGB [0, 1]; masks (N or 1, h, w), brought to that size; returns (N, 3, H, W).

    Args:
        pictures: what the masks belong to.
        masks: in [0, 1].
        opacity: 0 shows the pictures alone, 1 the masks alone, white on black.

    Raises:
        InputMediaError: a mask has another shape, holds NaN or values outside [0, 1], or their number does not match.
        SettingsError: the opacity is out of range.
    """
    if not 0 <= opacity <= 1:
        raise SettingsError(
            "Cannot show masks so",
            found=f"an opacity of {opacity:g}; expected 0 to 1",
            kept="Nothing was drawn",
            todo="Choose an opacity in range; 0.5 is usual",
        )
    layers = _checked(masks)
    if len(layers) not in (1, len(pictures)):
        raise InputMediaError(
            "Cannot show these masks",
            found=f"found {len(layers)} masks for {len(pictures)} pictures; expected one, or one each",
            kept="Nothing was drawn",
            todo="Connect the pictures that the masks were made of",
        )
    size = (pictures.shape[-2], pictures.shape[-1])
    if tuple(layers.shape[-2:]) != size:
        layers = F.interpolate(layers[:, None], size, mode="bilinear", antialias=True, align_corners=False)[:, 0]
    share = layers[:, None].clamp(0, 1)
    # Up to one half the colour comes, from there on the picture goes.
    tint = min(2 * opacity, 1.0)
    colour = torch.tensor([1.0, 0.55, 0.1]).view(1, 3, 1, 1)
    shown = pictures * (1 - 0.6 * tint * (1 - share)) * (1 - 0.55 * tint * share) + colour * (0.55 * tint * share)
    alone = max(2 * opacity - 1, 0.0)
    return (shown * (1 - alone) + share * alone).clamp(0, 1)


def _checked(mask: Tensor) -> Tensor:
    layers = mask.detach().to("cpu", torch.float32)
    layers = layers[None] if layers.ndim == 2 else layers
    found = None
    if layers.ndim != 3 or 0 in layers.shape:
        found = f"found shape {tuple(mask.shape)}, expected (masks, height, width)"
    elif not bool(((layers >= 0) & (layers <= 1)).all()):
        found = "found values outside [0, 1] or NaN"
    if found:
        raise InputMediaError(
            "Cannot use this mask", found=found, kept="Nothing was changed", todo="Give masks from 0 to 1"
        )
    return layers


def _blurred(masks: Tensor, sigma: float) -> Tensor:
    """Blur with a Gaussian; beyond the border a mask goes on as it ends there."""
    blurred = [
        cv2.GaussianBlur(np.ascontiguousarray(mask.numpy()), (0, 0), sigma, borderType=cv2.BORDER_REPLICATE)
        for mask in masks
    ]
    return torch.from_numpy(np.stack(blurred))
