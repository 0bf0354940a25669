"""Style codes by themselves: made, shown, mixed, saved and given back, with a tiny random network."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
import safetensors.torch
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_vspbfr import tiny_restorer
from torch import nn

from bfr_core.errors import BfrError, InputMediaError, OutputMediaError, RestoreError, SettingsError
from bfr_core.methods.irn import METHOD as IRN
from bfr_core.methods.vspbfr.codes import StyleCodes, load_codes, mix_codes, save_codes
from bfr_core.methods.vspbfr.prompts import preview, style_codes
from bfr_core.restorer import Restorer
from bfr_core.runtime import Runtime

SEEDS = [5, 6, 7]
FACES = torch.rand(3, 3, 64, 64, generator=torch.Generator().manual_seed(0))
LAYERS, FEATURES, STEPS, BANK = 8, 8, 4, 32
"""Of the tiny network."""


@pytest.fixture(scope="module")
def restorer() -> Restorer:
    return tiny_restorer()


@pytest.fixture(scope="module")
def codes(restorer: Restorer) -> StyleCodes:
    return style_codes(restorer, FACES, seeds=SEEDS, runtime=Runtime(batch=2))


def drawn(count: int = 2, seed: int = 0, config: str = "tiny") -> StyleCodes:
    values = torch.randn(count, STEPS + 2, LAYERS, FEATURES, generator=torch.Generator().manual_seed(seed))
    return StyleCodes(values[:, 0], values[:, 1:], config)


def refused(kind: type[BfrError], call: Callable[[], Any]) -> Any:
    with pytest.raises(kind) as caught:
        call()
    assert all(part.strip() for part in caught.value.args)
    return caught.value


# --- made ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_codes_given_back_change_nothing(restorer: Restorer, dtype: torch.dtype) -> None:
    def run() -> Runtime:
        return Runtime(batch=2, dtype=dtype)

    codes = style_codes(restorer, FACES, seeds=SEEDS, runtime=run())
    alone = restorer.restore(FACES, seeds=SEEDS, runtime=run())
    back = restorer.restore(FACES, seeds=SEEDS, inputs={"codes": codes.denoised}, runtime=run())
    assert torch.equal(alone, back)
    first = restorer.restore(FACES, seeds=SEEDS, settings={"prompts": "initial"}, runtime=run())
    back = restorer.restore(FACES, seeds=SEEDS, inputs={"codes": codes.initial}, runtime=run())
    assert torch.equal(first, back)
    assert (alone - first).abs().mean() > 0.01, "codes that change nothing would pass as well"


def test_their_shapes_and_what_they_depend_on(restorer: Restorer, codes: StyleCodes) -> None:
    assert codes.initial.shape == (3, LAYERS, FEATURES) == codes.denoised.shape
    assert codes.steps.shape == (3, STEPS + 1, LAYERS, FEATURES)
    assert codes.config == "tiny" and len(codes) == 3
    assert torch.equal(codes.denoised, codes.steps[:, -1])
    assert not codes.steps.is_inference()
    other = style_codes(restorer, FACES[:2], seeds=[9, 6], runtime=Runtime(batch=1))
    assert torch.allclose(other.initial, codes.initial[:2], atol=1e-5), "the seed draws w^T, not w_hat"
    # The sharp attention of random weights amplifies rounding, four steps in a row.
    assert torch.allclose(other.steps[1], codes.steps[1], atol=0.02), "not the batch, not the other seeds"
    assert (other.steps[0] - codes.steps[0]).abs().amax((1, 2)).min() > 0.2
    # w^T is the noise itself, and nothing of the face.
    same = style_codes(restorer, FACES.flip(0), seeds=SEEDS, runtime=Runtime())
    assert torch.equal(same.steps[:, 0], codes.steps[:, 0])


def test_no_face_has_no_codes(restorer: Restorer) -> None:
    none = style_codes(restorer, FACES[:0], seeds=[], runtime=Runtime())
    assert none.steps.shape == (0, STEPS + 1, LAYERS, FEATURES) and len(none) == 0
    assert preview(restorer, none.denoised, runtime=Runtime()).shape == (0, 3, BANK, BANK)


def test_progress_and_cancel(restorer: Restorer) -> None:
    class Stop(BaseException):
        pass

    def stop() -> None:
        if len(heard) == 1:
            raise Stop

    heard: list[tuple[int, int]] = []
    run = Runtime(batch=2, on_progress=lambda *done: heard.append(done))
    style_codes(restorer, FACES, seeds=SEEDS, runtime=run)
    assert heard == [(2, 3), (3, 3)]
    heard.clear()
    run = run.derived(check_cancel=stop)
    with pytest.raises(Stop):
        style_codes(restorer, FACES, seeds=SEEDS, runtime=run)
    assert heard == [(2, 3)]


def test_faces_are_checked_as_for_restoring(restorer: Restorer) -> None:
    for bad in (FACES[:, :, :-1], FACES + 1, FACES.double(), FACES * torch.nan):
        error = refused(InputMediaError, lambda bad=bad: style_codes(restorer, bad, seeds=SEEDS, runtime=Runtime()))
        assert "64, 64" in error.found
    refused(SettingsError, lambda: style_codes(restorer, FACES, seeds=[1], runtime=Runtime()))


def test_another_method_has_no_codes() -> None:
    other = Restorer(IRN, IRN.configs[0], nn.Identity(), "test")
    for call in (
        lambda: style_codes(other, FACES, seeds=SEEDS, runtime=Runtime()),
        lambda: preview(other, drawn().denoised, runtime=Runtime()),
    ):
        assert "VSPBFR" in refused(SettingsError, call).todo


def test_broken_weights_are_told() -> None:
    broken = tiny_restorer()
    broken.net.latent_avg[0, 0] = torch.nan
    error = refused(RestoreError, lambda: style_codes(broken, FACES, seeds=SEEDS, runtime=Runtime()))
    assert "bfr models verify" in error.todo


# --- shown -----------------------------------------------------------------------------------------------------


def test_preview_is_the_bank_without_noise(restorer: Restorer, codes: StyleCodes) -> None:
    pictures = preview(restorer, codes.steps.flatten(0, 1), runtime=Runtime(batch=4))
    assert pictures.shape == (3 * (STEPS + 1), 3, BANK, BANK)
    assert pictures.dtype == torch.float32 and pictures.min() >= 0 and pictures.max() <= 1
    with torch.no_grad():
        expected = (restorer.net.decoder(codes.denoised) + 1) / 2
    last = pictures.unflatten(0, (3, STEPS + 1))[:, -1]
    inside = (expected > 0) & (expected < 1)
    assert inside.float().mean() > 0.3
    assert (last - expected)[inside].abs().max() < 1e-4
    assert set(last[~inside].unique().tolist()) <= {0.0, 1.0}


def test_preview_in_half_precision_is_run_again_where_it_overflows(restorer: Restorer, codes: StyleCodes) -> None:
    large, run = codes.denoised * 1e6, Runtime(dtype=torch.float16)
    assert torch.equal(preview(restorer, large, runtime=run), preview(restorer, large, runtime=Runtime()))
    assert "again in float32" in run.notes[0]


@pytest.mark.parametrize(
    "bad",
    [torch.zeros(2, LAYERS + 1, FEATURES), torch.zeros(LAYERS, FEATURES), torch.zeros(()),
     torch.full((1, LAYERS, FEATURES), torch.inf), torch.zeros(1, LAYERS, FEATURES, dtype=torch.int64)],
    ids=["layers", "no batch", "number", "inf", "int"],
)  # fmt: skip
def test_unfit_codes_are_not_shown(restorer: Restorer, bad: torch.Tensor) -> None:
    refused(InputMediaError, lambda: preview(restorer, bad, runtime=Runtime()))


# --- mixed -----------------------------------------------------------------------------------------------------


@settings(max_examples=40, deadline=None)
@given(st.floats(0, 1), st.integers(1, LAYERS), st.integers(0, LAYERS), st.sampled_from([(2, 2), (3, 1), (1, 3)]))
def test_mixing_is_a_straight_line_in_the_layers_asked_for(
    share: float, first: int, last: int, counts: tuple[int, int]
) -> None:
    if last and last < first:
        first, last = last, first
    a, b = drawn(counts[0], 1), drawn(counts[1], 2)
    mixed = mix_codes(a, b, share=share, first=first, last=last)
    assert len(mixed) == max(counts) and mixed.config == "tiny"
    for name in ("initial", "steps"):
        x, y = np.broadcast_arrays(*(getattr(codes, name).numpy().astype(np.float64) for codes in (a, b)))
        expected = x.copy()
        where = slice(first - 1, last or LAYERS)
        expected[..., where, :] = (1 - share) * x[..., where, :] + share * y[..., where, :]
        np.testing.assert_allclose(getattr(mixed, name).numpy(), expected, atol=1e-6)


def test_the_ends_of_mixing_are_exact() -> None:
    a, b = drawn(2, 1), drawn(2, 2)
    assert torch.equal(mix_codes(a, b, share=0).steps, a.steps)
    assert torch.equal(mix_codes(a, b, share=1).steps, b.steps)
    part = mix_codes(a, b, share=1, first=2, last=3)
    assert torch.equal(part.denoised[:, 1:3], b.denoised[:, 1:3])
    assert torch.equal(part.denoised[:, 3:], a.denoised[:, 3:])


def test_what_does_not_mix() -> None:
    a = drawn(2)
    for bad in (drawn(3), StyleCodes(a.initial, a.steps[:, 1:], "tiny")):
        refused(InputMediaError, lambda bad=bad: mix_codes(a, bad, share=0.5))
    error = refused(InputMediaError, lambda: mix_codes(a, drawn(2, config="twin"), share=0.5))
    assert "twin" in error.found and "tiny" in error.found
    for unfit in ({"share": 1.5}, {"share": float("nan")}, {"first": 0}, {"first": 5, "last": 4}, {"last": LAYERS + 1}):
        error = refused(SettingsError, lambda unfit=unfit: mix_codes(a, a, **({"share": 0.5} | unfit)))
        assert f"1 to {LAYERS}" in error.todo


def test_codes_that_do_not_fit_each_other_are_refused() -> None:
    a = drawn(2)
    for bad in (
        {"initial": a.initial[:1]}, {"initial": a.initial[..., :1]}, {"initial": a.initial.double()},
        {"steps": a.steps[:, -1]}, {"steps": a.steps[:, :0]}, {"steps": a.steps * torch.nan},
    ):  # fmt: skip
        refused(InputMediaError, lambda bad=bad: replace(a, **bad))


# --- saved -----------------------------------------------------------------------------------------------------


def test_saved_codes_come_back_bit_for_bit(codes: StyleCodes, tmp_path: Path) -> None:
    path = tmp_path / "codes.safetensors"
    save_codes(path, codes)
    back = load_codes(path)
    assert torch.equal(back.initial, codes.initial) and torch.equal(back.steps, codes.steps)
    assert back.config == codes.config
    plain = safetensors.numpy.load_file(path)
    np.testing.assert_array_equal(plain["steps"], codes.steps.numpy())
    save_codes(path, drawn(0))
    assert len(load_codes(path)) == 0
    assert [file.name for file in tmp_path.iterdir()] == [path.name]
    refused(OutputMediaError, lambda: save_codes(tmp_path / "none" / "codes.safetensors", codes))


def packed(tensors: dict[str, torch.Tensor], **metadata: str) -> bytes:
    made_by = {"format": "vspbfr style codes", "version": "1", "config": "tiny"} | metadata
    return safetensors.torch.save(tensors, {key: value for key, value in made_by.items() if value})


GOOD = {"initial": drawn().initial.contiguous(), "steps": drawn().steps.contiguous()}
HEADER = json.dumps({"__metadata__": 5}).encode()
UNREADABLE = {
    "empty": (b"", "0 bytes"),
    "picture": (b"\x89PNG\r\n\x1a\n" + bytes(100), "108 bytes"),
    "header cut off": (packed(GOOD)[:40], "40 bytes"),
    "claims a long header": (struct.pack("<Q", 2**60) + bytes(50), "58 bytes"),
    "deep": (struct.pack("<Q", 200_000) + b"[" * 200_000, "200008 bytes"),
    "a list": (struct.pack("<Q", 2) + b"[]", "10 bytes"),
    "strange metadata": (struct.pack("<Q", len(HEADER)) + HEADER, "0 tensors"),
    "other tensors": (safetensors.torch.save({"a": torch.zeros(1)}), "1 tensors (a)"),
    "cut off": (packed(GOOD)[:-100], "damaged"),
    "newer": (packed(GOOD, version="2"), "version 2"),
    "no steps": (packed({"initial": GOOD["initial"]}), "'steps' is missing"),
    "no config": (packed(GOOD, config=""), "'config' is missing"),
    "half": (packed({key: value.half() for key, value in GOOD.items()}), "float16"),
    "shapes": (packed(GOOD | {"initial": GOOD["initial"][:, :2].contiguous()}), f"(2, 2, {FEATURES})"),
    "NaN": (packed(GOOD | {"initial": GOOD["initial"] * torch.nan}), "NaN or infinity in 128 values"),
}


@pytest.mark.parametrize("name", UNREADABLE)
def test_files_that_hold_no_codes_are_named(name: str, tmp_path: Path) -> None:
    data, said = UNREADABLE[name]
    path = tmp_path / "mine.safetensors"
    path.write_bytes(data)
    error = refused(InputMediaError, lambda: load_codes(path))
    assert said in error.found and "mine.safetensors" in error.what
    assert path.read_bytes() == data


def test_weights_are_told_from_codes(tmp_path: Path) -> None:
    path = tmp_path / "weights.safetensors"
    safetensors.torch.save_file(tiny_restorer().net.state_dict(), path)
    assert " tensors (" in refused(InputMediaError, lambda: load_codes(path)).found, "a tiny one is of no known config"
    safetensors.torch.save_file({"restorer.convs.13.fusion.0.weight": torch.zeros(1)}, path)
    assert "weights of VSPBFR, config official" in refused(InputMediaError, lambda: load_codes(path)).found


def test_a_missing_file_and_a_folder_are_told(tmp_path: Path) -> None:
    assert "no such file" in refused(InputMediaError, lambda: load_codes(tmp_path / "gone.safetensors")).found
    assert "it is a folder" in refused(InputMediaError, lambda: load_codes(tmp_path)).found
