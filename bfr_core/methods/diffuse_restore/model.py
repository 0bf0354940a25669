"""The whole network: conditioner g_phi with its mask branch, and conditional diffusion model f_theta (Fig. 1)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from ...networks.conditional_diffusion import Condition, ConditionalDiffusion, Predicts
from ..irn import METHOD as IRN
from .mask import RegionMask

__all__ = ["DiffuseRestore", "RegionMask"]


class DiffuseRestore(ConditionalDiffusion):
    """Everything that restoring takes: `irn` is g_phi, `unet` f_theta, `mask` the sub-branch that predicts M.

    Args:
        irn: config of the identity recovery network.
        unet: options of UNet.
        mask: options of RegionMask.
        condition: what stands beside y_t. Sec. 3.2's text and Fig. 1 feed x, Eq. 5 feeds g_phi(x).
        predicts: what the U-Net gives.
        learned_variance: whether it gives the variance of the reverse step, too, as guided diffusion's does.
        timesteps: T.
    """

    def __init__(
        self,
        *,
        unet: Mapping[str, Any],
        irn: str = "compact",
        mask: Mapping[str, Any] | None = None,
        condition: Condition = "degraded",
        predicts: Predicts = "noise",
        learned_variance: bool = False,
        timesteps: int = 1000,
    ) -> None:
        super().__init__(
            unet=unet,
            irn=IRN.build(IRN.config(irn)),
            condition=condition,
            predicts=predicts,
            learned_variance=learned_variance,
            timesteps=timesteps,
        )
        self.mask = RegionMask(**(mask or {}))

    @property
    def multiple(self) -> int:
        """What the sides of a face must be multiples of."""
        return math.lcm(super().multiple, self.mask.multiple)
