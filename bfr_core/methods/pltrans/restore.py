"""Restoring a face, in the order of the paper's Fig. 2: features, query, keys and values, attention, decoder."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import torch
from torch import Tensor

from ...dial import Dial
from ...errors import InputMediaError, SettingsError
from ...registry import Context
from ...seeding import Draws
from .degradation_level import N, S, degradation_level, steps_for
from .model import PLTrans
from .settings import PLTransSettings

PERTURBATION = Dial("steps n and s that the query is perturbed by", 1.5, 1, 0.25)
RECOVERY = Dial("share of what an identity recovery network before the encoder would change", 1, 1, 0.5, linear=True)


def restore(
    net: PLTrans,
    faces: Tensor,
    settings: PLTransSettings,
    seeds: Collection[int],
    inputs: Mapping[str, Tensor],
    context: Context,
) -> Tensor:
    """Return y_hat = G(z_hat), (B, 3, S, S) in about [0, 1], for faces in [0, 1].

    Dial: to 0 the query is perturbed half as far again, so that more of it is painted anew; to 1 a quarter as far,
    and the encoder sees half of what an identity recovery network before it would change.

    Raises:
        InputMediaError: sides that the networks cannot halve.
        SettingsError: settings that contradict each other, or more wavelet levels than the features halve.
    """
    u, q = encoded(net, faces, settings, Draws(tuple(seeds), faces.device), context)
    return decoded(net, u, q, settings)


def encoded(
    net: PLTrans, faces: Tensor, settings: PLTransSettings, draws: Draws, context: Context
) -> tuple[Tensor, Tensor]:
    """Return the regularised latent u_hat_0^hq and the features q of faces in [0, 1].

    Shapes: faces (B, 3, S, S); u (B, latent, h, w), normalised, and q (B, dim, h, w), both float32 or wider.

    Raises:
        InputMediaError: sides that the networks cannot halve.
        SettingsError: settings that contradict each other, or more wavelet levels than the features halve.
    """
    check_sides(net, faces)
    n, s = perturbations(faces, settings, net.regulariser.timesteps, context)
    # Sec. 3.1: preliminary features.
    q = net.encode(net.seen(faces * 2 - 1, RECOVERY.at(settings.fidelity)))
    q = q.to(torch.promote_types(q.dtype, torch.float32))
    # Sec. 3.2: E_Q, perturbation, and the reverse process with the low frequencies of the input.
    u = net.regulariser.encode(q)
    if not settings.diffusion:
        return u, q
    if settings.wavelet:
        check_levels(u, settings.levels)
    u = net.regulariser.regularise(
        u, n, s, settings.transitions, settings.levels, draws, wavelet=settings.wavelet, report=context.report
    )
    return u, q


def decoded(net: PLTrans, u: Tensor, q: Tensor, settings: PLTransSettings) -> Tensor:
    """Return y_hat, (B, 3, S, S) in about [0, 1], of latents and features as `encoded` returns them."""
    # Sec. 3.2: D_Q gives the query; w/o DIFF of Table 1 asks with the features themselves.
    q_hat = net.regulariser.decode(u) if settings.diffusion else q
    # Sec. 3.3: keys and values, cross-attention.
    z_hat = net.restored_features(q_hat, q, dictionary=settings.dictionary, transformer=settings.transformer)
    return (net.decode(z_hat) + 1) / 2


def perturbations(
    faces: Tensor, settings: PLTransSettings, timesteps: int, context: Context
) -> tuple[Sequence[int], Sequence[int]]:
    """Return n and s of each face, by the settings `steps`, `n`, `s` and `fidelity`, and tell those that were read.

    Raises:
        SettingsError: s is not below n, or n is above T.
    """
    n, s = settings.n, settings.s
    automatic = settings.steps == "auto"
    if not automatic and not s < n <= timesteps:
        raise SettingsError(
            "Cannot perturb the features in this way",
            found=f"found n {n} and s {s}; expected s < n <= {timesteps}",
            kept="No picture was changed",
            todo="Give an s below n, or let steps be auto",
        )
    read = degradation_level(faces).tolist() if automatic else []
    pairs = [steps_for(value, timesteps) for value in read] or [(n, s)] * len(faces)
    factor = PERTURBATION.at(settings.fidelity)
    turned = [_scaled(n, s, factor, timesteps) for n, s in pairs]
    each_n, each_s = [n for n, _ in turned], [s for _, s in turned]
    if automatic and settings.diffusion:
        if (n, s) != (N, S):
            context.note(f"n {n} and s {s} were left aside, as PLTrans chose its steps; with steps fixed it takes them")
        heading = "PLTrans read how degraded faces are, from 0 to 1, and chose its steps n and s by it"
        context.tell(heading, {"degradation": read, "n": each_n, "s": each_s})
    return each_n, each_s


def _scaled(n: int, s: int, factor: float, timesteps: int) -> tuple[int, int]:
    scaled = min(max(round(n * factor), 1), timesteps)
    return scaled, min(round(s * scaled / n), scaled - 1)


def check_sides(net: PLTrans, x: Tensor) -> None:
    """Check that the networks can halve the sides of pictures as often as they do.

    Raises:
        InputMediaError: they cannot.
    """
    if any(side % net.multiple for side in x.shape[2:]):
        raise InputMediaError(
            "PLTrans cannot take these faces",
            found=f"found {x.shape[2]} x {x.shape[3]} pixels, expected sides that are multiples of {net.multiple}",
            kept="No picture was changed",
            todo="Align the faces for this restorer (Align Faces does), or choose a config of that size",
        )


def check_levels(u: Tensor, levels: int) -> None:
    """Check that latents can be halved J times.

    Raises:
        SettingsError: they cannot.
    """
    height, width = u.shape[-2:]
    if height % 2**levels or width % 2**levels:
        raise SettingsError(
            f"Cannot take {levels} levels of wavelets of these latents",
            found=f"they have {height} x {width} positions; expected multiples of {2**levels}",
            kept="No picture was changed",
            todo="Take fewer levels, or switch wavelet off",
        )
