"""The iresnets of InsightFace's arcface_torch, of every published depth; they are told by their keys under any name."""

from __future__ import annotations

from functools import partial

from ...faces.identity import ARCFACE_WINDOW, Preprocessing, RecognizerLayout
from ...models.spec import ModelSpec, has_all
from ...networks.iresnet import DEPTHS, IResNet


def _declared(depth: int) -> ModelSpec:
    last = DEPTHS[depth][2] - 1
    # The template of InsightFace's norm_crop, with the same range as its arcface_torch.
    preprocessing = Preprocessing(112, window=ARCFACE_WINDOW, resample="antialias", mean=0.5, std=0.5)
    layout = RecognizerLayout(f"iresnet{depth}", partial(IResNet, depth), preprocessing)
    unit = has_all(f"layer3.{last}.prelu.weight", f"layer3.{last}.bn3.weight", "fc.weight", "features.weight")
    return ModelSpec(
        f"iresnet{depth}",
        "recognizer",
        layout.title,
        "the network's own; most face recognition sets are for research only",
        layout.load,
        # A deeper file has every key of the shallower ones.
        detect=lambda keys: unit(keys) and f"layer3.{last + 1}.prelu.weight" not in keys,
        order=240 - depth,
    )


SPECS = tuple(map(_declared, DEPTHS))
