"""The style encoder E of VSPBFR on degraded faces (paper Sec. III-D, Style encoder training)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from bfr_core.methods.vspbfr.model import StyleEncoderDecoder
from bfr_core.networks.discriminators import CodeDiscriminator

from .. import losses
from ..data import Batch
from ..pairs import FREE, RestorePhase
from ..pictures import Pictures
from ..stage import FileNeed, Nets, Objective, Step, Validator
from ..vspbfr import STYLE, StyleConfig, StyleStage, invert, load_style, sized

COMPACT = StyleConfig(
    phases=(
        RestorePhase(
            "degraded", 1_600, batch=8, size=256, lr=(0.008, 0.002), warmup=80,
            weights={"codes": 1.0, "l1": 1.0, "perceptual": 0.3},
        ),
    ),
    face_size=256,
    optimiser="muon",
    clip=0.1,
    ema=600.0,
    perceptual_side=128,
    folder_weights=FREE,
)  # fmt: skip
"""Two cores, ten minutes: the codes of the clean face, which the encoder of vspbfr.bank gives, are the target."""

PAPER = StyleConfig(
    network="paper",
    phases=(
        RestorePhase(
            "degraded", 2_400_000, batch=16, lr=(1e-4, 1e-4),
            weights={
                "l2": 1.0, "perceptual": 0.8, "identity": 0.1, "delta": 2e-4,
                "editable": 0.1, "critic": 1.0, "r1": 1.0,
            },
        ),
    ),
    degradation="vspbfr-paper",
    betas=(0.95, 0.999),
    clip=0.0,
    ema=10_000.0,
    critic_rate=0.2,
)  # fmt: skip
"""150,000 steps of 16, from e4e's own encoder (--init); weights, rates and the latent discriminator are e4e's."""


class EncoderStage(StyleStage[StyleConfig]):
    """Train w_hat = E(I_de) with the generator frozen."""

    title: ClassVar[str] = "Style encoder"
    source: ClassVar[str] = (
        "e4e (arXiv:2102.02766, Sec. 5.3) on degraded faces: L2, LPIPS, identity, norm of the offsets, and a "
        "discriminator of codes. e4e adds the offsets one after another; here all are trained from the start. "
        "The term `codes` of the config `compact` is ours."
    )
    terms: ClassVar[Mapping[str, str]] = {
        "codes": "|E(I_de) - E'(I_gt)|, E' the encoder the run began with",
        "l1": "|S(E(I_de)) - I_gt|",
        "l2": "|S(E(I_de)) - I_gt|^2",
        "perceptual": "LPIPS where --vgg and --heads are given, else features of the VGG or of the recogniser",
        "identity": "1 - cos(R(S(E(I_de))), R(I_gt))",
        "delta": "|w_i - w_1|^2, e4e Eq. 5",
        "editable": "softplus(-D_w(w)), e4e Eq. 4",
        "critic": "softplus(D_w(w)) + softplus(-D_w(F(z)))",
        "r1": "gamma / 2 |dD_w/dw|^2",
    }
    configs: ClassVar[Mapping[str, Any]] = {"compact": COMPACT, "paper": PAPER}
    needs: ClassVar[Mapping[str, FileNeed]] = {**StyleStage.needs, "style": STYLE}
    weaknesses: ClassVar[str] = (
        "Trained for minutes on two cores: codes of badly degraded faces give soft, average faces of the right pose "
        "and colours."
    )

    def __init__(self, config: StyleConfig, files: Mapping[str, Path]) -> None:
        super().__init__(config, files)
        self.teacher = load_style(config, files["style"])
        self.frozen["teacher"] = self.teacher

    def networks(self) -> dict[str, nn.Module]:
        net = load_style(self.config, self.files["style"])
        net.decoder.requires_grad_(False)
        nets: dict[str, nn.Module] = {"net": net}
        if self._judges():
            nets["discriminator"] = CodeDiscriminator(net.latent_avg.shape[1])
        return nets

    def _judges(self) -> bool:
        return any("editable" in phase.weights for phase in self.config.phases)

    def objectives(self) -> tuple[Objective, ...]:
        encode = Objective("encode", ("net",), self._encode)
        if not self._judges():
            return (encode,)
        return encode, Objective(
            "judge", ("discriminator",), self._judge, needs="critic", lr=self.config.critic_rate, optimiser="adamw"
        )

    def _encode(self, nets: Nets, batch: Batch, step: Step) -> dict[str, Tensor]:
        net: StyleEncoderDecoder = nets["net"]  # type: ignore[assignment]
        if net.encoder.norm is not None:
            net.encoder.norm.eval()  # the generator was trained for the scale that it has
        codes = net.encode(batch["low"] * 2 - 1)
        terms: dict[str, Tensor] = {}
        if step.weight("codes"):
            with torch.no_grad():
                target = self.teacher.encode(batch["truth"] * 2 - 1)
            terms["codes"] = losses.l1(codes, target)
        if any(step.weight(term) for term in ("l1", "l2", "perceptual", "identity")):
            picture = sized((net.decoder(codes) + 1) / 2, batch["truth"].shape[-1])
            terms |= self.compare(picture, batch["truth"], step, batch["enlarged"])
        if step.weight("delta"):
            terms["delta"] = (codes[:, 1:] - codes[:, :1]).square().sum((1, 2)).mean()
        if step.weight("editable"):
            terms["editable"] = losses.generator_loss(nets["discriminator"](codes.flatten(0, 1)))
            step.kept["codes"] = codes.detach().flatten(0, 1)
        return terms

    def _judge(self, nets: Nets, batch: Batch, step: Step) -> dict[str, Tensor]:
        fake = step.kept["codes"]
        z = torch.randn(fake.shape, generator=step.generator, device=fake.device)
        with torch.no_grad():
            real = self.teacher.decoder.style(z)
        return self.judge(nets["discriminator"], real, fake, step)

    def validator(self, pictures: Pictures) -> Validator:
        return self.restoration(pictures, lambda nets: lambda face: invert(nets["net"], face))


STAGE = EncoderStage
