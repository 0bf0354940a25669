"""PLTrans: each equation against NumPy in float64, and the method as its users meet it."""

from __future__ import annotations

import itertools
import logging
import math
import re

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import erf
from tiny_pltrans import FEATURES, tiny_config, tiny_restorer
from torch import nn

from bfr_core.diffusion.levels import CLEAN, Levels, q_sample
from bfr_core.errors import InputMediaError, RestoreError, SettingsError
from bfr_core.methods.pltrans import METHOD
from bfr_core.methods.pltrans.degradation_level import degradation_level
from bfr_core.methods.pltrans.model import PLTrans
from bfr_core.methods.pltrans.prior import CrossAttention, PriorKeyValue
from bfr_core.methods.pltrans.regulariser import Moments, Regulariser
from bfr_core.methods.pltrans.restore import perturbations
from bfr_core.models.checkpoints.unfilled import unfilled
from bfr_core.registry import Context, get_method, identify
from bfr_core.restorer import Restorer
from bfr_core.runtime import Runtime
from bfr_core.seeding import Draws

SEEDS = (5, 6, 7)
FIXED = {"steps": "fixed", "n": 400, "s": 220, "transitions": 3, "fidelity": 0.5}
BETAS = np.linspace(1e-4, 0.02, 1000)
ALPHA_BAR = np.concatenate([[1.0], np.cumprod(1 - BETAS)])
"""As the paper counts: alpha_bar[t] is a product of t factors."""


@pytest.fixture(scope="module")
def restorer() -> Restorer:
    return tiny_restorer()


@pytest.fixture(scope="module")
def printed() -> Restorer:
    return tiny_restorer(printed=True)


@pytest.fixture(scope="module", params=["tiny", "tiny_paper"])
def either(request, restorer, printed) -> Restorer:
    return restorer if request.param == "tiny" else printed


@pytest.fixture(scope="module", params=["clean", "noise"])
def double(request) -> Regulariser:
    """Return a regulariser in float64 that predicts in either way."""
    net = tiny_restorer(printed=request.param == "noise").net.regulariser.double()
    assert net.predicts == request.param
    return net


@pytest.fixture(scope="module")
def faces() -> torch.Tensor:
    return torch.rand(3, 3, 64, 64, generator=torch.Generator().manual_seed(1))


def run(restorer, faces, seeds=SEEDS, batch=2, dtype=torch.float32, **chosen):
    runtime = Runtime(batch=batch, dtype=dtype)
    return restorer.restore(faces, seeds=list(seeds), settings={**FIXED, **chosen}, runtime=runtime)


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def randomised(net: nn.Module) -> nn.Module:
    """Return a network in float64 none of whose weights is zero."""
    for index, weight in enumerate(net.parameters()):
        weight.data = normal(*weight.shape, seed=index).mul(0.3)
    return net.double().requires_grad_(False)


# Sec. 3.2, the regulariser.


def test_eq2_samples_have_the_moments():
    drawn = Moments(torch.full((1, 1, 1, 1), 2.0), torch.full((1, 1, 1, 1), math.log(9.0))).sample(
        torch.randn(1, 1, 200, 200, generator=torch.Generator().manual_seed(0))
    )
    assert abs(drawn.mean() - 2) < 0.05 and abs(drawn.std() - 3) < 0.05


def test_latents_are_normalised_by_what_training_found(double):
    q = normal(2, 8, FEATURES, FEATURES)
    u, mean = double.encode(q), double.moments(q).mean
    shape = (1, -1, 1, 1)
    np.testing.assert_allclose(u.numpy(), (mean - double.mean.view(shape)) / double.std.view(shape))
    torch.testing.assert_close(double.denormalise(u), mean)
    torch.testing.assert_close(double.decode(u), double.decoder(mean))  # Eq. 3


def test_eq4_levels_are_the_papers(double):
    for t in (1, 2, 220, 400, 1000):
        level = double.level(t)
        assert math.isclose(level.alpha, math.sqrt(ALPHA_BAR[t]), rel_tol=1e-12)
        assert math.isclose(level.sigma, math.sqrt(1 - ALPHA_BAR[t]), rel_tol=1e-9)
    assert double.level(0) == CLEAN


def estimated(net: Regulariser, u_t: np.ndarray, t: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the clean latent and the noise that the U-Net's output stands for, in NumPy."""
    alpha, sigma = math.sqrt(ALPHA_BAR[t]), math.sqrt(1 - ALPHA_BAR[t])
    with torch.no_grad():
        said = net.unet(torch.from_numpy(u_t), torch.full((len(u_t),), float(t - 1))).numpy()
    if net.predicts == "noise":
        return (u_t - sigma * said) / alpha, said
    ratio = sigma / alpha  # EDM Table 1, sigma_data 1
    clean = u_t / alpha / (ratio**2 + 1) + ratio / math.sqrt(ratio**2 + 1) * said
    return clean, (u_t - alpha * clean) / sigma


@pytest.mark.parametrize("t", [1, 300, 1000])
def test_eq4_epsilon_of_a_noisy_latent(double, t):
    u_t = normal(2, double.latent, FEATURES, FEATURES)
    said = double.predict(u_t, double.level(t))
    clean, noise = estimated(double, u_t.numpy(), t)
    np.testing.assert_allclose(said.clean.numpy(), clean, rtol=1e-6, atol=1e-8)
    np.testing.assert_allclose(said.noise.numpy(), noise, rtol=1e-6, atol=1e-6)
    # Of a batch with a level for each row, as training has it, they are the same.
    level = double.level(t)
    rows = Levels(
        *(torch.full((2, 1, 1, 1), value, dtype=torch.float64) for value in (level.t, level.alpha, level.sigma))
    )
    rows = Levels(rows.t.flatten(), rows.alpha, rows.sigma)
    torch.testing.assert_close(double.predict(u_t, rows).noise, said.noise)


def chain(
    net: Regulariser, u_lq: np.ndarray, n: int, s: int, transitions: int, draws: Draws, levels: int
) -> np.ndarray:
    """Do Sec. 3.2 to one face in NumPy: perturb, come back by DDPM's posterior (Eq. 7 there), inject, leap."""
    from wavelet_oracle import exchanged

    def noise(name: str) -> np.ndarray:
        return draws.normal(name, *u_lq.shape[1:]).double().numpy()

    def perturbed(t: int) -> np.ndarray:
        return math.sqrt(ALPHA_BAR[t]) * u_lq + math.sqrt(1 - ALPHA_BAR[t]) * noise("u_n")

    times = [round(n + (s - n) * index / transitions) for index in range(transitions + 1)]
    u = perturbed(n)
    for index, (t, before) in enumerate(itertools.pairwise(times)):
        clean, _ = estimated(net, u, t)
        beta = 1 - ALPHA_BAR[t] / ALPHA_BAR[before]
        mean = (
            math.sqrt(ALPHA_BAR[before]) * beta / (1 - ALPHA_BAR[t]) * clean
            + math.sqrt(1 - beta) * (1 - ALPHA_BAR[before]) / (1 - ALPHA_BAR[t]) * u
        )
        u = mean + math.sqrt((1 - ALPHA_BAR[before]) / (1 - ALPHA_BAR[t]) * beta) * noise(f"u_{index}")
        if levels:
            lq = perturbed(before)
            u = np.stack(
                [[exchanged(a, b, levels) for a, b in zip(*both, strict=True)] for both in zip(lq, u, strict=True)]
            )
    return u if s == 0 else estimated(net, u, s)[0]


@pytest.mark.parametrize(("n", "s", "levels"), [(400, 220, 1), (400, 220, 3), (1000, 1, 2), (30, 0, 1), (400, 220, 0)])
def test_the_regularisation_is_the_papers(double, n, s, levels):
    u_lq = normal(1, double.latent, FEATURES, FEATURES)
    with torch.no_grad():
        found = double.regularise(u_lq, n, s, 4, levels, Draws([3]), wavelet=levels > 0)
    np.testing.assert_allclose(
        found.numpy(), chain(double, u_lq.numpy(), n, s, 4, Draws([3]), levels), rtol=1e-5, atol=1e-6
    )


def test_each_face_may_have_its_own_steps(double):
    u_lq = normal(3, double.latent, FEATURES, FEATURES)
    n, s = [100, 400, 50], [55, 0, 27]
    with torch.no_grad():
        found = double.regularise(u_lq, n, s, 3, 1, Draws(SEEDS))
        for row in range(3):
            alone = double.regularise(u_lq[row : row + 1], n[row], s[row], 3, 1, Draws(SEEDS[row : row + 1]))
            torch.testing.assert_close(found[row : row + 1], alone)


@settings(max_examples=60, deadline=None)
@given(n=st.integers(1, 1000), share=st.floats(0, 0.999), transitions=st.integers(1, 30))
def test_chains_fall_from_n_to_s(n, share, transitions):
    net, s = _SMALL, int(share * n)
    levels = net.chain(n, s, transitions)
    assert len(levels) == transitions + 1 and levels[0] == net.level(n) and levels[-1] == net.level(s)
    ratios = [level.ratio for level in levels]
    assert all(a >= b for a, b in itertools.pairwise(ratios)) and all(ratio > 0 for ratio in ratios[:-1])
    if transitions <= n - s:
        assert len(set(ratios)) == len(ratios), "no level twice where there are enough"


_SMALL = Regulariser(4, latent=2, width=4, unet={"channels": 4, "mult": (1,), "blocks": 1, "groups": 2, "head": 4})


def test_kernels_are_rows_of_channels_also_once_loaded_which_changes_nothing(either):
    net = tiny_restorer(printed=either.config.name == "tiny_paper").net.regulariser
    state = {key: tensor.contiguous() for key, tensor in net.state_dict().items()}
    fresh = type(net)(net.decoder[-1].out_channels, **either.config.options["regulariser"])
    fresh.load_state_dict(state, assign=True)
    kernels = [weight for weight in fresh.parameters() if weight.ndim == 4 and weight.shape[2] > 1]
    assert kernels and all(kernel.is_contiguous(memory_format=torch.channels_last) for kernel in kernels)
    plain = fresh.to(memory_format=torch.contiguous_format)
    q = normal(2, 8, FEATURES, FEATURES).float()
    with torch.no_grad():
        found, wanted = (
            one.decode(one.regularise(one.encode(q), 400, 220, 3, 2, Draws((1, 2)))) for one in (net, plain)
        )
    torch.testing.assert_close(found, wanted, atol=1e-4, rtol=1e-4)


def test_repeated_levels_change_nothing():
    net = tiny_restorer().net.regulariser.double()
    u = normal(1, net.latent, FEATURES, FEATURES)
    with torch.no_grad():  # without injection, whose low frequencies are the same anyway
        few, many = (net.regularise(u, 2, 1, count, 1, Draws([3]), wavelet=False) for count in (1, 9))
    assert few.isfinite().all() and many.isfinite().all()
    # One true transition in both, drawing noise of another name.
    assert (few - many).abs().max() < 0.2


# Sec. 3.3, keys and values.


@settings(max_examples=30, deadline=None)
@given(
    dim=st.sampled_from([2, 3, 16]), codes=st.integers(8, 40), side=st.integers(1, 5), batch=st.integers(1, 3),
    top=st.integers(1, 8),
)  # fmt: skip
def test_eq5_the_nearest_entries_equal_brute_force(dim, codes, side, batch, top):
    prior = PriorKeyValue(dim, top=top, heads=1, groups=1)
    z, entries = normal(batch, dim, side, side, seed=1), normal(codes, dim, seed=2)
    distances = ((z.numpy()[:, :, None] - entries.numpy().T[None, :, :, None, None]) ** 2).sum(1)
    wanted = np.argsort(distances, 1)[:, :top].transpose(0, 2, 3, 1)
    np.testing.assert_array_equal(prior.nearest(z, entries).numpy(), wanted)


def test_eq5_is_not_left_to_half_precision():
    prior = PriorKeyValue(16, heads=1)
    z, entries = normal(1, 16, 8, 8).float(), 5 + normal(64, 16, seed=2).float() * 0.01
    wanted = prior.nearest(z.double(), entries.double())
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(prior.nearest(z, entries), wanted)


def test_eq6_combines_the_entries():
    prior = randomised(PriorKeyValue(6, top=4, heads=1, groups=1))
    entries = normal(20, 6)
    numbers = torch.randint(20, (2, 3, 5, 4), generator=torch.Generator().manual_seed(0))
    wanted = np.einsum("l,bijlc->bcij", prior.r.numpy(), entries.numpy()[numbers.numpy()])
    np.testing.assert_allclose(prior.combined(numbers, entries).numpy(), wanted)


def test_eq6_learns_r_and_may_learn_the_entries():
    prior = PriorKeyValue(4, top=3, heads=1, groups=1)
    entries = torch.randn(9, 4, requires_grad=True)
    prior.combined(torch.tensor([[[[0, 4, 4]]]]), entries).sum().backward()
    np.testing.assert_allclose(prior.r.grad.numpy(), entries.detach()[[0, 4, 4]].sum(1).numpy(), rtol=1e-5)
    assert entries.grad[0].any() and not entries.grad[1].any()


def test_at_the_start_it_is_half_way_to_what_the_dictionary_has():
    prior, q, entries = PriorKeyValue(8, top=3, heads=2), torch.randn(2, 8, 4, 4), torch.randn(30, 8)
    distances = ((q[:, :, None] - entries.T[None, :, :, None, None]) ** 2).sum(1)
    numbers = distances.topk(3, dim=1, largest=False).indices
    nearest = entries[numbers].mean(1).permute(0, 3, 1, 2)
    with torch.no_grad():
        k, v = prior(q, entries)
        z_hat = CrossAttention(8)(q, k, v)
    for found, wanted in ((k, (q + nearest) / 2), (v, nearest), (z_hat, k)):
        torch.testing.assert_close(found, wanted)


def softmax(x: np.ndarray) -> np.ndarray:
    x = np.exp(x - x.max(-1, keepdims=True))
    return x / x.sum(-1, keepdims=True)


def linear(layer: nn.Linear, x: np.ndarray) -> np.ndarray:
    return x @ layer.weight.numpy().T + layer.bias.numpy()


def layer_norm(layer: nn.LayerNorm, x: np.ndarray) -> np.ndarray:
    centred = x - x.mean(-1, keepdims=True)
    return centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-5) * layer.weight.numpy() + layer.bias.numpy()


def tokens(x: torch.Tensor) -> np.ndarray:
    return x.numpy().reshape(*x.shape[:2], -1).transpose(0, 2, 1)


def maps(x: np.ndarray, like: torch.Tensor) -> np.ndarray:
    return x.transpose(0, 2, 1).reshape(len(like), -1, *like.shape[2:])


def test_eq7_keys_and_values():
    prior = randomised(PriorKeyValue(8, top=3, heads=2, groups=2))
    q, entries, phi = normal(2, 8, 3, 4), normal(20, 8, seed=9), prior.phi
    z = prior.compared(q)
    e_z = prior.combined(prior.nearest(z, entries), entries)
    # Phi: attention in two heads, from z to e_z, then the perceptron; norms first.
    flat_z, flat_e = tokens(z), tokens(e_z)
    queries = linear(phi.query, layer_norm(phi.norm_z, flat_z))
    keys, values = np.split(linear(phi.key_value, layer_norm(phi.norm_e, flat_e)), 2, -1)
    heads = [
        softmax(queries[..., half] @ keys[..., half].transpose(0, 2, 1) / 2.0) @ values[..., half]
        for half in (slice(0, 4), slice(4, 8))
    ]
    h = flat_z - flat_e + linear(phi.proj, np.concatenate(heads, -1))
    inner = linear(phi.mlp[0], layer_norm(phi.norm_mlp, h))
    h = h + linear(phi.mlp[2], inner * 0.5 * (1 + erf(inner / math.sqrt(2))))
    wanted = maps(linear(phi.out, h), q)
    k, v = prior(q, entries)
    np.testing.assert_allclose(k.numpy(), wanted[:, :8] + e_z.numpy())
    np.testing.assert_allclose(v.numpy(), wanted[:, 8:] + e_z.numpy())


def test_table1_without_parts_of_the_prior():
    prior = randomised(PriorKeyValue(8, heads=2, groups=2))
    q, entries = normal(2, 8, 3, 4), normal(20, 8, seed=9)
    z = prior.compared(q)
    e_z = prior.combined(prior.nearest(z, entries), entries)
    k, v = prior(q, entries, transform=False)  # w/o LT: "directly from the dictionary features"
    assert torch.equal(k, e_z) and torch.equal(v, e_z)
    k, v = prior(q, entries, retrieve=False, transform=False)
    assert torch.equal(k, z) and torch.equal(v, z)
    k, v = prior(q, entries, retrieve=False)  # w/o V
    told = prior.phi(*[torch.from_numpy(tokens(z))] * 2)
    torch.testing.assert_close(k, torch.from_numpy(maps(told.numpy()[..., :8], q)) + z)
    assert torch.equal(prior(q, normal(20, 8, seed=5), retrieve=False)[0], k)


def test_eq8_and_9_cross_attention():
    block = randomised(CrossAttention(8))
    q_hat, k, v = (normal(2, 8, 3, 4, seed=seed) for seed in range(3))
    queries, keys, values = (
        linear(layer, tokens(x)) for layer, x in ((block.query, q_hat), (block.key, k), (block.value, v))
    )
    mixed = maps(softmax(queries @ keys.transpose(0, 2, 1) / math.sqrt(8)) @ values, q_hat)
    padded = np.pad(mixed, ((0, 0), (0, 0), (1, 1), (1, 1)))
    weight, wanted = block.conv.weight.numpy(), np.zeros_like(mixed)
    for y in range(3):
        for x in range(3):
            wanted += np.einsum("oi,bihw->bohw", weight[:, :, y, x], padded[:, :, y : y + 3, x : x + 4])
    wanted += block.conv.bias.numpy()[:, None, None] + k.numpy()
    np.testing.assert_allclose(block(q_hat, k, v).numpy(), wanted)


# The method.


def test_a_face_depends_on_its_seed_and_not_on_its_batch(either, faces):
    together = run(either, faces)
    assert together.shape == faces.shape and together.isfinite().all()
    alone = torch.cat([run(either, faces[row : row + 1], SEEDS[row : row + 1]) for row in range(3)])
    torch.testing.assert_close(alone, together, atol=2e-3, rtol=0)
    again = run(either, faces, (5, 8, 7))
    assert (again[1] - together[1]).abs().max() > 4e-3
    torch.testing.assert_close(again[[0, 2]], together[[0, 2]], atol=2e-3, rtol=0)


def test_restoring_is_its_parts_in_order(restorer, faces):
    net, x = restorer.net, faces * 2 - 1
    with torch.no_grad():
        q = net.encode(net.seen(x))
        u = net.regulariser.regularise(net.regulariser.encode(q), 400, 220, 3, 2, Draws(SEEDS))
        z_hat = net.restored_features(net.regulariser.decode(u), q)
        wanted = ((net.vq.decode_codes(z_hat) + 1) / 2).clamp(0, 1)
        k, v = net.keys_values(q)
        assert torch.equal(net.attention[0](net.regulariser.decode(u), k, v), z_hat)
    assert torch.equal(run(restorer, faces, batch=3, levels=2), wanted)


@pytest.mark.parametrize("name", ["diffusion", "wavelet", "dictionary", "transformer"])
def test_each_row_of_table1_is_another_network(either, faces, name):
    assert (run(either, faces, **{name: False}) - run(either, faces)).abs().max() > 1e-3


def test_without_diffusion_the_query_is_q_and_seeds_change_nothing(restorer, faces):
    net = restorer.net
    found = run(restorer, faces, batch=3, diffusion=False)
    with torch.no_grad():
        q = net.encode(faces * 2 - 1)
        wanted = ((net.decode(net.restored_features(q, q)) + 1) / 2).clamp(0, 1)
    assert torch.equal(found, wanted)
    assert torch.equal(run(restorer, faces, (1, 2, 3), batch=3, diffusion=False), found)


def test_bfloat16_comes_near(restorer, faces):
    full, half = (run(restorer, faces, diffusion=True, dtype=dtype) for dtype in (torch.float32, torch.bfloat16))
    assert 0 < (full - half).abs().mean() < 0.05


def test_more_blocks_of_attention_ask_one_after_the_other(faces):
    options = dict(tiny_config().options, blocks=2)
    net = PLTrans(**options)
    for block in net.attention:
        nn.init.normal_(block.conv.weight)
    q_hat, q = torch.randn(1, 8, 4, 4), torch.randn(1, 8, 4, 4)
    with torch.no_grad():
        k, v = net.keys_values(q)
        first = net.attention[0](q_hat, k, v)
        assert torch.equal(net.restored_features(q_hat, q), net.attention[1](first, k, v))


def test_the_dial(restorer, faces):
    for fidelity, n, s in ((0.5, 400, 220), (0, 600, 330), (1, 100, 55)):
        chosen = METHOD.settings({**FIXED, "fidelity": fidelity})
        assert perturbations(faces, chosen, 1000, Context()) == ([n] * 3, [s] * 3)
    chosen = METHOD.settings({**FIXED, "n": 1000, "s": 999, "fidelity": 0})
    assert perturbations(faces, chosen, 1000, Context()) == ([1000] * 3, [999] * 3)
    chosen = METHOD.settings({**FIXED, "n": 2, "s": 1, "fidelity": 1})
    assert perturbations(faces, chosen, 1000, Context()) == ([1] * 3, [0] * 3)


def test_the_dial_holds_back_the_recovered_face(faces):
    net = PLTrans(**tiny_config().options)
    net.irn = nn.Conv2d(3, 3, 1)
    nn.init.zeros_(net.irn.weight)
    nn.init.constant_(net.irn.bias, 2.0)  # out of range: brought to white
    x = faces * 2 - 1
    with torch.no_grad():
        assert torch.equal(net.seen(x), torch.ones_like(x))
        torch.testing.assert_close(net.seen(x, 0.5), (x + 1) / 2)
    assert torch.equal(PLTrans(**tiny_config().options).seen(x, 0.5), x), "without one there is nothing to hold back"


def coarse(side: int) -> torch.Tensor:
    """Return noise of 64 px that was enlarged from `side`: the smaller, the heavier the degradation reads."""
    small = torch.rand(1, 3, side, side, generator=torch.Generator().manual_seed(side))
    return nn.functional.interpolate(small, (64, 64), mode="bicubic").clamp(0, 1)


def test_automatic_steps_are_told(restorer, caplog):
    faces = torch.cat([coarse(side) for side in (32, 16, 6)])
    with caplog.at_level(logging.INFO, "bfr"):
        alone = [Runtime() for _ in faces]
        each = [
            restorer.restore(faces[row : row + 1], seeds=SEEDS[row : row + 1], runtime=runtime)
            for row, runtime in enumerate(alone)
        ]
    assert [record.levelname for record in caplog.records] == ["INFO"] * 3, "it is no warning"
    told = []
    for row, runtime in enumerate(alone):
        (note,) = runtime.notes
        (found,) = re.findall(r"1 face: degradation ([\d.]+), n (\d+), s (\d+)$", note)
        read, n, s = (float(value) for value in found)
        assert read == pytest.approx(degradation_level(faces[row : row + 1]).item(), abs=0.01) and 0 < s < n <= 1000
        fixed = {"steps": "fixed", "n": int(n), "s": int(s)}
        same = restorer.restore(faces[row : row + 1], seeds=SEEDS[row : row + 1], settings=fixed, runtime=Runtime())
        assert torch.equal(same, each[row])
        told.append((read, n, s))
    runtime = Runtime(batch=3)
    together = restorer.restore(faces, seeds=SEEDS, runtime=runtime)
    torch.testing.assert_close(together, torch.cat(each), atol=2e-3, rtol=0)
    (note,) = runtime.notes
    n = np.array(told)[:, 1]
    assert n[0] < n[1] < n[2]
    assert "3 faces: " in note and f"n {n.min():g} to {n.max():g} (mean {round(n.mean(), 2):g})" in note


def test_a_film_has_one_line_of_automatic_steps(restorer):
    runtime = Runtime(batch=2)
    film = [torch.cat([coarse(side), coarse(side + 1)]) for side in range(4, 24, 2)]
    for frame in film:
        restorer.restore(frame, seeds=(1, 2), settings={"transitions": 1}, runtime=runtime)
    read = degradation_level(torch.cat(film)).double()
    (note,) = runtime.notes
    (found,) = re.findall(r"20 faces: degradation ([\d.]+) to ([\d.]+) \(mean ([\d.]+)\), n ", note)
    wanted = [read.min().item(), read.max().item(), read.mean().item()]
    assert [float(value) for value in found] == pytest.approx(wanted, abs=0.0051)


def test_steps_that_auto_leaves_aside_are_told(restorer, faces):
    runtime = Runtime()
    restorer.restore(faces[:1], seeds=[1], settings={"n": 300, "transitions": 1}, runtime=runtime)
    assert any("n 300 and s 220 were left aside" in note for note in runtime.notes)


def test_fixed_steps_are_not_told(restorer, faces):
    runtime = Runtime()
    restorer.restore(faces[:1], seeds=[1], settings=FIXED, runtime=runtime)
    assert not runtime.notes


def test_progress_hears_of_each_evaluation_and_may_stop_it(restorer, faces):
    class Stop(BaseException):
        pass

    def stop() -> None:
        if len(heard) == 2:
            raise Stop

    heard: list[tuple[int, int]] = []
    runtime = Runtime(batch=3, on_step=lambda *step: heard.append(step))
    restorer.restore(faces, seeds=SEEDS, settings=FIXED, runtime=runtime)
    assert heard == [(0, 4), (1, 4), (2, 4), (3, 4)]
    heard.clear()
    restorer.restore(faces, seeds=SEEDS, settings={**FIXED, "s": 0}, runtime=runtime)
    assert heard == [(0, 3), (1, 3), (2, 3)], "at s = 0 nothing is left to leap"
    heard.clear()
    runtime = runtime.derived(check_cancel=stop)
    with pytest.raises(Stop):
        restorer.restore(faces, seeds=SEEDS, settings=FIXED, runtime=runtime)
    assert len(heard) == 2


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"n": 300, "s": 300}, "s < n"),
        ({"n": 100}, "n 100 and s 220"),
        ({"levels": 4}, "1 to 3"),
        ({"n": 0}, "1 to 1000"),
        ({"transitions": 0}, "1 to"),
        ({"steps": "many"}, "auto, fixed"),
    ],
)
def test_bad_settings(restorer, faces, given, says):
    with pytest.raises(SettingsError) as caught:
        run(restorer, faces, **given)
    assert says in str(caught.value)


def test_latents_that_cannot_be_halved_so_often(restorer):
    net, faces = restorer.net, torch.rand(1, 3, 96, 96)  # features of 12 x 12
    small = Restorer(METHOD, dataclass_of_size(96), net, "test")
    run(small, faces, [1], levels=2)
    with pytest.raises(SettingsError, match="12 x 12"):
        run(small, faces, [1], levels=3)
    run(small, faces, [1], levels=3, wavelet=False)
    with pytest.raises(InputMediaError, match="multiples of 32"):
        run(Restorer(METHOD, dataclass_of_size(48), net, "test"), torch.rand(1, 3, 48, 48), [1])


def dataclass_of_size(size: int):
    import dataclasses

    return dataclasses.replace(tiny_config(), size=size)


def test_broken_weights_are_told(faces):
    broken = tiny_restorer()
    broken.net.regulariser.unet.out[2].bias[0] = torch.nan
    for dtype in (torch.float32, torch.bfloat16):
        with pytest.raises(RestoreError, match="evaluation 1 of 4") as caught:
            run(broken, faces, dtype=dtype)
        assert "bfr models verify" in caught.value.todo
    assert run(broken, faces, diffusion=False).isfinite().all()


# Declared.


def test_sizes():
    def millions(module: nn.Module) -> float:
        return sum(p.numel() for p in module.parameters()) / 1e6

    paper = unfilled(METHOD, METHOD.config("paper"))
    # RestoreFormer's whole network has 72.68 M; here the attentions of Sec. 3.3 are counted by themselves.
    assert abs(millions(paper.vq) - 72.7) < 0.5
    assert abs(millions(paper.regulariser.unet) - 31) < 1
    assert millions(paper.prior) + millions(paper.attention) < 3
    compact = unfilled(METHOD, METHOD.config("compact"))
    own = millions(compact) - millions(compact.irn)
    assert own < 7.5, "of which half precision makes files of 15 MB; 12 M were promised at most"
    with torch.device("meta"):
        for net, side in ((paper, 16), (compact, 64)):
            assert net.encode(torch.zeros(1, 3, 512, 512)).shape == (1, net.vq.dim, side, side)


def test_each_config_and_part_is_told_by_its_keys():
    for config in METHOD.configs:
        keys = unfilled(METHOD, config).state_dict().keys()
        assert METHOD.recognise(keys) == config.name
        told = identify(keys)
        assert told is not None and told.startswith("PLTrans, ")
        for part in METHOD.parts[:2]:
            some = {key for key in keys if part.holds(key)}
            assert METHOD.recognise(some) == config.name, part.name
            assert identify(some) == f"PLTrans, {part.title}"
        held = [part.name for key in keys for part in METHOD.parts if part.holds(key)]
        assert len(held) == len(keys), "each key is in one part"


def test_surfaces_have_every_row_of_table1():
    params = {param.name: param.default for param in get_method("pltrans").params}
    assert all(params[name] is True for name in ("dictionary", "diffusion", "transformer", "wavelet"))


def test_perturbing_and_q_sampling_agree(double):
    u, noise = normal(1, 2, 4, 4), normal(1, 2, 4, 4, seed=1)
    wanted = math.sqrt(ALPHA_BAR[400]) * u + math.sqrt(1 - ALPHA_BAR[400]) * noise
    torch.testing.assert_close(q_sample(u, double.level(400), noise), wanted)
