"""The conditional latent diffusion model of CLR-Face (paper Sec. 3.2, Eq. 9, in EDM's form)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

import torch
from pydantic.dataclasses import dataclass
from torch import Tensor, nn

from bfr_core.diffusion.predictions import edm_denoised
from bfr_core.models.checkpoints.files import fill, load_state
from bfr_core.registry import get_method

from .. import losses
from ..config import STRICT
from ..data import Batch
from ..diffusion import Denoiser, DiffusionConfig, DiffusionStage, noise_like
from ..pairs import FREE, RestorePhase
from ..stage import FileNeed, Nets, Objective, Step

VQ = FileNeed("autoencoder: exported weights of clr_face.vq")


@dataclass(frozen=True, config=STRICT)
class LatentConfig(DiffusionConfig):
    """Training the denoiser of latents."""

    sigma_mean: float = -1.2
    """P_mean of EDM: mean of ln sigma, of latents whose standard deviation is 0.5."""
    sigma_std: float = 1.2
    """P_std."""


COMPACT = LatentConfig(
    phases=(
        RestorePhase("crops", 16_000, batch=8, size=256, lr=(0.012, 0.004), warmup=160, weights={"edm": 1.0}),
        RestorePhase(
            "mild", 4_000, batch=8, size=256, lr=(0.004, 0.0006), warmup=80, weights={"edm": 1.0}, mild=0.2
        ),
    ),
    optimiser="muon",
    clip=0.5,
    ema=1_000.0,
    precision="auto",
    sigma_mean=-0.7,
    folder_weights=FREE,
    validate_images=2_000,
    validate_settings={"steps": 6, "guidance": False},
)  # fmt: skip
"""Two cores, about an hour, on crops: the denoiser sees 64 x 64 positions."""

PAPER = LatentConfig(
    network="paper",
    phases=(RestorePhase("faces", 16_000_000, batch=32, lr=(1e-4, 1e-4), weights={"edm": 1.0}),),
    degradation="clr-face",
    colour=True,
    ema=500_000.0,
    precision="bf16",
)
"""The paper gives no schedule; distribution of noise levels and average are EDM's (arXiv:2206.00364)."""


class LatentDiffusionStage(DiffusionStage[LatentConfig]):
    """Train D(z_t; z^d, sigma)."""

    title: ClassVar[str] = "Conditional latent diffusion model"
    method: ClassVar[str] = "clr_face"
    source: ClassVar[str] = (
        "CLR-Face Eq. 9 in the form of EDM (arXiv:2206.00364, Eq. 8), on which Sec. 3.2 builds: lambda(sigma) "
        "|D(z_0 + n; z^d, sigma) - z_0|^2, ln sigma normal. z^d has no noise."
    )
    terms: ClassVar[Mapping[str, str]] = {"edm": "lambda(sigma) |D(z_0 + sigma eps; z^d, sigma) - z_0|^2"}
    configs: ClassVar[Mapping[str, LatentConfig]] = {"compact": COMPACT, "paper": PAPER}
    needs: ClassVar[Mapping[str, FileNeed]] = {**DiffusionStage.needs, "vq": VQ}
    weaknesses: ClassVar[str] = (
        "Trained for less than an hour on two cores and a thousand portraits: hair and skin are partly noise, glasses "
        "and hands are guesses."
    )

    def __init__(self, config: LatentConfig, files: Mapping[str, Path]) -> None:
        super().__init__(config, files)
        load_autoencoder(self.whole.vq, files["vq"], config.network)
        self.frozen["vq"] = self.whole.vq

    def networks(self) -> dict[str, nn.Module]:
        return {"net": Denoiser(get_method(self.method).build(self.chosen).unet)}  # type: ignore[arg-type]

    def objectives(self) -> tuple[Objective, ...]:
        return (Objective("denoise", ("net",), self._denoise),)

    @torch.no_grad()
    def latents(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Return z_0 and the condition."""
        whole = self.whole
        z0, zd, zid = (
            whole.encode(picture * 2 - 1) for picture in (batch["truth"], batch["low"], self.recovered(batch["low"]))
        )
        return z0, whole.condition(zd, zid)

    def _denoise(self, nets: Nets, batch: Batch, step: Step) -> dict[str, Tensor]:
        z0, condition = self.latents(batch)
        config = self.config
        drawn = torch.randn(len(z0), generator=step.generator, device=step.generator.device)
        sigma = (config.sigma_mean + config.sigma_std * drawn).exp().to(z0).view(-1, 1, 1, 1)
        noisy = z0 + sigma * noise_like(z0, step.generator)
        estimate = edm_denoised(
            lambda scaled, told: nets["net"](torch.cat([scaled, condition], dim=1), told),
            noisy, sigma, self.whole.sigma_data,
        )  # fmt: skip
        return {"edm": losses.diffusion(estimate, z0, losses.edm_weight(sigma.flatten(), self.whole.sigma_data))}


def load_autoencoder(vq: nn.Module, path: Path, config: str) -> None:
    """Fill the autoencoder from exported weights of clr_face.vq.

    Raises:
        WeightsError: the file does not fit.
    """
    state = {key.removeprefix("vq."): tensor for key, tensor in load_state(path).items()}
    fill(vq, state, what=f"autoencoder of CLR-Face, config {config}")


STAGE = LatentDiffusionStage
