"""The diffusion core against its equations in float64, closed forms, and the schedulers of diffusers."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import pairwise
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor

from bfr_core.diffusion.guidance import every_kth
from bfr_core.diffusion.levels import CLEAN, Level, following, posterior, q_sample, transition
from bfr_core.diffusion.patches import fused, positions
from bfr_core.diffusion.predictions import (
    Prediction,
    edm_denoised,
    edm_scaling,
    from_clean,
    from_noise,
    learned_variance,
)
from bfr_core.diffusion.samplers import SAMPLERS, ddim, ddpm, dpm_solver_pp, euler, heun
from bfr_core.diffusion.schedules import cosine, karras, linear
from bfr_core.errors import NumbersError, RestoreError, SettingsError

SOLVERS = {"euler": euler, "heun": heun, "dpm++": dpm_solver_pp}
BETAS = np.linspace(1e-4, 0.02, 1000)
ABAR = np.cumprod(1 - BETAS)
DDPM = linear()


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.from_numpy(np.random.default_rng(seed).standard_normal(shape))


def close(found: Tensor, wanted: Tensor, rtol: float = 1e-7, atol: float = 1e-7) -> None:
    np.testing.assert_allclose(found.numpy(), wanted.numpy(), rtol=rtol, atol=atol)


def vp(levels: list[Level]) -> list[Level]:
    """The same ratios of noise to picture, with alpha^2 + sigma^2 = 1."""
    return [Level(lev.t, 1 / math.hypot(1, lev.ratio), lev.ratio / math.hypot(1, lev.ratio)) for lev in levels]


class Gaussian:
    """The network that knows everything of x0 ~ N(mean, variance)."""

    def __init__(self, mean: float = 0.3, variance: float = 0.25) -> None:
        self.mean, self.variance = mean, variance
        self.seen: list[tuple[Tensor, Level]] = []

    def __call__(self, x: Tensor, level: Level) -> Prediction:
        self.seen.append((x, level))
        total = level.alpha**2 * self.variance + level.sigma**2
        clean = self.mean + level.alpha * self.variance / total * (x - level.alpha * self.mean)
        return from_clean(x, clean, level)

    def flow(self, x: Tensor, start: Level, end: Level) -> Tensor:
        """The exact solution of the probability flow: all quantiles stay what they are."""
        shrunk = math.sqrt((self.variance + end.ratio**2) / (self.variance + start.ratio**2))
        return end.alpha * (self.mean + (x / start.alpha - self.mean) * shrunk)

    def score(self, x: Tensor, level: Level) -> Tensor:
        return -(x - level.alpha * self.mean) / (level.alpha**2 * self.variance + level.sigma**2)


# Schedules


def test_the_linear_schedule_is_ddpms():
    kept = linear().alpha_bar.numpy()
    np.testing.assert_allclose(kept, ABAR, rtol=1e-12)
    assert kept.dtype == np.float64 and kept[-1] == pytest.approx(4.0358e-5, rel=1e-4)  # the figure that DDPM gives


def test_the_cosine_schedule_is_equation_17():
    T = 1000
    f = [math.cos((t / T + 0.008) / 1.008 * math.pi / 2) ** 2 for t in range(T + 1)]
    wanted, kept = [], 1.0
    for t in range(T):
        kept *= 1 - min(1 - f[t + 1] / f[t], 0.999)
        wanted.append(kept)
    np.testing.assert_allclose(cosine().alpha_bar.numpy(), wanted, rtol=1e-10)


@pytest.mark.parametrize("schedule", [linear(), cosine(), cosine(50)])
def test_a_level_is_the_roots_of_its_share(schedule):
    T = len(schedule.alpha_bar)
    t = torch.tensor([0, T // 3, T - 1])
    rows = schedule.at(t)
    assert rows.alpha.shape == rows.sigma.shape == (3, 1, 1, 1) and rows.t.tolist() == [0, T // 3, T - 1]
    for row, index in enumerate(t.tolist()):
        level, kept = schedule.level(index), float(schedule.alpha_bar[index])
        assert level == Level(float(index), math.sqrt(kept), math.sqrt(1 - kept))
        assert rows.alpha[row].item() == pytest.approx(level.alpha, rel=1e-6)
        assert rows.sigma[row].item() == pytest.approx(level.sigma, rel=1e-6)
        assert schedule.nearest(level.ratio) == schedule.nearest(level.ratio * 1.0001) == index


@given(steps=st.integers(1, 1000), start=st.integers(1, 1000))
@settings(deadline=None, max_examples=40)
def test_respaced_levels_are_even_and_hold_both_ends(steps, start):
    assume(steps <= start)
    t = [int(level.t) for level in DDPM.levels(steps, start)]
    wanted = np.linspace(0, start - 1, steps) if steps > 1 else np.array([start - 1])
    assert len(set(t)) == steps and t == sorted(t, reverse=True)
    assert np.abs(np.array(t[::-1]) - wanted).max() <= 0.5 + 1e-9


def test_respaced_levels_are_those_of_guided_diffusion():
    # space_timesteps(1000, "25") there: a stride of 999 / 24 = 41.625, rounded.
    first = [0, 42, 83, 125, 166, 208, 250, 291, 333, 375, 416, 458, 500]
    assert [int(level.t) for level in DDPM.levels(25)][::-1][:13] == first
    assert [int(level.t) for level in DDPM.levels(3, 400)] == [399, 200, 0]
    assert [int(level.t) for level in DDPM.levels(1, 400)] == [399]


@pytest.mark.parametrize(("steps", "start"), [(0, None), (1001, None), (11, 10), (1, 0), (5, 1001)])
def test_steps_that_a_schedule_lacks_are_refused(steps, start):
    with pytest.raises(SettingsError, match="1 <= steps <= start <= 1000"):
        DDPM.levels(steps, start)


def test_karras_levels_are_edm_equation_5():
    levels = karras(18, 80.0)
    wanted = [(80 ** (1 / 7) + i / 17 * (0.002 ** (1 / 7) - 80 ** (1 / 7))) ** 7 for i in range(18)]
    np.testing.assert_allclose([level.sigma for level in levels], wanted, rtol=1e-12)
    assert levels[0].sigma == pytest.approx(80) and levels[-1].sigma == pytest.approx(0.002)
    assert all(level.alpha == 1 and level.t == level.sigma for level in levels)
    assert [level.sigma for level in karras(1, 2.04)] == [pytest.approx(2.04)]


@pytest.mark.parametrize(("steps", "largest", "smallest"), [(0, 1, 0.1), (3, 0.1, 1), (3, 1, 0), (3, math.nan, 0.1)])
def test_levels_that_do_not_fall_are_refused(steps, largest, smallest):
    with pytest.raises(SettingsError, match="noise levels"):
        karras(steps, largest, smallest)


# Transitions


@pytest.mark.parametrize(("t", "s"), [(1, 0), (500, 499), (999, 958), (399, 0)])
def test_the_posterior_is_bayes_rule(t, s):
    """q(x_s | x_t, x0) by multiplying both densities, which DDPM Eq. 7 sums up."""
    schedule = DDPM
    a = math.sqrt(ABAR[t] / ABAR[s])
    beta = 1 - ABAR[t] / ABAR[s]  # Improved DDPM Eq. 19
    precision = a * a / beta + 1 / (1 - ABAR[s])
    wanted = (math.sqrt(ABAR[s]) / (1 - ABAR[s]) / precision, a / beta / precision, 1 / precision)
    assert transition(schedule.level(t), schedule.level(s)) == pytest.approx((a, beta), rel=1e-8)
    assert posterior(schedule.level(t), schedule.level(s)) == pytest.approx(wanted, rel=1e-8)


def test_the_posterior_toward_a_clean_picture_is_that_picture():
    assert posterior(DDPM.level(0), CLEAN) == pytest.approx((1, 0, 0), abs=1e-12)
    assert posterior(Level(2.0, 1.0, 2.0), CLEAN) == pytest.approx((1, 0, 0), abs=1e-12)


def test_each_level_is_followed_by_the_next_and_the_last_by_clean():
    levels = DDPM.levels(4)
    assert list(following(levels).items()) == list(pairwise([*levels, CLEAN]))


def test_a_learned_variance_is_equation_15():
    values = drawn(2, 3, 4, 4).clamp(-1, 1)
    level, before = DDPM.level(400), DDPM.level(360)
    beta = 1 - ABAR[400] / ABAR[360]
    least = (1 - ABAR[360]) / (1 - ABAR[400]) * beta
    v = (values.numpy() + 1) / 2
    wanted = v * np.log(beta) + (1 - v) * np.log(least)
    np.testing.assert_allclose(learned_variance(values, level, before).numpy(), wanted, rtol=1e-9)
    last = learned_variance(values, DDPM.level(0), CLEAN)
    np.testing.assert_allclose(last.numpy(), math.log(1e-4), rtol=1e-9)


# Predictions

PARTS = st.floats(-3, 3)


@given(x0=PARTS, noise=PARTS, t=st.integers(0, 999), rows=st.booleans())
def test_all_kinds_of_prediction_recover_picture_and_noise(x0, noise, t, rows):
    level = DDPM.level(t)
    picture, eps = (torch.full((1, 1, 1, 1), value, dtype=torch.float64) for value in (x0, noise))
    given_level = level
    if rows:  # as in training
        alpha, sigma = (
            torch.tensor(value, dtype=torch.float64).view(1, 1, 1, 1) for value in (level.alpha, level.sigma)
        )
        given_level = SimpleNamespace(alpha=alpha, sigma=sigma)
    x = q_sample(picture, given_level, eps)
    assert x.item() == pytest.approx(math.sqrt(ABAR[t]) * x0 + math.sqrt(1 - ABAR[t]) * noise, abs=1e-9)
    for said in (from_noise(x, eps, given_level), from_clean(x, picture, given_level)):
        assert said.clean.item() == pytest.approx(x0, abs=1e-9)
        assert said.noise.item() == pytest.approx(noise, abs=1e-9)


@given(sigma=st.floats(1e-3, 100), data=st.floats(0.1, 2))
def test_edm_scaling_is_table_1(sigma, data):
    wanted = (
        data**2 / (sigma**2 + data**2),
        sigma * data / math.sqrt(sigma**2 + data**2),
        1 / math.sqrt(sigma**2 + data**2),
        math.log(sigma) / 4,
    )
    assert tuple(edm_scaling(sigma, data)) == pytest.approx(wanted)
    rows = edm_scaling(torch.tensor([sigma, 1.0], dtype=torch.float64).view(2, 1, 1, 1), data)
    assert tuple(value[0].item() for value in rows) == pytest.approx(wanted)


@pytest.mark.parametrize("rows", [False, True])
def test_a_preconditioned_network_is_equation_7(rows):
    x, told = drawn(2, 3, 4, 4), []
    sigmas = np.array([0.7, 0.7 if not rows else 5.0])

    def net(scaled: Tensor, t: Tensor) -> Tensor:
        told.append(t)
        return scaled.sin() + t.view(-1, 1, 1, 1)

    sigma = torch.from_numpy(sigmas).view(2, 1, 1, 1) if rows else 0.7
    made = edm_denoised(net, x, sigma, 0.5).numpy()
    s = sigmas.reshape(2, 1, 1, 1)
    root = np.sqrt(s**2 + 0.25)
    wanted = 0.25 / root**2 * x.numpy() + s * 0.5 / root * (np.sin(x.numpy() / root) + np.log(s) / 4)
    np.testing.assert_allclose(made, wanted, rtol=1e-9)
    assert told[0].shape == (2,) and told[0].dtype == x.dtype


# Samplers against closed forms


@pytest.mark.parametrize("made", [lambda levels: levels, vp], ids=["edm", "variance preserving"])
@pytest.mark.parametrize(("name", "order"), [("euler", 1), ("heun", 2), ("dpm++", 2)])
def test_solvers_converge_to_the_flow_at_their_order(name, order, made):
    errors = []
    for steps in (20, 40, 80, 160):
        target, levels = Gaussian(), made(karras(steps, 10.0, 0.01, rho=3.0))
        x = drawn(1, 1, 4, 4) * levels[0].sigma
        SOLVERS[name](target, x, levels)
        end, level = target.seen[-1]  # what the network saw last is the solution there
        assert level == levels[-1]
        errors.append((end - target.flow(x, levels[0], level)).abs().max().item())
    orders = [math.log2(coarse / fine) for coarse, fine in pairwise(errors)]
    assert all(order - 0.3 < found < order + 0.5 for found in orders), orders
    assert errors[-1] < (0.02 if order == 1 else 1e-3)


@pytest.mark.parametrize("name", ["heun", "dpm++", "euler"])
def test_solvers_agree_with_a_general_one_on_two_modes(name):
    """A mixture of two Gaussians, by scipy's Runge-Kutta of order 8 (DOP853)."""
    from scipy.integrate import solve_ivp

    def clean(y, sigma):
        spread = 0.04 + sigma**2
        weights = [np.exp(-((y - m) ** 2) / 2 / spread) for m in (-1.0, 0.6)]
        means = [m + 0.04 / spread * (y - m) for m in (-1.0, 0.6)]
        return sum(w * m for w, m in zip(weights, means, strict=True)) / sum(weights)

    def predict(x, level):
        return from_clean(x, torch.from_numpy(clean((x / level.alpha).numpy(), level.ratio)), level)

    start = np.array([-2.0, -0.5, 0.4, 3.0])
    exact = solve_ivp(lambda s, y: (y - clean(y, s)) / s, (3.0, 0.001), start, method="DOP853", rtol=1e-10).y[:, -1]
    levels = vp(karras(400 if name == "euler" else 60, 3.0, 0.001))
    x = torch.from_numpy(start).view(1, 1, 2, 2) * levels[0].alpha
    found = SOLVERS[name](predict, x, levels).flatten().numpy()
    np.testing.assert_allclose(found, exact, atol=0.02 if name == "euler" else 4e-3)


@pytest.mark.parametrize("name", ["heun", "dpm++", "ddim"])
def test_from_an_intermediate_level_the_published_steps_land_on_the_target(name):
    """CLR-Face's 40 steps from sigma 2.04: the spread of the samples is that of the target."""
    target, levels = Gaussian(), karras(40, 2.04)
    x = target.mean + math.sqrt(target.variance + 2.04**2) * drawn(1, 1, 8, 8)
    found = SAMPLERS[name](target, x, levels, draw=lambda index: pytest.fail("drew noise"))
    wanted = target.flow(x, levels[0], CLEAN)
    assert (found - wanted).abs().max() < (0.06 if name == "ddim" else 5e-3)


def coefficients(sample, levels: list[Level]) -> tuple[Tensor, Tensor]:
    """What an affine chain does: its result without noise, and the factors of x_T and of each draw."""
    rows = len(levels) + 2
    x = torch.zeros(rows, 1, 1, 1).double()
    x[1] = 1

    def draw(index: int) -> Tensor:
        noise = torch.zeros_like(x)
        noise[2 + index] = 1
        return noise

    made = sample(x, draw).flatten()
    return made[0], made[1:] - made[0]


@pytest.mark.parametrize("steps", [2, 5, 50])
def test_ancestral_samples_have_the_targets_spread(steps):
    """With the reverse step's own variance (which Improved DDPM learns) the chain is exact for any choice of steps."""
    target, levels = Gaussian(), DDPM.levels(steps)
    before = following(levels)

    def predict(x: Tensor, level: Level) -> Prediction:
        of_clean, _, variance = posterior(level, before[level])
        known = target.variance * level.sigma**2 / (level.alpha**2 * target.variance + level.sigma**2)
        spread = torch.tensor(variance + of_clean**2 * known, dtype=torch.float64)
        return replace(target(x, level), log_variance=spread.log())

    offset, factors = coefficients(lambda x, draw: ddpm(predict, x, levels, draw), levels)
    first, last = levels[0], levels[-1]
    spread = first.alpha**2 * target.variance + first.sigma**2
    variance = factors[0] ** 2 * spread + (factors[1:] ** 2).sum()
    # The last step gives the mean of what it knows, so that what remains unknown there is missing.
    missing = target.variance * last.sigma**2 / (last.alpha**2 * target.variance + last.sigma**2)
    assert variance.item() == pytest.approx(target.variance - missing, rel=1e-9)
    assert (offset + factors[0] * first.alpha * target.mean).item() == pytest.approx(target.mean, rel=1e-9)


@pytest.mark.parametrize("eta", [0.0, 0.4, 1.0, "ancestral"])
@pytest.mark.parametrize("made", [lambda: DDPM.levels(7, 400), lambda: karras(7, 5.0)], ids=["ddpm", "edm"])
def test_every_level_of_a_chain_has_its_noise(eta, made):
    """Of a known picture x_t ~ N(alpha x0, sigma^2) at each level (DDIM Lemma 1, DDPM Eq. 4)."""
    levels = made()
    for stop in range(1, len(levels)):
        target = Gaussian(0.8, 0.0)

        def sample(x, draw, target=target):
            if eta == "ancestral":
                ddpm(target, x, levels, draw)
            else:
                ddim(target, x, levels, eta, draw)
            return target.seen[stop][0]  # noqa: B023 - called in this turn of the loop

        offset, factors = coefficients(sample, levels)
        variance = (factors[0] * levels[0].sigma) ** 2 + (factors[1:] ** 2).sum()
        assert variance.item() == pytest.approx(levels[stop].sigma ** 2, rel=1e-9)
        mean = offset + factors[0] * levels[0].alpha * 0.8
        assert mean.item() == pytest.approx(levels[stop].alpha * 0.8, rel=1e-9)


def test_one_step_of_ddim_is_equation_8_of_lpip_diff():
    x, noise = drawn(1, 3, 4, 4), drawn(1, 3, 4, 4, seed=1)
    seen = []
    ddim(lambda x, level: seen.append(x) or from_noise(x, noise, level), x, [DDPM.level(t) for t in (700, 300)])
    y0 = (x.numpy() - math.sqrt(1 - ABAR[700]) * noise.numpy()) / math.sqrt(ABAR[700])
    wanted = math.sqrt(ABAR[300]) * y0 + math.sqrt(1 - ABAR[300]) * noise.numpy()
    np.testing.assert_allclose(seen[1].numpy(), wanted, rtol=1e-9)


def test_one_step_of_ddim_with_noise_is_equation_12():
    x, noise, z = (drawn(1, 3, 4, 4, seed=seed) for seed in range(3))
    seen = []
    levels = [DDPM.level(t) for t in (700, 300)]
    ddim(lambda x, level: seen.append(x) or from_noise(x, noise, level), x, levels, 0.6, lambda index: z)
    s = 0.6 * math.sqrt((1 - ABAR[300]) / (1 - ABAR[700])) * math.sqrt(1 - ABAR[700] / ABAR[300])  # Eq. 16
    y0 = (x.numpy() - math.sqrt(1 - ABAR[700]) * noise.numpy()) / math.sqrt(ABAR[700])
    wanted = math.sqrt(ABAR[300]) * y0 + math.sqrt(1 - ABAR[300] - s * s) * noise.numpy() + s * z.numpy()
    np.testing.assert_allclose(seen[1].numpy(), wanted, rtol=1e-9)


def test_heun_is_algorithm_1_of_edm():
    x, levels = drawn(1, 3, 4, 4), karras(4, 3.0)

    def denoised(x, sigma):
        return np.tanh(x) / (1 + sigma)

    y, sigmas = x.numpy(), [level.sigma for level in levels] + [0.0]
    for now, then in pairwise(sigmas):
        slope = (y - denoised(y, now)) / now
        ahead = y + (then - now) * slope
        if then:
            slope = (slope + (ahead - denoised(ahead, then)) / then) / 2
        y = y + (then - now) * slope
    found = heun(lambda x, level: from_clean(x, x.tanh() / (1 + level.sigma), level), x, levels)
    np.testing.assert_allclose(found.numpy(), y, rtol=1e-9)


@pytest.mark.parametrize("name", ["heun", "dpm++", "ddim"])
def test_a_chain_is_the_same_however_its_levels_are_written(name):
    """In x / alpha over sigma / alpha (DDIM Eq. 14, EDM Sec. 2) variance preserving levels are EDM's."""
    levels, x = karras(6, 5.0), drawn(1, 3, 4, 4)

    def predict(x: Tensor, level: Level) -> Prediction:
        return from_clean(x, (x / level.alpha).tanh() / (1 + level.ratio), level)

    plain = SAMPLERS[name](predict, x, levels, draw=lambda index: x)
    shrunk = vp(levels)
    close(SAMPLERS[name](predict, x * shrunk[0].alpha, shrunk, draw=lambda index: x), plain, rtol=1e-9)


@pytest.mark.parametrize("name", SAMPLERS)
def test_one_step_gives_the_clean_estimate(name):
    target, x, level = Gaussian(), drawn(2, 3, 4, 4), DDPM.level(399)
    found = SAMPLERS[name](target, x, [level], draw=lambda index: pytest.fail("drew noise"))
    close(found, target(x, level).clean)


@pytest.mark.parametrize("name", SAMPLERS)
def test_no_step_leaves_everything_alone(name):
    x = drawn(1, 3, 4, 4)
    assert SAMPLERS[name](Gaussian(), x, [], draw=lambda index: x) is x


@pytest.mark.parametrize(("eta", "drawing"), [(0.5, False), (1.5, True), (-0.1, True), (math.nan, True)])
def test_ddim_needs_noise_of_a_size_that_levels_have(eta, drawing):
    x = drawn(1, 1, 2, 2)
    with pytest.raises(SettingsError, match=f"eta {eta:g}".replace(".", r"\.")):
        ddim(Gaussian(), x, karras(3, 1.0), eta, (lambda index: x) if drawing else None)


# What samplers owe their callers


@pytest.mark.parametrize("name", SAMPLERS)
def test_evaluations_are_reported_before_each(name):
    heard, target, x = [], Gaussian(), drawn(1, 1, 2, 2)

    def report(index: int, total: int) -> None:
        heard.append((index, total, len(target.seen)))

    SAMPLERS[name](target, x, karras(5, 1.0), draw=lambda index: x, report=report)
    total = 9 if name == "heun" else 5
    assert heard == [(index, total, index) for index in range(total)]


@pytest.mark.parametrize("name", SAMPLERS)
def test_a_report_that_raises_stops_the_chain(name):
    target, x = Gaussian(), drawn(1, 1, 2, 2)

    def report(index: int, total: int) -> None:
        if index == 2:
            raise InterruptedError

    with pytest.raises(InterruptedError):
        SAMPLERS[name](target, x, karras(5, 1.0), draw=lambda index: x, report=report)
    assert len(target.seen) == 2


@pytest.mark.parametrize("name", SAMPLERS)
@pytest.mark.parametrize("field", ["clean", "noise", "log_variance", "gradient"])
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_numbers_that_are_not_finite_are_named_at_once(name, field, bad):
    target, x = Gaussian(), drawn(2, 1, 2, 2)

    def predict(x: Tensor, level: Level) -> Prediction:
        said = target(x, level)
        if len(target.seen) < 3:
            return said
        broken = torch.zeros_like(x)
        broken[1, 0, 1, 1] = bad
        return replace(said, **{field: broken})

    with pytest.raises(NumbersError) as caught:
        SAMPLERS[name](predict, x, karras(5, 1.0), draw=lambda index: x)
    error = caught.value
    assert isinstance(error, RestoreError) and len(target.seen) == 3
    assert f"evaluation 3 of {9 if name == 'heun' else 5}" in error.what
    assert field.replace("_", " ") in error.found and error.kept and error.todo


@pytest.mark.parametrize("name", SAMPLERS)
def test_half_precision_estimates_leave_the_chain_in_float32(name):
    seen = []

    def predict(x: Tensor, level: Level) -> Prediction:
        seen.append(x.dtype)
        half = (x * 0.5).bfloat16()
        return Prediction(half, half, gradient=half)

    x = drawn(1, 1, 2, 2).float()
    assert SAMPLERS[name](predict, x, DDPM.levels(3), draw=lambda index: x).dtype == torch.float32
    assert set(seen) == {torch.float32}


@pytest.mark.parametrize("name", SAMPLERS)
def test_float32_is_near_float64_over_the_whole_schedule(name):
    levels, x = DDPM.levels(50), drawn(1, 3, 8, 8)
    noises = [drawn(1, 3, 8, 8, seed=index) for index in range(50)]
    exact = SAMPLERS[name](Gaussian(), x, levels, draw=lambda index: noises[index])
    found = SAMPLERS[name](Gaussian(), x.float(), levels, draw=lambda index: noises[index].float())
    assert (found - exact).abs().max() < 1e-5


@pytest.mark.parametrize("name", SAMPLERS)
def test_a_face_does_not_depend_on_its_batch(name):
    torch.manual_seed(0)
    net = torch.nn.Conv2d(3, 3, 3, padding=1).double().requires_grad_(False)
    levels, x = DDPM.levels(6, 400), drawn(3, 3, 8, 8)
    noises = drawn(6, 3, 3, 8, 8, seed=1)

    def sample(rows: slice) -> Tensor:
        def predict(x: Tensor, level: Level) -> Prediction:
            return from_noise(x, net(x), level)

        return SAMPLERS[name](predict, x[rows], levels, draw=lambda index: noises[index, rows])

    close(torch.cat([sample(slice(1, 2)), sample(slice(2, 3))]), sample(slice(0, 3))[1:])


# Guidance


@pytest.mark.parametrize("learnt", [False, True])
def test_a_guided_ancestral_mean_moves_by_sigma_gradient(learnt):
    """mu - Sigma gradient: guided-diffusion's condition_mean, Diffuse-and-Restore Eq. 9."""
    x, gradient, log_variance = (drawn(1, 3, 4, 4, seed=seed) for seed in range(3))
    levels, ends = [DDPM.level(t) for t in (399, 360)], []
    for steered in (False, True):
        target = Gaussian()

        def predict(x, level, target=target, steered=steered):
            told = {"log_variance": log_variance if learnt else None, "gradient": gradient if steered else None}
            return replace(target(x, level), **told)

        ddpm(predict, x, levels, lambda index: torch.zeros_like(x))
        ends.append(target.seen[1][0].numpy())
    fixed = (1 - ABAR[360]) / (1 - ABAR[399]) * (1 - ABAR[399] / ABAR[360])
    spread = np.exp(log_variance.numpy()) if learnt else fixed
    np.testing.assert_allclose(ends[1] - ends[0], -spread * gradient.numpy(), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", ["ddim", "heun", "dpm++"])
@pytest.mark.parametrize("made", [lambda: DDPM.levels(12), lambda: karras(12, 3.0)], ids=["ddpm", "edm"])
def test_a_guide_turns_one_target_into_another(name, made):
    """Where the gradient is the difference of two scores, the chain is that of the other target, exactly."""
    one, other, levels = Gaussian(-0.5, 0.4), Gaussian(0.7, 0.1), made()

    def predict(x: Tensor, level: Level) -> Prediction:
        return replace(one(x, level), gradient=one.score(x, level) - other.score(x, level))

    x = drawn(1, 3, 4, 4) * levels[0].sigma
    steered = SAMPLERS[name](predict, x, levels, draw=lambda index: x)
    close(steered, SAMPLERS[name](other, x, levels, draw=lambda index: x), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", ["ddim", "heun", "dpm++"])
def test_a_guide_shifts_the_clean_estimate(name):
    """By sigma^2 / alpha gradient; of EDM that is ratio^2 dL/dx0."""
    gradient, x = drawn(1, 3, 4, 4), drawn(1, 3, 4, 4, seed=1)
    for level in (DDPM.level(250), Level(2.04, 1.0, 2.04)):
        ends = [
            SAMPLERS[name](
                lambda x, level, own=own: replace(Gaussian()(x, level), gradient=own), x, [level], draw=lambda index: x
            )
            for own in (None, gradient)
        ]
        wanted = -(level.sigma**2) / level.alpha * gradient.numpy()
        np.testing.assert_allclose((ends[1] - ends[0]).numpy(), wanted, rtol=1e-9)


def test_a_guide_is_asked_at_every_kth_of_its_levels_and_held_between():
    levels, x, asked = DDPM.levels(8), drawn(1, 1, 2, 2), []

    def guided(x: Tensor, level: Level) -> Prediction:
        asked.append(level)
        return replace(Gaussian()(x, level), gradient=torch.full_like(x, level.t))

    predict = every_kth(guided, Gaussian(), levels[1:6], 3)
    brought = [predict(x, level).gradient for level in levels]
    assert asked == [levels[1], levels[4]]
    wanted = [None, levels[1].t, levels[1].t, levels[1].t, levels[4].t, levels[4].t, None, None]
    assert [None if gradient is None else gradient[0, 0, 0, 0].item() for gradient in brought] == wanted


@pytest.mark.parametrize("k", [2, 4])
@pytest.mark.parametrize("name", ["ddim", "heun", "dpm++"])
def test_a_guide_who_is_asked_seldom_steers_as_far_as_one_who_is_always_asked(name, k):
    """More steps bring the chain to the flow of the other target itself, as far off as a held gradient is old."""
    one, other, errors = Gaussian(-0.5, 0.4), Gaussian(0.7, 0.1), []
    for steps in (40, 80, 160):
        levels, seen = vp(karras(steps, 10.0, 0.01, rho=3.0)), []

        def guided(x: Tensor, level: Level) -> Prediction:
            return replace(one(x, level), gradient=one.score(x, level) - other.score(x, level))

        def plain(x: Tensor, level: Level) -> Prediction:
            return one(x, level)

        predict = every_kth(guided, plain, levels, k)
        x = drawn(1, 1, 4, 4) * levels[0].sigma
        SAMPLERS[name](
            lambda x, level, seen=seen, predict=predict: seen.append(x) or predict(x, level),
            x, levels, draw=lambda index: pytest.fail("drew noise"),
        )  # fmt: skip
        errors.append((seen[-1] - other.flow(x, levels[0], levels[-1])).abs().max().item())
    orders = [math.log2(coarse / fine) for coarse, fine in pairwise(errors)]
    assert all(found > 0.8 for found in orders), orders
    assert errors[-1] < 0.03 * k, errors


# Patches

SIDES = st.tuples(st.integers(1, 60), st.integers(1, 60), st.integers(1, 60)).map(sorted)


@given(sides=SIDES)
def test_positions_cover_every_pixel(sides):
    stride, patch, length = sides
    starts = positions(length, patch, stride)
    covered = np.zeros(length, int)
    for start in starts:
        assert 0 <= start <= length - patch
        covered[start : start + patch] += 1
    assert covered.min() > 0 and starts == sorted(set(starts)) and starts[-1] == length - patch
    assert all(start == index * stride for index, start in enumerate(starts[:-1]))


@pytest.mark.parametrize(("length", "patch", "stride"), [(7, 8, 4), (16, 8, 0), (16, 8, 9), (0, 0, 0), (16, 8, -1)])
def test_patches_that_do_not_fit_are_refused(length, patch, stride):
    with pytest.raises(SettingsError, match="1 <= stride <= patch <= side"):
        positions(length, patch, stride)


@pytest.mark.parametrize(("batch", "how"), [(0, "mean"), (4, "mode")])
def test_fusions_that_do_not_exist_are_refused(batch, how):
    with pytest.raises(SettingsError, match="fuse"):
        fused(lambda x: x, drawn(1, 3, 8, 8), [], 4, 2, batch=batch, how=how)


LAYOUTS = st.tuples(st.integers(1, 9), st.integers(1, 9), st.integers(0, 9), st.integers(0, 9)).filter(
    lambda given: given[0] <= given[1]
)
HOW = st.sampled_from(["mean", "median"])


@given(layout=LAYOUTS, batch=st.integers(1, 20), how=HOW, seed=st.integers(0, 99))
@settings(deadline=None, max_examples=60)
def test_a_function_of_each_pixel_is_itself_exactly(layout, batch, how, seed):
    stride, patch, more_rows, more_columns = layout
    x = drawn(2, 3, patch + more_rows, patch + more_columns, seed=seed).float()
    beside = drawn(2, 1, *x.shape[2:], seed=seed + 1).float()
    found = fused(lambda a, b: (a * b)[:, :2] + 1, x, [beside], patch, stride, batch=batch, how=how)
    assert torch.equal(found, (x * beside)[:, :2] + 1)


@given(layout=LAYOUTS, batch=st.integers(1, 20), how=HOW, seed=st.integers(0, 99))
@settings(deadline=None, max_examples=25)
def test_estimates_are_fused_as_numpy_does(layout, batch, how, seed):
    stride, patch, more_rows, more_columns = layout
    x = drawn(2, 2, patch + more_rows, patch + more_columns, seed=seed)
    height, width = x.shape[2:]
    sizes = []

    def call(patches: Tensor) -> Tensor:
        sizes.append(len(patches))
        return patches * patches.sum((1, 2, 3), keepdim=True).cos()

    wanted = np.empty(x.shape)
    for face in range(2):
        said: dict[tuple[int, int], list] = {}
        for top in positions(height, patch, stride):
            for left in positions(width, patch, stride):
                piece = x[face, :, top : top + patch, left : left + patch].numpy()
                piece = piece * np.cos(piece.sum())
                for i in range(patch):
                    for j in range(patch):
                        said.setdefault((top + i, left + j), []).append(piece[:, i, j])
        for (i, j), estimates in said.items():
            wanted[face, :, i, j] = getattr(np, how)(estimates, axis=0)
    found = fused(call, x, [], patch, stride, batch=batch, how=how).numpy()
    np.testing.assert_allclose(found, wanted, rtol=1e-9, atol=1e-9)
    assert max(sizes) <= batch and all(size == batch for size in sizes[:-1])


@pytest.mark.parametrize("how", ["mean", "median"])
def test_a_picture_does_not_depend_on_how_many_patches_run_at_once(how):
    torch.manual_seed(0)
    net = torch.nn.Conv2d(5, 3, 3, padding=1).requires_grad_(False)
    x, beside = drawn(2, 3, 45, 70).float(), drawn(2, 2, 45, 70, seed=1).float()

    def call(*patches: Tensor) -> Tensor:
        return net(torch.cat(patches, 1))

    one, many = (fused(call, x, [beside], 16, 7, batch=batch, how=how) for batch in (1, 64))
    close(one, many, rtol=0, atol=1e-6)
    alone = fused(call, x[1:], [beside[1:]], 16, 7, batch=5, how=how)
    close(alone, one[1:], rtol=0, atol=1e-6)


@pytest.mark.parametrize("how", ["mean", "median"])
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_one_broken_estimate_is_not_fused_away(how, bad):
    x, calls = torch.ones(1, 1, 8, 8), []

    def call(patches: Tensor) -> Tensor:
        calls.append(1)
        return patches * (bad if len(calls) == 5 else 1)  # the patch in the middle of nine

    found = fused(call, x, [], 4, 2, batch=1, how=how)
    assert len(calls) == 9
    if bad != bad or how == "mean":
        assert not found[..., 2:6, 2:6].isfinite().any()
    assert found[..., :2, :].isfinite().all()


def test_no_faces_are_no_faces():
    assert fused(lambda x: x, torch.zeros(0, 3, 8, 8), [], 4, 2, batch=2).shape == (0, 3, 8, 8)


def test_half_precision_estimates_are_fused_in_the_pictures_precision():
    found = fused(lambda x: x.bfloat16(), torch.rand(1, 3, 8, 8), [], 4, 2, batch=2)
    assert found.dtype == torch.float32


# The schedulers of diffusers, whose tables are float32: hence the tolerances

TABLE = 2e-4


@pytest.fixture(scope="module")
def diffusers():
    import diffusers

    return diffusers


def network(x: Tensor, t: float) -> Tensor:
    """Some noise estimate that depends on everything."""
    return (1.3 * x).tanh() * 0.8 + 0.1 * math.cos(t / 200)


def predict_noise(x: Tensor, level: Level) -> Prediction:
    return from_noise(x, network(x, level.t), level)


def theirs(scheduler, x: Tensor, timesteps: list[int], **told) -> list[Tensor]:
    """Every x of their chain, the one it starts from among them."""
    scheduler.set_timesteps(timesteps=timesteps)
    chain = [x]
    for t in scheduler.timesteps:
        x = scheduler.step(network(x, float(t)), t, x, **told).prev_sample
        chain.append(x)
    return chain


def ours(sample, x: Tensor, levels: list[Level]) -> list[Tensor]:
    seen: list[Tensor] = []

    def predict(x: Tensor, level: Level) -> Prediction:
        seen.append(x)
        return predict_noise(x, level)

    end = sample(predict, x, levels)
    return [*seen, end]


def test_tables_are_those_of_diffusers(diffusers):
    for mine, name in ((linear(), "linear"), (cosine(), "squaredcos_cap_v2")):
        table = diffusers.DDPMScheduler(beta_schedule=name, beta_start=1e-4, beta_end=0.02)
        np.testing.assert_allclose(mine.alpha_bar.numpy(), table.alphas_cumprod.double().numpy(), rtol=TABLE)
        betas = 1 - mine.alpha_bar[1:] / mine.alpha_bar[:-1]
        np.testing.assert_allclose(betas.numpy(), table.betas[1:].double().numpy(), rtol=TABLE)


def test_edm_levels_and_scaling_are_those_of_diffusers(diffusers):
    table = diffusers.EDMEulerScheduler(sigma_min=0.002, sigma_max=80.0, sigma_data=0.5, rho=7.0)
    table.set_timesteps(18)
    np.testing.assert_allclose([*(lev.sigma for lev in karras(18, 80.0)), 0], table.sigmas.double().numpy(), rtol=TABLE)
    x, sigma = drawn(1, 3, 4, 4), 1.7
    scaled = table.precondition_inputs(x, torch.tensor(sigma).double())
    out = table.precondition_outputs(x, scaled.sin(), torch.tensor(sigma).double())
    found = edm_denoised(lambda scaled, t: scaled.sin(), x, sigma, 0.5)
    close(found, out)
    assert edm_scaling(sigma, 0.5).noise == pytest.approx(float(table.precondition_noise(torch.tensor(sigma))))


@pytest.mark.parametrize(("steps", "start"), [(10, None), (5, 400)])
def test_ddim_is_that_of_diffusers(diffusers, steps, start):
    # Theirs takes only its own even steps (stride 1000 // steps), so each step is asked for by itself.
    scheduler = diffusers.DDIMScheduler(beta_start=1e-4, beta_end=0.02, clip_sample=False, set_alpha_to_one=True)
    scheduler.set_timesteps(10)
    t = list(range(900 if start is None else 400, -1, -100))[:steps]
    x = drawn(1, 3, 4, 4)
    chain = [x]
    for now in t:
        chain.append(scheduler.step(network(chain[-1], float(now)), now, chain[-1], eta=0.0).prev_sample)
    found = ours(ddim, x, [DDPM.level(now) for now in t])
    for mine, other in zip(found, chain, strict=True):
        close(mine, other, rtol=TABLE, atol=TABLE)


@pytest.mark.parametrize(("steps", "start"), [(25, None), (10, 400)])
def test_respaced_ancestral_steps_are_those_of_diffusers(diffusers, steps, start, monkeypatch):
    from diffusers.schedulers import scheduling_ddpm

    noises, turn = [drawn(1, 3, 4, 4, seed=seed) for seed in range(steps)], iter(range(steps))
    monkeypatch.setattr(scheduling_ddpm, "randn_tensor", lambda *shape, **told: noises[next(turn)])
    scheduler = diffusers.DDPMScheduler(beta_start=1e-4, beta_end=0.02, clip_sample=False, variance_type="fixed_small")
    levels, x = DDPM.levels(steps, start), drawn(1, 3, 4, 4, seed=99)
    chain = theirs(scheduler, x, [int(level.t) for level in levels])
    found = ours(lambda predict, x, levels: ddpm(predict, x, levels, lambda index: noises[index]), x, levels)
    for mine, other in zip(found, chain, strict=True):
        close(mine, other, rtol=TABLE, atol=TABLE)


@pytest.mark.filterwarnings("ignore:__array__")  # of theirs
@pytest.mark.parametrize(("steps", "start"), [(8, None), (20, None), (10, 400)])
def test_dpm_solver_is_that_of_diffusers(diffusers, steps, start):
    scheduler = diffusers.DPMSolverMultistepScheduler(beta_start=1e-4, beta_end=0.02, final_sigmas_type="zero")
    levels, x = DDPM.levels(steps, start), drawn(1, 3, 4, 4)
    chain = theirs(scheduler, x, [int(level.t) for level in levels])
    for mine, other in zip(ours(dpm_solver_pp, x, levels), chain, strict=True):
        close(mine, other, rtol=TABLE, atol=TABLE)


@pytest.mark.filterwarnings("ignore:__array__")  # of theirs
def test_heun_is_that_of_diffusers(diffusers):
    scheduler = diffusers.HeunDiscreteScheduler(beta_start=1e-4, beta_end=0.02, use_karras_sigmas=True)
    scheduler.set_timesteps(8)
    sigmas = scheduler.sigmas.double().unique().flip(0).tolist()[:-1]
    wanted = [level.sigma for level in karras(8, sigmas[0], sigmas[-1])]
    np.testing.assert_allclose(sigmas, wanted, rtol=TABLE)
    start = drawn(1, 3, 4, 4) * sigmas[0]
    x = start
    for t, sigma in zip(scheduler.timesteps, scheduler.sigmas.tolist()[:-1], strict=True):
        x = scheduler.step((1.3 * x).tanh() * 0.8 + 0.1 * sigma, t, x).prev_sample
    found = heun(
        lambda x, level: from_noise(x, (1.3 * x).tanh() * 0.8 + 0.1 * level.sigma, level),
        start,
        [Level(sigma, 1.0, sigma) for sigma in sigmas],
    )
    close(found, x, rtol=TABLE, atol=TABLE * sigmas[0])
