"""The whole network: VQ autoencoder, identity recovery network, conditional denoiser and latent mask (paper Fig. 1)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import Tensor, nn

from ...diffusion.predictions import edm_denoised
from ...networks.unet import UNet
from ...networks.vq import SIGMA_DATA, VQAutoencoder
from ..irn import METHOD as IRN

Condition = Literal["degraded", "both"]

_IRN_MULTIPLES = {"compact": 32, "paper": 64}
"""What sides of a picture the configs of the identity recovery network take."""


class LatentMask(nn.Module):
    """f_M: a few convolutions and a sigmoid that find the latent features which carry identity (Sec. 3.3).

    The paper gives it z0_hat_t alone and no sizes. Three layers; z^id beside z0_hat_t shows it what to compare with.

    Shapes: z0_hat and zid (B, dim, h, w), normalised; returns M_l, (B, dim, h, w) in [0, 1].
    """

    def __init__(self, dim: int = 3, channels: int = 64) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(2 * dim, channels, 3, padding=1),
            nn.SiLU(),
            nn.Conv2d(channels, channels, 3, padding=1),
            nn.SiLU(),
            nn.Conv2d(channels, dim, 3, padding=1),
        )

    def forward(self, z0_hat: Tensor, zid: Tensor) -> Tensor:
        return self.layers(torch.cat([z0_hat, zid], dim=1)).sigmoid()


class CLRFace(nn.Module):
    """Everything that restoring takes: `vq` is E, Z and G, `irn` f_phi, `unet` the denoiser, `mask` f_M.

    Pictures are (B, 3, H, W) RGB [-1, 1] with sides that are multiples of `multiple`; latents (B, dim, H/4, W/4) with
    a standard deviation of `sigma_data` in each channel, which is what noise levels are relative to.
    """

    def __init__(
        self,
        *,
        vq: Mapping[str, Any],  # options of VQAutoencoder
        unet: Mapping[str, Any],  # options of UNet; its channels in and out follow from the rest
        irn: Literal["compact", "paper"] = "compact",  # config of the identity recovery network
        condition: Condition = "degraded",  # what stands beside z_t: z^d, or z^d and z^id
        sigma_data: float = SIGMA_DATA,  # standard deviation of the latents, as EDM needs to know it
    ) -> None:
        super().__init__()
        self.conditioned, self.sigma_data = condition, sigma_data
        self.irn = IRN.build(IRN.config(irn))
        self.vq = VQAutoencoder(**vq)
        dim = self.vq.dim
        self.unet = UNet(dim * (3 if condition == "both" else 2), dim, **unet)
        self.mask = LatentMask(dim)
        self.multiple = math.lcm(self.vq.factor * self.unet.multiple, _IRN_MULTIPLES[irn])

    def recovered(self, xd: Tensor) -> Tensor:
        """Return x^id = f_phi(x^d), [-1, 1] in and out (Sec. 3.3)."""
        return self.irn((xd + 1) / 2).clamp(0, 1) * 2 - 1

    def encode(self, x: Tensor) -> Tensor:
        """Return z = E(x), normalised, float32 or wider; nothing is quantised here (Sec. 3.1)."""
        z = self.vq.encode(x)
        return self.vq.normalise(z.to(torch.promote_types(z.dtype, torch.float32)))

    def decode(self, z: Tensor) -> Tensor:
        """Return G(Q(z)) of normalised latents; gradients pass the quantiser straight through (Sec. 3.3)."""
        return self.vq.decode(self.vq.denormalise(z))

    def condition(self, zd: Tensor, zid: Tensor) -> Tensor:
        """Return what is concatenated with z_t: z^d, and z^id where the denoiser was made for it. No noise on it.

        Sec. 3.2 conditions on z^d alone; there z^id reaches the chain by way of its start and of the guide.
        """
        return torch.cat([zd, zid], dim=1) if self.conditioned == "both" else zd

    def denoise(self, z: Tensor, condition: Tensor, sigma: float | Tensor) -> Tensor:
        """Return D(z_t; z^d, sigma), the estimate of z_0, in EDM's preconditioned form (EDM Eq. 7).

        The score of Eq. 9 and 10 is (D - z_t) / sigma^2.

        Args:
            z: z_t = z_0 + sigma * noise, (B, dim, h, w).
            condition: as `condition` makes it.
            sigma: the noise level above 0: one number, or (B,) for training.
        """

        def network(scaled: Tensor, told: Tensor) -> Tensor:
            return self.unet(torch.cat([scaled, condition], dim=1), told).to(z.dtype)

        level = sigma if isinstance(sigma, float) else torch.as_tensor(sigma).to(z).view(-1, 1, 1, 1)
        return edm_denoised(network, z, level, self.sigma_data)
