"""The resnet101 of VSPBFR, which has 256 outputs; its file is told by its keys under any name."""

from __future__ import annotations

from torch import nn

from ...faces.identity import Preprocessing, RecognizerLayout
from ...models.spec import ModelSpec, has_all


def _build() -> nn.Module:
    from ...networks.arcface_resnet import ResNet101

    return ResNet101()


# The whole face, bilinear without antialias.
LAYOUT = RecognizerLayout("resnet101 with 256 outputs", _build, Preprocessing(112, mean=0.5, std=0.5))
SPEC = ModelSpec(
    "resnet101",
    "recognizer",
    LAYOUT.title,
    "the network's own; most face recognition sets are for research only",
    LAYOUT.load,
    detect=has_all("layer3.22.conv3.weight", "layer1.0.downsample.0.weight", "fc.weight"),
    order=300,
)
