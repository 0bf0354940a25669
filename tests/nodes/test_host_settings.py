"""Settings, masks and faces of other tools in a real ComfyUI; see test_host.py for how to run it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import host_harness
import numpy as np
import pytest
from host_harness import Host, HostError
from PIL import Image

pytestmark = [
    pytest.mark.host,
    pytest.mark.skipif(host_harness.checkout() is None, reason="COMFYUI_PATH names no ComfyUI checkout"),
]
PHOTO = host_harness.PROJECT.parent / "shared" / "data" / "photos" / "clean" / "astronaut.png"
SIDE = 256
OLD = {"method": "irn/compact", "strength": 1.0, "seed": 0, "max_faces": 0, "threshold": 0.0, "min_size": 16}
"""What a page sent to Restore Faces before it had settings."""

Prompt = dict[str, dict[str, Any]]


@pytest.fixture(scope="module")
def host() -> Iterator[Host]:
    with Host(pack_name="bfr-faces") as host:
        yield host


@pytest.fixture(scope="module")
def name(host: Host, tmp_path_factory: pytest.TempPathFactory) -> str:
    if not PHOTO.is_file():
        pytest.skip(f"no {PHOTO}")
    path = tmp_path_factory.mktemp("photos") / "face.png"
    Image.open(PHOTO).convert("RGB").resize((SIDE, SIDE)).save(path)
    return host.upload(path)


def node(kind: str, **inputs: Any) -> dict[str, Any]:
    return {"class_type": kind, "inputs": inputs}


def restore(name: str, more: Prompt | None = None, **inputs: Any) -> Prompt:
    return {
        "1": node("LoadImage", image=name),
        "2": node("BFR_RestoreFaces", image=["1", 0], **{**OLD, "all_faces": True, **inputs}),
        "3": node("PreviewImage", images=["2", 0]),
        "4": node("PreviewAny", source=["2", 3]),
        **(more or {}),
    }


def run(host: Host, prompt: Prompt) -> tuple[np.ndarray, dict[str, Any]]:
    entry = host.run(prompt, 400)
    (path,) = host.outputs(entry, "3")
    return np.asarray(Image.open(path)), json.loads(entry["outputs"]["4"]["text"][0])[0]


def failure(host: Host, prompt: Prompt) -> str:
    with pytest.raises(HostError) as caught:
        host.run(prompt)
    return str(caught.value).splitlines()[0]


def test_settings_and_the_dial_reach_the_method(host: Host, name: str) -> None:
    plain, _ = run(host, restore(name))
    same, _ = run(host, restore(name, settings="as published", fidelity=0.5))
    assert np.array_equal(same, plain)
    faithful, _ = run(host, restore(name, fidelity=1.0))
    assert not np.array_equal(faithful, plain)
    quick, report = run(
        host, restore(name, method="diffuse_restore/compact", settings="diffuse_restore", **{"settings.steps": 1})
    )
    assert report["method"] == "diffuse_restore" and not np.array_equal(quick, plain)


def test_an_error_begins_with_words(host: Host, name: str) -> None:
    text = failure(host, restore(name, settings="clr_face"))
    assert text.startswith("BFR_RestoreFaces (node 2): Settings error: These settings are not of"), text
    answer = host.validation_error(
        restore(name, method="clr_face/compact", settings="clr_face", **{"settings.steps": -1})
    )
    (error,) = answer["node_errors"]["2"]["errors"]
    assert error["extra_info"]["input_name"] == "settings.steps"


def test_a_mask_limits_what_changes(host: Host, name: str) -> None:
    half = {
        "5": node("SolidMask", value=1.0, width=SIDE // 2, height=SIDE),
        "6": node("SolidMask", value=0.0, width=SIDE, height=SIDE),
        "7": node("MaskComposite", destination=["6", 0], source=["5", 0], x=0, y=0, operation="add"),
    }
    before = np.asarray(Image.open(host.base / "input" / name))
    plain, _ = run(host, restore(name))
    out, _ = run(host, restore(name, half, mask=["7", 0]))
    left, right = slice(None, SIDE // 2), slice(SIDE // 2, None)
    assert np.array_equal(out[:, right], before[:, right]) and np.array_equal(out[:, left], plain[:, left])
    assert not np.array_equal(plain[:, right], before[:, right]), "there was something to be limited"


def test_segments_go_round(host: Host, name: str) -> None:
    found = {"5": node("BFR_DetectFaces", image=["1", 0], threshold=0.0, max_faces=0, min_size=16)}
    plain, _ = run(host, restore(name))
    given, report = run(host, restore(name, found, segs=["5", 4]))
    assert report["detector"] == "given" and report["faces"]
    assert np.abs(given.astype(int) - plain).max() <= 1


def test_files_of_no_use_are_not_offered(host: Host, name: str) -> None:
    page = host.base / "models" / "facerestore_models" / "page.pth"
    page.parent.mkdir(exist_ok=True)
    page.write_bytes(b"<!DOCTYPE html><html>")
    try:
        weights = host.object_info("BFR_LoadRestorer")["input"]["required"]["weights"]
        assert "page.pth" not in json.dumps(weights[0]) + json.dumps(weights[1].get("options", ""))
        assert "page.pth: the file is a web page" in weights[1]["tooltip"]
        loader = {"5": node("BFR_LoadRestorer", method="irn/compact", weights="page.pth")}
        (error,) = host.validation_error(restore(name, loader, restorer=["5", 0]))["node_errors"]["5"]["errors"]
        assert "web page" in error["details"]
    finally:
        page.unlink()


def test_methods_have_labels_and_the_page_is_told_how_to_show_them(host: Host) -> None:
    method = host.object_info("BFR_RestoreFaces")["input"]["required"]["method"]
    assert method[1]["labels"]["irn/compact"].startswith("Identity recovery network: ")
    script = host_harness.PROJECT / "web" / "labels.js"
    assert "getOptionLabel" in script.read_text("utf-8")
    assert "/extensions/bfr-faces/labels.js" in json.dumps(host._get("/extensions"))
