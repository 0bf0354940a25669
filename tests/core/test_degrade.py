"""The degradation chain against independent ones: numpy and OpenCV, scipy and Pillow."""

from __future__ import annotations

import io
import json
import math
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from scipy import ndimage
from scipy.fft import dctn, idctn
from skimage.color import hsv2rgb, rgb2hsv
from skimage.data import astronaut

from bfr_core.cli import main
from bfr_core.cli.degrade import file_seed
from bfr_core.degrade import blur
from bfr_core.degrade import jpeg as codecs
from bfr_core.degrade.chain import DegradeParams, degrade, degrade_batch, draw, fixed, gaussian_kernel, truth_of
from bfr_core.degrade.drawing import params_from_dict
from bfr_core.degrade.presets import MILD, PRESETS, SEVERITIES, Choice, describe, get_preset, override
from bfr_core.errors import InputMediaError, SettingsError
from bfr_core.media.pictures import read_picture

FACE = np.ascontiguousarray(astronaut()[0:200, 120:320])
ALL = PRESETS | SEVERITIES
PLAIN = DegradeParams(1, 0.0, 0.0, 0.0, 1.0, 0.0, 0, 0)
SIZES = [(96, 96), (97, 63), (40, 131)]
EARLIER = (6.2884451193862025, 6.2884451193862025, 2.961197251360823, 1959843384, 60)


def tensor(*images: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).float() / 255


def levels(faces: torch.Tensor) -> np.ndarray:
    return np.round(faces.detach().cpu().permute(0, 2, 3, 1).numpy() * 255).astype(int)


def kernel_by_hand(p: DegradeParams) -> np.ndarray:
    axis = np.arange(p.kernel) - p.kernel // 2
    at = np.stack(np.meshgrid(axis, axis), -1)
    turn = np.array([[np.cos(p.theta), -np.sin(p.theta)], [np.sin(p.theta), np.cos(p.theta)]])
    inverse = np.linalg.inv(turn @ np.diag([p.sigma_x**2, p.sigma_y**2]) @ turn.T)
    kernel = np.exp(-0.5 * np.einsum("...i,ij,...j->...", at, inverse, at))
    return kernel / kernel.sum()


def gray_by_hand(image: np.ndarray) -> np.ndarray:
    return np.repeat(cv2.cvtColor(image.astype(np.float32), cv2.COLOR_RGB2GRAY)[..., None], 3, 2)


def with_opencv(image: np.ndarray, p: DegradeParams) -> np.ndarray:
    """methods.md section 4, stage by stage, with OpenCV; returns 8-bit levels."""
    height, width = image.shape[:2]
    out = image.astype(np.float32) / 255
    if any(p.move):
        reach = max(map(abs, p.move))
        padded = np.pad(out, ((reach, reach), (reach, reach), (0, 0)), mode="symmetric")
        out = padded[reach - p.move[0] :, reach - p.move[1] :][:height, :width]
    if p.gray and p.gray_on == "clean":
        out = gray_by_hand(out)
    if p.sigma_x and p.sigma_y:
        out = cv2.filter2D(out, -1, kernel_by_hand(p), borderType=cv2.BORDER_REFLECT_101)
    out = out * p.haze + np.ones_like(out) * (1 - p.haze)
    small = max(int(width // p.downscale), 1), max(int(height // p.downscale), 1)
    out = cv2.resize(out, small, interpolation=cv2.INTER_LINEAR)
    noise = np.random.Generator(np.random.PCG64(p.noise_seed)).standard_normal(out.shape, dtype=np.float32)
    out = np.clip(out + noise * p.noise_sigma / 255, 0, 1)
    if p.jpeg_quality:
        bgr = np.round(cv2.cvtColor(out.astype(np.float32), cv2.COLOR_RGB2BGR) * 255).astype(np.uint8)
        data = cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, p.jpeg_quality])[1]
        out = cv2.cvtColor(cv2.imdecode(data, cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB).astype(np.float32) / 255
    out = cv2.resize(out.astype(np.float32), (width, height), interpolation=cv2.INTER_LINEAR)
    if any(p.colour_shift):
        out = np.clip(out + np.array(p.colour_shift) / 255, 0, 1)
    brightness, contrast, saturation, hue = p.jitter
    if p.jitter != (1.0, 1.0, 1.0, 0.0):
        out = np.clip(out * brightness, 0, 1)
        mean = gray_by_hand(out).mean()
        out = np.clip(contrast * out + (1 - contrast) * mean, 0, 1)
        out = np.clip(saturation * out + (1 - saturation) * gray_by_hand(out), 0, 1)
        hsv = rgb2hsv(out)
        hsv[..., 0] = (hsv[..., 0] + hue) % 1
        out = hsv2rgb(hsv)
    if p.gray and p.gray_on != "clean":
        out = gray_by_hand(out)
    return np.round(np.clip(out, 0, 1) * 255).astype(int)


# --- against independent chains ---------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ALL)
def test_every_preset_agrees_with_opencv(name):
    differing = []
    for seed, (height, width) in enumerate([*SIZES, SIZES[0], SIZES[2]]):
        image = np.ascontiguousarray(FACE[20 : 20 + height, 30 : 30 + width])
        params = draw(get_preset(name), seed)
        bare = replace(params, jpeg_quality=0)
        assert np.abs(levels(degrade_batch(tensor(image), [bare]).degraded)[0] - with_opencv(image, bare)).max() <= 1
        ours = levels(degrade_batch(tensor(image), [params]).degraded)[0]
        assert np.array_equal(ours, degrade(image, params))
        # A value that float32 puts on the other side of a rounding edge before JPEG moves its whole 8 x 8 block.
        differing.append(np.mean(np.abs(ours - with_opencv(image, params)) > 1))
    assert sorted(differing)[len(differing) // 2] == 0 and max(differing) < 0.02, differing


@pytest.mark.parametrize("change", [
    {"colour_shift": (12.0, -20.0, 3.5)}, {"jitter": (1.4, 0.6, 1.3, -0.08)}, {"jitter": (0.7, 1.5, 0.0, 0.1)},
    {"gray": True}, {"gray": True, "gray_on": "both"}, {"gray": True, "gray_on": "clean", "noise_sigma": 10.0},
    {"haze": 0.8}, {"move": (-7, 12)}, {"downscale": 0.8}, {"downscale": 0.8137, "jpeg_quality": 100},
    {"downscale": 500.0}, {"kernel": 41, "sigma_x": 0.1, "sigma_y": 9.7, "theta": 0.7}, {"kernel": 193, "sigma_x": 32.0,
    "sigma_y": 32.0, "downscale": 64.0},
])  # fmt: skip
def test_every_stage_agrees_with_opencv(change):
    image = np.ascontiguousarray(FACE[:93, :110])
    params = replace(PLAIN, **change)
    assert np.abs(levels(degrade_batch(tensor(image), [params]).degraded)[0] - with_opencv(image, params)).max() <= 1


def bilinear(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """Plain bilinear resize, pixel centres at half, edges repeated, no antialias."""
    y = np.clip((np.arange(height) + 0.5) * image.shape[0] / height - 0.5, 0, image.shape[0] - 1)
    x = np.clip((np.arange(width) + 0.5) * image.shape[1] / width - 0.5, 0, image.shape[1] - 1)
    grid = np.meshgrid(y, x, indexing="ij")
    return np.stack([ndimage.map_coordinates(image[..., c], grid, order=1, mode="nearest") for c in range(3)], -1)


@pytest.mark.parametrize("seed", range(4))
def test_chain_agrees_with_scipy_and_pillow_in_float64(seed):
    p = draw(get_preset("restoreformer"), seed)
    out = FACE.astype(np.float64) / 255
    out = np.stack([ndimage.correlate(out[..., c], kernel_by_hand(p), mode="mirror") for c in range(3)], -1)
    out = bilinear(out, int(FACE.shape[0] // p.downscale), int(FACE.shape[1] // p.downscale))
    noise = np.random.Generator(np.random.PCG64(p.noise_seed)).standard_normal(out.shape, dtype=np.float32)
    out = np.clip(out + noise * p.noise_sigma / 255, 0, 1)
    file = io.BytesIO()
    Image.fromarray(np.round(out * 255).astype(np.uint8)).save(file, "JPEG", quality=p.jpeg_quality, subsampling=2)
    truth = bilinear(np.asarray(Image.open(file)).astype(np.float64) / 255, *FACE.shape[:2]) * 255
    ours = degrade(FACE, p).astype(np.float64)
    assert np.mean(np.abs(ours - truth) > 1.01) < 0.02
    assert np.abs(ours.mean((0, 1)) - truth.mean((0, 1))).max() < 0.2  # channel order: red stays red


@given(st.floats(0.1, 15), st.floats(0.1, 15), st.floats(-4, 4), st.integers(1, 70), st.integers(1, 70))
@settings(max_examples=25, deadline=None)
def test_both_ways_to_blur_agree_with_opencv(sigma_x, sigma_y, theta, height, width):
    image = np.random.default_rng(1).random((61, 67, 3), dtype=np.float32)
    kernel = gaussian_kernel(41, sigma_x, sigma_y, theta)
    planes = torch.from_numpy(image).permute(2, 0, 1).contiguous()
    whole = cv2.filter2D(image.astype(np.float64), -1, kernel.astype(np.float64), borderType=cv2.BORDER_REFLECT_101)
    expected = cv2.resize(whole, (width, height), interpolation=cv2.INTER_LINEAR)
    for exact in (True, False):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(blur, "_FOURIER_COST", 1e9 if exact else 0)
            ours = blur.blur_and_shrink(planes, kernel, height, width).permute(1, 2, 0).numpy()
        assert np.abs(ours - expected).max() < 2e-5


def test_products_add_up_to_the_kernel():
    for sigma_y, terms in ((5.0, 1), (8.0, 12)):
        kernel = gaussian_kernel(41, 5.0, sigma_y, 0.4)
        split = blur.products(kernel)
        assert split is not None and len(split[0]) <= terms
        assert np.abs(np.einsum("ti,tj->ij", *split) - kernel).sum() < 1e-6
    assert blur.products(gaussian_kernel(41, 0.3, 10.0, 0.7)) is None


# --- the batch ---------------------------------------------------------------------------------------------------


@given(st.lists(st.tuples(st.sampled_from(sorted(ALL)), st.integers(0, 2**63 - 1)), min_size=2, max_size=4))
@settings(max_examples=12, deadline=None)
def test_a_face_is_the_same_alone_and_in_any_batch(drawn):
    params = [draw(get_preset(name), seed) for name, seed in drawn]
    faces = tensor(*(np.roll(FACE[:70, :61], 9 * index, 1) for index in range(len(params))))
    together = degrade_batch(faces, params)
    backwards = degrade_batch(faces.flip(0), params[::-1])
    assert torch.equal(backwards.degraded.flip(0), together.degraded)
    for index, one in enumerate(params):
        alone = degrade_batch(faces[index : index + 1], [one])
        assert torch.equal(alone.degraded[0], together.degraded[index])
        assert torch.equal(alone.truth[0], together.truth[index])


def test_precision_settings_of_the_caller_change_nothing():
    faces, params = tensor(FACE), [replace(draw(PRESETS["gfpgan"], 5), jpeg_quality=0)]
    expected = degrade_batch(faces, params).degraded
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(degrade_batch(faces, params).degraded, expected)
    before = torch.get_float32_matmul_precision()
    try:
        torch.set_float32_matmul_precision("medium")
        assert np.abs(levels(degrade_batch(faces, params).degraded) - levels(expected)).max() <= 1
    finally:
        torch.set_float32_matmul_precision(before)
    channels_last = faces.to(memory_format=torch.channels_last)
    assert np.abs(levels(degrade_batch(channels_last, params).degraded) - levels(expected)).max() <= 1


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")
@pytest.mark.parametrize("name", ALL)
def test_a_gpu_gives_the_same(name):
    params = [draw(get_preset(name), seed) for seed in range(4)]
    faces = tensor(*(np.roll(FACE, 9 * index, 1) for index in range(4)))
    here, there = degrade_batch(faces, params), degrade_batch(faces.cuda(), params)
    assert there.degraded.is_cuda and there.truth.is_cuda
    assert np.mean(np.abs(levels(here.degraded) - levels(there.degraded)) > 1) < 0.002
    bare = [replace(one, jpeg_quality=0) for one in params]
    here, there = degrade_batch(faces, bare), degrade_batch(faces.cuda(), bare)
    assert np.abs(levels(here.degraded) - levels(there.degraded)).max() <= 1


def test_truth_goes_with_the_picture():
    gray = np.round(FACE @ np.array([0.299, 0.587, 0.114]))
    for name in ("gpen-open", "restoreformer++", "vspbfr-code", "difface"):
        preset = replace(get_preset(name), gray_prob=1.0, move_prob=0.0)
        assert get_preset(name).changes_truth
        params = draw(preset, 1)
        assert params.gray and params.changes_truth
        truth = levels(degrade_batch(tensor(FACE), [params]).truth)[0]
        assert np.abs(truth - gray[..., None]).max() <= 1 and np.array_equal(truth, truth_of(FACE, params))
    # GPEN turns gray first, so its noise keeps its colour; the others turn the degraded picture gray.
    coloured = [np.ptp(degrade(FACE, draw(replace(get_preset(name), gray_prob=1.0), 1)).astype(int), 2).max() for name
                in ("gpen-open", "difface", "gfpgan")]  # fmt: skip
    assert coloured[0] > 0 and coloured[1:] == [0, 0]
    params = draw(replace(get_preset("gfpgan"), gray_prob=1.0), 1)
    faces = tensor(FACE)
    assert degrade_batch(faces, [params]).truth is faces and truth_of(FACE, params) is FACE
    moved = replace(PLAIN, move=(5, -3))
    result = degrade_batch(faces, [moved])
    assert torch.equal(result.truth, result.degraded)
    assert np.array_equal(levels(result.truth)[0, 5:, :-3], FACE[:-5, 3:])


def test_bad_batches_are_refused():
    faces, params = tensor(FACE), [fixed(4)]
    for bad in (faces[0], faces.double(), faces[:, :2], faces[..., :0], faces * torch.nan):
        with pytest.raises(InputMediaError):
            degrade_batch(bad, params)
    with pytest.raises(SettingsError, match="1 parameters for 2 faces"):
        degrade_batch(torch.cat([faces, faces]), params)
    with pytest.raises(SettingsError, match="differentiable"):
        degrade_batch(faces, params, jpeg="webp")  # type: ignore[arg-type]
    with pytest.raises(SettingsError, match="no gradient"):
        degrade_batch(faces.requires_grad_(), params)
    assert degrade_batch(faces.detach()[:0], []).degraded.shape == (0, 3, 200, 200)


# --- JPEG --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("quality", [1, 10, 49, 50, 75, 100])
@pytest.mark.parametrize("shape", [(64, 80), (37, 51), (1, 1), (8, 17)])
def test_differentiable_jpeg_follows_libjpeg(quality, shape):
    image = tensor(cv2.GaussianBlur(FACE, (0, 0), 1.5)[50 : 50 + shape[0], 60 : 60 + shape[1]])[0]
    theirs, ours = codecs.libjpeg(image, quality), codecs.differentiable(image, quality)
    difference = ((theirs - ours) * 255).abs()
    # In a picture of a few blocks, one coefficient on a rounding edge counts for much.
    most = 0.6 if image.numel() > 5000 else 2.0
    assert difference.mean() < most and difference.quantile(0.99) <= 6, (difference.mean(), difference.max())
    assert torch.allclose(ours * 255, (ours * 255).round(), atol=1e-3)


def test_tables_are_those_libjpeg_writes():
    for quality in (1, 25, 50, 77, 95, 100):
        file = io.BytesIO()
        Image.new("RGB", (8, 8)).save(file, "JPEG", quality=quality)
        for index, base in enumerate((codecs._LUMA, codecs._CHROMA)):
            assert codecs.table(base, quality).flatten().tolist() == Image.open(file).quantization[index]


def test_blocks_are_coded_as_scipy_codes_them():
    block = np.random.default_rng(0).uniform(-128, 127, (8, 8))
    steps = np.arange(1, 65).reshape(8, 8)
    expected = idctn(np.round(dctn(block, norm="ortho") / steps) * steps, norm="ortho")
    ours = codecs._code(torch.tensor(block[None], dtype=torch.float32), torch.tensor(steps, dtype=torch.float32))
    assert np.abs(ours[0].numpy() - np.round(expected).clip(-128, 127)).max() <= 1


def test_gradient_reaches_every_pixel_that_counts():
    faces = tensor(FACE[:64, :64], FACE[60:124, 60:124]).requires_grad_()
    params = [draw(PRESETS["gfpgan"], 11), replace(draw(PRESETS["difface"], 2), jitter=(1.1, 0.9, 1.2, 0.05))]
    result = degrade_batch(faces, params, jpeg="differentiable")
    assert torch.allclose(result.degraded * 255, (result.degraded * 255).round(), atol=1e-3)
    result.degraded.square().mean().backward()
    assert faces.grad is not None and bool(faces.grad.isfinite().all())
    assert (faces.grad.abs().sum((1, 2, 3)) > 0).all()
    # The gradient of blur and resize alone, against the chain's own slope.
    linear = replace(PLAIN, kernel=9, sigma_x=2.0, sigma_y=1.0, theta=0.3, downscale=2.0)
    start = tensor(FACE[:32, :32]).requires_grad_()
    degrade_batch(start, [linear], jpeg="differentiable").degraded.sum().backward()
    assert start.grad is not None
    ones = with_opencv_adjoint(linear, 32)
    assert np.abs(start.grad[0, 0].numpy() - ones).max() < 1e-4


def with_opencv_adjoint(p: DegradeParams, size: int) -> np.ndarray:
    """The slope of the sum of all outputs by each input pixel: the chain is linear, so feed it unit pictures."""
    units = np.eye(size * size, dtype=np.float32).reshape(-1, size, size)
    sums = []
    for unit in units:
        out = cv2.filter2D(unit, -1, kernel_by_hand(p), borderType=cv2.BORDER_REFLECT_101)
        out = cv2.resize(out, (size // 2, size // 2), interpolation=cv2.INTER_LINEAR)
        sums.append(cv2.resize(out, (size, size), interpolation=cv2.INTER_LINEAR).sum())
    return np.array(sums).reshape(size, size)


# --- presets and draws -------------------------------------------------------------------------------------------


def inside(value: float, values) -> bool:
    if isinstance(values, Choice):
        return value in values.values
    return values[0] <= value <= values[1]


@given(st.sampled_from(sorted(set(ALL) - {"codeformer-3"})), st.integers(0, 2**63 - 1))
@settings(max_examples=60, deadline=None)
def test_draws_stay_in_their_ranges_and_repeat(name, seed):
    preset = get_preset(name)
    params = draw(preset, seed)
    assert params == draw(preset, seed) == params_from_dict(json.loads(json.dumps(params.to_dict())))
    assert inside(params.sigma_x, preset.blur_sigma) and inside(params.sigma_y, preset.blur_sigma)
    assert params.kernel in preset.kernel and inside(params.downscale, preset.downscale)
    assert inside(params.noise_sigma, preset.noise_sigma) and inside(params.jpeg_quality, preset.jpeg_quality)
    assert max(map(abs, params.move)) <= preset.move and (params.haze == 1 or inside(params.haze, preset.haze))
    plain = draw(preset.without_colour(), seed)
    assert not plain.gray and not any(plain.colour_shift) and plain.haze == 1 and plain.sigma_x == params.sigma_x
    assert plain.jpeg_quality == params.jpeg_quality and plain.noise_seed == params.noise_seed


def test_numbers_of_the_first_release_have_not_moved():
    """Drawn by version 0.1 of this package: published figures rest on them."""
    params = draw(PRESETS["gfpgan"], 7)
    assert (params.sigma_x, params.sigma_y, params.downscale) == pytest.approx(EARLIER[:3], abs=1e-12)
    assert (params.noise_seed, params.jpeg_quality) == EARLIER[3:]


def test_the_table_has_every_row():
    papers = {
        "gfpgan", "gpen-open", "restoreformer", "restoreformer++", "vspbfr-code", "vspbfr-paper", "vqfr-v1", "vqfr-v2",
        "codeformer-2", "codeformer-3", "difface", "difface-test", "clr-face", "clr-face-x32", "diffuse-and-restore",
        "diffuse-and-restore-x32", "pltrans", "lpip-diff", "mild", "heavy",
    }  # fmt: skip
    assert set(PRESETS) == papers and list(SEVERITIES) == ["x4", "x8", "x16", "x32", "x64"] and PRESETS["mild"] is MILD
    test = PRESETS["difface-test"]
    assert test.downscale == Choice(tuple(range(4, 44, 4))) and test.jpeg_quality == Choice((30, 40, 50, 60, 70))
    thetas = {round(draw(test, seed).theta / math.pi, 6) for seed in range(60)}
    assert thetas == {0.0, 0.25, 0.5, 0.75}
    pltrans = {draw(PRESETS["pltrans"], seed).sigma_x for seed in range(400)}
    assert 0.0 in pltrans and 5.0 in pltrans and len(pltrans) > 45
    assert {draw(PRESETS["lpip-diff"], seed).downscale for seed in range(40)} == {4.0, 8.0, 16.0}
    assert {draw(PRESETS["vspbfr-code"], seed).kernel for seed in range(20)} == {39, 41}


def test_codeformer_mixes_its_stages():
    drawn = [draw(PRESETS["codeformer-3"], seed) for seed in range(1000)]
    stage_2 = [draw(PRESETS["codeformer-2"], seed) for seed in range(1000)]
    light = [params for params, heavy in zip(drawn, stage_2, strict=True) if params != heavy]
    assert 1 - len(light) / 1000 == pytest.approx(68 / 150, abs=0.05)
    assert max(params.downscale for params in light) <= 12 and min(params.jpeg_quality for params in light) >= 60
    assert max(params.noise_sigma for params in light) <= 15


def test_rare_changes_are_as_rare_as_stated():
    drawn = [draw(PRESETS["restoreformer++"], seed) for seed in range(3000)]
    assert sum(any(params.move) for params in drawn) / 3000 == pytest.approx(0.2, abs=0.025)
    assert 8 < sum(params.haze < 1 for params in drawn) < 45 and 8 < sum(params.gray for params in drawn) < 45
    assert all(0.75 <= params.haze <= 0.95 for params in drawn if params.haze < 1)


@pytest.mark.parametrize("factor", [4, 8, 16, 32, 64])
def test_severities_are_fixed(factor):
    drawn = draw(SEVERITIES[f"x{factor}"], 3)
    assert replace(drawn, noise_seed=0) == fixed(factor)
    assert drawn.sigma_x == factor / 2 and drawn.kernel >= 6 * drawn.sigma_x
    noisy = draw(override(SEVERITIES[f"x{factor}"], ["noise_sigma=5", "jpeg_quality=80"]), 3)
    assert noisy.noise_sigma == 5 and noisy.jpeg_quality == 80 and noisy.downscale == factor


def test_ranges_can_be_replaced():
    changed = override(PRESETS["gfpgan"], ["jpeg_quality=30,60", "downscale=4|8", "blur_sigma = 2", "kernel=21,31"])
    assert changed.jpeg_quality == (30, 60) and changed.downscale == Choice((4.0, 8.0))
    assert changed.blur_sigma == (2.0, 2.0) and changed.kernel == (21, 31) and changed.noise_sigma == (0.0, 20.0)
    assert override(changed, ["jpeg_quality=0", "gray_prob=1", "gray_on=both"]).changes_truth
    assert "downscale=4|8" in describe(changed) and "jpeg_quality=30,60" in describe(changed)


@pytest.mark.parametrize(("setting", "told"), [
    ("jpeg_qualty=30", "jpeg_quality"), ("jpeg_quality", "key=value"), ("jpeg_quality=0,60", "jpeg_quality"),
    ("jpeg_quality=60,30", "lower one first"), ("jpeg_quality=30.5", "whole"), ("noise_sigma=a", "low,high"),
    ("noise_sigma=1,2,3", "low,high"), ("downscale=0", "downscale"), ("downscale=nan,nan", "low,high"),
    ("kernel=40", "odd"), ("gray_prob=2", "share"), ("gray_prob=0,1", "a number"), ("gray_on=sky", "both"),
    ("other=gfpgn", "gfpgan"), ("other_prob=0.5", "preset's name"), ("blur_sigma=-1,2", "blur_sigma"),
    ("haze=2", "haze"),
    ("name=x", "expected one of"), ("move=1.5", "whole"),
])  # fmt: skip
def test_bad_ranges_are_refused(setting, told):
    with pytest.raises(SettingsError, match=told):
        override(PRESETS["gfpgan"], [setting])


def test_a_range_given_twice_is_refused():
    with pytest.raises(SettingsError, match="twice"):
        override(PRESETS["gfpgan"], ["haze=0.5", "haze=0.6"])


@pytest.mark.parametrize("change", [
    {"sigma": 3}, {"kernel": 4}, {"kernel": 2.5}, {"downscale": 0}, {"downscale": "4"}, {"noise_sigma": None},
    {"jpeg_quality": 101}, {"jitter": [1, 1, 1]}, {"gray_on": "sky"}, {"gray": 1}, {"haze": 2.0}, {"move": [1]},
    {"noise_seed": -1},
])  # fmt: skip
def test_bad_stored_parameters_are_refused(change):
    good = fixed(4).to_dict()
    assert params_from_dict(good) == fixed(4)
    with pytest.raises(SettingsError, match="Cannot use these degradation parameters"):
        params_from_dict(good | change)
    with pytest.raises(SettingsError, match="missing"):
        params_from_dict({"kernel": 41})


@pytest.mark.parametrize("shape", [(1, 1), (3, 700), (64, 33)])
def test_odd_sizes_come_back_as_they_were(shape):
    image = np.random.default_rng(0).integers(0, 256, (*shape, 3), dtype=np.uint8)
    for name in ("gfpgan", "x64", "restoreformer++"):
        params = replace(draw(get_preset(name), 3), move=(5, -9))
        assert degrade(image, params).shape == image.shape == truth_of(image, params).shape
        assert np.abs(degrade(image, params).astype(int) - with_opencv(image, params)).mean() < 0.5


def test_bad_input_is_refused():
    with pytest.raises(InputMediaError, match="uint8"):
        degrade(FACE.astype(np.float32), fixed(2))
    with pytest.raises(SettingsError, match="at least 1"):
        fixed(0.5)
    with pytest.raises(SettingsError, match="gfpgan"):
        get_preset("gfpgn")


# --- the command -------------------------------------------------------------------------------------------------


def run(*arguments: object) -> int:
    try:
        return main([str(argument) for argument in arguments])
    except SystemExit as end:
        return int(end.code or 0)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    inner = tmp_path / "in" / "deep"
    inner.mkdir(parents=True)
    for index, path in enumerate((tmp_path / "in" / "a.png", inner / "b.jpg")):
        Image.fromarray(np.roll(FACE, 30 * index, 1)[:90, :80]).save(path, quality=95)
    return tmp_path / "in"


def test_a_folder_becomes_a_folder_as_the_library_does_it(folder, tmp_path, capsys):
    low, params = tmp_path / "low", tmp_path / "drawn" / "p.json"
    assert run("degrade", folder, "-o", low, "--preset", "difface", "--seed", 3, "--params", params) == 0
    assert "2 of 2 files degraded" in capsys.readouterr().out
    entries = json.loads(params.read_text())["files"]
    assert [entry["name"] for entry in entries] == ["a.png", "deep/b.jpg"]
    for entry, name in zip(entries, ("a.png", "deep/b.png"), strict=True):
        drawn = draw(PRESETS["difface"], file_seed(3, entry["name"]))
        assert params_from_dict(entry["params"]) == drawn
        expected = degrade(read_picture(folder / entry["name"]).rgb, drawn)
        assert np.array_equal(read_picture(low / name).rgb, expected)
    assert len({entry["params"]["noise_seed"] for entry in entries}) == 2


def test_other_files_do_not_change_what_is_drawn(folder, tmp_path):
    assert run("degrade", folder, "-o", tmp_path / "all", "--seed", 5) == 0
    (folder / "a.png").unlink()
    assert run("degrade", folder, "-o", tmp_path / "one", "--seed", 5) == 0
    assert (tmp_path / "all/deep/b.png").read_bytes() == (tmp_path / "one/deep/b.png").read_bytes()
    assert run("degrade", folder, "-o", tmp_path / "other", "--seed", 6) == 0
    assert (tmp_path / "all/deep/b.png").read_bytes() != (tmp_path / "other/deep/b.png").read_bytes()


def test_what_was_drawn_can_be_done_again(folder, tmp_path, capsys):
    params = tmp_path / "p.json"
    assert run("degrade", folder, "-o", tmp_path / "one", "--preset", "vqfr-v2", "--params", params) == 0
    assert run("degrade", folder, "-o", tmp_path / "two", "--repeat", params) == 0
    for name in ("a.png", "deep/b.png"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()
    assert run("degrade", folder, "-o", tmp_path / "three", "--repeat", params, "--set", "haze=1") == 1
    Image.fromarray(FACE).save(folder / "new.png")
    assert run("degrade", folder, "-o", tmp_path / "three", "--repeat", params) == 1
    assert "new.png" in capsys.readouterr().err and not list((tmp_path / "three").rglob("*.*"))
    content = json.loads(params.read_text())
    content["files"] = content["files"][:1]
    params.write_text(json.dumps(content))
    assert run("degrade", folder, "-o", tmp_path / "three", "--repeat", params) == 0
    content["files"][0]["params"]["kernel"] = 40
    params.write_text(json.dumps(content))
    for bad in (params, folder / "a.png", tmp_path / "gone.json"):
        assert run("degrade", folder, "-o", tmp_path / "four", "--repeat", bad) == 1
    assert not list((tmp_path / "four").rglob("*.*"))


def test_truth_is_written_where_it_changes(folder, tmp_path, capsys):
    options = ["--preset", "gpen-open", "--set", "gray_prob=1"]
    assert run("degrade", folder, "-o", tmp_path / "low", *options) == 0
    assert "2 of them have a truth that is gray or moved" in capsys.readouterr().out
    assert run("degrade", folder, "-o", tmp_path / "low2", *options, "--truth", tmp_path / "high") == 0
    for name in ("a.png", "deep/b.jpg"):
        truth = read_picture((tmp_path / "high" / name).with_suffix(".png")).rgb.astype(float)
        clean = read_picture(folder / name).rgb
        assert np.abs(truth - (clean @ np.array([0.299, 0.587, 0.114]))[..., None]).max() <= 0.51
    assert run("degrade", folder, "-o", tmp_path / "low3", "--preset", "x8", "--truth", tmp_path / "high3") == 0
    assert np.array_equal(read_picture(tmp_path / "high3/a.png").rgb, read_picture(folder / "a.png").rgb)


def test_depth_alpha_and_one_output_file(tmp_path):
    deep = np.dstack([FACE, FACE[..., :1]]).astype(np.uint16) * 257
    cv2.imwrite(str(tmp_path / "deep.png"), deep[..., [2, 1, 0, 3]])
    out = tmp_path / "out.png"
    assert run("degrade", tmp_path / "deep.png", "-o", out, "--preset", "x4", "--set", "noise_sigma=4") == 0
    picture = read_picture(out)
    assert picture.rgb.dtype == np.uint16 and np.array_equal(picture.alpha, deep[..., 3])
    assert (picture.rgb % 257 == 0).all(), "colours have 8 bit"
    assert run("degrade", tmp_path / "deep.png", "-o", tmp_path / "o.jpg") == 1  # JPEG holds no 16 bit and no alpha
    Image.fromarray(FACE).save(tmp_path / "plain.png")
    assert run("degrade", tmp_path / "plain.png", "-o", tmp_path / "o.jpg") == 0
    assert read_picture(tmp_path / "o.jpg").kind == "jpeg"


def test_bad_files_are_named_and_inputs_are_safe(folder, tmp_path, capsys):
    (folder / "broken.png").write_bytes((folder / "a.png").read_bytes()[:500])
    assert run("degrade", folder, "-o", tmp_path / "low", "--params", tmp_path / "p.json") == 1
    told = capsys.readouterr()
    assert "broken.png" in told.err and "2 of 3 files degraded" in told.out
    assert not (tmp_path / "low" / "broken.png").exists()
    states = [entry["status"] for entry in json.loads((tmp_path / "p.json").read_text())["files"]]
    assert sorted(states) == ["done", "done", "failed"]
    before = (folder / "a.png").read_bytes()
    assert run("degrade", folder / "a.png", "-o", folder / "a.png", "--overwrite") == 1
    assert run("degrade", folder, "-o", folder, "--overwrite") == 1
    assert (
        run("degrade", folder, "-o", tmp_path / "low") == 1 and "exists already, and 1 more" in capsys.readouterr().err
    )
    assert (folder / "a.png").read_bytes() == before


def test_wrong_use_ends_before_any_file(folder, tmp_path, capsys):
    for extra, told in (
        (["--preset", "gfpgn"], "gfpgan"), (["--set", "jpeg_qualty=3"], "jpeg_quality"),
        (["--seed", "-1"], "0 or more"), (["--set", "drop_prob=0.1"], "no clip"), (["--format", ".xyz"], "suffix"),
    ):  # fmt: skip
        assert run("degrade", folder, "-o", tmp_path / "out", *extra) == 1, extra
        assert told in capsys.readouterr().err and not (tmp_path / "out").exists()
    assert run("degrade", folder) == 1 and run("degrade", "-o", tmp_path / "out") == 1
    capsys.readouterr()
    assert run("degrade", "--list") == 0
    listed = capsys.readouterr().out.splitlines()
    assert [line.partition(":")[0] for line in listed] == list(ALL)
    assert run("degrade", "--help") == 0 and "--repeat" in capsys.readouterr().out
