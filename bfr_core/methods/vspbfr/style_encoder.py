"""The style encoder E: a face to the initial codes w_hat in W+ (paper Sec. III-A).

Source: Tov et al., "Designing an Encoder for StyleGAN Image Manipulation" (e4e), arXiv:2102.02766, Sec. 5; parameter
names as in its published files.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ...networks.irse import STAGES, IRBody, Stages
from ...networks.stylegan2 import EqualLinear, arranged


class StyleHead(nn.Module):
    """Halve a map until one position is left, which becomes a code (`GradualStyleBlock` of pSp)."""

    def __init__(self, inp: int, out: int, side: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for index in range(int(math.log2(side))):
            layers += [nn.Conv2d(out if index else inp, out, 3, 2, 1), nn.LeakyReLU()]
        self.convs = nn.Sequential(*layers)
        self.linear = EqualLinear(out, out)

    def forward(self, x: Tensor) -> Tensor:
        # From the second convolution on, weights outweigh maps, so that their arrangement decides (see `arranged`).
        x = self.convs[0](x).contiguous()
        return self.linear(self.convs[1:](x).flatten(1))


class StyleEncoder(IRBody):
    """E(I): IR-SE50 with a feature pyramid and one head for each code.

    Shapes: x (B, 3, H, W) RGB [-1, 1], brought to `input_size`; returns (B, tokens, style_dim) without the average
    code.

    Args:
        tokens: N, codes of the generator.
        style_dim: features of a code.
        input_size: side the faces are looked at, 16 times the coarsest map's.
        stages: see IRBody.
        coarse: codes read from the coarsest map.
        middle: codes read from it or the next.
        whiten: give every feature of the codes zero mean and unit variance, as the diffusion expects them. e4e has no
            need of it: its generator's mapping network sets the scale of W. A generator that was trained together with
            its encoder demodulates whatever scale the codes drift to.
    """

    def __init__(
        self,
        tokens: int = 18,
        style_dim: int = 512,
        input_size: int = 256,
        stages: Stages = STAGES,
        coarse: int = 3,
        middle: int = 7,
        whiten: bool = False,
    ) -> None:
        super().__init__(stages)
        self.input_size, self.tokens, self.coarse, self.middle = input_size, tokens, coarse, middle
        fine_width, middle_width, width = (channels for channels, _ in stages[1:])
        side = input_size // 16
        self.styles = nn.ModuleList(
            StyleHead(width, style_dim, side * (1 if index < coarse else 2 if index < middle else 4))
            for index in range(tokens)
        )
        self.latlayer1 = nn.Conv2d(middle_width, width, 1)
        self.latlayer2 = nn.Conv2d(fine_width, width, 1)
        self.norm = nn.BatchNorm1d(tokens * style_dim, affine=False) if whiten else None

    def forward(self, x: Tensor) -> Tensor:
        size = (self.input_size, self.input_size)
        x = arranged(F.interpolate(x, size, mode="bilinear", align_corners=False))
        c1, c2, c3 = super().forward(x)
        p2 = _add_enlarged(c3, self.latlayer1(c2))
        p1 = _add_enlarged(p2, self.latlayer2(c1))
        first = self.styles[0](c3)
        codes = [first]
        for index in range(1, self.tokens):
            level = c3 if index < self.coarse else p2 if index < self.middle else p1
            codes.append(first + self.styles[index](level))  # e4e Eq. 1: offsets from one code
        stacked = torch.stack(codes, 1)
        return stacked if self.norm is None else self.norm(stacked.flatten(1)).view_as(stacked)


def _add_enlarged(coarse: Tensor, fine: Tensor) -> Tensor:
    return F.interpolate(coarse, fine.shape[-2:], mode="bilinear", align_corners=True) + fine
