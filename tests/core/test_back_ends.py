"""A new back end is one file: it shows in every list and is opened by the one loader, and nothing else is touched."""

from __future__ import annotations

import asyncio
import hashlib
import importlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
import torch
from fake_host import FakeHost, execute
from safetensors.torch import save_file

from bfr_core.cli import main
from bfr_core.errors import ModelError, WeightsError
from bfr_core.evaluate.tools import FaceSample, MetricModels
from bfr_core.metrics.files import files, find
from bfr_core.models import loader
from bfr_core.models.loader import available, load
from bfr_core.models.registry import get_spec, specs

PROJECT = Path(__file__).resolve().parents[2]
CONTENT = b"98 points on a line"
DUMMY = f'''
import torch
from ...models.spec import KnownFile, ModelSpec

def _load(checkpoint):
    line = torch.arange(98.0).double()[:, None] + len(checkpoint.path.read_bytes())
    return lambda faces: line.expand(len(faces), 98, 2)

FILE = KnownFile("dummy.onnx", "{hashlib.sha256(CONTENT).hexdigest()}", "nowhere", "https://example.org/dummy.onnx")
SPEC = ModelSpec("dummy", "landmarker", "Dummy", "CC0", _load, (FILE,), suffixes=(".onnx",))
'''


def add_to(package: ModuleType, folder: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make a folder part of a package of back ends, as an installed extension would."""
    monkeypatch.setattr(package, "__path__", [*package.__path__, str(folder)])
    importlib.invalidate_caches()
    monkeypatch.delitem(sys.modules, f"{package.__name__}.{name}", raising=False)


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """The folder of the back end; its module is forgotten afterwards."""
    place = tmp_path / "more"
    place.mkdir()
    (place / "dummy.py").write_text(DUMMY)
    known = set(sys.modules)
    yield place
    for name in set(sys.modules) - known:
        if name.endswith(".landmarkers.dummy"):
            del sys.modules[name]


@pytest.fixture
def dummy(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of weights with the file of a landmark network that was just added."""
    add_to(importlib.import_module("bfr_core.backends.landmarkers"), folder, "dummy", monkeypatch)
    monkeypatch.setattr(loader, "_kept", {})
    weights = folder.parent / "weights"
    weights.mkdir()
    (weights / "dummy.onnx").write_bytes(CONTENT)
    return weights


def test_it_is_listed_by_the_library_and_the_command(dummy, capsys):
    assert [spec.id for spec in specs("landmarker")] == ["fan", "dummy"]
    assert {info.name: info.available for info in available("landmarker", [dummy])} == {"fan": False, "dummy": True}
    assert main(["models", "list"]) == 0
    assert "  dummy: Dummy, not here, needs a file: Get dummy.onnx (nowhere" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        main(["models", "fetch", "--help"])
    assert "dummy" in capsys.readouterr().out


def test_the_one_loader_opens_it_checks_its_file_and_keeps_it(dummy):
    spec, path = get_spec("landmarker", "dummy"), dummy / "dummy.onnx"
    network = load(spec, folders=[dummy])
    assert network(torch.zeros(2, 3, 8, 8))[1, 5].tolist() == [5 + len(CONTENT)] * 2
    assert load(spec, path) is network and load(spec, path, shared=False) is not network
    assert load("landmarker", path)(torch.zeros(1, 3, 8, 8)).shape == (1, 98, 2)
    path.write_bytes(b"other")
    with pytest.raises(WeightsError, match="trust=True"):
        load(spec, path)
    assert load(spec, path, trust=True)(torch.zeros(1, 3, 8, 8))[0, 0, 0] == 5
    with pytest.raises(WeightsError, match=r"Cannot use .* as a landmark network.*98-point FAN of facexlib or Dummy"):
        load("landmarker", path)
    with pytest.raises(WeightsError, match=r"no such file; expected dummy\.onnx"):
        load(spec, dummy / "gone.onnx")


def test_evaluation_measures_with_it(dummy):
    assert files()["landmarker"].names == ("alignment_WFLW_4HG.pth", "dummy.onnx")
    assert find(dummy, "landmarker") == dummy / "dummy.onnx"
    tools = MetricModels(dummy)
    assert tools.missing(("landmarker",)) == "" and "nowhere (dummy.onnx)" in MetricModels().missing(("landmarker",))
    assert FaceSample(torch.zeros(3, 8, 8), tools).many_points[0].tolist() == [len(CONTENT)] * 2


def test_nodes_offer_its_files_and_use_them(folder, tmp_path, monkeypatch):
    with FakeHost(tmp_path / "host") as host:
        pack = host.load(PROJECT)
        asyncio.run(pack.root.comfy_entrypoint())
        nodes = asyncio.run(asyncio.run(pack.root.comfy_entrypoint()).get_node_list())
        masks = next(node for node in nodes if node.define_schema().node_id == "BFR_FacePartMask")
        (host.models / "facedetection").mkdir(parents=True, exist_ok=True)
        (host.models / "facedetection" / "dummy.onnx").write_bytes(CONTENT)

        def choices() -> list[str]:
            return next(one for one in masks.define_schema().inputs if one.id == "landmarks").options

        assert choices() == ["five points"]
        add_to(pack.module("bfr_core.backends.landmarkers"), folder, "dummy", monkeypatch)
        assert choices() == ["five points", "dummy.onnx"]
        seen = []
        monkeypatch.setattr(
            pack.module("nodes.guidance"), "part_masks", lambda points, size, **_: seen.append(points) or torch.ones(1)
        )
        monkeypatch.setattr(pack.module("nodes.guidance"), "select_parts", lambda masks, names: torch.zeros(8, 8))
        crop = SimpleNamespace(image=torch.zeros(3, 8, 8), size=8)
        execute(masks, crops=SimpleNamespace(crops=[crop]), landmarks="dummy.onnx")
        assert seen[0].shape == (98, 2) and seen[0][0, 0] == len(CONTENT)


# What the loader says ------------------------------------------------------------------------------------------------


def test_every_declaration_is_whole():
    for role in ("detector", "landmarker", "recognizer", "expression", "restorer"):
        known = specs(role)
        assert len({spec.id for spec in known}) == len(known) and all(spec.role == role for spec in known)
        for spec in known:
            assert spec.title and spec.licence and bool(spec.needs) == bool(spec.install)
            assert all(bool(file.sha256) for file in spec.files if file.url), spec.id
    for role in ("detector", "recognizer"):
        assert specs(role)[0].embedded, "what needs no file comes first"


@pytest.mark.parametrize(
    ("role", "keys", "says"),
    [
        ("landmarker", ("dw_conv.depthwise.weight", "gdconv.depthwise.weight", "conv3.weight"), "MobileFaceNet"),
        ("recognizer", ("search.out.weight", "refine.out.weight"), "Ours, comes with the package"),
        ("landmarker", ("conv2d_1a.conv.weight",), "a FaceNet"),
        ("landmarker", ("a.b",), "an unknown model with keys a.b"),
    ],
)
def test_a_strange_file_is_named(tmp_path, role, keys, says):
    path = tmp_path / "strange.safetensors"
    save_file({key: torch.zeros(1) for key in keys}, path)
    with pytest.raises(WeightsError) as caught:
        load(role, path)
    assert f"the file holds {says}" in caught.value.found


def test_verify_names_models_of_every_role(tmp_path, capsys):
    path = tmp_path / "some.safetensors"
    for keys, says in (
        (("conv1.conv.weight", "m3.coordconv.conv.weight", "l3.bias"), "98-point FAN"),
        (("a",), "no model"),
    ):
        save_file({key: torch.zeros(1) for key in keys}, path)
        assert main(["models", "verify", str(path)]) == 0
        assert f": {says}" in capsys.readouterr().out


def test_unknown_names_and_missing_packages(monkeypatch):
    with pytest.raises(ModelError, match=r"Unknown landmark network 'nobody'.*expected one of fan"):
        get_spec("landmarker", "nobody")
    monkeypatch.setattr("importlib.util.find_spec", lambda module, package=None: None)
    with pytest.raises(
        ModelError, match=r"The expression classifier hsemotion cannot run here.*cv2 cannot be imported"
    ):
        load("expression")


def test_a_replaced_file_is_opened_again(tmp_path, dummy):
    spec, path = get_spec("landmarker", "dummy"), dummy / "dummy.onnx"
    first = load(spec, path)
    os.utime(path, (1000, 1000))
    second = load(spec, path)
    assert second is not first and load(spec, path) is second
