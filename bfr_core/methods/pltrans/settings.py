"""What can be set of the latent transformations (paper Sec. 3); switches are rows of Table 1."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from ...dial import fidelity_param
from ...settings import param
from .degradation_level import N, S


@dataclass(frozen=True, slots=True)
class PLTransSettings:
    """See each field's help."""

    fidelity: float = fidelity_param()
    steps: Literal["auto", "fixed"] = param(
        "auto", "How far features are perturbed: auto reads how degraded each face is, fixed takes n and s as given"
    )
    n: int = param(
        N, "Steps of perturbation, of 1000; more for heavier degradation. With fixed steps", low=1, high=1000
    )
    s: int = param(S, "Where the way back ends in one leap, below n. With fixed steps", low=0, high=999)
    transitions: int = param(3, "Steps on the way back from n to s", low=1, high=200)
    levels: int = param(
        1, "J: low frequencies are those that remain after halving the features so often", low=1, high=3
    )
    diffusion: bool = param(True, "Regularise the query by latent diffusion; off: w/o DIFF of Table 1")
    wavelet: bool = param(True, "Keep the input's low frequencies on the way back; off: w/o DWT of Table 1")
    dictionary: bool = param(True, "Make keys and values of the dictionary of clean faces; off: w/o V of Table 1")
    transformer: bool = param(True, "Refine what the dictionary gives by the light transformer; off: w/o LT of Table 1")
