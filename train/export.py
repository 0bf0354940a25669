"""Write trained weights as the package ships them: half-precision safetensors with a card beside them."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor

from bfr_core.media.atomic import publish
from bfr_core.weights import Card, sha256_of


def write_weights(target: Path, state: Mapping[str, Tensor], **card: Any) -> None:
    """Write `target` and its card; `card` gives the fields of `Card` that cannot be read from the weights."""
    half = {name: tensor.to(torch.float16).contiguous() for name, tensor in state.items()}
    with publish(target) as file:
        file.write(save(half, {"format": "pt"}))
    parameters = sum(tensor.numel() for tensor in half.values())
    full = Card(name=target.stem, parameters=parameters, sha256=sha256_of(target), licence="MIT", **card)
    fields = dataclasses.asdict(full)
    del fields["name"]
    with publish(target.with_suffix(".json")) as file:
        file.write((json.dumps(fields, indent=2) + "\n").encode())
