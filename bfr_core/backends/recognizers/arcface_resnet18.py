"""The ArcFace resnet18 on gray pictures that GFPGAN and RestoreFormer learn identity with."""

from __future__ import annotations

from torch import nn

from ...faces.identity import Preprocessing, RecognizerLayout
from ...models.spec import KnownFile, ModelSpec, has_all


def _build() -> nn.Module:
    from ...networks.arcface_resnet import ArcFaceResNet18

    return ArcFaceResNet18()


LAYOUT = RecognizerLayout(
    "ArcFace resnet18",
    _build,
    # The whole face, MATLAB's gray, bilinear without antialias even at 512.
    Preprocessing(128, mean=0.5, std=0.5, gray=(0.2989, 0.5870, 0.1140)),
)
SPEC = ModelSpec(
    "arcface_resnet18",
    "recognizer",
    LAYOUT.title,
    "the network's own; most face recognition sets are for research only",
    LAYOUT.load,
    (KnownFile("arcface_resnet18.pth", source="github.com/TencentARC/GFPGAN, releases v0.1.0"),),
    detect=has_all("layer1.0.bn0.weight", "bn4.weight", "fc5.weight", "bn5.weight"),
    order=20,
)
