"""What can be set of the guided reverse diffusion (paper Sec. 3.2)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from ...dial import fidelity_param
from ...settings import param
from .mask import DELTA


@dataclass(frozen=True, slots=True)
class DiffuseRestoreSettings:
    """See each field's help."""

    fidelity: float = fidelity_param()
    start: int = param(
        400, "T': the noise that the recovered face is given before it is painted, of 1000", low=1, high=1000
    )
    steps: int = param(10, "Steps of the sampler, no more than there are noise levels up to T'", low=1, high=1000)
    sampler: Literal["dpm++", "ddim", "ddpm"] = param(
        "dpm++", "DPM-Solver++ (few steps), DDIM, or DDPM's random steps as in the paper (100 or more)"
    )
    start_from: Literal["irn", "noise"] = param("irn", "Begin from the recovered face, or from pure noise (Net1)")
    guidance: bool = param(True, "Steer each step to the identity of the recovered face; off: Net2")
    scale: float = param(0.05, "How strongly to steer", low=0.0, high=10.0, step=0.01)
    every: int = param(
        1, "Ask the guide at every k-th step only and hold its answer between, which is faster", low=1, high=100
    )
    gradient: Literal["estimate", "network"] = param(
        "estimate",
        "The gradient by the noisy face: with the estimated noise held (fast), or through the network as in the paper",
    )
    masking: Literal["learned", "difference", "none"] = param(
        "learned",
        "Where steering may act: as learnt (Net4), where the recovered face differs from the input (Eq. 8), everywhere "
        "(none: Net3)",
    )
    delta: float = param(DELTA, "How much is different, in Eq. 8", low=0.0, high=1.0, step=0.01)
    condition: Literal["config", "degraded", "irn"] = param(
        "config",
        "What the network sees beside the noisy face: what it was trained with, or x or the recovered face, where it "
        "was trained with one of them",
    )
