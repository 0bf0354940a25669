"""The three diffusion methods small enough for tests: a config `tiny` each, for faces of 64 px."""

from __future__ import annotations

import dataclasses

import torch

from bfr_core.registry import Config, get_method, methods
from bfr_core.restorer import Restorer

_UNET = {
    "channels": 16, "mult": (1, 2), "blocks": 1, "attention": (2,), "head": 16, "residual_resample": False, "groups": 4,
}  # fmt: skip
_PIXELS = {"irn": "compact", "condition": "both", "predicts": "residual", "unet": {**_UNET, "fold": 4}}

OPTIONS = {
    "clr_face": {
        "irn": "compact",
        "condition": "both",
        "vq": {"channels": 16, "mult": (1,), "blocks": 1, "fold": 4, "groups": 4, "codes": 64},
        "unet": _UNET,
    },
    "diffuse_restore": _PIXELS,
    "lpip_diff": _PIXELS,
}
PRINTED = {
    "diffuse_restore": {
        "irn": "compact", "condition": "degraded", "learned_variance": True, "unet": {**_UNET, "fold": 4},
    },
    "lpip_diff": {"irn": None, "condition": "degraded", "unet": {**_UNET, "fold": 4}},
    "clr_face": {**OPTIONS["clr_face"], "condition": "degraded"},
}  # fmt: skip
"""What the configs `paper` do differently, as small."""


def tiny_config(method: str, *, printed: bool = False) -> Config:
    """Return a method's tiny config."""
    options = (PRINTED if printed else OPTIONS)[method]
    shared = {"irn.": "irn_compact"} if options["irn"] else {}
    return Config("tiny_printed" if printed else "tiny", "for tests", 64, options, shared=shared)


def declare(monkeypatch) -> None:
    """Add both configs to every method."""
    for name in OPTIONS:
        method = get_method(name)
        extra = (tiny_config(name), tiny_config(name, printed=True))
        monkeypatch.setitem(methods(), name, dataclasses.replace(method, configs=(*method.configs, *extra)))


def tiny_restorer(name: str, *, printed: bool = False) -> Restorer:
    """Return a restorer of random weights in which every part matters."""
    torch.manual_seed(0)
    method, config = get_method(name), tiny_config(name, printed=printed)
    net = method.build(config)
    with torch.no_grad():
        for weight in net.parameters():
            if not weight.any():  # zero convolutions, which would make the network say nothing
                weight.normal_(0, 0.05)
    return Restorer(method, config, net, "random")
