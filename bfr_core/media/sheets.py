"""Pictures that let a person judge a result: before and after side by side."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
from torch import Tensor

_GAP = 8
_BACKGROUND = 32
_TEXT_SCALE = 0.55


def to_bytes(image: Tensor) -> np.ndarray:
    """Return a (3, H, W) tensor in [0, 1] as (H, W, 3) uint8."""
    return (image.detach().clamp(0, 1) * 255).round().byte().permute(1, 2, 0).cpu().numpy()


def row(images: Sequence[np.ndarray], height: int) -> np.ndarray:
    """Set (H, W, 3) uint8 pictures side by side, all brought to one height."""
    parts: list[np.ndarray] = []
    for image in images:
        width = max(round(image.shape[1] * height / image.shape[0]), 1)
        shrink = height < image.shape[0]
        fitted = cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA if shrink else cv2.INTER_CUBIC)
        parts += [fitted, np.full((height, _GAP, 3), _BACKGROUND, np.uint8)]
    return np.concatenate(parts[:-1], axis=1)


def stack(rows: Sequence[np.ndarray]) -> np.ndarray:
    """Set rows of any width below each other, left-aligned."""
    width = max(part.shape[1] for part in rows)
    padded: list[np.ndarray] = []
    for part in rows:
        padded.append(np.pad(part, ((0, _GAP), (0, width - part.shape[1]), (0, 0)), constant_values=_BACKGROUND))
    return np.concatenate(padded)[:-_GAP]


def caption(lines: Sequence[str], width: int) -> np.ndarray:
    """Return lines of text as a picture of the given width."""
    image = np.full((22 * len(lines) + 10, width, 3), _BACKGROUND, np.uint8)
    for index, line in enumerate(lines):
        at = (8, 22 * (index + 1))
        cv2.putText(image, line, at, cv2.FONT_HERSHEY_SIMPLEX, _TEXT_SCALE, (235, 235, 235), 1, cv2.LINE_AA)
    return image


def compare_sheet(
    before: Tensor, after: Tensor, faces: Sequence[tuple[Tensor, Tensor]], *, lines: Sequence[str] = (), most: int = 8
) -> np.ndarray:
    """Return before | after of the whole picture, then of its faces, as (H, W, 3) uint8.

    Shapes: before, after (3, H, W); faces: pairs of (3, S, S), the first `most` are shown.
    """
    height = int(min(before.shape[-2], 720, 1100 * before.shape[-2] / before.shape[-1]))
    rows = [row([to_bytes(before), to_bytes(after)], max(height, 64))]
    pairs = [row([to_bytes(low), to_bytes(high)], 320) for low, high in faces[:most]]
    rows += [
        np.concatenate([left, np.full((320, 3 * _GAP, 3), _BACKGROUND, np.uint8), right], axis=1)
        if right is not None
        else left
        for left, right in zip(pairs[::2], [*pairs[1::2], None], strict=False)
    ]
    sheet = stack(rows)
    return np.concatenate([sheet, caption(lines, sheet.shape[1])]) if lines else sheet
