"""The conditional diffusion model of LPIP-Diff, trained on patches (paper Algorithm 1)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from ..diffusion import PixelConfig, PixelDiffusionStage
from ..pairs import FREE, RestorePhase

COMPACT = PixelConfig(
    phases=(
        RestorePhase("patches", 12_000, batch=8, size=256, lr=(0.012, 0.004), warmup=160, weights={"residual": 1.0}),
        RestorePhase(
            "mild", 4_000, batch=8, size=256, lr=(0.004, 0.0006), warmup=80, weights={"residual": 1.0}, mild=0.2
        ),
    ),
    optimiser="muon",
    clip=0.5,
    ema=800.0,
    latest=700,
    split=2,
    folder_weights=FREE,
    validate_images=2_000,
    validate_settings={"steps": 6},
)
"""Two cores, about an hour: patches of m = H / 4 as the method restores them, four of each face that is read.
Levels are drawn as far as the fidelity dial starts from."""

PAPER = PixelConfig(
    network="paper",
    phases=(RestorePhase("patches", 32_000_000, batch=64, size=128, lr=(2e-5, 2e-5), weights={"noise": 1.0}),),
    colour=True,
    betas=(0.9, 0.999),
    clip=0.0,
    ema=44_000.0,
    precision="bf16",
)
"""The paper gives neither steps nor rate; these are WeatherDiffusion's (Adam 2e-5, average 0.999, 64 patches)."""


class DiffusionStage(PixelDiffusionStage[PixelConfig]):
    """Train eps_theta(x_t, x~, t) on patches."""

    title: ClassVar[str] = "Patch diffusion model"
    method: ClassVar[str] = "lpip_diff"
    source: ClassVar[str] = (
        "LPIP-Diff Eq. 7 and Algorithm 1: |eps - eps_theta(sqrt(abar) x_0 + sqrt(1 - abar) eps, x~, t)|^2 on crops. "
        "The config `compact` predicts the rest beside the recovered face."
    )
    configs: ClassVar[Mapping[str, PixelConfig]] = {"compact": COMPACT, "paper": PAPER}
    weaknesses: ClassVar[str] = (
        "Trained for less than an hour on two cores and a thousand portraits: texture is partly noise, teeth and "
        "glasses are guesses."
    )


STAGE = DiffusionStage
