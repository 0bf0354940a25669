"""How steady a restored clip is: warp error, flicker of an aligned face, and the motion of its landmarks.

Motion is estimated on the truth alone, so that all results of one clip are judged along the same paths and a result
cannot look steady by misleading the estimate. Everything works on one pair of consecutive frames at a time.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import pairwise

import cv2
import numpy as np
from torch import Tensor

from ..errors import InputMediaError

MIN_VISIBLE = 0.1
"""A pair of which less than this share of the pixels can be followed is a cut or a blackout, and is not measured."""

_SHORTEST_SIDE = 16


@dataclass(frozen=True, slots=True)
class Motion:
    """How one frame moves into the next."""

    flow: np.ndarray
    """(H, W, 2) float32: pixel (x, y) of the first frame lies at (x, y) + flow in the second."""
    visible: np.ndarray
    """(H, W) bool: the pixel can be followed, it is neither hidden in the second frame nor at the edge of a motion."""

    @property
    def followed(self) -> float:
        """Share of the pixels that can be followed."""
        return float(self.visible.mean())

    @property
    def measurable(self) -> bool:
        """Whether enough can be followed to say anything."""
        return self.followed >= MIN_VISIBLE

    def change(self, first: Tensor, second: Tensor) -> np.ndarray:
        """Return the second frame brought back along the motion, less the first, where it can be followed.

        Shapes: first, second (3, H, W) in [0, 1]; returns (N, 3) float32 for the N visible pixels.

        Raises:
            InputMediaError: a frame has another size than the motion.
        """
        for frame in (first, second):
            if tuple(frame.shape) != (3, *self.flow.shape[:2]):
                height, width = self.flow.shape[:2]
                raise InputMediaError(
                    "Cannot follow the motion in this frame",
                    found=f"found shape {tuple(frame.shape)}, expected (3, {height}, {width}) as the truth has",
                    kept="The frame is unchanged",
                    todo="Resize it to the size of the truth first",
                )
        return (_warp(_to_hwc(second), self.flow) - _to_hwc(first))[self.visible]


def estimate_motion(first: Tensor, second: Tensor) -> Motion:
    """Estimate how `first` moves into `second`, both (3, H, W) in [0, 1] of at least 16 pixels a side.

    Source: dense inverse search (Kroeger et al., ECCV 2016; OpenCV's DISOpticalFlow, medium preset) both ways. What
    cannot be followed is told as in Ruder, Dosovitskiy and Brox, "Artistic style transfer for videos" (GCPR 2016),
    with the constants and forward differences of the public code of Lai et al. (detect_occlusion): the way there and
    back does not end where it began, or the flow changes abruptly. Pixels that leave the frame count as hidden.
    Lai et al. estimate the flow with FlowNet2; ours needs no weights, so figures made here compare only with each
    other.

    Raises:
        InputMediaError: the frames differ in size, or a side is shorter.
    """
    if first.shape != second.shape or min(first.shape[1:]) < _SHORTEST_SIDE:
        raise InputMediaError(
            "Cannot estimate the motion between two frames",
            found=f"found shapes {tuple(first.shape)} and {tuple(second.shape)}, expected the same twice, of at least "
            f"{_SHORTEST_SIDE} pixels a side",
            kept="The frames are unchanged",
            todo="Resize the frames to one size",
        )
    search = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    here, there = _to_gray(first), _to_gray(second)
    # The initial flow is an output argument in OpenCV's stubs, but None asks for a new one.
    forward = search.calc(here, there, None)  # type: ignore[call-overload]
    backward = search.calc(there, here, None)  # type: ignore[call-overload]
    returned = _warp(backward, forward)
    size = _square(forward)
    hidden = _square(forward + returned) > 0.01 * (size + _square(returned)) + 0.5
    slopes = [np.diff(forward, axis=axis, append=np.take(forward, [-1], axis)) for axis in (0, 1)]
    edge = _square(slopes[0]) + _square(slopes[1]) > 0.01 * size + 0.002
    height, width = here.shape
    x, y = _grid(height, width)
    x, y = x + forward[..., 0], y + forward[..., 1]
    inside = (x >= 0) & (x <= width - 1) & (y >= 0) & (y <= height - 1)
    return Motion(forward, inside & ~hidden & ~edge)


def pair_warp_error(motion: Motion, first: Tensor, second: Tensor) -> float:
    """Return the mean squared change of a frame along the motion, in [0, 1] squared; see `warp_error`."""
    return float(np.square(motion.change(first, second), dtype=np.float64).mean())


def pair_flicker(motion: Motion, faces: tuple[Tensor, Tensor], truth: tuple[Tensor, Tensor]) -> float:
    """Return how much of the change along the motion is not in the truth, in 8-bit levels; see `aligned_flicker`."""
    surplus = motion.change(*faces) - motion.change(*truth)
    return 255.0 * float(np.abs(surplus).mean(dtype=np.float64))


def pair_landmark_motion(points: tuple[np.ndarray, np.ndarray], truth: tuple[np.ndarray, np.ndarray]) -> float:
    """Return the mean error of the landmarks' steps between two frames, (N, 2) each, in pixels; see `tlme`."""
    steps = (np.asarray(points[1]) - points[0]) - (np.asarray(truth[1]) - truth[0])
    return float(np.linalg.norm(steps, axis=-1).mean())


def warp_error(frames: Iterable[Tensor], truth: Iterable[Tensor]) -> Iterator[float]:
    """Yield the warp error of every pair of consecutive frames; NaN where the motion cannot be followed.

    The second frame is brought back to the first along the motion of the truth; the error is the mean of the squared
    difference over visible pixels and colours, values in [0, 1]. Noise of variance v that is new in each frame adds
    up to 2 v. The truth has a warp error too, of changing light and of what the flow misses; a blurred clip can lie
    below it, so the two are read side by side.

    Shapes: frames, truth: streams of (3, H, W) in [0, 1]; two frames of each are held at a time.
    Source: Lai et al., "Learning blind video temporal consistency" (ECCV 2018), E_warp, as in their
    evaluate_WarpError.

    Raises:
        InputMediaError: one stream is shorter, or the sizes differ.
    """
    for (first, here), (second, there) in pairwise(_together(frames, truth)):
        motion = estimate_motion(here, there)
        yield pair_warp_error(motion, first, second) if motion.measurable else float("nan")


def aligned_flicker(faces: Iterable[Tensor], truth: Iterable[Tensor]) -> Iterator[float]:
    """Yield the flicker of every pair of consecutive aligned faces, in 8-bit levels; NaN where it cannot be told.

    Both faces are cut with the alignment of the truth, so the error of a crop against its truth is a picture that
    moves with the face; the flicker is the mean absolute change of that error along the motion of the face. What is
    wrong but steady (a wrong colour, lost detail) adds nothing, and a copy of the truth has none. Noise of standard
    deviation s that is new in each frame gives 2 s / sqrt(pi) = 1.13 s.

    Shapes: faces, truth: streams of (3, S, S) in [0, 1] of one person, aligned alike.
    Source: ours. Papers on video face restoration show flicker with a figure of their own or none; this is the warp
    error in the square of the face, with the truth's own change taken away.

    Raises:
        InputMediaError: one stream is shorter, or the sizes differ.
    """
    for (first, here), (second, there) in pairwise(_together(faces, truth)):
        motion = estimate_motion(here, there)
        yield pair_flicker(motion, (first, second), (here, there)) if motion.measurable else float("nan")


def tlme(points: Iterable[np.ndarray], truth: Iterable[np.ndarray]) -> Iterator[float]:
    """Yield the temporal landmark motion error of every pair of consecutive frames, in pixels.

    The mean over the landmarks of |(p' - p) - (q' - q)|, where p and q are a landmark of the restored face and of its
    truth and ' marks the next frame: a steady offset adds nothing, jitter adds its step.

    Shapes: points, truth: streams of (N, 2) in the pixels of the aligned face.
    Source: PGTFormer (Xu et al., IJCAI 2024) reports a figure of that name without public code or a stated
    normalisation, so ours is not for comparison with published ones.

    Raises:
        InputMediaError: one stream is shorter.
    """
    for (first, here), (second, there) in pairwise(_together(points, truth)):
        yield pair_landmark_motion((first, second), (here, there))


def _together(results: Iterable[Tensor] | Iterable[np.ndarray], truth: Iterable) -> Iterator[tuple]:
    """Yield frames of two streams in step."""
    missing = object()
    one, other = iter(results), iter(truth)
    for count in range(1 << 62):
        result, true = next(one, missing), next(other, missing)
        if result is missing and true is missing:
            return
        if result is missing or true is missing:
            longer = "truth" if result is missing else "result"
            raise InputMediaError(
                "Cannot compare these streams of frames",
                found=f"the {longer} goes on after {count} frames and the other ends, expected as many",
                kept="Nothing was changed",
                todo="Match the frames by their time first",
            )
        yield result, true


def _to_hwc(frame: Tensor) -> np.ndarray:
    return np.ascontiguousarray(frame.detach().cpu().float().permute(1, 2, 0).numpy())


def _to_gray(frame: Tensor) -> np.ndarray:
    levels = (_to_hwc(frame).clip(0, 1) * 255).round().astype(np.uint8)
    return cv2.cvtColor(levels, cv2.COLOR_RGB2GRAY)


def _grid(height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    x, y = np.meshgrid(np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32))
    return x, y


def _warp(values: np.ndarray, flow: np.ndarray) -> np.ndarray:
    """Read `values` (H, W, C) where the flow leads, bilinear."""
    x, y = _grid(*flow.shape[:2])
    # OpenCV rounds the position to 1/32 pixel, which is finer than any estimate of the flow.
    return cv2.remap(values, x + flow[..., 0], y + flow[..., 1], cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)


def _square(vectors: np.ndarray) -> np.ndarray:
    return np.square(vectors).sum(-1)
