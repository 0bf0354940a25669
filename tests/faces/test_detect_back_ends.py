"""The back ends of face detectors, and their errors; with the packages themselves: `test_optional_detectors.py`."""

from __future__ import annotations

import sys
import types
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from marks import opens_pickles, runs_yunet

from bfr_core.errors import InputMediaError, ModelError, WeightsError
from bfr_core.faces.detect import Detector, detectors, load_detector
from bfr_core.models.checkpoints.cards import embedded
from bfr_core.models.checkpoints.files import sha256_of
from bfr_core.models.registry import specs
from bfr_core.models.spec import KnownFile, ModelSpec
from bfr_core.networks.face_detector import FaceCascade


@pytest.fixture(scope="module")
def ours() -> Detector:
    return load_detector()


def test_every_back_end_says_whether_it_can_run() -> None:
    infos = detectors()
    assert [info.name for info in infos] == ["embedded", "yunet", "insightface", "facexlib"]
    assert infos[0].available
    assert all(info.reason for info in infos)


@runs_yunet
def test_known_file_in_a_folder_is_found(shared: Path) -> None:
    folder = shared / "weights"
    info = {info.name: info for info in detectors([folder])}["yunet"]
    assert info.available
    assert load_detector("yunet", folders=[folder]).name == "yunet"


def test_yunet_that_opencv_cannot_open_says_what_would_do(shared: Path, tmp_path: Path) -> None:
    broken = tmp_path / "yunet_n_dynamic.onnx"
    broken.write_bytes(b"no model")
    with pytest.raises(WeightsError, match=r"ONNX.*; expected a YuNet model"):
        load_detector("yunet", path=broken, trust=True)
    if int(cv2.__version__.split(".")[0]) < 5:
        with pytest.raises(WeightsError, match=r"\w.*; expected .* Take face_detection_yunet_2023mar.onnx or update"):
            load_detector("yunet", path=shared / "weights" / "yunet_n_dynamic.onnx")


def test_unknown_name() -> None:
    with pytest.raises(ModelError, match="embedded, yunet, insightface, facexlib"):
        load_detector("dlib")


@pytest.mark.parametrize("name", ["insightface", "facexlib"])
def test_missing_package_is_named_and_nothing_falls_back(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda module, package=None: None)
    with pytest.raises(ModelError) as caught:
        load_detector(name)
    assert f"pip install 'bfr-faces[{name}]'" in caught.value.todo
    assert "no other detector" in caught.value.kept


def test_missing_file_says_which_and_where_from(tmp_path: Path) -> None:
    with pytest.raises(WeightsError) as caught:
        load_detector("yunet")
    assert "yunet_n_dynamic.onnx" in caught.value.todo
    assert "104ee26c71d5" in caught.value.todo
    with pytest.raises(WeightsError, match="no such file"):
        load_detector("yunet", path=tmp_path / "nothing.onnx")


def test_unknown_file_is_refused_unless_trusted(tmp_path: Path) -> None:
    file = tmp_path / "yunet.onnx"
    file.write_bytes(b"not a model")
    with pytest.raises(WeightsError, match="trust=True"):
        load_detector("yunet", path=file)
    with pytest.raises(WeightsError, match="cannot open"):
        load_detector("yunet", path=file, trust=True)


def test_frames_of_another_shape_are_refused(ours: Detector) -> None:
    for wrong in (torch.zeros(3, 8, 8), torch.zeros(1, 8, 8, 3), torch.zeros(1, 3, 8, 8, dtype=torch.uint8)):
        with pytest.raises(InputMediaError, match=r"\(B, 3, H, W\)"):
            ours.detect(wrong)


def test_damaged_weights_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "detector.safetensors"
    file.write_bytes(embedded("detector").read_bytes()[:-100])
    with pytest.raises(WeightsError):
        load_detector(path=file)


def test_embedded_file_is_small_and_matches_its_card() -> None:
    from bfr_core.models.checkpoints.cards import read_card

    card = read_card("detector")
    assert embedded("detector").stat().st_size < 1_000_000
    assert card.sha256 == sha256_of(embedded("detector"))
    assert card.parameters == sum(p.numel() for p in FaceCascade().parameters()) <= 450_000


def stub(monkeypatch: pytest.MonkeyPatch, module: str, **members: object) -> None:
    """Put a module in place of one that is not installed here."""
    parts = module.split(".")
    for i in range(len(parts)):
        made = types.ModuleType(".".join(parts[: i + 1]))
        made.__spec__ = types.SimpleNamespace()  # type: ignore[assignment]
        monkeypatch.setitem(sys.modules, made.__name__, made)
    for name, value in members.items():
        setattr(sys.modules[module], name, value)


def known(monkeypatch: pytest.MonkeyPatch, name: str, file: Path) -> None:
    """Make a file one that the detector is known to work with."""
    declared: ModelSpec = next(spec for spec in specs("detector") if spec.id == name)
    changed = replace(declared, files=(KnownFile(file.name, sha256_of(file), "here"),), detect=None)
    monkeypatch.setattr(sys.modules[declared.load.__module__], "SPEC", changed)


def test_insightface_is_called_as_it_expects(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    seen: dict[str, object] = {}

    class Model:
        det_thresh = 0.0

        def prepare(self, ctx_id: int) -> None:
            seen["ctx"] = ctx_id

        def detect(self, image: np.ndarray, input_size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
            assert image.dtype == np.uint8
            assert input_size == (image.shape[1], image.shape[0])
            seen.setdefault("blue", image[0, 0].tolist())
            if image.shape[1] < 256:
                return np.zeros((0, 5)), np.zeros((0, 5, 2))
            return np.array([[10, 20, 30, 40, 0.9]]), np.full((1, 5, 2), 25.0)

    stub(monkeypatch, "onnxruntime")
    stub(monkeypatch, "insightface.model_zoo", get_model=lambda path, providers, static_shape_sessions: Model())
    file = tmp_path / "det.onnx"
    file.write_bytes(b"model")
    known(monkeypatch, "insightface", file)
    picture = torch.zeros(1, 3, 250, 250)
    picture[:, 2] = 1
    faces = load_detector("insightface", path=file).detect(picture, threshold=0.4)[0]
    assert seen == {"ctx": -1, "blue": [255, 0, 0]}
    assert [face.box for face in faces] == [(10, 20, 30, 40)]


@opens_pickles
def test_facexlib_is_filled_from_the_file_and_called_as_it_expects(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    class RetinaFace(torch.nn.Module):
        def __init__(self, network_name: str, half: bool, device: torch.device) -> None:
            super().__init__()
            assert network_name == "resnet50"
            self.weight = torch.nn.Parameter(torch.zeros(2))
            self.mean_tensor = torch.zeros(1)

        def detect_faces(self, image: np.ndarray, conf_threshold: float) -> np.ndarray:
            assert conf_threshold == 0.8
            assert self.weight.tolist() == [1.0, 2.0]
            return np.array([[1, 2, 31, 42, 0.99, *range(10)]]) if image.shape[0] > 100 else np.zeros((0, 15))

    stub(monkeypatch, "torchvision")
    stub(monkeypatch, "facexlib.detection.retinaface", RetinaFace=RetinaFace)
    file = tmp_path / "net.pth"
    torch.save({"module.weight": torch.tensor([1.0, 2.0])}, file)
    known(monkeypatch, "facexlib", file)
    faces = load_detector("facexlib", path=file).detect(torch.zeros(2, 3, 128, 128))
    assert [[face.box for face in row] for row in faces] == [[(1, 2, 31, 42)], [(1, 2, 31, 42)]]
    np.testing.assert_array_equal(faces[0][0].points, np.arange(10).reshape(5, 2))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (  # opencv-python 4.10.0.84, 4.11.0.86, 4.12.0.88 and 4.13.0.92, of the dynamic file
            "OpenCV(4.12.0) /io/opencv/modules/dnn/src/onnx/onnx_importer.cpp:1058: error: (-2:Unspecified error) in "
            "function 'handleNode'\n> Node [Shape@ai.onnx]:(onnx_node!Shape_104) parse error: OpenCV(4.12.0) "
            "/io/opencv/modules/dnn/src/onnx/onnx_importer.cpp:2442: error: (-215:Assertion failed) !isDynamicShape "
            "in function 'parseShape'\n> ",
            "Node [Shape@ai.onnx]: (-215:Assertion failed) !isDynamicShape in function 'parseShape'; expected",
        ),
        (  # opencv-python 5.0.0.93, of no model
            "OpenCV(5.0.0) /io/opencv/modules/dnn/src/onnx/onnx_importer2.cpp:346: error: (-210:Unsupported format or "
            "combination of formats) Failed to parse ONNX model: x.onnx in function 'parseFile'\n",
            "(-210:Unsupported format or combination of formats) Failed to parse ONNX model: x.onnx in function",
        ),
    ],
)
def test_what_opencv_says_is_told_without_its_paths(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, text: str, expected: str
) -> None:
    def create(*args: object) -> None:
        raise cv2.error(text)

    monkeypatch.setattr(cv2.FaceDetectorYN, "create", create)
    file = tmp_path / "x.onnx"
    file.write_bytes(b"model")
    with pytest.raises(WeightsError) as caught:
        load_detector("yunet", path=file, trust=True)
    assert expected in f"{caught.value.found}" and "/io/" not in caught.value.found


def test_torchvision_of_another_torch_is_said(monkeypatch: pytest.MonkeyPatch, shared: Path) -> None:
    """torchvision 0.28 from the index beside a CPU build of torch 2.13: no ImportError, and no word of what to do."""

    class Unfit:
        def find_spec(self, name: str, path: object = None, target: object = None) -> None:
            if name.startswith("facexlib.detection"):
                raise RuntimeError("operator torchvision::nms does not exist")

    stub(monkeypatch, "torchvision")
    stub(monkeypatch, "facexlib")
    monkeypatch.setattr(sys, "meta_path", [Unfit(), *sys.meta_path])
    monkeypatch.setattr(sys.modules["facexlib"], "__path__", [], raising=False)
    with pytest.raises(ModelError) as caught:
        load_detector("facexlib", path=shared / "weights" / "retinaface_mobilenet025.pth")
    assert f"with the torchvision that goes with torch {torch.__version__}" in caught.value.todo


def test_facexlib_without_torchvision_says_so_before_it_is_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    there = {"facexlib": types.SimpleNamespace()}
    monkeypatch.setattr("importlib.util.find_spec", lambda module, package=None: there.get(module))
    info = {info.name: info for info in detectors()}["facexlib"]
    assert not info.available and info.reason.startswith("needs torchvision")
