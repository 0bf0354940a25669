"""The region mask: where guiding towards the recovered identity may change the face (Sec. 3.2.1)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

DELTA = 0.3
"""Threshold of Eq. 8, on colours in [0, 1]."""


def changed(x: Tensor, x_irn: Tensor, delta: float = DELTA) -> Tensor:
    """Return M' (Eq. 8), (B, 1, H, W) of 0 and 1: where g_phi(x) differs much from x, both in [-1, 1].

    The paper says neither the range of the colours nor what becomes of the three of them: [0, 1], and their mean.
    """
    difference = (x_irn - x).abs().mean(dim=1, keepdim=True) / 2
    return (difference > delta).to(x.dtype)


class RegionMask(nn.Module):
    """The sub-branch of the conditioner that predicts M from M' and x.

    The paper gives neither its layers nor how a binary mask is trained. Ours: two levels of plain convolutions on
    folded pixels, as a region of a face is no matter of single pixels, and a threshold at one half that gradients
    pass as if it were not there (straight-through). It starts with every position in the mask (Table 6's Net3)
    and learns which to leave out.

    Shapes: M' (B, 1, H, W); x (B, 3, H, W) in [-1, 1]; H and W multiples of `multiple`; returns (B, 1, H, W) of 0
    and 1.
    """

    def __init__(
        self,
        channels: int = 32,
        fold: int = 4,  # side of the square of pixels that becomes one position
        groups: int = 8,  # of the norms
    ) -> None:
        super().__init__()
        self.fold = fold
        self.multiple = 2 * fold

        def block(inp: int, out: int, stride: int = 1) -> nn.Sequential:
            return nn.Sequential(nn.Conv2d(inp, out, 3, stride, padding=1), nn.GroupNorm(groups, out), nn.SiLU())

        self.stem = block(4 * fold**2, channels)
        self.down = block(channels, 2 * channels, stride=2)
        self.middle = block(2 * channels, 2 * channels)
        self.up = block(3 * channels, channels)
        self.head = nn.Conv2d(channels, 1, 3, padding=1)
        nn.init.zeros_(self.head.weight)
        nn.init.ones_(self.head.bias)  # type: ignore[arg-type]

    def probability(self, m_prime: Tensor, x: Tensor) -> Tensor:
        """Return how likely each position is one for guidance, (B, 1, H, W) in [0, 1]."""
        skip = self.stem(F.pixel_unshuffle(torch.cat([m_prime, x], dim=1), self.fold))
        h = F.interpolate(self.middle(self.down(skip)), scale_factor=2, mode="nearest")
        logit = self.head(self.up(torch.cat([h, skip], dim=1)))
        return F.interpolate(logit, scale_factor=self.fold, mode="bilinear", align_corners=False).sigmoid()

    def forward(self, m_prime: Tensor, x: Tensor) -> Tensor:
        soft = self.probability(m_prime, x)
        hard = (soft > 0.5).to(soft.dtype)
        return hard + (soft - soft.detach())
