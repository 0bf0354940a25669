"""A dense-convolution U-Net that restores a face in one pass: the compact body of the identity recovery network.

Ours. Plain 3x3 convolutions because they reach the arithmetic peak of a CPU, where depthwise ones and group
norms do not; no normalisation at all, each residual block starting near the identity instead. The picture is folded
by pixel-unshuffle so that the widest maps stay narrow: almost all arithmetic happens at 1/8 resolution and below,
where a face's structure is, and one light block each way at 1/2 keeps lashes and skin sharp.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions around a leaky rectifier, added to the input."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)
        self.act = nn.LeakyReLU(0.1, inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv2(self.act(self.conv1(x)))


def _down(inp: int, out: int) -> nn.Module:
    return nn.Sequential(nn.PixelUnshuffle(2), nn.Conv2d(4 * inp, out, 1))


def _up(inp: int, out: int) -> nn.Module:
    return nn.Sequential(nn.Conv2d(inp, 4 * out, 1), nn.PixelShuffle(2))


class FullSizeHead(nn.Module):
    """End at the picture's full size in a way that cannot draw a grid.

    A folded head (a convolution to four phases of each colour, then pixel-shuffle) answers differently at even and odd
    pixels, which shows as a weave of two pixels. Here features are enlarged bilinearly, so that neighbours differ only
    by what the picture itself shows them, and two convolutions see both at full size.

    Shapes: h (B, channels, H / 2, W / 2) and x (B, 3, H, W); returns (B, 3, H, W).
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.mix = nn.Conv2d(channels, channels, 3, padding=1)
        self.conv1 = nn.Conv2d(channels + 3, channels, 3, padding=1)
        self.conv2 = nn.Conv2d(channels, 3, 3, padding=1)
        self.act = nn.LeakyReLU(0.1, inplace=True)

    def forward(self, h: Tensor, x: Tensor) -> Tensor:
        h = F.interpolate(self.mix(h), scale_factor=2, mode="bilinear", align_corners=False)
        return self.conv2(self.act(self.conv1(torch.cat([h, x], 1))))


def full_from_folded(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return weights of a folded head as those of a head at full size that begins near it.

    Features become the mean of the four phases of each colour's correction, twice with opposite signs, so that the two
    convolutions can hand them through the rectifier unchanged: at the start only the grid is missing.

    Args:
        weights: of `RestoreUNet(head="folded")`, by their keys.
    """
    kept = {key: tensor.float() for key, tensor in weights.items() if not key.startswith("head.")}
    folded, bias = weights["head.0.weight"].float(), weights["head.0.bias"].float()
    channels = folded.shape[1]
    head = FullSizeHead(channels)
    with torch.no_grad():
        head.conv1.bias.zero_()  # type: ignore[union-attr]
        head.conv2.weight.zero_()
        head.conv2.bias.zero_()  # type: ignore[union-attr]
        for colour in range(3):
            phases = slice(4 * colour, 4 * colour + 4)
            head.mix.weight[colour] = folded[phases].mean(0)
            head.mix.bias[colour] = bias[phases].mean()  # type: ignore[index]
            for sign, row in ((1.0, colour), (-1.0, colour + 3)):
                head.conv1.weight[row].zero_()
                head.conv1.weight[row, colour, 1, 1] = sign
                head.conv2.weight[colour, row, 1, 1] = sign / (1 + head.act.negative_slope)
    return kept | {f"head.{key}": tensor.detach() for key, tensor in head.state_dict().items()}


class RestoreUNet(nn.Module):
    """Map a degraded face to a clean one.

    Shapes: x (B, 3, H, W) RGB [0, 1], H and W multiples of 2 ** len(widths); returns the same shape, not clamped.
    """

    def __init__(
        self,
        widths: tuple[int, ...] = (16, 48, 96, 160, 256),  # channels at 1/2, 1/4, 1/8, ... of the picture
        blocks: tuple[int, ...] = (1, 1, 2, 2, 4),  # residual blocks at each, each way; the last once
        head: Literal["folded", "full"] = "folded",  # see FullSizeHead
    ) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.PixelUnshuffle(2), nn.Conv2d(12, widths[0], 3, padding=1))
        self.encoder = nn.ModuleList(
            nn.Sequential(*(ResidualBlock(width) for _ in range(count)))
            for width, count in zip(widths[:-1], blocks[:-1], strict=True)
        )
        self.down = nn.ModuleList(_down(a, b) for a, b in pairwise(widths))
        self.middle = nn.Sequential(*(ResidualBlock(widths[-1]) for _ in range(blocks[-1])))
        self.up = nn.ModuleList(_up(b, a) for a, b in pairwise(widths))
        self.decoder = nn.ModuleList(
            nn.Sequential(*(ResidualBlock(width) for _ in range(count)))
            for width, count in zip(widths[:-1], blocks[:-1], strict=True)
        )
        self.head: nn.Module = FullSizeHead(widths[0])
        if head == "folded":
            self.head = nn.Sequential(nn.Conv2d(widths[0], 12, 3, padding=1), nn.PixelShuffle(2))
        self._initialise()

    def _initialise(self) -> None:
        """Start as the identity, with unit variance along the main path and little from each residual block."""
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, a=0.1)
                nn.init.zeros_(module.bias)  # type: ignore[arg-type]
        with torch.no_grad():
            for module in self.modules():
                if isinstance(module, ResidualBlock):
                    module.conv2.weight.mul_(0.2)
            for up in self.up:
                up[0].weight.mul_(0.5)  # type: ignore[index]  # it is added to a skip of the same size
            last = self.head.conv2 if isinstance(self.head, FullSizeHead) else self.head[0]  # type: ignore[index]
            last.weight.zero_()  # type: ignore[operator]

    def forward(self, x: Tensor) -> Tensor:
        h = self.stem(x - 0.5)
        skips: list[Tensor] = []
        for encode, down in zip(self.encoder, self.down, strict=True):
            h = encode(h)
            skips.append(h)
            h = down(h)
        h = self.middle(h)
        for decode, up, skip in reversed(list(zip(self.decoder, self.up, skips, strict=True))):
            h = decode(up(h) + skip)
        return x + (self.head(h, x - 0.5) if isinstance(self.head, FullSizeHead) else self.head(h))
