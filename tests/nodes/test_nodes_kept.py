"""What nodes restored is kept: who changes how it is shown does not wait for it again, until the host frees memory."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import av
import numpy as np
import pytest
import torch
from fake_host import FakeHost, VideoFromFile, execute
from tiny_nodes import load, synthetic

PROJECT = Path(__file__).resolve().parents[2]
WIDTH, HEIGHT, FRAMES = 96, 80, 12


@pytest.fixture
def given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[SimpleNamespace]:
    """A pack of its own for each test, for it keeps what it restores: one face in every frame, inverted."""
    with FakeHost(tmp_path / "host") as host:
        pack = host.load(PROJECT)
        box = (20.0, 20.0, 60.0, 60.0)
        types, align = pack.module("bfr_core.types"), pack.module("bfr_core.faces.align")
        face = types.Face(box, align.points_from_box(box), 0.9)
        looks = [0]

        def find(frames: torch.Tensor, *, threshold: float | None = None) -> list[list[Any]]:
            looks[0] += len(frames)
            return [[face] for _ in frames]

        detector = SimpleNamespace(name="tiny", detect=find, to_device=lambda device: None)
        method = synthetic(pack)
        loaded = load(pack, method)
        for name in ("detect", "restore", "video"):
            monkeypatch.setattr(pack.module(f"nodes.{name}"), "get_detector", lambda *_: detector)
        for name in ("restore", "video"):
            monkeypatch.setattr(pack.module(f"nodes.{name}"), "get_restorer", lambda *_, **__: loaded)
        monkeypatch.setattr(pack.module("nodes.video"), "get_recogniser", lambda *_: None)
        extension = asyncio.run(pack.root.comfy_entrypoint())
        nodes = {node.define_schema().node_id: node for node in asyncio.run(extension.get_node_list())}
        yield SimpleNamespace(host=host, pack=pack, nodes=nodes, loaded=loaded, seen=method.stages["seen"], looks=looks)


def images(count: int) -> torch.Tensor:
    """Return frames of one shot: the same but for some noise."""
    draw = torch.Generator().manual_seed(1)
    shot, noise = (torch.rand(many, HEIGHT, WIDTH, 3, generator=draw) for many in (1, count))
    return shot * 0.5 + 0.2 + noise * 0.02


def restored(given: SimpleNamespace) -> int:
    """Return how many faces the method restored since it was asked last."""
    count = sum(len(seeds) for _, seeds in given.seen)
    given.seen.clear()
    return count


def taken(report: str) -> list[str]:
    """Return what the report, of the last of several pictures, says of it."""
    told = json.loads(report)
    last = told[-1] if isinstance(told, list) else told
    return [note for note in last["notes"] if "taken from an earlier run" in note]


@pytest.mark.parametrize(("kind", "report"), [("BFR_RestoreFaces", 3), ("BFR_RestoreFacesInFrames", 1)])
def test_another_strength_only_blends_again(given: SimpleNamespace, kind: str, report: int) -> None:
    node, batch = given.nodes[kind], images(10)
    usual: dict[str, Any] = {"image": batch, "method": "irn/compact", "grain": 0.0}  # drawn for what a strength shows
    usual |= {"frame_rate": 25.0, "all_faces": True} if kind.endswith("Frames") else {}
    first = execute(node, **usual)
    assert restored(given) == 10 and taken(first[report]) == []
    second = execute(node, **usual, strength=0.5)
    assert restored(given) == 0
    assert taken(second[report]) == ["10 faces were taken from an earlier run, and not restored again"]
    changed = (first[0] - batch).abs().amax() > 0.1
    half = batch + (first[0] - batch) / 2
    assert changed and torch.allclose(second[0], half, atol=1e-5)
    execute(node, **usual, seed=5)
    assert restored(given) == 10, "a seed draws other noise"


def test_nodes_share_what_they_restored(given: SimpleNamespace) -> None:
    """The aligned faces of a graph in steps are those of Restore Faces."""
    batch = images(2)
    execute(given.nodes["BFR_RestoreFaces"], image=batch, method="irn/compact")
    assert restored(given) == 2
    (faces, *_) = execute(given.nodes["BFR_DetectFaces"], image=batch)
    aligned, crops = execute(given.nodes["BFR_AlignFaces"], image=batch, faces=faces, size=64)
    node = given.pack.module("nodes.restore").method_node(given.loaded.restorer.method)
    execute(node, faces=aligned, restorer=given.loaded, crops=crops)
    assert restored(given) == 0


def test_freeing_memory_lets_go_of_them(given: SimpleNamespace) -> None:
    node, usual = given.nodes["BFR_RestoreFaces"], {"image": images(1), "method": "irn/compact"}
    execute(node, **usual)
    (patcher,) = {id(one): one for one in given.host.loaded}.values()
    patcher.detach(unpatch_all=False)  # the host swaps a model for its clone
    execute(node, **usual)
    assert restored(given) == 1
    patcher.detach()
    execute(node, **usual)
    assert restored(given) == 1


def write_clip(path: Path) -> Path:
    with av.open(str(path), "w") as output:
        stream: Any = output.add_stream("libx264", rate=25, options={"crf": "8", "preset": "ultrafast", "bf": "0"})
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        for index in range(FRAMES):
            texture = np.random.default_rng(index // 4).integers(40, 160, (HEIGHT, WIDTH, 3), np.uint8)
            frame = av.VideoFrame.from_ndarray(texture, format="rgb24")
            frame.pts, frame.time_base = index, Fraction(1, 25)
            output.mux(stream.encode(frame))
        output.mux(stream.encode(None))
    return path


def decoded(video: Any) -> np.ndarray:
    with av.open(video.get_stream_source()) as container:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])


def test_a_film_is_neither_looked_through_nor_restored_again(given: SimpleNamespace, tmp_path: Path) -> None:
    node, clip = given.nodes["BFR_RestoreFacesInVideo"], write_clip(tmp_path / "film.mp4")

    def run(**inputs: Any) -> tuple[np.ndarray, dict[str, Any]]:
        usual = {"video": VideoFromFile(str(clip)), "method": "irn/compact", "codec": "ffv1", "all_faces": True}
        video, report, _ = execute(node, **(usual | inputs))
        return decoded(video), json.loads(report)

    run()
    made, looked = restored(given), given.looks[0]
    assert 0 < made <= FRAMES and looked > 0
    for inputs in ({"strength": 0.5}, {"deflicker": 0.0}, {"colours": "method"}, {"codec": "h264"}):
        _, report = run(**inputs)
        assert restored(given) == 0 and given.looks[0] == looked, inputs
        assert any(note.startswith(f"{made} faces were taken") for note in report["notes"]), report["notes"]
    half, _ = run(strength=0.5)
    files = sorted((given.host.temp / "bfr_video" / "faces").glob("*.face"))
    assert len(files) == made
    for path in files:
        path.unlink()
    fresh, report = run(strength=0.5)
    assert restored(given) == made and not any("taken" in note for note in report["notes"])
    assert np.array_equal(half, fresh)


def test_frames_are_shown_while_they_are_restored(given: SimpleNamespace) -> None:
    """Before and after beside each other, as films show them."""
    inputs = {"image": images(10), "frame_rate": 25.0, "method": "irn/compact", "all_faces": True}
    execute(given.nodes["BFR_RestoreFacesInFrames"], **inputs)
    kind, shown, side = given.host.previews[0]
    assert (kind, side) == ("JPEG", 512)
    left, right = (np.asarray(part.convert("RGB"), float) for part in halves(shown))
    assert np.abs(left - right).max() > 30, "the face is another"
    assert np.abs(left[:8] - right[:8]).mean() < 12, "and what is above it is not"


def halves(picture: Any) -> tuple[Any, Any]:
    wide = round(picture.height * WIDTH / HEIGHT)
    return picture.crop((0, 0, wide, picture.height)), picture.crop((picture.width - wide, 0, *picture.size))
