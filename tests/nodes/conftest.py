"""The pack on a stand-in host, and a method whose result is known."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from fake_host import FakeHost, Pack
from tiny_nodes import load, node_list, synthetic

PROJECT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module", params=["new", "old"])
def setting(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[FakeHost, Pack]]:
    with FakeHost(tmp_path_factory.mktemp("host"), newer=request.param == "new") as host:
        yield host, host.load(PROJECT)


@pytest.fixture
def host(setting: tuple[FakeHost, Pack]) -> Iterator[FakeHost]:
    host = setting[0]
    host.progress.clear()
    host.loaded.clear()
    yield host
    host.cancel_after = None


@pytest.fixture
def pack(setting: tuple[FakeHost, Pack], host: FakeHost) -> Pack:
    return setting[1]


@pytest.fixture
def nodes(pack: Pack) -> dict[str, Any]:
    return {node.define_schema().node_id: node for node in node_list(pack)}


@pytest.fixture
def tiny(pack: Pack, monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """A detector that finds one face in every frame that is not black, and a restorer that inverts it."""
    detect, restore, types = (pack.module(name) for name in ("nodes.detect", "nodes.restore", "bfr_core.types"))
    box = (20.0, 20.0, 60.0, 60.0)
    face = types.Face(box, pack.module("bfr_core.faces.align").points_from_box(box), 0.9)

    def find(frames: torch.Tensor, *, threshold: float | None = None) -> list[list[Any]]:
        return [[face] if frame.mean() > 0.01 else [] for frame in frames]

    detector = SimpleNamespace(name="tiny", detect=find)
    method = synthetic(pack)
    loaded = load(pack, method)
    for module in (detect, restore):
        monkeypatch.setattr(module, "get_detector", lambda *_: detector)
    monkeypatch.setattr(restore, "get_restorer", lambda *_: loaded)
    return SimpleNamespace(detector=detector, restorer=loaded, face=face, method=method)
