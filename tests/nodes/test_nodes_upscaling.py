"""Larger results in nodes: the inputs, and a model of the host as what enlarges."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from fake_host import FakeHost, Pack
from torch import nn

PROJECT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module", params=["new", "old"])
def setting(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[FakeHost, Pack]]:
    with FakeHost(tmp_path_factory.mktemp("host"), newer=request.param == "new") as host:
        yield host, host.load(PROJECT)


class Nearest(nn.Module):
    """Enlarges by two, by nearest neighbours."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1))


class Described:
    """A model as the host hands it around, and spandrel describes it."""

    def __init__(self, channels: int = 3) -> None:
        self.model, self.scale, self.purpose = Nearest(), 2, "SR"
        self.input_channels = self.output_channels = channels
        self.architecture, self.tiling = SimpleNamespace(name="ESRGAN"), SimpleNamespace(name="SUPPORTED")

    def __call__(self, image: torch.Tensor) -> torch.Tensor:
        return image.repeat_interleave(2, -1).repeat_interleave(2, -2) * self.model.weight


def test_the_inputs_leave_saved_graphs_as_they_were(setting: tuple[FakeHost, Pack]):
    widget, socket = setting[1].module("nodes.upscaling").upscale_inputs()
    assert (widget.id, widget.default, widget.options) == ("upscale", "1", ["1", "2", "4"])
    assert (socket.id, type(socket).io_type) == ("upscale_model", "UPSCALE_MODEL")
    assert widget.optional and socket.optional


def test_a_model_of_the_host_enlarges_under_its_management(setting: tuple[FakeHost, Pack]):
    host, pack = setting
    upscaling, core = pack.module("nodes.upscaling"), pack.module("bfr_core.restoration.upscale")
    assert upscaling.host_upscaler(None) is None
    host.loaded.clear()
    model = Described()
    upscaler = upscaling.host_upscaler(model)
    with torch.inference_mode():  # as nodes run
        frame = torch.rand(3, 12, 10)
        assert torch.allclose(core.upscaled(frame, 2, upscaler), model(frame[None])[0])
        assert core.upscaled(frame, 4, upscaler).shape == (3, 48, 40)
    assert {patcher.model for patcher in host.loaded} == {model.model}
    assert upscaler.name == "ESRGAN x2" and len(upscaler.key) == 64
    host.cancel_after = 0
    try:
        with pytest.raises(host.interrupted):
            core.upscaled(frame, 2, upscaler)
    finally:
        host.cancel_after = None
    with pytest.raises(pack.module("bfr_core.errors").ModelError, match="with 1 channels in and 1 out"):
        upscaling.host_upscaler(Described(1))


def test_a_photo_is_restored_large_by_a_model_of_the_host(setting: tuple[FakeHost, Pack]):
    pack = setting[1]
    upscaling, photo = pack.module("nodes.upscaling"), pack.module("bfr_core.restoration.photo")
    options: Any = pack.module("bfr_core.restoration.options").RestoreOptions
    from tiny_nodes import load, synthetic

    frames = torch.rand(1, 3, 20, 30)
    asked = options(upscale=2, upscaler=upscaling.host_upscaler(Described()))
    with torch.inference_mode():
        made = photo.restore_photo(frames[0], load(pack, synthetic(pack)).restorer, faces=[], options=asked)
    assert list(made.image.shape) == list(upscaling.larger_shape(frames, 2)[1:])
    assert made.report.upscaled_by == "ESRGAN x2"
    alpha = torch.zeros(1, 20, 30, 1)
    alpha[:, :, 15:] = 1
    larger = upscaling.larger_alpha(alpha, 2)
    assert larger.shape == (1, 40, 60, 1) and float(larger.min()) == 0 and float(larger.max()) == 1
    assert upscaling.larger_alpha(alpha, 1) is alpha and upscaling.larger_alpha(None, 2) is None
