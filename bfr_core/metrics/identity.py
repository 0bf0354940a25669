"""Identity: whether the restored face still shows the same person."""

from __future__ import annotations

import torch
from torch import Tensor

from ..faces.identity import FaceRecognizer, identity_cosine
from .fidelity import require_pair


def identity_scores(recogniser: FaceRecognizer, image: Tensor, truth: Tensor) -> Tensor:
    """Return the cosine between the identities of each face and its truth; higher is more alike.

    The papers report the same number as IDS (CLR-Face, Diffuse-and-Restore) or its angle (VQFR, as `degrees`).
    Figures of two recognisers are not comparable.

    Shapes: image, truth (B, 3, S, S) FFHQ-aligned crops in [0, 1]; returns (B,) in [-1, 1].

    Raises:
        InputMediaError: the shapes differ.
    """
    require_pair(image, truth)
    return identity_cosine(recogniser, image, truth)


def degrees(cosine: Tensor) -> Tensor:
    """Return the angle between two identities, in degrees, from its cosine; lower is more alike.

    Source: VQFR's identity distance (metric_paper/calculate_cos_dist), the arc cosine in degrees.
    """
    # Rounding can leave a cosine just outside its range.
    return torch.rad2deg(torch.arccos(cosine.cpu().double().clamp(-1, 1)))
