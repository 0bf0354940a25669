"""The wavelet exchange of PLTrans by matrices, for tests."""

from __future__ import annotations

import numpy as np

LOW, HIGH = np.array([1, 1]) / np.sqrt(2), np.array([1, -1]) / np.sqrt(2)
"""The analysis filters of Haar's wavelets."""


def matrix(size: int) -> np.ndarray:
    """Return one level of the transform of a row, as an orthogonal matrix: the low half, then the high one."""
    made = np.zeros((size, size))
    for index in range(size // 2):
        made[index, 2 * index : 2 * index + 2] = LOW
        made[size // 2 + index, 2 * index : 2 * index + 2] = HIGH
    return made


def exchanged(low_of: np.ndarray, high_of: np.ndarray, levels: int) -> np.ndarray:
    """Do Eq. 1 to maps (H, W) by matrices, level by level."""
    if not levels:
        return low_of
    down, across = matrix(low_of.shape[0]), matrix(low_of.shape[1])
    a, b = (down @ part @ across.T for part in (low_of, high_of))
    h, w = a.shape[0] // 2, a.shape[1] // 2
    b[:h, :w] = exchanged(a[:h, :w], b[:h, :w], levels - 1)
    return down.T @ b @ across
