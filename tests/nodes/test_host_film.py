"""Frames in memory and kept faces in a real ComfyUI; see test_host.py for how to run it."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import av
import host_harness
import numpy as np
import pytest
from host_harness import Host
from PIL import Image

pytestmark = [
    pytest.mark.host,
    pytest.mark.skipif(host_harness.checkout() is None, reason="COMFYUI_PATH names no ComfyUI checkout"),
]
PHOTO = host_harness.PROJECT.parent / "shared" / "data" / "photos" / "clean" / "astronaut.png"
CHART = [
    (255, 0, 0),
    (0, 255, 0),
    (0, 0, 255),
    (255, 255, 0),
    (0, 255, 255),
    (200, 128, 100),
    (128, 128, 128),
    (0, 0, 0),
]
SIDE, PATCH, FRAMES = 512, 64, 10
LONG_S = 600.0

Prompt = dict[str, dict[str, Any]]


@pytest.fixture(scope="module")
def host() -> Iterator[Host]:
    with Host(pack_name="bfr-faces") as host:
        yield host


@pytest.fixture(scope="module")
def name(host: Host, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A photo with a face under a row of plain colours."""
    if not PHOTO.is_file():
        pytest.skip(f"no {PHOTO}")
    image = np.array(Image.open(PHOTO).convert("RGB").resize((SIDE, SIDE)))
    image = np.roll(image, PATCH, 0)
    for index, colour in enumerate(CHART):
        image[:PATCH, index * PATCH : (index + 1) * PATCH] = colour
    path = tmp_path_factory.mktemp("photos") / "chart.png"
    Image.fromarray(image).save(path)
    return host.upload(path)


def node(kind: str, **inputs: Any) -> dict[str, Any]:
    return {"class_type": kind, "inputs": inputs}


def in_memory(name: str, **created: Any) -> Prompt:
    return {
        "1": node("LoadImage", image=name),
        "2": node("RepeatImageBatch", image=["1", 0], amount=FRAMES),
        "3": node("CreateVideo", images=["2", 0], fps=25.0, **created),
    }


def saved(source: str, prefix: str) -> dict[str, Any]:
    return node("SaveVideo", video=[source, 0], filename_prefix=prefix, format="auto", codec="auto")


def in_video(**inputs: Any) -> dict[str, Any]:
    usual = {"method": "irn/compact", "strength": 1.0, "seed": 0, "deflicker": 1.0, "all_faces": True}
    return node("BFR_RestoreFacesInVideo", **(usual | {"codec": "auto", "crf": 16, "on_damage": "stop"} | inputs))


def look(path: Path) -> tuple[tuple[Any, ...], np.ndarray]:
    """Return what a film says of its pixels, and its frames as a player shows them that follows it, (N, H, W, 3)."""
    with av.open(str(path)) as container:
        context = container.streams.video[0].codec_context
        frames = list(container.decode(video=0))
        tags = (context.pix_fmt, int(context.color_range), int(context.colorspace), int(context.color_primaries))
        shown = [f.reformat(format="rgb24", interpolation=4 | 0x2000 | 0x4000 | 0x40000).to_ndarray() for f in frames]
        return (*tags, int(context.color_trc)), np.stack(shown).astype(float)


@pytest.mark.parametrize("depth", [8, 10])
def test_create_restore_save_gives_the_colours_of_create_save(host: Host, name: str, depth: int) -> None:
    created: dict[str, Any] = {}
    if depth > 8:
        if "bit_depth" not in host.object_info("CreateVideo")["input"].get("optional", {}):
            pytest.skip(f"ComfyUI {host.version} creates videos of 8 bits alone")
        created = {"bit_depth": depth}
    prompt = in_memory(name, **created)
    prompt["4"] = saved("3", "direct")
    for number, strength in (("5", 0.0), ("7", 1.0)):
        prompt[number] = in_video(video=["3", 0], strength=strength)
        prompt[str(int(number) + 1)] = saved(number, f"restored{number}")
    entry = host.run(prompt, timeout_s=LONG_S)
    tags, direct = look(host.outputs(entry, "4")[0])
    print(host.version, tags)
    for saver in ("6", "8"):
        (path,) = host.outputs(entry, saver)
        told, frames = look(path)
        assert told == tags
        assert frames.shape == direct.shape
        away = frames - direct
        below = away[:, -160:]  # no face reaches there
        plain = [np.abs(away[:, 16:48, index * 64 + 16 : index * 64 + 48]).mean() for index in range(len(CHART))]
        print(
            saver,
            "signed",
            below.mean((0, 1, 2)).round(3),
            "absolute",
            np.abs(below).mean().round(3),
            np.round(plain, 2),
        )
        assert np.abs(below.mean((0, 1, 2))).max() < 1
        assert np.abs(below).mean() < 4, "what the host's own encoding, of crf 23, takes from a photo"
        assert max(plain) < 3, "a wrong matrix or range is ten levels and more off"
    whole = np.abs(look(host.outputs(entry, "8")[0])[1] - look(host.outputs(entry, "6")[0])[1]).mean((0, 3))
    assert whole[PATCH:-160].max() > 20 > 5 > whole[-100:].mean(), "the face was restored"


def report_of(entry: dict[str, Any], number: str) -> dict[str, Any]:
    told = json.loads("".join(entry["outputs"][number]["text"]))
    return told[0] if isinstance(told, list) else told


def timed(host: Host, prompt: Prompt) -> tuple[float, list[str]]:
    start = time.monotonic()
    entry = host.run(prompt, timeout_s=LONG_S)
    return time.monotonic() - start, [n for n in report_of(entry, "9")["notes"] if "taken from an earlier run" in n]


@pytest.mark.parametrize("method", ["irn/compact", "clr_face/compact"])
def test_another_strength_only_blends_again(host: Host, name: str, method: str) -> None:
    def picture(strength: float, seed: int = 0) -> Prompt:
        usual = {"max_faces": 0, "threshold": 0.0, "min_size": 16, "seed": seed, "strength": strength}
        return {
            "1": node("LoadImage", image=name),
            "2": node("BFR_RestoreFaces", image=["1", 0], method=method, **usual),
            "3": node("PreviewImage", images=["2", 0]),
            "9": node("PreviewAny", source=["2", 3]),
        }

    def film(strength: float) -> Prompt:
        prompt = in_memory(name)
        prompt["4"] = in_video(video=["3", 0], method=method, strength=strength)
        return prompt | {"5": saved("4", "film"), "9": node("PreviewAny", source=["4", 1])}

    fast = method.startswith("irn")
    for what, make in (("picture", picture), *([("film", film)] if fast else [])):
        first, said = timed(host, make(1.0))
        assert not said or what == "film"
        second, said = timed(host, make(0.5))
        assert len(said) == 1
        print(f"{host.version} {method} {what}: first {first:.2f} s, second {second:.2f} s, {first / second:.1f} times")
    _, said = timed(host, picture(1.0, seed=9))
    assert len(said) == int(fast), "a seed decides where noise is drawn"
    host.free()
    # A busy host may take the first of these before it frees anything.
    assert [] in [timed(host, picture(strength))[1] for strength in (0.25, 0.2)], "memory was freed"
