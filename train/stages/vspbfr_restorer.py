"""The restoration auto-encoder G of VSPBFR, with its mapping network and discriminator (paper Sec. III-D)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from pydantic.dataclasses import dataclass
from torch import Tensor, nn

from bfr_core.methods.vspbfr.restoration_net import DILATIONS, UNDILATED, PrintedRestorationNet, RestorationNet
from bfr_core.models.checkpoints.files import fill, load_state

from .. import losses
from ..adversary import crop
from ..config import STRICT
from ..data import Batch
from ..pairs import FREE, RestorePhase
from ..pictures import Pictures
from ..stage import FileNeed, Nets, Objective, Step, Validator
from ..vspbfr import (
    DIFFUSER,
    STYLE,
    CodeDiffuser,
    StyleConfig,
    StyleStage,
    like,
    load_style,
    mixed_styles,
    noise_of,
)


@dataclass(frozen=True, config=STRICT)
class RestorerConfig(StyleConfig):
    """Training G; the fields below leave something out, as Table IV does, and are settings of the same names."""

    prompts: Literal["diffused", "initial"] = "diffused"
    """(a): w_hat in place of w^0."""
    smart: bool = True
    """(b): style layers in place of SMART layers."""
    modulation: bool = True
    """(c): no style codes in the prompts."""
    priors: bool = True
    """(d): no features of the bank."""


_FACE = {"l1": 1.0, "perceptual": 0.3, "identity": 0.05}

COMPACT = RestorerConfig(
    phases=(
        RestorePhase("faces", 3_000, batch=4, lr=(0.008, 0.004), warmup=60, weights=_FACE),
        RestorePhase(
            "sharp", 3_000, batch=4, lr=(0.004, 0.001), warmup=80, mild=0.2,
            weights={**_FACE, "adversarial": 0.05, "critic": 1.0, "r1": 1.0},
        ),
    ),
    optimiser="muon",
    betas=(0.0, 0.99),
    clip=0.1,
    ema=600.0,
    perceptual_side=128,
    critic={4: 96, 8: 96, 16: 96, 32: 96, 64: 64, 128: 32},
    critic_patch=2,
    critic_rate=0.2,
    critic_crop=256,
    folder_weights=FREE,
)  # fmt: skip
"""Two cores, more than an hour: first without the discriminator, then with one that judges a random quarter of the
face. At a rate of 0.02 it diverges after 200 images. L1 is not in the paper; it stands in for the LPIPS that needs a
VGG."""

_PAPER = {"perceptual": 0.5, "identity": 0.1, "adversarial": 1.0, "critic": 1.0, "r1": 1.0}
_CRITIC = {4: 512, 8: 512, 16: 512, 32: 512, 64: 512, 128: 256, 256: 128, 512: 64}

RELEASED = RestorerConfig(
    network="official",
    phases=(RestorePhase("faces", 6_400_000, batch=8, lr=(1.6e-3, 1.6e-3), weights=_PAPER),),
    degradation="vspbfr-code",
    colour=True,
    betas=(0.0, 0.992),
    clip=0.0,
    ema=8_600.0,
    critic=_CRITIC,
)
"""As the released training: Adam 0, 0.99^0.8, lr 0.0016."""

PAPER = RestorerConfig(
    network="paper",
    phases=(RestorePhase("faces", 6_400_000, batch=8, lr=(2e-4, 2e-4), weights=_PAPER),),
    degradation="vspbfr-paper",
    betas=(0.5, 0.999),
    clip=0.0,
    ema=10_000.0,
    critic=_CRITIC,
)
"""As printed: Adam 0.5, 0.999, 2e-4."""


class RestorerNet(nn.Module):
    """G under the keys of the whole network."""

    def __init__(self, options: Mapping[str, Any]) -> None:
        super().__init__()
        layout = PrintedRestorationNet if options.get("printed") else RestorationNet
        self.restorer = layout(style_dim=options.get("style_dim", 512), **options["restorer"])

    def forward(self, *inputs: Any) -> Tensor:
        return self.restorer(*inputs)


class RestorerStage(StyleStage[RestorerConfig]):
    """Train I_out = G(I_de, w^0, z_hat, F^s) with everything before it frozen."""

    title: ClassVar[str] = "Restoration auto-encoder"
    source: ClassVar[str] = (
        "Paper Sec. III-D: L_adv (Eq. 9) + 0.1 L_id + 0.5 L_lpips; R1 every 16 steps as released. LPIPS is a mean over "
        "the batch here and a sum there."
    )
    terms: ClassVar[Mapping[str, str]] = {
        "l1": "|I_out - I_gt|, at half size where the truth was enlarged",
        "perceptual": "L_lpips(I_out, I_gt); without --vgg and --heads features of the VGG or of the recogniser",
        "identity": "L_id = 1 - cos(R(I_out), R(I_gt))",
        "adversarial": "Eq. 9: softplus(-D(I_out))",
        "critic": "Eq. 9: softplus(D(I_out)) + softplus(-D(I_gt))",
        "r1": "Eq. 9: gamma / 2 |dD/dI_gt|^2",
    }
    configs: ClassVar[Mapping[str, RestorerConfig]] = {"compact": COMPACT, "official": RELEASED, "paper": PAPER}
    needs: ClassVar[Mapping[str, FileNeed]] = {**StyleStage.needs, "style": STYLE, "diffuser": DIFFUSER}
    weaknesses: ClassVar[str] = (
        "Trained for about an hour on two cores and 1,000 portraits: skin and hair are partly invented, glasses, hands "
        "and backgrounds are poor, profiles and children are rare in the training pictures."
    )

    def __init__(self, config: RestorerConfig, files: Mapping[str, Path]) -> None:
        super().__init__(config, files)
        self.style = load_style(config, files["style"])
        self.diffuser = CodeDiffuser(self.options)
        fill(self.diffuser, load_state(files["diffuser"]), what=f"code diffuser, config {config.network}")
        self.frozen.update(style=self.style, diffuser=self.diffuser)

    def networks(self) -> dict[str, nn.Module]:
        nets: dict[str, nn.Module] = {"net": RestorerNet(self.options)}
        if self.config.critic:
            nets["discriminator"] = self.config.discriminator()
        return nets

    def objectives(self) -> tuple[Objective, ...]:
        restore = Objective("restore", ("net",), self._restore)
        judge = Objective(
            "judge", ("discriminator",), self._judge, needs="critic", lr=self.config.critic_rate, optimiser="adamw"
        )
        return (restore, judge) if self.config.critic else (restore,)

    def prepared(self, low: Tensor, generator: torch.Generator) -> tuple[Tensor, list[Tensor] | None]:
        """Return w^0 and F^s of degraded faces in [-1, 1], less what the config leaves out."""
        config, size = self.config, self.options["restorer"]["size"]
        with torch.no_grad():
            codes = self.style.encode(low)
            if config.prompts == "diffused":
                codes = self.diffuser(codes, like(codes, generator), generator)
            features = None
            if config.priors:
                side = size // self.options["restorer"].get("patch", 1)
                features = self.style.decoder.features(codes, noise_of(len(low), generator, low.device), largest=side)
            return codes if config.modulation else torch.zeros_like(codes), features

    def _restored(self, net: nn.Module, low: Tensor, mixing: float, generator: torch.Generator) -> Tensor:
        codes, features = self.prepared(low, generator)
        restorer = self._bare(net)
        styles = mixed_styles(restorer.style, restorer.tokens, len(low), mixing, generator)
        noise = noise_of(len(low), generator, low.device)
        return net(low, codes, styles, features, noise, DILATIONS if self.config.smart else UNDILATED)

    def _restore(self, nets: Nets, batch: Batch, step: Step) -> dict[str, Tensor]:
        low, truth, generator = batch["low"] * 2 - 1, batch["truth"], step.generator
        output = self._restored(nets["net"], low, self.config.mixing, generator)
        terms = self.compare((output + 1) / 2, truth, step, batch["enlarged"])
        if step.weight("adversarial"):
            fake, real = crop([output, truth * 2 - 1], self.config.critic_crop, generator)
            terms["adversarial"] = losses.generator_loss(nets["discriminator"](fake))
            step.kept.update(fake=fake.detach(), real=real)
        return terms

    def _judge(self, nets: Nets, batch: Batch, step: Step) -> dict[str, Tensor]:
        return self.judge(nets["discriminator"], step.kept["real"], step.kept["fake"], step)

    def validator(self, pictures: Pictures) -> Validator:
        def restore(net: nn.Module, face: Tensor) -> Tensor:
            return (self._restored(net, face * 2 - 1, 0.0, torch.Generator(face.device).manual_seed(0)) + 1) / 2

        return self.restoration(pictures, lambda nets: lambda face: restore(nets["net"], face))

    @staticmethod
    def _bare(net: nn.Module) -> RestorationNet:
        """Return the auto-encoder inside what accelerate or the compiler may have wrapped."""
        while not isinstance(net, RestorerNet):
            net = getattr(net, "module", None) or net._orig_mod  # type: ignore[assignment]
        return net.restorer  # type: ignore[return-value]


STAGE = RestorerStage
