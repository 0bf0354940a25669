"""Diffuse-and-Restore: each equation against NumPy in float64, and the method as its users meet it."""

from __future__ import annotations

import copy
import dataclasses
import sys

import numpy as np
import pytest
import tiny_diffusion
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from safetensors.torch import save_file
from torch import nn
from torch.nn import functional as F

from bfr_core.cli import main
from bfr_core.diffusion.guidance import IdentityGuide
from bfr_core.diffusion.levels import CLEAN, Level, following
from bfr_core.diffusion.samplers import ddim, ddpm
from bfr_core.errors import InputMediaError, RestoreError, SettingsError
from bfr_core.methods.diffuse_restore import METHOD
from bfr_core.methods.diffuse_restore.mask import RegionMask, changed
from bfr_core.methods.diffuse_restore.model import DiffuseRestore
from bfr_core.methods.diffuse_restore.region_mask import region_mask
from bfr_core.methods.diffuse_restore.restore import Guidance, predictor
from bfr_core.models.checkpoints.unfilled import unfilled
from bfr_core.networks.restore_unet import RestoreUNet
from bfr_core.registry import Context
from bfr_core.runtime import Runtime
from bfr_core.seeding import Draws

SIDE = 32
# The forward process of the paper (T = 1000, betas from 1e-4 to 0.02), by hand.
ABAR = np.cumprod(1 - np.linspace(1e-4, 0.02, 1000))


def hand_level(t):
    return Level(float(t), float(np.sqrt(ABAR[t])), float(np.sqrt(1 - ABAR[t])))


class Embedder(nn.Module):
    """A recogniser that can be computed in float64."""

    size = 8

    def __init__(self):
        super().__init__()
        self.register_buffer("weight", torch.randn(6, 3 * 4 * 4, generator=torch.Generator().manual_seed(3)))
        self.calls = 0

    def forward(self, x):
        self.calls += 1
        return F.normalize(F.avg_pool2d(x - 0.5, 2).flatten(1) @ self.weight.T, dim=1)


class Pointwise(nn.Module):
    """A U-Net whose derivative is known: tanh of each pixel of y_t, and its variance channels of the condition."""

    multiple = 1

    def __init__(self, variance=False):
        super().__init__()
        self.variance, self.seen = variance, []

    def forward(self, x, t):
        self.seen.append((x, t))
        y, condition = x[:, :3], x[:, 3:6]
        values = torch.tanh(0.7 * y) + 0.1 * condition
        return torch.cat([values, 0.5 * condition], 1) if self.variance else values


def by_hand(y, condition, level):
    """Return eps and Eq. 6's estimate, as Pointwise says them, and d estimate / d y_t."""
    tanh = np.tanh(0.7 * y)
    epsilon = tanh + 0.1 * condition
    estimate = y / level.alpha - level.sigma / level.alpha * epsilon  # Eq. 6
    return epsilon, estimate, (1 - level.sigma * 0.7 * (1 - tanh**2)) / level.alpha


@pytest.fixture(scope="module")
def restorer():
    return small(tiny_diffusion.tiny_restorer("diffuse_restore"))


@pytest.fixture(scope="module")
def printed():
    return small(tiny_diffusion.tiny_restorer("diffuse_restore", printed=True))


def small(restorer):
    """Make a tiny restorer smaller, with an identity recovery network as tiny that does more than pass pictures on."""
    restorer.config = dataclasses.replace(restorer.config, size=SIDE)
    torch.manual_seed(1)
    restorer.net.irn = RestoreUNet(widths=(8, 16), blocks=(1, 1)).eval().requires_grad_(False)
    nn.init.normal_(restorer.net.irn.head[0].weight, std=0.1)
    nn.init.normal_(restorer.net.mask.head.weight, std=0.5)
    restorer.net.mask.head.bias.data.zero_()  # part of the face in the mask
    return restorer


@pytest.fixture(scope="module")
def guided(restorer):
    return restorer.guided(IdentityGuide(Embedder(), "test recogniser"))


@pytest.fixture(scope="module")
def faces():
    return torch.rand(3, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def pointwise(restorer):
    """Return the network with Pointwise as its U-Net, in float64, which predicts noise."""
    net = copy.deepcopy(restorer.net).double()
    net.unet, net.predicts, net.conditioned = Pointwise().double(), "noise", "degraded"
    return net


def run(restorer, faces, seeds=(5, 6, 7), mask=None, runtime=None, **chosen):
    inputs = {} if mask is None else {"mask": mask}
    chosen = {"steps": 3, **chosen}
    runtime = runtime or Runtime(batch=2)
    return restorer.restore(faces, seeds=list(seeds), settings=chosen, inputs=inputs, runtime=runtime)


def watch_unet(restorer, monkeypatch):
    seen = []
    forward = restorer.net.unet.forward
    monkeypatch.setattr(restorer.net.unet, "forward", lambda x, t: seen.append((x, t)) or forward(x, t))
    return seen


def normal(*shape, seed=2):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


# Equations.


@pytest.mark.parametrize(("start", "at"), [(400, 399), (1, 0), (1000, 999)])
def test_eq3_the_recovered_face_is_noised_in_one_step(restorer, faces, monkeypatch, start, at):
    seen = watch_unet(restorer, monkeypatch)
    run(restorer, faces[:2], (5, 6), start=start, guidance=False)
    recovered = restorer.net.irn(faces[:2]).clamp(0, 1).double().numpy() * 2 - 1  # g_phi(x) in [-1, 1]
    noise = Draws((5, 6)).normal("y_T", 3, SIDE, SIDE).double().numpy()
    expected = np.sqrt(ABAR[at]) * recovered + np.sqrt(1 - ABAR[at]) * noise
    y, t = seen[0][0][:, :3], seen[0][1]
    np.testing.assert_allclose(y.numpy(), expected, atol=1e-5)
    assert t.tolist() == [at, at]


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 999), st.sampled_from(["noise", "residual"]))
def test_eq6_estimates_the_clean_face(t, predicts):
    net = _NET
    net.predicts = predicts
    level = hand_level(t)
    y, condition = normal(2, 3, 8, 8), normal(2, 3, 8, 8, seed=4)
    said = net.predict(y, condition, net.schedule.level(t))
    values, estimate, _ = by_hand(y.numpy(), condition.numpy(), level)
    if predicts == "residual":  # EDM Table 1 around the recovered face, with data of deviation 0.05
        ratio, recovered = level.sigma / level.alpha, condition.numpy()
        total = ratio**2 + 0.05**2
        estimate = recovered + 0.05**2 / total * (y.numpy() / level.alpha - recovered)
        estimate += ratio * 0.05 / np.sqrt(total) * values
        values = (y.numpy() - level.alpha * estimate) / level.sigma
    np.testing.assert_allclose(said.clean.numpy(), estimate, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(said.noise.numpy(), values, rtol=1e-9, atol=1e-9)


_NET = DiffuseRestore(unet=tiny_diffusion.OPTIONS["diffuse_restore"]["unet"])
_NET.unet = Pointwise()


def test_eq8_marks_what_changed_much():
    x, x_irn = normal(2, 3, 8, 8).clamp(-1, 1), normal(2, 3, 8, 8, seed=5).clamp(-1, 1)
    difference = np.abs((x_irn.numpy() + 1) / 2 - (x.numpy() + 1) / 2).mean(1)  # colours in [0, 1]
    for delta in (0.3, 0.1):
        expected = difference[:, None] > delta
        assert 0 < expected.mean() < 1
        np.testing.assert_array_equal(changed(x, x_irn, delta).numpy(), expected)


@pytest.mark.parametrize("through_network", [False, True])
def test_eq7_and_9_against_finite_differences(pointwise, through_network):
    guide = IdentityGuide(Embedder().double(), "test recogniser", strength=2.0)
    level, scale = hand_level(300), 0.07
    condition = normal(2, 3, 16, 16, seed=6).clamp(-1, 1)
    y = level.alpha * 0.4 * normal(2, 3, 16, 16).clamp(-1, 1) + level.sigma * 0.1 * normal(2, 3, 16, 16, seed=7)
    target = F.normalize(normal(2, 6, seed=8), dim=1)
    mask = (normal(2, 1, 16, 16, seed=9) > 0).double()
    _, estimate, slope = by_hand(y.numpy(), condition.numpy(), level)
    assert np.abs(estimate).max() < 1  # nothing is clipped

    def loss(row, moved):
        pictures = torch.from_numpy((estimate[row] + moved + 1) / 2)
        return 1 - embedding(guide, pictures) @ target[row].numpy()  # Eq. 7

    step, gradient = 1e-4, np.zeros(y.shape)
    for row in range(2):
        moves = step * np.eye(estimate[0].size).reshape(-1, *estimate.shape[1:])
        gradient[row] = ((loss(row, moves) - loss(row, -moves)) / (2 * step)).reshape(estimate.shape[1:])
    gradient = gradient * (slope if through_network else 1 / level.alpha)  # by y_t
    unit = gradient / np.sqrt((gradient**2).mean((1, 2, 3), keepdims=True))
    guidance = Guidance(guide, target, mask, scale, through_network, [level], 1)
    predict = predictor(pointwise, condition, {level: CLEAN}, guidance)
    expected = 2.0 * scale * mask.numpy() * unit
    np.testing.assert_allclose(predict(y, level).gradient.numpy(), expected, atol=1e-6)
    assert len(pointwise.unet.seen) == 1  # one pass of the network, either way
    # Eq. 9 in one step to the clean face: it descends.
    made = ddim(predict, y, [level])
    np.testing.assert_allclose(made.numpy(), estimate - level.sigma**2 / level.alpha * expected, atol=1e-6)
    before, after = (
        1 - (embedding(guide, (torch.as_tensor(face) + 1) / 2) * target.numpy()).sum(1) for face in (estimate, made)
    )
    assert (after < before).all()


def embedding(guide, pictures):
    cut = F.interpolate(
        pictures[..., round(0.1195 * 16) : round(0.1195 * 16) + 12, round(0.1265 * 16) : round(0.1265 * 16) + 12],
        (8, 8), mode="bilinear", antialias=True, align_corners=False,
    )  # fmt: skip
    return guide.recogniser(cut).numpy()


def test_eq9_moves_the_mean_by_the_learnt_variance(pointwise):
    """One ancestral step from level 299 to level 149, respaced, by hand."""
    pointwise.unet, pointwise.learned_variance = Pointwise(variance=True), True
    level, before = hand_level(299), hand_level(149)
    condition, target = normal(1, 3, 16, 16, seed=6).clamp(-1, 1), F.normalize(normal(1, 6, seed=8), dim=1)
    y = level.alpha * 0.3 * normal(1, 3, 16, 16).clamp(-1, 1)
    guidance = Guidance(
        IdentityGuide(Embedder().double(), "test recogniser"), target, torch.ones(1, 1, 16, 16), 0.05, False,
        [level, before], 1,
    )  # fmt: skip
    levels = [level, before]
    predict = predictor(pointwise, condition, following(levels), guidance)
    inputs, noise = [], normal(1, 3, 16, 16, seed=10)
    ddpm(lambda x, at: inputs.append(x) or predict(x, at), y, levels, lambda index: noise)
    gradient = predict(y, level).gradient.numpy()
    _, estimate, _ = by_hand(y.numpy(), condition.numpy(), level)
    beta = 1 - ABAR[299] / ABAR[149]
    mean = (
        np.sqrt(ABAR[149]) * beta / (1 - ABAR[299]) * estimate
        + np.sqrt(1 - beta) * (1 - ABAR[149]) / (1 - ABAR[299]) * y.numpy()
    )
    share = (0.5 * condition.numpy() + 1) / 2
    variance = np.exp(share * np.log(beta) + (1 - share) * np.log(beta * (1 - ABAR[149]) / (1 - ABAR[299])))
    expected = mean - variance * gradient + np.sqrt(variance) * noise.numpy()
    np.testing.assert_allclose(inputs[1].numpy(), expected, atol=1e-9)


def test_estimates_stay_among_colours(pointwise):
    level = hand_level(800)
    y = normal(1, 3, 8, 8) * 3
    said = predictor(pointwise, torch.zeros(1, 3, 8, 8).double(), {level: CLEAN}, None)(y, level)
    assert said.clean.abs().max() == 1
    torch.testing.assert_close(level.alpha * said.clean + level.sigma * said.noise, y)


def test_the_mask_is_binary_and_gradients_pass_it():
    torch.manual_seed(0)
    net = RegionMask()
    m_prime, x = (torch.rand(2, 1, 32, 64) > 0.5).float(), torch.rand(2, 3, 32, 64) * 2 - 1
    assert bool((net(m_prime, x) == 1).all())  # as it starts: Net3
    nn.init.normal_(net.head.weight, std=0.5)
    net.head.bias.data.zero_()
    mask = net(m_prime, x)
    assert set(mask.unique().tolist()) == {0.0, 1.0} and mask.shape == (2, 1, 32, 64)
    wanted = torch.rand(2, 1, 32, 64)
    gradients = [
        torch.autograd.grad((made * wanted).sum(), net.stem[0].weight)[0]
        for made in (mask, net.probability(m_prime, x))
    ]
    torch.testing.assert_close(*gradients)


# The course of Section 3.


@pytest.mark.parametrize("which", ["restorer", "printed"])
def test_the_condition_stands_beside_y_without_noise(request, which, faces, monkeypatch):
    restorer = request.getfixturevalue(which)
    seen = watch_unet(restorer, monkeypatch)
    run(restorer, faces[:2], (5, 6), guidance=False)
    x, x_irn = faces[:2] * 2 - 1, restorer.net.irn(faces[:2]).clamp(0, 1) * 2 - 1
    expected = x if which == "printed" else torch.cat([x, x_irn], 1)
    assert len(seen) == 3
    for given_to_network, _ in seen:
        torch.testing.assert_close(given_to_network[:, 3:], expected)


def test_a_network_of_one_condition_takes_the_other(printed, restorer, faces, monkeypatch):
    seen = watch_unet(printed, monkeypatch)
    run(printed, faces[:1], (5,), guidance=False, condition="irn")
    torch.testing.assert_close(seen[0][0][:, 3:], printed.net.irn(faces[:1]).clamp(0, 1) * 2 - 1)
    with pytest.raises(SettingsError, match=r"side by side.*No picture was changed.*condition at config"):
        run(restorer, faces[:1], (5,), guidance=False, condition="irn")


TABLE6 = {
    "Net1": {"start_from": "noise", "guidance": False},
    "Net2": {"guidance": False},
    "Net3": {"masking": "none"},
    "Net4": {},
}


@pytest.mark.parametrize("net", TABLE6)
@pytest.mark.parametrize("gradient", ["estimate", "network"])
def test_table6_by_settings(restorer, faces, monkeypatch, net, gradient):
    guide = IdentityGuide(Embedder(), "test recogniser")
    guided, masks = restorer.guided(guide), []
    seen = watch_unet(restorer, monkeypatch)
    module = sys.modules[predictor.__module__]
    steering = module.steering
    monkeypatch.setattr(
        module, "steering", lambda *args, **named: masks.append(named["mask"]) or steering(*args, **named)
    )
    run(guided, faces[:2], (5, 6), gradient=gradient, sampler="ddim", **TABLE6[net])
    y = seen[0][0][:, :3]
    noise = Draws((5, 6)).normal("y_T", 3, SIDE, SIDE)
    assert torch.equal(y, noise) == (net == "Net1")
    assert [t.tolist()[0] for _, t in seen] == ([999, 500, 0] if net == "Net1" else [399, 200, 0])
    # One pass a step; the recogniser sees the target and each guided step.
    assert guide.recogniser.calls == (0 if net in ("Net1", "Net2") else 4)
    if net == "Net3":
        assert all(bool((mask == 1).all()) for mask in masks)
    if net == "Net4":
        x = faces[:2] * 2 - 1
        x_irn = restorer.net.recovered(x)
        expected = restorer.net.mask(changed(x, x_irn, 0.3), x)
        assert len(masks) == 3 and all(torch.equal(mask, expected) for mask in masks)
        assert 0 < expected.mean() < 1


@pytest.mark.parametrize(("every", "calls"), [(1, 5), (2, 3), (3, 2), (50, 1)])
def test_guidance_acts_at_every_nth_step(restorer, faces, every, calls):
    guide = IdentityGuide(Embedder(), "test recogniser")
    run(restorer.guided(guide), faces[:1], (5,), steps=5, every=every)
    assert guide.recogniser.calls == calls + 1  # and the target


@pytest.mark.parametrize(
    ("fidelity", "start", "scale"),
    [(0, 700, 0.025), (0.25, 529, 0.05 / 2**0.5), (0.5, 400, 0.05), (0.75, 200, 0.05 * 2**0.5), (1, 100, 0.1)],
)
def test_the_dial_turns_start_and_guidance(guided, faces, monkeypatch, fidelity, start, scale):
    seen, scales = watch_unet(guided, monkeypatch), []
    module = sys.modules[predictor.__module__]

    def steering(guide, y, target, *, scale, mask, picture):
        scales.append(scale)
        return torch.zeros_like(y)

    monkeypatch.setattr(module, "steering", steering)
    run(guided, faces[:1], (5,), fidelity=fidelity)
    assert seen[0][1].item() == start - 1
    assert scales == pytest.approx([scale] * 3)


@pytest.mark.parametrize("sampler", ["dpm++", "ddim"])
def test_there_are_no_more_steps_than_noise_levels(restorer, faces, monkeypatch, sampler):
    seen = watch_unet(restorer, monkeypatch)
    run(restorer, faces[:1], (5,), steps=100, start=20, fidelity=1.0, guidance=False, sampler=sampler)
    assert [t.item() for _, t in seen] == [4, 3, 2, 1, 0]


def test_dpm_solver_steps_alike_in_the_logarithm(restorer):
    ratio = np.sqrt(1 / ABAR - 1)
    wanted = (
        ratio[399] ** (1 / 7) + np.arange(10) / 9 * (ratio[0] ** (1 / 7) - ratio[399] ** (1 / 7))
    ) ** 7  # EDM Eq. 5
    nearest = [int(np.abs(np.log(ratio) - np.log(one)).argmin()) for one in wanted]
    made = restorer.net.levels(10, 400, "dpm++")
    assert [level.t for level in made] == nearest and nearest[0] == 399 and nearest[-1] == 0
    h = -np.diff(np.log([level.ratio for level in made]))
    assert (h[1:] / h[:-1]).max() < 2.5  # evenly respaced the last is 4.4 times the one before
    assert [level.t for level in restorer.net.levels(1, 400, "dpm++")] == [399]


# As users meet it.


@pytest.mark.parametrize("sampler", ["dpm++", "ddim", "ddpm"])
@pytest.mark.parametrize("which", ["restorer", "printed"])
def test_a_face_depends_on_its_seed_alone(request, which, faces, sampler):
    restorer = request.getfixturevalue(which).guided(IdentityGuide(Embedder(), "test recogniser"))
    together = run(restorer, faces, (5, 6, 7), sampler=sampler)
    alone = run(restorer, faces[[2, 0]], (7, 5), sampler=sampler, runtime=Runtime(batch=1))
    torch.testing.assert_close(together[[2, 0]], alone, atol=2e-5, rtol=0)
    other = run(restorer, faces[:1], (8,), sampler=sampler)
    assert (other - together[:1]).abs().mean() > 1e-3
    assert together.shape == faces.shape and together.min() >= 0 and together.max() <= 1


class Gaussian(nn.Module):
    """The right denoiser for faces that are noise of deviation 0.5: what guidance finds is not the network's whim."""

    multiple = 1

    def forward(self, x, t):
        level = hand_level(int(t[0]))
        share = level.alpha * 0.25 / (level.alpha**2 * 0.25 + level.sigma**2)
        return (1 - level.alpha * share) / level.sigma * x[:, :3]


@pytest.mark.parametrize("sampler", ["dpm++", "ddim", "ddpm"])
@pytest.mark.parametrize("gradient", ["estimate", "network"])
def test_guidance_brings_the_face_closer_to_the_reference(faces, sampler, gradient):
    restorer = small(tiny_diffusion.tiny_restorer("diffuse_restore"))
    restorer.net.unet, restorer.net.predicts = Gaussian(), "noise"
    recogniser = Embedder()
    reference = F.normalize(torch.randn(6, generator=torch.Generator().manual_seed(4)), dim=0)
    guide = IdentityGuide(recogniser, "test recogniser", reference=reference)

    def alike(made):
        from bfr_core.faces.identity import embed

        return (embed(recogniser, made) @ reference).mean().item()

    chosen = {"masking": "none", "steps": 6, "sampler": sampler, "gradient": gradient}
    plain = run(restorer, faces, guidance=False, steps=6, sampler=sampler)
    steered = [run(restorer.guided(guide), faces, scale=scale, **chosen) for scale in (0.0, 0.02, 0.05)]
    torch.testing.assert_close(steered[0], plain)
    assert alike(plain) < alike(steered[1]) < alike(steered[2])


def test_a_given_mask_says_where_guidance_acts(guided, faces):
    ones, zeros = torch.ones(3, 1, 16, 24), torch.zeros(3, 1, 7, 5)  # of other sizes
    everywhere = run(guided, faces, masking="none")
    nowhere = run(guided, faces, guidance=False)
    torch.testing.assert_close(run(guided, faces, mask=ones), everywhere)
    torch.testing.assert_close(run(guided, faces, mask=zeros), nowhere)
    assert (everywhere - nowhere).abs().max() > 1e-3
    for mask, found in (
        (torch.ones(3, SIDE, SIDE), r"found shape \(3, 32, 32\)"),
        (torch.ones(2, 1, 8, 8), r"found shape \(2, 1, 8, 8\)"),
        (torch.full((3, 1, 8, 8), 2.0), "found values from 2 to 2"),
    ):
        with pytest.raises(InputMediaError, match=f"{found}.*Nothing was changed"):
            run(guided, faces, mask=mask)


def test_the_region_mask_can_be_seen_and_given_back(guided, restorer, faces):
    for masking in ("learned", "difference"):
        mask = region_mask(
            restorer, faces, seeds=[1, 2, 3], settings={"masking": masking, "delta": 0.1}, runtime=Runtime(batch=2)
        )
        assert mask.shape == (3, 1, SIDE, SIDE) and set(mask.unique().tolist()) == {0.0, 1.0}
        chosen = run(guided, faces, masking=masking, delta=0.1)
        assert torch.equal(run(guided, faces, mask=mask), chosen)
    assert region_mask(restorer, faces[:0], seeds=[], runtime=Runtime()).shape == (0, 1, SIDE, SIDE)
    with pytest.raises(SettingsError, match=r"LPIP-Diff; expected Diffuse-and-Restore.*Load the restorer"):
        other = tiny_diffusion.tiny_restorer("lpip_diff")
        region_mask(other, torch.rand(3, 3, 64, 64), seeds=[1, 2, 3], runtime=Runtime())


def test_steps_are_reported_and_a_run_can_be_stopped(restorer, faces):
    heard = []
    runtime = Runtime(batch=3, on_step=lambda index, total: heard.append((index, total)))
    run(restorer, faces, guidance=False, steps=4, runtime=runtime)
    assert heard == [(0, 4), (1, 4), (2, 4), (3, 4)]

    class StoppedError(Exception):
        pass

    def stop():
        if len(heard) >= 6:
            raise StoppedError

    runtime = runtime.derived(check_cancel=stop)
    with pytest.raises(StoppedError):
        run(restorer, faces, guidance=False, steps=4, runtime=runtime)
    assert len(heard) == 6


def test_numbers_that_break_while_sampling_are_named_by_their_step(restorer, faces, monkeypatch):
    forward, calls = restorer.net.unet.forward, []

    def broken(x, t):
        calls.append(t)
        return forward(x, t) * (float("nan") if len(calls) == 2 else 1)

    monkeypatch.setattr(restorer.net.unet, "forward", broken)
    with pytest.raises(RestoreError, match=r"evaluation 2 of 3.*NaN or infinity.*No picture was changed.*verify"):
        run(restorer, faces[:1], (5,), guidance=False)


def test_half_precision_is_close_and_an_overflow_is_run_again(restorer, faces, monkeypatch):
    exact = run(restorer, faces[:1], (5,), guidance=False)
    half = Runtime(dtype=torch.bfloat16)
    near = run(restorer, faces[:1], (5,), guidance=False, runtime=half)
    assert (near - exact).abs().mean() < 0.02 and near.dtype == torch.float32 and not half.notes
    forward = restorer.net.unet.forward

    def overflows(x, t):
        return forward(x, t) * (float("inf") if torch.is_autocast_enabled("cpu") else 1)

    monkeypatch.setattr(restorer.net.unet, "forward", overflows)
    torch.testing.assert_close(run(restorer, faces[:1], (5,), guidance=False, runtime=half), exact)
    assert "run again in float32" in half.notes[0]


def test_sides_that_cannot_be_halved_are_refused(restorer):
    chosen = METHOD.settings({"guidance": False})
    with pytest.raises(InputMediaError, match=r"found 60 x 64 pixels, expected .* multiples of 8.*Align"):
        METHOD.restore(restorer.net, torch.rand(1, 3, 60, 64), chosen, [0], {}, Context())


def test_the_command_restores_with_a_file_of_weights(tmp_path, monkeypatch):
    tiny_diffusion.declare(monkeypatch)
    made = tiny_diffusion.tiny_restorer("diffuse_restore")
    save_file({key: value.contiguous() for key, value in made.net.state_dict().items()}, tmp_path / "w.safetensors")
    face = (torch.rand(48, 48, 3, generator=torch.Generator().manual_seed(1)) * 255).byte().numpy()
    Image.fromarray(face).save(tmp_path / "face.png")
    arguments = [
        "restore", str(tmp_path / "face.png"), "-o", str(tmp_path / "out.png"), "--aligned", "--device", "cpu",
        "--method", "diffuse_restore", "--config", "tiny", "--weights", str(tmp_path / "w.safetensors"),
        "--no-guidance", "--steps", "2", "--sampler", "ddim", "--masking", "none",
    ]  # fmt: skip
    assert main(arguments) == 0
    out = np.asarray(Image.open(tmp_path / "out.png"))
    assert out.shape == (48, 48, 3) and np.abs(out.astype(int) - face).mean() > 1


@pytest.mark.parametrize(("config", "millions"), [("paper256", 132), ("paper", 132), ("compact", None)])
def test_configs_have_their_sizes_and_tell_themselves(config, millions):
    net = unfilled(METHOD, METHOD.config(config))
    size = sum(weight.numel() for weight in net.unet.parameters()) / 1e6
    # Guided diffusion's U-Net for 256 px with 128 channels has 132 million; ours are to have 12 at most.
    assert abs(size - millions) < 0.5 if millions else size <= 12
    assert METHOD.recognise(net.state_dict().keys()) == ("paper" if millions else config)
    assert METHOD.config(config).size % net.multiple == 0
    assert METHOD.settings({}, METHOD.config(config)).sampler == ("ddpm" if millions else "dpm++")
