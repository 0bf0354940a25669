"""What the training stages of PLTrans share (paper Sec. 3.4)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Generic, TypeVar

import torch
from pydantic.dataclasses import dataclass
from torch import Tensor, nn

from bfr_core.diffusion.levels import q_sample
from bfr_core.diffusion.predictions import edm_scaling
from bfr_core.methods.pltrans.model import PLTrans
from bfr_core.methods.pltrans.regulariser import Regulariser
from bfr_core.models.checkpoints.cards import load_embedded
from bfr_core.models.checkpoints.files import fill, load_state
from bfr_core.networks.vq import VQAutoencoder
from bfr_core.registry import Context, get_method

from . import losses
from .config import STRICT, Count, Phase
from .data import Batch, Examples
from .diffusion import IRN, noise_like
from .pairs import RestoreConfig, face_pairs
from .pictures import Pictures
from .quantised import follow
from .stage import FileNeed, Nets, Objective, Stage, Step, Validator
from .validation import RestoreValidator

_HISTORY = 0.05
"""Share of a batch in the statistics that latents are normalised by when they are restored."""


@dataclass(frozen=True, config=STRICT)
class PLTransConfig(RestoreConfig):
    """A stage of PLTrans."""

    perceptual_side: Count = 256
    """Side that pictures are compared at where the recogniser's features stand in for VGG's."""


K = TypeVar("K", bound=PLTransConfig)


class RegulariserNet(nn.Module):
    """E_Q, D_Q and epsilon_theta under the keys of the whole network."""

    def __init__(self, regulariser: Regulariser) -> None:
        super().__init__()
        self.regulariser = regulariser


class RestorationNet(nn.Module):
    """E, V, P and G under the keys of the whole network."""

    def __init__(self, whole: PLTrans) -> None:
        super().__init__()
        self.vq, self.prior, self.attention = whole.vq, whole.prior, whole.attention


class PLTransStage(Stage[K], Generic[K]):
    """A stage of PLTrans: the whole network, of which it trains parts, and the first line of Eq. 12."""

    method: ClassVar[str] = "pltrans"
    needs: ClassVar[Mapping[str, FileNeed]] = {
        "recogniser": FileNeed("face recogniser; without it the embedded one", required=False),
        "irn": IRN,
        "vgg": FileNeed("VGG of the perceptual loss", required=False),
        "heads": FileNeed("LPIPS heads of that VGG", required=False),
    }
    pixel_layers: ClassVar[tuple[str, ...]] = (
        "vq.shortcut", "vq.encoder.conv_in", "vq.encoder.conv_out", "vq.quant", "vq.post_quant", "vq.decoder.conv_in",
        "vq.decoder.conv_out", "prior.r", "regulariser.unet.input_blocks.0.", "regulariser.unet.out.",
        "regulariser.unet.time_embed",
    )  # fmt: skip
    terms: ClassVar[Mapping[str, str]] = {
        "features": "Eq. 3: |q_hat - q|_1 of clean and degraded faces, in units of how much q varies",
        "kl": "Eq. 2: KL(p_u || N(0, 1)), added over a face's latent",
        "diffusion": "Eq. 4: |eps - eps_theta(u_t, t)|^2 of clean faces, or EDM's form of it where the clean latent is "
        "predicted",
    }

    def __init__(self, config: K, files: Mapping[str, Path]) -> None:
        super().__init__(config, files)
        self.declared = get_method(self.method)
        self.chosen = self.declared.config(config.network)
        self.recogniser = losses.recogniser_of(files)
        self.whole: Any = self.built()
        """The network as it restores; the parts that this stage trains take their places in it."""
        if self.whole.irn is not None:
            embedded = self.chosen.shared["irn."]
            state = load_state(files["irn"]) if "irn" in files else load_embedded(embedded)
            fill(self.whole.irn, state, what="identity recovery network of PLTrans")
            self.frozen["irn"] = self.whole.irn
        self.frozen["recogniser"] = self.recogniser

    def built(self) -> PLTrans:
        """Build an untrained network."""
        return self.declared.build(self.chosen)  # type: ignore[return-value]

    def assembled(self, nets: Nets) -> PLTrans:
        """Put the trained parts into the whole network."""
        for net in nets.values():
            for name, part in net.named_children():
                if name in ("vq", "prior", "attention", "regulariser"):
                    setattr(self.whole, name, part)
        return self.whole

    def examples(self, pictures: Pictures, phase: Phase) -> Examples:
        return face_pairs(self.config, pictures, phase)  # type: ignore[arg-type]

    def seen(self, batch: Batch, step: Step) -> Tensor:
        """Return what E looks at in the degraded faces of a step, computed once."""
        if "seen" not in step.kept:
            with torch.no_grad():
                step.kept["seen"] = self.whole.seen(batch["low"] * 2 - 1)
        return step.kept["seen"]

    def regularise(self, nets: Nets, batch: Batch, step: Step) -> dict[str, Tensor]:
        """Return the terms of the first line of Eq. 12: R learns, E stays."""
        whole = self.assembled(nets)
        with torch.no_grad():
            # "Feature q as input and produces u_lq or u_hq" (Sec. 3.2): E_Q and D_Q see both.
            q_hq = whole.encode(batch["truth"] * 2 - 1).float()
            q_lq = whole.encode(self.seen(batch, step)).float()
        regulariser = whole.regulariser
        moments = regulariser.moments(torch.cat([q_hq, q_lq]))
        follow(regulariser, moments.mean[: len(q_hq)], _HISTORY)
        drawn = moments.sample(noise_like(moments.mean, step.generator))
        given = torch.cat([q_hq, q_lq])
        spread = given.std().clamp(min=1e-6)
        terms = {
            "features": losses.l1(regulariser.decoder(drawn), given) / spread,
            "kl": losses.kl(moments.mean, moments.log_variance),
        }
        # L_dif leaves E_Q alone: a latent made to be easily denoised would be one that says nothing.
        # By the batch's own statistics: E_Q changes them quickly at first, and those that follow come too late.
        u = moments.mean[: len(q_hq)].detach().float()
        u = (u - u.mean((0, 2, 3), keepdim=True)) / u.std((0, 2, 3), keepdim=True).clamp(min=1e-6)
        t = torch.randint(regulariser.timesteps, (len(u),), generator=step.generator, device=step.generator.device)
        level = regulariser.schedule.at(t)
        noise = noise_like(u, step.generator)
        said = regulariser.predict(q_sample(u, level, noise), level)
        if regulariser.predicts == "noise":
            terms["diffusion"] = losses.diffusion(said.noise, noise)
        else:
            # What EDM weighs alike is the error of what its network gives, c_out times smaller than that of u_0.
            out: Any = edm_scaling(level.sigma / level.alpha, 1.0).out
            terms["diffusion"] = losses.diffusion(said.clean, u, out.flatten() ** -2)
        return terms

    def validator(self, pictures: Pictures) -> Validator:
        settings = self.declared.settings({}, self.chosen)

        def restore(nets: Nets, face: Tensor) -> Tensor:
            return self.declared.restore(self.assembled(nets).eval(), face, settings, [0], {}, Context())

        return RestoreValidator(
            pictures,
            self.config.preset(),
            lambda nets: lambda face: restore(nets, face),
            recogniser=self.recogniser,
            size=self.config.face_size,
            limit=self.config.validate_limit,
        )


def regularising(stage: PLTransStage, rate: float = 1.0) -> Objective:
    """Return the first objective of Eq. 12, at a learning rate relative to the phase's."""
    return Objective("regularise", ("regulariser",), stage.regularise, lr=rate, needs="diffusion")


def load_dictionary(vq: VQAutoencoder, path: Path) -> None:
    """Fill E, V and G from exported weights of pltrans.dictionary.

    Raises:
        WeightsError: the file does not fit.
    """
    state = {key.removeprefix("vq."): tensor for key, tensor in load_state(path).items()}
    fill(vq, state, what="autoencoder and dictionary of PLTrans")
