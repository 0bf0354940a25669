"""The command, from outside, on real pictures."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from marks import opens_pickles, runs_yunet
from PIL import Image, ImageCms
from skimage.data import astronaut

from bfr_core.cli import main
from bfr_core.media.pictures import read_picture
from bfr_core.registry import methods


@pytest.fixture
def portrait(tmp_path: Path) -> Path:
    path = tmp_path / "in" / "portrait.png"
    path.parent.mkdir()
    Image.fromarray(astronaut()[0:320, 60:400]).save(path)
    return path


def run(*arguments) -> int:
    try:
        return main([str(argument) for argument in arguments])
    except SystemExit as end:
        return int(end.code or 0)


def faces_of(report: Path) -> list[dict]:
    return [face for file in json.loads(report.read_text())["files"] for face in file["report"]["faces"]]


def test_a_photo_in_a_photo_out(portrait, tmp_path, capsys):
    out, report = tmp_path / "out.png", tmp_path / "deep" / "report.json"
    assert run("restore", portrait, "-o", out, "--compare", "--max-faces", 1, "--report", report) == 0
    before, after = read_picture(portrait).rgb, read_picture(out).rgb
    changed = (before != after).any(2)
    assert changed.any() and not changed[-60:].any() and not changed[:, -40:].any()
    assert [face["action"] for face in faces_of(report)].count("restored") == 1
    assert (tmp_path / "out.compare.png").is_file()
    assert "1 of 1 pictures done, 1 faces restored" in capsys.readouterr().out


@pytest.mark.parametrize("depth", [8, 16])
def test_depth_alpha_and_profile_survive(portrait, tmp_path, depth):
    rgb = cv2.imread(str(portrait))
    alpha = np.linspace(0, 255, rgb.shape[1]).astype(np.uint8)[None].repeat(rgb.shape[0], 0)
    rgba = np.dstack([rgb, alpha])
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    source, out = tmp_path / "deep.png", tmp_path / "out.png"
    if depth == 16:
        rgba = rgba.astype(np.uint16) * 257 - (rgba > 100)
        cv2.imwrite(str(source), rgba)
    else:
        Image.fromarray(rgba[..., [2, 1, 0, 3]]).save(source, icc_profile=profile)
    assert run("restore", source, "-o", out, "--max-faces", 1) == 0
    before, after = read_picture(source), read_picture(out)
    assert after.rgb.dtype == (np.uint16 if depth == 16 else np.uint8)
    assert np.array_equal(before.alpha, after.alpha) and before.icc == after.icc
    same = (before.rgb == after.rgb).all(2)
    assert not same.all() and same[-60:].all() and same[:, -40:].all()


def test_480p_background_is_not_resampled(shared, tmp_path):
    """Peers resize every frame below 512 px twice; here nothing outside the mask may move by one level."""
    source = tmp_path / "small.png"
    read = cv2.imread(str(shared / "photos" / "groups" / "2007_007763.jpg"))
    cv2.imwrite(str(source), cv2.resize(read, (480, round(480 * read.shape[0] / read.shape[1]))))
    report = tmp_path / "r.json"
    assert run("restore", source, "-o", tmp_path / "out.png", "--report", report) == 0
    before, after = read_picture(source).rgb, read_picture(tmp_path / "out.png").rgb
    boxes = [face["box"] for face in faces_of(report) if face["action"] == "restored"]
    outside = np.ones(before.shape[:2], bool)
    for x0, y0, x1, y1 in boxes:
        reach = 1.6 * max(x1 - x0, y1 - y0)
        cx, cy = (x0 + x1) / 2, (y0 + y1) / 2
        rows, columns = (slice(max(int(c - reach), 0), int(c + reach) + 1) for c in (cy, cx))
        outside[rows, columns] = False
    assert boxes and outside.any() and np.array_equal(before[outside], after[outside])


def test_no_face_copies_the_file(tmp_path):
    source = tmp_path / "noise.jpg"
    gradient = np.linspace(0, 255, 300 * 200 * 3).reshape(200, 300, 3).astype(np.uint8)
    Image.fromarray(gradient).save(source, quality=80)
    assert run("restore", source, "-o", tmp_path / "out.jpg", "--report", tmp_path / "r.json") == 0
    assert (tmp_path / "out.jpg").read_bytes() == source.read_bytes()
    assert "copied" in (tmp_path / "r.json").read_text()


def test_a_bad_file_is_named_and_the_rest_goes_on(portrait, tmp_path, capsys):
    (portrait.parent / "broken.png").write_bytes(portrait.read_bytes()[:5000])
    (portrait.parent / "page.jpg").write_bytes(b"<!DOCTYPE html><html></html>")
    report = tmp_path / "r.json"
    assert run("restore", portrait.parent, "-o", tmp_path / "out", "--report", report) == 1
    told = capsys.readouterr()
    assert "broken.png" in told.err and "page.jpg" in told.err and "1 of 3 pictures done" in told.out
    assert [path.name for path in (tmp_path / "out").glob("[!.]*")] == ["portrait.png"]
    assert [file["status"] for file in json.loads(report.read_text())["files"]].count("failed") == 2


def test_row38_an_input_is_never_overwritten(portrait, capsys):
    before = portrait.read_bytes()
    assert run("restore", portrait, "-o", portrait) == 1
    assert run("restore", portrait, "-o", portrait, "--overwrite") == 1
    assert run("restore", portrait, "-o", portrait.parent, "--overwrite") == 1
    assert portrait.read_bytes() == before and "input" in capsys.readouterr().err


def test_row38_an_old_result_stays_unless_asked(portrait, tmp_path):
    out = tmp_path / "out.png"
    out.write_bytes(b"precious")
    assert run("restore", portrait, "-o", out) == 1 and out.read_bytes() == b"precious"
    assert run("restore", portrait, "-o", out, "--overwrite") == 0 and read_picture(out)


def test_row49_nothing_to_do_is_an_error(tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    assert run("restore", tmp_path / "empty", "-o", tmp_path / "out") == 1
    assert not (tmp_path / "out").exists() and "no picture" in capsys.readouterr().err.lower()


def test_wrong_settings_end_before_any_file(portrait, tmp_path, capsys):
    for extra in (
        ["--strength", "2"], ["--config", "huge"], ["--detector", "other"], ["--device", "gpu7"], ["--config", "paper"],
        ["--weights", tmp_path / "gone.safetensors"], ["--detector", "yunet"], ["--format", ".tga"],
    ):  # fmt: skip
        assert run("restore", portrait, "-o", tmp_path / "out", *extra) in (1, 2), extra
        assert not (tmp_path / "out").exists(), extra
        assert "Error:" in capsys.readouterr().err


@pytest.mark.parametrize("name", [pytest.param("yunet", marks=runs_yunet), "embedded"])
def test_the_detector_that_was_chosen_is_used(name, portrait, shared, tmp_path):
    weights = shared / "weights" / "yunet_n_dynamic.onnx"
    report = tmp_path / "r.json"
    extra = ["--detector", "yunet", "--detector-weights", weights] if name == "yunet" else []
    assert run("restore", portrait, "-o", tmp_path / "out.png", "--report", report, *extra) == 0
    assert json.loads(report.read_text())["files"][0]["report"]["detector"] == name


def test_aligned_face_needs_no_detector(shared, tmp_path):
    source = shared / "photos" / "degraded" / "Adele_crop.png"
    assert run("restore", source, "-o", tmp_path / "a.png", "--aligned") == 0
    assert read_picture(tmp_path / "a.png").rgb.shape == read_picture(source).rgb.shape


def test_same_command_same_pixels(portrait, tmp_path):
    for name in ("a.png", "b.png"):
        assert run("restore", portrait, "-o", tmp_path / name, "--seed", "3") == 0
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


def test_models(tmp_path, capsys):
    assert run("models", "list") == 0
    listed = capsys.readouterr().out
    assert "irn: Identity recovery network" in listed and "embedded: Ours" in listed
    assert run("models", "verify") == 0
    assert capsys.readouterr().out.count("ok ") >= 2
    (tmp_path / "bad.pth").write_bytes(b"junk")
    assert run("models", "verify", tmp_path / "bad.pth") == 1


@opens_pickles
def test_models_are_converted(tmp_path):
    import torch

    torch.save({"w": torch.ones(3)}, tmp_path / "a.pth")
    assert run("models", "convert", tmp_path / "a.pth", "-o", tmp_path / "a.safetensors", "--dtype", "float16") == 0
    assert run("models", "convert", tmp_path / "a.pth", "-o", tmp_path / "a.bin") == 1


def test_help_and_entry_point(capsys):
    assert run("--help") == 0 and "restore" in capsys.readouterr().out
    assert run("restore", "--help") == 0
    text = capsys.readouterr().out
    assert "--compare" in text and "examples:" in text
    done = subprocess.run([sys.executable, "-m", "bfr_core.cli", "--version"], capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout.startswith("bfr 0.")


@pytest.mark.parametrize("method", list(methods()))
def test_no_option_of_a_method_is_one_of_the_command(method, capsys):
    assert run("restore", "--method", method, "--help") == 0
    assert "--from-second" in capsys.readouterr().out


def test_demo_makes_its_own_photo(tmp_path, capsys):
    assert run("demo", "-o", tmp_path / "demo.png") == 0
    assert "PSNR" in capsys.readouterr().out
    assert read_picture(tmp_path / "demo.png").rgb.shape[1] > 1000


def test_bench_names_its_parts(capsys):
    assert run("bench", "nonsense") == 1 and "composite" in capsys.readouterr().err
    assert run("bench", "composite") == 0 and "peak memory" in capsys.readouterr().out
