"""Weight files: every way they can be wrong has its own message, and none runs code."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from marks import opens_pickles
from safetensors.torch import save, save_file
from torch import nn

from bfr_core.errors import BfrError, WeightsError
from bfr_core.models.checkpoints.cards import embedded, embedded_cards, load_embedded
from bfr_core.models.checkpoints.conversion import convert
from bfr_core.models.checkpoints.files import fill, load_state, sha256_of
from bfr_core.models.checkpoints.origin import Origin, read_origin
from bfr_core.registry import get_method, identify
from bfr_core.restorer import load_restorer


@pytest.fixture
def good(tmp_path: Path) -> Path:
    path = tmp_path / "good.safetensors"
    save_file({"a.weight": torch.randn(16, 8), "a.bias": torch.randn(16)}, path)
    return path


def message(path: Path, **options) -> str:
    before = path.read_bytes() if path.is_file() else None
    with pytest.raises(WeightsError) as caught:
        load_state(path, **options)
    assert before is None or path.read_bytes() == before
    for part in (caught.value.what, caught.value.found, caught.value.kept, caught.value.todo):
        assert part.strip()
    return str(caught.value)


def test_row01_missing(tmp_path):
    text = message(tmp_path / "gone.safetensors", sha256="ab" * 32, searched=[tmp_path])
    assert "gone.safetensors" in text and str(tmp_path) in text and "ab" * 32 in text


@pytest.mark.parametrize("keep", [0, 7, 8, 40, 200, -1])
def test_row02_truncated(good, keep):
    data = good.read_bytes()
    good.write_bytes(data[:keep])
    text = message(good)
    assert "incomplete" in text or "empty" in text
    if keep == -1:
        assert f"{len(data) - 1} of {len(data)} bytes" in text


def test_row03_web_page_and_lfs_pointer(tmp_path):
    for name, content, word in (
        ("a.safetensors", b"<!DOCTYPE html><html>404</html>", "web page"),
        ("b.pth", b"\n <html lang=en>", "web page"),
        ("c.pth", b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 4\n", "LFS pointer"),
    ):
        (tmp_path / name).write_bytes(content)
        assert word in message(tmp_path / name)


def mutate(path: Path, count: int) -> None:
    rng, data = random.Random(0), path.read_bytes()
    digest = sha256_of(path)
    for _ in range(count):
        damaged = bytearray(data)
        for _ in range(rng.choice((1, 2, 8))):
            damaged[rng.randrange(len(damaged))] = rng.randrange(256)
        path.write_bytes(damaged[: rng.choice((len(damaged), len(damaged), rng.randrange(len(damaged))))])
        if path.read_bytes() == data:
            continue
        with pytest.raises(WeightsError):
            load_state(path, sha256=digest)
        with contextlib.suppress(WeightsError):  # without the hash damage in the numbers may load
            load_state(path)


def test_row04_mutations(good):
    mutate(good, 200)


@pytest.mark.release
def test_row04_many_mutations(good):
    mutate(good, 2000)


@opens_pickles
def test_row04_mutated_torch_files(tmp_path):
    path = tmp_path / "a.pth"
    torch.save({"w": torch.randn(8, 8)}, path)
    mutate(path, 100)


def test_row05_another_model_is_named():
    method = get_method("irn")
    compact, paper = (method.build(method.config(name)) for name in ("compact", "paper"))
    with pytest.raises(WeightsError) as caught:
        fill(compact, paper.state_dict(), what="compact", guess=identify)
    assert "Identity recovery network, config paper" in str(caught.value) and "conv_first" in str(caught.value)
    with pytest.raises(WeightsError, match="another model"):
        fill(compact, {"x": torch.zeros(1)}, what="compact", guess=identify)


@opens_pickles
def test_row06_shapes_are_shown_and_prefixes_stripped(tmp_path):
    with pytest.raises(WeightsError, match=r"\(5, 3\).*\(4, 3\)"):
        fill(nn.Linear(3, 4), {"weight": torch.zeros(5, 3), "bias": torch.zeros(4)}, what="a layer")
    layer = nn.Linear(3, 4)
    for number, nested in enumerate(
        (
            {"module." + key: value for key, value in layer.state_dict().items()},
            {"params_ema": layer.state_dict(), "params": nn.Linear(9, 9).state_dict()},
            {"state_dict": {"model.module." + key: value for key, value in layer.state_dict().items()}, "epoch": 3},
        )
    ):
        path = tmp_path / f"{number}.pth"
        torch.save(nested, path)
        target = nn.Linear(3, 4)
        fill(target, load_state(path), what="a layer")
        assert torch.equal(target.weight, layer.weight)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_row07_not_finite(tmp_path, bad):
    path = tmp_path / "a.safetensors"
    save_file({"fine": torch.ones(3), "broken.weight": torch.tensor([1.0, bad])}, path)
    assert "broken.weight" in message(path)


class Evil:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch {self.path}",)


@opens_pickles
def test_row08_code_is_not_run(tmp_path):
    canary, path = tmp_path / "canary", tmp_path / "evil.pth"
    torch.save({"w": torch.ones(2), "x": Evil(canary)}, path)
    assert "run code" in message(path)
    assert not canary.exists()


@opens_pickles
def test_row09_namespaces_and_whole_modules_are_refused(tmp_path):
    for name, content in (
        ("a.pth", {"w": torch.ones(2), "args": argparse.Namespace(lr=1)}),
        ("b.pth", nn.Linear(2, 2)),
    ):
        torch.save(content, tmp_path / name)
        assert "tensors" in message(tmp_path / name)


@opens_pickles
def test_row10_expanded_tensor_is_refused_before_any_copy(tmp_path):
    path = tmp_path / "bomb.pth"
    torch.save({"w": torch.zeros(1).expand(200_000, 200_000)}, path)
    assert path.stat().st_size < 10_000
    script = (
        "import resource, sys; resource.setrlimit(resource.RLIMIT_AS, (8 << 30, 8 << 30))\n"
        "from pathlib import Path\nfrom bfr_core.models.checkpoints.files import load_state\n"
        "from bfr_core.errors import WeightsError\n"
        "try: load_state(Path(sys.argv[1]))\nexcept WeightsError as error: print(error)"
    )
    done = subprocess.run([sys.executable, "-c", script, str(path)], capture_output=True, text=True, check=True)
    assert "claims (200000, 200000)" in done.stdout


def test_row10_header_that_overflows_is_refused(tmp_path):
    header = json.dumps({"w": {"dtype": "F32", "shape": [2**40, 2**40], "data_offsets": [0, 4]}}).encode()
    path = tmp_path / "a.safetensors"
    path.write_bytes(len(header).to_bytes(8, "little") + header + b"\0" * 4)
    message(path)


def test_row11_never_onto_itself(good, tmp_path):
    before = sha256_of(good)
    with pytest.raises(WeightsError, match="onto itself"):
        convert(good, good)
    link = tmp_path / "link.safetensors"
    link.symlink_to(good)
    with pytest.raises(WeightsError, match="onto itself"):
        convert(good, link)
    assert sha256_of(good) == before


def test_row11_a_loaded_file_may_be_replaced(good):
    state = load_state(good)
    kept = {key: value.clone() for key, value in state.items()}
    good.write_bytes(save({"other": torch.zeros(4)}))
    assert all(torch.equal(state[key], kept[key]) for key in kept)


@opens_pickles
def test_row13_two_processes_convert_at_once(tmp_path):
    source, target = tmp_path / "a.pth", tmp_path / "a.safetensors"
    torch.save({"w": torch.randn(500, 500)}, source)
    script = (
        "import sys; from pathlib import Path; from bfr_core.models.checkpoints.conversion import convert; "
        "convert(*map(Path, sys.argv[1:]))"
    )
    command = [sys.executable, "-c", script, str(source), str(target)]
    both = [subprocess.Popen(command) for _ in range(2)]
    assert [process.wait() for process in both] == [0, 0]
    assert torch.equal(load_state(target)["w"], load_state(source)["w"])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.pth", "a.safetensors"]


def test_old_torch_does_not_open_pickles(tmp_path, monkeypatch):
    path = tmp_path / "a.pth"
    torch.save({"w": torch.ones(2)}, path)
    monkeypatch.setattr(torch, "__version__", "2.9.1+cpu")
    assert "CVE-2026-24747" in message(path)


def test_embedded_weights_are_what_their_cards_say():
    cards = embedded_cards()
    assert {card.name for card in cards} >= {"detector", "irn_compact"}
    for card in cards:
        state = load_embedded(card.name)
        assert sum(tensor.numel() for tensor in state.values()) == card.parameters
        assert card.metrics and card.command and "public domain" in card.images and card.weaknesses
        assert read_origin(embedded(card.name)) == Origin(card.method, card.config, card.title)


@pytest.mark.parametrize(
    ("method", "other", "words"),
    [
        ("diffuse_restore", "lpip_diff_compact_diffusion", "LPIP-Diff, Patch diffusion model, config compact"),
        ("lpip_diff", "diffuse_restore_compact_diffusion", "Diffuse-and-Restore, Conditional diffusion model"),
    ],
)
def test_weights_of_a_twin_are_not_taken_for_its_own(tmp_path, method, other, words):
    """Both methods have one compact network, under the same keys."""
    path = tmp_path / "mine.safetensors"
    shutil.copy(embedded(other), path)
    with pytest.raises(WeightsError) as caught:
        load_restorer(method, weights=path)
    error = caught.value
    assert str(path) in error.what and words in error.found and error.kept and error.todo


def test_a_method_without_weights_says_what_to_do():
    with pytest.raises(BfrError, match="--weights"):
        load_restorer("irn", "paper")


def test_weights_choose_their_config(tmp_path):
    method = get_method("irn")
    path = tmp_path / "swinir.safetensors"
    save_file(
        {key: value.contiguous() for key, value in method.build(method.config("paper")).state_dict().items()}, path
    )
    assert load_restorer("irn", weights=path).config.name == "paper"
