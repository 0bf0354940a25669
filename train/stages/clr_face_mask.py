"""The learnable latent mask of CLR-Face (paper Sec. 3.3)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

import torch
from pydantic.dataclasses import dataclass
from torch import Tensor

from bfr_core.diffusion.guidance import steering, targets

from ..config import STRICT
from ..data import Batch
from ..diffusion import MASK_NEEDS, MaskConfig, MaskStage, noise_like
from ..pairs import FREE, RestorePhase
from ..stage import FileNeed, Nets, Step
from .clr_face_diffusion import VQ, LatentConfig, load_autoencoder


@dataclass(frozen=True, config=STRICT)
class LatentMaskConfig(MaskConfig, LatentConfig):
    """Training f_M."""


_TERMS = {"perceptual": 1.0, "identity": 0.5, "sparsity": 0.02}

COMPACT = LatentMaskConfig(
    phases=(RestorePhase("mask", 800, batch=2, lr=(2e-3, 2e-4), warmup=40, weights=_TERMS),),
    clip=1.0,
    ema=100.0,
    folder_weights=FREE,
    validate_images=400,
    validate_settings={"steps": 6},
)
"""Two cores, a quarter of an hour: three convolutions learn it, with everything else frozen."""

PAPER = LatentMaskConfig(
    network="paper",
    phases=(RestorePhase("mask", 160_000, batch=8, lr=(1e-4, 1e-4), weights=_TERMS),),
    degradation="clr-face",
    colour=True,
    ema=5_000.0,
)
"""The paper gives neither weights nor schedule; these are ours."""


class LatentMaskStage(MaskStage[LatentMaskConfig]):
    """Train M_l = f_M(z0_hat) with everything before and after it frozen."""

    title: ClassVar[str] = "Latent mask"
    method: ClassVar[str] = "clr_face"
    source: ClassVar[str] = (
        "CLR-Face Sec. 3.3: the score is updated, z0_hat decoded, and the picture compared by LPIPS and identity, with "
        "a sparsity constraint on the mask. Both losses look at the true face; the guide steers to f_phi(x^d), as when "
        "restoring."
    )
    terms: ClassVar[Mapping[str, str]] = {
        "perceptual": "LPIPS(G(z0_hat'), x); without --vgg and --heads features of the VGG or of the recogniser",
        "identity": "1 - cos(f_arc(G(z0_hat')), f_arc(x))",
        "sparsity": "mean |M_l|",
    }
    configs: ClassVar[Mapping[str, LatentMaskConfig]] = {"compact": COMPACT, "paper": PAPER}
    needs: ClassVar[Mapping[str, FileNeed]] = {
        **MaskStage.needs,
        **MASK_NEEDS,
        "vq": VQ,
        "diffusion": FileNeed("denoiser: exported weights of clr_face.diffusion"),
    }

    def __init__(self, config: LatentMaskConfig, files: Mapping[str, Path]) -> None:
        super().__init__(config, files)
        load_autoencoder(self.whole.vq, files["vq"], config.network)
        self.frozen["vq"] = self.whole.vq

    def _mask(self, nets: Nets, batch: Batch, step: Step) -> dict[str, Tensor]:
        whole, config, truth = self.whole, self.config, batch["truth"]
        guide = self.guide
        with torch.no_grad():
            x_id = self.recovered(batch["low"])
            z0, zd, zid = (whole.encode(picture * 2 - 1) for picture in (truth, batch["low"], x_id))
            drawn = torch.randn(len(z0), generator=step.generator, device=step.generator.device)
            sigma = (config.sigma_mean + config.sigma_std * drawn).exp().to(z0)
            noisy = z0 + sigma.view(-1, 1, 1, 1) * noise_like(z0, step.generator)
            estimate = whole.denoise(noisy, whole.condition(zd, zid), sigma)
        gradient = steering(
            guide,
            estimate,
            targets(guide, x_id),
            scale=self.strength(step),
            picture=lambda z: (whole.decode(z) + 1) / 2,
        )
        mask = nets["net"](estimate, zid)
        # The update of the clean estimate that every sampler makes, see bfr_core.methods.clr_face.restore.
        steered = estimate - sigma.square().view(-1, 1, 1, 1) * mask * gradient
        output = (whole.decode(steered) + 1) / 2
        return self.judged(mask, output, truth, step)


STAGE = LatentMaskStage
