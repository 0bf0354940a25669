"""The facial feature bank S of VSPBFR, and with it a first style encoder E."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from pydantic.dataclasses import dataclass
from torch import Tensor, nn

from bfr_core.methods.vspbfr.model import StyleEncoderDecoder

from .. import losses
from ..config import STRICT
from ..data import Batch
from ..pairs import FREE, RestorePhase
from ..pictures import Pictures
from ..stage import Nets, Objective, Step, Validator
from ..vspbfr import StyleConfig, StyleStage, build_style, invert, like, mixed_styles, noise_of, sized


@dataclass(frozen=True, config=STRICT)
class BankConfig(StyleConfig):
    """Training a StyleGAN2."""

    path_every: int = 4
    """Steps between two evaluations of the path length."""


COMPACT = BankConfig(
    phases=(
        RestorePhase(
            "invert", 3_600, batch=8, size=256, lr=(0.02, 0.004), warmup=80,
            weights={"l1": 1.0, "perceptual": 0.3},
        ),
    ),
    face_size=256,
    degradation="mild",
    optimiser="muon",
    clip=0.1,
    perceptual_side=128,
    ema=1_000.0,
    folder_weights=FREE,
)  # fmt: skip
"""Two cores, less than an hour. A GAN of faces needs millions of pictures; an autoencoder through W+ learns coarse
faces from thousands, and its codes say what is in a picture. So E and S are trained together to give clean faces
back."""

PAPER = BankConfig(
    network="paper",
    phases=(
        RestorePhase(
            "faces", 25_000_000, batch=32, size=1024, lr=(2e-3, 2e-3),
            weights={"sampled": 1.0, "path": 2.0, "critic": 1.0, "r1": 1.0},
        ),
    ),
    face_size=1024,
    betas=(0.0, 0.99),
    clip=0.0,
    ema=10_000.0,
    mixing=0.9,
    critic={4: 512, 8: 512, 16: 512, 32: 512, 64: 512, 128: 256, 256: 128, 512: 64, 1024: 32},
)  # fmt: skip
"""Config F of StyleGAN2 (arXiv:1912.04958, Sec. 4): 25 million pictures in batches of 32, lr 0.002, R1 10 every 16
steps, path length 2 every 8 (here 4, as the public port), style mixing 0.9."""


class BankStage(StyleStage[BankConfig]):
    """Train S, adversarially from random styles, by inversion, or both."""

    title: ClassVar[str] = "Facial feature bank"
    source: ClassVar[str] = (
        "VSPBFR uses a StyleGAN2 trained on FFHQ: non-saturating loss, R1, path length and style mixing "
        "(arXiv:1912.04958). The config `compact` trains encoder and generator together to give clean faces back, "
        "which is ours."
    )
    terms: ClassVar[Mapping[str, str]] = {
        "l1": "|S(E(I)) - I|",
        "l2": "|S(E(I)) - I|^2",
        "perceptual": "LPIPS where --vgg and --heads are given, else features of the VGG or of the recogniser",
        "identity": "1 - cos(R(S(E(I))), R(I))",
        "inverted": "softplus(-D(S(E(I))))",
        "sampled": "softplus(-D(S(F(z))))",
        "path": "(|J_w^T y| - a)^2, arXiv:1912.04958, Eq. 4",
        "critic": "softplus(D(fake)) + softplus(-D(I))",
        "r1": "gamma / 2 |dD/dI|^2",
    }
    configs: ClassVar[Mapping[str, Any]] = {"compact": COMPACT, "paper": PAPER}
    weaknesses: ClassVar[str] = (
        "Trained for less than an hour on two cores: a code gives a soft face of the right pose, colours and rough "
        "features, not the person's. Random styles do not give faces."
    )

    @classmethod
    def shipped(cls, weights: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        return {key: value for key, value in weights.items() if key != "path_length"}

    def adopted(self, weights: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        return {"path_length": torch.zeros(()), **weights}

    def networks(self) -> dict[str, nn.Module]:
        net = build_style(self.options)
        net.register_buffer("path_length", torch.zeros(()))  # the running mean, which a continued run needs
        nets: dict[str, nn.Module] = {"net": net}
        if self.config.critic:
            nets["discriminator"] = self.config.discriminator()
        return nets

    def objectives(self) -> tuple[Objective, ...]:
        generate = Objective("generate", ("net",), self._generate)
        if not self.config.critic:
            return (generate,)
        return generate, Objective("judge", ("discriminator",), self._judge, needs="critic", lr=self.config.critic_rate)

    def _generate(self, nets: Nets, batch: Batch, step: Step) -> dict[str, Tensor]:
        net: StyleEncoderDecoder = nets["net"]  # type: ignore[assignment]
        truth, terms = sized(batch["truth"], net.decoder.size), {}
        fakes = []
        if any(step.weight(term) for term in ("l1", "l2", "perceptual", "identity", "inverted")):
            noise = noise_of(len(truth), step.generator, truth.device)
            inverted = net.decoder(net.encode(truth * 2 - 1), noise)
            terms |= self.compare((inverted + 1) / 2, truth, step, batch["enlarged"])
            if step.weight("inverted"):
                terms["inverted"] = losses.generator_loss(nets["discriminator"](inverted))
                fakes.append(inverted)
        if step.weight("sampled"):
            bank = net.decoder
            codes = mixed_styles(bank.style, bank.tokens, len(truth), self.config.mixing, step.generator)
            sampled = net.decoder(codes, noise_of(len(truth), step.generator, truth.device))
            terms["sampled"] = losses.generator_loss(nets["discriminator"](sampled))
            fakes.append(sampled)
            if step.weight("path") and step.number % self.config.path_every == 0:
                terms["path"] = self._path(net, codes, sampled, step)
        if fakes:
            step.kept.update(fake=torch.cat(fakes).detach(), real=truth * 2 - 1)
        return terms

    def _path(self, net: StyleEncoderDecoder, codes: Tensor, sampled: Tensor, step: Step) -> Tensor:
        """Penalise how unevenly a step in W moves the picture; `a` is the mean length so far."""
        y = like(sampled, step.generator) / math.sqrt(sampled.shape[-2] * sampled.shape[-1])
        (slope,) = torch.autograd.grad((sampled * y).sum(), codes, create_graph=True)
        lengths = slope.square().sum(2).mean(1).sqrt()
        average: Tensor = net.path_length  # type: ignore[assignment]
        average.lerp_(lengths.detach().mean(), 0.01)
        return (lengths - average).square().mean() * self.config.path_every

    def _judge(self, nets: Nets, batch: Batch, step: Step) -> dict[str, Tensor]:
        return self.judge(nets["discriminator"], step.kept["real"], step.kept["fake"], step)

    def validator(self, pictures: Pictures) -> Validator:
        return self.restoration(pictures, lambda nets: lambda face: invert(nets["net"], face))


STAGE = BankStage
