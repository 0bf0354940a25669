"""What nodes make of boxes, turned pictures and large faces, with the embedded models on a stand-in host."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from fake_host import FakeHost, execute

from bfr_core.media.pictures import read_picture, to_float

PROJECT = Path(__file__).resolve().parents[2]
FACE = {"x": 375.0, "y": 65.0, "width": 110.0, "height": 150.0}
"""Around the face of the picture."""
WALL = {"x": 5.0, "y": 5.0, "width": 120.0, "height": 120.0}


@pytest.fixture(scope="module")
def nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    with FakeHost(tmp_path_factory.mktemp("host")) as host:
        extension = asyncio.run(host.load(PROJECT).root.comfy_entrypoint())
        yield {node.define_schema().node_id: node for node in asyncio.run(extension.get_node_list())}


@pytest.fixture(scope="module")
def sharp(shared) -> torch.Tensor:
    """A sharp photo of one person, (1, H, W, 3)."""
    return to_float(read_picture(shared / "photos" / "clean" / "obama-480p.jpg")).permute(1, 2, 0)[None]


@pytest.fixture(scope="module")
def blurred(shared) -> torch.Tensor:
    picture = read_picture(shared / "photos" / "degraded" / "Eliane_Karp_0001_00_lq.png")
    return to_float(picture).permute(1, 2, 0)[None]


def restored(nodes: dict[str, Any], image: torch.Tensor, **inputs: Any) -> tuple[torch.Tensor, dict[str, Any]]:
    out, _, _, report = execute(nodes["BFR_RestoreFaces"], image=image, method="irn/compact", **inputs)
    (entry,) = json.loads(report)
    return out, entry


def test_row14_a_box_over_a_wall_is_kept_and_one_over_a_face_restored(nodes, sharp):
    out, entry = restored(nodes, sharp, boxes=[WALL, FACE])
    assert [(face["action"], face["reason"]) for face in entry["faces"]] == [
        ("kept", "no face was found in this box"),
        ("restored", ""),
    ]
    assert torch.equal(out[:, 5:125, 5:125], sharp[:, 5:125, 5:125]) and not torch.equal(out, sharp)


def test_a_box_over_a_wall_is_no_face_in_steps_either(nodes, sharp):
    aligned, crops = execute(nodes["BFR_AlignFaces"], image=sharp, boxes=[WALL, FACE])
    assert len(aligned) == len(crops.crops) == 1 and crops.crops[0].face.index == 1
    _, crops = execute(nodes["BFR_AlignFaces"], image=sharp, boxes=[WALL])
    assert crops.crops == ()


def test_boxes_of_detectors_are_judged_as_faces_are(nodes, blurred, shared):
    """A sharp face of 512 px: found, or in a box with a score, it is left alone; a drawn box is an order."""
    picture = read_picture(shared / "faces" / "pd512" / "val" / "A000361.jpg")
    image = to_float(picture).permute(1, 2, 0)[None]
    faces, boxes, *_ = execute(nodes["BFR_DetectFaces"], image=image)
    drawn = [[{name: box[name] for name in ("x", "y", "width", "height")} for box in boxes[0]]]
    for given, action in (({"faces": faces}, "kept"), ({"boxes": boxes}, "kept"), ({"boxes": drawn}, "restored")):
        assert [face["action"] for face in restored(nodes, image, **given)[1]["faces"]] == [action]
    _, found, *_ = execute(nodes["BFR_DetectFaces"], image=blurred)
    assert restored(nodes, blurred, boxes=found)[1]["faces"][0]["action"] == "restored"


def test_row14_lying_pictures_and_their_notes_and_times(nodes, blurred):
    lying = torch.rot90(blurred, 1, (1, 2)).contiguous()
    out, entry = restored(nodes, lying)
    assert entry["notes"] == ["1 face was found when the picture was turned by about 270 degrees to the left"]
    assert entry["seconds"]["detect"] > 0 and entry["faces"][0]["seconds"] > 0 and entry["detector"] == "embedded"
    assert not torch.equal(out, lying)
    faces, _, _, count, *_ = execute(nodes["BFR_DetectFaces"], image=lying)
    assert count == 1 and abs(faces[0][0].turned - 270) < 10  # how the face leans, as its points say
    _, entry = restored(nodes, torch.full((1, 90, 120, 3), 0.4))
    assert entry["notes"][0].startswith("No face was found, at any angle")
    _, entry = restored(nodes, blurred, faces=[[]])
    assert entry["notes"] == ["No faces were given with this picture: nothing was restored"]
