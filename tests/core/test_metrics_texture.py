"""Grain and weave against pictures of known noise and known grids."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch
from skimage.data import astronaut
from torch import Tensor

from bfr_core.errors import InputMediaError
from bfr_core.evaluate.catalogue import BY_KEY
from bfr_core.evaluate.run import measure_face
from bfr_core.evaluate.tools import MetricModels
from bfr_core.metrics.texture import grain, weave

SIDE = 256


def gray(levels: np.ndarray) -> Tensor:
    """Return a gray picture of 8-bit levels, not rounded."""
    return torch.from_numpy(levels).float().expand(1, 3, *levels.shape) / 255


def noise(sigma: float, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, sigma, (SIDE, SIDE))


def smooth() -> np.ndarray:
    """Slopes and a soft bump, flat to the last square."""
    y, x = np.mgrid[:SIDE, :SIDE] / SIDE
    return 90 + 40 * x + 25 * y + 12 * np.exp(-8 * ((x - 0.5) ** 2 + (y - 0.4) ** 2))


def grid(period: int, amplitude: float) -> np.ndarray:
    return np.tile(amplitude * np.cos(2 * np.pi * np.arange(SIDE) / period), (SIDE, 1))


def portrait() -> np.ndarray:
    image = astronaut()[:256, 100:356].astype(float)
    return image @ [0.299, 0.587, 0.114]


@pytest.mark.parametrize(("own", "added"), [(1.0, 2.0), (1.0, 0.5), (2.0, 2.0), (0.0, 3.0)])
def test_noise_of_known_strength_gives_known_grain(own, added):
    truth, image = smooth() + noise(own, 0), smooth() + noise(added, 1)
    expected = (added**2 + 1 / 12) / (own**2 + 1 / 12)
    assert grain(gray(image), gray(truth)).item() == pytest.approx(expected, rel=0.03)


def test_a_picture_is_as_grainy_as_itself_and_one_colour_is_finite():
    truth = gray(portrait())
    assert grain(truth, truth).item() == 1.0
    plain = gray(np.full((SIDE, SIDE), 128.0))
    assert grain(plain, plain).item() == 1.0
    assert grain(gray(128 + noise(5, 0)), plain).item() == pytest.approx(12 * 25 + 1, rel=0.05)


def test_only_flat_regions_count():
    """Noise among strands of hair is no grain; the same noise on a cheek is."""
    hair = np.zeros((SIDE, SIDE))
    hair[: SIDE // 2] = 40 * np.sin(2 * np.pi * np.arange(SIDE) / 5.3)
    truth = smooth() + hair
    there, elsewhere = noise(6, 0), noise(6, 0)
    there[SIDE // 2 - 8 :] = 0  # well away from the border between both halves
    elsewhere[: SIDE // 2 + 8] = 0
    assert grain(gray(truth + there), gray(truth)).item() == pytest.approx(1, abs=0.01)
    assert grain(gray(truth + elsewhere), gray(truth)).item() > 50


def test_where_nothing_is_flat_the_least_varied_squares_stand_in():
    truth = 128 + noise(20, 0)
    made = truth + noise(20, 1)
    # Squares chosen because the truth varies least in them have a little less of its noise than the others.
    assert 1.8 < grain(gray(made), gray(truth)).item() < 2.6


def test_blur_lowers_grain_and_edges_along_rows_are_none():
    truth = smooth() + noise(2, 0)
    assert grain(gray(cv2.GaussianBlur(truth, (0, 0), 2)), gray(truth)).item() < 0.1
    edged = smooth()
    edged[100:] += 60
    assert grain(gray(edged), gray(smooth())).item() == pytest.approx(1, abs=0.01)


@pytest.mark.parametrize("period", [2, 4, 8])
@pytest.mark.parametrize("amplitude", [0.5, 2.0])
def test_a_grid_of_known_amplitude_gives_known_weave(period, amplitude):
    sigma = 3.0
    images = torch.cat([gray(128 + noise(sigma, seed) + grid(period, amplitude)) for seed in range(4)])
    line = amplitude**2 * 64**2 / 36 / (sigma**2 + 1 / 12) * (16 / 3 if period == 2 else 1)
    assert weave(images).mean().item() == pytest.approx(1 + line, rel=0.12)
    # Whichever way it runs.
    turned = weave(images.transpose(2, 3))
    assert turned.mean().item() == pytest.approx(1 + line, rel=0.12)


def test_other_periods_and_white_noise_are_no_weave():
    white = torch.cat([gray(128 + noise(10, seed)) for seed in range(12)])
    assert weave(white).mean().item() == pytest.approx(1.08, abs=0.08) and weave(white).max() < 1.4
    assert weave(gray(128 + noise(3, 0) + grid(5, 4.0))).item() < 1.5
    assert weave(gray(np.full((SIDE, SIDE), 128.0))).item() == pytest.approx(1, abs=1e-4)


def test_a_portrait_is_not_woven_until_a_grid_lies_on_it():
    plain = weave(gray(portrait())).item()
    assert 0.7 < plain < 1.5
    for period in (2, 4, 8):
        assert weave(gray(portrait() + grid(period, 2.0))).item() > 1.5 * plain
    # What a folded head draws: a shift of one of four phases.
    folded = portrait()
    folded[::2, ::2] += 3
    assert weave(gray(folded)).item() > 2 * plain


def test_faces_are_measured_one_by_one():
    images = torch.cat([gray(portrait()), gray(portrait() + grid(2, 4.0))])
    truth = torch.cat([gray(portrait()), gray(portrait())])
    together = weave(images), grain(images, truth)
    for index in range(2):
        alone = weave(images[index : index + 1]), grain(images[index : index + 1], truth[index : index + 1])
        for both, one in zip(together, alone, strict=True):
            torch.testing.assert_close(both[index : index + 1], one)


def test_pictures_that_are_too_small_are_refused():
    with pytest.raises(InputMediaError, match=r"60.*64 pixels"):
        weave(torch.zeros(1, 3, 60, 80))
    with pytest.raises(InputMediaError, match=r"12.*16 pixels"):
        grain(torch.zeros(1, 3, 12, 20), torch.zeros(1, 3, 12, 20))
    with pytest.raises(InputMediaError, match="same"):
        grain(torch.zeros(1, 3, 20, 20), torch.zeros(1, 3, 24, 20))


def test_an_evaluation_reports_both_with_the_truths_own():
    woven = gray(portrait() + grid(2, 3.0) + noise(2, 0))[0].clamp(0, 1)
    images = {"restored": woven, "truth": gray(portrait())[0].clamp(0, 1)}
    values = measure_face("face", [BY_KEY["grain"], BY_KEY["weave"]], images, MetricModels()).values
    assert values["grain"] == {"restored": grain(woven[None], images["truth"][None]).item(), "truth": 1.0}
    assert values["weave"]["restored"] == weave(woven[None]).item() > 5 * values["weave"]["truth"]
    small = {side: image[:, :48, :48] for side, image in images.items()}
    item = measure_face("face", [BY_KEY["weave"]], small, MetricModels())
    assert np.isnan(item.values["weave"]["restored"]) and "64 pixels" in item.why["weave"]
