"""Restoring a face, in the order of the paper's Sec. 3: conditioner, noised start, guided reverse diffusion.

Table 6 by settings (the defaults are Net4):

| net  | settings                                |
|------|-----------------------------------------|
| Net1 | `start_from` noise, `guidance` off      |
| Net2 | `guidance` off                          |
| Net3 | `masking` none                          |
| Net4 | `masking` learned                       |

As printed: `sampler` ddpm, `gradient` network, `steps` 400 (Net1: 1000).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

from torch import Tensor

from ...dial import Dial
from ...diffusion.guidance import IdentityGuide, choose_mask, every_kth, guide_or_embedded, steering, targets
from ...diffusion.levels import Level, following, q_sample
from ...diffusion.predictions import Predict, Prediction, from_clean
from ...diffusion.samplers import SAMPLERS
from ...errors import InputMediaError, SettingsError
from ...networks.conditional_diffusion import clipped
from ...registry import Context
from ...seeding import Draws
from .mask import changed
from .model import DiffuseRestore
from .settings import DiffuseRestoreSettings

START_LEVEL = Dial("T', the noise that the recovered face starts from", 1.75, 1, 0.25)
GUIDANCE_SCALE = Dial("scale of the identity guidance", 0.5, 1, 2)


def restore(
    net: DiffuseRestore,
    faces: Tensor,
    settings: DiffuseRestoreSettings,
    seeds: Collection[int],
    inputs: Mapping[str, Tensor],
    context: Context,
) -> Tensor:
    """Return y_0, (B, 3, S, S) in about [0, 1], for faces in [0, 1].

    Dial: to 0 the recovered face is noised further, so that more of it is painted anew, and guided half as much; to 1
    it is noised to a quarter of T', and guided twice as much. From pure noise only the guidance follows the dial.

    Raises:
        InputMediaError: sides that the networks cannot halve.
        SettingsError: a condition that this network was not trained with.
    """
    draws = Draws(tuple(seeds), faces.device)
    x = faces * 2 - 1
    check_sides(net, x)
    # Sec. 3.1: g_phi(x) recovers the identity.
    x_irn = net.recovered(x).to(x)
    # Sec. 3.2: it is noised to T' in one step (Eq. 3), where the reverse process begins.
    noise = draws.normal("y_T", *x.shape[1:])
    if settings.start_from == "irn":
        start = round(settings.start * START_LEVEL.at(settings.fidelity))
        levels = net.levels(settings.steps, start, settings.sampler)
        y = q_sample(x_irn, levels[0], noise)
    else:  # Net1 of Table 6
        levels = net.levels(settings.steps, net.timesteps, settings.sampler)
        y = noise
    # Sec. 3.2: each step sees the condition and is guided to the identity of g_phi(x), 3.2.1: where the mask M lets it.
    condition = conditioned(net, x, x_irn, settings.condition)
    guidance = None
    if settings.guidance:
        makers = mask_makers(net, x, x_irn, settings.delta)
        mask = choose_mask(settings.masking, y, given=inputs.get("mask"), makers=makers)
        guidance = identity_guidance(x_irn, mask, levels, settings, context)
    predict = predictor(net, condition, following(levels), guidance)
    # Eq. 2: the reverse process.
    y = SAMPLERS[settings.sampler](
        predict, y, levels, draw=lambda index: draws.normal(f"y_{index}", *x.shape[1:]), report=context.report
    )
    return (y + 1) / 2


def check_sides(net: DiffuseRestore, x: Tensor) -> None:
    """Check that the networks can halve the sides of pictures as often as they do.

    Raises:
        InputMediaError: they cannot.
    """
    if any(side % net.multiple for side in x.shape[2:]):
        raise InputMediaError(
            "Diffuse-and-Restore cannot take these faces",
            found=f"found {x.shape[2]} x {x.shape[3]} pixels, expected sides that are multiples of {net.multiple}",
            kept="No picture was changed",
            todo="Align the faces for this restorer (Align Faces does), or choose a config of that size",
        )


def conditioned(net: DiffuseRestore, x: Tensor, x_irn: Tensor, choice: str) -> Tensor:
    """Return what stands beside y_t: what the network was trained with, or x or g_phi(x) as chosen.

    Raises:
        SettingsError: the network was trained with both.
    """
    if choice == "config":
        return net.condition(x, x_irn)
    if net.conditioned == "both":
        raise SettingsError(
            f"Cannot condition on {choice} alone",
            found="this network was trained with the degraded and the recovered face side by side",
            kept="No picture was changed",
            todo="Leave the setting condition at config, or choose another config",
        )
    return x_irn if choice == "irn" else x


def predictor(
    net: DiffuseRestore, condition: Tensor, before: Mapping[Level, Level], guidance: Guidance | None
) -> Predict:
    """Return f_theta for a sampler: estimates of a level, with the gradient of the guidance where it acts."""

    def plain(y: Tensor, level: Level) -> Prediction:
        said = net.predict(y, condition, level, before[level])
        # Guided diffusion, whose network this is, samples so (clip_denoised): colours outside the range would carry on.
        return replace(from_clean(y, clipped(said.clean), level), log_variance=said.log_variance)

    if guidance is None:
        return plain

    # Eq. 9 prints + grad, though Eq. 7 is to fall, and no scale: the samplers subtract Sigma * scale * grad, as guided
    # diffusion's condition_mean does. The gradient's size depends on the recogniser and on the noise; brought to unit
    # RMS, one scale serves them all.
    steer = partial(steering, guidance.guide, target=guidance.target, scale=guidance.scale, mask=guidance.mask)

    def through_network(y: Tensor, level: Level) -> Prediction:
        """Guide by the gradient of Eq. 7 by y_t, as y_hat_{0,t} of Eq. 6 and the noise in it depend on y_t."""
        seen: list[Prediction] = []

        def estimate(free: Tensor) -> Tensor:
            seen.append(plain(free, level))
            return (seen[-1].clean + 1) / 2

        gradient = steer(y, picture=estimate)
        said = seen[-1]
        log_variance = None if said.log_variance is None else said.log_variance.detach()
        return Prediction(said.clean.detach(), said.noise.detach(), log_variance, gradient)

    def held(y: Tensor, level: Level) -> Prediction:
        """Guide with the estimated noise held: d y_hat / d y_t of Eq. 6 is 1 / sqrt(alpha_bar).

        The way back through the U-Net would be two thirds of a step; the recogniser costs little.
        """
        said = plain(y, level)
        gradient = steer(y, picture=lambda free: ((free - level.sigma * said.noise) / level.alpha + 1) / 2)
        return replace(said, gradient=gradient)

    return every_kth(through_network if guidance.through_network else held, plain, guidance.levels, guidance.every)


@dataclass(frozen=True, slots=True)
class Guidance:
    """How the reverse process is steered to an identity (Eq. 7 to 9)."""

    guide: IdentityGuide
    target: Tensor
    """(B, D), the identity of g_phi(x) or of a reference photo."""
    mask: Tensor
    """M, (B, 1, H, W)."""
    scale: float
    through_network: bool
    """Whether the gradient by y_t goes through the U-Net, as printed, or the noise it estimates is held."""
    levels: Sequence[Level]
    """Where it acts."""
    every: int
    """The gradient is made anew at every so many of them."""


def identity_guidance(
    x_irn: Tensor, mask: Tensor, levels: Sequence[Level], settings: DiffuseRestoreSettings, context: Context
) -> Guidance:
    """Return how these faces are steered: to the identity of g_phi(x), or to whom the run was told.

    Raises:
        SettingsError: the reference is of another recogniser.
    """
    guide = guide_or_embedded(context.guide, x_irn.device)
    return Guidance(
        guide,
        targets(guide, (x_irn + 1) / 2),
        mask,
        scale=settings.scale * GUIDANCE_SCALE.at(settings.fidelity),
        through_network=settings.gradient == "network",
        levels=levels,
        every=settings.every,
    )


def mask_makers(net: DiffuseRestore, x: Tensor, x_irn: Tensor, delta: float) -> dict[str, Callable[[], Tensor]]:
    """Return what makes the masks that can be chosen, (B, 1, H, W): M as learnt, and M' of Eq. 8 by itself."""
    return {
        "learned": lambda: net.mask(changed(x, x_irn, delta), x),
        "difference": lambda: changed(x, x_irn, delta),
    }
