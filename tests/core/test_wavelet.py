"""The Haar transform: exact, orthonormal, and equal to a filter bank written by itself in NumPy."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from wavelet_oracle import HIGH, LOW, exchanged

from bfr_core.networks.wavelet import dwt, exchange_low, idwt


def filtered(x: np.ndarray, taps: np.ndarray, axis: int) -> np.ndarray:
    """Correlate with two taps along an axis and keep every second place."""
    even, odd = (np.take(x, range(first, x.shape[axis], 2), axis) for first in (0, 1))
    return taps[0] * even + taps[1] * odd


def bank(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the low band, and those of columns, rows and both, of (..., H, W)."""
    rows_low, rows_high = filtered(x, LOW, -2), filtered(x, HIGH, -2)
    return filtered(rows_low, LOW, -1), np.stack(
        [filtered(rows_low, HIGH, -1), filtered(rows_high, LOW, -1), filtered(rows_high, HIGH, -1)], 2
    )


sizes = st.tuples(st.integers(1, 2), st.integers(1, 3), st.integers(1, 6), st.integers(1, 6))


def drawn(batch: int, channels: int, height: int, width: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(batch, channels, height, width, generator=generator, dtype=torch.float64)


@settings(max_examples=40, deadline=None)
@given(sizes)
def test_it_is_a_filter_bank_keeps_energy_and_comes_back(size):
    batch, channels, h, w = size
    x = drawn(batch, channels, 2 * h, 2 * w)
    low, high = dwt(x)
    wanted_low, wanted_high = bank(x.numpy())
    np.testing.assert_allclose(low.numpy(), wanted_low, atol=1e-14)
    np.testing.assert_allclose(high.numpy(), wanted_high, atol=1e-14)
    assert torch.isclose(low.square().sum() + high.square().sum(), x.square().sum(), rtol=1e-13)
    torch.testing.assert_close(idwt(low, high), x, atol=1e-14, rtol=0)


def test_it_comes_back_to_float_rounding():
    x = drawn(2, 16, 64, 64).float()
    assert (idwt(*dwt(x)) - x).abs().max() <= 4 * torch.finfo(torch.float32).eps * x.abs().max()
    whole = torch.randint(-64, 64, (1, 3, 8, 8)).float()
    assert torch.equal(idwt(*dwt(whole)), whole), "small whole numbers have no rounding at all"


@pytest.mark.parametrize("levels", [1, 2, 3])
def test_eq1_takes_low_frequencies_of_one_and_all_else_of_the_other(levels):
    a, b = drawn(1, 1, 16, 24, seed=1), drawn(1, 1, 16, 24, seed=2)
    found = exchange_low(a, b, levels)
    np.testing.assert_allclose(found[0, 0].numpy(), exchanged(a[0, 0].numpy(), b[0, 0].numpy(), levels), atol=1e-13)
    # What low frequencies are: the means of squares.
    side = 2**levels
    means = torch.nn.functional.avg_pool2d
    torch.testing.assert_close(means(found, side), means(a, side))
    torch.testing.assert_close(found - means(found, side).repeat_interleave(side, 2).repeat_interleave(side, 3),
                               b - means(b, side).repeat_interleave(side, 2).repeat_interleave(side, 3))  # fmt: skip
    torch.testing.assert_close(exchange_low(b, b, levels), b)


def test_gradients_pass_it_whole():
    x = drawn(1, 2, 4, 4).requires_grad_(True)
    assert torch.autograd.gradcheck(lambda x: idwt(*dwt(x)), x)
