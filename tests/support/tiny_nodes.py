"""A declared method for tests of nodes, in a pack that a stand-in host has loaded."""

from __future__ import annotations

import asyncio
import dataclasses
from typing import Any

import pytest
import torch
from fake_host import Pack, execute

SIZE = 64
"""Side of the crops of the tiny restorer."""

PARTS = ("what", "found", "kept", "todo")
"""Of every message."""


def synthetic(pack: Pack, name: str = "probe") -> Any:
    """Declare a method with a setting of every kind, which inverts faces and keeps what it was given."""
    registry, param = pack.module("bfr_core.registry"), pack.module("bfr_core.settings").param
    seen: list[Any] = []

    @dataclasses.dataclass(frozen=True, slots=True)
    class Settings:
        weight: float = param(0.5, "A share", low=0.0, high=1.0, step=0.05)
        steps: int = param(4, "A count", low=1, high=50)
        tiled: bool = param(False, "A switch")
        mode: str = param("soft", "A choice", choices=("soft", "hard"))

    def restore(net: Any, faces: torch.Tensor, settings: Any, seeds: Any, inputs: Any, context: Any) -> torch.Tensor:
        seen.append((dataclasses.asdict(settings), list(seeds)))
        return 1 - faces

    method = registry.Method(
        id=name,
        title=name.title(),
        summary="Inverts.",
        papers=(registry.Paper("A paper", "", "Sec. 1"),),
        configs=(registry.Config("tiny", "Tiny", SIZE, embedded=("none",)),),
        build=lambda config: torch.nn.Identity(),
        restore=restore,
        recognise=lambda keys: None,
        settings_type=Settings,
        stages={"seen": seen},  # type: ignore[dict-item]  carried along, so that a test can look
    )
    return method


def load(pack: Pack, method: Any) -> Any:
    restorer = pack.module("bfr_core.restorer").Restorer(method, method.configs[0], torch.nn.Identity(), "test")
    return pack.module("nodes.models").LoadedRestorer(restorer, pack.module("nodes.host").Managed(restorer.net))


def node_list(pack: Pack) -> list[Any]:
    extension = asyncio.run(pack.root.comfy_entrypoint())
    return asyncio.run(extension.get_node_list())


def pictures(count: int, channels: int = 3, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    generator = torch.Generator().manual_seed(count)
    return (torch.rand(count, 80, 96, channels, generator=generator) * 0.5 + 0.2).to(dtype)


def refused(pack: Pack, kind: str, node: Any, **inputs: Any) -> Any:
    """Return the error of our tree that a node must raise, with its four parts."""
    with pytest.raises(getattr(pack.module("bfr_core.errors"), kind)) as caught:
        execute(node, **inputs)
    assert all(getattr(caught.value, part).strip() for part in PARTS)
    return caught.value
