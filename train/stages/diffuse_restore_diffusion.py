"""The conditional diffusion model of Diffuse-and-Restore (paper Sec. 3.2, Eq. 5)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import ClassVar

from ..diffusion import COMPACT_PIXELS, PixelConfig, PixelDiffusionStage
from ..pairs import RestorePhase

COMPACT = replace(COMPACT_PIXELS, validate_settings={"steps": 6, "guidance": False})
"""It can start from weights of lpip_diff.diffusion, the same network trained on patches: --init."""

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
