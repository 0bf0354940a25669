"""The PLTrans part of the benchmark, with a network of a few thousand weights and faces of 64 px."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_pltrans import tiny_restorer
from torch import nn
from torch.nn import functional as F

from bfr_core.bench import parts_of
from bfr_core.media.pictures import read_picture
from bfr_core.methods.pltrans import bench as pltrans
from bfr_core.methods.pltrans.degradation_level import degradation_level


class Judge(nn.Module):
    """A recogniser by colours."""

    size = 8

    def forward(self, x):
        return F.normalize(F.adaptive_avg_pool2d(x, 8).flatten(1) - 0.5, dim=1)


@pytest.fixture(scope="module")
def restorer():
    return tiny_restorer()


@pytest.fixture(scope="module")
def faces():
    clean = [np.random.default_rng(seed).integers(0, 256, (64, 64, 3), np.uint8) for seed in range(2)]
    return pltrans.degradations(clean, 64)


def test_it_is_listed():
    assert parts_of()["pltrans"] == pltrans.__name__


def test_cost_and_both_ways_to_the_nearest_entries(restorer):
    lines: list[str] = []
    found = pltrans.cost(restorer, lines.append, rounds=1)
    assert found["parameters"] == sum(p.numel() for p in restorer.net.parameters())
    assert found["seconds"] > 0 and found["regulariser_share"] > 0 and found["evaluations"] == 4
    assert "8 nearest of 64 entries for 64 positions" in lines[-1]
    z = torch.randn(2, 8, 4, 4)
    codebook = restorer.net.vq.codebook
    assert torch.equal(pltrans.brute_force(z, codebook, 3, rows=5), restorer.net.prior.nearest(z, codebook)[..., :3])


def test_distances_against_numpy():
    a, b = torch.randn(3, 4, 2, 2), torch.randn(3, 4, 2, 2)
    x, y = a.double().numpy().reshape(3, -1), b.double().numpy().reshape(3, -1)
    assert pltrans.apart(a, b) == pytest.approx(np.mean(np.sqrt(((x - y) ** 2).mean(1))))
    pairs = [np.sqrt(((x[i] - x[j]) ** 2).mean()) for i, j in ((0, 1), (0, 2), (1, 2))]
    assert pltrans.between(a) == pytest.approx(np.mean(pairs))


def test_kinds_that_are_apart_are_told_apart():
    clean = torch.randn(20, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    assert pltrans.told_apart(clean, clean + 3) == 1
    assert pltrans.told_apart(clean, clean) == 0.5, "the same points are on no side"
    assert abs(pltrans.told_apart(clean, torch.randn(20, 4, 8, 8)) - 0.5) < 0.3


def test_features_before_and_after(restorer, faces):
    lines: list[str] = []
    found = pltrans.robustness(restorer, faces, lines.append)
    assert list(faces.ways) == ["gfpgan", "x4", "x8", "x16", "x32"]
    net = restorer.net
    with torch.no_grad():
        clean, low = (net.encode(pictures * 2 - 1) for pictures in (faces.clean, faces.ways["x8"]))
    wanted = pltrans.apart(low, clean) / pltrans.between(clean)
    # Without an identity recovery network the encoder is given the face itself.
    assert found["x8"]["encoder"] == found["x8"]["before"]
    assert found["x8"]["before"]["distance"] == pytest.approx(wanted, abs=2e-3)
    assert found["x8"]["after"] != found["x8"]["before"]
    assert found["x4"]["strength"] == pytest.approx(degradation_level(faces.ways["x4"]).mean().item(), abs=1e-3)
    assert len(lines) == 6


def test_the_curve_of_steps(restorer, faces):
    found = pltrans.curve(restorer, pltrans.Degraded(faces.clean, {"x4": faces.ways["x4"]}), lambda line: None)["x4"]
    assert list(found) == ["50", "100", "200", "400", "600", "800", "auto"]
    assert len(set(found.values())) > 3


def test_table1_and_its_pictures(restorer, faces, tmp_path: Path):
    found = pltrans.ablations(restorer, faces, Judge(), lambda line: None, tmp_path)
    assert list(found) == ["input", "whole", "w/o V", "w/o DIFF", "w/o LT", "w/o DWT", "truth"]
    assert found["truth"]["identity"] == 1 and found["truth"]["psnr"] == np.inf
    wanted = -10 * (faces.ways["gfpgan"] - faces.clean).double().square().mean((1, 2, 3)).log10()
    assert found["input"]["psnr"] == pytest.approx(wanted.mean().item(), abs=2e-3)
    assert all(found[name] != found["whole"] for name in ("input", "w/o V", "w/o DIFF", "w/o LT"))
    sheet = read_picture(tmp_path / "pltrans_table1.png")
    assert sheet.rgb.shape[1] >= 7 * 256
