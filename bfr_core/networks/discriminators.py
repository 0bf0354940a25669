"""Discriminators: networks that tell pictures from restorations, patch by patch, and codes from a mapping's own."""

from __future__ import annotations

import math

from torch import Tensor, nn
from torch.nn import functional as F


class _DownBlock(nn.Module):
    """Halve the picture by a residual pair of convolutions, scaled so that the variance stays."""

    def __init__(self, inp: int, out: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inp, inp, 3, 1, 1)
        self.conv2 = nn.Conv2d(inp, out, 3, 2, 1)
        self.skip = nn.Conv2d(inp, out, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv2(F.leaky_relu(self.conv1(F.leaky_relu(x, 0.2)), 0.2))
        # The stride of the convolution rounds up, so the mean over 2x2 does too, over what the picture still has.
        short = self.skip(F.avg_pool2d(x, 2, ceil_mode=True, count_include_pad=False))
        return (h + short) / math.sqrt(2)


class PatchDiscriminator(nn.Module):
    """Judge overlapping patches of a picture.

    Residual blocks as in StyleGAN2 (arXiv:1912.04958, Sec. 4.1) below a map of logits as in PatchGAN
    (arXiv:1611.07004, Sec. 3.2.2). Neither spectral nor batch normalisation: R1 keeps it smooth, and a penalty on the
    gradient of one picture must not depend on the others. The first convolution halves the picture, so the costly full
    resolution is touched once.

    Shapes: x (B, inp, H, W), any size from 2 px and any range; returns logits (B, 1, H', W'), about
    H / 2^(1 + depth) high, not through a sigmoid.
    """

    def __init__(
        self,
        channels: int = 32,  # width at half resolution, doubled by each block up to four times that
        depth: int = 3,  # halvings after the first; a logit sees 12 * 2^depth - 4 px
        inp: int = 3,  # channels of the picture
    ) -> None:
        super().__init__()
        self.stem = nn.Conv2d(inp, channels, 4, 2, 1)
        blocks: list[nn.Module] = []
        width = channels
        for _ in range(depth):
            blocks.append(_DownBlock(width, min(2 * width, 4 * channels)))
            width = min(2 * width, 4 * channels)
        self.blocks = nn.Sequential(*blocks)
        self.conv = nn.Conv2d(width, width, 3, 1, 1)
        self.head = nn.Conv2d(width, 1, 1)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, 0.2)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        # The shortcut sees no rectifier before it.
        for block in self.blocks:
            nn.init.kaiming_normal_(block.skip.weight, nonlinearity="linear")  # type: ignore[union-attr]

    def forward(self, x: Tensor) -> Tensor:
        h = self.blocks(self.stem(x))
        return self.head(F.leaky_relu(self.conv(F.leaky_relu(h, 0.2)), 0.2))


class CodeDiscriminator(nn.Sequential):
    """Tell codes that an encoder made from those of a generator's mapping network.

    Source: e4e, arXiv:2102.02766, Sec. 5.3 (after StyleFlow's latent discriminator): fully connected layers.

    Shapes: (B, dim); returns logits (B, 1).
    """

    def __init__(self, dim: int = 512, depth: int = 4) -> None:
        hidden = [layer for _ in range(depth) for layer in (nn.Linear(dim, dim), nn.LeakyReLU(0.2))]
        super().__init__(*hidden, nn.Linear(dim, 1))
