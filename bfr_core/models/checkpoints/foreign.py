"""Files that people take for one of ours, and the keys that tell."""

from __future__ import annotations

from collections.abc import Collection

FOREIGN_CHECKPOINTS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("an IR-50 without squeeze and excitation", ("input_layer.0.weight", "body.23.res_layer.4.weight")),
    ("an e4e or pSp encoder with its decoder", ("encoder.input_layer.0.weight",)),
    ("an iresnet of another depth", ("layer1.0.prelu.weight", "features.weight")),
    ("a FaceNet (Inception-ResNet)", ("conv2d_1a.conv.weight",)),
    ("a VGG classifier", ("features.0.weight", "classifier.0.weight")),
    ("a ResNet of another depth", ("layer1.0.conv1.weight", "fc.weight")),
)
"""In words, and keys that its files have all of; the first that fits is said."""


def foreign(keys: Collection[str]) -> str | None:
    """Name the foreign model that a state dict with these keys is of, None where nobody knows."""
    return next((title for title, marks in FOREIGN_CHECKPOINTS if all(key in keys for key in marks)), None)
