"""`bfr styles` from the outside, with a tiny random network."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from skimage.data import astronaut
from tiny_vspbfr import declare, tiny_restorer

from bfr_core.cli import main
from bfr_core.compose.colour import keep_colours
from bfr_core.methods.vspbfr.codes import load_codes
from bfr_core.runtime import Runtime


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a photo, an aligned face, a picture of nobody, and the network's file."""
    declare(monkeypatch)
    save_file(tiny_restorer().net.state_dict(), tmp_path / "tiny.safetensors")
    Image.fromarray(astronaut()).save(tmp_path / "photo.png")
    Image.fromarray(astronaut()[0:256, 90:346]).resize((64, 64)).save(tmp_path / "face.png")
    Image.fromarray(np.full((128, 128, 3), 90, np.uint8)).save(tmp_path / "nobody.png")
    return tmp_path


def styles(place: Path, picture: str, *options: Any, out: str = "codes.safetensors") -> int:
    network = ("--config", "tiny", "--weights", place / "tiny.safetensors")
    return main([str(part) for part in ("styles", place / picture, "-o", place / out, *network, *options)])


def failure(capsys: pytest.CaptureFixture[str]) -> str:
    text = capsys.readouterr().err
    assert text.startswith("Error: ") and text.count(". ") >= 3
    return text


def test_codes_of_an_aligned_face_restore_as_the_command_does(place: Path) -> None:
    assert styles(place, "face.png", "--aligned", "--seed", 4) == 0
    codes = load_codes(place / "codes.safetensors")
    assert codes.steps.shape == (1, 5, 8, 8) and codes.config == "tiny"
    restore = ["restore", place / "face.png", "-o", place / "out.png", "--aligned", "--method", "vspbfr", "--seed", 4]
    assert main([str(part) for part in (*restore, "--config", "tiny", "--weights", place / "tiny.safetensors")]) == 0
    face = torch.from_numpy(np.array(Image.open(place / "face.png"))).movedim(-1, 0)[None].float() / 255
    seeds = [4 * 1_000_003]  # face_seed of the first face of the first frame
    back = tiny_restorer().restore(face, seeds=seeds, inputs={"codes": codes.denoised}, runtime=Runtime())
    written = np.asarray(Image.open(place / "out.png")).astype(float) / 255
    # Through 8 bits, and the steps of a random network multiply what is rounded on the way.
    expected = keep_colours(face[0], back[0]).movedim(0, -1).numpy()
    assert np.abs(written - expected).mean() < 0.01


def test_preview_shows_the_face_and_every_step(place: Path) -> None:
    assert styles(place, "face.png", "--aligned", "--preview", place / "steps.png") == 0
    sheet = np.asarray(Image.open(place / "steps.png")).astype(float)
    assert sheet.shape == (256, 6 * 256 + 5 * 8, 3)
    face, *steps = (sheet[:, start : start + 256] for start in range(0, sheet.shape[1], 264))
    expected = Image.open(place / "face.png").resize((256, 256), Image.Resampling.BICUBIC)
    assert np.abs(face - np.asarray(expected)).mean() < 3
    assert all(np.abs(one - other).mean() > 1 for one, other in pairwise(steps))


def test_faces_of_a_photo_are_found(place: Path) -> None:
    assert styles(place, "photo.png", "--preview", place / "steps.png") == 0
    count = len(load_codes(place / "codes.safetensors"))
    assert count >= 1
    assert Image.open(place / "steps.png").height == count * 264 - 8


def test_nothing_is_replaced_or_begun_in_vain(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (place / "codes.safetensors").write_bytes(b"mine")
    assert styles(place, "face.png", "--aligned") == 1
    assert "exists already" in failure(capsys)
    assert (place / "codes.safetensors").read_bytes() == b"mine"
    assert styles(place, "face.png", "--aligned", "--overwrite") == 0
    capsys.readouterr()
    assert len(load_codes(place / "codes.safetensors")) == 1
    for out, options, said in (
        ("codes.pt", (), "suffix is .pt"),
        ("gone/codes.safetensors", (), "does not exist"),
        ("new.safetensors", ("--preview", place / "steps.txt"), "suffix is .txt"),
        ("new.safetensors", ("--preview", place / "face.png", "--overwrite"), "it is the input"),
        ("new.safetensors", ("--max-faces", -1), "max_faces of -1"),
    ):
        assert styles(place, "face.png", "--aligned", *options, out=out) == 1
        assert said in failure(capsys)
        assert not (place / out).exists()


def test_a_picture_of_nobody_is_told(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert styles(place, "nobody.png") == 1
    assert "No face in" in failure(capsys)
    assert not (place / "codes.safetensors").exists()
