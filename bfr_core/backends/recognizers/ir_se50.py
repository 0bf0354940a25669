"""IR-SE50: the identity loss of pSp and e4e."""

from __future__ import annotations

from torch import nn

from ...faces.identity import Preprocessing, RecognizerLayout
from ...models.spec import KnownFile, ModelSpec, has_all


def _build() -> nn.Module:
    from ...networks.irse import IRSE50

    return IRSE50()


LAYOUT = RecognizerLayout(
    "IR-SE50",
    _build,
    # Pooled to 256, rows 35 to 223, columns 32 to 220, pooled to 112.
    Preprocessing(112, window=(32 / 256, 35 / 256, 188 / 256), frame=256, resample="area", mean=0.5, std=0.5),
)
SPEC = ModelSpec(
    "ir_se50",
    "recognizer",
    LAYOUT.title,
    "the network's own; most face recognition sets are for research only",
    LAYOUT.load,
    (KnownFile("model_ir_se50.pth", source="github.com/TreB1eN/InsightFace_Pytorch"),),
    detect=has_all("input_layer.0.weight", "body.23.res_layer.5.fc1.weight", "output_layer.3.weight"),
    order=30,
)
