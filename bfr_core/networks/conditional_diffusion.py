"""A diffusion model of clean pictures that sees what it restores: y_t and the condition enter one U-Net side by side.

Sources: SR3 (arXiv:2104.07636, Sec. 2), which Diffuse-and-Restore (Sec. 2.1, Eq. 5) and LPIP-Diff (Eq. 5 to 7) follow.
Both are this network; they differ in how they sample it.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import Any, Literal

import torch
from torch import Tensor, nn

from ..diffusion.levels import Level, Levels
from ..diffusion.predictions import Prediction, edm_scaling, from_clean, from_noise, learned_variance
from ..diffusion.schedules import Schedule, karras, linear
from .unet import UNet

Condition = Literal["degraded", "irn", "both"]
Predicts = Literal["noise", "residual"]

RESIDUAL = 0.05
"""Standard deviation, of colours in [-1, 1], that is assumed of what a face has and its recovered picture lacks."""

COMPACT = {
    "irn": "compact",
    "condition": "both",
    "predicts": "residual",
    "unet": {
        "channels": 48, "mult": (1, 2, 3, 3), "blocks": 1, "attention": (8,), "head": 48, "residual_resample": False,
        "fold": 4, "groups": 8,
    },
}  # fmt: skip
"""Options of the compact config of both methods, so that the training of one can begin from the other: a quarter of the
widths at a quarter of the side. It sees x and g_phi(x): a network this small, trained for hours, cannot learn to
recover the face and to paint it."""


def clipped(picture: Tensor) -> Tensor:
    """Bring colours into [-1, 1], and make NaN of what overflowed: clipped it would look like a colour."""
    return picture.clamp(-1, 1).where(picture.isfinite(), torch.nan)


class ConditionalDiffusion(nn.Module):
    """f_theta(y_t, condition, t), and the identity recovery network that some conditions come from.

    Pictures are (B, 3, H, W) RGB [-1, 1], H and W multiples of `multiple`.

    Args:
        unet: options of UNet; its channels in and out follow from the rest.
        irn: the identity recovery network g_phi, which takes and gives [0, 1]; None where nothing needs it.
        condition: what stands beside y_t: the degraded picture x, g_phi(x), or both.
        predicts: what the U-Net is trained to give: the noise, or the difference y_0 - g_phi(x) in EDM's
            preconditioning (see `scaled`). A small network cannot hand through all of the noise, which the first asks
            of it; the second needs it to tell what is missing alone.
        learned_variance: whether it gives three channels more, the variance of the reverse step (arXiv:2102.09672).
        timesteps: T of the forward process, whose betas rise linearly from 1e-4 to 0.02.
    """

    def __init__(
        self,
        *,
        unet: Mapping[str, Any],
        irn: nn.Module | None,
        condition: Condition = "degraded",
        predicts: Predicts = "noise",
        learned_variance: bool = False,
        timesteps: int = 1000,
    ) -> None:
        super().__init__()
        self.conditioned, self.predicts = condition, predicts
        self.learned_variance, self.timesteps = learned_variance, timesteps
        seen = 3 + (6 if condition == "both" else 3)
        self.unet = UNet(seen, 6 if learned_variance else 3, **unet)
        self.irn = irn

    @cached_property
    def schedule(self) -> Schedule:
        """The forward process q(y_t | y_0)."""
        # Made when it is asked for: the network itself is built without numbers, on the meta device.
        return linear(self.timesteps)

    @property
    def multiple(self) -> int:
        """What the sides of a picture must be multiples of."""
        return self.unet.multiple

    def levels(self, steps: int, start: int, sampler: str) -> list[Level]:
        """Return the levels of a chain of `steps` from the noise of `start`, 1 to T; no more than there are.

        They are evenly respaced, but for DPM-Solver++, which extrapolates from one step to the next: the last of evenly
        spaced ones is so much larger in log(sigma / alpha) than those before that what it extrapolates, a guide's
        push above all, comes out with the wrong sign. It takes those nearest to EDM's levels (Eq. 5).
        """
        start = min(max(start, 1), self.timesteps)
        if sampler != "dpm++" or 1 in (start, steps):
            return self.schedule.levels(min(steps, start), start)
        largest, smallest = (self.schedule.level(t).ratio for t in (start - 1, 0))
        wanted = {self.schedule.nearest(level.ratio) for level in karras(steps, largest, smallest)}
        return [self.schedule.level(t) for t in sorted(wanted, reverse=True)]

    def recovered(self, x: Tensor) -> Tensor:
        """Return g_phi(x), (B, 3, H, W) in [-1, 1], of degraded pictures in [-1, 1]; x itself without a network."""
        if self.irn is None:
            return x
        return clipped(self.irn((x + 1) / 2) * 2 - 1)

    def condition(self, x: Tensor, x_irn: Tensor) -> Tensor:
        """Return what stands beside y_t, (B, 3 or 6, H, W) in [-1, 1], of x and g_phi(x), both in [-1, 1]."""
        if self.conditioned == "both":
            return torch.cat([x, x_irn], dim=1)
        return x_irn if self.conditioned == "irn" else x

    def estimated(self, y_t: Tensor, values: Tensor, condition: Tensor, level: Level | Levels) -> Prediction:
        """Return the estimates of y_0 and of the noise that three channels of the U-Net stand for."""
        if self.predicts == "noise":
            return from_noise(y_t, values, level)
        skip, out = self.scaled(level)
        recovered = condition[:, -3:]
        return from_clean(y_t, recovered + skip * (y_t / level.alpha - recovered) + out * values, level)

    def target(self, y_0: Tensor, noise: Tensor, y_t: Tensor, condition: Tensor, level: Level | Levels) -> Tensor:
        """Return what the U-Net is trained to give for y_t = alpha y_0 + sigma noise: the inverse of `estimated`."""
        if self.predicts == "noise":
            return noise
        skip, out = self.scaled(level)
        recovered = condition[:, -3:]
        return (y_0 - recovered - skip * (y_t / level.alpha - recovered)) / out

    @staticmethod
    def scaled(level: Level | Levels) -> tuple[Any, Any]:
        """Return c_skip and c_out of EDM (arXiv:2206.00364, Table 1) for a residual of standard deviation RESIDUAL."""
        scaling = edm_scaling(level.sigma / level.alpha, RESIDUAL)
        return scaling.skip, scaling.out

    def predict(self, y_t: Tensor, condition: Tensor, level: Level, before: Level | None = None) -> Prediction:
        """Return the estimates of y_0 and of the noise at a level, and the variance where it is learnt.

        Args:
            y_t: (B, 3, H, W), noisy.
            condition: as `condition` makes it.
            level: of y_t.
            before: the level that the chain goes to next; a learnt variance is that of this step.
        """
        t = torch.full((len(y_t),), level.t, device=y_t.device)
        given = self.unet(torch.cat([y_t, condition], dim=1), t).to(y_t)
        values = given[:, :3]
        predicted = self.estimated(y_t, values, condition, level)
        if not self.learned_variance or before is None:
            return predicted
        return Prediction(predicted.clean, predicted.noise, learned_variance(given[:, 3:], level, before))
