"""Temporal measures on motion that is known, against hand calculations."""

from __future__ import annotations

import math
import weakref
from itertools import pairwise

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from skimage.data import astronaut

from bfr_core.errors import InputMediaError
from bfr_core.metrics.temporal import (
    Motion,
    aligned_flicker,
    estimate_motion,
    pair_flicker,
    pair_warp_error,
    tlme,
    warp_error,
)

SIZE = 192
SIGMA = 6 / 255


def tensor(image: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1).float()


def panned(count: int = 4, step: tuple[int, int] = (3, 2), gain: float = 0.6) -> list[torch.Tensor]:
    """A camera that moves over a real picture by whole pixels; dimmed, so that noise is never clipped."""
    scene = astronaut() / 255 * gain + 0.2
    dx, dy = step
    return [tensor(scene[20 + dy * t : 20 + dy * t + SIZE, 140 + dx * t : 140 + dx * t + SIZE]) for t in range(count)]


def noisy(frames: list[torch.Tensor], seed: int = 0) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [frame + SIGMA * torch.randn(frame.shape, generator=generator) for frame in frames]


def known(step: tuple[int, int] = (3, 2)) -> Motion:
    """The motion of `panned`, not estimated: what moves left by dx in the picture has a flow of -dx."""
    flow = np.zeros((SIZE, SIZE, 2), np.float32)
    flow[...] = (-step[0], -step[1])
    visible = np.zeros((SIZE, SIZE), bool)
    visible[step[1] :, step[0] :] = True
    return Motion(flow, visible)


def test_the_flow_of_a_pan_is_found_and_what_leaves_the_frame_is_hidden():
    first, second = panned(2)
    motion = estimate_motion(first, second)
    error = np.linalg.norm(motion.flow - (-3, -2), axis=-1)[motion.visible]
    assert np.percentile(error, 95) < 0.25
    assert not motion.visible[:, 0].any() and not motion.visible[0].any()
    assert motion.followed > 0.8


def test_an_occluded_patch_is_not_followed():
    first, second = panned(2, (0, 0))
    hidden = second.clone()
    hidden[:, 60:120, 60:120] = tensor(np.random.default_rng(0).random((60, 60, 3)))
    motion = estimate_motion(first, hidden)
    assert motion.visible[70:110, 70:110].mean() < 0.5 < 0.9 < motion.visible[:40].mean()


def test_a_moving_picture_without_noise_has_no_warp_error():
    frames = panned()
    assert pair_warp_error(known(), frames[0], frames[1]) == 0.0
    # With the estimated flow its misses remain, far below one 8-bit level.
    assert max(warp_error(frames, frames)) < (1 / 255) ** 2
    still = [frames[0]] * 3
    assert list(warp_error(still, still)) == [0.0, 0.0]


def test_fresh_noise_gives_twice_its_variance():
    frames = panned(2)
    first, second = noisy(frames)
    assert pair_warp_error(known(), first, second) == pytest.approx(2 * SIGMA**2, rel=0.02)
    # Between pixels the bilinear reading averages the noise of one frame, so an estimated flow gives a little less.
    (estimated,) = warp_error([first, second], frames)
    assert 1.5 * SIGMA**2 < estimated < 2.05 * SIGMA**2


def test_the_warp_error_is_that_of_another_implementation():
    """The same sum written with explicit loops over visible pixels, bilinear weights by hand."""
    first, second = noisy(panned(2), seed=3)
    flow = np.zeros((SIZE, SIZE, 2), np.float32)
    flow[...] = (-2.75, -1.5)  # multiples of 1/32, which OpenCV reads exactly
    visible = np.zeros((SIZE, SIZE), bool)
    visible[50:60, 70:90] = True
    total, count, a, b = 0.0, 0, first.double().numpy(), second.double().numpy()
    for y in range(50, 60):
        for x in range(70, 90):
            left, top = math.floor(x - 2.75), math.floor(y - 1.5)
            value = sum(
                b[:, top + j, left + i] * (0.25 if i else 0.75) * 0.5
                for i in (0, 1)
                for j in (0, 1)
            )  # fmt: skip
            total += ((value - a[:, y, x]) ** 2).sum()
            count += 3
    assert pair_warp_error(Motion(flow, visible), first, second) == pytest.approx(total / count, rel=1e-4)


def test_flicker_counts_what_changes_and_not_what_is_wrong():
    truth = panned(3)
    wrong = [0.8 * frame + 0.1 for frame in truth]
    assert list(aligned_flicker(truth, truth)) == [0.0, 0.0]
    # A loss of contrast moves with the face: what is left is the flow's misses.
    assert max(aligned_flicker(wrong, truth)) < 0.2
    assert pair_flicker(known(), (wrong[0], wrong[1]), (truth[0], truth[1])) < 1e-4
    blinking = [frame + (t % 2) * 4 / 255 for t, frame in enumerate(truth)]
    assert list(aligned_flicker(blinking, truth)) == pytest.approx([4.0, 4.0], abs=1e-3)


def test_flicker_of_fresh_noise_is_two_sigma_over_root_pi():
    truth = panned(2)
    first, second = noisy(truth)
    expected = 255 * SIGMA * 2 / math.sqrt(math.pi)
    assert pair_flicker(known(), (first, second), (truth[0], truth[1])) == pytest.approx(expected, rel=0.02)
    (estimated,) = aligned_flicker([first, second], truth)
    assert estimated == pytest.approx(expected, rel=0.15)


def test_a_cut_is_not_measured():
    first = panned(1)[0]
    other = tensor(np.random.default_rng(1).random((SIZE, SIZE, 3)))
    frames = [first, other, other]
    errors = list(warp_error(frames, frames))
    assert math.isnan(errors[0]) and errors[1] == 0.0
    assert math.isnan(next(aligned_flicker(frames, frames)))


def test_only_two_frames_are_held():
    alive, most = set(), 0

    def stream():
        nonlocal most
        for frame in panned(1) * 12:
            copy = frame.clone()
            alive.add(id(copy))
            weakref.finalize(copy, alive.discard, id(copy))
            most = max(most, len(alive))
            yield copy
            del copy

    assert sum(1 for _ in warp_error(stream(), iter(panned(1) * 12))) == 11
    assert most <= 4


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**31), st.floats(-30, 30), st.floats(-30, 30))
def test_tlme_ignores_an_offset_and_sees_a_step(seed, dx, dy):
    rng = np.random.default_rng(seed)
    truth = rng.uniform(0, 512, (4, 5, 2))
    assert list(tlme(truth + np.array([dx, dy]), truth)) == pytest.approx([0.0] * 3, abs=1e-9)
    jumping = truth.copy()
    jumping[2] += (dx, dy)
    assert list(tlme(jumping, truth)) == pytest.approx([0.0, math.hypot(dx, dy), math.hypot(dx, dy)], abs=1e-9)


def test_tlme_by_hand():
    truth = np.array([[[0, 0], [10, 0]], [[1, 0], [11, 0]]])
    restored = np.array([[[5, 5], [10, 0]], [[9, 8], [11, 0]]])  # steps (4, 3) and (1, 0) where the truth has (1, 0)
    assert list(tlme(restored, truth)) == [pytest.approx(math.hypot(3, 3) / 2)]


def test_streams_that_do_not_belong_together_are_refused():
    frames = panned(3)
    with pytest.raises(InputMediaError, match="after 2 frames"):
        list(warp_error(frames[:2], frames))
    with pytest.raises(InputMediaError, match="truth goes on"):
        list(tlme(np.zeros((1, 5, 2)), np.zeros((2, 5, 2))))
    with pytest.raises(InputMediaError, match="expected \\(3, 192, 192\\)"):
        list(warp_error([frame[:, ::2, ::2] for frame in frames], frames))
    for first, second in ((frames[0][:, :8], frames[1][:, :8]), (frames[0], frames[1][:, 1:])):
        with pytest.raises(InputMediaError, match="at least 16 pixels"):
            estimate_motion(first, second)


def test_a_film_has_less_motion_compensated_change_than_plain_change(shared):
    import av

    with av.open(str(shared / "video" / "talking_480x480.mp4")) as clip:
        frames = [tensor(f.to_ndarray(format="rgb24")) / 255 for f, _ in zip(clip.decode(video=0), range(3))]  # noqa: B905
    frames = [tensor(cv2.resize(f.permute(1, 2, 0).numpy(), (240, 240), interpolation=cv2.INTER_AREA)) for f in frames]
    plain = [float((b - a).square().mean()) for a, b in pairwise(frames)]
    warped = list(warp_error(frames, frames))
    assert all(0 < w < 0.6 * p for w, p in zip(warped, plain, strict=True))
