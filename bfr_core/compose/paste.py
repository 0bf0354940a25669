"""Pasting restored crops into their frame.

Three promises: only the region of a face is computed; pixels outside the mask equal the input bit for bit; where
crops overlap, every pixel goes to the face it is nearest to, so no face is painted over by its neighbour's
background.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from ..errors import InputMediaError, SettingsError
from ..faces.align import invert, pixel_grid, sample, transform
from ..types import FaceCrop
from .detail import NONE, share_kept, worth_in
from .grain import add_grain
from .head import head_mask
from .masks import FEATHER, check_mask, ramp

_BAND = 0.06
"""Width of the cross-fade between two faces, as a share of the crop's side: hard borders would show."""

_KEEP_SCALE = 1.5
"""Crop pixels per frame pixel that sampling alone stands; beyond it the crop is shrunk with an antialias."""

_STRIP = 64
"""Rows computed at once: a third less memory at the peak than whole faces, at the same speed."""


@dataclass(slots=True)
class _Place:
    """Where one crop lies in the frame."""

    x0: int
    y0: int
    x1: int
    y1: int
    matrix: np.ndarray
    """(2, 3): frame coordinates to the unit square of the crop."""

    def strips(self) -> Iterator[_Place]:
        """Cut the region into rows that fit a processor's cache; everything is computed a strip at a time."""
        for top in range(self.y0, self.y1 if self.x0 < self.x1 else self.y0, _STRIP):
            yield _Place(self.x0, top, self.x1, min(top + _STRIP, self.y1), self.matrix)

    @property
    def box(self) -> tuple[int, int, int, int]:
        return self.x0, self.y0, max(self.x1, self.x0), max(self.y1, self.y0)

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
    upscale: int = 1,
    worth: Sequence[float] | None = None,
    grain: float = 0.0,
    seeds: Sequence[int] = (),
) -> tuple[Tensor, Tensor]:
    """Paste restored crops into their frame, each in the shape of its head.

    Of a face that is larger than its crop, the change is pasted: its fine detail stays the frame's own, see `detail`.

    Shapes: frame (3, H, W) float32; restored: one (3, S, S) per crop, S may differ from the crop's size; masks:
    one (h, w) in [0, 1] or None per crop, combined with the mask of the head by minimum.

    Args:
        frame: the picture the crops were cut from, or what it became by `upscale`; not changed.
        crops: where the faces lie.
        restored: what to put there.
        masks: where within each crop, beside the head; None for the head alone.
        strength: 0 leaves the frame as it is, 1 puts the restored face there in full.
        feather: width of the ramp inside the square, as a share of its side.
        upscale: how many times as wide and as high the frame is as the one that the crops were cut from.
        worth: how much of each face's own fine detail is worth keeping, where somebody knows; see `detail.worth_in`.
        grain: how much of the frame's grain is put back into the faces, 0 to 1; see `grain`.
        seeds: of each face's grain, where it is put back.

    Returns:
        The new frame, and the (H, W) mask of what was blended, strength included.

    Raises:
        SettingsError: strength, feather or grain out of range.
        InputMediaError: counts or shapes do not match, or a restored face holds NaN.
    """
    _check(frame, crops, restored, masks, {"strength": strength, "feather": feather, "grain": grain}, worth, seeds)
    out = frame.clone()
    blended = frame.new_zeros(frame.shape[-2:])
    if strength == 0:
        return out, blended
    # In the frame's own pixels. What is known of a face by its size is known of the picture it was cut from.
    placed = [replace(crop, matrix=crop.matrix / [[upscale, upscale, 1]]) for crop in crops]
    places = [_place(crop, frame.shape[-2:]) for crop in placed]
    shapes = [_shape(crop, None if masks is None else masks[index]) for index, crop in enumerate(placed)]
    shown: list[Tensor] = []
    for index, place in enumerate(places):
        face = _shrink(restored[index].to(frame), placed[index])
        scale = crops[index].scale * restored[index].shape[-1] / crops[index].size
        kept = _kept(frame, placed[index], scale, worth[index] if worth else None)
        if kept:
            face = face - kept * _entered(frame, placed[index], face.shape[-1])
        neighbours = [number for number, other in enumerate(places) if number != index and place.overlaps(other)]
        shown.append(frame.new_zeros(max(place.y1 - place.y0, 0), max(place.x1 - place.x0, 0)) if grain else blended)
        for strip in place.strips():
            weight, position = _weight(place, strip, frame, shapes[index], feather)
            for number in neighbours:
                weight *= _share(position, places[number], strip, frame, shapes[number], feather)
            weight *= strength
            shows = weight.amax(0).nonzero()
            if not len(shows):
                continue
            left, right = int(shows[0]), int(shows[-1]) + 1
            weight, position = weight[:, left:right], position[:, :, left:right]
            region = (..., slice(strip.y0, strip.y1), slice(strip.x0 + left, strip.x0 + right))
            patch = F.grid_sample(face[None], position, mode="bicubic", padding_mode="border", align_corners=False)[0]
            if kept:
                patch.add_(frame[region], alpha=kept)
            patch.clamp_(0, 1)  # a cubic overshoots
            # The difference is taken from the input, not from what a neighbour has already written: the shares of
            # overlapping faces sum to at most one, so the order of the faces does not matter. Where the weight is
            # zero exactly zero is added, which changes no bit.
            out[region] += patch.sub_(frame[region]).mul_(weight)
            blended[region] += weight
            if grain:
                shown[-1][strip.y0 - place.y0 : strip.y1 - place.y0, left:right] = weight
    if grain:
        add_grain(frame, out, [(place.box, part) for place, part in zip(places, shown, strict=True)], seeds, grain)
    return out, blended.clamp_(0, 1)


def _check(
    frame: Tensor,
    crops: Sequence[FaceCrop],
    restored: Sequence[Tensor],
    masks: Sequence[Tensor | None] | None,
    settings: Mapping[str, float],
    worth: Sequence[float] | None,
    seeds: Sequence[int],
) -> None:
    for name, value in settings.items():
        high = 0.5 if name == "feather" else 1.0
        if not 0 <= value <= high:
            raise SettingsError(
                f"Cannot composite with this {name}",
                found=f"{name} is {value}, expected 0 to {high:g}",
                kept="The picture is unchanged",
                todo=f"Set {name} within that range",
            )
    beside = [len(given) for given in (masks, worth, seeds if settings["grain"] else None) if given is not None]
    counts = (len(crops), len(restored), len(crops) if masks is None else len(masks), *beside)
    if len(set(counts)) != 1 or frame.ndim != 3 or frame.shape[0] != 3:
        raise InputMediaError(
            "Cannot composite these faces",
            found=f"found {counts[0]} crops, {counts[1]} restored faces, {counts[2]} masks and a frame of shape "
            f"{tuple(frame.shape)}; expected equal counts and (3, H, W)",
            kept="The picture is unchanged",
            todo="Pass the faces exactly as they were aligned, in the same order",
        )
    for index, face in enumerate(restored):
        if face.ndim != 3 or face.shape[0] != 3 or face.shape[1] != face.shape[2] or not bool(face.sum().isfinite()):
            raise InputMediaError(
                f"Cannot composite face {index}",
                found=f"found shape {tuple(face.shape)}{'' if face.sum().isfinite() else ' holding NaN or infinity'}; "
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
    """Return (1, h, w, 2) positions of the region's pixels in a crop, -1 and 1 its edges: what grid_sample reads."""
    shape = (region.y1 - region.y0, region.x1 - region.x0)
    return pixel_grid(matrix, shape, (1, 1), device, origin=(region.x0, region.y0))


def _shape(crop: FaceCrop, mask: Tensor | None) -> Tensor:
    """Return where within its square a face may show, (S, S) in [0, 1]."""
    head = head_mask(crop)
    if mask is None:
        return head
    side = max(*mask.shape[-2:], head.shape[-1])
    return torch.minimum(check_mask(mask, side).cpu(), check_mask(head, side))


def _weight(place: _Place, region: _Place, frame: Tensor, shape: Tensor, feather: float) -> tuple[Tensor, Tensor]:
    """Return the mask of a crop over a region of the frame, and the region's positions in that crop."""
    position = _unit_position(place.matrix, region, frame.device)
    weight = ramp(0.5 - 0.5 * position[0].abs().amax(-1), feather)
    sampled = F.grid_sample(shape.to(frame)[None, None], position, align_corners=False, padding_mode="border")[0, 0]
    return torch.minimum(weight, sampled), position


def _share(position: Tensor, other: _Place, region: _Place, frame: Tensor, shape: Tensor, feather: float) -> Tensor:
    """Return how much a face keeps of a region beside another: 1 where it is nearer, 0 where the other is."""
    presence, there = _weight(other, region, frame, shape, feather)
    own = 0.5 * torch.linalg.vector_norm(position[0], dim=-1)
    theirs = 0.5 * torch.linalg.vector_norm(there[0], dim=-1)
    nearer = (0.5 + (theirs - own) / _BAND).clamp(0, 1)
    return 1 - presence * (1 - nearer)


def _kept(frame: Tensor, crop: FaceCrop, scale: float, worth: float | None) -> float:
    """Return how much of its own fine detail a face keeps under a restored one.

    Args:
        frame: where it goes.
        crop: where it lies there.
        scale: pixels of the restored face per pixel of the picture it was cut from: enlarged since, that holds no more.
        worth: of the detail, where somebody knows.
    """
    return 0.0 if scale >= NONE else share_kept(worth_in(frame, crop) if worth is None else worth, scale)


def _entered(frame: Tensor, crop: FaceCrop, size: int) -> Tensor:
    """Return the face of the frame as a restorer of `size` sees it, (3, size, size).

    It is cut out anew, as what a crop was cut from may have been of another size, or have been worked on since.
    """
    return sample(frame, crop.matrix * (size / crop.size), size).clamp_(0, 1)


def _shrink(face: Tensor, crop: FaceCrop) -> Tensor:
    """Return the restored crop, shrunk with an antialias where sampling it in the frame would skip pixels."""
    side = face.shape[-1]
    scale = crop.scale * side / crop.size
    if scale <= _KEEP_SCALE:
        return face
    small = max(math.ceil(side / scale * _KEEP_SCALE), 1)
    return F.interpolate(face[None], (small, small), mode="bicubic", antialias=True, align_corners=False)[0]
