"""The nodes on a stand-in host: schemas, every execute, errors, progress, cancel.

`tests/nodes/node_schemas.json` is what saved workflows rely on. After a change on purpose: make schemas
"""

from __future__ import annotations

import asyncio
import dataclasses
import json
import logging
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from fake_host import FakeHost, Pack, execute
from safetensors.torch import save_file
from tiny_nodes import SIZE, load, node_list, pictures, refused, synthetic

PROJECT = Path(__file__).resolve().parents[2]
SNAPSHOT = Path(__file__).parent / "node_schemas.json"
ROOMS = ("RESTORE", "FIND", "GUIDE", "FILM", "EDIT", "MEASURE", "TRAIN_AIDS", "EXAMPLES")


# --- loading ---------------------------------------------------------------------------------------------------


def test_entrypoint_gives_all_nodes(nodes: dict[str, Any], pack: Pack) -> None:
    methods = pack.module("bfr_core.registry").methods()
    fixed = ("LoadDetector", "DetectFaces", "AlignFaces", "LoadRestorer", "CompositeFaces", "RestoreFaces")
    fixed += ("CompareFaces", "DegradeFaces")
    fixed += ("StyleCodes", "StylePreview", "MixStyleCodes", "SaveStyleCodes", "LoadStyleCodes")
    fixed += ("GuidanceMask", "FacePartMask", "CombineGuidanceMasks", "PreviewGuidanceMask", "IdentityGuide")
    fixed += ("RestoreImage_lpip_diff", "SelectPerson", "IdentityDriftGate")
    fixed += ("RestoreFacesInVideo", "SelectTracks", "RestoreFacesInFrames", "ExamplePortrait", "ExampleClip")
    fixed += ("PLTransLatent", "PLTransSample", "PLTransMix", "PLTransDecode", "SavePLTransLatent", "LoadPLTransLatent")
    assert set(nodes) == {f"BFR_{name}" for name in fixed} | {f"BFR_Restore_{name}" for name in methods}
    # ComfyUI has a top-level module `nodes`, and the stand-in has put one there: ours is not mistaken for it.
    assert not hasattr(sys.modules["nodes"], "BfrExtension")
    assert Path(pack.module("nodes").__file__).parent == PROJECT / "nodes"


def test_every_node_says_what_it_is(nodes: dict[str, Any], pack: Pack) -> None:
    types = pack.module("nodes.types")
    titles = [node.define_schema().display_name for node in nodes.values()]
    assert len(set(titles)) == len(titles)
    for name, node in nodes.items():
        schema = node.define_schema()
        assert schema.category in {getattr(types, room) for room in ROOMS}, f"{name} is in no room of the menu"
        assert schema.description.endswith("."), name
        for item in (*schema.inputs, *schema.outputs):
            assert item.tooltip, f"{name}: {item.id or item.display_name} has no tooltip"
            assert not item.tooltip.endswith("."), f"{name}: {item.tooltip}"
        # A page rounds a number without a step to one decimal.
        assert all(item.step for item in schema.inputs if item.io_type == "FLOAT")


def test_who_types_face_finds_the_node_for_it_first(nodes: dict[str, Any]) -> None:
    """The page ranks a title that begins with the word above all that hold it, and reads titles and ids alone."""
    titles = {name: node.define_schema().display_name.lower() for name, node in nodes.items()}
    assert [name for name, title in titles.items() if title.startswith("face")] == ["BFR_RestoreFaces"]


def test_entrypoint_tells_why_it_failed(
    pack: Pack, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setitem(sys.modules, f"{pack.root.__name__}.nodes", None)
    with caplog.at_level(logging.ERROR), pytest.raises(ImportError):
        asyncio.run(pack.root.comfy_entrypoint())
    assert "face-restoration pack" in caplog.text
    assert "Traceback" in caplog.text


def run_python(code: str, *blocked: str, cwd: Path) -> str:
    """Run code in a fresh interpreter in which some modules cannot be imported."""
    block = "".join(f"sys.modules[{name!r}] = None\n" for name in blocked)
    environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1", "PYTHONPATH": ""}
    command = [sys.executable, "-c", f"import sys\n{block}{code}"]
    done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_root_imports_without_a_host_and_writes_nothing(tmp_path: Path) -> None:
    code = f"""
import importlib.util
spec = importlib.util.spec_from_file_location("pack", {str(PROJECT / "__init__.py")!r})
pack = importlib.util.module_from_spec(spec)
opened = []
def watch(event, args):
    if event == "open" and set(str(args[1])) & set("wax+"):
        opened.append(args[0])
sys.addaudithook(watch)
spec.loader.exec_module(pack)
assert callable(pack.comfy_entrypoint) and "torch" not in sys.modules, "heavy"
assert not opened, opened
"""
    run_python(code, "comfy", "comfy_api", "folder_paths", cwd=tmp_path)
    assert not list(tmp_path.iterdir())


def test_core_never_imports_the_host(tmp_path: Path) -> None:
    code = f"""
import pkgutil, importlib
sys.path.insert(0, {str(PROJECT)!r})
import bfr_core
for module in pkgutil.walk_packages(bfr_core.__path__, "bfr_core."):
    if ".backends." not in module.name and ".bench" not in module.name:
        importlib.import_module(module.name)
host = [name for name in sys.modules if name.split(".")[0] in ("comfy", "comfy_api", "folder_paths", "nodes")]
assert all(sys.modules[name] is None for name in host), host
"""
    run_python(code, "comfy", "comfy_api", "folder_paths", "nodes", cwd=tmp_path)


def test_optional_packages_are_not_needed(tmp_path: Path) -> None:
    code = f"""
sys.path[:0] = [{str(PROJECT / "tests" / "support")!r}]
import asyncio, pathlib
from fake_host import FakeHost
with FakeHost(pathlib.Path({str(tmp_path)!r})) as host:
    pack = host.load(pathlib.Path({str(PROJECT)!r}))
    extension = asyncio.run(pack.root.comfy_entrypoint())
    print(len([node.define_schema() for node in asyncio.run(extension.get_node_list())]))
"""
    optional = ("insightface", "onnxruntime", "facexlib", "torchvision", "basicsr", "skimage", "accelerate", "scipy")
    assert int(run_python(code, *optional, cwd=tmp_path)) >= 7


# --- schemas ---------------------------------------------------------------------------------------------------


def describe(nodes: dict[str, Any]) -> dict[str, Any]:
    """Return what a saved workflow relies on."""
    fields = ("default", "min", "max", "step", "control_after_generate", "options")

    def described(item: Any) -> dict[str, Any]:
        given = {name: item.fields[name] for name in fields if item.fields.get(name) is not None}
        if item.io_type == "COMFY_DYNAMICCOMBO_V3":
            given["widgets"] = {one.key: [described(widget) for widget in one.inputs] for one in item.options}
            given["options"] = list(given["widgets"])
        return {"name": item.id, "type": item.io_type, "optional": bool(item.optional), **given}

    found = {}
    for name, node in sorted(nodes.items()):
        schema = node.define_schema()
        outputs = [{"name": item.display_name, "type": item.io_type} for item in schema.outputs]
        found[name] = {"inputs": [described(item) for item in schema.inputs], "outputs": outputs}
    return found


def breaks(saved: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """Name every change that a saved workflow would suffer from: its values are kept by position."""
    found = []
    for name, before in saved.items():
        after = now.get(name)
        if after is None:
            found.append(f"{name} is gone")
            continue
        for side in ("inputs", "outputs"):
            was, here = ([(item["name"], item["type"]) for item in schema[side]] for schema in (before, after))
            if here[: len(was)] != was:
                found.append(f"{name}: {side} were {was}, now {here}; add new ones at the end")
        for old, new in zip(before["inputs"], after["inputs"], strict=False):
            if gone := set(old.get("options", ())) - set(new.get("options", ())):
                found.append(f"{name}: {old['name']} lost {sorted(gone)}")
            if (limits := [(item.get("min"), item.get("max")) for item in (old, new)])[0] != limits[1]:
                found.append(f"{name}: {old['name']} allowed {limits[0]}, now {limits[1]}")
            if old["optional"] and not new["optional"]:
                found.append(f"{name}: {old['name']} was optional")
        found += [
            f"{name}: the new input {item['name']} must be optional or have a default"
            for item in after["inputs"][len(before["inputs"]) :]
            if not item["optional"] and "default" not in item and "options" not in item
        ]
    return found


def test_row57_schemas_keep_saved_workflows_working(nodes: dict[str, Any]) -> None:
    now = json.loads(json.dumps(describe(nodes)))
    saved = json.loads(SNAPSHOT.read_text("utf-8"))
    again = "If that is meant: make schemas, and say in the release notes what people must change."
    broken = breaks(saved, now)
    assert not broken, "Saved workflows would break:\n" + "\n".join(broken) + "\n" + again
    assert now == saved, "The schemas have grown or a default changed; nothing saved breaks. " + again


def test_snapshot_notices_what_breaks() -> None:
    saved = json.loads(SNAPSHOT.read_text("utf-8"))

    def changed(change: Any) -> list[str]:
        now = json.loads(SNAPSHOT.read_text("utf-8"))
        change(now["BFR_RestoreFaces"])
        return breaks(saved, now)

    assert changed(lambda node: None) == []
    assert changed(lambda node: node["inputs"].pop(2))
    assert changed(lambda node: node["inputs"].reverse())
    assert changed(lambda node: node["inputs"][1].update(name="model"))
    assert changed(lambda node: node["inputs"][1].update(options=[]))
    assert changed(lambda node: node["outputs"].pop(0))
    assert changed(lambda node: node["inputs"].append({"name": "new", "type": "IMAGE", "optional": False}))
    assert changed(lambda node: node["inputs"].append({"name": "new", "type": "IMAGE", "optional": True})) == []


def test_marks_of_newer_hosts_are_left_out_on_older_ones(host: FakeHost, nodes: dict[str, Any]) -> None:
    schema = nodes["BFR_RestoreFaces"].define_schema()
    threshold = next(item for item in schema.inputs if item.id == "threshold")
    assert hasattr(schema, "search_aliases") == host.newer
    assert ("advanced" in threshold.fields) == host.newer


def test_a_misspelt_field_is_an_error(pack: Pack) -> None:
    compat = pack.module("nodes.compat")
    with pytest.raises(TypeError):
        compat.schema(node_id="x", serach_aliases=[])
    with pytest.raises(TypeError):
        compat.option(compat.io.Float, "x", minimum=0)


def test_boxes_are_a_plain_socket(nodes: dict[str, Any]) -> None:
    for name in ("BFR_RestoreFaces", "BFR_AlignFaces"):
        boxes = next(item for item in nodes[name].define_schema().inputs if item.id == "boxes")
        assert boxes.extra_dict == {"forceInput": True}


# --- model files -----------------------------------------------------------------------------------------------


def test_model_files_are_read_each_time(host: FakeHost, nodes: dict[str, Any], pack: Pack) -> None:
    """Those of use are offered; of the others the tooltip says in a sentence each why not."""

    def widget(node: str, name: str) -> Any:
        return next(item for item in nodes[node].define_schema().inputs if item.id == name)

    files = [
        ("facerestore_models", "BFR_LoadRestorer", "weights", "irn_compact"),
        ("facedetection", "BFR_LoadDetector", "file", "detector"),
        ("insightface", "BFR_IdentityGuide", "recogniser", "recogniser"),
    ]
    for folder, node, name, weights in files:
        before = widget(node, name).options
        path = host.models / folder / "mine.safetensors"
        path.parent.mkdir(exist_ok=True)
        save_file(pack.module("bfr_core.models.checkpoints.cards").load_embedded(weights), path)
        (path.parent / "notes.txt").write_bytes(b"")
        (path.parent / "page.pth").write_bytes(b"<html>")
        assert widget(node, name).options == [*before, "mine.safetensors"]
        check = nodes[node].validate_inputs
        assert check(**{name: "mine.safetensors"}) is True and check(**{name: before[0]}) is True
        assert check(**{name: None}) is True and check() is True
        assert "web page" in check(**{name: "page.pth"})
        assert f"models/{folder}" in check(**{name: "gone.pth"})
        for file in (path, path.parent / "page.pth"):
            file.unlink()
        assert widget(node, name).options == before
        assert nodes[node].validate_inputs(**{name: "mine.safetensors"}) is not True


def test_tooltips_tell_of_files_that_are_not_offered(host: FakeHost, nodes: dict[str, Any]) -> None:
    def tooltip(node: str) -> str:
        return nodes[node].define_schema().inputs[1].tooltip

    for folder, node in (("facerestore_models", "BFR_LoadRestorer"), ("facedetection", "BFR_LoadDetector")):
        plain = tooltip(node)
        (host.models / folder).mkdir(exist_ok=True)
        strange = [host.models / folder / f"strange{number:02}.safetensors" for number in range(10)]
        for path in strange:
            save_file({"decoder.weight": torch.zeros(2)}, path)
        told = tooltip(node)
        assert told.startswith(plain) and "strange00.safetensors holds a network with decoder.weight" in told
        assert "and 2 more" in told
        for path in strange:
            path.unlink()
        assert tooltip(node) == plain


def test_lists_begin_with_the_method_that_is_fast_everywhere(nodes: dict[str, Any]) -> None:
    for name in ("BFR_RestoreFaces", "BFR_LoadRestorer"):
        method = next(item for item in nodes[name].define_schema().inputs if item.id == "method")
        assert method.options[0] == "irn/compact"


def test_folders_of_other_packs_stay(host: FakeHost, pack: Pack) -> None:
    import folder_paths  # type: ignore[import-not-found]

    known = folder_paths.folder_names_and_paths
    kept = dict(known)
    known.clear()
    known["facerestore_models"] = (["/elsewhere"], {".pth"})
    try:
        pack.module("nodes.host").register_folders()
        paths, suffixes = known["facerestore_models"]
        assert paths == ["/elsewhere", str(host.models / "facerestore_models")]
        assert suffixes == {".pth"}
        assert ".onnx" in known["facedetection"][1]
    finally:
        known.clear()
        known.update(kept)


def test_a_replaced_file_is_loaded_again(
    host: FakeHost, pack: Pack, nodes: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = host.models / "facerestore_models" / "mine.pth"
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(b"")
    method = synthetic(pack)
    made: list[Any] = []

    def load_restorer(*_: Any, **__: Any) -> Any:
        made.append(load(pack, method).restorer)
        return made[-1]

    monkeypatch.setattr(pack.module("bfr_core.restorer"), "load_restorer", load_restorer)
    node = nodes["BFR_LoadRestorer"]
    stamps = []
    for stamp in (1000, 1000, 2000):
        os.utime(path, (stamp, stamp))
        stamps.append(node.fingerprint_inputs(method="irn/compact", weights="mine.pth"))
        execute(node, method="irn/compact", weights="mine.pth")
    assert stamps == [1000, 1000, 2000]
    assert len(made) == 2
    path.unlink()


def test_loaders_say_what_is_missing(pack: Pack, nodes: dict[str, Any]) -> None:
    error = refused(pack, "WeightsError", nodes["BFR_LoadRestorer"], method="irn/paper", weights="embedded")
    assert "models/facerestore_models" in error.found
    assert "--" not in str(error), "an option of the command line helps nobody in a graph"
    error = refused(pack, "WeightsError", nodes["BFR_LoadRestorer"], method="irn/paper", weights="gone.pth")
    assert "gone.pth" in error.what
    refused(pack, "SettingsError", nodes["BFR_LoadRestorer"], method="nothing/like it", weights="embedded")
    error = refused(pack, "WeightsError", nodes["BFR_LoadDetector"], detector="yunet", file="automatic")
    assert "facedetection" in error.found


# --- execute ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("channels", [3, 4])
@pytest.mark.parametrize("count", [0, 1, 2, 3])
def test_restore_faces_on_batches(
    count: int, channels: int, nodes: dict[str, Any], tiny: SimpleNamespace, host: FakeHost
) -> None:
    image = pictures(count, channels)
    before = image.clone()
    out, mask, boxes, report = execute(nodes["BFR_RestoreFaces"], image=image, method="any")
    assert torch.equal(image, before)
    assert out.shape == image.shape
    assert out.dtype == torch.float32
    assert mask.shape == (count, 80, 96)
    assert [len(frame) for frame in boxes] == [1] * count
    assert [entry["detector"] for entry in json.loads(report)] == ["tiny"] * count
    assert torch.equal(out[mask == 0], image[mask == 0])
    if channels == 4:
        assert torch.equal(out[..., 3], image[..., 3])
    if count:
        assert mask.max() == 1
        assert not torch.equal(out[..., :3], image[..., :3])
        # The bar reaches its end, and only with the last face.
        assert [value for value, _ in host.progress] == list(range(1, count + 1))
        assert {total for _, total in host.progress} == {count}
        assert host.loaded


@pytest.mark.parametrize("count", [0, 1, 2, 3])
def test_step_by_step_equals_one_node(count: int, nodes: dict[str, Any], tiny: SimpleNamespace, pack: Pack) -> None:
    image = pictures(count)
    faces, _, found, number, _ = execute(nodes["BFR_DetectFaces"], image=image)
    assert number == count
    assert found.sum() == count * 40 * 40
    aligned, crops = execute(nodes["BFR_AlignFaces"], image=image, size=SIZE, faces=faces)
    assert aligned.shape == (max(count, 1), SIZE, SIZE, 3)
    node = pack.module("nodes.restore").method_node(tiny.method)
    restored, _ = execute(node, faces=aligned, seed=0, restorer=tiny.restorer)
    out, mask = execute(nodes["BFR_CompositeFaces"], image=image, faces=restored, crops=crops)
    expected, whole, *_ = execute(nodes["BFR_RestoreFaces"], image=image, method="any")
    assert torch.equal(out, expected)
    assert torch.equal(mask, whole)


def test_no_face_changes_no_bit(nodes: dict[str, Any], tiny: SimpleNamespace) -> None:
    image = torch.zeros(2, 80, 96, 4)
    image[..., 3] = torch.rand(2, 80, 96)
    out, mask, boxes, report = execute(nodes["BFR_RestoreFaces"], image=image, method="any")
    assert torch.equal(out, image)
    assert not mask.any()
    assert boxes == [[], []]
    assert [entry["faces"] for entry in json.loads(report)] == [[], []]
    faces, *_ = execute(nodes["BFR_DetectFaces"], image=image)
    aligned, crops = execute(nodes["BFR_AlignFaces"], image=image, size=SIZE, faces=faces)
    # Masks made for that one black square, or for any number of faces, do no harm.
    for mask in (None, torch.ones(1, SIZE, SIZE), torch.ones(3, SIZE, SIZE)):
        out, blended = execute(nodes["BFR_CompositeFaces"], image=image, faces=aligned, crops=crops, mask=mask)
        assert torch.equal(out, image)
        assert not blended.any()


def test_half_precision_images(nodes: dict[str, Any], tiny: SimpleNamespace) -> None:
    image = pictures(1, dtype=torch.float16)
    out, mask, *_ = execute(nodes["BFR_RestoreFaces"], image=image, method="any")
    assert out.dtype == torch.float32
    assert torch.equal(out[mask == 0], image.float()[mask == 0])


def test_strength_and_choice_of_faces(nodes: dict[str, Any], tiny: SimpleNamespace, host: FakeHost) -> None:
    image, node = pictures(2), nodes["BFR_RestoreFaces"]
    out, mask, *_ = execute(node, image=image, method="any", strength=0.0)
    assert torch.equal(out, image)
    assert not mask.any()
    host.progress.clear()
    out, _, boxes, report = execute(node, image=image, method="any", min_size=50)
    assert torch.equal(out, image)
    assert "below the minimum" in report
    assert [len(frame) for frame in boxes] == [1, 1], "boxes tell of faces that were left, too"
    tiny.detector.detect = lambda frames, threshold=None: [[tiny.face] * 3 for _ in frames]
    execute(node, image=image, method="any", max_faces=1)
    assert host.progress == [(1, 2), (2, 2)], "faces that are left out must not hold the bar back"


def test_nan_is_refused_everywhere(nodes: dict[str, Any], tiny: SimpleNamespace, pack: Pack) -> None:
    image = pictures(3)
    faces, *_ = execute(nodes["BFR_DetectFaces"], image=image)
    aligned, crops = execute(nodes["BFR_AlignFaces"], image=image, size=SIZE, faces=faces)
    image[1, 3, 4, 0] = torch.nan
    for name, inputs in {
        "BFR_RestoreFaces": {"method": "any"},
        "BFR_DetectFaces": {},
        "BFR_AlignFaces": {"faces": faces},
        "BFR_CompositeFaces": {"faces": aligned, "crops": crops},
    }.items():
        error = refused(pack, "InputMediaError", nodes[name], image=image, **inputs)
        assert "NaN" in error.found
        assert "1 of 3" in error.found


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int64, torch.bool])
def test_integers_are_refused_everywhere(
    dtype: torch.dtype, nodes: dict[str, Any], tiny: SimpleNamespace, pack: Pack
) -> None:
    """Every node, every input of images: from 0 to 255 nearly all is white, and no face was found in it."""
    image = pictures(1)
    faces, *_ = execute(nodes["BFR_DetectFaces"], image=image)
    aligned, crops = execute(nodes["BFR_AlignFaces"], image=image, size=SIZE, faces=faces)
    usual = {"BFR_DETECTOR": tiny.detector, "BFR_CROPS": crops, "MASK": torch.ones(1, SIZE, SIZE)}
    of = {"BFR_GuidanceMask": "diffuse_restore", "BFR_IdentityGuide": "diffuse_restore", "BFR_StyleCodes": "vspbfr",
          "BFR_PLTransLatent": "pltrans"}  # fmt: skip
    registry, loaded, tried = pack.module("bfr_core.registry"), pack.module("nodes.models").LoadedRestorer, []
    for name, node in nodes.items():
        inputs = node.define_schema().inputs
        images = [given for given in inputs if given.io_type == "IMAGE"]
        ids = {given.io_type: given.id for given in inputs}
        if not images or "VIDEO" in ids:  # a film is opened before the photo of a person, see below
            continue
        values = {given.id: getattr(given, "default", None) for given in inputs if not given.optional}
        values |= {given.id: usual[given.io_type] for given in inputs if given.io_type in usual and not given.optional}
        values |= {given.id: aligned for given in images if not given.optional}
        if name == "BFR_AlignFaces":
            values["faces"] = faces
        if "BFR_RESTORER" in ids:  # enough of one to be told by: no weights are needed to refuse
            method = of.get(name) or name.removeprefix("BFR_Restore_").removeprefix("BFR_RestoreImage_")
            method = registry.methods().get(method, tiny.method)
            stub = SimpleNamespace(method=method, config=method.configs[0], guide=None, size=SIZE)
            values[ids["BFR_RESTORER"]] = loaded(stub, tiny.restorer.managed)
        for asked in images:
            error = refused(pack, "InputMediaError", node, **{**values, asked.id: (aligned * 255).to(dtype)})
            assert str(dtype) in error.found, (name, asked.id)
            tried.append((name, asked.id))
    assert len(tried) > 20
    with pytest.raises(pack.module("bfr_core.errors").InputMediaError, match=str(dtype)):
        pack.module("nodes.people").person_in((image * 255).to(dtype), tiny.detector)


@pytest.mark.parametrize("shape", [(80, 96, 3), (1, 80, 96, 1), (1, 80, 96), (1, 0, 96, 3), (1, 3, 80, 96)])
def test_what_is_no_image_is_refused(shape: tuple[int, ...], nodes: dict[str, Any], tiny: Any, pack: Pack) -> None:
    error = refused(pack, "InputMediaError", nodes["BFR_RestoreFaces"], image=torch.zeros(shape), method="any")
    assert str(shape) in error.found


BOX = {"x": 20, "y": 20, "width": 40, "height": 40}


@pytest.mark.parametrize(
    "boxes",
    [BOX, [BOX], [[BOX]], [[BOX], [BOX]], (BOX,), [[{**BOX, "label": "face", "score": np.float32(0.5)}]]],
    ids=["one", "list", "nested", "per frame", "tuple", "with score"],
)
def test_core_boxes(boxes: Any, nodes: dict[str, Any], tiny: SimpleNamespace) -> None:
    image = pictures(2)
    given, mask, back, _ = execute(nodes["BFR_RestoreFaces"], image=image, method="any", boxes=boxes)
    found, *_ = execute(nodes["BFR_RestoreFaces"], image=image, method="any")
    assert torch.equal(given, found), "a box around a detected face takes its points"
    assert mask.any(1).any(1).tolist() == [True, True]
    assert [[item["width"] for item in frame] for frame in back] == [[40], [40]]
    aligned, _ = execute(nodes["BFR_AlignFaces"], image=image, size=SIZE, boxes=boxes)
    assert len(aligned) == 2


@pytest.mark.parametrize("boxes", [[], [[]], [[], []], ()])
def test_no_boxes_are_no_faces(boxes: Any, nodes: dict[str, Any], tiny: SimpleNamespace) -> None:
    image = pictures(2)
    out, *_ = execute(nodes["BFR_RestoreFaces"], image=image, method="any", boxes=boxes)
    assert torch.equal(out, image)


@pytest.mark.parametrize(
    "boxes",
    [
        "face", 3, {}, [BOX, [BOX]], [[BOX]] * 3, {**BOX, "width": 0}, {**BOX, "x": "left"}, {**BOX, "y": float("nan")},
        {**BOX, "height": float("inf")}, [[1, 2, 3, 4]], [None], {**BOX, "width": None},
    ],
)  # fmt: skip
def test_garbage_boxes_are_refused(boxes: Any, nodes: dict[str, Any], tiny: SimpleNamespace, pack: Pack) -> None:
    for name, inputs in {"BFR_RestoreFaces": {"method": "any"}, "BFR_AlignFaces": {}}.items():
        error = refused(pack, "InputMediaError", nodes[name], image=pictures(2), boxes=boxes, **inputs)
        assert "x, y, width and height" in error.found


def test_faces_of_another_batch_are_refused(nodes: dict[str, Any], tiny: SimpleNamespace, pack: Pack) -> None:
    faces, *_ = execute(nodes["BFR_DetectFaces"], image=pictures(3))
    aligned, crops = execute(nodes["BFR_AlignFaces"], image=pictures(3), size=SIZE, faces=faces)
    image = pictures(2)
    refused(pack, "InputMediaError", nodes["BFR_AlignFaces"], image=image, faces=faces)
    refused(pack, "InputMediaError", nodes["BFR_RestoreFaces"], image=image, faces=faces, method="any")
    composite = nodes["BFR_CompositeFaces"]
    refused(pack, "InputMediaError", composite, image=image, faces=aligned, crops=crops)
    refused(pack, "InputMediaError", composite, image=pictures(3), faces=aligned[:2], crops=crops)
    larger = torch.zeros(3, 160, 192, 3)
    error = refused(pack, "InputMediaError", composite, image=larger, faces=aligned, crops=crops)
    assert "192 x 160" in error.found
    assert "96 x 80" in error.found


def test_align_needs_faces(nodes: dict[str, Any], pack: Pack) -> None:
    error = refused(pack, "SettingsError", nodes["BFR_AlignFaces"], image=pictures(1))
    assert "Detect Faces" in error.todo


def test_masks_of_composite(nodes: dict[str, Any], tiny: SimpleNamespace, pack: Pack) -> None:
    image, node = pictures(3), nodes["BFR_CompositeFaces"]
    faces, *_ = execute(nodes["BFR_DetectFaces"], image=image)
    aligned, crops = execute(nodes["BFR_AlignFaces"], image=image, size=SIZE, faces=faces)
    inputs = {"image": image, "faces": 1 - aligned, "crops": crops}
    plain, _ = execute(node, **inputs)
    for mask in (torch.ones(SIZE, SIZE), torch.ones(1, SIZE, SIZE), torch.ones(3, 17, 17), torch.ones(1, 200, 200)):
        out, _ = execute(node, **inputs, mask=mask.half())
        # Sampling a mask fades it over the last half pixel of the crop, where the ramp is near zero as well.
        assert (out - plain).abs().max() < 0.02
    each = torch.zeros(3, SIZE, SIZE)
    each[1] = 1
    _, blended = execute(node, **inputs, mask=each)
    assert blended.any(1).any(1).tolist() == [False, True, False]
    error = refused(pack, "InputMediaError", node, **inputs, mask=torch.ones(2, SIZE, SIZE))
    assert "2 masks for 3 faces" in error.found
    refused(pack, "InputMediaError", node, **inputs, mask=torch.full((1, SIZE, SIZE), torch.nan))


# --- the node of a declared method -----------------------------------------------------------------------------


def test_a_declared_method_becomes_a_node(tiny: SimpleNamespace, pack: Pack, host: FakeHost) -> None:
    node = pack.module("nodes.restore").method_node(tiny.method)
    schema = node.define_schema()
    assert schema.node_id == "BFR_Restore_probe"
    assert "A paper, Sec. 1." in schema.description
    kinds = {item.id: item.io_type for item in schema.inputs}
    assert list(kinds) == ["faces", "seed", "weight", "steps", "tiled", "mode", "restorer", "crops", "colours"]
    types = ["IMAGE", "INT", "FLOAT", "INT", "BOOLEAN", "COMBO", "BFR_RESTORER", "BFR_CROPS", "COMBO"]
    assert list(kinds.values()) == types
    weight, steps, tiled, mode = schema.inputs[2:6]
    assert (weight.default, weight.min, weight.max, weight.step) == (0.5, 0.0, 1.0, 0.05)
    assert (steps.default, steps.min, steps.max, steps.step) == (4, 1, 50, 1)
    assert tiled.default is False
    assert (mode.default, mode.options) == ("soft", ["soft", "hard"])
    settings = {"weight": 0.25, "steps": 7, "tiled": True, "mode": "hard"}
    faces = torch.rand(5, SIZE, SIZE, 1).expand(-1, -1, -1, 3)
    out, _ = execute(node, faces=faces, seed=3, **settings)
    assert torch.allclose(out, 1 - faces, atol=1e-5)
    used = [entry for entry, _ in tiny.method.stages["seen"]]
    assert used == [settings] * len(used)
    seeds = [seed for _, some in tiny.method.stages["seen"] for seed in some]
    assert len(set(seeds)) == 5
    assert host.progress[-1] == (5, 5)
    assert [value for value, total in host.progress].count(5) == 1


@pytest.mark.parametrize("count", [0, 3])
def test_aligned_faces_have_the_report_of_whole_images(
    count: int, nodes: dict[str, Any], tiny: SimpleNamespace, pack: Pack
) -> None:
    node = pack.module("nodes.restore").method_node(tiny.method)
    whole = json.loads(execute(nodes["BFR_RestoreFaces"], image=pictures(1), method="any")[3])
    (entry,) = json.loads(execute(node, faces=torch.rand(count, SIZE, SIZE, 3), seed=4)[1])
    # They come out as large as they come in.
    assert list(entry) == [key for key in whole[0] if key not in ("upscale", "upscaled_by")]
    assert (entry["method"], entry["config"], entry["detector"], entry["seed"]) == ("probe", "tiny", "aligned", 4)
    assert not entry["notes"]
    assert [face["frame_index"] for face in entry["faces"]] == list(range(count))
    assert all(list(face) == list(whole[0]["faces"][0]) and face["action"] == "restored" for face in entry["faces"])
    assert list(entry["seconds"]) == ["restore"] and entry["seconds"]["restore"] >= 0


def test_notes_of_a_run_are_in_the_report(
    tiny: SimpleNamespace, pack: Pack, host: FakeHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Memory that ran out, a setting that was left aside, and what the method read in the faces."""
    monkeypatch.setitem(pack.module("nodes.host").BATCHES, "cpu", 2)

    def restore(net: Any, faces: torch.Tensor, settings: Any, seeds: Any, inputs: Any, context: Any) -> torch.Tensor:
        context.note("The weight was left aside")
        context.tell("Read", {"light": faces.mean((1, 2, 3)).tolist()})
        if len(faces) > 1:
            raise torch.OutOfMemoryError("planned")
        return faces

    method = dataclasses.replace(tiny.method, restore=restore)
    node, faces = pack.module("nodes.restore").method_node(method), torch.full((3, SIZE, SIZE, 3), 0.25)
    faces[1] = 0.5
    (entry,) = json.loads(execute(node, faces=faces, restorer=load(pack, method))[1])
    assert entry["notes"] == [
        "The weight was left aside",
        "Memory ran out; the batch was reduced to 1",
        "Read. 3 faces: light 0.25 to 0.5 (mean 0.33)",
    ]
    assert host.progress[-1] == (3, 3)


def test_the_notes_of_a_film_do_not_grow(nodes: dict[str, Any], tiny: SimpleNamespace, pack: Pack) -> None:
    def restore(net: Any, faces: torch.Tensor, settings: Any, seeds: Any, inputs: Any, context: Any) -> torch.Tensor:
        context.tell("Read", {"light": faces.mean((1, 2, 3)).tolist()})
        return faces

    restorer = load(pack, dataclasses.replace(tiny.method, restore=restore))
    frames = torch.linspace(0.1, 0.5, 40).view(-1, 1, 1, 1).expand(40, 80, 96, 3).contiguous()
    entries = json.loads(execute(nodes["BFR_RestoreFaces"], image=frames, method="any", restorer=restorer)[3])
    assert [len(entry["notes"]) for entry in entries] == [1] * 40
    assert entries[-1]["notes"] == ["Read. 40 faces: light 0.1 to 0.5 (mean 0.3)"]


def test_a_restorer_of_another_method_is_refused(tiny: SimpleNamespace, pack: Pack) -> None:
    node = pack.module("nodes.restore").method_node(tiny.method)
    other = load(pack, synthetic(pack, "other"))
    error = refused(pack, "SettingsError", node, faces=torch.rand(1, SIZE, SIZE, 3), restorer=other)
    assert "Other" in error.found
    assert "Probe" in error.what


def test_faces_of_another_size_are_refused(tiny: SimpleNamespace, pack: Pack) -> None:
    node = pack.module("nodes.restore").method_node(tiny.method)
    error = refused(pack, "InputMediaError", node, faces=torch.rand(1, SIZE, 2 * SIZE, 3))
    assert "Align Faces" in error.todo


def test_settings_out_of_range_are_refused(tiny: SimpleNamespace, pack: Pack) -> None:
    node = pack.module("nodes.restore").method_node(tiny.method)
    refused(pack, "SettingsError", node, faces=torch.rand(1, SIZE, SIZE, 3), weight=2.0)


# --- live pictures ---------------------------------------------------------------------------------------------


def test_faces_are_shown_before_and_after_as_they_are_restored(
    nodes: dict[str, Any], tiny: SimpleNamespace, host: FakeHost, pack: Pack, monkeypatch: pytest.MonkeyPatch
) -> None:
    host.previews.clear()
    monkeypatch.setattr(pack.module("nodes.host"), "_LOOK", 0.0)
    execute(nodes["BFR_RestoreFaces"], image=pictures(3) * 0.9, method="any")
    node = pack.module("nodes.restore").method_node(tiny.method)
    execute(node, faces=torch.rand(2, SIZE, SIZE, 3))
    assert len(host.previews) == 5
    for kind, picture, side in host.previews:
        before, after = np.array(picture)[:, :SIZE], np.array(picture)[:, -SIZE:]
        assert kind == "JPEG" and max(picture.size) <= side
        assert abs(before.mean() + after.mean() - 255) < 2, "the restorer inverts"
    host.previews.clear()
    monkeypatch.setattr(pack.module("nodes.host"), "_LOOK", 1e9)
    execute(nodes["BFR_RestoreFaces"], image=pictures(3) * 0.8, method="any")
    assert len(host.previews) == 1, "the page is not flooded"


# --- cancel ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("checks", range(4))
def test_cancel_comes_through_untouched(
    checks: int, nodes: dict[str, Any], tiny: SimpleNamespace, host: FakeHost, pack: Pack
) -> None:
    host.cancel_after = checks
    with pytest.raises(host.interrupted) as caught:
        execute(nodes["BFR_RestoreFaces"], image=pictures(3), method="any")
    assert caught.type is host.interrupted
    assert caught.value.__cause__ is None
    host.cancel_after = 0
    node = pack.module("nodes.restore").method_node(tiny.method)
    with pytest.raises(host.interrupted):
        execute(node, faces=torch.rand(3, SIZE, SIZE, 3))
    host.cancel_after = None
    execute(nodes["BFR_RestoreFaces"], image=pictures(3), method="any")


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder, FakeHost(Path(folder)) as fake:
        every = {node.define_schema().node_id: node for node in node_list(fake.load(PROJECT))}
        SNAPSHOT.write_text(json.dumps(describe(every), indent=1) + "\n", encoding="utf-8")
