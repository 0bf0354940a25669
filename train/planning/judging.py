"""Whether a result is kept: its figures beside those of what it would take the place of."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bfr_core.models.checkpoints.cards import embedded, load_embedded
from bfr_core.models.checkpoints.files import load_state

from ..pictures import Pictures
from ..run import channels_last
from ..stage import Stage, fill_from, is_checkpoint
from .plan import Keep

Figures = dict[str, float]
_WORDS = {
    "must_rise": "must rise by {:g}",
    "must_fall": "must fall by {:g}",
    "must_not_fall": "must not fall by more than {:g}",
    "must_not_rise": "must not rise by more than {:g}",
}
_LENIENT = {"must_rise": "must_not_fall", "must_fall": "must_not_rise"}
"""What is asked of weights that stay: not to be better, but no worse by that amount."""


def measure(stage: Stage, weights: Sequence[Path], held_out: Pictures, device: torch.device) -> Figures:
    """Return what the validation of a stage finds with weights, in float32.

    Args:
        stage: freshly built, with the files that the weights go with.
        weights: a run or a checkpoint, or the files that together hold what the stage exports.
        held_out: the pictures to validate on.
        device: where to compute.

    Raises:
        WeightsError: the weights do not fit the stage.
    """
    if is_checkpoint(weights[0]):
        nets = {name: net for name, net in stage.networks().items() if name in stage.exported}
        fill_from(stage, nets, weights[0])
    else:
        nets = stage.from_shipped(merged(weights))
    for net in nets.values():
        channels_last(net.to(device)).eval().requires_grad_(False)
    for net in stage.frozen.values():
        net.to(device).eval().requires_grad_(False)
    found = stage.validator(held_out).run(nets).figures
    return {name: round(value, 5) for name, value in found.items()}


def merged(files: Sequence[Path]) -> dict[str, Tensor]:
    """Return the tensors of several files; of embedded ones after checking their hash.

    Raises:
        WeightsError: a file is missing or damaged.
    """
    return {
        key: tensor
        for file in files
        for key, tensor in (load_embedded(file.stem) if file == embedded(file.stem) else load_state(file)).items()
    }


def compare(
    keep: Keep, before: Mapping[str, float], after: Mapping[str, float], *, stays: bool = False
) -> list[dict[str, Any]]:
    """Return every rule with its figures and whether it holds.

    Args:
        keep: the rules.
        before: figures of what is there.
        after: figures of the result.
        stays: the rules are asked of weights that stay, in new surroundings: what must rise must not fall then.
    """
    checks = []
    for rule, figure, amount in keep.rules():
        asked = _LENIENT.get(rule, rule) if stays else rule
        sides = [side.get(figure) for side in (before, after)]
        old, new = (math.nan if value is None else value for value in sides)
        # A comparison with what is no number is false, so such a result is not kept.
        holds = {
            "must_rise": new >= old + amount,
            "must_fall": new <= old - amount,
            "must_not_fall": new >= old - amount,
            "must_not_rise": new <= old + amount,
        }[asked]
        told = {"figure": figure, "rule": asked, "amount": amount, "before": sides[0], "after": sides[1]}
        checks.append(told | {"holds": holds})
    return checks


def in_words(check: Mapping[str, Any]) -> str:
    """Return a rule with its figures as a sentence."""
    rule = _WORDS[check["rule"]].format(check["amount"])
    old, new = ("none" if check[side] is None else f"{check[side]:.5g}" for side in ("before", "after"))
    return f"{check['figure']} {rule}: {old} to {new}"
