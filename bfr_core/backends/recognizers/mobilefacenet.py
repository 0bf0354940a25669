"""MobileFaceNet, in the layout of the Apache-2.0 checkpoint."""

from __future__ import annotations

from torch import nn

from ...faces.identity import ARCFACE_WINDOW, Preprocessing, RecognizerLayout
from ...models.spec import KnownFile, ModelSpec, has_all


def _build() -> nn.Module:
    from ...networks.mobilefacenet import MobileFaceNet

    return MobileFaceNet()


# Its own forward subtracts ImageNet's mean.
LAYOUT = RecognizerLayout("MobileFaceNet", _build, Preprocessing(112, window=ARCFACE_WINDOW, resample="antialias"))
SPEC = ModelSpec(
    "mobilefacenet",
    "recognizer",
    LAYOUT.title,
    "the network's own; most face recognition sets are for research only",
    LAYOUT.load,
    (KnownFile("mobilefacenet.pt", source="a MobileFaceNet checkpoint"),),
    detect=has_all("dw_conv.depthwise.weight", "gdconv.depthwise.weight", "conv3.weight"),
    order=10,
)
