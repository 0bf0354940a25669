"""A small face embedding, to tell people apart and to guide with its gradient where the user has no recogniser file.

Ours. Dense 3x3 convolutions, because depthwise ones are memory-bound on processors in both directions; SiLU, because a
guide follows the gradient by its input and a rectifier's would jump; no normalisation once it is shipped. 89 million
multiplications for a face, 0.88 M parameters.

Batch norms exist while training; `face_detector.fold` merges them into the convolutions.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .face_detector import _Conv


class _SmoothConv(_Conv):
    """3x3 convolution, batch norm while training, SiLU."""

    def __init__(self, inp: int, out: int, stride: int = 1, *, norm: bool, act: bool = True) -> None:
        super().__init__(inp, out, stride, norm=norm, relu=False)
        self.act = act

    def forward(self, x: Tensor) -> Tensor:
        x = super().forward(x)
        return F.silu(x) if self.act else x


class _Block(nn.Module):
    """Two convolutions around a shortcut."""

    def __init__(self, width: int, *, norm: bool) -> None:
        super().__init__()
        self.first = _SmoothConv(width, width, norm=norm)
        self.second = _SmoothConv(width, width, norm=norm, act=False)

    def forward(self, x: Tensor) -> Tensor:
        return F.silu(x + self.second(self.first(x)))


class FaceEmbedder(nn.Module):
    """Embed a face crop in the ArcFace template, at 96 px.

    Shapes: x (B, 3, 96, 96) in [-1, 1]; returns (B, dim), not normalised.

    Args:
        widths: channels at strides 2, 4, 8 and 16.
        blocks: residual blocks at each.
        wide: channels that are summed over the face, each with weights of its own for every place.
        dim: of the embedding, as the teacher's.
        norm: with batch norms, for training.
    """

    SIZE = 96
    WIDTHS = (16, 40, 96, 128)

    def __init__(
        self,
        widths: tuple[int, int, int, int] = WIDTHS,
        blocks: tuple[int, int, int, int] = (0, 1, 2, 1),
        wide: int = 256,
        dim: int = 128,
        *,
        norm: bool = False,
    ) -> None:
        super().__init__()
        stages: list[nn.Module] = []
        for inp, out, count in zip((3, *widths), widths, blocks, strict=False):
            residual = (_Block(out, norm=norm) for _ in range(count))
            stages.append(nn.Sequential(_SmoothConv(inp, out, 2, norm=norm), *residual))
        self.stages = nn.ModuleList(stages)
        self.wide = nn.Conv2d(widths[-1], wide, 1)
        places = self.SIZE // 2 ** len(widths)
        self.place = nn.Parameter(torch.empty(wide, places, places))
        self.out = nn.Linear(wide, dim)
        nn.init.normal_(self.place, 1 / places**2, 1 / places**2)

    def maps(self, x: Tensor) -> tuple[Tensor, ...]:
        """Return the maps at 1/2, 1/4, 1/8 and 1/16 of a picture of any size."""
        maps: list[Tensor] = []
        for stage in self.stages:
            x = stage(x)
            maps.append(x)
        return tuple(maps)

    def head(self, last: Tensor) -> Tensor:
        """Return the embedding (B, dim) of the map at 1/16."""
        return self.out((F.silu(self.wide(last)) * self.place).sum((2, 3)))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.maps(x)[-1])
