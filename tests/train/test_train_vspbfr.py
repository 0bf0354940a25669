"""VSPBFR's four training stages, one after another, through the command."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import train_command
from marks import opens_pickles
from tiny_vspbfr import declare
from train_command import exported, few_faces

import train.__main__ as command
from bfr_core.models.checkpoints.files import load_state
from bfr_core.restorer import load_restorer
from bfr_core.runtime import Runtime
from train import loop

CRITIC = {"4": 16, "8": 16, "16": 16, "32": 8}

pytestmark = opens_pickles


@pytest.fixture(autouse=True)
def tiny(monkeypatch):
    declare(monkeypatch)


@pytest.fixture(scope="module")
def faces(tmp_path_factory) -> Path:
    return few_faces(tmp_path_factory.mktemp("faces"))


def train(stage: str, faces: Path, out: Path, shared: Path, *, weights, files=(), **fields) -> dict:
    """Train a stage with the recogniser of the tests and return its last checkpoint."""
    given = ("--recogniser", shared / "weights/mobilefacenet.pt", *files)
    return train_command.train(f"vspbfr.{stage}", faces, out, weights=[weights], files=given, **fields)


def train_all(folder: Path, faces: Path, shared: Path, images: int, **changes) -> tuple[list[Path], list[dict]]:
    """Train the four stages on each other's weights and export each."""
    picture = {"l1": 1.0, "perceptual": 0.1}
    common = {"faces": faces, "shared": shared, "images": images, "critic": {}, **changes}
    states = [train("bank", out=folder / "bank", weights=picture, **common)]
    style = exported(folder / "bank")
    given = ("--style", style)
    states.append(train("encoder", out=folder / "encoder", files=given, weights={"codes": 1.0, **picture}, **common))
    given = ("--style", exported(folder / "encoder"))
    many = (
        {"pairs": images // 2, "images": 80 * images, "batch": 64, "lr": (0.02, 0.005)}
        if images > 100
        else {"pairs": 16}
    )
    weights = {"codes": 1.0}
    states.append(train("diffuser", out=folder / "diffuser", files=given, weights=weights, **{**common, **many}))
    given = (*given, "--diffuser", exported(folder / "diffuser"))
    weights = {**picture, "identity": 0.05, "adversarial": 0.01, "critic": 1.0, "r1": 1.0}
    sizes = {"critic": CRITIC, "critic_crop": 32, "critic_patch": 1}
    states.append(
        train("restorer", out=folder / "restorer", files=given, weights=weights, **{**common, **sizes, "r1_every": 1})
    )
    restorer = exported(folder / "restorer")
    return [given[1], given[3], restorer], states


def test_the_four_stages_make_a_restorer(faces, tmp_path, shared):
    files, states = train_all(tmp_path, faces, shared, images=8)
    assert all(state["position"]["steps"] == 2 for state in states)
    whole = tmp_path / "whole"
    whole.mkdir()
    for file in files:
        file.rename(whole / file.name)
    restorer = load_restorer("vspbfr", "tiny", weights=whole)
    face = torch.rand(2, 3, 64, 64)
    restored = restorer.restore(face, seeds=[1, 2], runtime=Runtime())
    assert restored.shape == face.shape and restored.std() > 0
    averages = states[3]["averages"]["net"]
    key = "restorer.convs.1.fusion.0.weight"
    assert torch.equal(restorer.net.state_dict()[key], averages[key])


def test_an_encoder_that_is_trained_leaves_the_generator_alone(faces, tmp_path, shared):
    train("bank", faces, tmp_path / "bank", shared, weights={"l1": 1.0}, critic={})
    style = exported(tmp_path / "bank")
    before = load_state(style)
    state = train("encoder", faces, tmp_path / "encoder", shared, files=("--style", style), weights={"codes": 1.0})
    after = state["averages"]["net"]
    changed = {key for key in before if not torch.equal(before[key], after[key])}
    assert changed and all(key.startswith("encoder.") for key in changed)


def test_the_published_losses_run(faces, tmp_path, shared):
    """Every term of the configs `official` and `paper`, in networks of the printed form."""
    common = {"faces": faces, "shared": shared, "network": "tiny_printed", "config": "paper", "ema": 100.0}
    common["degradation"] = "gfpgan"
    bank = {"sampled": 1.0, "inverted": 1.0, "l2": 1.0, "path": 2.0, "critic": 1.0, "r1": 1.0}
    state = train("bank", out=tmp_path / "bank", weights=bank, critic=CRITIC, **common)
    assert state["networks"]["net"]["path_length"] > 0 and state["position"]["skipped"] == 0
    given = ("--style", exported(tmp_path / "bank"))
    assert "path_length" not in load_state(given[1])
    encoder = {"l2": 1.0, "identity": 0.1, "delta": 2e-4, "editable": 0.1, "critic": 1.0, "r1": 1.0}
    assert train("encoder", out=tmp_path / "e", files=given, weights=encoder, **common)["position"]["skipped"] == 0
    diffuser = {"diffusion": 1.0, "perceptual": 0.1, "identity": 0.1}
    assert train("diffuser", out=tmp_path / "d", files=given, weights=diffuser, **common)["position"]["skipped"] == 0
    given = (*given, "--diffuser", exported(tmp_path / "d"))
    restorer = {"perceptual": 0.5, "adversarial": 1.0, "critic": 1.0, "r1": 1.0}
    sizes = {"critic": {**CRITIC, "64": 8}}
    state = train("restorer", out=tmp_path / "r", files=given, weights=restorer, **common, **sizes)
    assert state["position"]["skipped"] == 0


def test_pairs_of_codes_and_losses_of_pictures_do_not_go_together(faces, tmp_path, shared, capsys):
    train("bank", faces, tmp_path / "bank", shared, weights={"l1": 1.0}, critic={})
    given = ("--style", exported(tmp_path / "bank"))
    with pytest.raises(AssertionError):  # the command ends with an error
        train("diffuser", faces, tmp_path / "d", shared, files=given, weights={"perceptual": 1.0}, pairs=8)
    assert "perceptual compare pictures, and pairs = 8 keeps none" in capsys.readouterr().err


def test_weights_of_another_part_are_named(faces, tmp_path, shared, capsys):
    train("bank", faces, tmp_path / "bank", shared, weights={"l1": 1.0}, critic={})
    style = exported(tmp_path / "bank")
    path = tmp_path / "small.json"
    path.write_text(json.dumps({"base": "compact", "network": "tiny", "face_size": 64}))
    arguments = ["vspbfr.restorer", "--config", path, "--data", faces, "--val", faces, "--out", tmp_path / "run"]
    arguments += ["--recogniser", shared / "weights/mobilefacenet.pt", "--style", style, "--diffuser", style]
    assert command.main([str(argument) for argument in arguments]) != 0
    assert "code diffuser" in capsys.readouterr().err


@pytest.mark.release
def test_each_stage_learns(faces, tmp_path, shared, monkeypatch):
    """Test-sized networks on a few hundred images: the figures that each stage follows fall."""
    monkeypatch.setattr(loop, "REPORT_SECONDS", 1.0)
    places = shared / "faces/pd256/train"
    train_all(tmp_path, places, shared, images=400, validate_images=10_000)
    for stage, term in (("bank", "l1"), ("encoder", "codes"), ("diffuser", "codes"), ("restorer", "l1")):
        lines = [json.loads(line) for line in (tmp_path / stage / "log.jsonl").read_text().splitlines()]
        values = [line[term] for line in lines if term in line]
        tenth = max(len(values) // 10, 1)
        first, last = (sum(part) / tenth for part in (values[:tenth], values[-tenth:]))
        print(f"{stage}: {term} {first:.4f} -> {last:.4f}")
        assert len(values) >= 3 and last < 0.9 * first, (stage, values)
