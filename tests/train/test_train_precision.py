"""Precision `auto`: what the processor is fast in, and runs that move from one to another."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from accelerate.state import AcceleratorState
from train_command import few_faces
from train_stages import tiny

from bfr_core.errors import SettingsError
from train import precision
from train.checkpoint import Checkpoints
from train.config import load_config
from train.loop import train
from train.run import TrainOptions
from train.stage import find_stage, stage_names

NAME = ("irn.tiny", "compact")
CPU, CUDA = torch.device("cpu"), torch.device("cuda", 0)


@pytest.fixture(autouse=True)
def fresh():
    AcceleratorState._reset_state(reset_partial_state=True)


@pytest.fixture(scope="module")
def faces(tmp_path_factory) -> Path:
    return few_faces(tmp_path_factory.mktemp("faces"))


def processor(monkeypatch, *, bf16: bool = False, amx: bool = False, mkldnn: bool = True) -> None:
    """Be a processor with these instructions; `mkldnn` is what oneDNN says, which is yes wherever there is AVX-512."""
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: bf16)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: amx)
    fake = SimpleNamespace(mkldnn=SimpleNamespace(_is_mkldnn_bf16_supported=lambda: mkldnn))
    monkeypatch.setattr(precision.torch, "ops", fake)


@pytest.mark.parametrize(
    ("has", "native"),
    [
        ({"bf16": True}, True),
        ({"amx": True}, True),
        ({}, False),  # AVX-512 without the instructions: oneDNN computes bf16 by conversion
        ({"bf16": True, "mkldnn": False}, False),  # kept from using them
    ],
)
def test_a_processor_has_bf16_where_it_has_the_instructions(monkeypatch, has, native):
    with monkeypatch.context() as other:
        processor(other, **has)
        assert precision.has_native_bf16(CPU) is native


@pytest.mark.parametrize(("capability", "native"), [((7, 5), False), ((8, 0), True), ((9, 0), True)])
def test_a_gpu_has_bf16_from_capability_8_on(monkeypatch, capability, native):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    assert precision.has_native_bf16(CUDA) is native


def test_other_devices_compute_in_float32():
    assert not precision.has_native_bf16(torch.device("mps"))


def test_what_is_asked_for_is_taken_and_auto_follows_the_processor(monkeypatch):
    for asked in ("no", "bf16", "fp16"):
        assert precision.settle(asked, cpu=True) == asked
    for native, taken in ((True, "bf16"), (False, "no")):
        monkeypatch.setattr(precision, "has_native_bf16", lambda device, native=native: native)
        assert precision.settle("auto", cpu=True) == taken


def run(faces: Path, out: Path, monkeypatch, native: bool, *, stop: int, **changes) -> dict:
    """Train on a processor with or without bf16 as far as `stop` images, and return the checkpoint."""
    AcceleratorState._reset_state(reset_partial_state=True)
    monkeypatch.setattr(precision, "has_native_bf16", lambda device: native)
    given = TrainOptions(out=out, data=[faces], val=[faces], workers=0, cpu=True, stop_after=stop)
    train(NAME, tiny(**changes), given)
    state = Checkpoints(out).load(lambda text: None)
    assert state is not None
    return state


def test_log_and_checkpoint_say_what_was_taken_and_another_processor_may_go_on(faces, tmp_path, monkeypatch, capsys):
    assert run(faces, tmp_path, monkeypatch, True, stop=4, precision="auto")["precision"] == "bf16"
    assert "1 x cpu, bf16 (precision auto), from the beginning" in capsys.readouterr().out
    assert json.loads((tmp_path / "config.json").read_text())["computed_in"] == "bf16"
    state = run(faces, tmp_path, monkeypatch, False, stop=8, precision="auto")
    assert state["precision"] == "no" and state["position"]["total"] == 8
    said = capsys.readouterr().out
    assert "Computed in bf16 until now, in float32 from here on: precision is auto" in said
    assert "1 x cpu, float32 (precision auto), continuing after 4 images" in said
    assert "until now" in (tmp_path / "log.jsonl").read_text()
    # And back; nothing is said where nothing changes.
    run(faces, tmp_path, monkeypatch, False, stop=12, precision="auto")
    assert "until now" not in capsys.readouterr().out
    assert run(faces, tmp_path, monkeypatch, True, stop=16, precision="auto")["precision"] == "bf16"


def test_auto_computes_what_the_precision_it_takes_computes(faces, tmp_path, monkeypatch):
    for native, same in ((True, "bf16"), (False, "no")):
        auto = run(faces, tmp_path / f"auto {same}", monkeypatch, native, stop=8, precision="auto")
        told = run(faces, tmp_path / same, monkeypatch, native, stop=8, precision=same)
        for key, tensor in told["networks"]["net"].items():
            assert torch.equal(tensor, auto["networks"]["net"][key])


def test_a_run_from_before_auto_goes_on_and_a_precision_that_was_asked_for_stays(faces, tmp_path, monkeypatch):
    old = run(faces, tmp_path, monkeypatch, False, stop=4, precision="no")
    del old["precision"]
    Checkpoints(tmp_path).save(old, 4)
    assert run(faces, tmp_path, monkeypatch, False, stop=8, precision="auto")["position"]["total"] == 8
    run(faces, tmp_path / "asked", monkeypatch, False, stop=4, precision="no")
    with pytest.raises(SettingsError, match="precision was 'no' and is 'bf16'"):
        run(faces, tmp_path / "asked", monkeypatch, False, stop=8, precision="bf16")


def test_every_compact_config_is_auto_or_float32():
    """Where bf16 is not safe it is not taken by itself: see train.precision."""
    auto = set()
    for name in stage_names():
        config = load_config("compact", find_stage(name).configs)
        assert config.precision in ("auto", "no"), name
        if config.precision == "auto":
            auto.add(name)
    unsafe = {name for name in stage_names() if name.startswith(("vspbfr.", "detector.", "recogniser"))}
    unsafe |= {"clr_face.mask", "diffuse_restore.mask", "pltrans.restorer"}
    assert auto == set(stage_names()) - unsafe
