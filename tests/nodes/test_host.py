"""The pack in a real ComfyUI: COMFYUI_PATH=... COMFYUI_PYTHON=... pytest -m host tests/nodes/test_host.py"""

from __future__ import annotations

import copy
import json
import time
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import host_harness
import numpy as np
import pytest
from host_harness import Host, HostError, PromptInterrupted
from PIL import Image

from bfr_core.cli import main
from bfr_core.degrade.chain import degrade, draw
from bfr_core.degrade.presets import get_preset
from bfr_core.methods.vspbfr.codes import load_codes
from bfr_core.registry import methods as declared

pytestmark = [
    pytest.mark.host,
    pytest.mark.skipif(host_harness.checkout() is None, reason="COMFYUI_PATH names no ComfyUI checkout"),
]
API = Path(__file__).parent / "api"
SCHEMAS = json.loads((Path(__file__).parent / "node_schemas.json").read_text("utf-8"))
PHOTO = host_harness.PROJECT.parent / "shared" / "data" / "photos" / "clean" / "astronaut.png"
FILM = host_harness.PROJECT.parent / "shared" / "data" / "video" / "talking_480x480.mp4"
PICTURES = sorted(path.stem for path in API.glob("restore_*.json") if "LoadImage" in path.read_text("utf-8"))
"""Saved workflows that restore a picture as Restore Faces does."""
SHOTS = 8
"""Frames of the film."""
LEVEL = 1 / 255
LONG_S = 400.0
"""Longest wait for a workflow of many steps on a busy processor; the slowest takes a minute on two free cores."""
STEP_S = 20.0
"""Longest step of a diffusion method there, for two faces; all frames of the film take minutes."""
STOP_S = 3.0
"""Longest wait between a cancel and its effect: one batch of the network on a busy processor."""

Prompt = dict[str, dict[str, Any]]


@pytest.fixture(scope="module")
def host() -> Iterator[Host]:
    with Host(pack_name="bfr-faces") as host:
        yield host


@pytest.fixture(scope="module")
def photo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A real photo with a face, as a PNG of three channels."""
    if PHOTO.is_file():
        picture = Image.open(PHOTO).convert("RGB")
    else:
        data = pytest.importorskip("skimage.data", reason=f"neither {PHOTO} nor scikit-image is here")
        picture = Image.fromarray(data.astronaut())
    path = tmp_path_factory.mktemp("photos") / "astronaut.png"
    picture.save(path)
    return path


@pytest.fixture(scope="module")
def name(host: Host, photo: Path) -> str:
    return host.upload(photo)


@pytest.fixture(scope="module")
def flat(host: Host, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A picture without a face: a smooth ramp, in which every value of a byte occurs."""
    ramp = np.add.outer(np.arange(256), np.zeros(320)).astype(np.uint8)
    path = tmp_path_factory.mktemp("flat") / "ramp.png"
    Image.fromarray(np.stack([ramp, ramp, ramp], -1)).save(path)
    return host.upload(path)


def node(kind: str, **inputs: Any) -> dict[str, Any]:
    """Return a node in API form, with the defaults that a page would send."""
    defaults = {}
    for item in SCHEMAS.get(kind, {"inputs": []})["inputs"]:
        if "default" in item or "options" in item:
            defaults[item["name"]] = item.get("default", item.get("options", [None])[0])
    return {"class_type": kind, "inputs": {**defaults, **inputs}}


def one_node(name: str, **inputs: Any) -> Prompt:
    return {
        "1": node("LoadImage", image=name),
        "2": node("BFR_RestoreFaces", **{"image": ["1", 0], **inputs}),
        "3": node("PreviewImage", images=["2", 0]),
    }


def saved(name: str, picture: str) -> Prompt:
    """Return a saved workflow with a picture in the place of its example."""
    prompt = json.loads((API / f"{name}.json").read_text("utf-8"))
    for entry in prompt.values():
        if entry["class_type"] == "LoadImage":
            entry["inputs"]["image"] = picture
        elif entry["class_type"] == "LoadVideo":
            entry["inputs"]["file"] = picture
    return prompt


def pixels(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path)).astype(np.float64) / 255


def check_interrupt(host: Host, prompt: Prompt, *, after: float, within: float) -> None:
    """Interrupt a prompt so many seconds after it was sent; it must stop within the time given."""
    number = host.submit(prompt)
    time.sleep(after)
    assert not host.finished(number), "it was too short to interrupt"
    start = time.monotonic()
    host.interrupt()
    with pytest.raises(PromptInterrupted):
        host.wait(number)
    took = time.monotonic() - start
    print(f"stopped after {took:.2f} s")
    assert took < within


def shown(host: Host, prompt: Prompt, number: str = "3") -> list[np.ndarray]:
    return [pixels(path) for path in host.outputs(host.run(prompt), number)]


def by_kind(prompt: Prompt, kind: str) -> str:
    (number,) = (number for number, entry in prompt.items() if entry["class_type"] == kind)
    return number


def test_every_node_is_there(host: Host) -> None:
    info = {name: schema for name, schema in host.object_info().items() if name.startswith("BFR_")}
    assert set(info) == set(SCHEMAS)
    for name, schema in info.items():
        assert schema["category"].startswith("Faces/")
        assert schema["python_module"] == "custom_nodes.bfr-faces"
        order = [*schema["input_order"].get("required", []), *schema["input_order"].get("optional", [])]
        assert order == [item["name"] for item in SCHEMAS[name]["inputs"]]
        assert schema["output"] == [item["type"] for item in SCHEMAS[name]["outputs"]]
    assert "Traceback" not in host.log


@pytest.mark.parametrize("workflow", PICTURES)
def test_saved_workflows_give_what_the_command_line_gives(
    workflow: str, host: Host, name: str, photo: Path, tmp_path: Path, record_property: Any
) -> None:
    prompt = saved(workflow, name)
    entry = host.run(prompt)
    (path,) = host.outputs(entry, by_kind(prompt, "SaveImage"))
    assert main(["restore", str(photo), "-o", str(tmp_path / "out.png"), "--seed", "0", "--device", "cpu"]) == 0
    expected, got, before = pixels(tmp_path / "out.png"), pixels(path), pixels(photo)
    assert np.abs(expected - before).max() > 4 * LEVEL, "nothing was restored, so nothing was compared"
    difference = np.abs(got - expected)
    record_property("max_difference", difference.max() * 255)
    print(
        f"{workflow}: largest difference {difference.max() * 255:.0f} of 255, {(difference > 0).mean():.2%} of values"
    )
    assert difference.max() <= LEVEL + 1e-9
    (mask,) = (pixels(path) for path in host.outputs(entry, by_kind(prompt, "MaskPreview")))
    outside = mask[..., 0] == 0
    assert outside.any()
    # The preview of the mask rounds less than half a level to black; that little may tip the rounding of a pixel.
    assert np.abs(got - before)[outside].max() <= LEVEL + 1e-9


def test_faces_are_degraded_restored_and_compared(host: Host, name: str) -> None:
    prompt = saved("degrade_and_compare", name)
    degraded, restored = (by_kind(prompt, kind) for kind in ("BFR_DegradeFaces", "PreviewImage"))
    texts = [number for number, one in prompt.items() if one["class_type"] == "PreviewAny"]
    prompt[degraded]["inputs"] |= {"preset": "x8", "seed": 3}
    for number, slot in (("90", 0), ("91", 1)):
        prompt[number] = node("PreviewImage", images=[degraded, slot])
    entry = host.run(prompt)
    low, truth, face = (pixels(host.outputs(entry, number)[0]) for number in ("90", "91", restored))
    expected = degrade((truth * 255).round().astype(np.uint8), draw(get_preset("x8"), 3)).astype(float) / 255
    # The host's SaveImage cuts off the fractions of what it is given, so the truth may differ by a level beforehand.
    assert np.abs(low - expected).max() <= 3 * LEVEL
    parameters, figures = (json.loads("".join(entry["outputs"][number]["text"])) for number in texts)
    assert parameters[0]["downscale"] == 8.0 and parameters[0]["seed"] == 3
    values = figures["pairs"][0]["values"]["psnr"]
    for side, image in (("input", low), ("restored", face)):
        assert values[side] == pytest.approx(-10 * np.log10(np.mean((image - truth) ** 2)), abs=0.05)
    (sheet,) = (pixels(path) for path in host.outputs(entry, by_kind(prompt, "SaveImage")))
    assert sheet.shape[1] > 1.5 * sheet.shape[0] and sheet.std() > 0.1


def test_style_prompts_are_shown_mixed_saved_and_given_back(host: Host, name: str) -> None:
    (choice,) = (item for item in SCHEMAS["BFR_RestoreFaces"]["inputs"] if item["name"] == "method")
    if "vspbfr/compact" not in choice["options"]:
        pytest.skip("this package has no weights for vspbfr/compact")
    prompt = saved("style_prompts", name)
    first, mixed = (number for number, one in prompt.items() if one["class_type"] == "BFR_StylePreview")
    previews = [number for number, one in prompt.items() if one["class_type"] == "PreviewImage"]
    pictures = {prompt[number]["inputs"]["images"][0]: number for number in previews}
    entry = host.run(prompt)
    steps, after = ([pixels(path) for path in host.outputs(entry, pictures[number])] for number in (first, mixed))
    assert len(steps) == len(after) == 5
    assert all(picture.shape == steps[0].shape for picture in steps + after)
    # The two differ in their seed, so in their noise; what a trained diffuser makes of it hardly does.
    assert max(np.abs(a - b).max() for a, b in zip(steps, after, strict=True)) > 4 * LEVEL
    (path,) = host.outputs(entry, by_kind(prompt, "SaveImage"))
    assert np.abs(pixels(path) - pixels(host.base / "input" / name)).max() > 4 * LEVEL
    (kept,) = host.outputs(entry, by_kind(prompt, "BFR_SaveStyleCodes"))
    assert load_codes(kept).steps.shape[:2] == (1, 5)

    # The codes that were saved, loaded from the output folder, restore as the node does without any.
    restore, stored = by_kind(prompt, "BFR_Restore_vspbfr"), by_kind(prompt, "BFR_LoadStyleCodes")
    shown = prompt[restore]["inputs"]
    prompt[stored]["inputs"]["file"] = f"style_codes/{kept.name} [output]"
    faces = []
    for codes in ({"codes": [stored, 0]}, {}):
        prompt[restore]["inputs"] = {key: value for key, value in shown.items() if key != "codes"} | codes
        (path,) = host.outputs(host.run(prompt), pictures[restore])
        faces.append(pixels(path))
    assert np.array_equal(*faces)
    prompt[restore]["inputs"] = shown | {"codes": [stored, 0]}
    prompt[stored]["inputs"]["file"] = "none"
    assert "No style codes to load" in failure(host, prompt)


def test_alpha_is_kept(host: Host, photo: Path, tmp_path: Path) -> None:
    picture = Image.open(photo).convert("RGBA")
    alpha = np.linspace(0, 255, picture.width).round().astype(np.uint8)
    picture.putalpha(Image.fromarray(np.tile(alpha, (picture.height, 1))))
    picture.save(tmp_path / "alpha.png")
    prompt = one_node(host.upload(tmp_path / "alpha.png"))
    prompt["4"] = node("JoinImageWithAlpha", image=["1", 0], alpha=["1", 1])
    prompt["2"]["inputs"]["image"] = ["4", 0]
    (got,) = shown(host, prompt)
    assert got.shape[-1] == 4
    # LoadImage and JoinImageWithAlpha both invert, and PreviewImage cuts fractions off: a level may be lost.
    assert np.abs(got[..., 3] * 255 - alpha).max() <= 1
    assert np.abs(got[..., :3] - pixels(tmp_path / "alpha.png")[..., :3]).max() > 4 * LEVEL


def test_a_batch_gives_what_its_images_give(host: Host, name: str) -> None:
    """But for their grain, which each draws anew as the frames of a film do."""
    (alone,) = shown(host, one_node(name, grain=0.0))
    prompt = one_node(name, grain=0.0)
    prompt["4"] = node("ImageBatch", image1=["1", 0], image2=["1", 0])
    prompt["5"] = node("ImageBatch", image1=["4", 0], image2=["1", 0])
    prompt["2"]["inputs"]["image"] = ["5", 0]
    together = shown(host, prompt)
    assert len(together) == 3
    for got in together:
        assert np.array_equal(got, alone)


@pytest.mark.parametrize("workflow", PICTURES)
def test_no_face_changes_no_bit(workflow: str, host: Host, flat: str, name: str) -> None:
    prompt = saved(workflow, flat)
    for item in list(prompt.values()):
        if item["class_type"] == "BFR_SelectPerson":  # who is looked for has a face
            prompt[item["inputs"]["person"][0]]["inputs"]["image"] = name
    entry = host.run(prompt)
    (path,) = host.outputs(entry, by_kind(prompt, "SaveImage"))
    assert np.array_equal(np.asarray(Image.open(path)), np.asarray(Image.open(host.base / "input" / flat)))


def test_a_face_is_restored_where_a_mask_lets_it_be_steered(host: Host, name: str, photo: Path) -> None:
    prompt = saved("guided_restore", name)
    entry = host.run(prompt, timeout_s=LONG_S)
    (path,) = host.outputs(entry, by_kind(prompt, "SaveImage"))
    got, before = pixels(path), pixels(photo)
    (replaced,) = (pixels(path) for path in host.outputs(entry, by_kind(prompt, "MaskPreview")))
    outside = replaced[..., 0] == 0
    assert np.abs(got - before)[outside].max() <= LEVEL + 1e-9
    assert np.abs(got - before)[~outside].max() > 4 * LEVEL
    # Nothing is steered where the mask is black, so a strength of 0 gives the same as a black mask.
    combine, guide = by_kind(prompt, "BFR_CombineGuidanceMasks"), by_kind(prompt, "BFR_IdentityGuide")
    prompt[guide]["inputs"]["strength"] = 0.0
    (free,) = (pixels(path) for path in host.outputs(host.run(prompt, timeout_s=LONG_S), by_kind(prompt, "SaveImage")))
    prompt[guide]["inputs"]["strength"] = 10.0
    prompt[combine]["inputs"]["operation"] = "subtract"
    prompt[combine]["inputs"]["b"] = prompt[combine]["inputs"]["a"]
    (black,) = (pixels(path) for path in host.outputs(host.run(prompt, timeout_s=LONG_S), by_kind(prompt, "SaveImage")))
    assert np.abs(black - free).max() <= LEVEL + 1e-9
    assert np.abs(got - free).max() > LEVEL, "it is steered"


def test_guided_restoring_without_a_face_changes_no_bit(host: Host, flat: str) -> None:
    prompt = saved("guided_restore", flat)
    (path,) = host.outputs(host.run(prompt, timeout_s=LONG_S), by_kind(prompt, "SaveImage"))
    assert np.array_equal(np.asarray(Image.open(path)), np.asarray(Image.open(host.base / "input" / flat)))


def test_every_method_is_shown_beside_the_others(host: Host, name: str) -> None:
    prompt = saved("compare_methods", name)
    entry = host.run(prompt, timeout_s=LONG_S)
    shown = [number for number, item in prompt.items() if item["class_type"] == "PreviewImage"]
    pictures = [pixels(host.outputs(entry, number)[0]) for number in shown]
    methods = {item["class_type"] for item in prompt.values() if item["class_type"].startswith("BFR_Restore_")}
    shipped = [method.id for method in declared().values() if any(config.embedded for config in method.configs)]
    assert methods == {f"BFR_Restore_{name}" for name in shipped}
    assert len(pictures) == len(methods) + 1
    assert all(picture.shape == (512, 512, 3) for picture in pictures)
    for index, picture in enumerate(pictures):
        assert all(np.abs(picture - other).mean() > LEVEL for other in pictures[index + 1 :])


def test_a_whole_picture_keeps_its_size_and_is_reported(host: Host, tmp_path: Path) -> None:
    ramp = np.add.outer(np.arange(150), np.arange(201)).astype(np.uint8)
    Image.fromarray(np.stack([ramp, ramp, ramp], -1)).save(tmp_path / "odd.png")
    prompt = saved("whole_picture", host.upload(tmp_path / "odd.png"))
    restore = by_kind(prompt, "BFR_RestoreImage_lpip_diff")
    prompt["90"] = node("PreviewAny", source=[restore, 1])
    pictures, said = [], []
    for colours in ("auto", "input", "method", None):
        if colours is None:  # as a graph of 0.2.0
            del prompt[restore]["inputs"]["colours"]
        else:
            prompt[restore]["inputs"]["colours"] = colours
        entry = host.run(prompt)
        (path,) = host.outputs(entry, by_kind(prompt, "SaveImage"))
        pictures.append(pixels(path))
        (report,) = text_of(entry, "90")
        assert report["method"] == "lpip_diff" and report["detector"] == "whole" and report["faces"] == []
        said.append(report["colours"])
    assert all(picture.shape == (150, 201, 3) for picture in pictures)
    assert said == ["input", "input", "method", "input"], "auto is the input's for weights of the package"
    auto, kept, free, without = pictures
    assert np.array_equal(auto, kept) and np.array_equal(auto, without)
    assert not np.array_equal(auto, free)


@pytest.mark.parametrize("workflow", PICTURES)
def test_graphs_saved_without_the_newer_inputs_give_the_same(workflow: str, host: Host, name: str) -> None:
    prompt = saved(workflow, name)
    (path,) = host.outputs(host.run(prompt), by_kind(prompt, "SaveImage"))
    expected, taken = pixels(path), set()
    for entry in prompt.values():
        if entry["class_type"].startswith("BFR_Restore"):
            taken |= {key for key in ("colours", "crops") if entry["inputs"].pop(key, None) is not None}
    assert "colours" in taken
    (path,) = host.outputs(host.run(prompt), by_kind(prompt, "SaveImage"))
    assert np.array_equal(pixels(path), expected)


def test_core_boxes_are_taken(host: Host, name: str, flat: str) -> None:
    if not host.object_info("PrimitiveBoundingBox"):
        pytest.skip(f"ComfyUI {host.version} has no node that gives a BOUNDING_BOX")
    box = node("PrimitiveBoundingBox", x=170, y=50, width=110, height=140)
    changed = {}
    for picture in (name, flat):
        prompt = one_node(picture, boxes=["4", 0], all_faces=True)
        prompt["4"] = box
        (got,) = shown(host, prompt)
        changed[picture] = np.argwhere((got[..., :3] != pixels(host.base / "input" / picture)[..., :3]).any(-1))
    # The square of the crop is about two and a half boxes wide; far from it nothing happens.
    assert len(changed[name]) and np.abs(changed[name] - [120, 225]).max() < 220
    assert not len(changed[flat]), "nobody is in that box"
    prompt = {
        "1": node("LoadImage", image=name),
        "4": box,
        "2": node("BFR_AlignFaces", image=["1", 0], boxes=["4", 0], size=128),
        "3": node("PreviewImage", images=["2", 0]),
    }
    (aligned,) = shown(host, prompt)
    assert aligned.shape[:2] == (128, 128)


def test_our_boxes_go_into_core_nodes(host: Host, name: str) -> None:
    if not host.object_info("DrawBBoxes"):
        pytest.skip(f"ComfyUI {host.version} has no DrawBBoxes")
    info = host.object_info("DrawBBoxes")["input"]
    inputs = {key: spec[1].get("default") for key, spec in info["required"].items() if len(spec) > 1}
    prompt = one_node(name)
    prompt["4"] = node("BFR_DetectFaces", image=["1", 0])
    prompt["5"] = {"class_type": "DrawBBoxes", "inputs": {**inputs, "image": ["1", 0], "bboxes": ["4", 1]}}
    prompt["3"]["inputs"]["images"] = ["5", 0]
    (drawn,) = shown(host, prompt)
    assert not np.array_equal(drawn[..., :3], pixels(host.base / "input" / name))


@pytest.mark.parametrize(
    ("bad", "value", "kind"),
    [
        ("strength", 1.5, "value_bigger_than_max"),
        ("max_faces", -1, "value_smaller_than_min"),
        ("method", "irn/huge", "value_not_in_list"),
        ("colours", "output", "value_not_in_list"),
    ],
)
def test_a_bad_value_is_named(bad: str, value: Any, kind: str, host: Host, name: str) -> None:
    answer = host.validation_error(one_node(name, **{bad: value}))
    (error,) = answer["node_errors"]["2"]["errors"]
    assert error["type"] == kind
    assert error["extra_info"]["input_name"] == bad


def failure(host: Host, prompt: Prompt) -> str:
    with pytest.raises(HostError) as caught:
        host.run(prompt)
    assert not isinstance(caught.value, PromptInterrupted)
    return str(caught.value).splitlines()[0]


def test_errors_say_what_to_do(host: Host, name: str) -> None:
    def four(text: str, *parts: str) -> None:
        # The host puts the message first: node, type of the error, then our four sentences.
        assert all(part in text for part in parts), text
        assert text.count(". ") >= 3, text

    prompt = one_node(name, restorer=["4", 0])
    prompt["4"] = node("BFR_LoadRestorer", method="irn/paper")
    four(failure(host, prompt), "irn/paper", "expected a file", "Nothing was started", "Choose")

    weights = host.base / "models" / "facerestore_models" / "broken.safetensors"
    weights.parent.mkdir(exist_ok=True)
    weights.write_bytes(b"this is no checkpoint at all")
    prompt["4"] = node("BFR_LoadRestorer", method="irn/compact", weights="broken.safetensors")
    (error,) = host.validation_error(prompt)["node_errors"]["4"]["errors"]
    assert error["type"] == "custom_validation_failed" and "broken.safetensors" in error["details"]

    prompt = saved("restore_faces_step_by_step", name)
    prompt[by_kind(prompt, "BFR_AlignFaces")]["inputs"]["size"] = 256
    four(failure(host, prompt), "(B, 3, 512, 512)", "Align the faces")

    prompt = {
        "1": node("LoadImage", image=name),
        "2": node("BFR_AlignFaces", image=["1", 0]),
        "3": node("PreviewImage", images=["2", 0]),
    }
    four(failure(host, prompt), "No faces to align", "Connect Detect Faces")
    assert len(shown(host, one_node(name))) == 1, "the host goes on working"


def test_a_replaced_weight_file_is_read_again(host: Host, name: str) -> None:
    source = host_harness.PROJECT / "bfr_core" / "weights" / "embedded" / "irn_compact.safetensors"
    weights = host.base / "models" / "facerestore_models" / "mine.safetensors"
    weights.parent.mkdir(exist_ok=True)
    weights.write_bytes(source.read_bytes())
    prompt = one_node(name, restorer=["4", 0])
    prompt["4"] = node("BFR_LoadRestorer", method="irn/compact", weights="mine.safetensors")
    (got,) = shown(host, prompt)
    (embedded,) = shown(host, one_node(name))
    assert np.array_equal(got, embedded)
    weights.write_bytes(b"damaged since")
    # The same prompt: without looking again the host would show its cached result.
    assert "mine.safetensors" in json.dumps(host.validation_error(prompt)["node_errors"]["4"])
    weights.unlink()


def test_interrupt_stops_a_big_batch(host: Host, name: str) -> None:
    prompt = one_node(name, seed=7)
    source = ["1", 0]
    for number in range(10, 16):  # 64 images
        prompt[str(number)] = node("ImageBatch", image1=source, image2=source)
        source = [str(number), 0]
    prompt["2"]["inputs"]["image"] = source
    whole = copy.deepcopy(prompt)
    check_interrupt(host, whole, after=4, within=STOP_S)
    assert len(shown(host, one_node(name, seed=8))) == 1


def test_runs_again_after_the_models_were_unloaded(host: Host, name: str) -> None:
    (before,) = shown(host, one_node(name, seed=20, grain=0.0))
    host.free()
    time.sleep(1)
    (after,) = shown(host, one_node(name, seed=21, grain=0.0))
    assert np.array_equal(before, after)


# --- films -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def film(host: Host, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The first frames of a real film with a face and a voice."""
    if not FILM.is_file():
        pytest.skip(f"no {FILM}")
    path = tmp_path_factory.mktemp("films") / "talking.mp4"
    with av.open(str(FILM)) as source, av.open(str(path), "w") as target:
        video, audio = source.streams.video[0], source.streams.audio[0]
        made: Any = target.add_stream("libx264", rate=25, options={"crf": "14", "bf": "0"})
        made.width, made.height, made.pix_fmt = video.width, video.height, "yuv420p"
        made.time_base = made.codec_context.time_base = Fraction(1, 25)
        sound = target.add_stream_from_template(audio)
        frames = source.decode(video)
        for index in range(SHOTS):
            frame = next(frames)
            frame.pts, frame.time_base, frame.pict_type = index, Fraction(1, 25), 0
            target.mux(made.encode(frame))
        target.mux(made.encode(None))
        source.seek(0)
        for packet in source.demux(audio):
            if packet.dts is not None and packet.dts * packet.time_base < SHOTS / 25:
                packet.stream = sound
                target.mux(packet)
    return host.upload(path)


def shots(path: Path) -> tuple[np.ndarray, list[Fraction]]:
    with av.open(str(path)) as container:
        frames = list(container.decode(video=0))
    return np.stack([frame.to_ndarray(format="rgb24") for frame in frames]), [f.pts * f.time_base for f in frames]


def voice(path: Path) -> list[bytes]:
    with av.open(str(path)) as container:
        return [bytes(packet) for packet in container.demux(audio=0) if packet.size]


def text_of(entry: dict[str, Any], number: str) -> Any:
    return json.loads("".join(entry["outputs"][number]["text"]))


def test_a_video_keeps_its_times_and_its_sound(host: Host, film: str) -> None:
    prompt = saved("restore_video", film)
    entry = host.run(prompt, timeout_s=280)
    (path,) = host.outputs(entry, by_kind(prompt, "SaveVideo"))
    before, times = shots(host.base / "input" / film)
    after, late = shots(path)
    assert late == times and len(after) == SHOTS
    assert voice(path) == voice(host.base / "input" / film)
    texts = {entry["inputs"]["source"][0]: number for number, entry in prompt.items() if "source" in entry["inputs"]}
    tracks = text_of(entry, texts[by_kind(prompt, "BFR_SelectTracks")])
    report = text_of(entry, texts[by_kind(prompt, "BFR_RestoreFacesInVideo")])
    assert [track["restore"] for track in tracks] == [True] and report["restored_frames"] == SHOTS
    assert report["method"] == "irn"
    assert host.outputs(entry, by_kind(prompt, "BFR_SelectTracks")), "the thumbnails are shown"
    assert 1 <= len(host.outputs(entry, by_kind(prompt, "PreviewImage"))) <= 4
    left, top, right, bottom = (round(value) for value in tracks[0]["box"])
    moved = np.abs(after.astype(int) - before)
    assert moved[:, top:bottom, left:right].mean() > 2 * moved[:, :60, :60].mean(), "the face, and little else"
    assert not list((host.base / "temp").rglob("segment_*"))
    # The same film again: nothing is looked for anew, and nobody is chosen.
    prompt[by_kind(prompt, "BFR_SelectTracks")]["inputs"] |= {"tracks": "1", "mode": "all but these"}
    entry = host.run(prompt, timeout_s=280)
    report = text_of(entry, texts[by_kind(prompt, "BFR_RestoreFacesInVideo")])
    assert report["restored_frames"] == 0 and [track["restore"] for track in report["tracks"]] == [False]


def test_a_trimmed_video_is_restored_in_that_part(host: Host, film: str) -> None:
    if not host.object_info("Video Slice"):
        pytest.skip(f"ComfyUI {host.version} trims no video")
    prompt: Prompt = {
        "1": node("LoadVideo", file=film),
        "2": node("Video Slice", video=["1", 0], start_time=0.08, duration=0.16, strict_duration=False),
        "3": node("BFR_RestoreFacesInVideo", video=["2", 0]),
        "4": node("SaveVideo", video=["3", 0], filename_prefix="part", format="auto", codec="auto"),
        "5": node("PreviewAny", source=["3", 1]),
    }
    entry = host.run(prompt, timeout_s=280)
    (path,) = host.outputs(entry, "4")
    after, _ = shots(path)
    before, times = shots(host.base / "input" / film)
    first = times.index(Fraction(2, 25))
    assert len(after) == 4 == text_of(entry, "5")["frames"]
    corner = np.s_[:, :60, :60]
    away = [np.abs(after[corner].astype(int) - before[first + k : first + k + 4][corner]).mean() for k in (-1, 0, 1)]
    assert away[1] == min(away), "those frames and no others"


def test_the_frames_of_a_video_go_through_memory(host: Host, film: str) -> None:
    prompt = saved("restore_frames", film)
    (path,) = host.outputs(host.run(prompt, timeout_s=280), by_kind(prompt, "SaveVideo"))
    assert len(shots(path)[0]) == SHOTS and voice(path)
    # As a VIDEO of frames in memory, which no file tells how to encode.
    again: Prompt = {
        **{
            number: entry
            for number, entry in prompt.items()
            if entry["class_type"] in ("LoadVideo", "GetVideoComponents")
        },
        "90": node("CreateVideo", images=[by_kind(prompt, "GetVideoComponents"), 0], fps=25.0),
        "91": node("BFR_RestoreFacesInVideo", video=["90", 0]),
        "92": node("SaveVideo", video=["91", 0], filename_prefix="memory", format="auto", codec="auto"),
    }
    again["90"]["inputs"]["audio"] = [by_kind(prompt, "GetVideoComponents"), 1]
    (path,) = host.outputs(host.run(again, timeout_s=280), "92")
    after, times = shots(path)
    assert times == [Fraction(index, 25) for index in range(SHOTS)] and voice(path)
    before, _ = shots(host.base / "input" / film)
    assert np.abs(after.astype(int) - before).mean() < 6, "the same colours"
    assert not list((host.base / "temp" / "bfr_video" / "copies").iterdir())


def test_a_video_that_is_stopped_goes_on(host: Host, film: str) -> None:
    prompt: Prompt = {
        "1": node("LoadVideo", file=film),
        "2": node("BFR_RestoreFacesInVideo", video=["1", 0], method="diffuse_restore/compact"),
        "3": node("PreviewAny", source=["2", 1]),
    }
    check_interrupt(host, prompt, after=8, within=STEP_S)
    assert not list((host.base / "temp" / "bfr_video").rglob(".bfr-*")), "nothing unfinished is left"
    prompt["2"]["inputs"]["method"] = "irn/compact"
    assert text_of(host.run(prompt, timeout_s=280), "3")["frames"] == SHOTS
