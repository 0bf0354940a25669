"""The conditional diffusion model of patches (Sec. II-A)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ...networks.conditional_diffusion import Condition, ConditionalDiffusion, Predicts
from ..irn import METHOD as IRN


class LPIPDiff(ConditionalDiffusion):
    """epsilon_theta(x_t, x~, t): `unet`, and `irn` where the condition needs an identity recovery network.

    Args:
        unet: options of UNet.
        irn: config of the identity recovery network; None for the paper's model, which has none.
        condition: what stands beside x_t: the degraded picture as in the paper, or that and the recovered one, which a
            small network that sees one patch at a time needs to know whose face it paints.
        predicts: what the U-Net gives.
        timesteps: T.
    """

    def __init__(
        self,
        *,
        unet: Mapping[str, Any],
        irn: str | None = None,
        condition: Condition = "degraded",
        predicts: Predicts = "noise",
        timesteps: int = 1000,
    ) -> None:
        super().__init__(
            unet=unet,
            irn=IRN.build(IRN.config(irn)) if irn else None,
            condition=condition,
            predicts=predicts,
            timesteps=timesteps,
        )
