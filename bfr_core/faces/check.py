"""Whether what was found is a face: a look at the aligned crop, which throws out what only scored like one."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from ..models.checkpoints.cards import load_embedded
from ..models.checkpoints.files import fill
from ..networks.face_check import FaceCheckNet
from ..types import Face
from .align import FFHQ_TEMPLATE, sample, similarity

WEIGHTS = "face_check"
LEAST = 0.5
"""Likelihood below which something is no face."""
NO_FACE = "looked like a face at {:.2f}, and is none"
"""What is said of it, with the detector's score."""
_SCALE, _MARGIN = FaceCheckNet.TEMPLATE / 512, (FaceCheckNet.TEMPLATE - FaceCheckNet.SIZE) / 2
VIEW_TEMPLATE = FFHQ_TEMPLATE * _SCALE - _MARGIN
"""Where the five points lie in the crop that is looked at."""


def view(frame: Tensor, points: np.ndarray) -> Tensor:
    """Return the crop that is looked at, (3, SIZE, SIZE), from a frame (3, H, W) and the five points of a face in it.

    Raises:
        InputMediaError: the points do not define a similarity.
    """
    return sample(frame, similarity(points, VIEW_TEMPLATE), FaceCheckNet.SIZE).clamp_(0, 1)


def view_of_crop(crop: Tensor) -> Tensor:
    """Return the same from an aligned crop, (3, S, S), of the FFHQ template."""
    matrix = np.array([[_SCALE * 512 / crop.shape[-1], 0, -_MARGIN], [0, _SCALE * 512 / crop.shape[-1], -_MARGIN]])
    return sample(crop, matrix, FaceCheckNet.SIZE).clamp_(0, 1)


def likelihoods(views: Tensor) -> list[float]:
    """Return of every view (N, 3, SIZE, SIZE) how likely it shows a face, 0 to 1."""
    if not len(views):
        return []
    with torch.inference_mode():
        # With its mirror image, which errs elsewhere.
        logits = _net()(torch.cat((views, views.flip(3))).cpu().contiguous(memory_format=torch.channels_last))
    return ((logits[: len(views)] + logits[len(views) :]) / 2).sigmoid().double().tolist()


def likelihoods_of(frame: Tensor, faces: Sequence[Face]) -> list[float]:
    """Return how likely each of these is a face: frame (3, H, W) in [0, 1]."""
    if not faces:
        return []
    return likelihoods(torch.stack([view(frame, face.points) for face in faces]))


@lru_cache(1)
def _net() -> FaceCheckNet:
    # On the CPU wherever the detector computes: a crop takes it less than a millisecond.
    with torch.inference_mode(False), torch.device("meta"):
        net = FaceCheckNet()
    fill(net, load_embedded(WEIGHTS), what="the check of faces")
    return net.eval().requires_grad_(False).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
