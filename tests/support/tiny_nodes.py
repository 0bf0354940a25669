"""A declared method for tests of nodes, in a pack that a stand-in host has loaded."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from fake_host import Pack

SIZE = 64
"""Side of the crops of the tiny restorer."""


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
