"""The diffusion part of the benchmark, with networks of a few thousand weights and faces of 64 px."""

from __future__ import annotations

import dataclasses
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from marks import opens_pickles
from PIL import Image
from tiny_diffusion import declare, tiny_config, tiny_restorer
from torch.nn import functional as F

from bfr_core.bench import diffusion, diffusion_published, run
from bfr_core.bench.half import InFloat32
from bfr_core.cli import main
from bfr_core.errors import SettingsError
from bfr_core.restorer import Restorer
from bfr_core.runtime import Runtime


@pytest.fixture(scope="module")
def faces():
    return diffusion.faces_of(None, 64)


def tiny(method: str, **defaults) -> Restorer:
    """Return a tiny restorer that takes three steps by itself."""
    restorer = tiny_restorer(method)
    restorer.config = dataclasses.replace(restorer.config, defaults={"steps": 3, **defaults})
    return restorer


def silent(line: str) -> None:
    del line


def test_the_curve_is_what_the_restorer_gives_by_itself(faces):
    """Seeds, settings and the distance, against the public way and NumPy."""
    restorer = tiny("clr_face")
    one = diffusion.Faces(faces.low[:1])
    rows = diffusion.curve(restorer, one, silent, steps=(2, 6), samplers=("heun", "ddim"), reference=12)
    by_name = {row["way"]: row for row in rows}

    def alone(**settings):
        return restorer.restore(one.low, seeds=[0], settings=settings, runtime=Runtime()).double().numpy()

    exact = alone(steps=12, sampler="heun", guidance=False)
    for name, steps in (("heun", 2), ("ddim", 6)):
        found = alone(steps=steps, sampler=name, guidance=False)
        off = 255 * np.sqrt(np.mean((found - exact) ** 2))
        assert by_name[f"{name} {steps}"]["off"] == pytest.approx(off, abs=2e-3) and off > 0.01
    assert [by_name[key]["evaluations"] for key in ("heun 2", "heun 6", "ddim 6")] == [3, 11, 6]
    assert by_name["heun 6"]["off"] < by_name["heun 2"]["off"]
    assert by_name["defaults, guided"]["evaluations"] == 5  # three steps of Heun's, the method's own
    assert by_name["heun 12"]["off"] == 0 and all(row["seconds"] > 0 for row in rows if "evaluations" in row)


@pytest.mark.parametrize("method", ["diffuse_restore", "lpip_diff"])
def test_heun_is_measured_where_it_is_no_setting(method, faces):
    restorer = tiny(method)
    with pytest.raises(SettingsError):
        restorer.restore(faces.low, seeds=[0, 1], settings={"sampler": "heun"}, runtime=Runtime())
    found = diffusion.solve(restorer, faces.low[:1], {**diffusion.unguided(restorer), "steps": 3, "sampler": "heun"})
    assert found.count == 5 and found.pictures.shape == (1, 3, 64, 64)
    assert found.seconds == pytest.approx(found.before + sum(found.evaluations) + found.rest)


def test_cost_by_a_clock_that_counts_the_work(monkeypatch, faces):
    """A second for the denoiser, two backwards, three for the identity recovery network, nothing for the rest."""
    now = 0.0

    def work(seconds):
        def advance(*given):
            nonlocal now
            now += seconds

        return advance

    monkeypatch.setattr(diffusion, "time", SimpleNamespace(perf_counter=lambda: now))
    lines: list[str] = []
    figures = {}
    for name in ("diffuse_restore", "lpip_diff"):
        restorer = tiny(name)
        restorer.net.unet.register_forward_hook(work(1))
        restorer.net.unet.register_full_backward_pre_hook(work(2))
        restorer.net.irn.register_forward_hook(work(3))
        figures[name] = diffusion.cost(restorer, faces.low[:1], lines.append, rounds=1)
    assert figures["diffuse_restore"]["guidance_adds"] == {"gradient estimate": 0, "gradient network": 2}
    assert not figures["lpip_diff"]["guidance_adds"] and any("not guided" in line for line in lines)
    # 49 patches, 16 at once, are four calls of LPIP-Diff's denoiser.
    for name, calls in (("diffuse_restore", 1), ("lpip_diff", 4)):
        figure = figures[name]
        assert (figure["evaluation_seconds"], figure["evaluations"], figure["seconds"]) == (calls, 3, 3 + 3 * calls)
        assert figure["once"] == {"identity recovery network": 3 / calls} and figure["before"] == 3 / calls
        assert figure["in_evaluations"] == pytest.approx(3 + 3 / calls, abs=0.06)


@opens_pickles  # the recogniser among the pictures is a .pt file
def test_figures_of_pictures_are_those_of_their_truth(shared):
    faces = diffusion.faces_of(shared, 512)
    assert faces.truth is not None and faces.truth.shape == faces.low.shape == (2, 3, 512, 512)
    same, low = faces.figures(faces.truth), faces.figures(faces.low)
    assert same["identity"] == pytest.approx(1, abs=1e-3) and same["psnr"] == float("inf")
    levels = [(255 * side.double().numpy()).round() for side in (faces.low, faces.truth)]
    errors = ((levels[0] - levels[1]) ** 2).mean(axis=(1, 2, 3))
    assert low["psnr"] == pytest.approx(np.mean(10 * np.log10(255**2 / errors)), abs=2e-3)
    assert low["identity"] < 0.95 and low["sharpness"] < same["sharpness"]


def test_products_in_bfloat16_are_summed_in_float32():
    generator = torch.Generator().manual_seed(0)
    x, weight = torch.randn(1, 8, 12, 12, generator=generator), torch.randn(6, 8, 3, 3, generator=generator)
    with torch.autocast("cpu", torch.bfloat16), InFloat32():
        found = F.conv2d(x, weight, padding=1)
        product = x[0, 0] @ x[0, 1]
    assert found.dtype == product.dtype == torch.bfloat16
    rounded = [side.bfloat16().double() for side in (x, weight)]
    exact = F.conv2d(*rounded, padding=1)  # float64
    assert ((found.double() - exact).abs() <= 2**-8 * exact.abs() + 1e-5).all()  # half a unit in the last place
    exact = rounded[0][0, 0] @ rounded[0][0, 1]
    assert ((product.double() - exact).abs() <= 2**-8 * exact.abs() + 1e-5).all()


def test_the_deviation_of_bfloat16_is_that_of_this_cpus_own(monkeypatch, faces):
    """What stands for hardware with bfloat16 deviates as much as the slow emulation does."""
    restorer = tiny("lpip_diff", overlap=0.0)
    figures = []
    for slower in (100.0, 1.0):
        monkeypatch.setattr(diffusion, "times_slower", lambda slower=slower: slower)
        figures.append(diffusion.precision(restorer, faces.low[:1], silent))
    ours, emulated = figures
    assert ours["convolution_times_slower"] == 100 and emulated["times_faster"] > 0
    assert 0 < ours["mean"] < 0.03 and ours["mean"] <= ours["max"]
    assert ours["mean"] == pytest.approx(emulated["mean"], rel=0.5)
    assert ours["psnr"] == pytest.approx(emulated["psnr"], abs=3)


def test_batches_run_as_they_stand_and_compiled():
    """On the CPU, and traced but not lowered: that needs neither a GPU nor a compiler."""
    restorer, lines = tiny("clr_face"), []
    own = restorer.net.unet
    figures = diffusion.batches(
        restorer, lines.append, torch.device("cpu"), counts=(2,), dtypes=(torch.float32,),
        given={"steps": 1, "guidance": False}, backend="eager",
    )  # fmt: skip
    assert list(figures) == ["eager float32 x2", "compiled float32 x2"] and len(lines) == 2
    assert all(figure["seconds_per_face"] > 0 for figure in figures.values()) and restorer.net.unet is own


def test_a_published_size_is_measured_in_a_process_of_its_own(monkeypatch):
    config = tiny_config("diffuse_restore", printed=True)
    monkeypatch.setattr(diffusion_published, "measured_configs", lambda: [("diffuse_restore", "paper")])
    monkeypatch.setattr(diffusion_published, "get_method", lambda name: _Declared(name, config))
    lines: list[str] = []
    figures = run(["diffusion"], None, lines.append, paper=True)["diffusion"]["diffuse_restore/paper"]
    weights = sum(p.numel() for p in tiny_restorer("diffuse_restore", printed=True).net.parameters())
    assert figures["parameter_bytes"] == 4 * weights and figures["evaluations"] == 2
    assert figures["planned_evaluations"] == 10
    each, ends = figures["evaluation_seconds"], figures["before_seconds"] + figures["after_seconds"]
    assert figures["extrapolated_seconds"] == pytest.approx(10 * each + ends, abs=0.06)
    if figures["peak_bytes"] is not None:
        assert figures["peak_bytes"] > figures["start_bytes"] > 1e8 and figures["within_limit"]
    assert any("extrapolated, not measured" in line for line in lines)


class _Declared:
    """A method whose published config is a tiny one."""

    def __init__(self, name, config):
        from bfr_core.registry import get_method

        self.method, self.tiny = get_method(name), config

    def __getattr__(self, name):
        return getattr(self.method, name)

    def config(self, name):
        return self.tiny


def test_heun_evaluates_twice_but_at_the_end():
    assert [diffusion_published.evaluations(name, 40) for name in ("heun", "dpm++", "ddim", "ddpm")] == [79, 40, 40, 40]


def test_a_process_that_dies_is_told(monkeypatch):
    monkeypatch.setattr(diffusion_published, "alone", lambda *given: {"exit": -9})
    lines: list[str] = []
    figures = diffusion_published.measure_one("lpip_diff", tiny_config("lpip_diff"), lines.append)
    assert figures == {"exit": -9} and "broke off" in lines[0]


def test_the_part_measures_every_method_and_draws_its_sheets(monkeypatch, tmp_path, faces):
    few = partial(diffusion.curve, steps=(2,), samplers=("dpm++",), reference=3)
    monkeypatch.setattr(diffusion, "measured_methods", lambda: ["lpip_diff"])
    monkeypatch.setattr(diffusion, "curve", few)
    monkeypatch.setattr(diffusion, "cost", partial(diffusion.cost, rounds=1))
    monkeypatch.setattr(diffusion, "prepared", lambda method, config, say: tiny(method, overlap=0.0))
    monkeypatch.setattr(diffusion, "memory", lambda *given: None)
    monkeypatch.setattr(diffusion, "times_slower", lambda: 100.0)
    monkeypatch.setattr(diffusion, "faces_of", lambda data, size: diffusion.Faces(faces.low[:1]))
    lines: list[str] = []
    figures = run(["diffusion"], None, lines.append, sheets=tmp_path)["diffusion"]["lpip_diff"]
    assert set(figures) >= {"cost", "memory", "curve", "bfloat16"}
    text = "\n".join(lines)
    for words in ("promised: 20", "off by", "dpm++ 2", "bfloat16 and float32", "PSNR"):
        assert words in text
    width, height = Image.open(tmp_path / "diffusion_lpip_diff_tiny.png").size
    assert height > 256 and width >= 4 * 256  # input, recovered, 2 steps, reference


def test_what_is_measured_is_what_methods_declare():
    assert diffusion.measured_methods() == ["clr_face", "diffuse_restore", "lpip_diff"]
    assert diffusion_published.measured_configs() == [
        ("clr_face", "paper"), ("diffuse_restore", "paper256"), ("diffuse_restore", "paper"), ("lpip_diff", "paper"),
    ]  # fmt: skip


def test_weights_that_are_missing_are_replaced_aloud(monkeypatch):
    declare(monkeypatch)
    lines: list[str] = []
    restorer = diffusion.prepared("lpip_diff", "tiny", lines.append)
    assert restorer.source == "random" and "random weights" in lines[0] and "no embedded weights" in lines[0]
    assert all(weight.any() for weight in restorer.net.parameters())


def test_parts_without_published_sizes_say_so(capsys):
    assert main(["bench", "composite", "--paper"]) == 1
    told = capsys.readouterr().err
    assert "No published sizes" in told and "composite" in told and "diffusion" in told
