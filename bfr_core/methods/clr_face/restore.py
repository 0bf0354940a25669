"""Restoring a face, in the order of the paper's Section 3: latents, identity recovery, guided refinement, decoder.

The probability flow is solved in EDM's form, alpha = 1 and t = sigma, where Eq. 10 says dz_t = -t s dt with the score
s = (D - z_t) / t^2: dz_t / dt = (z_t - D) / t. Eq. 4 and 5 swap their factors of one half; EDM's are taken.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ...dial import Dial
from ...diffusion.guidance import IdentityGuide, choose_mask, every_kth, guide_or_embedded, steering, targets
from ...diffusion.levels import Level
from ...diffusion.predictions import Predict, Prediction, from_clean
from ...diffusion.samplers import SOLVERS
from ...diffusion.schedules import karras
from ...errors import InputMediaError, SettingsError
from ...registry import Context
from ...seeding import Draws
from .model import CLRFace
from .settings import SIGMA_MAX, ClrFaceSettings

START_NOISE = Dial("noise that the recovered latent starts from", 4, 1, 0.25)
GUIDANCE_SCALE = Dial("scale of the identity guidance", 0.25, 1, 4)


def restore(
    net: CLRFace,
    faces: Tensor,
    settings: ClrFaceSettings,
    seeds: Collection[int],
    inputs: Mapping[str, Tensor],
    context: Context,
) -> Tensor:
    """Return x_hat = G(Q(z0_hat)), (B, 3, S, S) in about [0, 1], for faces in [0, 1].

    Dial: to 0, z^id is noised four times as much, so that more is painted anew, and guided a quarter as much; to 1 it
    is noised a quarter as much and guided four times as much. From pure noise only the guidance follows the dial.

    Raises:
        InputMediaError: sides that the networks cannot halve.
        SettingsError: settings that contradict each other.
    """
    draws = Draws(tuple(seeds), faces.device)
    # Sec. 3.1 and 3.3: z^d = E(x^d), x^id = f_phi(x^d) and z^id = E(x^id).
    known = recover(net, faces)
    # Sec. 3.3: the output of the IRN, noised, is where the refinement starts.
    levels = noise_levels(settings)
    z = begin(known, levels, settings.start, draws)
    if levels:
        # Sec. 3.3: the score is steered to the identity of x^id, where the latent mask M_l lets it.
        guidance = None
        if settings.guidance:
            mask = masker(net, known, settings, inputs.get("mask"))
            guidance = identity_guidance(known, mask, levels, settings, context)
        # Sec. 3.2: the flow of Eq. 10, back to sigma 0.
        z = SOLVERS[settings.sampler](predictor(net, known, guidance), z, levels, report=context.report)
    # Sec. 3.1: the quantiser in front of the decoder takes up what is left of the error.
    return (net.decode(z) + 1) / 2


@dataclass(frozen=True, slots=True)
class Known:
    """What is known of the faces before the refinement begins. Latents are (B, dim, H/4, W/4), normalised."""

    zd: Tensor
    """z^d = E(x^d)."""
    xid: Tensor
    """x^id = f_phi(x^d), (B, 3, H, W) in [-1, 1]."""
    zid: Tensor
    """z^id = E(x^id)."""
    condition: Tensor
    """What the denoiser sees beside z_t."""


def recover(net: CLRFace, faces: Tensor) -> Known:
    """Return z^d, x^id and z^id of faces (B, 3, S, S) in [0, 1]; each network runs once.

    Raises:
        InputMediaError: sides that the networks cannot halve.
    """
    height, width = faces.shape[-2:]
    if height % net.multiple or width % net.multiple:
        raise InputMediaError(
            "CLR-Face cannot encode these faces",
            found=f"found {height} x {width} pixels, expected sides that are multiples of {net.multiple}",
            kept="No picture was changed",
            todo="Align the faces for this restorer (Align Faces does), or choose a config of that size",
        )
    xd = faces * 2 - 1
    zd = net.encode(xd)
    xid = net.recovered(xd).float()
    zid = net.encode(xid)
    return Known(zd, xid, zid, net.condition(zd, zid))


def noise_levels(settings: ClrFaceSettings) -> list[Level]:
    """Return the levels from the start down, EDM's (Eq. 5 there); none for 0 steps.

    Raises:
        SettingsError: pure noise that nothing would refine.
    """
    if not settings.steps and settings.start == "noise":
        raise SettingsError(
            "Cannot start from noise with 0 steps",
            found="nothing would refine the noise; expected at least 1 step",
            kept="No picture was changed",
            todo="Take more steps, or start from irn",
        )
    if settings.start == "noise":
        return karras(settings.steps, SIGMA_MAX)
    sigma = settings.sigma * START_NOISE.at(settings.fidelity)
    return karras(settings.steps, sigma) if settings.steps else []


def begin(known: Known, levels: Sequence[Level], start: str, draws: Draws) -> Tensor:
    """Return z_t at the first level, or the latent to start from by itself where there is none."""
    origin = {"irn": known.zid, "degraded": known.zd, "noise": torch.zeros_like(known.zid)}[start]
    if not levels:
        return origin
    return origin + levels[0].sigma * draws.normal("z_T", *origin.shape[1:]).to(origin)


def predictor(net: CLRFace, known: Known, guidance: Guidance | None) -> Predict:
    """Return the denoiser for a solver: z0_hat_t at a level, with the gradient of the guidance where it acts.

    The score loses scale * M_l * gradient of L_arc by z0_hat_t, so L_arc descends; the paper adds the gradient, which
    would lead away. It gives no scale: the gradient of each face is brought to unit RMS, before the mask, so that one
    scale means the same at every level and for every recogniser.
    """

    def plain(z: Tensor, level: Level) -> Prediction:
        return from_clean(z, net.denoise(z, known.condition, level.sigma), level)

    if guidance is None:
        return plain

    def guided(z: Tensor, level: Level) -> Prediction:
        said = plain(z, level)
        # By z0_hat_t itself, as Sec. 3.3 has it: backwards through recogniser and decoder, not through the U-Net.
        gradient = steering(
            guidance.guide,
            said.clean,
            guidance.target,
            scale=guidance.scale,
            mask=guidance.mask(said.clean),
            picture=lambda free: (net.decode(free) + 1) / 2,
        )
        return replace(said, gradient=gradient)

    return every_kth(guided, plain, guidance.levels, guidance.every)


@dataclass(frozen=True, slots=True)
class Guidance:
    """How the refinement is steered to an identity (Sec. 3.3)."""

    guide: IdentityGuide
    target: Tensor
    """(B, D), the identity of x^id or of a reference photo."""
    mask: Callable[[Tensor], Tensor]
    """z0_hat_t to M_l, which broadcasts to it."""
    scale: float
    levels: Sequence[Level]
    """Where it acts."""
    every: int
    """The gradient is made anew at every so many of them."""


def identity_guidance(
    known: Known,
    mask: Callable[[Tensor], Tensor],
    levels: Sequence[Level],
    settings: ClrFaceSettings,
    context: Context,
) -> Guidance:
    """Return how these faces are steered: to the identity of x^id, or to whom the run was told.

    Raises:
        SettingsError: the band of noise levels ends above where it begins, or the reference is of another recogniser.
    """
    guide = guide_or_embedded(context.guide, known.xid.device)
    return Guidance(
        guide,
        targets(guide, (known.xid + 1) / 2),
        mask,
        scale=settings.scale * GUIDANCE_SCALE.at(settings.fidelity),
        levels=guided_levels(levels, settings),
        every=settings.every,
    )


def guided_levels(levels: Sequence[Level], settings: ClrFaceSettings) -> list[Level]:
    """Return where the guidance acts: the levels of its band.

    Raises:
        SettingsError: the band ends above where it begins.
    """
    largest, smallest = settings.guide_from, settings.guide_to
    if smallest > largest:
        raise SettingsError(
            "Cannot guide in this band of noise levels",
            found=f"found guide_from {largest:g} and guide_to {smallest:g}; expected them to fall",
            kept="No picture was changed",
            todo="Exchange them, or switch the guidance off",
        )
    return [level for level in levels if smallest <= level.sigma <= largest]


def masker(net: CLRFace, known: Known, settings: ClrFaceSettings, given: Tensor | None) -> Callable[[Tensor], Tensor]:
    """Return what makes M_l of z0_hat_t: f_M, 1 everywhere ("none"), or a mask of pixels that was given."""

    def learned(z0_hat: Tensor) -> Tensor:
        return choose_mask("learned", z0_hat, makers={"learned": lambda: net.mask(z0_hat, known.zid)})

    if given is None and settings.masking == "learned":
        return learned
    still = choose_mask(settings.masking, known.zid, given=given, makers={})
    return lambda z0_hat: still
