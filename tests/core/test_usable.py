"""Which weight files lists offer: told by their headers, and by nothing that takes long."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
import torch
from marks import opens_pickles
from safetensors.torch import save_file

from bfr_core.models.checkpoints.cards import embedded, embedded_cards
from bfr_core.models.checkpoints.files import load_state
from bfr_core.models.registry import specs
from bfr_core.models.usable import unfit
from bfr_core.registry import methods

GFPGAN = {"params_ema": {"stylegan_decoder.style_mlp.1.weight": torch.zeros(4, 4), "final_linear.bias": torch.zeros(4)}}


def own(role: str) -> list[str]:
    if role == "restorer":
        return [name for method in methods().values() for config in method.configs for name in config.embedded]
    return [name for spec in specs(role) for name in spec.embedded]


@pytest.mark.parametrize("role", ["restorer", "detector", "recognizer"])
def test_our_own_weights_fit_their_role_and_no_other(role: str, tmp_path: Path) -> None:
    assert own(role)
    for name in (card.name for card in embedded_cards()):
        path = tmp_path / f"{name}.safetensors"
        save_file(load_state(embedded(name)), path)  # without the card, as people rename files
        reason = unfit(role, path)
        assert bool(reason) != (name in own(role)), f"{name}: {reason}"
        if reason:
            assert name in reason


@opens_pickles
def test_files_of_torch_are_told_by_their_keys(tmp_path: Path) -> None:
    state = load_state(embedded("irn_compact"))
    parallel = {f"module.{key}": one for key, one in state.items()}
    for number, wrapped in enumerate((state, {"params_ema": state}, parallel)):
        path = tmp_path / f"mine{number}.pth"
        torch.save(wrapped, path)
        assert unfit("restorer", path) == ""
        assert "mine" in unfit("detector", path)
    other = tmp_path / "GFPGANv1.4.pth"
    torch.save(GFPGAN, other)
    assert "GFPGANv1.4.pth holds a network with" in unfit("restorer", other)


@opens_pickles
def test_what_is_no_checkpoint_is_said(tmp_path: Path) -> None:
    for content, said in (
        (b"", "empty"),
        (b"<!DOCTYPE html><html>", "web page"),
        (b"version https://git-lfs.github.com/spec/v1", "LFS"),
        (b"\x01" * 40, "incomplete"),
    ):
        path = tmp_path / "some.safetensors"
        path.write_bytes(content)
        reason = unfit("restorer", path)
        assert said in reason and reason.startswith("some.safetensors")
        assert "\n" not in reason
    torch.save(object, tmp_path / "unsafe.pth")
    assert "run code" in unfit("restorer", tmp_path / "unsafe.pth")


def test_a_replaced_file_is_looked_at_again(tmp_path: Path) -> None:
    path = tmp_path / "mine.safetensors"
    path.write_bytes(b"")
    assert unfit("restorer", path)
    save_file(load_state(embedded("irn_compact")), path)
    assert unfit("restorer", path) == ""
    path.unlink()
    assert unfit("restorer", path) == "", "who opens it says that it is gone"


def test_what_headers_do_not_tell_is_offered(tmp_path: Path) -> None:
    old = tmp_path / "old.pth"
    torch.save(GFPGAN, old, _use_new_zipfile_serialization=False)
    (tmp_path / "any.onnx").write_bytes(b"\x08\x07")
    assert unfit("restorer", old) == ""
    assert unfit("detector", tmp_path / "any.onnx") == ""


def test_large_files_cost_nothing(tmp_path: Path) -> None:
    path = tmp_path / "large.pth"
    torch.save({"params": {f"layer{number}.weight": torch.zeros(1024, 1024) for number in range(48)}}, path)
    assert path.stat().st_size > 190e6
    start = time.perf_counter()
    assert unfit("restorer", path)
    first = time.perf_counter() - start
    start = time.perf_counter()
    for _ in range(100):
        unfit("restorer", path)
    assert first < 2, "200 MB are not read"
    assert time.perf_counter() - start < 0.1, "an answer is kept"
