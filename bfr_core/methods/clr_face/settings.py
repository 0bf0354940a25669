"""What can be set of the refinement (paper Sec. 3.2 and 3.3)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from ...dial import fidelity_param
from ...diffusion.samplers import SOLVERS
from ...settings import param

SIGMA_MAX = 80.0
"""Where pure noise begins (EDM Table 1)."""


@dataclass(frozen=True, slots=True)
class ClrFaceSettings:
    """See each field's help."""

    fidelity: float = fidelity_param()
    steps: int = param(40, "Steps of the refinement; 0 decodes the start as it is", low=0, high=200)
    sampler: str = param(
        "heun",
        "Solver of the same flow: heun, as published, takes two evaluations a step; dpm++ and the cruder ddim one",
        choices=tuple(SOLVERS),
    )
    start: Literal["irn", "degraded", "noise"] = param(
        "irn",
        "What is noised and then refined: the identity recovery network's face, the input itself, or nothing but noise",
    )
    sigma: float = param(
        2.04, "Noise at the start, but for pure noise; more paints more anew", low=0.01, high=SIGMA_MAX, step=0.01
    )
    guidance: bool = param(True, "Steer the refinement to the identity of the recovered face, or of a reference photo")
    scale: float = param(0.02, "Strength of the identity guidance", low=0.0, high=1.0, step=0.005)
    every: int = param(
        1,
        "Ask the guide at every k-th step, which takes the decoder forwards and backwards, and hold its answer between",
        low=1,
        high=50,
    )
    guide_from: float = param(SIGMA_MAX, "Guide from this noise level down", low=0.0, high=SIGMA_MAX, step=0.01)
    guide_to: float = param(0.0, "Guide down to this noise level", low=0.0, high=SIGMA_MAX, step=0.01)
    masking: Literal["learned", "none"] = param(
        "learned", "Latent features that the guidance may change: those the mask network finds, or all (none)"
    )
