"""The degradation chain against an independent evaluation with scipy and Pillow."""

from __future__ import annotations

import io

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from scipy import ndimage
from skimage.data import astronaut

from bfr_core.degrade.chain import DegradeParams, degrade, draw, fixed, gaussian_kernel
from bfr_core.degrade.presets import PRESETS, get_preset
from bfr_core.errors import InputMediaError, SettingsError

FACE = np.ascontiguousarray(astronaut()[0:200, 120:320])


def bilinear(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """Plain bilinear resize, pixel centres at half, edges repeated, no antialias."""
    y = np.clip((np.arange(height) + 0.5) * image.shape[0] / height - 0.5, 0, image.shape[0] - 1)
    x = np.clip((np.arange(width) + 0.5) * image.shape[1] / width - 0.5, 0, image.shape[1] - 1)
    grid = np.meshgrid(y, x, indexing="ij")
    return np.stack([ndimage.map_coordinates(image[..., c], grid, order=1, mode="nearest") for c in range(3)], -1)


def by_hand(image: np.ndarray, p: DegradeParams) -> np.ndarray:
    out = image.astype(np.float64) / 255
    axis = np.arange(p.kernel) - p.kernel // 2
    x, y = np.meshgrid(axis, axis)
    turn = np.array([[np.cos(p.theta), -np.sin(p.theta)], [np.sin(p.theta), np.cos(p.theta)]])
    inverse = np.linalg.inv(turn @ np.diag([p.sigma_x**2, p.sigma_y**2]) @ turn.T)
    at = np.stack([x, y], -1)
    kernel = np.exp(-0.5 * np.einsum("...i,ij,...j->...", at, inverse, at))
    kernel /= kernel.sum()
    out = np.stack([ndimage.correlate(out[..., c], kernel, mode="mirror") for c in range(3)], -1)
    out = bilinear(out, int(image.shape[0] // p.downscale), int(image.shape[1] // p.downscale))
    noise = np.random.Generator(np.random.PCG64(p.noise_seed)).standard_normal(out.shape, dtype=np.float32)
    out = np.clip(out + noise * p.noise_sigma / 255, 0, 1)
    file = io.BytesIO()
    Image.fromarray(np.round(out * 255).astype(np.uint8)).save(file, "JPEG", quality=p.jpeg_quality, subsampling=2)
    out = np.asarray(Image.open(file)).astype(np.float64) / 255
    return bilinear(out, *image.shape[:2]) * 255


@pytest.mark.parametrize("seed", range(8))
def test_chain_agrees_with_an_independent_one(seed):
    params = draw(get_preset("restoreformer"), seed)
    ours = degrade(FACE, params).astype(np.float64)
    truth = by_hand(FACE, params)
    # A level that falls on a rounding edge before JPEG can move an 8x8 block by a level or two, rarely.
    assert np.mean(np.abs(ours - truth) > 1.01) < 0.02
    assert np.abs(ours.mean((0, 1)) - truth.mean((0, 1))).max() < 0.2  # channel order: red stays red


@given(st.sampled_from(sorted(PRESETS)), st.integers(0, 2**63 - 1))
@settings(max_examples=60, deadline=None)
def test_draws_stay_in_their_ranges_and_repeat(name, seed):
    preset = get_preset(name)
    params = draw(preset, seed)
    assert params == draw(preset, seed)
    assert preset.blur_sigma[0] <= min(params.sigma_x, params.sigma_y) <= max(params.sigma_x, params.sigma_y)
    assert max(params.sigma_x, params.sigma_y) <= preset.blur_sigma[1] and params.kernel in preset.kernel
    assert preset.downscale[0] <= params.downscale <= preset.downscale[1]
    assert preset.jpeg_quality[0] <= params.jpeg_quality <= preset.jpeg_quality[1]
    plain = draw(preset.without_colour(), seed)
    assert not plain.gray and not any(plain.colour_shift) and plain.sigma_x == params.sigma_x
    assert plain.jpeg_quality == params.jpeg_quality and plain.noise_seed == params.noise_seed


def test_kernel_is_normalised_and_symmetric():
    kernel = gaussian_kernel(41, 3.0, 7.0, 0.4)
    assert abs(kernel.sum() - 1) < 1e-5 and np.allclose(kernel, kernel[::-1, ::-1])


@pytest.mark.parametrize("shape", [(1, 1), (3, 700), (64, 33)])
def test_odd_sizes_come_back_as_they_were(shape):
    image = np.random.default_rng(0).integers(0, 256, (*shape, 3), dtype=np.uint8)
    assert degrade(image, draw(get_preset("gfpgan"), 3)).shape == image.shape


def test_colour_parts_do_what_they_say():
    base = fixed(1)
    gray = degrade(FACE, DegradeParams(**{**base.to_dict(), "gray": True}))
    assert (gray[..., 0] == gray[..., 1]).all()
    shifted = degrade(FACE, DegradeParams(**{**base.to_dict(), "colour_shift": (20.0, 0.0, 0.0)}))
    assert shifted[..., 0].mean() > FACE[..., 0].mean() + 10 and np.array_equal(shifted[..., 1], FACE[..., 1])


def test_bad_input_is_refused():
    with pytest.raises(InputMediaError, match="uint8"):
        degrade(FACE.astype(np.float32), fixed(2))
    with pytest.raises(SettingsError, match="at least 1"):
        fixed(0.5)
    with pytest.raises(SettingsError, match="gfpgan"):
        get_preset("nothing")
