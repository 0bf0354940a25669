"""A restorer whose result is known, for tests of what is around restorers."""

from __future__ import annotations

import dataclasses

import torch
from torch import nn

from bfr_core.registry import Config, Input, Method
from bfr_core.restorer import Restorer
from bfr_core.settings import param


class Brighten(nn.Module):
    """A net whose result is known; counts its calls and fails where asked."""

    def __init__(self, most: int = 10**9, half_breaks: bool = False, always_breaks: bool = False) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1))
        self.most, self.half_breaks, self.always_breaks = most, half_breaks, always_breaks
        self.batches: list[int] = []

    def forward(self, x):
        self.batches.append(len(x))
        if len(x) > self.most:
            raise torch.OutOfMemoryError("planned")
        if self.always_breaks or (self.half_breaks and torch.is_autocast_enabled("cpu")):
            return x * float("nan")
        return x + 0.25 * self.scale


def noisy(net, faces, settings, seeds, inputs, context):
    if "codes" in inputs:
        assert inputs["codes"].dtype == torch.float32 and len(inputs["codes"]) == len(faces)
        return net(faces) * 0 + inputs["codes"][:, :, None, None]
    noise = [torch.rand(3, 1, 1, generator=torch.Generator().manual_seed(seed)) for seed in seeds]
    return net(faces) * 0 + torch.stack(noise) if settings.noise else net(faces)


@dataclasses.dataclass(frozen=True, slots=True)
class NoisySettings:
    noise: bool = param(False, "draw noise")
    level: float = param(0.5, "a number", low=0.0, high=1.0, step=0.1)


def restorer_of(net: nn.Module, size: int = 64) -> Restorer:
    config = Config("tiny", "Tiny", size)
    inputs = (Input("codes", "style_codes", "A number for each face"),)
    method = Method(
        "test", "Test method", "", (), (config,), lambda c: net, noisy, lambda keys: None, NoisySettings, inputs
    )
    return Restorer(method, config, net, "test")
