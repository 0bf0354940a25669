"""The VSPBFR part of the benchmark, with a network of a few hundred weights."""

from __future__ import annotations

import logging
import math

import pytest
import torch

from bfr_core.bench import run
from bfr_core.methods.vspbfr import METHOD
from bfr_core.methods.vspbfr import bench as vspbfr
from bfr_core.registry import Config

WIDTHS = {4: 8, 8: 16, 16: 12, 32: 12, 64: 8, 128: 8}
OPTIONS = {
    "style_dim": 8,
    "encoder": {"input_size": 32, "stages": ((16, 1), (16, 2), (16, 1), (32, 2))},
    "bank": {"size": 128, "widths": WIDTHS, "depth": 3},
    "restorer": {"size": 64, "widths": WIDTHS, "depth": 2},
}
TINY = Config("official", "Tiny", 64, OPTIONS)


@pytest.fixture(scope="module")
def net():
    torch.manual_seed(3)
    return vspbfr.filled(METHOD.build(TINY))


def test_the_plain_way_is_the_same_network(net):
    figures = vspbfr.compare(net, TINY, lambda line: None, rounds=1, half=True)
    assert figures["agreement"]["codes"]["max"] <= 1e-3  # four steps of attention over random weights amplify rounding
    assert figures["agreement"]["picture"]["max"] <= 1e-4
    assert 0 < figures["bfloat16"]["picture"]["mean"] < 0.02


def test_the_part_prints_its_figures(net, monkeypatch):
    monkeypatch.setattr(vspbfr, "METHOD", type("Method", (), {
        "config": staticmethod(lambda name: TINY), "build": staticmethod(lambda config: net),
    }))  # fmt: skip
    monkeypatch.setattr(vspbfr, "_compact", lambda say: {})
    monkeypatch.setattr(vspbfr, "memory", lambda config, say: {"ratio": 1.0})
    lines: list[str] = []
    figures = run(["vspbfr"], None, lines.append)["vspbfr"]
    text = "\n".join(lines)
    for words in ("published layout, plain", "ours, float32", "bfloat16", "as fast as the plain way", "PSNR"):
        assert words in text
    for way in ("plain", "float32"):
        parts = [figures[way][part] for part in ("encoder", "diffuser", "bank", "restorer")]
        assert figures[way]["seconds"] > 0 and sum(parts) > 0
    plain, ours = figures["plain"]["seconds"], figures["float32"]["seconds"]
    assert math.isclose(figures["float32"]["times_faster_seconds"], plain / ours, rel_tol=0.1)


def test_peak_memory_is_read_in_a_process_of_its_own():
    lines: list[str] = []
    figures = vspbfr.memory(TINY, lines.append)
    if figures is None:
        assert lines == ["peak memory: can be read on Linux only"]
        return
    weights = sum(p.numel() for p in METHOD.build(TINY).parameters())
    assert figures["parameter_bytes"] == 4 * weights and figures["peak_bytes"] > 4 * weights


def test_batches_run_as_they_stand_and_compiled(monkeypatch):
    """On the CPU, and traced whole but not lowered: that needs neither a GPU nor a compiler."""
    monkeypatch.setattr(logging.getLogger("torch.__trace"), "propagate", False)  # thousands of records a layer
    options = OPTIONS | {"bank": {"size": 16, "widths": WIDTHS}, "restorer": {"size": 8, "widths": WIDTHS, "depth": 1}}
    small = Config("official", "Smallest", 8, options)
    lines: list[str] = []
    net = vspbfr.filled(METHOD.build(small))
    how = {"counts": (2,), "dtypes": (torch.float32,), "backend": "eager", "fullgraph": True}
    figures = vspbfr.batches(net, small, lines.append, **how)
    assert list(figures) == ["eager float32 x2", "compiled float32 x2"] and len(lines) == 2
    assert all(figure["ms_per_face"] > 0 for figure in figures.values())
