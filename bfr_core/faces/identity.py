"""Identity: who a face crop shows, as a unit vector whose dot product with another tells how alike they are.

Each published recogniser wants its own window, size, resampling and value range of an FFHQ-aligned face. They are data
(`Preprocessing`) beside the layout of its file, so that `embed` does for each what it was published with. A small one
of ours comes with the package (`embedded_recogniser`), for those who have no file.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Literal, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..errors import WeightsError
from ..networks.arcface_resnet import ArcFaceResNet18, ResNet101
from ..networks.face_embedder import FaceEmbedder
from ..networks.iresnet import DEPTHS, IResNet
from ..networks.irse import IRSE50
from ..networks.mobilefacenet import MobileFaceNet
from ..weights import fill, load_embedded, load_state

# The ArcFace-112 template inside the FFHQ-512 one. Both are upright, so a plain box maps one to the other: least
# squares over the five points gives this scale and offset; the rotation it leaves out is 0.009 degrees.
_ARCFACE_SIDE = 0.7489
_ARCFACE_LEFT = 0.1265
_ARCFACE_TOP = 0.1195
_AT_ONCE = 16
"""Faces embedded together: more are no faster and take more memory."""


class Recogniser(Protocol):
    """A differentiable face embedding."""

    size: int

    def __call__(self, x: Tensor) -> Tensor:
        """Map (B, 3, size, size) RGB [0, 1] to (B, D) of unit length."""
        ...


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
class Layout:
    """One kind of recogniser file."""

    title: str
    build: Callable[[], nn.Module]
    keys: tuple[str, ...]
    """Keys that only its files have all of."""
    preprocessing: Preprocessing
    maps: Callable[..., tuple[Tensor, ...]]
    """(network, its input of any size) to feature maps, fine to coarse, as the perceptual loss compares them."""


def _mobilefacenet_maps(net: MobileFaceNet, x: Tensor) -> tuple[Tensor, ...]:
    """Return the maps at 1/2, 1/4, 1/8 and 1/16, the last of each size."""
    x = (x - x.new_tensor(net.mean).view(1, 3, 1, 1)) / x.new_tensor(net.std).view(1, 3, 1, 1)
    half = net.dw_conv(net.conv1(x))
    quarter = net.features[:5](half)
    eighth = net.features[5:12](quarter)
    return half, quarter, eighth, net.features[12:](eighth)


MOBILEFACENET = Layout(
    "MobileFaceNet",
    MobileFaceNet,
    ("dw_conv.depthwise.weight", "gdconv.depthwise.weight", "conv3.weight"),
    # Its own forward subtracts ImageNet's mean.
    Preprocessing(112, window=(_ARCFACE_LEFT, _ARCFACE_TOP, _ARCFACE_SIDE), resample="antialias"),
    _mobilefacenet_maps,
)
IR_SE50 = Layout(
    "IR-SE50",
    IRSE50,
    ("input_layer.0.weight", "body.23.res_layer.5.fc1.weight", "output_layer.3.weight"),
    # The identity loss of pSp and e4e: pooled to 256, rows 35 to 223, columns 32 to 220, pooled to 112.
    Preprocessing(112, window=(32 / 256, 35 / 256, 188 / 256), frame=256, resample="area", mean=0.5, std=0.5),
    IRSE50.maps,
)
ARCFACE_RESNET18 = Layout(
    "ArcFace resnet18",
    ArcFaceResNet18,
    ("layer1.0.bn0.weight", "bn4.weight", "fc5.weight", "bn5.weight"),
    # GFPGAN and RestoreFormer: the whole face, MATLAB's gray, bilinear without antialias even at 512.
    Preprocessing(128, mean=0.5, std=0.5, gray=(0.2989, 0.5870, 0.1140)),
    ArcFaceResNet18.maps,
)
RESNET101 = Layout(
    "resnet101 with 256 outputs",
    ResNet101,
    ("layer3.22.conv3.weight", "layer1.0.downsample.0.weight", "fc.weight"),
    # VSPBFR: the whole face, bilinear without antialias.
    Preprocessing(112, mean=0.5, std=0.5),
    ResNet101.maps,
)
EMBEDDED = Layout(
    "embedded recogniser",
    FaceEmbedder,
    ("stages.3.1.second.0.weight", "wide.weight", "place", "out.weight"),
    Preprocessing(
        FaceEmbedder.SIZE, window=MOBILEFACENET.preprocessing.window, resample="antialias", mean=0.5, std=0.5
    ),
    FaceEmbedder.maps,
)


def _iresnet(depth: int, last: int) -> Layout:
    """Return the layout of an iresnet whose third stage ends with unit `last`; shallower ones lack that unit."""
    return Layout(
        f"iresnet{depth}",
        partial(IResNet, depth),
        (f"layer3.{last}.prelu.weight", f"layer3.{last}.bn3.weight", "fc.weight", "features.weight"),
        # The template of InsightFace's norm_crop, with the same range as its arcface_torch.
        Preprocessing(112, window=MOBILEFACENET.preprocessing.window, resample="antialias", mean=0.5, std=0.5),
        IResNet.maps,
    )


# The deepest first: its file has every key of the shallower ones.
IRESNETS = tuple(_iresnet(depth, DEPTHS[depth][2] - 1) for depth in sorted(DEPTHS, reverse=True))
LAYOUTS = (EMBEDDED, MOBILEFACENET, IR_SE50, *IRESNETS, ARCFACE_RESNET18, RESNET101)

_STRANGERS = (
    ("an IR-50 without squeeze and excitation", ("input_layer.0.weight", "body.23.res_layer.4.weight")),
    ("an e4e or pSp encoder with its decoder", ("encoder.input_layer.0.weight",)),
    ("an iresnet of another depth", ("layer1.0.prelu.weight", "features.weight")),
    ("a FaceNet (Inception-ResNet)", ("conv2d_1a.conv.weight",)),
    ("a VGG classifier", ("features.0.weight", "classifier.0.weight")),
    ("a ResNet of another depth", ("layer1.0.conv1.weight", "fc.weight")),
)
"""Files that people take for one of ours, and keys that tell."""


class FaceRecogniser(nn.Module):
    """A recogniser with the preprocessing it was published with; frozen, for good in evaluation mode.

    Shapes: x (B, 3, size, size) RGB [0, 1], as `preprocessing.crop` cuts it; returns (B, D) float32 of unit length.
    """

    def __init__(self, net: nn.Module, layout: Layout) -> None:
        super().__init__()
        self.net, self.layout = net, layout
        self.title, self.preprocessing, self.size = layout.title, layout.preprocessing, layout.preprocessing.size
        self.eval().requires_grad_(False)

    def train(self, mode: bool = True) -> FaceRecogniser:
        """Stay in evaluation mode: a trainer's `train()` must not make batch statistics part of an identity."""
        return super().train(False)

    def forward(self, x: Tensor) -> Tensor:
        """Embed pictures that `preprocessing.crop` made."""
        return F.normalize(self.net(self.preprocessing.normalise(x)).float(), dim=1)

    def maps(self, faces: Tensor) -> tuple[Tensor, ...]:
        """Return feature maps of faces (B, 3, H, W) RGB [0, 1] of any size, fine to coarse."""
        return self.layout.maps(self.net, self.preprocessing.normalise(faces))


def layout_of(keys: Collection[str]) -> Layout | None:
    """Return the layout that a file with `keys` has, None where it is none of LAYOUTS."""
    present = set(keys)
    return next((layout for layout in LAYOUTS if present.issuperset(layout.keys)), None)


def _describe(keys: Collection[str]) -> str | None:
    """Name what a file with `keys` holds, None where nobody knows."""
    if layout := layout_of(keys):
        return layout.title
    present = set(keys)
    return next((title for title, marks in _STRANGERS if present.issuperset(marks)), None)


def load_recogniser(path: Path) -> FaceRecogniser:
    """Return the recogniser in `path`, its kind told by its keys; gradients reach its input only.

    Files from before torch counted batches lack `num_batches_tracked`, which evaluation never reads; they load.

    Raises:
        WeightsError: the file cannot be read, or holds another model; the message says which.
    """
    state = load_state(path)
    layout = layout_of(state)
    if layout is None:
        found = _describe(state) or f"an unknown model with keys {', '.join(list(state)[:3])}"
        raise WeightsError(
            f"Cannot use {path} as a face recogniser",
            found=f"the file holds {found}; expected {', '.join(known.title for known in LAYOUTS[:-1])} "
            f"or {LAYOUTS[-1].title}",
            kept="Nothing was loaded and the file is unchanged",
            todo="Give a file of one of these, such as model_ir_se50.pth or arcface_resnet18.pth, or none for the "
            "recogniser that comes with the package",
        )
    with torch.device("meta"):
        net = layout.build()
    fill(net, _with_counters(net, state), what=f"{layout.title} ({path})", guess=_describe)
    return FaceRecogniser(net, layout)


def embedded_recogniser(device: torch.device | str = "cpu") -> FaceRecogniser:
    """Return the recogniser that comes with the package; loaded once for each device, so leave it where it is.

    Raises:
        WeightsError: its file is missing or damaged.
    """
    return _embedded_on(torch.device(device))


@lru_cache(maxsize=4)
def _embedded_on(device: torch.device) -> FaceRecogniser:
    # Who asks first may be in inference mode, whose tensors could never guide anybody.
    with torch.inference_mode(False):
        with torch.device("meta"):
            net = EMBEDDED.build()
        fill(net, load_embedded("recogniser"), what=EMBEDDED.title)
        return FaceRecogniser(net, EMBEDDED).to(device)


def _with_counters(net: nn.Module, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    counters = (key for key in net.state_dict() if key.endswith(".num_batches_tracked"))
    return {**{key: torch.zeros((), dtype=torch.long) for key in counters}, **state}


def load_mobilefacenet(path: Path) -> MobileFaceNet:
    """Return MobileFaceNet with the weights in `path`, ready to embed; gradients reach its input only.

    Raises:
        WeightsError: the file cannot be used or holds another model.
    """
    with torch.device("meta"):
        net = MobileFaceNet()
    fill(net, load_state(path), what="MobileFaceNet", guess=_describe)
    return net.eval().requires_grad_(False)


def arcface_crop(faces: Tensor, size: int = 112) -> Tensor:
    """Cut the ArcFace template out of FFHQ-aligned crops, antialiased and differentiable.

    Shapes: faces (B, 3, S, S) in the FFHQ template; returns (B, 3, size, size).
    """
    window = MOBILEFACENET.preprocessing.window
    return Preprocessing(size, window=window, resample="antialias").crop(faces)


def embed(recogniser: Recogniser, faces: Tensor) -> Tensor:
    """Return the identity vectors of FFHQ-aligned crops: (B, 3, S, S) in [0, 1] to (B, D) of unit length.

    A recogniser without a preprocessing of its own reads the ArcFace template.
    """
    if isinstance(recogniser, FaceRecogniser):
        return recogniser(recogniser.preprocessing.crop(faces))
    return recogniser(arcface_crop(faces, recogniser.size))


def identity_cosine(recogniser: Recogniser, faces: Tensor, truth: Tensor) -> Tensor:
    """Return the cosine between the identities of two sets of FFHQ-aligned crops, (B,) in [-1, 1]."""
    with torch.no_grad():
        return (embed(recogniser, faces) * embed(recogniser, truth)).sum(1)


def identities(recogniser: Recogniser, faces: Tensor) -> Tensor:
    """Return the identity vectors of any number of FFHQ-aligned crops, (B, D) on the CPU, a few at a time.

    The faces may lie on another device than the recogniser; no gradients.
    """
    where = next(recogniser.parameters()).device if isinstance(recogniser, FaceRecogniser) else faces.device
    with torch.no_grad():
        return torch.cat([embed(recogniser, part.to(where)).cpu() for part in faces.split(_AT_ONCE)])


def drift(recogniser: Recogniser, before: Tensor, after: Tensor) -> Tensor:
    """Return how far work on FFHQ-aligned faces moved who they show, (B,): 0 the same person, about 1 somebody else.

    One minus the cosine; the two may differ in size. What is usual depends on the recogniser, see `people.USUAL_DRIFT`.
    """
    return (1 - (identities(recogniser, before) * identities(recogniser, after)).sum(1)).clamp(min=0)
