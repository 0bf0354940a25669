"""MobileFaceNet: a small face embedding, differentiable, 1.0 M parameters.

Source: Chen et al., "MobileFaceNets", arXiv:1804.07573, in the parameter layout of the Apache-2.0 checkpoint that
the identity metric and the identity loss read (keys `conv1`, `dw_conv`, `features.N.conv`, `gdconv`, `conv3`).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

_STAGES = ((2, 64, 5, 2), (4, 128, 1, 2), (2, 128, 6, 1), (4, 128, 1, 2), (2, 128, 2, 1))
"""Expansion, channels, blocks and first stride of each stage (Table 1)."""


class _Bottleneck(nn.Module):
    def __init__(self, inp: int, out: int, stride: int, expansion: int) -> None:
        super().__init__()
        hidden = inp * expansion
        self.residual = stride == 1 and inp == out
        self.conv = nn.Sequential(
            nn.Sequential(nn.Conv2d(inp, hidden, 1, bias=False), nn.BatchNorm2d(hidden), nn.ReLU6()),
            nn.Sequential(
                nn.Conv2d(hidden, hidden, 3, stride, 1, groups=hidden, bias=False), nn.BatchNorm2d(hidden), nn.ReLU6()
            ),
            nn.Conv2d(hidden, out, 1, bias=False),
            nn.BatchNorm2d(out),
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv(x) if self.residual else self.conv(x)


class _DepthwiseStem(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(channels, channels, 3, 1, 1, groups=channels, bias=False)
        self.pointwise = nn.Conv2d(channels, channels, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.bn2 = nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.bn1(self.depthwise(x)))
        return torch.relu(self.bn2(self.pointwise(x)))


class _GlobalDepthwise(nn.Module):
    def __init__(self, channels: int, size: int) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(channels, channels, size, groups=channels, bias=False)
        self.bn = nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.bn(self.depthwise(x))


class MobileFaceNet(nn.Module):
    """Embed a face crop in the ArcFace-112 template.

    Shapes: x (B, 3, 112, 112), RGB [0, 1]; returns (B, 128) of unit length.
    """

    size = 112
    mean = (0.485, 0.456, 0.406)
    std = (0.229, 0.224, 0.225)

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Sequential(nn.Conv2d(3, 64, 3, 2, 1, bias=False), nn.BatchNorm2d(64), nn.ReLU6())
        self.dw_conv = _DepthwiseStem(64)
        blocks: list[nn.Module] = []
        channels = 64
        for expansion, out, count, first_stride in _STAGES:
            for index in range(count):
                blocks.append(_Bottleneck(channels, out, first_stride if index == 0 else 1, expansion))
                channels = out
        self.features = nn.Sequential(*blocks)
        self.conv2 = nn.Sequential(nn.Conv2d(128, 512, 1, bias=False), nn.BatchNorm2d(512), nn.ReLU6())
        self.gdconv = _GlobalDepthwise(512, 7)
        self.conv3 = nn.Conv2d(512, 128, 1)
        self.bn = nn.BatchNorm2d(128)

    def forward(self, x: Tensor) -> Tensor:
        x = self.features(self.dw_conv(self.conv1(self._normalised(x))))
        x = self.bn(self.conv3(self.gdconv(self.conv2(x))))
        return nn.functional.normalize(x.flatten(1), dim=1)

    def maps(self, x: Tensor) -> tuple[Tensor, ...]:
        """Return the maps at 1/2, 1/4, 1/8 and 1/16, the last of each size."""
        half = self.dw_conv(self.conv1(self._normalised(x)))
        quarter = self.features[:5](half)
        eighth = self.features[5:12](quarter)
        return half, quarter, eighth, self.features[12:](eighth)

    def _normalised(self, x: Tensor) -> Tensor:
        # Not buffers: those outside a checkpoint are lost when a net is built on the meta device.
        return (x - x.new_tensor(self.mean).view(1, 3, 1, 1)) / x.new_tensor(self.std).view(1, 3, 1, 1)
