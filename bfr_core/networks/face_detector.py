"""A small anchor-free face detector: a score, a box and five points for every cell of three grids.

Ours. Dense 3x3 convolutions only, because depthwise ones and group norms are memory-bound on processors: few
channels while the picture is large, more below. One head serves all three grids; what it predicts is relative to
the grid's base size, so that a face looks the same to it at every level. Centres and log sides as in YOLOX
(arXiv:2107.08430, Sec. 2.1), without its objectness branch.

Batch norms exist while training; `fold` merges them into the convolutions, and what is shipped has none.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

STRIDES = (8, 16, 32)
BASE = 4
"""A grid of stride s is at home with faces of BASE * s pixels."""
OUTPUTS = 15
"""Per cell: score, dx, dy, log w, log h, five (x, y)."""


@dataclass(frozen=True, slots=True)
class Predictions:
    """What the network says about every cell of every grid, N cells in all."""

    logits: Tensor
    """(B, N)."""
    boxes: Tensor
    """(B, N, 4) x0, y0, x1, y1 in pixels of the input."""
    points: Tensor
    """(B, N, 5, 2) in pixels of the input."""


class _Conv(nn.Sequential):
    """3x3 convolution, batch norm while training, ReLU."""

    def __init__(self, inp: int, out: int, stride: int = 1, *, norm: bool, relu: bool = True) -> None:
        layers: list[nn.Module] = [nn.Conv2d(inp, out, 3, stride, 1, bias=not norm)]
        layers += [nn.BatchNorm2d(out)] if norm else []
        super().__init__(*layers)
        self.relu = relu

    def forward(self, x: Tensor) -> Tensor:
        x = super().forward(x)
        return F.relu_(x) if self.relu else x


class _Block(nn.Module):
    """Two convolutions around a shortcut."""

    def __init__(self, width: int, *, norm: bool) -> None:
        super().__init__()
        self.first = _Conv(width, width, norm=norm)
        self.second = _Conv(width, width, norm=norm, relu=False)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu_(self.second(self.first(x)) + x)


class FaceDetectorNet(nn.Module):
    """The network.

    Args:
        widths: channels at strides 2, 4, 8, 16 and 32.
        neck: channels of the pyramid and the head.
        norm: with batch norms, for training.
    """

    def __init__(
        self, widths: tuple[int, int, int, int, int] = (16, 24, 48, 64, 64), neck: int = 48, *, norm: bool = False
    ) -> None:
        super().__init__()
        w2, w4, w8, w16, w32 = widths
        self.stem = nn.Sequential(_Conv(3, w2, 2, norm=norm), _Conv(w2, w4, 2, norm=norm), _Conv(w4, w4, norm=norm))
        self.stages = nn.ModuleList(
            nn.Sequential(_Conv(inp, out, 2, norm=norm), _Block(out, norm=norm))
            for inp, out in ((w4, w8), (w8, w16), (w16, w32))
        )
        self.lateral = nn.ModuleList(nn.Conv2d(width, neck, 1) for width in (w8, w16, w32))
        self.smooth = nn.ModuleList(_Conv(neck, neck, norm=norm) for _ in STRIDES)
        self.head = _Conv(neck, neck, norm=norm)
        self.out = nn.Conv2d(neck, OUTPUTS, 3, 1, 1)
        nn.init.normal_(self.out.weight, std=0.01)
        nn.init.zeros_(self.out.bias)
        with torch.no_grad():
            # Nearly every cell is background: start near its share, or the first steps unlearn everything else.
            self.out.bias[0] = -4.0

    def features(self, x: Tensor) -> list[Tensor]:
        """Return the raw outputs of the three grids, (B, OUTPUTS, H / stride, W / stride) each."""
        x = self.stem(x - 0.5)
        levels = []
        for stage in self.stages:
            x = stage(x)
            levels.append(x)
        merged = [lateral(level) for lateral, level in zip(self.lateral, levels, strict=True)]
        for i in (1, 0):
            merged[i] = merged[i] + F.interpolate(merged[i + 1], scale_factor=2.0, mode="nearest")
        return [self.out(self.head(smooth(F.relu(m)))) for smooth, m in zip(self.smooth, merged, strict=True)]

    def forward(self, x: Tensor) -> Predictions:
        """Predict for a batch.

        Shapes: x (B, 3, H, W) float32 RGB [0, 1], H and W multiples of 32.
        """
        logits, boxes, points = [], [], []
        for stride, raw in zip(STRIDES, self.features(x), strict=True):
            batch, _, height, width = raw.shape
            raw = raw.permute(0, 2, 3, 1).reshape(batch, height * width, OUTPUTS)
            centre, base = cells(height, width, stride, raw), float(BASE * stride)
            middle = centre + raw[..., 1:3] * base
            # e^4 of the base is far beyond any face that fits; the clamp only keeps a wild cell finite.
            half = raw[..., 3:5].clamp(-4, 4).exp() * (base / 2)
            logits.append(raw[..., 0])
            boxes.append(torch.cat((middle - half, middle + half), -1))
            points.append(centre[:, None] + raw[..., 5:].reshape(batch, -1, 5, 2) * base)
        return Predictions(torch.cat(logits, 1), torch.cat(boxes, 1), torch.cat(points, 1))


def cells(height: int, width: int, stride: int, like: Tensor) -> Tensor:
    """Return the centres of a grid's cells, (height * width, 2) x, y.

    Convention: continuous pixels; cell (0, 0) covers [0, stride) x [0, stride), so its centre is stride / 2.
    """
    y = (torch.arange(height, device=like.device, dtype=like.dtype) + 0.5) * stride
    x = (torch.arange(width, device=like.device, dtype=like.dtype) + 0.5) * stride
    return torch.stack((x.repeat(height), y.repeat_interleave(width)), -1)


def crop_body(widths: tuple[int, int, int, int], *, norm: bool) -> nn.Sequential:
    """Return what looks at a small crop, (N, 3, S, S) to (N, widths[3], S / 16, S / 16).

    Args:
        widths: channels at strides 2, 4, 8 and 16.
        norm: with batch norms, for training.
    """
    w2, w4, w8, w16 = widths
    return nn.Sequential(
        _Conv(3, w2, 2, norm=norm),
        _Conv(w2, w4, 2, norm=norm),
        _Conv(w4, w4, norm=norm),
        _Conv(w4, w8, 2, norm=norm),
        _Conv(w8, w8, norm=norm),
        _Conv(w8, w16, 2, norm=norm),
    )


class FaceRefinerNet(nn.Module):
    """A second look at one candidate, cut out of the frame at its own resolution.

    The search decides in one go about a million places and sees a face of 24 px in a 4K frame as 12 px. Looking
    again at the few places it names costs next to nothing, tells hands from faces, and puts the points right.

    Args:
        widths: channels at strides 2, 4, 8 and 16.
        norm: with batch norms, for training.
    """

    SIZE = 64
    """Side of the crops."""
    MARGIN = 1.6
    """Side of a crop in units of the candidate's size (geometric mean of its box's sides)."""

    def __init__(self, widths: tuple[int, int, int, int] = (12, 24, 40, 56), *, norm: bool = False) -> None:
        super().__init__()
        self.body = crop_body(widths, norm=norm)
        self.out = nn.Linear(widths[3] * (self.SIZE // 16) ** 2, OUTPUTS)
        self.trust = nn.Parameter(torch.ones(()))
        """How much the search's own logit counts."""
        nn.init.normal_(self.out.weight, std=0.01)
        nn.init.zeros_(self.out.bias)

    def forward(self, crops: Tensor, logits: Tensor) -> Predictions:
        """Judge candidates.

        Shapes: crops (N, 3, SIZE, SIZE) float32 RGB [0, 1]; logits (N,) of the search.

        Returns:
            Logits (N,), boxes (N, 4) and points (N, 5, 2) in units of the crop, whose corners are (0, 0) and (1, 1).
        """
        raw = self.out(self.body(crops - 0.5).flatten(1))
        middle = 0.5 + raw[:, 1:3]
        half = raw[:, 3:5].clamp(-3, 3).exp() * (0.5 / self.MARGIN)
        boxes = torch.cat((middle - half, middle + half), 1)
        return Predictions(raw[:, 0] + self.trust * logits, boxes, 0.5 + raw[:, 5:].reshape(-1, 5, 2))


class FaceCascade(nn.Module):
    """What is shipped: the search and the second look."""

    def __init__(self) -> None:
        super().__init__()
        self.search = FaceDetectorNet()
        self.refine = FaceRefinerNet()


def fold(trained: nn.Module) -> dict[str, Tensor]:
    """Return the weights of the same network without batch norms."""
    state: dict[str, Tensor] = {}
    folded: list[str] = []
    for name, module in trained.named_modules():
        if isinstance(module, _Conv) and len(module) == 2:
            conv, norm = module[0], module[1]
            assert isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d)
            assert norm.running_mean is not None and norm.running_var is not None
            gain = norm.weight / torch.sqrt(norm.running_var + norm.eps)
            state[f"{name}.0.weight"] = (conv.weight * gain[:, None, None, None]).detach()
            state[f"{name}.0.bias"] = (norm.bias - norm.running_mean * gain).detach()
            folded += [f"{name}.0.", f"{name}.1."]
    rest = {
        name: tensor.detach() for name, tensor in trained.state_dict().items() if not name.startswith(tuple(folded))
    }
    return state | rest
