"""Detectors of other packages, with the packages themselves and published files: `make optional`."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from marks import opens_pickles, runs_yunet

from bfr_core.errors import ModelError, WeightsError
from bfr_core.faces.detect import detectors, load_detector
from bfr_core.types import Face

pytestmark = pytest.mark.optional

STRIDES, ANCHORS = (8, 16, 32), 2


def read(path: Path) -> torch.Tensor:
    image = cv2.imread(str(path), cv2.IMREAD_COLOR)
    assert image is not None
    return torch.from_numpy(np.ascontiguousarray(image[..., ::-1])).permute(2, 0, 1)[None].float() / 255


def scrfd_of_red_squares(path: Path) -> None:
    """Write a model with SCRFD's nine outputs that takes red places for faces of 64 px, at the coarsest stride."""
    from onnx import TensorProto, helper, numpy_helper, save

    nodes, outputs, kept = [], [], []
    # Distances to the four sides, and of the points from the cell's corner, in strides of 32.
    sides, points = [1.0] * 4, [-0.5, -0.5, 0.5, -0.5, 0.0, 0.0, -0.4, 0.5, 0.4, 0.5]
    for name, channels, fixed in (("score", 1, None), ("box", 4, sides), ("points", 10, points)):
        for stride in STRIDES:
            weight, bias = np.zeros((ANCHORS * channels, 3, 1, 1), np.float32), np.zeros(ANCHORS * channels, np.float32)
            if fixed is None:
                # Red of 1 and no green: 0.99; black or gray: 0.
                weight[0, :2, 0, 0] = (10, -10) if stride == STRIDES[-1] else (0, 0)
                bias[:] = -15
            else:
                bias[:] = fixed * ANCHORS
            key = f"{name}{stride}"
            kept += [numpy_helper.from_array(weight, f"w_{key}"), numpy_helper.from_array(bias, f"b_{key}")]
            shape = numpy_helper.from_array(np.array([-1, channels], np.int64), f"s_{key}")
            kept.append(shape)
            nodes += [
                helper.make_node("AveragePool", ["x"], [f"p_{key}"], kernel_shape=[stride] * 2, strides=[stride] * 2),
                helper.make_node("Conv", [f"p_{key}", f"w_{key}", f"b_{key}"], [f"c_{key}"]),
                helper.make_node("Transpose", [f"c_{key}"], [f"t_{key}"], perm=[0, 2, 3, 1]),
                helper.make_node("Reshape", [f"t_{key}", f"s_{key}"], [f"r_{key}" if fixed is None else key]),
            ]
            if fixed is None:
                nodes.append(helper.make_node("Sigmoid", [f"r_{key}"], [key]))
            outputs.append(helper.make_tensor_value_info(key, TensorProto.FLOAT, ["n", channels]))
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, "h", "w"])
    graph = helper.make_graph(nodes, "scrfd", [x], outputs, kept)
    save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8), str(path))


def test_insightface_finds_and_opens_no_session_for_each_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """insightface 2.1 with `static_shape_sessions` left alone opens two for each picture here: one for each search."""
    import onnxruntime

    path = tmp_path / "det.onnx"
    scrfd_of_red_squares(path)
    detector = load_detector("insightface", path=path, trust=True)
    opened = []
    session = onnxruntime.InferenceSession

    class Counted(session):
        def __init__(self, *args: object, **kwargs: object) -> None:
            opened.append(1)
            super().__init__(*args, **kwargs)

    monkeypatch.setattr(onnxruntime, "InferenceSession", Counted)
    for height, width in ((480, 640), (512, 512), (600, 352)):
        frame = torch.zeros(1, 3, height, width)
        frame[:, 0, 192:224, 96:128] = 1
        found: list[Face] = detector.detect(frame)[0]
        nearest = min(found, key=lambda face: float(np.abs(np.array(face.box) - (64, 160, 128, 224)).max()))
        # SCRFD's cells are named by their corners.
        np.testing.assert_allclose(nearest.box, (64, 160, 128, 224), atol=1)
        assert nearest.points[0, 0] < nearest.points[1, 0] and nearest.score > 0.9
    assert opened == []


def test_a_recogniser_is_no_detector_for_insightface(shared: Path) -> None:
    with pytest.raises(WeightsError, match=r"ArcFaceONNX; expected SCRFD"):
        load_detector("insightface", path=shared / "weights" / "MobileFaceNet.onnx", trust=True)


def torchvision_runs() -> bool:
    try:
        import torchvision  # noqa: F401
    except (ImportError, RuntimeError):
        return False
    return True


@opens_pickles
def test_facexlib_finds_both_people_or_names_the_torchvision_that_it_needs(shared: Path) -> None:
    """PyPI's torchvision is built for CUDA: a CPU build of torch lacks what it needs (0.28, 2.13)."""
    path = shared / "weights" / "retinaface_mobilenet025.pth"
    if not torchvision_runs():
        with pytest.raises(ModelError) as caught:
            load_detector("facexlib", path=path)
        assert f"the torchvision that goes with torch {torch.__version__}" in caught.value.todo
        return
    faces = load_detector("facexlib", path=path).detect(read(shared / "photos" / "clean" / "two_people.jpg"))[0]
    ours = load_detector().detect(read(shared / "photos" / "clean" / "two_people.jpg"))[0]
    assert len(faces) == len(ours) == 2
    for face, other in zip(faces, ours, strict=True):
        assert np.abs(face.points - other.points).max() < 0.25 * other.eye_distance


@runs_yunet
def test_yunet_finds_both_people(shared: Path) -> None:
    detector = load_detector("yunet", path=shared / "weights" / "yunet_n_dynamic.onnx")
    assert len(detector.detect(read(shared / "photos" / "clean" / "two_people.jpg"))[0]) == 2


def test_packages_that_are_here_are_said_to_be(shared: Path) -> None:
    infos = {info.name: info for info in detectors([shared / "weights"])}
    assert all(importlib.util.find_spec(name) for name in ("insightface", "onnxruntime", "facexlib", "torchvision"))
    assert infos["facexlib"].available and infos["yunet"].available
    assert "needs a file" in infos["insightface"].reason and "det_10g.onnx" in infos["insightface"].reason
