"""Smoothing of a track's alignment: follows the head, drops the tremble, lags nowhere; against known motion."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bfr_core.faces.align import FFHQ_TEMPLATE, similarity
from bfr_core.video.smooth import crop_matrices, smooth_matrices

FACE = 100.0
"""Width in pixels; the FFHQ crop is about two of them wide."""


def points_along(centre: np.ndarray, size: np.ndarray, angle: np.ndarray) -> np.ndarray:
    """Return (n, 5, 2) points of a face that lies as given: the template, scaled, turned and moved by hand."""
    flat = (FFHQ_TEMPLATE - 256) * (2 * FACE / 512)
    cos, sin = np.cos(angle)[:, None], np.sin(angle)[:, None]
    x = size[:, None] * (cos * flat[:, 0] - sin * flat[:, 1]) + centre[:, :1]
    y = size[:, None] * (sin * flat[:, 0] + cos * flat[:, 1]) + centre[:, 1:]
    return np.stack([x, y], 2)


def still(n: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    return np.full((n, 2), 300.0), np.ones(n), np.zeros(n)


def centres(matrices: np.ndarray) -> np.ndarray:
    """Return where the middle of the crop lies in the frame, by solving the matrices."""
    return np.array([np.linalg.solve(m[:, :2], 256 - m[:, 2]) for m in matrices])


def scale_and_angle(matrices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return np.hypot(matrices[:, 0, 0], matrices[:, 1, 0]), np.arctan2(matrices[:, 1, 0], matrices[:, 0, 0])


def times_of(kind: str, n: int) -> np.ndarray:
    if kind == "vfr":
        return np.cumsum(np.random.default_rng(5).uniform(0.015, 0.06, n))
    return np.arange(n) / float(kind)


def seen(times: np.ndarray, points: np.ndarray, noise: float, seed: int = 0) -> np.ndarray:
    """Return what a detector says of exact points: noise as a share of the face's width in every coordinate."""
    return crop_matrices(points + np.random.default_rng(seed).normal(0, noise * FACE, points.shape))


def gain(signal: np.ndarray, result: np.ndarray) -> float:
    signal, result = signal - signal.mean(), result - result.mean()
    return float(signal @ result / (signal @ signal))


def test_crop_matrices_are_the_similarities_of_alignment():
    points = points_along(*still(1))[0] + np.random.default_rng(1).normal(0, 6, (7, 5, 2))
    for matrix, five in zip(crop_matrices(points), points, strict=True):
        np.testing.assert_allclose(matrix, similarity(five, FFHQ_TEMPLATE), atol=1e-9)


@pytest.mark.parametrize("kind", ["24", "25", "30", "60", "vfr"])
@pytest.mark.parametrize("amplitude", [0.1, 0.05])
def test_a_nod_of_2_hz_keeps_its_amplitude(kind, amplitude):
    """Of 0.1 and 0.05 face widths with 1 % noise: at most 5 % is lost, in time, and the tremble is halved."""
    times = times_of(kind, 400)
    nod = amplitude * FACE * np.sin(2 * np.pi * 2 * times)
    centre, size, angle = still(400)
    noisy = seen(times, points_along(centre + np.stack([0 * nod, nod], 1), size, angle), 0.01)
    smooth = centres(smooth_matrices(times, noisy, np.ones(400, bool)))[:, 1]
    assert 0.95 <= gain(nod, smooth) <= 1.02
    late = amplitude * FACE * np.cos(2 * np.pi * 2 * times)
    assert abs(gain(late, smooth)) < 0.02
    raw = centres(noisy)[:, 1] - 300 - nod
    left = smooth - 300 - nod
    assert left.std() < 0.8 * raw.std()
    assert np.diff(left).std() < 0.5 * np.diff(raw).std()


@pytest.mark.parametrize("kind", ["25", "60", "vfr"])
def test_a_still_face_stands_still(kind):
    times = times_of(kind, 300)
    noisy = seen(times, points_along(*still(300)), 0.01)
    smooth = smooth_matrices(times, noisy, np.ones(300, bool))
    for before, after in [
        (centres(noisy)[:, 0], centres(smooth)[:, 0]),
        (centres(noisy)[:, 1], centres(smooth)[:, 1]),
        *zip(scale_and_angle(noisy), scale_and_angle(smooth), strict=True),
    ]:
        assert after.std() < 0.5 * before.std()
        assert np.diff(after).std() < 0.25 * np.diff(before).std()


def test_turning_and_coming_nearer_are_followed():
    times = np.arange(250) / 25
    centre, _, _ = still(250)
    size, angle = np.exp(0.1 * np.sin(2 * np.pi * times)), 0.15 * np.sin(2 * np.pi * 1.5 * times)
    smooth = smooth_matrices(times, seen(times, points_along(centre, size, angle), 0.01), np.ones(250, bool))
    scale, turn = scale_and_angle(smooth)
    assert gain(-np.log(size), np.log(scale)) == pytest.approx(1, abs=0.05)
    assert gain(-angle, turn) == pytest.approx(1, abs=0.05)


def test_a_face_that_starts_to_move_is_not_late():
    """Still for two seconds, then 0.8 face widths a second: nowhere more than 3 % of the face off, after it nearer."""
    times = np.arange(100) / 25
    way = FACE * 0.8 * np.maximum(times - 2, 0)
    centre, size, angle = still(100)
    noisy = seen(times, points_along(centre + np.stack([way, 0 * way], 1), size, angle), 0.005)
    off = centres(smooth_matrices(times, noisy, np.ones(100, bool)))[:, 0] - 300 - way
    assert np.abs(off).max() < 0.03 * FACE
    assert np.abs(off[60:]).max() < 0.015 * FACE


def test_one_bad_detection_is_passed_over():
    times = np.arange(60) / 25
    points = points_along(*still(60))
    points[30] += [0.3 * FACE, -0.2 * FACE]
    smooth = smooth_matrices(times, seen(times, points, 0.004), np.ones(60, bool))
    assert np.abs(centres(smooth)[25:36] - 300).max() < 0.01 * FACE


def test_filled_frames_have_no_say():
    """Whatever is written into frames that nobody looked at, the result is the same."""
    times = np.arange(90) / 30
    observed = np.arange(90) % 3 == 0
    observed[-1] = True
    points = points_along(*still(90))
    noisy = seen(times, points, 0.005)
    nonsense = noisy.copy()
    nonsense[~observed] = crop_matrices(points[~observed] + 40.0)
    one, other = (smooth_matrices(times, given, observed) for given in (noisy, nonsense))
    np.testing.assert_allclose(centres(one), centres(other), atol=1e-6)
    assert np.abs(centres(one) - 300).max() < 0.02 * FACE


@settings(max_examples=25, deadline=None)
@given(
    st.integers(2, 40), st.integers(0, 10_000), st.floats(-40, 40), st.floats(-3, 3),
    st.floats(-0.4, 0.4), st.floats(0.2, 5.0),
)  # fmt: skip
def test_steady_motion_passes_unchanged(n, seed, speed, spin, zoom, unit):
    """A face that moves, turns and grows evenly is met exactly, at any frame times, any size, any length."""
    rng = np.random.default_rng(seed)
    times = np.cumsum(rng.uniform(0.008, 0.2, n))
    flat = (FFHQ_TEMPLATE - 256) / 4
    angle, size = 3.0 + spin * times, unit * np.exp(zoom * times)
    turned = np.stack(
        [
            np.cos(angle)[:, None] * flat[:, 0] - np.sin(angle)[:, None] * flat[:, 1],
            np.sin(angle)[:, None] * flat[:, 0] + np.cos(angle)[:, None] * flat[:, 1],
        ],
        2,
    )
    points = size[:, None, None] * turned + (speed * times)[:, None, None]
    exact = crop_matrices(points)
    smooth = smooth_matrices(times, exact, np.ones(n, bool))
    off = np.abs(centres(smooth) - centres(exact)).max(initial=0)
    assert off < 0.02 * 128 * unit * np.exp(0.4 * times[-1])
    assert np.isfinite(smooth).all() and smooth.shape == exact.shape


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 30), st.integers(0, 10_000), st.floats(0, 1))
def test_any_track_gives_finite_similarities(n, seed, share):
    """Detections all over the place, few of them looked at, frame times that repeat to the microsecond."""
    rng = np.random.default_rng(seed)
    times = np.cumsum(rng.choice([1e-6, 0.04, 3.0], n))
    observed = rng.random(n) < share
    matrices = crop_matrices(rng.uniform(0, 2000, (n, 5, 2)))
    smooth = smooth_matrices(times, matrices, observed)
    assert smooth.shape == (n, 2, 3) and np.isfinite(smooth).all()
    np.testing.assert_allclose(smooth[:, 0, 0], smooth[:, 1, 1], rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(smooth[:, 0, 1], -smooth[:, 1, 0], rtol=1e-9, atol=1e-12)


def test_the_parts_of_a_long_track_do_not_show(monkeypatch):
    times = times_of("vfr", 500)
    nod = 8 * np.sin(times)
    centre, size, angle = still(500)
    noisy = seen(times, points_along(centre + np.stack([nod, nod], 1), size, angle), 0.01)
    whole = smooth_matrices(times, noisy, np.ones(500, bool))
    monkeypatch.setattr("bfr_core.video.smooth._AT_ONCE", 1_000)
    np.testing.assert_allclose(smooth_matrices(times, noisy, np.ones(500, bool)), whole, rtol=1e-9)
