from typing import Any

import torch
from torch import nn

class ModelPatcher:
    model: nn.Module
    load_device: torch.device
    offload_device: torch.device
    def __init__(
        self, model: nn.Module, load_device: torch.device, offload_device: torch.device, **more: Any
    ) -> None: ...
    def detach(self, unpatch_all: bool = True) -> nn.Module: ...
