"""What it saves that crops of several pictures fill one batch of the network: calls and time of sixteen frames."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from ..faces.align import FFHQ_TEMPLATE
from ..registry import default_method
from ..restoration.options import RestoreOptions
from ..restoration.photo import restore_photos
from ..restorer import load_restorer
from ..runtime import Runtime
from ..types import Face

_FRAMES = 16
_BATCHES = (1, 8)
_ROUNDS = 3


class _Counted:
    """Counts the calls of a network."""

    def __init__(self, net: nn.Module) -> None:
        self.calls = 0
        self._handle = net.register_forward_pre_hook(self._count)

    def _count(self, *_: Any) -> None:
        self.calls += 1

    def close(self) -> None:
        """Count no longer."""
        self._handle.remove()


def measure(data: Path | None, say: Callable[[str], None], sheets: Path | None = None) -> dict[str, Any]:
    """Restore sixteen frames with one face each, a face at a time and eight at a time, in turns."""
    restorer = load_restorer(default_method().id)
    frames = torch.rand(_FRAMES, 3, 360, 640, generator=torch.Generator().manual_seed(0))
    points = (FFHQ_TEMPLATE - 256) * 0.4 + np.array([320, 180])
    found = [[Face((220.0, 80.0, 420.0, 280.0), points, 1.0)]] * _FRAMES
    # Noise is as sharp as can be.
    options = RestoreOptions(quality_filter=None)
    calls: dict[int, int] = {}
    laps: dict[int, list[float]] = {batch: [] for batch in _BATCHES}
    results: dict[int, list[torch.Tensor]] = {}
    for _ in range(_ROUNDS):
        for batch in _BATCHES:
            counted = _Counted(restorer.net)
            start = time.perf_counter()
            made = restore_photos(frames, restorer, faces=found, options=options, runtime=Runtime(batch=batch))
            results[batch] = [one.image for one in made]
            laps[batch].append(time.perf_counter() - start)
            calls[batch] = counted.calls
            counted.close()
    single, together = _BATCHES
    off = max(float((a - b).abs().max()) for a, b in zip(results[single], results[together], strict=True)) * 255
    seconds = {batch: min(laps[batch]) for batch in _BATCHES}
    say(
        f"{_FRAMES} frames with a face each: {calls[single]} calls of the network in {seconds[single]:.2f} s one at a "
        f"time, {calls[together]} in {seconds[together]:.2f} s {together} at a time; off by {off:.4f} levels at most"
    )
    return {
        "calls": {str(batch): calls[batch] for batch in _BATCHES},
        "seconds": {str(batch): round(seconds[batch], 3) for batch in _BATCHES},
        "largest_difference": off,
    }
