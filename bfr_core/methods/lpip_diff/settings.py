"""What can be set of the sampling from patches (paper Algorithm 2)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from ...dial import fidelity_param
from ...settings import param


@dataclass(frozen=True, slots=True)
class LpipDiffSettings:
    """See each field's help."""

    fidelity: float = fidelity_param()
    steps: int = param(8, "Steps of the sampler, no more than there are noise levels up to the start", low=1, high=1000)
    sampler: Literal["dpm++", "ddim"] = param("dpm++", "DPM-Solver++ (few steps), or DDIM as in the paper")
    start: int = param(
        400,
        "The noise that the recovered face is given before it is painted; 1000 is noise alone, as in the paper",
        low=1,
        high=1000,
    )
    patch: int = param(
        0, "Side of the patches in pixels, a multiple of 32; 0: a quarter of a face crop's", low=0, high=4096, step=16
    )
    overlap: float = param(0.5, "How much of its side a patch shares with the next", low=0.0, high=0.9, step=0.05)
    fusion: Literal["mean", "median"] = param("mean", "How the estimates of overlapping patches are put together")
