"""Where a film cuts from one shot to the next, told frame by frame from a luma of a few thousand pixels.

A frame begins a shot when it cannot be explained by the one before: not by a shift of the whole picture (a pan), nor
by other brightness and contrast (a flash, a lamp), and when that is unusual for the frames just before (an explosion,
a crowd, hand-held running). Dissolves are not cuts: two shots share their frames, and a face that fades is followed or
lost like any other.
"""

from __future__ import annotations

from collections import deque

import numpy as np

_MEMORY = 12
"""Changes that make up the usual level: half a second at 25 frames a second."""
_RATIO = 3.0
"""A cut changes this much more than is usual."""
_FLOOR = 0.5
"""A cut changes at least this much; 0 is no change, about 1 two unrelated pictures."""
_CERTAIN = 0.3
"""Change below which no shift of the picture needs to be tried."""
_REACH = 3
"""Shifts tried, in pixels of the luma each way: a pan across the whole picture in a second."""
_BLANK = 2.5
"""Mean deviation in 8-bit levels below which a picture shows nothing: black between shots, a flash that burnt out."""
_BACK = 3
"""A picture that returns to one of so many frames before ends a flash or an error of the decoder; it is no cut."""


class CutFinder:
    """Finds cuts in one film; feed every frame in order.

    Source: the comparison of a frame's change with a running level is that of adaptive detectors such as
    PySceneDetect's; the measure of change is ours.
    """

    def __init__(self) -> None:
        self.changes: deque[float] = deque(maxlen=_MEMORY)
        self.before: deque[np.ndarray] = deque(maxlen=_BACK)
        """The latest frames that show something, the newest last."""

    def step(self, luma: np.ndarray) -> bool:
        """Tell whether a shot begins with this frame; the first frame of a film does.

        Shapes: luma (h, w) uint8, always of the same size.
        """
        luma = luma.astype(np.float32)
        first = not self.before
        if float(np.abs(luma - luma.mean()).mean()) < _BLANK and not first:
            # Kept out of the memory: what follows is compared with the picture before, so that a flash is none.
            return False
        cut = first or self._cut(luma)
        if cut:
            self.before.clear()
        self.before.append(luma)
        return cut

    def _cut(self, luma: np.ndarray) -> bool:
        change = _change(self.before[-1], luma)
        usual = sum(self.changes) / len(self.changes) if self.changes else 0.0
        cut = change > max(_FLOOR, _RATIO * usual)
        if cut and len(self.before) > 1:
            cut = min(_change(older, luma) for older in list(self.before)[:-1]) > _FLOOR
        # A cut says nothing of how lively the shots are.
        if not cut:
            self.changes.append(change)
        return cut


def _change(before: np.ndarray, after: np.ndarray) -> float:
    """Return how much of a picture the one before does not explain: 0 nothing, about 1 all of it."""
    one, other = _evened(before), _evened(after)
    change = float(np.abs(other - one).mean())
    if change < _CERTAIN:
        return change / _UNRELATED
    height, width = one.shape
    r = min(_REACH, height // 4, width // 4)
    inner = other[r : height - r, r : width - r]
    for dy in range(2 * r + 1):
        for dx in range(2 * r + 1):
            shifted = one[dy : dy + height - 2 * r, dx : dx + width - 2 * r]
            change = min(change, float(np.abs(inner - shifted).mean()))
    return change / _UNRELATED


_UNRELATED = 1.3
"""Mean difference of two unrelated pictures of mean 0 and mean deviation 1."""


def _evened(luma: np.ndarray) -> np.ndarray:
    """Take brightness and contrast out of a picture."""
    centred = luma - luma.mean()
    return centred / max(float(np.abs(centred).mean()), _BLANK)
