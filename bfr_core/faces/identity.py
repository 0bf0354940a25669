"""Identity: who a face crop shows, as a unit vector whose dot product with another tells how alike they are.

Each published recogniser wants its own window, size, resampling and value range of an FFHQ-aligned face. They are data
(`Preprocessing`) in the file that declares it under `backends/recognizers/`, so that `embed` does for each what it was
published with. A small one of ours comes with the package (`embedded_recognizer`), for those who have no file.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..models.loader import load
from ..models.registry import get_spec
from ..models.roles import FaceRecognizer
from ..models.spec import Checkpoint

ARCFACE_WINDOW = (0.1265, 0.1195, 0.7489)
"""The ArcFace-112 template inside the FFHQ-512 one: left, top and side, as shares of the aligned face's side.

Both are upright, so a plain box maps one to the other: least squares over the five points gives this scale and offset;
the rotation it leaves out is 0.009 degrees."""
MIN_LIKENESS = 0.3
"""Least likeness by recognisers other than the embedded one: MobileFaceNet takes 1 % of strangers for the person from
0.24 to 0.28 on, by the view (`bfr bench recogniser`), and the other ArcFace networks are read on the same scale."""
_AT_ONCE = 16
"""Faces embedded together: more are no faster and take more memory."""


@dataclass(frozen=True, slots=True)
class Preprocessing:
    """How a recogniser wants an FFHQ-aligned face."""

    size: int
    """Side of the picture it reads."""
    window: tuple[float, float, float] = (0.0, 0.0, 1.0)
    """Left, top and side of the part it looks at, as shares of the aligned face's side."""
    frame: int | None = None
    """Side the aligned face is brought to before the window is cut, by averaging areas; None: as it is."""
    resample: Literal["antialias", "bilinear", "area"] = "bilinear"
    """From the window to `size`: bilinear with antialias, bilinear of two neighbours, or mean of areas."""
    mean: float = 0.0
    std: float = 1.0
    """The network reads (x - mean) / std for x in [0, 1]."""
    gray: tuple[float, float, float] | None = None
    """Weights of R, G and B where the network reads one channel."""

    def crop(self, faces: Tensor) -> Tensor:
        """Cut the window out of aligned faces and bring it to size.

        Shapes: faces (B, C, S, S); returns (B, C, size, size) of the same range.
        """
        if self.frame is not None and faces.shape[-1] > self.frame:
            faces = F.adaptive_avg_pool2d(faces, self.frame)
        elif self.frame is not None and faces.shape[-1] < self.frame:
            # An average over areas smaller than a pixel would only repeat pixels.
            faces = F.interpolate(faces, (self.frame, self.frame), mode="bilinear", align_corners=False)
        left, top, length = (round(share * faces.shape[-1]) for share in self.window)
        cut = faces[..., top : top + length, left : left + length]
        size = (self.size, self.size)
        if self.resample == "area":
            return F.adaptive_avg_pool2d(cut, size)
        return F.interpolate(cut, size, mode="bilinear", antialias=self.resample == "antialias", align_corners=False)

    def normalise(self, x: Tensor) -> Tensor:
        """Bring RGB [0, 1] to the range and the channels the network reads."""
        x = (x - self.mean) / self.std
        if self.gray is not None:
            x = (x * x.new_tensor(self.gray).view(1, 3, 1, 1)).sum(1, keepdim=True)
        return x


@dataclass(frozen=True, slots=True)
class RecognizerLayout:
    """One kind of recogniser file: its network and what that was trained to read."""

    title: str
    build: Callable[[], nn.Module]
    """Makes the network; it has `maps`, from its input of any size to feature maps, fine to coarse, as the perceptual
    loss compares them."""
    preprocessing: Preprocessing
    min_likeness: Callable[[], float] = lambda: MIN_LIKENESS
    """Gives the least likeness to be taken for the same person."""

    def load(self, checkpoint: Checkpoint) -> RecognizerNet:
        """Return the recogniser in a file of this kind."""
        return RecognizerNet(checkpoint.fill(self.build), self)


class RecognizerNet(nn.Module):
    """A recogniser with the preprocessing it was published with; frozen, for good in evaluation mode.

    Shapes: x (B, 3, size, size) RGB [0, 1], as `preprocessing.crop` cuts it; returns (B, D) float32 of unit length.
    """

    def __init__(self, net: Any, layout: RecognizerLayout) -> None:
        super().__init__()
        self.net, self.layout = net, layout
        self.title, self.preprocessing, self.size = layout.title, layout.preprocessing, layout.preprocessing.size
        self.eval().requires_grad_(False)

    def train(self, mode: bool = True) -> RecognizerNet:
        """Stay in evaluation mode: a trainer's `train()` must not make batch statistics part of an identity."""
        return super().train(False)

    def forward(self, x: Tensor) -> Tensor:
        """Embed pictures that `preprocessing.crop` made."""
        return F.normalize(self.net(self.preprocessing.normalise(x)).float(), dim=1)

    def maps(self, faces: Tensor) -> tuple[Tensor, ...]:
        """Return feature maps of faces (B, 3, H, W) RGB [0, 1] of any size, fine to coarse."""
        return self.net.maps(self.preprocessing.normalise(faces))


def load_recognizer(path: Path, device: torch.device | str = "cpu") -> RecognizerNet:
    """Return the recogniser in `path`, the caller's own, its kind told by its keys; gradients reach its input only.

    Raises:
        WeightsError: the file cannot be read, or holds another model; the message says which.
    """
    return load("recognizer", path, device=device, shared=False)


def embedded_recognizer(device: torch.device | str = "cpu") -> RecognizerNet:
    """Return the recogniser that comes with the package; loaded once for each device, so leave it where it is.

    Raises:
        WeightsError: its file is missing or damaged.
    """
    return load(get_spec("recognizer", "embedded"), device=device)


def arcface_crop(faces: Tensor, size: int = 112) -> Tensor:
    """Cut the ArcFace template out of FFHQ-aligned crops, antialiased and differentiable.

    Shapes: faces (B, 3, S, S) in the FFHQ template; returns (B, 3, size, size).
    """
    return Preprocessing(size, window=ARCFACE_WINDOW, resample="antialias").crop(faces)


def embed(recogniser: FaceRecognizer, faces: Tensor) -> Tensor:
    """Return the identity vectors of FFHQ-aligned crops: (B, 3, S, S) in [0, 1] to (B, D) of unit length.

    A recogniser without a preprocessing of its own reads the ArcFace template.
    """
    if isinstance(recogniser, RecognizerNet):
        return recogniser(recogniser.preprocessing.crop(faces))
    return recogniser(arcface_crop(faces, recogniser.size))


def identity_cosine(recogniser: FaceRecognizer, faces: Tensor, truth: Tensor) -> Tensor:
    """Return the cosine between the identities of two sets of FFHQ-aligned crops, (B,) in [-1, 1]."""
    with torch.no_grad():
        return (embed(recogniser, faces) * embed(recogniser, truth)).sum(1)


def identities(recogniser: FaceRecognizer, faces: Tensor) -> Tensor:
    """Return the identity vectors of any number of FFHQ-aligned crops, (B, D) on the CPU, a few at a time.

    The faces may lie on another device than the recogniser; no gradients.
    """
    where = next(recogniser.parameters()).device if isinstance(recogniser, RecognizerNet) else faces.device
    with torch.no_grad():
        return torch.cat([embed(recogniser, part.to(where)).cpu() for part in faces.split(_AT_ONCE)])


def drift(recogniser: FaceRecognizer, before: Tensor, after: Tensor) -> Tensor:
    """Return how far work on FFHQ-aligned faces moved who they show, (B,): 0 the same person, about 1 somebody else.

    One minus the cosine; the two may differ in size. What is usual depends on the recogniser, see `people.USUAL_DRIFT`.
    """
    return (1 - (identities(recogniser, before) * identities(recogniser, after)).sum(1)).clamp(min=0)


Recogniser, FaceRecogniser = FaceRecognizer, RecognizerNet
load_recogniser, embedded_recogniser = load_recognizer, embedded_recognizer
"""Their names until now, kept for one release."""
