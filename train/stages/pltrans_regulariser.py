"""The regulariser of PLTrans by itself: the first line of Eq. 12, with everything else frozen."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

from torch import nn

from bfr_core.models.checkpoints.files import fill, load_state

from ..pairs import FREE, RestorePhase
from ..pltrans import PLTransConfig, PLTransStage, RegulariserNet, RestorationNet, regularising
from ..stage import FileNeed, Objective

COMPACT = PLTransConfig(
    phases=(
        RestorePhase(
            "features", 6_000, batch=8, size=256, lr=(0.01, 0.001), warmup=160, mild=0.1,
            weights={"features": 1.0, "kl": 1e-6, "diffusion": 1.0},
        ),
    ),
    optimiser="muon",
    clip=0.1,
    ema=600.0,
    precision="auto",
    folder_weights=FREE,
)  # fmt: skip
"""Two cores, about half an hour."""

PAPER = PLTransConfig(
    network="paper",
    phases=(
        RestorePhase(
            "features", 2_100_000, batch=4, lr=(5e-5, 5e-5), weights={"features": 1.0, "kl": 5e-5, "diffusion": 1.0}
        ),
    ),
    degradation="pltrans",
    betas=(0.9, 0.999),
    clip=0.0,
    ema=10_000.0,
)


class RegulariserStage(PLTransStage[PLTransConfig]):
    """Train E_Q, D_Q and epsilon_theta on features of a finished encoder."""

    title: ClassVar[str] = "Latent diffusion of features"
    source: ClassVar[str] = (
        "PLTrans Eq. 2 to 4 and the first line of Eq. 12. L_dif does not reach E_Q, which could make it small by "
        "saying nothing; latents are normalised by running statistics before noise is added."
    )
    configs: ClassVar[Mapping[str, PLTransConfig]] = {"compact": COMPACT, "paper": PAPER}
    needs: ClassVar[Mapping[str, FileNeed]] = {
        **{name: need for name, need in PLTransStage.needs.items() if name not in ("vgg", "heads")},
        "restorer": FileNeed("encoder, dictionary, prior and decoder: exported weights of pltrans.restorer"),
    }
    averaged: ClassVar[tuple[str, ...]] = ("regulariser",)
    exported: ClassVar[tuple[str, ...]] = ("regulariser",)
    weaknesses: ClassVar[str] = "Trained for minutes on 1,000 portraits: what is sampled from the prior is no face yet."

    def __init__(self, config: PLTransConfig, files: Mapping[str, Path]) -> None:
        super().__init__(config, files)
        frozen = RestorationNet(self.whole)
        state = {key: t for key, t in load_state(files["restorer"]).items() if not key.startswith("regulariser.")}
        fill(frozen, state, what="PLTrans without its regulariser")
        self.frozen["restorer"] = frozen

    def networks(self) -> dict[str, nn.Module]:
        return {"regulariser": RegulariserNet(self.built().regulariser)}

    def objectives(self) -> tuple[Objective, ...]:
        return (regularising(self),)


STAGE = RegulariserStage
