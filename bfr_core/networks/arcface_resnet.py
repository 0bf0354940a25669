"""Face embeddings on ResNets: ArcFace resnet18 on gray pictures, and a plain resnet101.

Sources: He et al., "Deep Residual Learning", arXiv:1512.03385; Deng et al., "ArcFace", arXiv:1801.07698. The parameter
layouts are those of the published files: `arcface_resnet18.pth` of GFPGAN and RestoreFormer (`conv1`, `bn1`, `prelu`,
`layer1..4`, `bn4`, `fc5`, `bn5`; no squeeze and excitation), and VSPBFR's `Arcface.pth`, a resnet101 with torchvision's
keys and 256 outputs. The first evaluates one PReLU twice in each block; the file holds one slope.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def _projection(inp: int, out: int, stride: int) -> nn.Sequential | None:
    """Return the shortcut of a block that changes size or width, None where the identity does."""
    if stride == 1 and inp == out:
        return None
    return nn.Sequential(nn.Conv2d(inp, out, 1, stride, bias=False), nn.BatchNorm2d(out))


def _walk(x: Tensor, *stages: nn.Module) -> tuple[Tensor, ...]:
    """Pass `x` through the stages and return what each made of it."""
    found = []
    for stage in stages:
        x = stage(x)
        found.append(x)
    return tuple(found)


class _ArcFaceBlock(nn.Module):
    def __init__(self, inp: int, out: int, stride: int) -> None:
        super().__init__()
        self.bn0 = nn.BatchNorm2d(inp)
        self.conv1 = nn.Conv2d(inp, inp, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(inp)
        self.prelu = nn.PReLU()
        self.conv2 = nn.Conv2d(inp, out, 3, stride, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(out)
        self.downsample = _projection(inp, out, stride)

    def forward(self, x: Tensor) -> Tensor:
        h = self.prelu(self.bn1(self.conv1(self.bn0(x))))
        h = self.bn2(self.conv2(h))
        return self.prelu(h + (x if self.downsample is None else self.downsample(x)))


class ArcFaceResNet18(nn.Module):
    """Embed a gray face.

    Shapes: x (B, 1, 128, 128), gray [-1, 1]; returns (B, 512), not yet of unit length.
    """

    size = 128

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 64, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.prelu = nn.PReLU()
        self.layer1 = nn.Sequential(_ArcFaceBlock(64, 64, 1), _ArcFaceBlock(64, 64, 1))
        self.layer2 = nn.Sequential(_ArcFaceBlock(64, 128, 2), _ArcFaceBlock(128, 128, 1))
        self.layer3 = nn.Sequential(_ArcFaceBlock(128, 256, 2), _ArcFaceBlock(256, 256, 1))
        self.layer4 = nn.Sequential(_ArcFaceBlock(256, 512, 2), _ArcFaceBlock(512, 512, 1))
        self.bn4 = nn.BatchNorm2d(512)
        self.fc5 = nn.Linear(512 * 8 * 8, 512)
        self.bn5 = nn.BatchNorm1d(512)

    def forward(self, x: Tensor) -> Tensor:
        return self.bn5(self.fc5(self.bn4(self.maps(x)[-1]).flatten(1)))

    def maps(self, x: Tensor) -> tuple[Tensor, ...]:
        """Return the maps at the end of each stage, for pictures of any size."""
        x = F.max_pool2d(self.prelu(self.bn1(self.conv1(x))), 2)
        return _walk(x, self.layer1, self.layer2, self.layer3, self.layer4)


class _Bottleneck(nn.Module):
    def __init__(self, inp: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inp, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        # The stride sits on the 3x3 convolution, as in torchvision, not on the first 1x1 as in the paper.
        self.conv2 = nn.Conv2d(width, width, 3, stride, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, 4 * width, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(4 * width)
        self.downsample = _projection(inp, 4 * width, stride)

    def forward(self, x: Tensor) -> Tensor:
        h = torch.relu(self.bn1(self.conv1(x)))
        h = torch.relu(self.bn2(self.conv2(h)))
        return torch.relu(self.bn3(self.conv3(h)) + (x if self.downsample is None else self.downsample(x)))


def _bottlenecks(inp: int, width: int, count: int, stride: int) -> nn.Sequential:
    first = _Bottleneck(inp, width, stride)
    return nn.Sequential(first, *(_Bottleneck(4 * width, width, 1) for _ in range(count - 1)))


class ResNet101(nn.Module):
    """Embed a face with torchvision's resnet101.

    Shapes: x (B, 3, 112, 112), RGB [-1, 1]; returns (B, outputs), not yet of unit length.
    """

    size = 112

    def __init__(self, outputs: int = 256) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 64, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.layer1 = _bottlenecks(64, 64, 3, 1)
        self.layer2 = _bottlenecks(256, 128, 4, 2)
        self.layer3 = _bottlenecks(512, 256, 23, 2)
        self.layer4 = _bottlenecks(1024, 512, 3, 2)
        self.fc = nn.Linear(2048, outputs)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.maps(x)[-1].mean((2, 3)))

    def maps(self, x: Tensor) -> tuple[Tensor, ...]:
        """Return the maps at the end of each stage, for pictures of any size."""
        x = F.max_pool2d(torch.relu(self.bn1(self.conv1(x))), 3, 2, 1)
        return _walk(x, self.layer1, self.layer2, self.layer3, self.layer4)
