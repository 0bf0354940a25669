"""Overlapping patches: what a network says of each, put together without seams (LPIP-Diff Algorithm 2)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

import torch
from torch import Tensor

from ..errors import SettingsError

Fusion = Literal["mean", "median"]
"""How the estimates of one pixel are put together."""

Place = tuple[int, int, int]
"""Row of the batch, and the patch's upper left pixel as (top, left)."""


def positions(length: int, patch: int, stride: int) -> list[int]:
    """Return where patches start along one side: every `stride` pixels, the last one flush with the end.

    All pixels are covered.

    Raises:
        SettingsError: the side is shorter than a patch, or the stride would leave gaps.
    """
    if not 1 <= stride <= patch <= length:
        raise SettingsError(
            "Cannot lay patches over this picture",
            found=f"found a side of {length}, patches of {patch} and a stride of {stride} pixels; "
            "expected 1 <= stride <= patch <= side",
            kept="Nothing was changed",
            todo="Take smaller patches or a larger picture, and a stride of at most the patch",
        )
    return [*range(0, length - patch, stride), length - patch]


def fused(
    call: Callable[..., Tensor],
    x: Tensor,
    conditions: Sequence[Tensor],
    patch: int,
    stride: int,
    *,
    batch: int,
    how: Fusion = "mean",
) -> Tensor:
    """Return what a network says of overlapping patches, put together.

    Shapes: x and conditions (B, any, H, W); patches (n, any, patch, patch) with n <= batch; returns (B, C, H, W) in
    the dtype of x, C being what `call` gives.

    Memory: beside one group of patches, the result and a counter ("mean"), or as many results as patches overlap in
    a pixel ("median": 4 where the stride is half a patch and divides the sides, up to 9 where it does not).

    Args:
        call: (patches of x, patches of each condition) -> what it says, (n, C, patch, patch).
        x: what to cut up.
        conditions: cut up alike.
        patch: side of the patches.
        stride: pixels from one to the next.
        batch: how many patches to give at once.
        how: mean or median of the estimates of each pixel; the median of an even number is the mean of the middle
            two.

    Raises:
        SettingsError: sizes that do not fit, or no patches at once.
    """
    rows, columns = (positions(side, patch, stride) for side in x.shape[2:])
    if batch < 1 or how not in ("mean", "median"):
        raise SettingsError(
            "Cannot fuse patches in this way",
            found=f"found {batch} patches at once and fusion {how!r}; expected 1 or more, and mean or median",
            kept="Nothing was changed",
            todo="Give at least one patch at once, and one of the two fusions",
        )
    if not len(x):
        return x.clone()
    kept = _Mean(x) if how == "mean" else _Median(x, patch, rows, columns)
    places = [(face, top, left) for face in range(len(x)) for top in rows for left in columns]
    for first in range(0, len(places), batch):
        group = places[first : first + batch]
        made = call(*(_cut(whole, group, patch) for whole in (x, *conditions))).to(x.dtype)
        for place, piece in zip(group, made, strict=True):
            kept.add(place, piece)
    return kept.result()


def _cut(whole: Tensor, places: Sequence[Place], patch: int) -> Tensor:
    return torch.stack([whole[face, :, top : top + patch, left : left + patch] for face, top, left in places])


class _Mean:
    """A running mean: no count is ever 0, and estimates that agree stay exactly what they are."""

    def __init__(self, x: Tensor) -> None:
        self.x = x
        self.count = x.new_zeros(len(x), 1, *x.shape[2:])
        self.mean = x.new_zeros(0)

    def add(self, place: Place, piece: Tensor) -> None:
        if not len(self.mean):
            self.mean = self.x.new_zeros(len(self.x), len(piece), *self.x.shape[2:])
        face, top, left = place
        here = (face, slice(None), slice(top, top + piece.shape[1]), slice(left, left + piece.shape[2]))
        count, mean = self.count[here].add_(1), self.mean[here]
        mean.add_((piece - mean) / count)

    def result(self) -> Tensor:
        return self.mean


class _Median:
    """All estimates of every pixel, in as many layers as patches overlap.

    The patches over a pixel are neighbours, so that their numbers along a side, counted round the largest overlap,
    differ: they are the layer.
    """

    def __init__(self, x: Tensor, patch: int, rows: Sequence[int], columns: Sequence[int]) -> None:
        self.x = x
        self.down, self.across = _overlap(rows, patch), _overlap(columns, patch)
        self.row = {top: index % self.down for index, top in enumerate(rows)}
        self.column = {left: index % self.across for index, left in enumerate(columns)}
        self.count = x.new_zeros(1, 1, *x.shape[2:], dtype=torch.int64)
        for top in rows:
            for left in columns:
                self.count[..., top : top + patch, left : left + patch] += 1
        self.layers = x.new_zeros(0)

    def add(self, place: Place, piece: Tensor) -> None:
        if not len(self.layers):
            size = (self.down * self.across, len(self.x), len(piece), *self.x.shape[2:])
            self.layers = self.x.new_full(size, torch.inf)  # infinity is sorted behind the estimates
        face, top, left = place
        layer = self.row[top] * self.across + self.column[left]
        self.layers[layer, face, :, top : top + piece.shape[1], left : left + piece.shape[2]] = piece

    def result(self) -> Tensor:
        made = torch.empty_like(self.layers[0])
        for face in range(len(self.x)):
            for top in range(0, made.shape[2], 64):  # in bands: sorting needs thrice the memory of what it sorts
                band = slice(top, top + 64)
                made[face, :, band] = _median(self.layers[:, face, :, band], self.count[:, :, band])
        return made


def _median(layers: Tensor, count: Tensor) -> Tensor:
    """Return the median of the `count` estimates of each value; layers behind them are infinite."""
    broken = layers.isnan().any(0)  # which a median would hide
    layers = layers.sort(0).values
    count = count.expand(1, *layers.shape[1:])
    low, high = (layers.gather(0, middle)[0] for middle in ((count - 1) // 2, count // 2))
    return torch.where(broken, torch.nan, torch.where(low == high, low, (low + high) / 2))


def _overlap(starts: Sequence[int], patch: int) -> int:
    """Return how many patches lie over one pixel at most; they start where one of them does."""
    return max(sum(start <= other < start + patch for other in starts) for start in starts)
