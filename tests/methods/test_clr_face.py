"""CLR-Face: each equation against NumPy in float64, and the method as its users meet it."""

from __future__ import annotations

import dataclasses
import functools
import math
import sys

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import nn
from torch.nn import functional as F

from bfr_core.diffusion.guidance import IdentityGuide, targets
from bfr_core.diffusion.levels import Level
from bfr_core.diffusion.samplers import ddim, heun
from bfr_core.errors import InputMediaError, RestoreError, SettingsError
from bfr_core.methods.clr_face import METHOD
from bfr_core.methods.clr_face.latent_mask import latent_mask
from bfr_core.methods.clr_face.restore import Guidance, Known, guided_levels, noise_levels, predictor, recover
from bfr_core.models.checkpoints.unfilled import unfilled
from bfr_core.networks.restore_unet import RestoreUNet
from bfr_core.registry import Config, Context, get_method, methods
from bfr_core.restorer import Restorer, load_restorer
from bfr_core.runtime import Runtime
from bfr_core.seeding import Draws

SIDE = 32
PRECISIONS = (torch.float32, torch.bfloat16)
OPTIONS = {
    "vq": {"channels": 8, "mult": (1, 2), "blocks": 1, "fold": 2, "groups": 4, "codes": 256},
    "unet": {"channels": 16, "mult": (1, 2), "blocks": 1, "attention": (2,), "head": 16, "groups": 4},
}
TINY = Config("tiny", "for tests", SIDE, OPTIONS, defaults={"steps": 2})
AS_COMPACT = {**OPTIONS, "vq": {**OPTIONS["vq"], "dim": 4, "shortcut": True}, "condition": "both"}
BOTH = Config("both", "for tests", SIDE, AS_COMPACT, defaults={"steps": 2})


class Embedder(nn.Module):
    """A recogniser that can be computed in float64."""

    size = 16

    def __init__(self):
        super().__init__()
        generator = torch.Generator().manual_seed(3)
        self.register_buffer("weight", torch.randn(8, 3 * 4 * 4, generator=generator))
        self.calls = 0

    def forward(self, x):
        self.calls += 1
        return F.normalize(F.avg_pool2d(x - 0.5, 4).flatten(1) @ self.weight.T, dim=1)


def random_net(config):
    """Return a network in which every part matters: what starts as zeros is random, and the codebook is spread out."""
    torch.manual_seed(0)
    net = METHOD.build(config)
    net.irn = RestoreUNet(widths=(8, 16), blocks=(1, 1))
    with torch.no_grad():
        for weight in net.unet.parameters():
            if not weight.any():
                nn.init.normal_(weight, std=0.1)
        nn.init.normal_(net.irn.head[0].weight, std=0.1)
        z = net.vq.encode(torch.rand(4, 3, SIDE, SIDE) * 2 - 1)
        net.vq.mean.copy_(z.mean((0, 2, 3)))
        net.vq.std.copy_(z.std((0, 2, 3)))
        net.vq.codebook.copy_(net.vq.mean + net.vq.std * torch.randn(256, net.vq.dim))
    return net


@pytest.fixture(scope="module")
def restorer():
    return Restorer(METHOD, TINY, random_net(TINY), "random")


@pytest.fixture(scope="module")
def guided(restorer):
    return restorer.guided(IdentityGuide(Embedder(), "test recogniser"))


@pytest.fixture(scope="module")
def double():
    """Return the network in float64 and what it knows of two faces of 32 px."""
    net = random_net(TINY).double().eval().requires_grad_(False)
    faces = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    zd, xid = net.encode(faces * 2 - 1), net.recovered(faces * 2 - 1)
    zid = net.encode(xid)
    return net, Known(zd, xid, zid, net.condition(zd, zid))


@pytest.fixture(scope="module")
def faces():
    return torch.rand(3, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(1))


def run(restorer, faces, seeds=(5, 6, 7), mask=None, **chosen):
    inputs = {} if mask is None else {"mask": mask}
    return restorer.restore(faces, seeds=list(seeds), settings=chosen, inputs=inputs, runtime=Runtime())


def watch(monkeypatch, net, name):
    """Record what a method of the network is called with."""
    calls, method = [], getattr(net, name)

    def watched(*args):
        calls.append(args)
        return method(*args)

    monkeypatch.setattr(net, name, watched)
    return calls


# Equations.


def test_eq1_takes_the_nearest_entry(double):
    net, known = double
    z, codebook = known.zd.numpy(), net.vq.codebook.numpy()
    distances = ((z[:, None] - codebook[None, :, :, None, None]) ** 2).sum(2)
    quantised, numbers = net.vq.quantise(known.zd)
    np.testing.assert_array_equal(numbers.numpy(), distances.argmin(1))
    np.testing.assert_array_equal(quantised.numpy(), codebook[distances.argmin(1)].transpose(0, 3, 1, 2))


def test_the_decoder_quantises_first(double):
    net, known = double
    quantised, _ = net.vq.quantise(net.vq.denormalise(known.zd))
    torch.testing.assert_close(net.decode(known.zd), net.vq.decode_codes(quantised))  # z + (Q(z) - z) rounds


def test_latents_are_normalised_to_the_standard_deviation_edm_is_told(restorer):
    net = restorer.net
    x = torch.rand(4, 3, SIDE, SIDE) * 2 - 1
    z = net.vq.encode(x).double().numpy()
    mean, std = (buffer.double().numpy()[:, None, None] for buffer in (net.vq.mean, net.vq.std))
    np.testing.assert_allclose(net.encode(x).numpy(), (z - mean) / std * net.sigma_data, atol=1e-5)
    assert net.sigma_data == 0.5


def by_hand(net, known, z, sigma):
    """Return D(z) by EDM's Table 1, everything but F itself in NumPy."""
    total = sigma**2 + 0.5**2
    network_input = np.concatenate([z / math.sqrt(total), known.zd.numpy()], 1)
    told = torch.full((len(z),), math.log(sigma) / 4, dtype=torch.float64)
    made = net.unet(torch.from_numpy(network_input), told).numpy()
    return 0.5**2 / total * z + sigma * 0.5 / math.sqrt(total) * made


@settings(max_examples=12, deadline=None)
@given(st.floats(0.002, 80.0))
def test_the_denoiser_is_preconditioned_as_edm_says(double, sigma):
    net, known = double
    z = known.zid + sigma * torch.randn(known.zid.shape, generator=torch.Generator().manual_seed(2)).double()
    expected = by_hand(net, known, z.numpy(), sigma)
    np.testing.assert_allclose(net.denoise(z, known.condition, sigma).numpy(), expected, rtol=1e-9, atol=1e-9)
    rows = torch.full((2,), sigma, dtype=torch.float64)  # as training calls it
    np.testing.assert_allclose(net.denoise(z, known.condition, rows).numpy(), expected, rtol=1e-9, atol=1e-9)


def test_each_row_has_its_own_noise_level(double):
    net, known = double
    z = known.zid + torch.randn(known.zid.shape, dtype=torch.float64)
    together = net.denoise(z, known.condition, torch.tensor([0.1, 7.0], dtype=torch.float64))
    for row, sigma in enumerate((0.1, 7.0)):
        alone = net.denoise(z[row : row + 1], known.condition[row : row + 1], sigma)
        torch.testing.assert_close(together[row : row + 1], alone)


def test_eq10_is_the_slope_and_heun_takes_the_mean_of_two(double):
    net, known = double
    first, second = 2.04, 0.6
    z = (known.zid + first * torch.randn(known.zid.shape, generator=torch.Generator().manual_seed(4)).double()).numpy()

    def slope(z, t):
        score = (by_hand(net, known, z, t) - z) / t**2
        return -t * score  # Eq. 10

    said = predictor(net, known, None)(torch.from_numpy(z), Level(first, 1.0, first))
    np.testing.assert_allclose(said.noise.numpy(), slope(z, first), atol=1e-9)
    here = slope(z, first)
    euler = z + (second - first) * here
    after = z + (second - first) * (here + slope(euler, second)) / 2
    expected = after + (0 - second) * slope(after, second)  # EDM Algorithm 1: the last step is Euler's
    levels = [Level(first, 1.0, first), Level(second, 1.0, second)]
    made = heun(predictor(net, known, None), torch.from_numpy(z), levels)
    np.testing.assert_allclose(made.numpy(), expected, atol=1e-9)


def test_eq11_guided_estimate_against_finite_differences(double):
    net, known = double
    guide = IdentityGuide(Embedder().double(), "test recogniser")
    target = targets_of(guide, known)
    level, scale = Level(1.3, 1.0, 1.3), 0.07
    z = known.zid + level.sigma * torch.randn(known.zid.shape, generator=torch.Generator().manual_seed(5)).double()
    estimate = torch.from_numpy(by_hand(net, known, z.numpy(), level.sigma))
    mask = net.mask(estimate, known.zid).numpy()
    entries, _ = net.vq.quantise(net.vq.denormalise(estimate))
    std = net.vq.std.numpy()[:, None, None] / 0.5

    def loss(row, moved):
        """L_arc of one face whose quantised latent is moved: what straight-through says the gradient is of."""
        pictures = (net.vq.decode_codes(entries[row] + torch.from_numpy(moved * std)) + 1) / 2
        return 1 - embedding(guide, pictures) @ target[row].numpy()

    step, gradient = 1e-4, np.zeros(estimate.shape)
    for row in range(2):
        moves = step * np.eye(estimate[0].numel()).reshape(-1, *estimate.shape[1:])
        gradient[row] = ((loss(row, moves) - loss(row, -moves)) / (2 * step)).reshape(estimate.shape[1:])
    unit = gradient / np.sqrt((gradient**2).mean((1, 2, 3), keepdims=True))
    expected = estimate.numpy() - level.ratio**2 * scale * mask * unit
    guidance = Guidance(guide, target, lambda z0: net.mask(z0, known.zid), scale, [level], 1)
    made = ddim(predictor(net, known, guidance), z, [level])  # one step to sigma 0 is the guided estimate itself
    # Masks are float32 by their contract: M_l has seven digits.
    np.testing.assert_allclose(made.numpy(), expected, atol=2e-6)
    assert np.abs(expected - estimate.numpy()).max() > 0.01


def embedding(guide, pictures):
    cut = F.interpolate(
        pictures[..., round(0.1195 * 32) : round(0.1195 * 32) + 24, round(0.1265 * 32) : round(0.1265 * 32) + 24],
        (16, 16), mode="bilinear", antialias=True, align_corners=False,
    )  # fmt: skip
    return guide.recogniser(cut).numpy()


def targets_of(guide, known):
    return torch.from_numpy(embedding(guide, (known.xid + 1) / 2)).roll(1, 0)  # another's: a face is at its own


# The course of Section 3.


@pytest.mark.parametrize("config", [TINY, BOTH], ids=lambda config: config.name)
def test_the_condition_stands_beside_z_without_noise(config, faces, monkeypatch):
    net = random_net(config).eval().requires_grad_(False)
    restorer = Restorer(METHOD, config, net, "random")
    seen = []
    net.unet.register_forward_pre_hook(lambda module, args: seen.append(args[0].clone()))
    run(restorer, faces[:2], (5, 6), guidance=False)
    zd = net.encode(faces[:2] * 2 - 1)
    zid = net.encode(net.recovered(faces[:2] * 2 - 1))
    expected = torch.cat([zd, zid], 1) if config is BOTH else zd
    assert len(seen) == 3
    for given_to_network in seen:
        assert torch.equal(given_to_network[:, net.vq.dim :], expected)


@pytest.mark.parametrize(("start", "sigma"), [("irn", 2.04), ("degraded", 2.04), ("noise", 80.0)])
def test_the_start_is_noised_to_its_level(restorer, faces, monkeypatch, start, sigma):
    calls = watch(monkeypatch, restorer.net, "denoise")
    run(restorer, faces[:2], (5, 6), start=start, guidance=False)
    known = recover(restorer.net, faces[:2])
    origin = {"irn": known.zid, "degraded": known.zd, "noise": 0}[start]
    z, _, level = calls[0]
    assert level == pytest.approx(sigma)
    torch.testing.assert_close(z, origin + level * Draws([5, 6]).normal("z_T", 3, SIDE // 4, SIDE // 4))
    assert calls[-1][2] == pytest.approx(0.002)


def test_encoders_irn_and_target_run_once(restorer, faces):
    guide = IdentityGuide(Embedder(), "test recogniser")
    counts = {"encoder": 0, "irn": 0, "decoder": 0}

    def counted(name):
        def hook(module, args):
            counts[name] += 1

        return hook

    handles = [
        module.register_forward_pre_hook(counted(name))
        for name, module in (("encoder", restorer.net.vq.encoder), ("irn", restorer.net.irn),
                             ("decoder", restorer.net.vq.decoder))
    ]  # fmt: skip
    steps = []
    settings = METHOD.settings({"steps": 4}, TINY)
    context = Context(guide, lambda index, total: steps.append((index, total)))
    with torch.no_grad():
        METHOD.restore(restorer.net, faces[:2], settings, [1, 2], {}, context)
    for handle in handles:
        handle.remove()
    assert steps == [(index, 7) for index in range(7)]  # Heun: 2 n - 1
    assert counts == {"encoder": 2, "irn": 1, "decoder": 8}  # each guided evaluation, and the result
    assert guide.recogniser.calls == 8  # each guided evaluation, and the target


@pytest.mark.parametrize(
    ("chosen", "guided_at"),
    [
        ({}, [0, 1, 2, 3, 4, 5]),
        ({"guide_to": 0.3}, [0, 1]),
        ({"guide_from": 1.0}, [1, 2, 3, 4, 5]),
        ({"guide_from": 0.001, "guide_to": 0.001}, []),
    ],
)
def test_guidance_acts_in_its_band(chosen, guided_at):
    settings = METHOD.settings({"steps": 6, **chosen}, TINY)
    levels = noise_levels(settings)
    # EDM Eq. 5 by hand, for six steps from 2.04 to 0.002
    sigmas = (2.04 ** (1 / 7) + np.arange(6) / 5 * (0.002 ** (1 / 7) - 2.04 ** (1 / 7))) ** 7
    np.testing.assert_allclose([level.sigma for level in levels], sigmas)
    assert guided_levels(levels, settings) == [levels[at] for at in guided_at]


@pytest.mark.parametrize(
    ("fidelity", "sigma", "scale"), [(0, 8.16, 0.005), (0.25, 4.08, 0.01), (0.5, 2.04, 0.02), (1, 0.51, 0.08)]
)
def test_the_dial_turns_noise_and_guidance(guided, faces, monkeypatch, fidelity, sigma, scale):
    calls = watch(monkeypatch, guided.net, "denoise")
    seen = []

    def steering(guide, z, target, *, scale, mask, picture):
        seen.append(scale)
        return torch.zeros_like(z)

    monkeypatch.setattr(sys.modules[predictor.__module__], "steering", steering)
    run(guided, faces[:1], (5,), fidelity=fidelity)
    assert calls[0][2] == pytest.approx(sigma)
    assert seen == pytest.approx([scale] * 3)


# As users meet it.


@pytest.mark.parametrize("sampler", ["heun", "dpm++", "ddim"])
def test_a_face_depends_on_its_seed_alone(guided, faces, sampler):
    together = run(guided, faces, sampler=sampler)
    assert together.shape == faces.shape
    assert torch.equal(together, run(guided, faces, sampler=sampler))
    halves = guided.restore(faces, seeds=[5, 6, 7], settings={"sampler": sampler}, runtime=Runtime(batch=2))
    for alone, index in ((run(guided, faces[1:2], (6,), sampler=sampler)[0], 1), (halves[0], 0), (halves[2], 2)):
        # A batch may add in another order, and a latent on the border of two entries may then fall to the other side.
        assert (alone - together[index]).abs().mean() < 1e-3
    assert (together - run(guided, faces, (8, 9, 10), sampler=sampler)).abs().mean() > 1e-3


def test_samplers_agree_when_steps_are_many(restorer, faces):
    many = {"heun": 15, "dpm++": 20, "ddim": 40}  # by their orders
    first, *others = (
        latents(restorer, faces[:1], guidance=False, sampler=name, steps=steps) for name, steps in many.items()
    )
    for other in others:
        assert (first - other).abs().mean() < 0.05 * first.std()


def latents(restorer, faces, **chosen):
    """Return what is decoded."""
    made, decode = [], restorer.net.decode
    restorer.net.decode = lambda z: made.append(z) or decode(z)
    try:
        run(restorer, faces, tuple(range(len(faces))), **chosen)
    finally:
        del restorer.net.decode
    return made[-1]


STRONG = {"steps": 4, "scale": 0.3}
"""So that guidance, which fades with sigma^2, acts at more than the first level."""


@pytest.fixture(scope="module")
def published(guided, faces):
    return run(guided, faces[:1], (5,), **STRONG)


@pytest.mark.parametrize(
    "changed",
    [
        {"start": "noise", "guidance": False},
        {"start": "noise"},
        {"start": "degraded"},
        {"masking": "none"},
        {"guidance": False},
        {"steps": 0},
        {"sigma": 1.0},
        {"scale": 0.02},
        {"every": 2},
        {"guide_to": 1.0},
        {"guide_from": 1.0},
        {"fidelity": 0.0},
        {"fidelity": 1.0},
        {"sampler": "dpm++"},
        {"sampler": "ddim"},
    ],
    ids=lambda changed: " ".join(f"{name}={value}" for name, value in changed.items()),
)
def test_each_variant_changes_the_picture(guided, faces, published, changed):
    assert (published - run(guided, faces[:1], (5,), **{**STRONG, **changed})).abs().mean() > 1e-4


def test_0_steps_from_the_input_is_the_autoencoder_alone(guided, faces):
    net = guided.net
    quantised, _ = net.vq.quantise(net.vq.denormalise(net.encode(faces * 2 - 1)))
    expected = ((net.vq.decode_codes(quantised) + 1) / 2).clamp(0, 1)
    made = run(guided, faces, steps=0, start="degraded")
    torch.testing.assert_close(made, expected, atol=1e-5, rtol=0)
    assert torch.equal(made, run(guided, faces, (8, 9, 10), steps=0, start="degraded"))


def test_guidance_raises_the_cosine_to_its_target(restorer, faces):
    guide = IdentityGuide(Embedder(), "test recogniser")
    known = recover(restorer.net, faces)

    def cosine(restored, reference=None):
        wanted = targets(dataclasses.replace(guide, reference=reference), (known.xid + 1) / 2)
        return (targets(guide, restored) * wanted).sum(1)

    many = {"steps": 8, "masking": "none", "scale": 0.1, "sampler": "dpm++"}
    off = run(restorer, faces, guidance=False, steps=8, sampler="dpm++")
    assert bool((cosine(run(restorer.guided(guide), faces, **many)) > cosine(off)).all())
    reference = F.normalize(torch.randn(8, generator=torch.Generator().manual_seed(9)), dim=0)
    to_photo = restorer.guided(dataclasses.replace(guide, reference=reference))
    pulled = run(to_photo, faces, **many)
    assert bool((cosine(pulled, reference) > cosine(off, reference) + 0.05).all())


def test_a_net_like_compact_is_guided_too(faces):
    net = Restorer(METHOD, BOTH, random_net(BOTH), "random").guided(IdentityGuide(Embedder(), "test recogniser"))
    on, off = (run(net, faces[:1], (5,), **STRONG, guidance=guidance) for guidance in (True, False))
    assert (on - off).abs().mean() > 1e-4
    assert latent_mask(net, faces[:1], seeds=[5], runtime=Runtime()).shape == (1, 1, SIDE, SIDE)


@pytest.mark.parametrize("sampler", ["heun", "dpm++", "ddim"])
def test_a_mask_of_zeros_is_no_guidance_to_the_bit(guided, faces, sampler):
    off = run(guided, faces, guidance=False, sampler=sampler)
    assert torch.equal(off, run(guided, faces, mask=torch.zeros(3, 1, 40, 30), sampler=sampler))
    assert torch.equal(off, run(guided, faces, scale=0.0, sampler=sampler))


def test_a_mask_of_ones_is_guidance_everywhere(guided, faces):
    guided = functools.partial(run, guided, faces[:1], (5,), masking="none", **STRONG)
    everywhere = guided()
    for side in (8, 300):
        # Resizing ones gives ones but for rounding, which may tip a latent on the border of two entries.
        assert (everywhere - guided(mask=torch.ones(1, 1, side, side))).abs().mean() < 1e-3
    assert (everywhere - guided(mask=torch.zeros(1, 1, 8, 8))).abs().mean() > 1e-2


def test_a_mask_lets_only_its_part_of_the_latent_change(guided, faces):
    half = torch.zeros(1, 1, 100, 200)
    half[..., 100:] = 1
    one_step = {"steps": 1, "scale": 0.2}  # more would carry the change through the denoiser
    off = latents(guided, faces[:1], guidance=False, **one_step)
    on = latents(guided, faces[:1], **one_step)
    change = (latents(guided, faces[:1], mask=half, **one_step) - off).abs().amax((0, 1, 2))
    assert float(change[:3].max()) == 0
    assert float(change[5:].min()) > 0
    assert (on - off).abs().amax((0, 1, 2))[:3].min() > 0


@pytest.mark.parametrize(
    ("mask", "words"),
    [
        (torch.zeros(2, 1, 32, 32), "expected finite numbers in 3 rows"),
        (torch.zeros(3, 32, 32), "a mask is"),
        (torch.zeros(3, 3, 32, 32), "a mask is"),
        (torch.full((3, 1, 32, 32), 2.0), "from 0 to 1"),
    ],
    ids=["rows", "flat", "colours", "range"],
)
def test_masks_that_do_not_fit_are_refused(guided, faces, mask, words):
    with pytest.raises(InputMediaError, match=words) as caught:
        run(guided, faces, mask=mask)
    assert caught.value.kept and caught.value.todo


def test_the_latent_mask_as_a_picture(guided, faces):
    picture = latent_mask(guided, faces, seeds=[5, 6, 7], runtime=Runtime(batch=2))
    net, known = guided.net, recover(guided.net, faces)
    z = known.zid + 2.04 * Draws([5, 6, 7]).normal("z_T", 3, SIDE // 4, SIDE // 4)
    learned = net.mask(net.denoise(z, known.condition, 2.04), known.zid).mean(1, keepdim=True)
    assert picture.shape == (3, 1, SIDE, SIDE)
    expected = cv2.resize(learned[1, 0].numpy(), (SIDE, SIDE), interpolation=cv2.INTER_LINEAR)
    np.testing.assert_allclose(picture[1, 0].numpy(), expected, atol=1e-5)
    assert picture.std() > 1e-3
    assert run(guided, faces, mask=picture).shape == faces.shape
    assert latent_mask(guided, faces[:0], seeds=[], runtime=Runtime()).shape == (0, 1, SIDE, SIDE)


def test_a_latent_mask_needs_this_method_and_steps(guided, faces):
    irn = get_method("irn")
    other = Restorer(irn, irn.config(), irn.build(irn.config()), "random")
    with pytest.raises(SettingsError, match="expected CLR-Face"):
        latent_mask(other, faces, seeds=[1, 2, 3], runtime=Runtime())
    with pytest.raises(SettingsError, match="at least 1 step"):
        latent_mask(guided, faces, seeds=[1, 2, 3], settings={"steps": 0}, runtime=Runtime())


def test_faces_of_other_sizes_are_refused(guided):
    with pytest.raises(InputMediaError, match=r"found shape \(1, 3, 64, 64\); expected \(B, 3, 32, 32\)"):
        run(guided, torch.zeros(1, 3, 64, 64), (1,))
    odd = Restorer(METHOD, dataclasses.replace(TINY, size=72), guided.net, "random")
    with pytest.raises(InputMediaError, match="found 72 x 72 pixels, expected sides that are multiples") as caught:
        run(odd, torch.zeros(1, 3, 72, 72), (1,))
    assert caught.value.kept and caught.value.todo
    assert run(guided, torch.zeros(0, 3, SIDE, SIDE), ()).shape == (0, 3, SIDE, SIDE)


@pytest.mark.parametrize(
    ("chosen", "words"),
    [
        ({"start": "noise", "steps": 0}, "expected at least 1 step"),
        ({"guide_from": 0.5, "guide_to": 1.0}, "found guide_from 0.5 and guide_to 1"),
        ({"sampler": "ddpm"}, "one of heun, dpm"),
        ({"scal": 1.0}, "Did you mean 'scale'"),
    ],
)
def test_settings_that_contradict_are_refused(guided, faces, chosen, words):
    with pytest.raises(SettingsError, match=words) as caught:
        run(guided, faces, **chosen)
    assert caught.value.kept and caught.value.todo


def test_half_precision_finds_the_same_entries(restorer, monkeypatch):
    net = restorer.net
    z = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(6))
    decoded = watch(monkeypatch, net.vq, "decode_codes")
    with torch.no_grad():
        net.decode(z)
        with torch.autocast("cpu", torch.bfloat16):
            net.decode(z)
    assert torch.equal(decoded[0][0], decoded[1][0])


def test_bfloat16_stays_close(restorer, faces):
    chosen = {"seeds": [5, 6], "settings": {"guidance": False}}  # the first direction of a random net is a toss-up
    full, half = (restorer.restore(faces[:2], **chosen, runtime=Runtime(dtype=dtype)) for dtype in PRECISIONS)
    assert 0 < (full - half).abs().mean() < 0.1 * full.std()


def test_numbers_that_break_on_the_way_are_noticed(faces):
    net = random_net(TINY)
    told = []

    def break_third(module, args, made):
        told.append(1)
        return made * torch.nan if len(told) == 3 else made

    net.unet.register_forward_hook(break_third)
    broken = Restorer(METHOD, TINY, net, "random")
    with pytest.raises(RestoreError, match="evaluation 3 of 3"):
        run(broken, faces[:1], (5,), guidance=False)


# What is declared.


@pytest.mark.parametrize("name", ["compact", "paper"])
def test_a_config_is_told_by_its_keys_and_its_parts_are_all_of_it(name):
    net = unfilled(METHOD, METHOD.config(name))
    keys = list(net.state_dict())
    assert METHOD.recognise(keys) == name
    for key in keys:
        assert sum(part.holds(key) for part in METHOD.parts) == 1, key
    for part in METHOD.parts:
        own = [key for key in keys if part.holds(key)]
        assert part.among(own) and set(part.keys) <= set(own)
        if part.name in ("vq", "diffusion"):
            assert METHOD.recognise(own) == name


def test_the_paper_config_has_the_published_sizes():
    net = unfilled(METHOD, METHOD.config("paper"))
    with torch.device("meta"):
        z = net.vq.encode(torch.zeros(1, 3, 512, 512))
    assert z.shape == (1, 3, 128, 128)  # Sec. 5: latent
    assert net.vq.codebook.shape == (8192, 3)  # codebook
    widths = [level.block[0].conv2.out_channels for level in net.vq.encoder.down]
    assert widths == [128, 256, 384]  # feat
    assert net.unet.input_blocks[0][0].in_channels == 6  # z_t and z^d
    printed = METHOD.settings({}, METHOD.config("paper"))
    assert (printed.steps, printed.sampler, printed.sigma) == (40, "heun", 2.04)


def test_irn_files_and_the_recogniser_that_comes_with_the_package_serve():
    parts = {part.name: part for part in METHOD.parts}
    assert parts["irn"].alone == "irn"
    assert METHOD.guides and [given.kind for given in METHOD.inputs] == ["mask"]
    assert METHOD.config().shared == {"irn.": "irn_compact"}


def test_its_files_load_together_the_irn_as_its_own_training_wrote_it(tmp_path, monkeypatch):
    method = dataclasses.replace(METHOD, configs=(TINY, *METHOD.configs))
    monkeypatch.setitem(methods(), "clr_face", method)
    torch.manual_seed(0)
    net = METHOD.build(TINY)
    state = net.state_dict()
    for part in METHOD.parts:
        own = {key: tensor.contiguous() for key, tensor in state.items() if part.holds(key)}
        if part.alone:
            own = {key.removeprefix(part.prefixes[0]): tensor for key, tensor in own.items()}
        save_file(own, tmp_path / f"{part.name} of mine.safetensors")
    whole = tmp_path / "whole" / "whole.safetensors"
    whole.parent.mkdir()
    save_file({key: tensor.contiguous() for key, tensor in state.items()}, whole)
    for weights in (tmp_path, whole):
        loaded = load_restorer("clr_face", "tiny", weights=weights)
        for key, tensor in loaded.net.state_dict().items():
            assert torch.equal(tensor, state[key]), key
