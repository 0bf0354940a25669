"""IR-SE50: the improved residual network with squeeze and excitation, in the layout e4e, pSp and ArcFace share.

Source: Deng et al., "ArcFace", arXiv:1801.07698 (BN-Conv-BN-PReLU-Conv-BN units); Hu et al.,
"Squeeze-and-Excitation Networks", arXiv:1709.01507, Sec. 3; parameter layout of the published `model_ir_se50.pth`
(keys `input_layer`, `body`, `output_layer`). One departure of that file from ArcFace's unit is kept because the weights
need it: there is no batch normalisation between the first convolution and the PReLU.

`IRBody` is the trunk without a head. A feature pyramid encoder (pSp, e4e) derives from it and adds its own heads; the
keys `input_layer.*` and `body.*` then fit its files.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate

import torch
from torch import Tensor, nn

Stages = Sequence[tuple[int, int]]
STAGES: Stages = ((64, 3), (128, 4), (256, 14), (512, 3))
"""Channels and units of each stage; the first unit of each halves the picture."""


class SqueezeExcite(nn.Module):
    """Scale channels by what the whole map shows (Eqs. 2 to 4 of the paper, as 1x1 convolutions without bias)."""

    def __init__(self, channels: int, reduction: int = 16) -> None:
        super().__init__()
        self.fc1 = nn.Conv2d(channels, channels // reduction, 1, bias=False)
        self.fc2 = nn.Conv2d(channels // reduction, channels, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        squeezed = x.mean((2, 3), keepdim=True)
        return x * torch.sigmoid(self.fc2(torch.relu(self.fc1(squeezed))))


class IRUnit(nn.Module):
    """One residual unit.

    Shapes: x (B, inp, H, W); returns (B, out, ceil(H / stride), ceil(W / stride)).
    """

    def __init__(self, inp: int, out: int, stride: int) -> None:
        super().__init__()
        # A 1x1 pool with a stride only drops pixels; it has no parameters, as the published layout wants.
        self.shortcut_layer = (
            nn.MaxPool2d(1, stride)
            if inp == out
            else nn.Sequential(nn.Conv2d(inp, out, 1, stride, bias=False), nn.BatchNorm2d(out))
        )
        self.res_layer = nn.Sequential(
            nn.BatchNorm2d(inp),
            nn.Conv2d(inp, out, 3, 1, 1, bias=False),
            nn.PReLU(out),
            nn.Conv2d(out, out, 3, stride, 1, bias=False),
            nn.BatchNorm2d(out),
            SqueezeExcite(out),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.shortcut_layer(x) + self.res_layer(x)


class IRBody(nn.Module):
    """The trunk.

    Shapes: x (B, 3, H, W) RGB [-1, 1], any size; returns the pyramid of the last three stages' ends, published c1
    (B, 128, H/4, W/4), c2 (B, 256, H/8, W/8) and c3 (B, 512, H/16, W/16), sizes rounded up.

    Args:
        stages: channels and units of each of the four stages.
    """

    def __init__(self, stages: Stages = STAGES) -> None:
        super().__init__()
        inp = stages[0][0]
        self.input_layer = nn.Sequential(nn.Conv2d(3, inp, 3, 1, 1, bias=False), nn.BatchNorm2d(inp), nn.PReLU(inp))
        self._pyramid = [last - 1 for last in accumulate(count for _, count in stages)][1:]
        units: list[nn.Module] = []
        for channels, count in stages:
            for index in range(count):
                units.append(IRUnit(inp, channels, 2 if index == 0 else 1))
                inp = channels
        self.body = nn.Sequential(*units)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        x = self.input_layer(x)
        maps = []
        for index, unit in enumerate(self.body):
            x = unit(x)
            if index in self._pyramid:
                maps.append(x)
        c1, c2, c3 = maps
        return c1, c2, c3


class IRSE50(nn.Module):
    """Embed a face.

    Shapes: x (B, 3, 112, 112), RGB [-1, 1]; returns (B, 512), not yet of unit length.
    """

    size = 112

    def __init__(self) -> None:
        super().__init__()
        trunk = IRBody()
        self.input_layer, self.body = trunk.input_layer, trunk.body
        # Dropout and flattening have no parameters but hold their places in the published numbering.
        self.output_layer = nn.Sequential(
            nn.BatchNorm2d(512), nn.Dropout(0.6), nn.Flatten(), nn.Linear(512 * 7 * 7, 512), nn.BatchNorm1d(512)
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.output_layer(self.body(self.input_layer(x)))

    def maps(self, x: Tensor) -> tuple[Tensor, ...]:
        """Return the maps at the end of each stage, for pictures of any size."""
        x = self.input_layer(x)
        found, last = [], 0
        for _, count in STAGES:
            x = self.body[last : last + count](x)
            found.append(x)
            last += count
        return tuple(found)
