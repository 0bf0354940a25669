"""The recogniser that comes with the package: small, smooth, distilled from MobileFaceNet on free faces."""

from __future__ import annotations

from torch import nn

from ...faces.identity import ARCFACE_WINDOW, Preprocessing, RecognizerLayout
from ...models.checkpoints.cards import read_card
from ...models.spec import ModelSpec, has_all

_WEIGHTS = "recogniser"


def _build() -> nn.Module:
    from ...networks.face_embedder import FaceEmbedder

    return FaceEmbedder()


def _least() -> float:
    """Return what its card says: the cosine from which 1 % of strangers are taken for the person.

    That is of a clean photo, when that person's picture is mirrored, turned, relit and degraded.
    """
    return read_card(_WEIGHTS).metrics["least_moved_gfpgan"]


LAYOUT = RecognizerLayout(
    "embedded recogniser",
    _build,
    Preprocessing(96, window=ARCFACE_WINDOW, resample="antialias", mean=0.5, std=0.5),
    _least,
)
SPEC = ModelSpec(
    "embedded",
    "recognizer",
    LAYOUT.title,
    "MIT",
    LAYOUT.load,
    embedded=(_WEIGHTS,),
    detect=has_all("stages.3.1.second.0.weight", "wide.weight", "place", "out.weight"),
    order=0,
)
