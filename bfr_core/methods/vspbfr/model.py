"""The whole network: style encoder, facial feature bank, code diffuser, restoration auto-encoder (paper Fig. 1)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ...networks.stylegan2 import Generator
from .diffuser import RELEASED_DIFFUSION, RELEASED_TACC, TACC, Diffusion, TaccLayout
from .restoration_net import PrintedRestorationNet, RestorationNet
from .style_encoder import StyleEncoder


class StyleEncoderDecoder(nn.Module):
    """E and S, which share a file: a face to codes, codes to features and a picture.

    Args:
        style_dim: features of a code.
        encoder: options of StyleEncoder.
        bank: options of the StyleGAN2 generator that serves as the facial feature bank.
    """

    latent_avg: Tensor

    def __init__(self, style_dim: int = 512, *, encoder: Mapping[str, Any], bank: Mapping[str, Any]) -> None:
        super().__init__()
        self.decoder = Generator(style_dim=style_dim, **bank)
        self.encoder = StyleEncoder(tokens=self.decoder.tokens, style_dim=style_dim, **encoder)
        self.register_buffer("latent_avg", torch.zeros(self.decoder.tokens, style_dim))

    def encode(self, x: Tensor) -> Tensor:
        """Return w_hat = E(x) around the average code, (B, N, style_dim), of faces (B, 3, H, W) RGB [-1, 1]."""
        return self.encoder(x) + self.latent_avg


class VSPBFR(StyleEncoderDecoder):
    """Everything that restoring takes.

    Args:
        style_dim: features of a code.
        encoder: options of StyleEncoder.
        bank: options of Generator.
        tacc: layout of the code diffuser's blocks.
        diffusion: the process they were trained for.
        printed: whether the auto-encoder is the printed one.
        restorer: its options.
        blocks: TACC blocks.
    """

    def __init__(
        self,
        style_dim: int = 512,
        *,
        encoder: Mapping[str, Any],
        bank: Mapping[str, Any],
        restorer: Mapping[str, Any],
        tacc: TaccLayout = RELEASED_TACC,
        diffusion: Diffusion = RELEASED_DIFFUSION,
        printed: bool = False,
        blocks: int = 4,
    ) -> None:
        super().__init__(style_dim, encoder=encoder, bank=bank)
        self.att_mapper = nn.ModuleList(TACC(style_dim, tacc) for _ in range(blocks))
        self.diffusion = diffusion
        layout = PrintedRestorationNet if printed else RestorationNet
        self.restorer = layout(style_dim=style_dim, **restorer)
