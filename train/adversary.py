"""How discriminators are trained, once for every stage that has one."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from . import losses
from .stage import Step


def crop(pictures: list[Tensor], side: int, generator: torch.Generator) -> list[Tensor]:
    """Cut the same random square out of every batch; 0 leaves them whole."""
    height = pictures[0].shape[-1]
    if not side or side >= height:
        return pictures
    top, left = torch.randint(0, height - side + 1, (2,), generator=generator, device=generator.device).tolist()
    return [picture[..., top : top + side, left : left + side] for picture in pictures]


def judge(
    discriminator: nn.Module, real: Tensor, fake: Tensor, step: Step, *, gamma: float, every: int
) -> dict[str, Tensor]:
    """Return what a discriminator learns from, non-saturating, with R1 at every so many steps where a phase weighs it.

    Args:
        discriminator: D.
        real: true pictures in [-1, 1].
        fake: restored ones.
        step: of the run.
        gamma: of R1.
        every: steps between two evaluations of R1.
    """
    lazily = step.number % every == 0 and bool(step.weight("r1"))
    real = real.detach().requires_grad_(lazily)
    said = discriminator(real)
    terms = {"critic": losses.discriminator_loss(said, discriminator(fake.detach()))}
    if lazily:
        terms["r1"] = losses.r1(real, said, gamma, every)
    return terms
