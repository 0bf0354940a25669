"""Two batches of pictures compared pair by pair: a sheet to look at, and the figures."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from torch import Tensor

from ..errors import InputMediaError
from ..media.sheets import caption, row, stack, to_bytes
from .catalogue import BY_KEY
from .results import Item, summarise
from .run import measure_face
from .sources import SIDES
from .table import number
from .tools import MetricModels

KEYS = ("psnr", "ssim", "nme_5", "detected", "sharpness")
"""Metrics that need no file. `lmd_5` is not one: it is in pixels of an aligned face, which these need not be."""
_HEIGHT = 320
_WORDS = {"psnr": "PSNR", "ssim": "SSIM", "nme_5": "5 points off by", "sharpness": "sharpness"}
_UNITS = {"nme_5": "% of the eye distance"}


def compare_faces(
    images: Mapping[str, Tensor], tools: MetricModels, *, rows: int = 16, check: Callable[[], None] = lambda: None
) -> tuple[np.ndarray, dict[str, Any]]:
    """Compare pictures one by one.

    Args:
        images: `restored` and `truth`, and perhaps `input`: (B, 3, H, W) float32 in [0, 1], alike in shape.
        tools: what to measure with.
        rows: pairs on the sheet, from the first; all are in the figures.
        check: called before each pair; what it raises ends the comparison.

    Returns:
        The sheet (H, W, 3) uint8 and the figures as plain JSON types: every value, and the summary of each metric.

    Raises:
        InputMediaError: the batches differ in number or size.
    """
    shapes = {side: tuple(batch.shape) for side, batch in images.items()}
    if len(set(shapes.values())) > 1:
        said = ", ".join(f"{side} {shape[0]} of {shape[3]} x {shape[2]}" for side, shape in shapes.items())
        raise InputMediaError(
            "Cannot compare these images",
            found=f"found {said} pixels; expected as many images of one size",
            kept="The images are unchanged",
            todo="Connect the batch that the restored images came from, or resize one to the size of the other",
        )
    metrics = [BY_KEY[key] for key in KEYS]
    items: list[Item] = []
    shown: list[np.ndarray] = []
    order = [side for side in ("input", "restored", "truth") if side in images]
    for index in range(len(images["truth"])):
        check()
        pair = {side: images[side][index] for side in SIDES if side in images}
        item = measure_face(str(index), metrics, pair, tools)
        items.append(item)
        if len(shown) < 2 * rows:
            pictures = row([to_bytes(pair[side]) for side in order], _HEIGHT)
            shown += [pictures, caption(_lines(item), pictures.shape[1])]
    left = len(items) - len(shown) // 2
    head = " | ".join(order) + (f"   ({left} more pairs are in the figures)" if left else "")
    width = shown[0].shape[1] if shown else 2 * _HEIGHT
    figures = {
        "pairs": [item.to_dict() for item in items],
        "metrics": [summarise(metric, items).to_dict() for metric in metrics],
    }
    return stack([caption([head], width), *shown]), figures


def _lines(item: Item) -> list[str]:
    """Return the figures of one pair in two lines."""
    words = []
    for key, word in _WORDS.items():
        metric, values = BY_KEY[key], item.values[key]
        others = [f"{side} {number(values[side], metric)}" for side in ("input", "truth") if side in values]
        value = number(values["restored"], metric)
        unit = f" {_UNITS.get(key, metric.unit)}" if metric.unit and value not in ("-", "equal") else ""
        words.append(f"{word} {value}{unit}" + (f" ({', '.join(others)})" if others else ""))
    return [f"{item.name}: {words[0]}, {words[1]}", f"{words[2]}, {words[3]}"]
