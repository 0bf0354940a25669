"""The region mask of Diffuse-and-Restore (paper Sec. 3.2.1)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import torch
from pydantic.dataclasses import dataclass
from torch import Tensor

from bfr_core.diffusion.guidance import steering, targets
from bfr_core.diffusion.levels import q_sample
from bfr_core.methods.diffuse_restore.mask import DELTA, changed

from ..config import STRICT
from ..data import Batch
from ..diffusion import MASK_NEEDS, MaskConfig, MaskStage, PixelConfig, noise_like
from ..pairs import FREE, RestorePhase
from ..stage import FileNeed, Nets, Step


@dataclass(frozen=True, config=STRICT)
class RegionMaskConfig(MaskConfig, PixelConfig):
    """Training the sub-branch that predicts M."""


_TERMS = {"perceptual": 1.0, "identity": 0.5, "sparsity": 0.001}

COMPACT = RegionMaskConfig(
    phases=(RestorePhase("mask", 800, batch=2, lr=(2e-3, 2e-4), warmup=40, weights=_TERMS),),
    clip=1.0,
    ema=100.0,
    latest=400,
    folder_weights=FREE,
    validate_images=400,
    validate_settings={"steps": 6},
)
"""Two cores, a quarter of an hour, with everything else frozen."""

PAPER = RegionMaskConfig(
    network="paper",
    phases=(RestorePhase("mask", 160_000, batch=8, lr=(1e-4, 1e-4), weights={**_TERMS, "sparsity": 0.0}),),
    degradation="difface",
    colour=True,
    latest=400,
    ema=5_000.0,
)
"""The paper gives neither weights nor schedule, and no constraint on the size of M; the first two are ours."""


class RegionMaskStage(MaskStage[RegionMaskConfig]):
    """Train M, which the sub-branch predicts of [M', x]."""

    title: ClassVar[str] = "Region mask"
    method: ClassVar[str] = "diffuse_restore"
    source: ClassVar[str] = (
        "Diffuse-and-Restore Sec. 3.2.1: recognition loss (Eq. 7) and LPIPS of y_hat_{0,t} after the masked update, at "
        "random t < T'. A small weight on the size of M is ours: without it nothing ever closes the mask."
    )
    terms: ClassVar[Mapping[str, str]] = {
        "perceptual": "LPIPS(y_hat_{0,t}', y_0); without --vgg and --heads features of the VGG or of the recogniser",
        "identity": "Eq. 7: 1 - cos(f_arc(y_hat_{0,t}'), f_arc(y_0))",
        "sparsity": "mean of M",
    }
    configs: ClassVar[Mapping[str, RegionMaskConfig]] = {"compact": COMPACT, "paper": PAPER}
    needs: ClassVar[Mapping[str, FileNeed]] = {
        **MaskStage.needs,
        **MASK_NEEDS,
        "diffusion": FileNeed("denoiser: exported weights of diffuse_restore.diffusion"),
    }

    def _mask(self, nets: Nets, batch: Batch, step: Step) -> dict[str, Tensor]:
        whole, config, truth = self.whole, self.config, batch["truth"]
        guide = self.guide
        y0, x = truth * 2 - 1, batch["low"] * 2 - 1
        t = torch.randint(config.latest, (len(y0),), generator=step.generator, device=step.generator.device)
        level = whole.schedule.at(t)
        with torch.no_grad():
            x_irn = self.recovered(batch["low"]) * 2 - 1
            y_t = q_sample(y0, level, noise_like(y0, step.generator))
            condition = whole.condition(x, x_irn)
            given = whole.unet(torch.cat([y_t, condition], dim=1), level.t)[:, :3]
            said = whole.estimated(y_t, given, condition, level)
        gradient = steering(
            guide, y_t, targets(guide, (x_irn + 1) / 2), scale=self.strength(step),
            picture=lambda free: ((free - level.sigma * said.noise) / level.alpha + 1) / 2,
        )  # fmt: skip
        mask = nets["net"](changed(x, x_irn, DELTA), x)
        steered = said.clean.clamp(-1, 1) - level.sigma.square() / level.alpha * mask * gradient
        output = (steered + 1) / 2
        return self.judged(mask, output, truth, step)


STAGE = RegionMaskStage
