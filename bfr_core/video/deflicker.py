"""Steady restored faces: what a restorer makes of a face is averaged in time along the motion of the input.

A restorer that sees one frame at a time paints every frame a little differently, on noise and codec artefacts that are
new in each. So the restored faces of a fifth of a second to either side are brought to a frame along the motion that
the input shows, in the square of the aligned face, and averaged. Three things keep that from doing harm. The lowest
frequencies, which are light and shade, are those of the frame's own input, averaged with such only as differ by no
more than a codec makes them differ, so that a face is lit as in the input, at once. Where the motion cannot be
followed, or where the face itself changed (a blink, a mouth that opens), nothing is averaged, as the average of an
open and a shut eye is a ghost. And the motion is taken as it is where it is larger than a pixel or so; less is mostly
the tremble of a codec's blocks, and is smoothed.

Source: ours. Averaging along the motion with a confidence from forward-backward consistency is Lang et al., "Practical
temporal consistency for image-based graphics applications" (SIGGRAPH 2012), in spirit; flow is dense inverse search
(Kroeger et al., ECCV 2016; OpenCV's DISOpticalFlow), chained from frame to frame.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TypeAlias

import cv2
import numpy as np
import torch
from torch import Tensor

REACH_S = 0.2
"""Seconds to either side that take part."""

MAX_FRAMES = 8
"""Frames to either side at most, which bounds memory at high frame rates."""

SIGMA_S = 0.1
"""Standard deviation of the weights in time, in seconds."""

_FLOW_SIDE = 256
"""Side at which motion is estimated, or the crops' where that is smaller: a face in a film seldom has more pixels."""

_LOW_SIDE = 32
_LOW_SIGMA = 3.0
"""Low frequencies are those that a picture of 32 px holds after a blur of 3 px: about a tenth of the face's side."""

_LIGHT = 3.0
"""Change of the low frequencies in 8-bit levels from which on it is light, and not what a codec does to flat areas."""

_CHANGE_SIGMA = 2.0
"""Blur, in pixels of the flow, over which a change of the face is judged: a single pixel says nothing under noise."""

_USUAL = (1.5, 4.0)
"""Least and most change in 8-bit levels that may be noise or flicker wherever it is."""

_SHIFT = 0.4
"""Pixels of the flow by which an edge may be misplaced before that counts as a change."""

_TREMBLE = 1.0
"""Pixels of the flow: motion about the average of its neighbours that is less than this is smoothed."""

_UNIT = 16384
"""What was added lies in [-1, 1] and waits as 16-bit integers, at half the memory."""


@dataclass(slots=True)
class _Row:
    """What is kept of one frame of a face."""

    index: int
    time: float
    added: np.ndarray
    """(S, S, 3) int16: the restored face less `low`."""
    low: np.ndarray
    """(32, 32, 3) float32: low frequencies of the input."""
    gray: np.ndarray
    """(256, 256) uint8: the input, for the flow."""
    seen: np.ndarray
    """(256, 256, 2) float32 levels: input and restored face without the low frequencies, to tell changes from noise."""
    slope: np.ndarray
    """(256, 256, 2) float32: the steepness of both, in levels per pixel."""
    back: _Step | None
    """The motion from this row to the one before it; None for the first of an unbroken run."""
    on: _Step | None = None
    """The motion from this row to the next."""


@dataclass(slots=True)
class _Step:
    """How a face moves from one frame to a neighbour, in pixels of the flow."""

    flow: np.ndarray
    """(256, 256, 2) float32."""
    sure: np.ndarray
    """(256, 256) float32 in [0, 1]: the way back leads to where one came from."""


_Followed: TypeAlias = tuple[_Row, np.ndarray, np.ndarray]
"""A neighbour, the flow that leads to it, (256, 256, 2), and what each place of it counts, (256, 256) in [0, 1]."""


class Deflicker:
    """The steadied faces of one track. Rows are added in order; each is asked for once those after it are there.

    The result for a row depends on no row further away than REACH_S and MAX_FRAMES, so a part of a film that begins
    that much earlier gives the same as the whole.

    Args:
        size: side of the crops, in pixels.
    """

    def __init__(self, size: int) -> None:
        self._size, self._side = size, min(size, _FLOW_SIDE)
        self._rows: dict[int, _Row] = {}
        self._search = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_FAST)

    def __len__(self) -> int:
        """Return how many rows are held."""
        return len(self._rows)

    def add(self, index: int, time: float, crop: Tensor, restored: Tensor) -> None:
        """Take in one frame of the face.

        Shapes: crop and restored (3, size, size) in [0, 1].

        Args:
            index: number of the frame; a gap ends all averaging across it.
            time: of the frame, in seconds.
            crop: the input, aligned.
            restored: what the method made of it.
        """
        before, after = _to_hwc(crop), _to_hwc(restored)
        small = cv2.resize(before, (_LOW_SIDE, _LOW_SIDE), interpolation=cv2.INTER_AREA)
        low = cv2.GaussianBlur(small, (0, 0), _LOW_SIGMA, borderType=cv2.BORDER_REFLECT)
        added = np.rint((after - self._enlarged(low)) * _UNIT).astype(np.int16)
        gray = np.stack([self._gray(before), self._gray(after)], -1)
        # Noise makes flow of its own; a face in a film has little detail that this blur takes.
        calm = np.rint(cv2.GaussianBlur(gray[..., 0], (0, 0), 1.0) * 255).astype(np.uint8)
        shade = cv2.cvtColor(cv2.resize(low, (self._side, self._side)), cv2.COLOR_RGB2GRAY)
        seen = cv2.GaussianBlur((gray - shade[..., None]) * 255, (0, 0), _CHANGE_SIGMA)
        slope = np.hypot(cv2.Sobel(seen, cv2.CV_32F, 1, 0, scale=1 / 8), cv2.Sobel(seen, cv2.CV_32F, 0, 1, scale=1 / 8))
        row = _Row(index, time, added, low, calm, seen, slope, None)
        last = self._rows.get(index - 1)
        if last is not None:
            last.on, row.back = self._steps(last.gray, row.gray)
        self._rows[index] = row

    def drop(self, before: int) -> None:
        """Forget the rows of frames before that one."""
        for index in [index for index in self._rows if index < before]:
            del self._rows[index]

    def result(self, index: int) -> Tensor:
        """Return the steadied face of a frame, (3, size, size) in [0, 1]."""
        here = self._rows[index]
        before, after = self._followed(here, -1), self._followed(here, 1)
        away = self._tremble(before, after)
        total = np.zeros((self._size, self._size, 3), np.float32)
        weights = np.zeros((self._size, self._size), np.float32)
        still = np.zeros((self._side, self._side, 2), np.float32)
        for row, flow, weight in [(here, still, np.ones_like(still[..., 0])), *before, *after]:
            # OpenCV's own sums: NumPy's over a last axis of three take as long as all the rest.
            large = cv2.resize(_read(flow, away) + away, (self._size, self._size)) * (self._size / self._side)
            share = cv2.resize(_read(weight, away), (self._size, self._size))
            cv2.accumulateProduct(_read(row.added.astype(np.float32), large), cv2.merge([share] * 3), total)
            weights += share
        total = cv2.divide(total, cv2.merge([weights * _UNIT] * 3))
        total += self._enlarged(_calm_light(here, [*before, *after]))
        return torch.from_numpy(np.ascontiguousarray(total.transpose(2, 0, 1))).clamp_(0, 1)

    def _followed(self, here: _Row, direction: int) -> list[_Followed]:
        """Return the rows to one side, the flow that leads there, and what each place of them counts."""
        flow = np.zeros((self._side, self._side, 2), np.float32)
        sure = np.ones((self._side, self._side), np.float32)
        now, found = here, []
        for _ in range(MAX_FRAMES):
            step = now.on if direction > 0 else now.back
            there = self._rows.get(now.index + direction)
            if step is None or there is None or abs(there.time - here.time) > REACH_S + 1e-6:
                break
            sure = sure * _read(step.sure, flow)
            flow = flow + _read(step.flow, flow)
            found.append((there, flow, _share(there, here) * np.minimum(sure, self._unchanged(here, there, flow))))
            now = there
        return found

    def _tremble(self, before: Sequence[_Followed], after: Sequence[_Followed]) -> np.ndarray:
        """Return where to read so that small motion about the average of the neighbours is taken out.

        Neighbours count in pairs, one to each side, as far as both can be followed. So a place that moves evenly
        stays, and so does one beside a cut or a blink, where those to one side alone would lead away from it.
        """
        away = np.zeros((self._side, self._side, 2), np.float32)
        total = np.ones((self._side, self._side, 1), np.float32)
        for (_, back, weight_back), (_, on, weight_on) in zip(before, after, strict=False):
            weight = np.minimum(weight_back, weight_on)[..., None]
            away += weight * (back + on)
            total += 2 * weight
        away = cv2.GaussianBlur(away / total, (0, 0), 2.0)
        return -away * np.exp(-_square(away) / _TREMBLE**2)[..., None]

    def _unchanged(self, here: _Row, there: _Row, flow: np.ndarray) -> np.ndarray:
        """Return how much of each place is still what it was, in [0, 1].

        What changes everywhere is noise or the restorer's own flicker: the median over the face. What changes by
        several times as much in one place, and by more than a misplaced edge, is the face itself.
        """
        change = np.abs(_read(there.seen, flow) - here.seen)
        usual = np.clip(np.median(change[::2, ::2].reshape(-1, 2), axis=0), *_USUAL)
        excess = change / (3 * usual + _SHIFT * here.slope)
        return np.exp(-np.square(np.square(np.maximum(excess[..., 0], excess[..., 1]))))

    def _steps(self, first: np.ndarray, second: np.ndarray) -> tuple[_Step, _Step]:
        """Return the motion on, from the first to the second, and back."""
        # The initial flow is an output argument in OpenCV's stubs, but None asks for a new one.
        on = self._search.calc(first, second, None)  # type: ignore[call-overload]
        back = self._search.calc(second, first, None)  # type: ignore[call-overload]
        return _Step(on, _consistent(on, back)), _Step(back, _consistent(back, on))

    def _gray(self, face: np.ndarray) -> np.ndarray:
        """Return the luma at the size of the flow, (256, 256) float32."""
        small = cv2.resize(face, (self._side, self._side), interpolation=cv2.INTER_AREA)
        return cv2.cvtColor(small, cv2.COLOR_RGB2GRAY)

    def _enlarged(self, low: np.ndarray) -> np.ndarray:
        return cv2.resize(low, (self._size, self._size), interpolation=cv2.INTER_CUBIC)


def _calm_light(here: _Row, there: Sequence[_Followed]) -> np.ndarray:
    """Return the low frequencies of a row, averaged over those neighbours whose light is the same but for noise.

    They are so blurred that their motion does not matter.
    """
    total, weights = here.low.copy(), np.ones((_LOW_SIDE, _LOW_SIDE, 1), np.float32)
    for row, _, _ in there:
        change = np.abs(row.low - here.low).max(-1, keepdims=True) * (255 / _LIGHT)
        weight = _share(row, here) * np.exp(-np.square(np.square(change)))
        total += weight * row.low
        weights += weight
    return total / weights


def _share(row: _Row, here: _Row) -> np.float32:
    return np.float32(math.exp(-0.5 * ((row.time - here.time) / SIGMA_S) ** 2))


def _consistent(there: np.ndarray, back: np.ndarray) -> np.ndarray:
    """Return in [0, 1] whether a way there and back ends where it began, half a pixel being well."""
    return np.exp(-_square(there + _read(back, there)) / (0.5 + 0.02 * _square(there)))


def _square(vectors: np.ndarray) -> np.ndarray:
    """Return the squared length of (H, W, 2) vectors; NumPy's sum over a short axis is ten times slower."""
    return np.square(vectors[..., 0]) + np.square(vectors[..., 1])


def _to_hwc(face: Tensor) -> np.ndarray:
    return np.ascontiguousarray(face.detach().cpu().float().permute(1, 2, 0).numpy())


def _read(values: np.ndarray, flow: np.ndarray) -> np.ndarray:
    """Read `values` (H, W) or (H, W, C) where the flow leads, bilinear."""
    return cv2.remap(values, _grid(*flow.shape[:2]) + flow, None, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)


@lru_cache(4)
def _grid(height: int, width: int) -> np.ndarray:
    """Return the coordinates of the pixels, (H, W, 2) float32, not to be changed."""
    return np.stack(np.meshgrid(np.arange(width), np.arange(height)), -1).astype(np.float32)
