"""The conditional diffusion model of LPIP-Diff, trained on patches (paper Algorithm 1)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import ClassVar

from ..diffusion import COMPACT_PIXELS, PixelConfig, PixelDiffusionStage
from ..pairs import RestorePhase

_CROPS, _LAST = COMPACT_PIXELS.phases

COMPACT = replace(
    COMPACT_PIXELS,
    phases=(
        replace(_CROPS, name="patches", images=12_000),
        replace(_LAST, name="mild", images=4_000, batch=8, size=256),
    ),
    split=2,
    validate_images=2_000,
    validate_settings={"steps": 6},
)
"""Patches of m = H / 4 as the method restores them, four of each face that is read."""

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
