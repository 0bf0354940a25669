"""Which tracks of a film restoring would turn into somebody else, judged before the film is rendered.

A face that is taken back in some frames and not in others would flicker, so a track is judged as a whole: by the
median over a few frames of it, restored as they will be.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from ..faces.align import sample
from ..faces.people import DriftLimit
from ..restoration.faces import FaceBatch, restore_crops
from ..runtime import Runtime
from .choose import worth
from .render import RenderOptions, track_seed
from .smooth import SIDE
from .types import Track, VideoFrame

if TYPE_CHECKING:
    from ..restorer import Restorer

SAMPLES = 3
"""Frames of a track that are restored to judge it: the best of its beginning, its middle and its end."""


def sampled_rows(track: Track) -> list[int]:
    """Return the rows of a track by which it is judged."""
    parts = np.array_split(np.arange(len(track.frames)), min(SAMPLES, len(track.frames)))
    best = worth(track)
    return [int(part[best[part].argmax()]) for part in parts]


def measure_drift(
    moments: Iterable[VideoFrame],
    tracks: Sequence[Track],
    restorer: Restorer,
    options: RenderOptions,
    limit: DriftLimit,
    run: Runtime,
) -> dict[int, float]:
    """Return how far restoring moves the identity of each track that is to be restored: the median over its samples.

    Args:
        moments: the frames of the film, in order.
        tracks: of the film.
        restorer: the loaded method.
        options: how they will be restored.
        limit: whose recogniser tells.
        run: where to run.

    Raises:
        RestoreError: the method failed.
    """
    wanted: dict[int, list[tuple[Track, int]]] = {}
    for track in tracks:
        if track.restore:
            for row in sampled_rows(track):
                wanted.setdefault(int(track.frames[row]), []).append((track, row))
    found: dict[int, list[float]] = {}
    waiting: list[tuple[Track, Tensor]] = []

    def judge() -> None:
        batch = FaceBatch(
            torch.stack([image for _, image in waiting]),
            [track_seed(options, track) for track, _ in waiting],
            options.settings,
            colours=options.colours,
            strength=options.strength,
            drift_limit=limit,
        )
        for (track, _), moved in zip(waiting, restore_crops(batch, restorer, run).drift, strict=True):
            found.setdefault(track.id, []).append(float(moved or 0.0))
        waiting.clear()

    last = max(wanted, default=-1)
    for moment in moments if wanted else ():
        run.check_cancel()
        for track, row in wanted.get(moment.index, ()):
            matrix = track.matrices[row] * (restorer.size / SIDE)
            waiting.append((track, sample(moment.rgb(), matrix, restorer.size).clamp_(0, 1)))
        if len(waiting) >= run.batch:
            judge()
        if moment.index >= last:
            break
    if waiting:
        judge()
    return {track: float(np.median(values)) for track, values in found.items()}


def apply_drift(tracks: Sequence[Track], drift: dict[int, float], limit: DriftLimit) -> None:
    """Leave the tracks that move further than the limit allows, with the reason; the facts of all get the figure."""
    for track in tracks:
        moved = drift.get(track.id)
        if moved is None:
            continue
        track.facts["drift"] = round(moved, 4)
        if moved > limit.max_drift:
            track.restore, track.reason = False, limit.reason(moved)
