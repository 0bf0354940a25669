"""The node Compare Faces on a stand-in host."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fake_host import FakeHost, execute
from skimage.data import astronaut
from skimage.metrics import peak_signal_noise_ratio

PROJECT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def setting(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[FakeHost, Any]]:
    with FakeHost(tmp_path_factory.mktemp("host")) as host:
        pack = host.load(PROJECT)
        extension = asyncio.run(pack.root.comfy_entrypoint())
        nodes = {node.define_schema().node_id: node for node in asyncio.run(extension.get_node_list())}
        yield host, nodes["BFR_CompareFaces"]


@pytest.fixture
def node(setting: tuple[FakeHost, Any]) -> Any:
    return setting[1]


def batch(*images: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.stack(images).astype(np.float32) / 255)


FACE = astronaut()[0:256, 90:346]
NOISY = np.clip(FACE + np.random.default_rng(0).normal(0, 12, FACE.shape), 0, 255).astype(np.uint8)


def test_figures_are_those_of_scikit_image_and_the_sheet_shows_each_pair(node: Any) -> None:
    sheet, text = execute(node, image=batch(NOISY, FACE), truth=batch(FACE, FACE))
    found = json.loads(text)
    first, second = (pair["values"] for pair in found["pairs"])
    assert first["psnr"]["restored"] == pytest.approx(peak_signal_noise_ratio(FACE, NOISY), abs=1e-4)
    assert second["psnr"]["restored"] == "inf" and second["ssim"]["restored"] == 1.0
    assert first["detected"]["restored"] == 100.0 and 0 < first["nme_5"]["restored"] < 5
    assert second["nme_5"]["restored"] == 0.0
    assert first["sharpness"]["restored"] > first["sharpness"]["truth"] == second["sharpness"]["restored"]
    assert next(row for row in found["metrics"] if row["key"] == "psnr")["sides"]["restored"]["equal"] == 1
    assert sheet.shape[0] == 1 and sheet.dtype == torch.float32 and sheet.min() >= 0 and sheet.max() <= 1
    assert sheet.shape[1] > 2 * 320 and sheet.shape[2] == 2 * 320 + 8


def test_the_input_shows_what_was_gained(node: Any) -> None:
    sheet, text = execute(node, image=batch(FACE), truth=batch(FACE), input=batch(NOISY))
    psnr = next(row for row in json.loads(text)["metrics"] if row["key"] == "psnr")
    assert psnr["improved"] == {"better_than_input": 1, "of": 1}
    assert sheet.shape[2] == 3 * 320 + 2 * 8


def test_a_long_batch_has_a_bounded_sheet_and_all_figures(node: Any) -> None:
    gray = batch(*[np.full((64, 64, 3), 10 * i, np.uint8) for i in range(5)])
    short, text = execute(node, image=gray, truth=gray.flip(0), rows=2)
    long, _ = execute(node, image=gray, truth=gray.flip(0), rows=5)
    assert short.shape[1] < 0.5 * long.shape[1] + 40
    found = json.loads(text)
    assert len(found["pairs"]) == 5
    # No face in a gray square: said, and not taken for zero.
    assert found["pairs"][0]["values"]["nme_5"]["restored"] is None
    assert "no face" in found["pairs"][0]["why"]["nme_5"]


@pytest.mark.parametrize(
    "truth", [batch(FACE, FACE), batch(FACE[:-16]), batch(FACE[:, :-16])], ids=["count", "height", "width"]
)
def test_batches_that_differ_are_refused_with_advice(node: Any, truth: torch.Tensor) -> None:
    with pytest.raises(Exception, match=r"as many images of one size.*resize one") as error:
        execute(node, image=batch(FACE), truth=truth)
    assert type(error.value).__name__ == "InputMediaError"


def test_cancel_passes_through(setting: tuple[FakeHost, Any]) -> None:
    host, node = setting
    host.cancel_after = 1
    try:
        with pytest.raises(BaseException) as error:
            execute(node, image=batch(FACE, FACE), truth=batch(FACE, FACE))
        assert type(error.value).__name__ == "InterruptProcessingException"
    finally:
        host.cancel_after = None
