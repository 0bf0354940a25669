"""What pasting a face costs, in time and memory."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..compose.paste import composite
from ..faces.align import FFHQ_TEMPLATE, align_face
from ..types import Face
from .memory import peak_growth

_SIDES = (160, 320, 512)
"""Sides of the crop's square in the frame, in pixels."""


def _crops(frame: torch.Tensor, side: int, count: int) -> list[Any]:
    height, width = frame.shape[-2:]
    crops = []
    for index in range(count):
        centre = np.array([width * (0.15 + 0.35 * index), height / 2])  # apart: no crop overlaps another
        points = (FFHQ_TEMPLATE - 256) * side / 512 + centre
        crops.append(align_face(frame, Face((0.0, 0.0, 1.0, 1.0), points, 1.0)))
    return crops


def measure(data: Path | None, say: Callable[[str], None], sheets: Path | None = None) -> dict[str, Any]:
    """Paste faces of three sizes into a 1080p frame; the cost of a face is the slope from one face to three."""
    frame = torch.rand(3, 1080, 1920)
    figures: dict[str, Any] = {}
    for side in _SIDES:
        seconds: dict[int, float] = {}
        for count in (1, 3):
            crops = _crops(frame, side, count)
            faces = [crop.image for crop in crops]
            laps = []
            for _ in range(9):
                start = time.perf_counter()
                composite(frame, crops, faces)
                laps.append(time.perf_counter() - start)
            seconds[count] = statistics.median(laps)
        each = (seconds[3] - seconds[1]) / 2
        figures[f"ms_per_face_{side}"] = round(each * 1e3, 2)
        alone = f"{seconds[1] * 1e3:.1f} ms with the frame's copy"
        say(f"{each * 1e3:5.1f} ms a face of {side} px in a 1080p frame (promised: 10), {alone}")
    crops = _crops(frame, 512, 3)
    faces = [crop.image for crop in crops]
    peak = peak_growth(lambda: composite(frame, crops, faces))
    if peak is not None:
        size = frame.numel() * frame.element_size()
        figures["peak_over_input"] = round((size + peak) / size, 2)
        say(f"peak memory {figures['peak_over_input']:.2f} x the input tensor, three faces of 512 px (promised: 2.5)")
    else:
        say("peak memory: can be read on Linux only")
    return figures
