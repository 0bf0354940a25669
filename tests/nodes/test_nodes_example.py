"""Example media: faces that are found, a film that is one, and both poor where that was asked for."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import av
import pytest
import torch
from fake_host import FakeHost, execute

from bfr_core.faces.detect import load_detector

PROJECT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    with FakeHost(tmp_path_factory.mktemp("host")) as host:
        extension = asyncio.run(host.load(PROJECT).root.comfy_entrypoint())
        yield {node.define_schema().node_id: node for node in asyncio.run(extension.get_node_list())}


@pytest.mark.parametrize(("picture", "faces"), [("one person", 1), ("another person", 1), ("two people", 2)])
@pytest.mark.parametrize("degraded", [True, False])
def test_every_face_of_a_portrait_is_found(nodes: dict[str, Any], picture: str, faces: int, degraded: bool) -> None:
    (image,) = execute(nodes["BFR_ExamplePortrait"], picture=picture, degraded=degraded)
    (found,) = load_detector().detect(image.movedim(-1, 1))
    assert image.shape[0] == 1 and image.shape[-1] == 3 and len(found) == faces


def test_a_poor_portrait_shows_the_same_and_worse(nodes: dict[str, Any]) -> None:
    poor, good = (execute(nodes["BFR_ExamplePortrait"], degraded=degraded)[0] for degraded in (True, False))
    assert poor.shape == good.shape
    assert 0.005 < (poor - good).abs().mean() < 0.05
    again = execute(nodes["BFR_ExamplePortrait"], degraded=True)[0]
    assert torch.equal(poor, again), "the same each time, so that what follows is not run anew"


def test_a_clip_is_a_film_that_moves(nodes: dict[str, Any]) -> None:
    (video,) = execute(nodes["BFR_ExampleClip"], frames=6, degraded=False)
    with av.open(video.get_stream_source()) as container:
        stream = container.streams.video[0]
        shown = [torch.from_numpy(frame.to_ndarray(format="rgb24")).float() for frame in container.decode(stream)]
        assert (stream.average_rate, stream.width, stream.height) == (25, 384, 384)
    assert len(shown) == 6
    assert all((a - b).abs().mean() > 0.3 for a, b in pairwise(shown))
    assert all(len(found) == 1 for found in load_detector().detect(torch.stack(shown).movedim(-1, 1) / 255))
