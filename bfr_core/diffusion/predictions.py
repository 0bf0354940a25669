"""What a network says of a noisy tensor, in the one form that samplers take."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from .levels import Level, Levels, posterior, transition


@dataclass(frozen=True, slots=True)
class Prediction:
    """A network's estimates at one noise level.

    Shapes: all (B, C, H, W), log_variance and gradient also any shape that broadcasts to it.

    Args:
        clean: estimate of x0.
        noise: estimate of eps; x = alpha clean + sigma noise.
        log_variance: logarithm of the variance of the step to the next level, where the network learnt it.
        gradient: what a guide subtracts from the score: scale * mask * dL/dx, masked and scaled already. None: no
            guide.
    """

    clean: Tensor
    noise: Tensor
    log_variance: Tensor | None = None
    gradient: Tensor | None = None


Predict = Callable[[Tensor, Level], Prediction]
"""(x, level) -> Prediction."""


def from_noise(x: Tensor, noise: Tensor, level: Level | Levels) -> Prediction:
    """Return the prediction of a network that tells the noise (DDPM Eq. 15, Diffuse-and-Restore Eq. 6)."""
    return Prediction((x - level.sigma * noise) / level.alpha, noise)


def from_clean(x: Tensor, clean: Tensor, level: Level | Levels) -> Prediction:
    """Return the prediction of a network that tells x0. The level has noise."""
    return Prediction(clean, (x - level.alpha * clean) / level.sigma)


class Scaling(NamedTuple):
    """EDM's preconditioning of a network F: D(x) = skip x + out F(input x, noise)."""

    skip: float | Tensor
    out: float | Tensor
    input: float | Tensor
    noise: float | Tensor


def edm_scaling(sigma: float | Tensor, sigma_data: float) -> Scaling:
    """Return c_skip, c_out, c_in and c_noise (EDM Table 1, last column).

    Args:
        sigma: noise level above 0; a number, or a tensor (B, 1, 1, 1) for training.
        sigma_data: standard deviation of the data.
    """
    total = sigma**2 + sigma_data**2
    told = (math.log(sigma) if isinstance(sigma, (int, float)) else sigma.log()) / 4
    return Scaling(sigma_data**2 / total, sigma * sigma_data * total**-0.5, total**-0.5, told)


def edm_denoised(
    net_call: Callable[[Tensor, Tensor], Tensor], x: Tensor, sigma: float | Tensor, sigma_data: float
) -> Tensor:
    """Return the estimate of x0 that a preconditioned network gives (EDM Eq. 7).

    Shapes: x (B, C, H, W), noisy with alpha = 1; sigma a number or (B, 1, 1, 1); returns (B, C, H, W).

    Args:
        net_call: (scaled x, t (B,) in the dtype of x) -> F of the shape of x.
        x: noisy tensor.
        sigma: its noise level.
        sigma_data: standard deviation of the data.
    """
    scaling = edm_scaling(sigma, sigma_data)
    told = torch.as_tensor(scaling.noise, dtype=x.dtype, device=x.device).flatten().expand(len(x))
    return scaling.skip * x + scaling.out * net_call(scaling.input * x, told)


def learned_variance(values: Tensor, level: Level, before: Level) -> Tensor:
    """Return the logarithm of the variance of the step from `level` to `before`, as a network says it.

    It lies between the posterior's variance and beta, in the logarithm (Improved DDPM Eq. 15). Of the step to a
    clean level, where the posterior has no variance, it is beta: nothing is drawn there, but a guide goes by it. The
    released code takes the posterior's variance one step earlier, which comes near beta in a respaced chain.

    Args:
        values: the network's half of channels for it; -1 is the posterior's variance, 1 is beta.
        level: where x is.
        before: the next level, less noisy.
    """
    _, beta = transition(level, before)
    least = posterior(level, before)[2] or beta
    share = (values + 1) / 2
    return share * math.log(beta) + (1 - share) * math.log(least)
