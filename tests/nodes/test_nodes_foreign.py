"""Faces of other packs in, and out: values as those tools make them."""

from __future__ import annotations

from collections import namedtuple
from typing import Any

import numpy as np
import pytest
import torch
from fake_host import Pack, execute
from tiny_nodes import SIZE, pictures, refused

HEIGHT, WIDTH = 80, 96
SEG = namedtuple(
    "SEG", "cropped_image cropped_mask confidence crop_region bbox label control_net_wrapper", defaults=[None]
)
"""As the Impact Pack declares it."""


def segs(*boxes: Any, size: tuple[int, int] = (HEIGHT, WIDTH), score: Any = 0.8) -> Any:
    mask = np.ones((40, 40), np.float32)
    return size, [SEG(None, mask, score, [10, 10, 70, 70], np.array(box), "face") for box in boxes]


def landmarks(pack: Pack, frames: int = 1, points: Any = None, size: tuple[int, int] = (HEIGHT, WIDTH)) -> Any:
    """As the core's MediaPipe nodes give them, with the points of a face in the middle of the picture."""
    if points is None:
        points = pack.module("bfr_core.faces.align").FFHQ_TEMPLATE * (40 / 512) + 20
    mesh = np.full((478, 2), 40, np.float32)
    for vertices, point in zip(pack.module("bfr_core.faces.foreign").MESH_POINTS, points, strict=True):
        mesh[list(vertices)] = point
    mesh[10], mesh[152] = (40, 20), (40, 60)
    face = {
        "bbox_xyxy": np.array([20, 20, 60, 60], np.float32),
        "blendshapes": {},
        "landmarks_xy": mesh,
        "landmarks_3d": np.zeros((478, 3), np.float32),
        "presence": 0.99,
        "score": 0.9,
        "transformation_matrix": np.eye(4),
    }
    return {"frames": [[face]] * frames, "image_size": size, "connection_sets": {"lips": frozenset({(61, 146)})}}


def test_landmarks_bring_their_own_points(nodes: dict[str, Any], tiny: Any, pack: Pack) -> None:
    image = pictures(2)
    tiny.detector.detect = lambda *_, **__: pytest.fail("nobody is looked for")
    faces, boxes, _, count, _ = execute(nodes["BFR_DetectFaces"], image=image, landmarks=landmarks(pack, 2))
    assert count == 2
    template = pack.module("bfr_core.faces.align").FFHQ_TEMPLATE
    assert np.abs(faces[0][0].points - (template * (40 / 512) + 20)).max() < 1e-3
    assert boxes[0][0]["score"] == pytest.approx(0.9)
    aligned, crops = execute(nodes["BFR_AlignFaces"], image=image, size=SIZE, landmarks=landmarks(pack, 2))
    given, _ = execute(nodes["BFR_AlignFaces"], image=image, size=SIZE, faces=faces)
    assert torch.equal(aligned, given)
    assert np.abs(crops.crops[0].matrix - [[1.6, 0, -32], [0, 1.6, -32]]).max() < 1e-3
    out, *_ = execute(nodes["BFR_RestoreFaces"], image=image, method="any", landmarks=landmarks(pack, 2))
    expected, *_ = execute(nodes["BFR_RestoreFaces"], image=image, method="any", faces=faces)
    assert torch.equal(out, expected) and not torch.equal(out, image)


@pytest.mark.parametrize("score", [0.8, np.float32(0.8), np.array([0.8]), None])
def test_segments_are_boxes_with_the_points_found_there(
    score: Any, nodes: dict[str, Any], tiny: Any, pack: Pack
) -> None:
    image = pictures(2)
    box = [20, 20, 60, 60]
    for name, inputs in (("BFR_RestoreFaces", {"method": "any"}), ("BFR_AlignFaces", {"size": SIZE})):
        out, *_ = execute(nodes[name], image=image, segs=segs(box, score=score), **inputs)
        as_boxes = {"x": 20, "y": 20, "width": 40, "height": 40}
        expected, *_ = execute(nodes[name], image=image, boxes=as_boxes, **inputs)
        assert torch.equal(out, expected), "a segment serves every image of a batch"
    faces, *_ = execute(nodes["BFR_DetectFaces"], image=image, segs=segs(box, score=score))
    assert faces[0][0].score == pytest.approx(1.0 if score is None else 0.8)
    assert np.array_equal(faces[0][0].points, tiny.face.points)


def test_segments_go_out_as_they_come_in(nodes: dict[str, Any], tiny: Any) -> None:
    image = pictures(2)
    faces, _, mask, _, made = execute(nodes["BFR_DetectFaces"], image=image)
    (height, width), found = made
    assert (height, width) == (HEIGHT, WIDTH)
    assert isinstance(made, tuple) and isinstance(found, list)
    (seg,) = found
    assert seg._fields == SEG._fields
    x0, y0, x1, y1 = seg.crop_region
    assert seg.cropped_mask.shape == (y1 - y0, x1 - x0) and seg.cropped_mask.dtype == np.float32
    whole = np.zeros((height, width), np.float32)
    whole[y0:y1, x0:x1] = seg.cropped_mask
    assert np.array_equal(whole, mask[0].numpy())
    assert seg.bbox == [20, 20, 60, 60] and seg.label == "face" and seg.confidence == pytest.approx(0.9)
    again, *_ = execute(nodes["BFR_DetectFaces"], image=image, segs=made)
    assert [face.box for face in again[0]] == [face.box for face in faces[0]]
    _, _, _, _, nobody = execute(nodes["BFR_DetectFaces"], image=torch.zeros(1, HEIGHT, WIDTH, 3))
    assert nobody == ((HEIGHT, WIDTH), [])


def test_faces_come_before_what_other_tools_say(nodes: dict[str, Any], tiny: Any, pack: Pack) -> None:
    image = pictures(1)
    for name, inputs in (("BFR_RestoreFaces", {"method": "any"}), ("BFR_AlignFaces", {"size": SIZE})):
        faces, *_ = execute(nodes["BFR_DetectFaces"], image=image)
        plain, *_ = execute(nodes[name], image=image, faces=faces, **inputs)
        strange = {"landmarks": "nonsense", "segs": "nonsense", "boxes": "nonsense"}
        out, *_ = execute(nodes[name], image=image, faces=faces, **inputs, **strange)
        assert torch.equal(out, plain)


@pytest.mark.parametrize("name", ["BFR_RestoreFaces", "BFR_AlignFaces", "BFR_DetectFaces"])
def test_what_cannot_be_read_is_refused(name: str, nodes: dict[str, Any], tiny: Any, pack: Pack) -> None:
    inputs = {"method": "any"} if name == "BFR_RestoreFaces" else {}
    broken = landmarks(pack)
    broken["frames"] = [[{"bbox_xyxy": [0, 0, 1, 1]}]]
    for given in (
        {"landmarks": "face"},
        {"landmarks": {"frames": 3}},
        {"landmarks": landmarks(pack, 2)},
        {"landmarks": landmarks(pack, size=(40, 48))},
        {"landmarks": landmarks(pack, points=np.full((5, 2), np.nan))},
        {"landmarks": broken},
        {"segs": "face"},
        {"segs": (3, 4)},
        {"segs": ((HEIGHT, WIDTH), [object()])},
        {"segs": segs([20, 20, 60, 60], size=(40, 48))},
        {"segs": segs([20, 20, 20, 60])},
        {"segs": segs([20, 20, np.nan, 60])},
        {"segs": segs([1, 2, 3])},
    ):
        refused(pack, "InputMediaError", nodes[name], image=pictures(1), **given, **inputs)
