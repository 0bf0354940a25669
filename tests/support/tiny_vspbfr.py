"""VSPBFR small enough for tests: the configs `tiny` and `tiny_printed`, faces of 64 px."""

from __future__ import annotations

import dataclasses

import torch

from bfr_core.methods.vspbfr import PAPER
from bfr_core.registry import Config, get_method, methods
from bfr_core.restorer import Restorer

_WIDTHS = {4: 16, 8: 16, 16: 16, 32: 8}
OPTIONS = {
    "style_dim": 8,
    "encoder": {"input_size": 32, "stages": ((16, 1),) * 4},
    "bank": {"size": 32, "widths": _WIDTHS, "depth": 2},
    "restorer": {"size": 64, "widths": _WIDTHS, "patch": 2, "depth": 2},
}
TINY = Config("tiny", "for tests", 64, OPTIONS)
TINY_PRINTED = Config("tiny_printed", "for tests", 64, {**PAPER, **OPTIONS})


def declare(monkeypatch) -> None:
    """Add both configs to the method."""
    method = get_method("vspbfr")
    changed = dataclasses.replace(method, configs=(*method.configs, TINY, TINY_PRINTED))
    monkeypatch.setitem(methods(), "vspbfr", changed)


def tiny_restorer(config: Config = TINY) -> Restorer:
    """Return a restorer of random weights in which every part matters."""
    torch.manual_seed(0)
    method = get_method("vspbfr")
    net = method.build(config)
    with torch.no_grad():
        for name, weight in net.named_parameters():
            if name.endswith("noise.weight"):
                weight.fill_(0.3)
    return Restorer(method, config, net, "random")
