"""FAN with four hourglasses and coordinate channels: the heatmaps of 98 facial points.

Source: Wang, Bo and Li, "Adaptive Wing Loss for Robust Face Alignment via Heatmap Regression", arXiv:1904.07399, Sec.
4 and 6 (boundary heatmap and coordinate channels), in the parameter layout of facexlib's `alignment_WFLW_4HG.pth`.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

_CHANNELS = 256
_BOUNDARY = 0.05
"""Height of the boundary heatmap above which a pixel keeps its coordinates in the boundary's own channels."""


class CoordConv(nn.Module):
    """A convolution that also sees where it is: row and column in [-1, 1], radius, and both again on the boundary.

    The first channel runs down the picture and the second across it, the order in which the published weights
    were trained.
    """

    def __init__(self, inp: int, out: int, kernel: int, *, stride: int = 1, padding: int = 0, boundary: bool) -> None:
        super().__init__()
        self.boundary = boundary
        self.conv = nn.Conv2d(inp + (5 if boundary else 3), out, kernel, stride, padding)

    def forward(self, x: Tensor, heatmaps: Tensor | None = None) -> Tensor:
        batch, _, height, width = x.shape
        down = torch.linspace(-1, 1, height, dtype=x.dtype, device=x.device).view(1, 1, -1, 1)
        across = torch.linspace(-1, 1, width, dtype=x.dtype, device=x.device).view(1, 1, 1, -1)
        place = torch.cat([down.expand(batch, 1, height, width), across.expand(batch, 1, height, width)], 1)
        radius = place.square().sum(1, keepdim=True).sqrt()
        parts = [x, place, radius / radius.amax()]
        if self.boundary:
            assert heatmaps is not None
            parts.append(torch.where(heatmaps[:, -1:].clamp(0, 1) > _BOUNDARY, place, 0.0))
        return self.conv(torch.cat(parts, 1))


class ConvBlock(nn.Module):
    """Three convolutions in a row whose outputs are joined (a half and two quarters), added to the input."""

    def __init__(self, inp: int, out: int) -> None:
        super().__init__()
        half, quarter = out // 2, out // 4
        self.bn1 = nn.BatchNorm2d(inp)
        self.conv1 = nn.Conv2d(inp, half, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(half)
        self.conv2 = nn.Conv2d(half, quarter, 3, padding=1, bias=False)
        self.bn3 = nn.BatchNorm2d(quarter)
        self.conv3 = nn.Conv2d(quarter, quarter, 3, padding=1, bias=False)
        self.downsample = (
            nn.Sequential(nn.BatchNorm2d(inp), nn.ReLU(), nn.Conv2d(inp, out, 1, bias=False)) if inp != out else None
        )

    def forward(self, x: Tensor) -> Tensor:
        first = self.conv1(torch.relu(self.bn1(x)))
        second = self.conv2(torch.relu(self.bn2(first)))
        third = self.conv3(torch.relu(self.bn3(second)))
        return torch.cat([first, second, third], 1) + (x if self.downsample is None else self.downsample(x))


class Hourglass(nn.Module):
    """Four levels down by averaging and up by repetition, each level keeping a branch at its own size."""

    def __init__(self, depth: int = 4, *, first: bool) -> None:
        super().__init__()
        self.depth = depth
        self.coordconv = CoordConv(_CHANNELS, _CHANNELS, 1, boundary=not first)
        for level in range(depth, 0, -1):
            self.add_module(f"b1_{level}", ConvBlock(_CHANNELS, _CHANNELS))
            self.add_module(f"b2_{level}", ConvBlock(_CHANNELS, _CHANNELS))
            self.add_module(f"b3_{level}", ConvBlock(_CHANNELS, _CHANNELS))
        self.add_module("b2_plus_1", ConvBlock(_CHANNELS, _CHANNELS))

    def forward(self, x: Tensor, heatmaps: Tensor | None) -> Tensor:
        return self._level(self.depth, self.coordconv(x, heatmaps))

    def _level(self, level: int, x: Tensor) -> Tensor:
        inner = self.get_submodule(f"b2_{level}")(F.avg_pool2d(x, 2))
        inner = self._level(level - 1, inner) if level > 1 else self.get_submodule("b2_plus_1")(inner)
        inner = self.get_submodule(f"b3_{level}")(inner)
        return self.get_submodule(f"b1_{level}")(x) + F.interpolate(inner, scale_factor=2.0, mode="nearest")


class Fan(nn.Module):
    """Four stacked hourglasses, each refining the heatmaps of the one before.

    Shapes: x (B, 3, 256, 256) RGB [0, 1]; returns (B, points + 1, 64, 64), the last map being the face's boundaries.
    """

    def __init__(self, points: int = 98, stacks: int = 4) -> None:
        super().__init__()
        self.stacks = stacks
        self.conv1 = CoordConv(3, 64, 7, stride=2, padding=3, boundary=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.conv2 = ConvBlock(64, 128)
        self.conv3 = ConvBlock(128, 128)
        self.conv4 = ConvBlock(128, _CHANNELS)
        for index in range(stacks):
            self.add_module(f"m{index}", Hourglass(first=index == 0))
            self.add_module(f"top_m_{index}", ConvBlock(_CHANNELS, _CHANNELS))
            self.add_module(f"conv_last{index}", nn.Conv2d(_CHANNELS, _CHANNELS, 1))
            self.add_module(f"bn_end{index}", nn.BatchNorm2d(_CHANNELS))
            self.add_module(f"l{index}", nn.Conv2d(_CHANNELS, points + 1, 1))
            if index < stacks - 1:
                self.add_module(f"bl{index}", nn.Conv2d(_CHANNELS, _CHANNELS, 1))
                self.add_module(f"al{index}", nn.Conv2d(points + 1, _CHANNELS, 1))

    def forward(self, x: Tensor) -> Tensor:
        part = self.get_submodule
        x = F.avg_pool2d(self.conv2(torch.relu(self.bn1(self.conv1(x)))), 2)
        x = self.conv4(self.conv3(x))
        heatmaps: Tensor | None = None
        for index in range(self.stacks):
            inner = part(f"top_m_{index}")(part(f"m{index}")(x, heatmaps))
            inner = torch.relu(part(f"bn_end{index}")(part(f"conv_last{index}")(inner)))
            heatmaps = part(f"l{index}")(inner)
            if index < self.stacks - 1:
                x = x + part(f"bl{index}")(inner) + part(f"al{index}")(heatmaps)
        assert heatmaps is not None
        return heatmaps
