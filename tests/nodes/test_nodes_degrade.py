"""The node Degrade Faces on a stand-in host."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fake_host import FakeHost, Pack, execute
from skimage.data import astronaut

from bfr_core.degrade.chain import degrade, truth_of
from bfr_core.degrade.drawing import draw, params_from_dict
from bfr_core.degrade.presets import PRESETS, SEVERITIES

PROJECT = Path(__file__).resolve().parents[2]
FACES = np.stack([astronaut()[top : top + 96, 160:256] for top in (20, 40, 60)])


@pytest.fixture(scope="module", params=["new", "old"])
def setting(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[FakeHost, Pack]]:
    with FakeHost(tmp_path_factory.mktemp("host"), newer=request.param == "new") as host:
        yield host, host.load(PROJECT)


@pytest.fixture
def node(setting: tuple[FakeHost, Pack]) -> Any:
    extension = asyncio.run(setting[1].root.comfy_entrypoint())
    nodes = asyncio.run(extension.get_node_list())
    return next(node for node in nodes if node.define_schema().node_id == "BFR_DegradeFaces")


def image(channels: int = 3) -> torch.Tensor:
    batch = torch.from_numpy(FACES).float() / 255
    return torch.cat([batch, batch[..., :1]], -1) if channels == 4 else batch


def as_bytes(batch: torch.Tensor) -> np.ndarray:
    return np.round(batch[..., :3].numpy() * 255).astype(np.uint8)


def test_the_list_has_every_preset_and_severity(node: Any) -> None:
    preset = next(item for item in node.define_schema().inputs if item.id == "preset")
    assert preset.options == [*PRESETS, *SEVERITIES]


@pytest.mark.parametrize("channels", [3, 4])
def test_images_are_degraded_as_the_library_does(channels: int, node: Any) -> None:
    given = image(channels)
    before = given.clone()
    out, truth, text = execute(node, image=given, preset="gfpgan", seed=5)
    assert torch.equal(given, before)
    drawn = json.loads(text)
    assert [entry["seed"] for entry in drawn] == [5, 6, 7]
    for index, entry in enumerate(drawn):
        assert entry.pop("preset") == "gfpgan"
        params = params_from_dict({name: value for name, value in entry.items() if name != "seed"})
        assert params == draw(PRESETS["gfpgan"], 5 + index)
        assert np.array_equal(as_bytes(out)[index], degrade(FACES[index], params))
    assert torch.equal(truth, given)
    if channels == 4:
        assert torch.equal(out[..., 3], given[..., 3])


def test_truth_turns_gray_where_the_paper_does_it(node: Any) -> None:
    seeds = [seed for seed in range(40) if draw(PRESETS["gpen-open"], seed).gray]
    _, truth, _ = execute(node, image=image()[:1], preset="gpen-open", seed=seeds[0])
    assert np.array_equal(as_bytes(truth)[0], truth_of(FACES[0], draw(PRESETS["gpen-open"], seeds[0])))
    assert torch.equal(truth[..., 0], truth[..., 1])
    _, coloured, _ = execute(node, image=image()[:1], preset="gpen-open", seed=seeds[0], colour=False)
    assert torch.equal(coloured, image()[:1])


def test_jpeg_can_be_left_out(node: Any) -> None:
    out, _, text = execute(node, image=image()[:1], preset="difface", seed=3, jpeg=False)
    params = draw(PRESETS["difface"], 3)
    assert json.loads(text)[0]["jpeg_quality"] == 0 < params.jpeg_quality
    assert np.array_equal(as_bytes(out)[0], degrade(FACES[0], replace(params, jpeg_quality=0)))


def test_a_severity_draws_nothing(node: Any) -> None:
    first, _, _ = execute(node, image=image()[:1], preset="x8", seed=1)
    second, _, _ = execute(node, image=image()[:1], preset="x8", seed=2)
    assert torch.equal(first, second) and not torch.equal(first, image()[:1])


def test_empty_batches_nan_and_cancel(node: Any, setting: tuple[FakeHost, Pack]) -> None:
    host, pack = setting
    out, truth, text = execute(node, image=image()[:0], preset="gfpgan")
    assert out.shape == truth.shape == (0, 96, 96, 3) and json.loads(text) == []
    with pytest.raises(pack.module("bfr_core.errors").InputMediaError):
        execute(node, image=image() * torch.nan, preset="gfpgan")
    with pytest.raises(pack.module("bfr_core.errors").SettingsError):
        execute(node, image=image(), preset="nothing")
    host.cancel_after = 1
    try:
        with pytest.raises(host.interrupted):
            execute(node, image=image(), preset="gfpgan")
    finally:
        host.cancel_after = None
