"""How degraded a face is, read from its pixels: against what was done to it, and against scikit-image's measure."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import spearmanr

from bfr_core.degrade.chain import degrade, fixed
from bfr_core.media.pictures import read_picture, to_float
from bfr_core.media.sheets import to_bytes
from bfr_core.methods.pltrans.degradation_level import MAX_SHARE, MIN_SHARE, STOP, degradation_level, steps_for

FACTORS = (1, 2, 4, 8, 16, 32, 64)


def tensor(image: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(image).permute(2, 0, 1)[None].float() / 255


@pytest.fixture(scope="module")
def clean(shared) -> list[np.ndarray]:
    files = [sorted((shared / "faces" / name / "val").glob("*.*"))[1] for name in ("pd512", "free512", "cc0gen512")]
    return [to_bytes(to_float(read_picture(path))) for path in files]


@pytest.mark.parametrize(("noise", "quality"), [(0, 0), (5, 80), (15, 60)])
def test_it_rises_with_the_factor_through_noise_and_jpeg(clean, noise, quality):
    read = np.array(
        [
            [
                degradation_level(tensor(degrade(face, fixed(factor, noise_sigma=noise, jpeg_quality=quality)))).item()
                for factor in FACTORS
            ]
            for face in clean
        ]
    )
    assert (np.diff(read[:, 1:-1], axis=1) > 0).all(), "from x 2 on, each heavier one reads heavier"
    assert (read[:, -1] > 0.85).all(), "beyond the range it stays at its end"
    read, factors = read[:, :-1], np.tile(np.log2(FACTORS[:-1]), (len(clean), 1))
    assert spearmanr(read.ravel(), factors.ravel()).statistic > 0.9
    assert np.abs(5 * read - factors).mean() < 0.75, "in octaves"


def test_of_blur_alone_it_agrees_with_another_measure(clean):
    measure = pytest.importorskip("skimage.measure")
    cv2 = pytest.importorskip("cv2")
    face = clean[0]
    blurred = [face, *(cv2.GaussianBlur(face, (0, 0), sigma) for sigma in (1, 2, 4, 8))]
    ours = [degradation_level(tensor(picture)).item() for picture in blurred]
    theirs = [measure.blur_effect(picture, channel_axis=2) for picture in blurred]
    assert np.array_equal(np.argsort(ours), np.argsort(theirs))


def test_faces_are_read_one_by_one_at_any_size_and_brightness():
    pictures = torch.rand(3, 3, 128, 128, generator=torch.Generator().manual_seed(0))
    pictures[1] = torch.nn.functional.interpolate(pictures[1:2, :, ::16, ::16], (128, 128), mode="bilinear")[0]
    read = degradation_level(pictures)
    assert read.shape == (3,) and read[1] > read[0]
    torch.testing.assert_close(torch.cat([degradation_level(picture[None]) for picture in pictures]), read)
    torch.testing.assert_close(degradation_level(pictures * 0.5 + 0.25), read, atol=0.01, rtol=0)
    assert degradation_level(torch.full((1, 3, 64, 64), 0.5)).isfinite().all(), "a picture of nothing"
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(degradation_level(pictures), read)


@given(st.floats(0, 1), st.floats(0, 1), st.sampled_from([10, 100, 1000]))
def test_heavier_degradation_takes_more_steps(first, second, timesteps):
    light, heavy = (steps_for(read, timesteps) for read in sorted((first, second)))
    assert light[0] <= heavy[0] and light[1] <= heavy[1]
    for n, s in (light, heavy):
        assert 1 <= s < n <= timesteps


def test_the_ends_of_the_range():
    assert STOP == 0.55, "of the 400 and 220 that are the fixed steps"
    assert steps_for(0.0, 1000) == (round(1000 * MIN_SHARE), 55)
    assert steps_for(1.0, 1000) == (round(1000 * MAX_SHARE), 330)
