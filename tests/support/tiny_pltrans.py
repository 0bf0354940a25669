"""PLTrans small enough for tests: configs `tiny` and `tiny_paper`, for faces of 64 px."""

from __future__ import annotations

import dataclasses

import torch

from bfr_core.registry import Config, get_method, methods
from bfr_core.restorer import Restorer

_UNET = {"channels": 8, "mult": (1, 2), "blocks": 1, "attention": (2,), "head": 8, "groups": 4}
_REGULARISER = {"latent": 4, "width": 8, "unet": {**_UNET, "fold": 2, "residual_resample": False}, "predicts": "clean"}
OPTIONS = {
    "vq": {
        "channels": 8, "mult": (1, 2), "blocks": 1, "dim": 8, "codes": 64, "fold": 4, "groups": 4, "shortcut": True,
    },
    "regulariser": _REGULARISER,
    "heads": 2,
}  # fmt: skip
PRINTED = {
    "vq": {"channels": 8, "mult": (1, 1, 2, 2), "blocks": 1, "dim": 8, "codes": 64, "groups": 4, "attention": (3,),
           "heads": 2},
    "regulariser": {"latent": 8, "width": 8, "unet": _UNET},
    "heads": 2,
}  # fmt: skip
"""What config `paper` does differently, as small."""

FEATURES = 8
"""Side of the features of a face of 64 px, in both."""


def tiny_config(*, printed: bool = False) -> Config:
    """Return a tiny config."""
    return Config("tiny_paper" if printed else "tiny", "for tests", 64, PRINTED if printed else OPTIONS)


def declare(monkeypatch) -> None:
    """Add both configs to the method."""
    method = get_method("pltrans")
    configs = (*method.configs, tiny_config(), tiny_config(printed=True))
    monkeypatch.setitem(methods(), "pltrans", dataclasses.replace(method, configs=configs))


def tiny_restorer(*, printed: bool = False) -> Restorer:
    """Return a restorer of random weights in which every part matters."""
    torch.manual_seed(0)
    method, config = get_method("pltrans"), tiny_config(printed=printed)
    net = method.build(config)
    with torch.no_grad():
        for name, weight in net.named_parameters():
            if not weight.any() or name == "prior.r":  # what starts as nothing, which would make the network say it
                weight.normal_(0, 0.2)
        q = net.vq.encode(torch.rand(4, 3, 64, 64) * 2 - 1)
        spread, mean = q.std((0, 2, 3)), q.mean((0, 2, 3))
        net.vq.codebook.copy_(mean + spread * torch.randn(64, net.vq.dim))
        u = net.regulariser.moments(q).mean
        net.regulariser.mean.copy_(u.mean((0, 2, 3)))
        net.regulariser.std.copy_(u.std((0, 2, 3)))
        # Queries and keys of some spread: else they attend to all places alike, whatever the query.
        q_hat = net.regulariser.decode(net.regulariser.encode(q))
        last = net.regulariser.decoder[-1]
        last.bias.sub_(q_hat.mean((0, 2, 3)))
        for value in (last.weight, last.bias):
            value.div_(q_hat.std((2, 3)).mean())
        for block in net.attention:
            block.key.weight.div_(spread.mean())
            block.query.weight.mul_(6)
    return Restorer(method, config, net, "random")
