"""The conditional diffusion model of Diffuse-and-Restore (paper Sec. 3.2, Eq. 5)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from ..diffusion import PixelConfig, PixelDiffusionStage
from ..pairs import FREE, RestorePhase

COMPACT = PixelConfig(
    phases=(
        RestorePhase("crops", 8_000, batch=8, size=256, lr=(0.012, 0.004), warmup=160, weights={"residual": 1.0}),
        RestorePhase(
            "faces", 2_000, batch=4, size=512, lr=(0.004, 0.0006), warmup=80, weights={"residual": 1.0}, mild=0.2
        ),
    ),
    optimiser="muon",
    clip=0.5,
    ema=800.0,
    latest=700,
    folder_weights=FREE,
    validate_settings={"steps": 6, "guidance": False},
)
"""Two cores, about an hour. Levels are drawn as far as the fidelity dial starts from. It can
start from weights of lpip_diff.diffusion, the same network trained on patches: --init."""

PAPER = PixelConfig(
    network="paper",
    phases=(
        RestorePhase("faces", 16_000_000, batch=32, size=512, lr=(1e-4, 1e-4), weights={"noise": 1.0, "bound": 0.001}),
    ),
    degradation="difface",
    colour=True,
    betas=(0.9, 0.999),
    clip=0.0,
    ema=220_000.0,
    precision="bf16",
)
"""The paper gives no schedule; rate, average and the weight of the bound are guided diffusion's."""


class DiffusionStage(PixelDiffusionStage[PixelConfig]):
    """Train f_theta(y_t, condition, t)."""

    title: ClassVar[str] = "Conditional diffusion model"
    method: ClassVar[str] = "diffuse_restore"
    source: ClassVar[str] = (
        "Diffuse-and-Restore Eq. 5: |eps - f_theta(sqrt(abar) y_0 + sqrt(1 - abar) eps, x, t)|, here squared as in "
        "DDPM, and told t instead of abar. The config `compact` predicts the rest beside the recovered face."
    )
    configs: ClassVar[Mapping[str, PixelConfig]] = {"compact": COMPACT, "paper": PAPER}
    weaknesses: ClassVar[str] = (
        "Trained for less than an hour on two cores and a thousand portraits: skin and hair are partly noise, glasses "
        "and hands are guesses."
    )


STAGE = DiffusionStage
