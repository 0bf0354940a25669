"""Scans of films that never were, where the truth is known."""

from __future__ import annotations

import numpy as np

from bfr_core.video.types import Scan

FIVE = np.array([[0.3, 0.4], [0.7, 0.4], [0.5, 0.6], [0.33, 0.75], [0.67, 0.75]])
"""Points of a face in its box."""
RATE = 25


def film(
    faces: dict[int, list[tuple]], frames: int, *, cuts: tuple[int, ...] = (0,), width: int = 0, rate: float = RATE,
    looked: set[int] | None = None,
) -> Scan:  # fmt: skip
    """Return the scan of a film from its faces by frame: (x, y, size) of the middle, then identity, then score."""
    rows = [(frame, *given) for frame, many in sorted(faces.items()) for given in many]
    boxes = np.array([[x - s / 2, y - s / 2, x + s / 2, y + s / 2] for _, x, y, s, *_ in rows]).reshape(-1, 4)
    identity = np.full((len(rows), width), np.nan, np.float32)
    scores = np.full(len(rows), 0.99, np.float32)
    for number, row in enumerate(rows):
        if len(row) > 4 and row[4] is not None:
            identity[number] = row[4]
        if len(row) > 5:
            scores[number] = row[5]
    marks = np.zeros(frames, bool)
    marks[list(cuts)] = True
    return Scan(
        times=np.arange(frames) / rate,
        pts=np.arange(frames),
        cuts=marks,
        looked=np.array([looked is None or frame in looked for frame in range(frames)]),
        frame=np.array([row[0] for row in rows], np.int64),
        boxes=boxes.astype(np.float32),
        points=boxes[:, None, :2] + FIVE * (boxes[:, None, 2:] - boxes[:, None, :2]),
        scores=scores,
        identity=identity,
        sharpness=np.full(len(rows), np.nan, np.float32),
    )


def person(number: int, width: int = 8) -> np.ndarray:
    return np.eye(width, dtype=np.float32)[number]
