"""The shape in which a restored face is pasted: that of the head, not of the square it was restored in.

What lies beside a head in the square is restored as well, and smoothed where it was grained or sharp. It stays the
input's. Hair is no landmark, so the outline is that of the face, drawn wider by as much as hair and ears usually take.

Source: ours, on the outlines of `faces.regions`.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from ..faces.align import FFHQ_TEMPLATE
from ..faces.regions import face_outline, signed_distance
from ..types import FaceCrop
from .masks import ramp

_SIDE = 64
"""Side at which the outline is drawn: its edge is soft."""
_FULL, _SOFT = 0.055, 0.1
"""How far outside the outline of the face, ears and hair included, a restored face shows in full, and over how much
more it fades, as shares of the side."""
_CROWN = 0.24
"""How much higher than the outline, which ends at the hairline, the head does."""
_ASTRAY = 0.12
"""Most by which a point may stray from the template, as a share of the side; further, it says nothing of an outline."""


def head_mask(crop: FaceCrop) -> Tensor:
    """Return where in its square a head is, (64, 64) float32 in [0, 1].

    Without usable points it is that of a usual head.
    """
    points = crop.face.points @ crop.matrix[:, :2].T + crop.matrix[:, 2]
    points, usual = points / crop.size, FFHQ_TEMPLATE / 512
    if not (np.isfinite(points).all() and np.abs(points - usual).max() <= _ASTRAY):
        points = usual
    outline = face_outline(points * _SIDE, _SIDE)
    eyes = points[:2].mean(0) * _SIDE
    above = np.clip((eyes[1] - outline[:, 1]) / max(eyes[1] - outline[:, 1].min(), 1e-6), 0, 1)
    outline = outline - np.stack([np.zeros_like(above), _CROWN * _SIDE * above], 1)
    outside = signed_distance(outline, 0, 0, _SIDE, _SIDE) / _SIDE
    return ramp(torch.from_numpy((_FULL + _SOFT - outside) / _SOFT).float(), 1.0)
