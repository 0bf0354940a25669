"""Discriminators for adversarial training."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm


class PatchDiscriminator(nn.Module):
    """Judge overlapping patches of a picture, each about 70 px wide.

    Source: the patch classifier of Isola et al., arXiv:1611.07004, Sec. 3.2.2, with spectral normalisation
    (Miyato et al., arXiv:1802.05957) in place of batch normalisation: batches are small here.
    Shapes: x (B, 3, H, W) RGB [0, 1]; returns (B, 1, h, w) logits, high for real.
    """

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        inp = 3
        for out, stride in ((width, 2), (2 * width, 2), (4 * width, 2), (8 * width, 1)):
            layers += [spectral_norm(nn.Conv2d(inp, out, 4, stride, 1)), nn.LeakyReLU(0.2, inplace=True)]
            inp = out
        self.body = nn.Sequential(*layers)
        self.head = spectral_norm(nn.Conv2d(inp, 1, 4, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(2 * x - 1))
