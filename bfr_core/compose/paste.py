"""Pasting restored crops into their frame.

Three promises: only the region of a face is computed; pixels outside the mask equal the input bit for bit; where
crops overlap, every pixel goes to the face it is nearest to, so no face is painted over by its neighbour's
background.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from ..errors import InputMediaError, SettingsError
from ..faces.align import invert, pixel_grid, transform
from ..types import FaceCrop
from .masks import FEATHER, check_mask, square_mask

_BAND = 0.06
"""Width of the cross-fade between two faces, as a share of the crop's side: hard borders would show."""

_KEEP_SCALE = 1.5
"""Crop pixels per frame pixel that plain bilinear sampling stands; beyond it the crop is shrunk with an antialias."""


@dataclass(slots=True)
class _Place:
    """Where one crop lies in the frame."""

    x0: int
    y0: int
    x1: int
    y1: int
    matrix: np.ndarray
    """(2, 3): frame coordinates to the unit square of the crop."""

    def overlaps(self, other: _Place) -> bool:
        return self.x0 < other.x1 and other.x0 < self.x1 and self.y0 < other.y1 and other.y0 < self.y1


def composite(
    frame: Tensor,
    crops: Sequence[FaceCrop],
    restored: Sequence[Tensor],
    *,
    masks: Sequence[Tensor | None] | None = None,
    strength: float = 1.0,
    feather: float = FEATHER,
) -> tuple[Tensor, Tensor]:
    """Paste restored crops into their frame.

    Shapes: frame (3, H, W) float32; restored: one (3, S, S) per crop, S may differ from the crop's size; masks:
    one (h, w) in [0, 1] or None per crop, combined with the square mask by minimum.

    Args:
        frame: the picture the crops were cut from; not changed.
        crops: where the faces lie.
        restored: what to put there.
        masks: where within each crop, beside the square; None for the square alone.
        strength: 0 leaves the frame as it is, 1 puts the restored face there in full.
        feather: width of the ramp inside the square, as a share of its side.

    Returns:
        The new frame, and the (H, W) mask of what was blended, strength included.

    Raises:
        SettingsError: strength or feather out of range.
        InputMediaError: counts or shapes do not match, or a restored face holds NaN.
    """
    _check(frame, crops, restored, masks, strength, feather)
    out = frame.clone()
    blended = frame.new_zeros(frame.shape[-2:])
    if strength == 0:
        return out, blended
    places = [_place(crop, frame.shape[-2:]) for crop in crops]
    for index, place in enumerate(places):
        if place.x0 >= place.x1 or place.y0 >= place.y1:
            continue
        weight, position = _weight(place, frame, masks[index] if masks else None, feather)
        for other_index, other in enumerate(places):
            if other_index != index and place.overlaps(other):
                weight = weight * _share(position, place, other, frame, masks[other_index] if masks else None, feather)
        weight = weight * strength
        face = _resample(restored[index].to(frame), place, crops[index])
        region = (..., slice(place.y0, place.y1), slice(place.x0, place.x1))
        # The difference is taken from the input, not from what a neighbour has already written: the shares of
        # overlapping faces sum to at most one, so the order of the faces does not matter.
        out[region] = torch.where(weight > 0, out[region] + weight * (face - frame[region]), out[region])
        blended[region] += weight
    return out, blended.clamp_(0, 1)


def _check(
    frame: Tensor,
    crops: Sequence[FaceCrop],
    restored: Sequence[Tensor],
    masks: Sequence[Tensor | None] | None,
    strength: float,
    feather: float,
) -> None:
    for name, value, low, high in (("strength", strength, 0.0, 1.0), ("feather", feather, 0.0, 0.5)):
        if not low <= value <= high:
            raise SettingsError(
                f"Cannot composite with this {name}",
                found=f"{name} is {value}, expected {low:g} to {high:g}",
                kept="The picture is unchanged",
                todo=f"Set {name} within that range",
            )
    counts = (len(crops), len(restored), len(crops) if masks is None else len(masks))
    if len(set(counts)) != 1 or frame.ndim != 3 or frame.shape[0] != 3:
        raise InputMediaError(
            "Cannot composite these faces",
            found=f"found {counts[0]} crops, {counts[1]} restored faces, {counts[2]} masks and a frame of shape "
            f"{tuple(frame.shape)}; expected equal counts and (3, H, W)",
            kept="The picture is unchanged",
            todo="Pass the faces exactly as they were aligned, in the same order",
        )
    for index, face in enumerate(restored):
        if face.ndim != 3 or face.shape[0] != 3 or face.shape[1] != face.shape[2] or not bool(face.isfinite().all()):
            raise InputMediaError(
                f"Cannot composite face {index}",
                found=f"found shape {tuple(face.shape)}{'' if face.isfinite().all() else ' holding NaN or infinity'}; "
                "expected a finite (3, S, S)",
                kept="The picture is unchanged",
                todo="Restore the face again, in float32 if it was half precision",
            )


def _place(crop: FaceCrop, shape: Sequence[int]) -> _Place:
    size = crop.size
    corners = np.array([[0, 0], [size, 0], [0, size], [size, size]], np.float64)
    reach = transform(invert(crop.matrix), corners)
    x0, y0 = np.clip(np.floor(reach.min(0)), 0, [shape[1], shape[0]]).astype(int).tolist()
    x1, y1 = np.clip(np.ceil(reach.max(0)), 0, [shape[1], shape[0]]).astype(int).tolist()
    return _Place(x0, y0, x1, y1, crop.matrix / size)


def _unit_position(matrix: np.ndarray, region: _Place, device: torch.device) -> Tensor:
    """Return (h, w, 2) positions of the region's pixels in a crop's unit square."""
    shape = (region.y1 - region.y0, region.x1 - region.x0)
    # A source of side 2 makes grid_sample's normalisation u - 1, undone by adding 1.
    return pixel_grid(matrix, shape, (2, 2), device, origin=(region.x0, region.y0))[0] + 1.0


def _weight(
    place: _Place, frame: Tensor, mask: Tensor | None, feather: float, at: _Place | None = None
) -> tuple[Tensor, Tensor]:
    """Return a crop's mask over a region (its own unless `at` names another) and the positions there."""
    position = _unit_position(place.matrix, at or place, frame.device)
    weight = square_mask(position[..., 0], position[..., 1], feather)
    if mask is not None:
        checked = check_mask(mask, max(mask.shape)).to(frame.device)
        sampled = F.grid_sample(checked[None, None], 2 * position[None] - 1, align_corners=False)[0, 0]
        weight = torch.minimum(weight, sampled)
    return weight, position


def _share(
    position: Tensor, place: _Place, other: _Place, frame: Tensor, mask: Tensor | None, feather: float
) -> Tensor:
    """Return how much of `place` is left where `other` lies: 1 where it is nearer, 0 where the other is."""
    presence, there = _weight(other, frame, mask, feather, at=place)
    own = torch.linalg.vector_norm(position - 0.5, dim=-1)
    theirs = torch.linalg.vector_norm(there - 0.5, dim=-1)
    nearer = (0.5 + (theirs - own) / _BAND).clamp(0, 1)
    return 1 - presence * (1 - nearer)


def _resample(face: Tensor, place: _Place, crop: FaceCrop) -> Tensor:
    """Return the restored crop in the pixels of its region of the frame."""
    side = face.shape[-1]
    scale = crop.scale * side / crop.size
    if scale > _KEEP_SCALE:
        small = max(math.ceil(side / scale * _KEEP_SCALE), 1)
        face = F.interpolate(face[None], (small, small), mode="bicubic", antialias=True, align_corners=False)[0]
        side = small
    shape = (place.y1 - place.y0, place.x1 - place.x0)
    grid = pixel_grid(place.matrix, shape, (1, 1), face.device, origin=(place.x0, place.y0))
    return F.grid_sample(face[None], grid, mode="bilinear", padding_mode="border", align_corners=False)[0]
