"""How degraded a face is, read from its pixels, and how many steps of perturbation that takes.

The paper sets its steps by a factor of downsampling that it knows, more for heavier degradation (Sec. 4.3, Fig. 4 and
5). Faces that people bring do not say theirs.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from ...media.luma import luma
from ...networks.wavelet import dwt

_SIDE, _OCTAVES = 512, 7
_HEAVIEST = 5.0
"""Octaves of detail, log2 of the factor, that count as 1: the factor is 32."""
_SLOPE, _OFFSET = 3.78, -3.47
"""From the contrast below, in powers of ten, to octaves: fitted to 16 faces, shrunk by 1 to 32, with noise and JPEG."""
_FLOOR = 1e-7
"""Energy below that of rounding to 8 bits."""

MIN_SHARE, MAX_SHARE = 0.1, 0.6
"""n of a face that lacks nothing, and of one shrunk 32-fold, as shares of T. DR2 (arXiv:2303.06885), the precedent of n
and s, perturbs to 0.27 to 0.45 of T."""
N, S = 400, 220
"""The fixed steps."""
STOP = S / N
"""s as a share of n."""


def degradation_level(faces: Tensor) -> Tensor:
    """Return how degraded faces are, (B,) in [0, 1]: 0 as sharp as a good portrait, 1 shrunk 32-fold or worse.

    A face has about as much energy in each octave of detail, falling slowly; shrinking takes the fine ones. What counts
    is the contrast of the three coarse octaves with the three fine ones, in logarithms. Noise and JPEG, which people's
    small pictures got before they were enlarged, are as coarse as these pictures and pass for detail in few octaves.
    The distance of features from their entries in the dictionary tells nothing: smooth faces are easier to quantise.

    Shapes: faces (B, 3, S, S) RGB [0, 1]; compared as pictures of 512 px.
    """
    # In float32, whatever the run's precision: differences of neighbours are what half precision rounds.
    with torch.autocast(faces.device.type, enabled=False):
        low = luma(faces.float())
        if low.shape[-1] != _SIDE:
            low = F.interpolate(low, (_SIDE, _SIDE), mode="bilinear", antialias=True, align_corners=False)
        energies = []
        for octave in range(1, _OCTAVES + 1):
            low, high = dwt(low)
            energies.append(high.square().sum(2).mean((1, 2, 3)) / 4**octave)
    logarithms = (torch.stack(energies, 1) + _FLOOR).log10()
    contrast = logarithms[:, -3:].mean(1) - logarithms[:, :3].mean(1)
    return ((_SLOPE * contrast + _OFFSET) / _HEAVIEST).clamp(0, 1)


def steps_for(read: float, timesteps: int) -> tuple[int, int]:
    """Return n and s for a degradation in [0, 1]; at least 2 and 1."""
    n = max(round(timesteps * (MIN_SHARE + (MAX_SHARE - MIN_SHARE) * read)), 2)
    return n, max(round(STOP * n), 1)
