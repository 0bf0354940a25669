"""VSPBFR as its users meet it: seeds, ablations, style codes. Its equations are in test_vspbfr_parity.py."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_vspbfr import TINY_PRINTED, tiny_restorer

from bfr_core.errors import InputMediaError, SettingsError
from bfr_core.methods.vspbfr.diffuser import PAPER_DIFFUSION, RELEASED_DIFFUSION
from bfr_core.methods.vspbfr.restore import prompts
from bfr_core.networks._cached import Cached
from bfr_core.networks.stylegan2 import ModulatedConv2d
from bfr_core.runtime import Runtime
from bfr_core.seeding import Draws


@pytest.fixture(scope="module")
def restorer():
    return tiny_restorer()


@pytest.fixture(scope="module")
def faces():
    return torch.rand(3, 3, 64, 64, generator=torch.Generator().manual_seed(1))


def run(restorer, faces, seeds=(5, 6, 7), codes=None, **chosen):
    inputs = {} if codes is None else {"codes": codes}
    return restorer.restore(faces, seeds=list(seeds), settings=chosen, inputs=inputs, runtime=Runtime(batch=2))


@pytest.mark.parametrize("which", ["released", "printed"])
def test_a_face_depends_on_its_seed_alone(which, restorer, faces):
    chosen = restorer if which == "released" else tiny_restorer(TINY_PRINTED)
    together = run(chosen, faces)
    assert torch.equal(together, run(chosen, faces))
    for index in range(3):
        alone = run(chosen, faces[index : index + 1], (5 + index,))[0]
        # A batch may add in another order; random weights multiply what that rounds.
        assert (alone - together[index]).abs().mean() < 1e-3
    assert (together - run(chosen, faces, (8, 9, 10))).abs().max() > 1e-3


@pytest.mark.parametrize(
    "changed",
    [{"prompts": "initial"}, {"smart": False}, {"modulation": False}, {"priors": False}, {"noise": False}],
    ids=lambda changed: next(iter(changed)),
)
def test_each_ablation_changes_the_picture(restorer, faces, changed):
    assert (run(restorer, faces) - run(restorer, faces, **changed)).abs().mean() > 1e-4


def test_without_noise_and_with_the_mean_style_the_seed_matters_no_more(restorer, faces):
    calm = {"prompts": "initial", "random_style": "mean", "noise": False}
    assert torch.equal(run(restorer, faces, (1, 2, 3), **calm), run(restorer, faces, (4, 5, 6), **calm))


def test_mixing_is_drawn_from_the_seed(restorer, faces):
    never, always = (run(restorer, faces, mixing=share) for share in (0.0, 1.0))
    assert (never - always).abs().amax((1, 2, 3)).min() > 1e-5
    some = run(restorer, faces, mixing=0.5)
    for index in range(3):
        assert torch.allclose(some[index], never[index]) or torch.allclose(some[index], always[index])


def test_without_modulation_and_priors_the_codes_do_not_matter(restorer, faces):
    first, second = (torch.randn(3, 8, 8, generator=torch.Generator().manual_seed(seed)) for seed in (0, 1))
    off = {"modulation": False, "priors": False}
    assert torch.equal(run(restorer, faces, codes=first, **off), run(restorer, faces, codes=second, **off))
    assert (run(restorer, faces, codes=first) - run(restorer, faces, codes=second)).abs().max() > 1e-3


def test_codes_of_another_config_are_refused(restorer, faces):
    with pytest.raises(InputMediaError, match=r"18, 512\), expected \(faces, 8, 8\)"):
        run(restorer, faces, codes=torch.zeros(3, 18, 512))
    with pytest.raises(InputMediaError, match="expected finite numbers in 3 rows"):
        run(restorer, faces, codes=torch.zeros(2, 8, 8))
    with pytest.raises(SettingsError, match="no input 'code'"):
        restorer.restore(faces, seeds=[1, 2, 3], inputs={"code": torch.zeros(3, 8, 8)}, runtime=Runtime())


@pytest.mark.parametrize(
    ("bad", "words"),
    [
        (torch.zeros(1, 3, 32, 32), r"found shape \(1, 3, 32, 32\); expected \(B, 3, 64, 64\)"),
        (torch.full((1, 3, 64, 64), 255.0), "values from 255 to 255"),
        (torch.full((1, 3, 64, 64), torch.nan), "found NaN"),
    ],
    ids=["size", "range", "nan"],
)
def test_faces_of_another_size_or_range_are_refused(restorer, bad, words):
    with pytest.raises(InputMediaError, match=words):
        run(restorer, bad, (0,))


def test_bfloat16_stays_close_to_float32(restorer, faces):
    """Styles, demodulation and diffusion are computed in float32 whatever the convolutions use.

    With given codes: a diffuser of random weights multiplies what the encoder rounds by hundreds.
    """
    codes = torch.randn(3, 8, 8, generator=torch.Generator().manual_seed(0))
    low = restorer.restore(faces, seeds=[5, 6, 7], inputs={"codes": codes}, runtime=Runtime(dtype=torch.bfloat16))
    assert (low - run(restorer, faces, codes=codes)).abs().mean() < 0.02


def test_the_diffuser_runs_in_full_precision(restorer, faces):
    """Whatever the rest uses: from the same initial codes the denoised ones are the same, bit for bit."""
    net, initial = restorer.net, torch.randn(3, 8, 8, generator=torch.Generator().manual_seed(0))
    with pytest.MonkeyPatch.context() as patch, torch.inference_mode():
        patch.setattr(net, "encode", lambda x: initial)
        _, wanted = prompts(net, faces, Draws((1, 2, 3)))
        with torch.autocast("cpu", torch.bfloat16):
            _, given = prompts(net, faces, Draws((1, 2, 3)))
    assert torch.equal(torch.stack(wanted), torch.stack(given))


# Noise


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(0, 2**62), min_size=1, max_size=4), st.text(max_size=8))
def test_draws_follow_from_seed_and_name(seeds, name):
    together = Draws(seeds).normal(name, 2, 3)
    for index, seed in enumerate(seeds):
        assert torch.equal(Draws([seed]).normal(name, 2, 3)[0], together[index])
    assert not torch.equal(Draws(seeds).normal(name + "x", 2, 3), together)


def test_draws_are_standard_normal_and_independent():
    first, second = (Draws([3]).normal(name, 200, 200).flatten().numpy() for name in ("a", "b"))
    assert abs(first.mean()) < 0.02 and abs(first.std() - 1) < 0.02
    assert abs(np.corrcoef(first, second)[0, 1]) < 0.02


# The process


@pytest.mark.parametrize("process", [RELEASED_DIFFUSION, PAPER_DIFFUSION], ids=["released", "paper"])
def test_a_perfect_prediction_leads_back_to_the_clean_codes(process):
    clean = torch.randn(2, 8, 8, dtype=torch.float64)
    x = process.noised(clean, torch.randn_like(clean), process.steps)
    for t in range(process.steps, 0, -1):
        abar = process.alpha_bars[t]
        guess = clean if process.predicts == "clean" else (x - abar**0.5 * clean) / (1 - abar) ** 0.5
        x = process.mean(x, guess, t)
        if process.deviation(t):
            x = x + process.deviation(t) * torch.randn_like(x)
    assert torch.allclose(x, clean, atol=1e-9)


def test_the_schedules_are_those_of_the_table():
    assert np.allclose(RELEASED_DIFFUSION.betas, [0.1, 0.2943, 0.5910, 0.99], atol=1e-4)
    assert np.allclose(PAPER_DIFFUSION.alpha_bars[1:], [0.9, 0.543, 0.1666, 0.0017], atol=1e-4)


# Weights that change


def test_a_modulated_convolution_notices_new_weights():
    layer = ModulatedConv2d(4, 4, 3, 8).requires_grad_(False)
    x, prompt = torch.randn(1, 4, 8, 8), torch.randn(1, 8)
    with torch.no_grad():
        before = layer(x, prompt)
        layer.weight.mul_(torch.linspace(0.1, 3, 4).view(1, 1, 4, 1, 1))
        changed = layer(x, prompt)
        fresh = ModulatedConv2d(4, 4, 3, 8)
        fresh.load_state_dict(layer.state_dict())
        assert torch.equal(changed, fresh(x, prompt)) and not torch.allclose(before, changed)


def test_what_is_cached_is_computed_once_and_never_with_gradients():
    weight, calls = torch.ones(3), []

    def compute() -> torch.Tensor:
        calls.append(1)
        return weight * 2

    cached = Cached()
    with torch.no_grad():
        cached(compute, weight), cached(compute, weight)
        assert len(calls) == 1
        weight.add_(1)
        assert cached(compute, weight)[0] == 4
    cached(compute, weight)
    assert len(calls) == 3


def test_another_tensor_at_the_same_place_is_another():
    cached, given = Cached(), []
    with torch.no_grad():
        for number in range(20):
            weight = torch.full((1000,), float(number))  # memory is used again as soon as it is free
            given.append(cached(lambda weight=weight: weight * 2, weight)[0].item())
            del weight
    assert given == [2.0 * number for number in range(20)]
