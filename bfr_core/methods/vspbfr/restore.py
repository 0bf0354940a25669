"""Restoring a face, in the order of the paper's Fig. 1: style prompts (a), facial features (b), auto-encoder (c)."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import torch
from torch import Tensor

from ...dial import Dial
from ...errors import InputMediaError
from ...networks.stylegan2 import Noise, full_precision, silent
from ...registry import Context
from ...seeding import Draws
from .diffuser import diffuse
from .model import VSPBFR, StyleEncoderDecoder
from .restoration_net import DILATIONS, UNDILATED
from .settings import VspbfrSettings

TRUNCATION = Dial("truncation of the style codes to their mean", 0.7, 1, 1, linear=True)
"""StyleGAN's usual trade of variety for looks (arXiv:1812.04948)."""
ENCODER_CODES = Dial("share of the codes first read of the input", 0, 0, 1, linear=True)
NOISE = Dial("noise in every layer", 1, 1, 0, linear=True)


def restore(
    net: VSPBFR,
    faces: Tensor,
    settings: VspbfrSettings,
    seeds: Collection[int],
    inputs: Mapping[str, Tensor],
    context: Context,
) -> Tensor:
    """Return I_out = G(I_de, w^0, z_hat, F^s), (B, 3, S, S) in about [0, 1], for faces in [0, 1].

    Dial: below 0.5 the codes are truncated towards their mean; above it they go back from w^0 to w_hat, which is what
    the encoder sees in the input, and the noise fades. Codes that are given stay as they are.
    """
    draws = Draws(tuple(seeds), faces.device)
    degraded = faces * 2 - 1
    fidelity = settings.fidelity
    # (a) Visual style prompts.
    if "codes" in inputs:
        codes = inputs["codes"]
        check_codes(net, codes)
    else:
        codes = initial = net.encode(degraded).float()
        if settings.prompts == "diffused":  # else ablation (a)
            codes = denoised(net, codes, draws)[-1]
        if fidelity > 0.5:
            codes = torch.lerp(codes, initial, ENCODER_CODES.at(fidelity))
        elif fidelity < 0.5:
            mean = net.latent_avg.to(codes)
            codes = mean + TRUNCATION.at(fidelity) * (codes - mean)
    # (b) Facial feature bank, as far as the auto-encoder reads it.
    loudness = NOISE.at(fidelity)
    noise = injected(draws, loudness) if settings.noise and loudness else silent
    features = net.decoder.features(codes, noise, largest=net.restorer.side) if settings.priors else None
    # (c) Restoration auto-encoder.
    if not settings.modulation:
        codes = torch.zeros_like(codes)  # ablation (c): the prompt keeps z_hat and c only
    dilations = DILATIONS if settings.smart else UNDILATED  # ablation (b)
    styles = random_styles(net, draws, mean=settings.random_style == "mean", mixing=settings.mixing)
    restored = net.restorer(degraded, codes, styles, features, noise, dilations)
    return (restored + 1) / 2


def check_codes(net: StyleEncoderDecoder, codes: Tensor) -> None:
    """Check that codes are for this generator.

    Raises:
        InputMediaError: they have another shape.
    """
    if codes.shape[1:] != net.latent_avg.shape:
        raise InputMediaError(
            "Cannot use these style codes",
            found=f"found {tuple(codes.shape)}, expected (faces, {', '.join(map(str, net.latent_avg.shape))}): codes "
            "of one config do not fit another",
            kept="Nothing was changed",
            todo="Make the codes with the restorer that uses them",
        )


def prompts(net: VSPBFR, degraded: Tensor, draws: Draws) -> tuple[Tensor, list[Tensor]]:
    """Return w_hat and w^T ... w^0, each (B, N, style_dim), of faces in [-1, 1]."""
    initial = net.encode(degraded).float()
    return initial, denoised(net, initial, draws)


def denoised(net: VSPBFR, initial: Tensor, draws: Draws) -> list[Tensor]:
    """Return w^T ... w^0 of w_hat, each (B, N, style_dim)."""
    shape = initial.shape[1:]
    noise = draws.normal("w_T", *shape).to(initial)
    with full_precision(initial):  # the chain multiplies what half precision rounds
        return diffuse(
            net.att_mapper, initial, noise, net.diffusion, lambda t: draws.normal(f"w_{t}", *shape).to(initial)
        )


def injected(draws: Draws, loudness: float = 1.0) -> Noise:
    """Return the source of every layer's noise, its numbers multiplied by `loudness`."""
    return lambda layer, side: draws.normal(f"noise {layer}", 1, side, side) * loudness


def random_styles(net: VSPBFR, draws: Draws, *, mean: bool, mixing: float) -> Tensor:
    """Return z_hat for each code, (B, tokens, style_dim).

    Args:
        net: holds the mapping network F.
        draws: where z comes from.
        mean: take the mean of F(z) in place of a drawn one.
        mixing: probability that the codes from a random one on take a second z (style mixing, StyleGAN,
            arXiv:1812.04948, Sec. 3.1). The released code mixes when it restores, too.
    """
    tokens, dim = net.restorer.tokens, net.restorer.style_dim
    if mean:
        return net.restorer.mean_style().expand(len(draws.seeds), tokens, dim)
    z = [draws.normal(name, dim) for name in ("z", "z mixed in")]
    with full_precision(z[0]):
        first, second = (net.restorer.style(one)[:, None] for one in z)
    chance, place = draws.uniform("mixing"), draws.uniform("mixing from")
    start = [1 + int(at * (tokens - 1)) if luck < mixing else tokens for luck, at in zip(chance, place, strict=True)]
    later = torch.arange(tokens, device=first.device) >= torch.tensor(start, device=first.device)[:, None]
    return torch.where(later[:, :, None], second, first)
