"""Networks that have shapes, but neither numbers nor memory: what weights are compared with and put into."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from ...registry import Config, Method


class _NoRandomStart(TorchFunctionMode):
    """Skip the random start of weights that are about to be loaded: on the meta device it imports torch's compiler."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run what torch was asked for, but for random numbers."""
        if func in (Tensor.normal_, Tensor.uniform_):
            return args[0]
        return torch.empty(*args) if func is torch.randn else func(*args, **(kwargs or {}))


def unfilled(method: Method, config: Config) -> nn.Module:
    """Build a network on the meta device."""
    with torch.device("meta"), _NoRandomStart():
        return method.build(config)
