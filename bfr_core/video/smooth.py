"""How a face moves, without the tremble of its detector: the alignment of a track, smoothed in time.

A crop that trembles makes the restorer paint a trembling face, and one that lags behind the head makes it swim, so the
width of the smoothing follows the motion: wide where the face is still, narrow where it moves.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from ..faces.align import FFHQ_TEMPLATE

SIDE = 512
"""Of the crop that the matrices of a track lead to."""

_WIDTHS = (0.07, 0.1, 0.14, 0.2, 0.28, 0.4, 0.56, 0.8)
"""Half widths of the window in seconds, from which each moment gets its own."""
_LEAST_SAMPLES = 4
"""In a window; three would be met exactly, and say nothing of noise."""
_NEAR_S = 0.4
"""Half width in seconds of the stretch whose motion decides on the width at its middle."""
_LEAST_NOISE = 2e-4
"""Of the values in face units: exact points, as of a still picture, leave the noise level at zero."""
_USUAL_NOISE, _USUAL_COUNT = 6e-3, 6
"""Noise that a track is taken to have before it was looked at, and how many samples that counts for."""
_ASTRAY, _LEAST_ASTRAY = 6.0, 0.03
"""A sample so many times the noise, and so many face units, off those around it is a bad detection."""
_AT_ONCE = 400_000
"""Samples times neighbours worked on together, so that a long track needs little more memory than a short one."""


def crop_matrices(points: np.ndarray) -> np.ndarray:
    """Return the similarity from each frame's face to the FFHQ crop of 512 px; see `faces.align.similarity`.

    Shapes: points (n, 5, 2); returns (n, 2, 3) float64.
    """
    points = np.asarray(points, np.float64)
    mean, goal = points.mean(1), FFHQ_TEMPLATE.mean(0)
    x, y = np.moveaxis(points - mean[:, None], 2, 0)
    u, v = (FFHQ_TEMPLATE - goal).T
    spread = np.maximum((x * x + y * y).sum(1), 1e-9)
    a, b = (x * u + y * v).sum(1) / spread, (x * v - y * u).sum(1) / spread
    offset = goal - np.stack([a * mean[:, 0] - b * mean[:, 1], b * mean[:, 0] + a * mean[:, 1]], 1)
    return _matrices(a, b, offset)


def smooth_matrices(times: np.ndarray, matrices: np.ndarray, observed: np.ndarray) -> np.ndarray:
    """Return the matrices of one track without the noise of its detections, at the same times.

    The crop's centre, the logarithm of its size and its angle are each fitted by a quadratic around every moment, with
    tricube weights in time, so that uneven frame times do no harm and nothing lags. The width of the window is the one
    of least expected error: its variance, known from the noise of the samples, and the square of its bias, estimated
    by how far its fits in the stretch around lie from those of the narrowest window, more than noise explains.
    Filled frames have no say, nor has a single sample far off those around it.

    Shapes: times (n,) seconds, ascending; matrices (n, 2, 3) similarities of the frame to the crop of 512 px;
    observed (n,) bool; returns (n, 2, 3) float64.
    Source: local regression (Cleveland, 1979) with an unbiased estimate of the risk (Mallows, 1973) taken locally.
    """
    values, unit = _values(matrices)
    times, observed = np.asarray(times, np.float64), np.array(observed, bool)
    if observed.sum() < 5:
        return np.array(matrices, np.float64)
    noise = _noise(times[observed], values[observed])
    observed[observed] = ~_astray(values[observed], noise)
    return _from_values(_smooth(times, values, observed, noise), unit)


def _matrices(a: np.ndarray, b: np.ndarray, offset: np.ndarray) -> np.ndarray:
    return np.stack([np.stack([a, -b, offset[:, 0]], 1), np.stack([b, a, offset[:, 1]], 1)], 1)


def _values(matrices: np.ndarray) -> tuple[np.ndarray, float]:
    """Return the crop's centre, log size and angle, all in face units, and the unit: the median size in pixels.

    Half a crop's side is the unit of the angle and of the log size too: a turn by r moves the crop's edge by r half
    sides, as much as a shift by r units.
    """
    a, b = matrices[:, 0, 0], matrices[:, 1, 0]
    square = a * a + b * b
    x, y = SIDE / 2 - matrices[:, 0, 2], SIDE / 2 - matrices[:, 1, 2]
    centre = np.stack([(a * x + b * y) / square, (a * y - b * x) / square], 1)
    log_size = np.log(SIDE / 2) - 0.5 * np.log(square)
    unit = float(np.exp(np.median(log_size)))
    return np.concatenate([centre / unit, log_size[:, None], np.unwrap(np.arctan2(b, a))[:, None]], 1), unit


def _from_values(values: np.ndarray, unit: float) -> np.ndarray:
    scale = SIDE / 2 / np.exp(values[:, 2])
    a, b = scale * np.cos(values[:, 3]), scale * np.sin(values[:, 3])
    x, y = values[:, 0] * unit, values[:, 1] * unit
    return _matrices(a, b, SIDE / 2 - np.stack([a * x - b * y, b * x + a * y], 1))


def _noise(times: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Return the standard deviation of the noise of each value, (4,).

    Fourth differences, divided for uneven times, have nothing of motion up to the third order in them; the median
    passes over single bad detections.
    """
    windows = np.lib.stride_tricks.sliding_window_view(times, 5)
    gaps = windows[:, :, None] - windows[:, None, :]
    gaps[:, range(5), range(5)] = 1.0
    # Relative to the span of the window: products of 4 gaps of microseconds would leave float64's range.
    gaps = gaps / np.maximum(windows[:, -1:] - windows[:, :1], 1e-9)[:, :, None]
    gaps[:, range(5), range(5)] = 1.0
    weights = 1 / gaps.prod(2)
    weights /= np.sqrt((weights**2).sum(1, keepdims=True))
    rows = np.lib.stride_tricks.sliding_window_view(values, 5, axis=0)
    differences = np.abs(np.einsum("nvk,nk->nv", rows, weights))
    level, count = np.median(differences, 0) / 0.6745, len(differences)
    level = np.sqrt((count * level**2 + _USUAL_COUNT * _USUAL_NOISE**2) / (count + _USUAL_COUNT))
    return np.maximum(level, _LEAST_NOISE)


def _astray(values: np.ndarray, noise: np.ndarray) -> np.ndarray:
    """Return which samples are single ones far off their neighbours, (n,) bool."""
    padded = np.pad(values, ((2, 2), (0, 0)), mode="edge")
    off = np.abs(values - np.median(np.lib.stride_tricks.sliding_window_view(padded, 5, axis=0), axis=2))
    # Where the neighbours are as far from each other, the face moves.
    apart = np.abs(padded[3:-1] - padded[1:-3])
    return np.any((off > np.maximum(_ASTRAY * noise, _LEAST_ASTRAY)) & (apart < off / 2), axis=1)


def _smooth(times: np.ndarray, values: np.ndarray, observed: np.ndarray, noise: np.ndarray) -> np.ndarray:
    n, widths = len(times), len(_WIDTHS)
    fits = np.empty((n, widths, values.shape[1]))
    variance, surplus = np.empty((n, widths)), np.empty((n, widths))
    for index, u, inside in _neighbours(times, _WIDTHS[-1]):
        rows = slice(index.start, index.stop)
        base = np.zeros_like(u)
        found = np.zeros(len(u), bool)
        columns = index.columns
        for number, width in enumerate(_WIDTHS):
            smoother, enough = _smoother(u / width, inside & observed[columns])
            base = np.where((enough & ~found)[:, None], smoother, base)
            found |= enough
            fits[rows, number] = np.einsum("nk,nkc->nc", smoother, values[columns])
            variance[rows, number] = np.where(enough, (smoother**2).sum(1), np.inf)
            surplus[rows, number] = ((smoother - base) ** 2).sum(1)
        # Far from all samples nothing is better than what was filled in.
        fits[rows][~found] = values[rows][~found, None]
        variance[rows][~found] = surplus[rows][~found] = 0.0
    usable = np.isfinite(variance)
    narrowest = fits[np.arange(n), usable.argmax(1)]
    fits = np.where(usable[:, :, None], fits, narrowest[:, None])
    return _blend(fits, _choose(times, fits, variance, surplus, noise))


@dataclass(frozen=True, slots=True)
class _Columns:
    """Which samples a part of the work is about, and their neighbours."""

    start: int
    stop: int
    columns: np.ndarray
    """(stop - start, k) indices."""


def _neighbours(times: np.ndarray, reach: float) -> Iterator[tuple[_Columns, np.ndarray, np.ndarray]]:
    """Yield parts of the samples with all neighbours nearer than `reach` seconds.

    Yields:
        The columns, their distance in time (n, k), and which of them are neighbours and not padding (n, k).
    """
    first = np.searchsorted(times, times - reach, "right")
    last = np.searchsorted(times, times + reach, "left")
    span = int((last - first).max())
    step = max(_AT_ONCE // span, 1)
    for start in range(0, len(times), step):
        stop = min(start + step, len(times))
        columns = first[start:stop, None] + np.arange(span)
        inside = columns < last[start:stop, None]
        columns = np.minimum(columns, len(times) - 1)
        yield _Columns(start, stop, columns), times[columns] - times[start:stop, None], inside


def _smoother(u: np.ndarray, inside: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the weights that neighbours have in a quadratic fit around each sample.

    Shapes: u (n, k) distance in half widths of the window, inside (n, k) bool; returns the weights (n, k), 0 where
    too few samples are in the window, and (n,) bool whether there are enough.
    """
    weight = np.where(inside, np.clip(1 - np.abs(u) ** 3, 0, 1) ** 3, 0.0)
    enough = (weight > 1e-3).sum(1) >= _LEAST_SAMPLES
    powers = np.stack([np.ones_like(u), u, u * u], 2)
    moments = np.einsum("nk,nki,nkj->nij", weight, powers, powers)
    moments += np.eye(3) * np.where(enough, 1e-9, 1.0)[:, None, None]
    row = np.linalg.solve(moments, np.broadcast_to(np.array([[1.0], [0.0], [0.0]]), (len(u), 3, 1)))[:, :, 0]
    smoother = weight * np.einsum("nki,ni->nk", powers, row)
    # A quadratic that reaches far beyond its samples amplifies their noise.
    enough &= (smoother**2).sum(1) < 2
    return np.where(enough[:, None], smoother, 0.0), enough


def _choose(
    times: np.ndarray, fits: np.ndarray, variance: np.ndarray, surplus: np.ndarray, noise: np.ndarray
) -> np.ndarray:
    """Return the number of the best width for each sample and value, (n, channels).

    Args:
        times: (n,).
        fits: (n, widths, channels); of windows with too few samples that of the narrowest with enough.
        variance: (n, widths) of a fit, for noise of 1; inf where there were too few samples.
        surplus: (n, widths) variance of its difference from the fit of the narrowest window with samples enough.
        noise: (channels,).
    """
    apart = (fits - fits[:, :1]) ** 2 - surplus[:, :, None] * noise**2
    chosen = np.empty((len(times), fits.shape[2]))
    for index, u, inside in _neighbours(times, _NEAR_S):
        rows = slice(index.start, index.stop)
        weight = np.where(inside, (1 - (np.abs(u) / _NEAR_S) ** 3) ** 3, 0.0)
        weight /= weight.sum(1, keepdims=True)
        bias = np.einsum("nk,nkwc->nwc", weight, apart[index.columns])
        # A wider window that seems to have less bias than a narrower one only seems so.
        bias = np.maximum.accumulate(np.maximum(bias, 0.0), axis=1)
        risk = bias + variance[rows, :, None] * noise**2
        chosen[rows] = risk.argmin(1)
    return chosen


def _blend(fits: np.ndarray, chosen: np.ndarray) -> np.ndarray:
    """Return the fits of the chosen widths, (n, channels), the width changing gradually from sample to sample."""
    padded = np.pad(chosen, ((2, 2), (0, 0)), mode="edge")
    steady = sum(padded[k : k + len(chosen)] * share for k, share in enumerate((1 / 9, 2 / 9, 3 / 9, 2 / 9, 1 / 9)))
    # Narrower than chosen is never wrong, wider is.
    steady = np.minimum(np.asarray(steady), chosen)
    below = np.floor(steady).astype(int)
    above = np.minimum(below + 1, fits.shape[1] - 1)
    rows, columns = np.indices(chosen.shape)
    share = steady - below
    return (1 - share) * fits[rows, below, columns] + share * fits[rows, above, columns]
