"""Emotion: whether the restored face still wears the same expression."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from torch import Tensor

from ..errors import InputMediaError


def emotion_accuracy(labels: Sequence[int] | Tensor, truth_labels: Sequence[int] | Tensor) -> float:
    """Return the share of faces whose emotion is that of their truth, in [0, 1].

    Source: VSPBFR, Sec. 4: the label is the prediction of the same network on the true picture.

    Raises:
        InputMediaError: the two differ in number, or there are none.
    """
    if len(labels) != len(truth_labels) or not len(labels):
        raise InputMediaError(
            "Cannot compare emotions",
            found=f"{len(labels)} labels and {len(truth_labels)} true ones; expected as many of each, at least one",
            kept="Nothing was computed",
            todo="Give one label for each face and for its truth",
        )
    return float(np.mean([int(a) == int(b) for a, b in zip(labels, truth_labels, strict=True)]))
