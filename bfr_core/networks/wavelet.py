"""The orthonormal Haar wavelet transform of maps, its inverse, and the exchange of low frequencies by it.

Source: PLTrans Eq. 1. It takes its transform from WaveFill (arXiv:2107.11027), whose wavelets are Haar's. Sums and
differences of two by two positions, halved, are what its filter bank computes, and no border needs padding.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def dwt(x: Tensor) -> tuple[Tensor, Tensor]:
    """Return one level of the transform: the low frequencies, and three bands of high ones. Energy is kept.

    Shapes: x (B, C, H, W), H and W even; returns (B, C, H/2, W/2) and (B, C, 3, H/2, W/2). The bands are differences
    of columns, of rows, and of both; the first of the two counts as positive.
    """
    a, b, c, d = F.pixel_unshuffle(x, 2).unflatten(1, (-1, 4)).unbind(2)
    left, right, rising = a + c, b + d, (a - c, b - d)
    high = torch.stack([left - right, rising[0] + rising[1], rising[0] - rising[1]], 2)
    return (left + right) / 2, high / 2


def idwt(low: Tensor, high: Tensor) -> Tensor:
    """Undo `dwt`. Shapes: low (B, C, h, w), high (B, C, 3, h, w); returns (B, C, 2 h, 2 w)."""
    columns, rows, both = high.unbind(2)
    top, bottom, rising, falling = low + rows, low - rows, columns + both, columns - both
    parts = torch.stack([top + rising, top - rising, bottom + falling, bottom - falling], 2)
    return F.pixel_shuffle(parts.flatten(1, 2), 2) / 2


def exchange_low(low_of: Tensor, high_of: Tensor, levels: int) -> Tensor:
    """Return phi'(phi_lf(low_of), phi_hf(high_of)) (Eq. 1): the low frequencies of one map, all else of the other.

    Args:
        low_of: (B, C, H, W); its low frequencies are the means of squares of 2^levels positions.
        high_of: of the same shape.
        levels: J, at least 1; 2^J divides H and W.
    """
    # Haar's low band is 2^levels times the mean of each square: one pass, where the bank would make all bands of it.
    return _with_low(F.avg_pool2d(low_of, 2**levels) * 2**levels, high_of, levels)


def _with_low(low: Tensor, high_of: Tensor, levels: int) -> Tensor:
    other, high = dwt(high_of)
    return idwt(low if levels == 1 else _with_low(low, other, levels - 1), high)
