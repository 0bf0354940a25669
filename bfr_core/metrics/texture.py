"""What sharpness alone would reward: noise where the truth is flat, and the grid of a network that folds its maps."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from ..errors import InputMediaError
from .fidelity import require_pair

PERIODS = (2, 4, 8)
"""Sides of the squares of pixels that networks fold into channels: the periods of their grids."""
SMALLEST_WOVEN = 64
"""Side of the squares that `weave` looks at, and so of the smallest picture that it can measure."""
_LUMA = (0.299, 0.587, 0.114)
_BLOCK = 8
"""Side of the squares that are flat or not."""
_FLAT = 4.0
"""Standard deviation, in 8-bit levels, up to which a square of the truth is flat: backdrops, cheeks and foreheads are,
hair and eyes are not."""
_LEAST_FLAT = 0.25
"""Share of the squares that always counts as flat, the least varied ones."""
_ROUNDING = 1 / 12
"""Variance of what rounding to 8-bit levels leaves in any picture."""
_NEAR = (2, 3, 4)
"""Distances, in bins, of the neighbours of a line. The window spreads a line over the bins beside it only."""


def grain(image: Tensor, truth: Tensor) -> Tensor:
    """Return the high-frequency energy of flat regions relative to the truth's: 1 is as grainy as the truth.

        grain = (E(image) + 1/12) / (E(truth) + 1/12),   E(x) = mean over flat pixels of (N * x)^2,
        N = 1/6 [[1, -2, 1], [-2, 4, -2], [1, -2, 1]]

    on the luma in 8-bit levels. N is blind to constants, slopes and edges along rows or columns, and of unit gain for
    white noise, so E is the noise's variance. A square of 8 x 8 pixels is flat where the truth's standard deviation
    in it is at most 4 levels; where fewer than a quarter of the squares are, the least varied quarter is. 1/12, the
    variance of rounding to 8 bit, keeps the quotient finite.

    Below 1 a picture is smoother than its truth, as wax is; noise of a standard deviation of 3 levels where the truth
    has none gives 109.

    Shapes: image, truth (B, 3, H, W) in [0, 1], of at least 16 pixels a side; returns (B,).
    Source: the operator is Immerkær's, "Fast noise variance estimation", 1996, Eq. 3; the quotient is ours.

    Raises:
        InputMediaError: the shapes differ, or a side is too short.
    """
    require_pair(image, truth)
    _require_side(truth, 2 * _BLOCK, "grain")
    height, width = (side // _BLOCK * _BLOCK for side in truth.shape[-2:])
    pictures = [_luma(x)[..., :height, :width] for x in (image, truth)]
    spread = _spread(pictures[1]).flatten(1)
    least = spread.sort(1).values[:, math.ceil(_LEAST_FLAT * spread.shape[1]) - 1]
    flat = (spread <= least.clamp(min=_FLAT)[:, None]).to(truth.dtype)
    found, true = ((_energy(x).flatten(1) * flat).sum(1) / flat.sum(1) for x in pictures)
    return (found + _ROUNDING) / (true + _ROUNDING)


def weave(image: Tensor) -> Tensor:
    """Return how far spectral lines of a grid of 2, 4 or 8 pixels stand out of what is beside them: 1 is not at all.

        weave = max over p of mean over the lines (u, v) of period p of P(u, v) / B(u, v)
        lines of period p: (1/p, 0), (0, 1/p), (1/p, 1/p), (1/p, -1/p), of which the last two are one for p = 2

    P is the power spectrum of the luma in 8-bit levels, the mean over squares of 64 x 64 pixels under a Hann window
    that overlap by half. To each square's the power of rounding to 8 bit is added, so that the quotient is finite, and
    it is divided by its own geometric mean: a grid shows on skin, and would be lost among the edges of hair. B is what
    P would be without a line: the geometric mean of the power 2, 3 and 4 bins before and after on the ray from the
    origin, each pair interpolated in log frequency, in which spectra of pictures are nearly straight.

    Photographs of 512 px read about 1.1 and 1.6 at most, white noise 1.03 (1.1 at 256 px), as the largest of three
    means of little spread. cos(2 pi x / p) of amplitude a in white noise of variance s^2 adds a^2 64^2 / (36 (s^2 +
    1/12)) at p = 4 and 8, 16/3 times that at p = 2.

    JPEG's own blocks are a grid of 8 pixels: read it beside the truth's and the input's.

    Shapes: image (B, 3, H, W) in [0, 1], of at least 64 pixels a side; returns (B,).
    Source: ours; the averaged spectrum is Welch's.

    Raises:
        InputMediaError: a side is too short.
    """
    _require_side(image, SMALLEST_WOVEN, "weave")
    power = _spectrum(image)
    return torch.stack([_stands_out(power, period) for period in PERIODS]).amax(0)


def _require_side(image: Tensor, side: int, what: str) -> None:
    if image.ndim != 4 or image.shape[1] != 3 or min(image.shape[-2:]) < side:
        raise InputMediaError(
            f"Cannot measure {what}",
            found=f"found shape {tuple(image.shape)}; expected (B, 3, H, W) of at least {side} pixels a side",
            kept="The picture is unchanged",
            todo="Measure a larger picture",
        )


def _luma(image: Tensor) -> Tensor:
    """Return the luma in 8-bit levels, (B, 1, H, W)."""
    weights = torch.tensor(_LUMA, dtype=image.dtype, device=image.device).view(1, 3, 1, 1)
    return 255.0 * (image * weights).sum(1, keepdim=True)


def _spread(luma: Tensor) -> Tensor:
    """Return the standard deviation in each square, (B, 1, H / 8, W / 8)."""
    squares = luma.unfold(2, _BLOCK, _BLOCK).unfold(3, _BLOCK, _BLOCK)
    return squares.flatten(4).std(-1, correction=0)


def _energy(luma: Tensor) -> Tensor:
    """Return the mean of (N * x)^2 over each square, (B, 1, H / 8, W / 8)."""
    row = torch.tensor([1.0, -2.0, 1.0], dtype=luma.dtype, device=luma.device)
    mask = (row[:, None] * row / 6).view(1, 1, 3, 3)
    return F.avg_pool2d(F.conv2d(F.pad(luma, (1, 1, 1, 1), mode="reflect"), mask).square(), _BLOCK)


def _spectrum(image: Tensor) -> Tensor:
    """Return the averaged power spectrum of squares that weigh alike, (B, 64, 64)."""
    side = SMALLEST_WOVEN
    squares = _luma(image)[:, 0].unfold(1, side, side // 2).unfold(2, side, side // 2).flatten(1, 2)
    window = torch.hann_window(side, dtype=image.dtype, device=image.device)
    window = window[:, None] * window
    power = torch.fft.fft2((squares - squares.mean((2, 3), keepdim=True)) * window).abs().square()
    power = power + _ROUNDING * window.square().sum()
    return (power / power.log().mean((2, 3), keepdim=True).exp()).mean(1)


def _stands_out(power: Tensor, period: int) -> Tensor:
    """Return the mean quotient of the lines of one period, (B,)."""
    side = power.shape[-1]
    step = side // period
    directions = ((1, 0), (0, 1), (1, 1), (1, -1))[: 3 if period == 2 else 4]
    quotients = []
    for u, v in directions:
        beside = power.new_zeros(len(power))
        for distance in _NEAR:
            low, high = step - distance, step + distance
            # Past half the sampling rate the spectrum comes back: both neighbours are the same there.
            share = 0.5 if 2 * step == side else math.log(step / low) / math.log(high / low)
            for at, weight in ((low, 1 - share), (high, share)):
                beside = beside + weight * power[:, (u * at) % side, (v * at) % side].log()
        quotients.append(power[:, (u * step) % side, (v * step) % side] / (beside / len(_NEAR)).exp())
    return torch.stack(quotients).mean(0)
