"""Samplers: from a noisy tensor along falling noise levels to a clean one.

Each takes the levels without the clean one, which it ends at. Numbers of the levels are Python's doubles, tensors
keep the dtype of x. A gradient that a prediction brings is applied as the sampler's equations have it: the mean of an
ancestral step moves by -Sigma gradient (guided-diffusion's condition_mean, Diffuse-and-Restore Eq. 9), the clean
estimate of a deterministic one by -sigma^2 / alpha gradient (its condition_score: the score loses the gradient).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Protocol

from torch import Tensor

from ..errors import NumbersError, SettingsError
from .levels import CLEAN, Level, posterior
from .predictions import Predict, Prediction

Draw = Callable[[int], Tensor]
"""index of the step -> noise of unit variance, of the shape, dtype and device of x."""

Report = Callable[[int, int], None]
"""(index of an evaluation from 0, how many in all) -> None; called before each, may raise to cancel."""


def ddpm(predict: Predict, x: Tensor, levels: Sequence[Level], draw: Draw, report: Report | None = None) -> Tensor:
    """Return ancestral samples over any choice of levels (DDPM Algorithm 2, Improved DDPM Sec. 4).

    The variance of a step is what the prediction brings, else the posterior's. The last step draws nothing.

    Args:
        predict: the network.
        x: (B, C, H, W), noisy at the first level.
        levels: falling, without the clean one.
        draw: noise of each step.
        report: hears of each evaluation.

    Raises:
        NumbersError: an estimate is not finite.
    """
    evaluate = _Evaluations(predict, len(levels), report)
    for index, (level, before) in enumerate(pairwise([*levels, CLEAN])):
        said = evaluate(x, level)
        of_clean, of_noisy, variance = posterior(level, before)
        spread = variance if said.log_variance is None else said.log_variance.exp()
        mean = of_clean * said.clean + of_noisy * x  # DDPM Eq. 7
        if said.gradient is not None:
            mean = mean - spread * said.gradient  # Diffuse-and-Restore Eq. 9
        x = mean if before == CLEAN else mean + spread**0.5 * draw(index)
    return x


def ddim(
    predict: Predict,
    x: Tensor,
    levels: Sequence[Level],
    eta: float = 0.0,
    draw: Draw | None = None,
    report: Report | None = None,
) -> Tensor:
    """Return samples of DDIM (DDIM Eq. 12, LPIP-Diff Eq. 8).

    Args:
        predict: the network.
        x: (B, C, H, W), noisy at the first level.
        levels: falling, without the clean one.
        eta: share of the ancestral noise (DDIM Eq. 16): 0 draws none, 1 is ancestral.
        draw: noise of each step; needed where eta is above 0.
        report: hears of each evaluation.

    Raises:
        SettingsError: eta outside [0, 1], or above 0 with nothing to draw from.
        NumbersError: an estimate is not finite.
    """
    if not 0 <= eta <= 1 or (eta and draw is None):
        raise SettingsError(
            "DDIM cannot draw this noise",
            found=f"found eta {eta:g} and {'nothing' if draw is None else 'noise'} to draw from; "
            "expected eta 0, or up to 1 with noise for each step",
            kept="Nothing was changed",
            todo="Set eta to 0, or give noise and at most 1",
        )
    evaluate = _Evaluations(predict, len(levels), report)
    for index, (level, before) in enumerate(pairwise([*levels, CLEAN])):
        said = _guided(evaluate(x, level), level)
        spread = eta * math.sqrt(posterior(level, before)[2])  # DDIM Eq. 16
        x = before.alpha * said.clean + math.sqrt(before.sigma**2 - spread**2) * said.noise
        if draw is not None and spread:
            x = x + spread * draw(index)
    return x


def euler(predict: Predict, x: Tensor, levels: Sequence[Level], report: Report | None = None) -> Tensor:
    """Return Euler's solution of the probability flow in x / alpha over sigma / alpha, which is DDIM with eta 0.

    DDIM Eq. 13 and 14, EDM Eq. 1 with the derivative (x - D) / sigma = eps.
    """
    return ddim(predict, x, levels, report=report)


def heun(predict: Predict, x: Tensor, levels: Sequence[Level], report: Report | None = None) -> Tensor:
    """Return Heun's solution of the probability flow (EDM Algorithm 1): second order, 2 n - 1 evaluations.

    It is solved in x / alpha over sigma / alpha, where EDM's levels stay as they are and others become theirs.

    Args:
        predict: the network.
        x: (B, C, H, W), noisy at the first level.
        levels: falling, without the clean one.
        report: hears of each evaluation.

    Raises:
        NumbersError: an estimate is not finite.
    """
    evaluate = _Evaluations(predict, max(2 * len(levels) - 1, 0), report)
    for level, before in pairwise([*levels, CLEAN]):
        said = _guided(evaluate(x, level), level)
        x = before.alpha * said.clean + before.sigma * said.noise  # Algorithm 1, line 5: Euler's step
        if before != CLEAN:
            again = _guided(evaluate(x, before), before)
            half = 0.5 * before.alpha * (before.ratio - level.ratio)
            x = x + half * (again.noise - said.noise)  # line 8: the mean of both slopes
    return x


def dpm_solver_pp(predict: Predict, x: Tensor, levels: Sequence[Level], report: Report | None = None) -> Tensor:
    """Return DPM-Solver++(2M)'s solution: second order with one evaluation a step (DPM-Solver++ Algorithm 2).

    The first step has nothing to look back on and the last one goes to lambda = infinity: both are of first order.

    Args:
        predict: the network.
        x: (B, C, H, W), noisy at the first level.
        levels: falling, without the clean one.
        report: hears of each evaluation.

    Raises:
        NumbersError: an estimate is not finite.
    """
    evaluate = _Evaluations(predict, len(levels), report)
    earlier, width = None, 0.0
    for level, before in pairwise([*levels, CLEAN]):
        clean = _guided(evaluate(x, level), level).clean
        if before == CLEAN:
            return clean
        h = math.log(level.ratio / before.ratio)  # lambda = -log(sigma / alpha)
        ahead = clean if earlier is None else clean + h / (2 * width) * (clean - earlier)
        # -alpha (e^-h - 1) of the paper is alpha (1 - before.ratio / level.ratio)
        x = before.sigma / level.sigma * x + before.alpha * (1 - before.ratio / level.ratio) * ahead
        earlier, width = clean, h
    return x


class Sampler(Protocol):
    """What all SAMPLERS have in common; those that draw nothing leave `draw` alone."""

    def __call__(
        self, predict: Predict, x: Tensor, levels: Sequence[Level], *, draw: Draw, report: Report | None = None
    ) -> Tensor:
        """Return clean samples."""
        ...


def _still(solve: Callable[..., Tensor]) -> Sampler:
    def sample(
        predict: Predict,
        x: Tensor,
        levels: Sequence[Level],
        *,
        draw: Draw | None = None,
        report: Report | None = None,
    ) -> Tensor:
        return solve(predict, x, levels, report=report)

    return sample


SOLVERS: Mapping[str, Callable[..., Tensor]] = {"heun": heun, "dpm++": dpm_solver_pp, "ddim": ddim}
"""Of the probability flow, which draw nothing: called as `(predict, x, levels, report=report)`."""

SAMPLERS: Mapping[str, Sampler] = {"ddpm": ddpm, **{name: _still(solve) for name, solve in SOLVERS.items()}}
"""Samplers by the names of settings, all called as `(predict, x, levels, draw=draw, report=report)`."""


class _Evaluations:
    """Calls the network, counts and checks."""

    def __init__(self, predict: Predict, total: int, report: Report | None) -> None:
        self.predict, self.total, self.report = predict, total, report
        self.done = 0

    def __call__(self, x: Tensor, level: Level) -> Prediction:
        """Return what the network says of x, in the dtype of x."""
        if self.report is not None:
            self.report(self.done, self.total)
        self.done += 1
        said = self.predict(x, level)
        given = {name: getattr(said, name) for name in ("clean", "noise", "log_variance", "gradient")}
        for name, tensor in given.items():
            if tensor is not None and not bool(tensor.isfinite().all()):
                raise NumbersError(
                    f"Sampling broke off at evaluation {self.done} of {self.total}",
                    found=f"NaN or infinity in the {name.replace('_', ' ')} estimate, where sigma / alpha is "
                    f"{level.ratio:.4g}; expected numbers",
                    kept="No picture was changed",
                    todo="Check the weights with `bfr models verify`; report the picture if they are intact",
                )
        return Prediction(**{name: None if tensor is None else tensor.to(x.dtype) for name, tensor in given.items()})


def _guided(said: Prediction, level: Level) -> Prediction:
    """Shift the clean estimate by -sigma^2 / alpha gradient, and the noise so that they still make up x."""
    if said.gradient is None:
        return said
    clean = said.clean - level.sigma * level.ratio * said.gradient
    return replace(said, clean=clean, noise=said.noise + level.sigma * said.gradient)
