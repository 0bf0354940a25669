"""Noise levels: how much of a noisy tensor is picture and how much is noise.

Everywhere in this package x = alpha * x0 + sigma * eps, with eps of unit variance. The discrete diffusion of DDPM
has alpha^2 + sigma^2 = 1, EDM has alpha = 1; samplers need neither.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True, slots=True)
class Level:
    """One noise level, in Python's double precision.

    Args:
        t: what the network is told.
        alpha: factor of the picture, above 0.
        sigma: factor of the noise; 0 without noise.
    """

    t: float
    alpha: float
    sigma: float

    @property
    def ratio(self) -> float:
        """Noise relative to picture: EDM's sigma, and exp(-lambda) of DPM-Solver."""
        return self.sigma / self.alpha


@dataclass(frozen=True, slots=True)
class Levels:
    """One noise level for each row of a batch, for training: `Level` with tensors.

    Shapes: t (B,) float32; alpha and sigma (B, 1, 1, 1) float32.
    """

    t: Tensor
    alpha: Tensor
    sigma: Tensor


CLEAN = Level(0.0, 1.0, 0.0)
"""No noise: where every chain ends."""


def following(levels: Sequence[Level]) -> dict[Level, Level]:
    """Return for each level of a chain the next one, less noisy; after the last comes CLEAN."""
    return dict(zip(levels, [*levels, CLEAN][1:], strict=True))


def q_sample(x0: Tensor, level: Level | Levels, noise: Tensor) -> Tensor:
    """Return x0 with noise at a level (DDPM Eq. 4).

    Shapes: x0, noise and the result (B, C, H, W).
    """
    return level.alpha * x0 + level.sigma * noise


def transition(level: Level, before: Level) -> tuple[float, float]:
    """Return (a, variance) of the noising from `before` to the noisier `level`: x = a x_before + N(0, variance).

    In DDPM a = sqrt(alpha_t) and variance = beta_t, or those of the steps between the two taken as one, which is
    what respacing does (Improved DDPM Eq. 19).
    """
    a = level.alpha / before.alpha
    return a, level.sigma**2 - (a * before.sigma) ** 2


def posterior(level: Level, before: Level) -> tuple[float, float, float]:
    """Return (of_clean, of_noisy, variance) of q(x_before | x, x0) = N(of_clean x0 + of_noisy x, variance).

    DDPM Eq. 6 and 7.
    """
    a, beta = transition(level, before)
    share = (before.sigma / level.sigma) ** 2
    return before.alpha * beta / level.sigma**2, a * share, share * beta
