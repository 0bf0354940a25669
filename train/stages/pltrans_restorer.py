"""PLTrans whole: three objectives in turn, on the regulariser, the restorer and the discriminator (Eq. 12)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

import torch
from pydantic.dataclasses import dataclass
from torch import Tensor, nn
from torch.nn import functional as F

from bfr_core.networks.discriminators import PatchDiscriminator
from bfr_core.seeding import Draws

from .. import losses
from ..adversary import crop, judge
from ..config import STRICT, Amount, Count, Positive
from ..data import Batch
from ..pairs import FREE, RestorePhase
from ..pltrans import PLTransConfig, PLTransStage, RegulariserNet, RestorationNet, load_dictionary, regularising
from ..stage import FileNeed, Nets, Objective, Step


@dataclass(frozen=True, config=STRICT)
class RestorerConfig(PLTransConfig):
    """Training E, P and G against D, and R beside them."""

    n: tuple[Count, Count] = (100, 500)
    """Steps of perturbation of the query, drawn for each batch; s is the same share of it as by default."""
    transitions: Count = 2
    """On the way back from n to s."""
    regulariser_rate: Positive = 1.0
    """Learning rate of R relative to the phase's: E and G are trained already when it begins."""
    critic_channels: Count = 64
    """Width of the discriminator at half resolution."""
    critic_crop: int = 0
    """Side of the square it judges, cut out at random; 0 for the whole picture."""
    critic_rate: Positive = 1.0
    """Learning rate of the discriminator relative to the phase's."""
    r1: Amount = 10.0
    """gamma of the penalty on the discriminator's gradient, where a phase weighs it."""
    r1_every: Count = 16
    """Steps between two evaluations of that penalty."""


_REGULARISER = {"features": 1.0, "kl": 1e-6, "diffusion": 1.0}
_FACE = {"l1": 1.0, "colour": 2.0, "perceptual": 0.3, **_REGULARISER}

COMPACT = RestorerConfig(
    phases=(
        RestorePhase("crops", 3_200, batch=8, size=256, lr=(0.004, 0.001), warmup=160, mild=0.1, weights=_FACE),
        RestorePhase(
            "sharp", 4_800, batch=4, size=256, lr=(0.002, 0.0005), warmup=80, mild=0.1,
            weights={**_FACE, "adversarial": 0.05, "critic": 1.0, "r1": 1.0},
        ),
    ),
    optimiser="muon",
    betas=(0.0, 0.99),
    clip=0.1,
    ema=600.0,
    perceptual_side=128,
    critic_channels=32,
    regulariser_rate=3.0,
    critic_rate=0.5,
    r1=0.02,
    folder_weights=FREE,
)  # fmt: skip
"""Two cores, about an hour, on quarters of faces: the network reads no place. First without the discriminator. The
colour term is ours, and lambda is that of Latent Diffusion: 5e-5 of the added divergence leaves the 64 x 64 x 16
numbers of u nothing to say. R1 is of the sum of a map of logits, 256 for a square of 256 px: with 0.1 the
discriminator learns nothing, with 0.001 it outruns the restorer within 500 images, which answers with a grid."""

_PAPER = {
    "l1": 1.0, "perceptual": 1.0, "adversarial": 1.0, "critic": 1.0, "features": 1.0, "kl": 5e-5, "diffusion": 1.0,
}  # fmt: skip

PAPER = RestorerConfig(
    network="paper",
    phases=(RestorePhase("faces", 2_100_000, batch=4, lr=(5e-5, 5e-5), weights=_PAPER),),
    degradation="pltrans",
    betas=(0.9, 0.999),
    clip=0.0,
    ema=10_000.0,
)
"""Sec. 4.1.3: Adam at 5e-5, batches of 4, 30 epochs of FFHQ, lambda 5e-5. All other weights of Eq. 12 are 1."""


class RestorerStage(PLTransStage[RestorerConfig]):
    """Train y_hat = G(z_hat), with R, P and D."""

    title: ClassVar[str] = "PLTrans"
    source: ClassVar[str] = (
        "PLTrans Eq. 10 to 12. The VGG term is LPIPS or VGG where given, else features of the recogniser; Eq. 11 in "
        "its non-saturating form; R1 on its discriminator where a phase weighs it, for short trainings. The query of a "
        "training step comes from a chain of a few transitions, without gradient: Eq. 12 trains R by its own line."
    )
    terms: ClassVar[Mapping[str, str]] = {
        **PLTransStage.terms,
        "l1": "Eq. 10: |y_hat - y|_1, at half size where the truth was enlarged",
        "colour": "|y_hat - y|_1 of means over 8 x 8 pixels, which is ours: short trainings forget an axis of colour",
        "perceptual": "Eq. 10: |phi(y_hat) - phi(y)|^2",
        "adversarial": "Eq. 11: softplus(-D(y_hat))",
        "critic": "Eq. 11: softplus(D(y_hat)) + softplus(-D(y))",
        "r1": "gamma / 2 |dD/dy|^2",
    }
    configs: ClassVar[Mapping[str, RestorerConfig]] = {"compact": COMPACT, "paper": PAPER}
    needs: ClassVar[Mapping[str, FileNeed]] = {
        **PLTransStage.needs,
        "dictionary": FileNeed("encoder, dictionary and decoder: exported weights of pltrans.dictionary"),
    }
    averaged: ClassVar[tuple[str, ...]] = ("net", "regulariser")
    exported: ClassVar[tuple[str, ...]] = ("net", "regulariser")
    weaknesses: ClassVar[str] = (
        "Trained for about an hour on two cores and 1,000 portraits: fine skin and hair are partly invented, glasses, "
        "hands and backgrounds are poor. What is sampled from the prior is no face yet."
    )

    def __init__(self, config: RestorerConfig, files: Mapping[str, Path]) -> None:
        super().__init__(config, files)
        self.perceptual = losses.load_perceptual(
            files.get("vgg"), files.get("heads"), self.recogniser, config.perceptual_side
        )
        self.frozen["perceptual"] = self.perceptual

    def networks(self) -> dict[str, nn.Module]:
        fresh = self.built()
        load_dictionary(fresh.vq, self.files["dictionary"])
        # "We utilize a pre-trained latent dictionary V" (Sec. 3.1): it stays as it was learnt.
        fresh.vq.codebook.requires_grad_(False)
        nets: dict[str, nn.Module] = {"net": RestorationNet(fresh), "regulariser": RegulariserNet(fresh.regulariser)}
        if self._judged():
            nets["discriminator"] = PatchDiscriminator(self.config.critic_channels)
        return nets

    def objectives(self) -> tuple[Objective, ...]:
        restore = Objective("restore", ("net",), self._restore)
        judge = Objective(
            "judge", ("discriminator",), self._judge, lr=self.config.critic_rate, needs="adversarial",
            optimiser="adamw",
        )  # fmt: skip
        regularise = regularising(self, self.config.regulariser_rate)
        return (regularise, restore, judge) if self._judged() else (regularise, restore)

    def _judged(self) -> bool:
        return any(phase.weights.get("adversarial") for phase in self.config.phases)

    def _query(self, q: Tensor, step: Step) -> Tensor:
        """Return q_hat of features, regularised with steps drawn for this batch."""
        low, high = self.config.n
        n = int(torch.randint(low, high + 1, (), generator=step.generator, device=step.generator.device))
        s = round(n * self._share())
        draws = Draws([step.number * 1_000 + row for row in range(len(q))], q.device)
        regulariser = self.whole.regulariser
        levels = self.declared.settings({}, self.chosen).levels
        u = regulariser.regularise(regulariser.encode(q), n, s, self.config.transitions, levels, draws)
        return regulariser.decode(u)

    def _share(self) -> float:
        """Return s as a share of n, as the method has it by default."""
        settings = self.declared.settings({}, self.chosen)
        return settings.s / settings.n

    def _restore(self, nets: Nets, batch: Batch, step: Step) -> dict[str, Tensor]:
        whole, truth = self.assembled(nets), batch["truth"]
        q = whole.encode(self.seen(batch, step))
        with torch.no_grad():
            query = self._query(q.detach(), step)
        made = whole.decode(whole.restored_features(query, q))
        output = (made + 1) / 2
        terms = {"l1": losses.l1(output, truth, batch["enlarged"])}
        if step.weight("colour"):
            terms["colour"] = losses.l1(F.avg_pool2d(output, 8), F.avg_pool2d(truth, 8))
        if step.weight("perceptual"):
            terms["perceptual"] = self.perceptual(output, truth)
        if step.weight("adversarial"):
            fake, real = crop([made, truth * 2 - 1], self.config.critic_crop, step.generator)
            terms["adversarial"] = losses.generator_loss(nets["discriminator"](fake))
            step.kept.update(fake=fake.detach(), real=real)
        return terms

    def _judge(self, nets: Nets, batch: Batch, step: Step) -> dict[str, Tensor]:
        real, fake = step.kept["real"], step.kept["fake"]
        return judge(nets["discriminator"], real, fake, step, gamma=self.config.r1, every=self.config.r1_every)


STAGE = RestorerStage
