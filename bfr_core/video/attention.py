"""Restored faces are encoded finer than the film around them, where that is encoded coarsely.

A film of little rate keeps its size; what was restored in it would be lost again at its quality. Encoders take regions
of interest, as FFmpeg's filter addroi marks them: x264 and x265 as offsets of their quantisers, libvpx as segments.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
from torch import Tensor

from .pixels import Filter
from .types import VideoFrame

Box = tuple[int, int, int, int]
"""x0, y0, x1, y1 in pixels, the last two exclusive."""

Drawn = tuple[VideoFrame, Any, tuple[Box, ...]]
"""A moment, the picture to encode, and where faces were restored in it."""

_CELL = 16
"""Pixels of a block of the encoders; regions begin and end at one."""
_MOST = 8
"""Regions of a frame; beyond them one covers all."""
_LEAST = 1.5 / 255
"""Change from which on a pixel counts: the soft rim of a mask reaches far beyond a face."""
_RANGE = 51.0
"""Steps of the quantiser that an offset of 1 stands for; of more bits x264 counts more, for the same quality."""


def changed_boxes(before: Tensor, after: Tensor, box: Box) -> tuple[Box, ...]:
    """Return the boxes around what differs between two pictures by more than a level, each around what hangs together.

    Args:
        before: (3, H, W).
        after: the same size; it differs in `box` alone.
        box: where to look.
    """
    left, top = (max(0, value) // _CELL * _CELL for value in box[:2])
    right, bottom = min(box[2], after.shape[2]), min(box[3], after.shape[1])
    if left >= right or top >= bottom:
        return ()
    change = (after[:, top:bottom, left:right] - before[:, top:bottom, left:right]).abs().amax(0)
    differs = (change > _LEAST).cpu().numpy()
    rows, columns = (-(-size // _CELL) for size in differs.shape)
    cells = np.zeros((rows * _CELL, columns * _CELL), bool)
    cells[: differs.shape[0], : differs.shape[1]] = differs
    cells = cells.reshape(rows, _CELL, columns, _CELL).any((1, 3)).astype(np.uint8)
    found = cv2.connectedComponentsWithStats(cells, connectivity=8)[2][1:, :4].tolist()
    if len(found) > _MOST:
        found = [[0, 0, columns, rows]]
    return tuple(
        (left + x * _CELL, top + y * _CELL, min(left + (x + w) * _CELL, right), min(top + (y + h) * _CELL, bottom))
        for x, y, w, h in found
    )


class Attention:
    """Marks regions of frames for an encoder.

    Args:
        steps: how much finer they are encoded, in steps of the quantiser.
    """

    def __init__(self, steps: float) -> None:
        self._offset = -min(steps / _RANGE, 1.0)
        self._made: tuple[Any, Filter] | None = None

    def __call__(self, picture: Any, boxes: Sequence[Box]) -> Any:
        """Return a frame with the same pixels in which `boxes` are marked; `picture` itself where there are none."""
        if not boxes or not self._offset:
            return picture
        key = (*boxes, picture.width, picture.height, picture.format.name)
        if self._made is None or self._made[0] != key:  # a face that stands still needs no other filter
            marks = [("addroi", f"{x0}:{y0}:{x1 - x0}:{y1 - y0}:{self._offset:.4f}") for x0, y0, x1, y1 in boxes]
            self._made = key, Filter(picture, *marks, time_base=picture.time_base)
        return self._made[1](picture)
