"""What the detectors of other packages share: they take 8-bit BGR pictures, one at a time."""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np
from torch import Tensor

from ...faces.detect import check_frames
from ...faces.pyramid import Candidates, PyramidLevel, merge, pyramid, to_frame
from ...types import Face

Found = tuple[np.ndarray, np.ndarray, np.ndarray]
"""Boxes (N, 4) x0, y0, x1, y1; points (N, 5, 2); scores (N,)."""


def detect_each(frames: Tensor, search: Callable[[np.ndarray], Found]) -> list[list[Face]]:
    """Search every frame at every size of the plan.

    Args:
        frames: (B, 3, H, W) float [0, 1].
        search: finds faces in one (H, W, 3) uint8 BGR picture whose sides are multiples of 32.
    """
    check_frames(frames)
    faces = []
    for frame in frames:
        # Rounded once to 8 bit, the copy that these detectors see; the frame itself is not touched.
        image = (frame.detach().clamp(0, 1) * 255).round().byte().permute(1, 2, 0).cpu().numpy()[..., ::-1]
        faces.append(merge([_search(image, at, search) for at in pyramid(image.shape[1], image.shape[0])]))
    return faces


def _search(image: np.ndarray, at: PyramidLevel, search: Callable[[np.ndarray], Found]) -> Candidates:
    width, height = at.padded
    if image.shape[:2] != (at.height, at.width):
        image = cv2.resize(image, (at.width, at.height), interpolation=cv2.INTER_AREA)
    right, bottom = width - at.width, height - at.height
    padded = cv2.copyMakeBorder(image, 0, bottom, 0, right, cv2.BORDER_CONSTANT, value=(0, 0, 0))
    return to_frame(*search(padded), at)
