"""Sampling from local patches (Algorithm 2)."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import torch
from torch import Tensor

from ...dial import Dial
from ...diffusion.levels import Level, q_sample
from ...diffusion.patches import fused
from ...diffusion.predictions import Prediction, from_noise
from ...diffusion.samplers import SAMPLERS, ddim
from ...errors import SettingsError
from ...registry import Context
from ...seeding import Draws
from .model import LPIPDiff
from .settings import LpipDiffSettings

START_LEVEL = Dial("noise that the recovered picture starts from", 1.75, 1, 0.25)
STEP_NOISE = Dial("eta, the noise in each step of DDIM", 1, 0, 0, linear=True)

PATCH_BATCH = 16
"""Patches in one call of the network, to begin with; halved where memory runs out."""


def restore(
    net: LPIPDiff,
    faces: Tensor,
    settings: LpipDiffSettings,
    seeds: Collection[int],
    inputs: Mapping[str, Tensor],
    context: Context,
) -> Tensor:
    """Return x_0, (B, 3, S, S) in about [0, 1], for faces in [0, 1].

    Raises:
        SettingsError: patches that do not fit.
    """
    x = faces * 2 - 1
    side = min(faces.shape[2:])
    patch = patch_size(net, settings.patch or quarter(net, side), side)
    draws = Draws(tuple(seeds), faces.device)
    return (sample(net, x, net.recovered(x).to(x), settings, draws, context, patch=patch) + 1) / 2


def sample(
    net: LPIPDiff,
    x: Tensor,
    x_irn: Tensor,
    settings: LpipDiffSettings,
    draws: Draws,
    context: Context,
    *,
    patch: int,
) -> Tensor:
    """Return x_0 of degraded pictures by Algorithm 2, in about [-1, 1].

    Dial: to 0 the start is noisier and DDIM draws noise in each step (eta 1), so that more is painted; to 1 the start
    has a quarter of the noise level, so that more of the recovered picture stays.

    Shapes: x, x_irn and the result (B, 3, H, W) [-1, 1], the sides at least `patch`.

    Args:
        net: the network.
        x: degraded.
        x_irn: recovered; x itself for a network without an identity recovery network.
        settings: of the method.
        draws: of the pictures.
        context: of the run.
        patch: side m of the patches, a multiple of the network's.
    """
    condition = net.condition(x, x_irn)
    start = round(settings.start * START_LEVEL.at(settings.fidelity))
    levels = net.levels(settings.steps, start, settings.sampler)
    noise = draws.normal("x_T", *x.shape[1:])
    # Line 1 samples x_T from noise. From a lower level the chain begins at the recovered picture, noised in one step
    # as in Diffuse-and-Restore Eq. 3: fewer steps do, and patches agree on the face from the start.
    x_t = noise if start >= net.timesteps else q_sample(x_irn, levels[0], noise)
    stride = max(round(patch * (1 - settings.overlap)), 1)
    batch = context.patch_batch or PATCH_BATCH
    now = (0, len(levels))

    def report(index: int, total: int) -> None:
        nonlocal now
        now = index, total
        context.report(index, total)

    def predict(x_t: Tensor, level: Level) -> Prediction:
        """Return the fused degradation estimate O_t (lines 3 to 9)."""
        nonlocal batch

        def epsilon(patches: Tensor, conditions: Tensor) -> Tensor:
            context.report(*now)  # a step over a large picture is long: the host may want to stop in it
            # The noise is what is fused, whatever the network was trained to give.
            return net.predict(patches, conditions, level).noise

        while True:
            try:
                noise = fused(epsilon, x_t, [condition], patch, stride, batch=batch, how=settings.fusion)
                return from_noise(x_t, noise, level)
            except torch.OutOfMemoryError:
                if batch == 1:
                    raise
            # Outside the except block, so that no traceback keeps the tensors alive.
            batch //= 2
            context.note(f"Memory ran out; {batch} patches are taken at once")
            if x_t.device.type == "cuda":
                torch.cuda.empty_cache()

    def draw(index: int) -> Tensor:
        return draws.normal(f"x_{index}", *x.shape[1:])

    # Line 10 is Eq. 8, DDIM's step without noise (eta 0).
    if settings.sampler == "ddim":
        return ddim(predict, x_t, levels, STEP_NOISE.at(settings.fidelity), draw, report=report)
    return SAMPLERS[settings.sampler](predict, x_t, levels, draw=draw, report=report)


def quarter(net: LPIPDiff, side: int) -> int:
    """Return m = H / 4 for a side (Sec. III-A: 16 of 64, 32 of 128, 64 of 256), to the network's nearest multiple."""
    return max(round(side / 4 / net.multiple), 1) * net.multiple


def patch_size(net: LPIPDiff, asked: int, side: int) -> int:
    """Return the side of patches as it was asked for, once seen to fit.

    Raises:
        SettingsError: patches that are larger than the picture, or that the network cannot take.
    """
    if asked % net.multiple or not 0 < asked <= side:
        fitting = max(min(round(asked / net.multiple), side // net.multiple), 1) * net.multiple
        raise SettingsError(
            f"Cannot cut patches of {asked} px",
            found=f"this network takes multiples of {net.multiple}, and the picture's shorter side is {side}",
            kept="No picture was changed",
            todo=f"Give patch {fitting}, or 0 for a quarter of the side"
            if fitting <= side
            else f"Give a picture of at least {fitting} px",
        )
    return asked
