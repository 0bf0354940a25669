"""The improved residual networks of InsightFace: ArcFace embeddings of 18 to 200 layers.

Sources: Deng et al., "ArcFace", arXiv:1801.07698 (BN-Conv-BN-PReLU-Conv-BN units); parameter layout of the files that
InsightFace's `arcface_torch` publishes as `backbone.pth` (keys `conv1`, `bn1`, `prelu`, `layer1..4`, `bn2`, `fc`,
`features`). The first unit of each stage halves the picture in its second convolution.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .arcface_resnet import _projection, _walk

DEPTHS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 14, 3), 100: (3, 13, 30, 3), 200: (6, 26, 60, 6)}
"""Units of each stage by the number that the network is known by."""
_WIDTHS = (64, 128, 256, 512)


class _Unit(nn.Module):
    def __init__(self, inp: int, out: int, stride: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(inp)
        self.conv1 = nn.Conv2d(inp, out, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(out)
        self.prelu = nn.PReLU(out)
        self.conv2 = nn.Conv2d(out, out, 3, stride, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(out)
        self.downsample = _projection(inp, out, stride)

    def forward(self, x: Tensor) -> Tensor:
        h = self.prelu(self.bn2(self.conv1(self.bn1(x))))
        return self.bn3(self.conv2(h)) + (x if self.downsample is None else self.downsample(x))


def _stage(inp: int, out: int, count: int) -> nn.Sequential:
    return nn.Sequential(_Unit(inp, out, 2), *(_Unit(out, out, 1) for _ in range(count - 1)))


class IResNet(nn.Module):
    """Embed a face.

    Shapes: x (B, 3, 112, 112), RGB [-1, 1]; returns (B, 512), not yet of unit length.

    Args:
        depth: a key of DEPTHS.
    """

    size = 112

    def __init__(self, depth: int) -> None:
        super().__init__()
        one, two, three, four = DEPTHS[depth]
        self.conv1 = nn.Conv2d(3, 64, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.prelu = nn.PReLU(64)
        self.layer1 = _stage(64, _WIDTHS[0], one)
        self.layer2 = _stage(_WIDTHS[0], _WIDTHS[1], two)
        self.layer3 = _stage(_WIDTHS[1], _WIDTHS[2], three)
        self.layer4 = _stage(_WIDTHS[2], _WIDTHS[3], four)
        self.bn2 = nn.BatchNorm2d(_WIDTHS[3])
        self.fc = nn.Linear(_WIDTHS[3] * 7 * 7, 512)
        self.features = nn.BatchNorm1d(512)

    def forward(self, x: Tensor) -> Tensor:
        return self.features(self.fc(torch.flatten(self.bn2(self.maps(x)[-1]), 1)))

    def maps(self, x: Tensor) -> tuple[Tensor, ...]:
        """Return the maps at the end of each stage, for pictures of any size."""
        x = self.prelu(self.bn1(self.conv1(x)))
        return _walk(x, self.layer1, self.layer2, self.layer3, self.layer4)
