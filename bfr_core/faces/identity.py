"""Identity: who a face crop shows, as a unit vector whose dot product with another tells how alike they are."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

from ..networks.mobilefacenet import MobileFaceNet
from ..weights import fill, load_state

# The ArcFace-112 template inside the FFHQ-512 one. Both are upright, so a plain box maps one to the other: least
# squares over the five points gives this scale and offset; the rotation it leaves out is 0.009 degrees.
_ARCFACE_SIDE = 0.7489
_ARCFACE_LEFT = 0.1265
_ARCFACE_TOP = 0.1195


class Recogniser(Protocol):
    """A differentiable face embedding."""

    size: int

    def __call__(self, x: Tensor) -> Tensor:
        """Map (B, 3, size, size) RGB [0, 1] to (B, D) of unit length."""
        ...


def load_mobilefacenet(path: Path) -> MobileFaceNet:
    """Return MobileFaceNet with the weights in `path`, ready to embed; gradients reach its input only.

    Raises:
        WeightsError: the file cannot be used or holds another model.
    """
    with torch.device("meta"):
        net = MobileFaceNet()
    fill(net, load_state(path), what="MobileFaceNet")
    return net.eval().requires_grad_(False)


def arcface_crop(faces: Tensor, size: int = 112) -> Tensor:
    """Cut the ArcFace template out of FFHQ-aligned crops, antialiased and differentiable.

    Shapes: faces (B, 3, S, S) in the FFHQ template; returns (B, 3, size, size).
    """
    side = faces.shape[-1]
    left, top, length = (round(value * side) for value in (_ARCFACE_LEFT, _ARCFACE_TOP, _ARCFACE_SIDE))
    cut = faces[..., top : top + length, left : left + length]
    return F.interpolate(cut, (size, size), mode="bilinear", antialias=True, align_corners=False)


def embed(recogniser: Recogniser, faces: Tensor) -> Tensor:
    """Return the identity vectors of FFHQ-aligned crops: (B, 3, S, S) in [0, 1] to (B, D) of unit length."""
    return recogniser(arcface_crop(faces, recogniser.size))


def identity_cosine(recogniser: Recogniser, faces: Tensor, truth: Tensor) -> Tensor:
    """Return the cosine between the identities of two sets of FFHQ-aligned crops, (B,) in [-1, 1]."""
    with torch.no_grad():
        return (embed(recogniser, faces) * embed(recogniser, truth)).sum(1)
