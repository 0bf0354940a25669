"""Where in a picture restoring may show: a mask over whole pictures, applied to what was pasted into them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from ..errors import InputMediaError
from ..types import Face

OUTSIDE = "it lies outside the mask"
"""Why a face is left alone."""

_ROUNDED = 1e-3
"""By how much resampling takes values out of [0, 1]."""


def check_within(masks: Tensor, pictures: int | None = None) -> Tensor:
    """Return masks of pictures as (M, h, w) float32 in [0, 1], M 1 or as many as there are pictures.

    Shapes: masks (h, w) or (M, h, w), of any size.

    Args:
        masks: 1 where restoring may show.
        pictures: how many there are; None where nobody knows yet.

    Raises:
        InputMediaError: another shape or number, NaN, or values outside [0, 1].
    """
    layers = masks.detach().to("cpu", torch.float32)
    layers = layers[None] if layers.ndim == 2 else layers
    found = ""
    if layers.ndim != 3 or 0 in layers.shape:
        found = f"found shape {tuple(masks.shape)}; expected (masks, height, width)"
    elif pictures is not None and len(layers) not in (1, pictures):
        found = f"found {len(layers)} masks for {pictures} pictures; expected one for all, or one each"
    elif not bool(((layers >= -_ROUNDED) & (layers <= 1 + _ROUNDED)).all()):
        found = f"found values from {layers.min().item():g} to {layers.max().item():g}; expected 0 to 1"
    if found:
        raise InputMediaError(
            "Cannot use this mask of where to restore",
            found=found,
            kept="The pictures are unchanged",
            todo="Give one mask for all pictures, or a mask for each; 1 is where restoring may show",
        )
    return layers.clamp(0, 1)


def within_of(masks: Tensor, index: int, shape: tuple[int, int]) -> Tensor:
    """Return the mask of one picture at its size, (H, W).

    Args:
        masks: from `check_within`.
        index: of the picture; one mask serves them all.
        shape: height and width of the picture.
    """
    mask = masks[index if len(masks) > 1 else 0]
    if tuple(mask.shape) != tuple(shape):
        mask = F.interpolate(mask[None, None], shape, mode="bilinear", antialias=True, align_corners=False)[0, 0]
    return mask.clamp(0, 1)


def is_within(face: Face, mask: Tensor) -> bool:
    """Tell whether a mask, (H, W) of the face's picture, lets any of the face's box be seen."""
    x0, y0, x1, y1 = (max(round(value), 0) for value in face.box)
    return bool((mask[y0:y1, x0:x1] > 0).any())


def outside(faces: Sequence[Face], mask: Tensor) -> dict[int, str]:
    """Return the places of the faces that a mask does not let be seen, and that this is why."""
    return {place: OUTSIDE for place, face in enumerate(faces) if not is_within(face, mask)}


def keep_outside(before: Tensor, after: Tensor, blended: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Take back what was pasted outside a mask, in shares where it is soft.

    Shapes: before and after (3, H, W), blended and mask (H, W) in [0, 1].

    Returns:
        The picture, equal to `before` bit for bit where the mask is 0 and to `after` where it is 1, and how much of
        each pixel was replaced then.
    """
    return torch.lerp(before, after, mask), blended * mask
