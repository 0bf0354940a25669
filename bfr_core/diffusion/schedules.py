"""Noise schedules: the levels that a chain goes through."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ..errors import SettingsError
from .levels import Level, Levels


@dataclass(frozen=True, eq=False)
class Schedule:
    """A discrete schedule: level t of T, the least noisy first.

    Args:
        alpha_bar: (T,) float64 on the CPU, falling, in (0, 1); alpha of a level is its root (DDPM Eq. 4).
    """

    alpha_bar: Tensor

    def level(self, t: int) -> Level:
        """Return level t in 0..T-1, which the paper counts from 1."""
        kept = float(self.alpha_bar[t])
        return Level(float(t), math.sqrt(kept), math.sqrt(1 - kept))

    def at(self, t: Tensor) -> Levels:
        """Return one level per row, for training. Shape: t (B,) integers in 0..T-1, on any device."""
        kept = self.alpha_bar[t.cpu()].view(-1, 1, 1, 1)
        alpha, sigma = (value.to(t.device, torch.float32) for value in (kept.sqrt(), (1 - kept).sqrt()))
        return Levels(t.to(torch.float32), alpha, sigma)

    def levels(self, steps: int, start: int | None = None) -> list[Level]:
        """Return `steps` evenly respaced levels of 0..start-1, the noisiest first.

        They are spread as guided-diffusion's space_timesteps does: rounded, with the first and the last among them
        (Improved DDPM, Sec. 4). A single step is the noisiest level.

        Args:
            steps: how many.
            start: how many levels of the schedule to spread them over, counted from the clean end; None for all.

        Raises:
            SettingsError: more steps than levels, or a start that the schedule does not have.
        """
        T = len(self.alpha_bar)  # noqa: N806
        start = T if start is None else start
        if not 1 <= start <= T or not 1 <= steps <= start:
            raise SettingsError(
                "Cannot spread these steps over the noise schedule",
                found=f"found steps {steps} and start {start}; expected 1 <= steps <= start <= {T}",
                kept="Nothing was changed",
                todo="Take fewer steps, or start from a noisier level",
            )
        if steps == 1:
            return [self.level(start - 1)]
        stride = (start - 1) / (steps - 1)
        return [self.level(round(index * stride)) for index in reversed(range(steps))]

    def nearest(self, ratio: float) -> int:
        """Return the t whose sigma / alpha is nearest to `ratio`, which is above 0, on a logarithmic scale."""
        own = 0.5 * ((1 - self.alpha_bar) / self.alpha_bar).log()
        return int((own - math.log(ratio)).abs().argmin())


def from_betas(betas: Tensor) -> Schedule:
    """Return the schedule of these noise variances, (T,) float64 (DDPM Eq. 2 and 4)."""
    return Schedule((1 - betas).cumprod(0))


def linear(T: int = 1000, first: float = 1e-4, last: float = 0.02) -> Schedule:  # noqa: N803
    """Return DDPM's schedule: beta rises linearly (DDPM, Sec. 4)."""
    return from_betas(torch.linspace(first, last, T, dtype=torch.float64))


def cosine(T: int = 1000, offset: float = 0.008) -> Schedule:  # noqa: N803
    """Return Improved DDPM's schedule: alpha_bar falls as a squared cosine, beta is at most 0.999 (Eq. 17)."""
    t = torch.arange(T + 1, dtype=torch.float64) / T
    wanted = ((t + offset) / (1 + offset) * math.pi / 2).cos() ** 2
    return from_betas((1 - wanted[1:] / wanted[:-1]).clamp(max=0.999))


def karras(steps: int, largest: float, smallest: float = 0.002, rho: float = 7.0) -> list[Level]:
    """Return EDM's levels, the noisiest first: alpha 1 and t = sigma (EDM Eq. 5).

    Args:
        steps: how many, at least 1; a single one is the largest.
        largest: sigma of the first.
        smallest: sigma of the last, at most the largest and above 0.
        rho: above 1 they crowd at the small end.

    Raises:
        SettingsError: no steps, or sigmas that do not fall.
    """
    if steps < 1 or not 0 < smallest < largest < math.inf:
        raise SettingsError(
            "Cannot make these noise levels",
            found=f"found {steps} steps from sigma {largest:g} to {smallest:g}; expected 1 or more, falling, above 0",
            kept="Nothing was changed",
            todo="Give at least one step, and a first sigma above the last",
        )
    top, bottom = largest ** (1 / rho), smallest ** (1 / rho)
    sigmas = [(top + index / max(steps - 1, 1) * (bottom - top)) ** rho for index in range(steps)]
    return [Level(sigma, 1.0, sigma) for sigma in sigmas]
