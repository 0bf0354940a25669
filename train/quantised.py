"""Training a vector-quantised autoencoder, as CLR-Face and PLTrans have one."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from pydantic.dataclasses import dataclass
from torch import Tensor, nn
from torch.nn import functional as F

from bfr_core.networks.discriminators import PatchDiscriminator
from bfr_core.networks.vq import VQAutoencoder
from bfr_core.registry import get_method

from . import losses
from .config import STRICT, Amount, Count, Phase, Share
from .data import Batch, Examples
from .pairs import RestoreConfig, face_pairs
from .pictures import Pictures, fit
from .stage import FileNeed, Nets, Objective, Stage, Step, Validator
from .validation import RestoreValidator

_POSITIONS = 4_096
"""Of each picture, drawn to fit the codebook to."""


@dataclass(frozen=True, config=STRICT)
class VqConfig(RestoreConfig):
    """Training E, Z and G."""

    degraded: Share = 0.0
    """Share of the pictures shown degraded: E must encode those, too."""
    critic_channels: Count = 64
    """Width of the discriminator at half resolution."""
    codebook_images: Count = 64
    """Pictures whose latents the codebook is fitted to before it is trained."""
    commitment: Amount = 1.0
    """Weight of the last term of Eq. 2, beside 1 for the one before it."""


class VqNet(nn.Module):
    """E, Z and G under the keys of the whole network."""

    def __init__(self, options: Mapping[str, Any]) -> None:
        super().__init__()
        self.vq = VQAutoencoder(**options)


class Reconstruction(RestoreValidator):
    """Give held-out faces back."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.low = self.truth
        own = self.measure(self.truth)
        self.baseline = {key: own[key] for key in ("sharpness", "weave") if key in own}


class VqStage(Stage[VqConfig]):
    """Train x = G(Q(E(x)))."""

    terms: ClassVar[Mapping[str, str]] = {
        "l1": "|x - x~|_1, at half size where the truth was enlarged",
        "colour": "|x - x~|_1 of means over 8 x 8 pixels, which is ours: short trainings spend the latent on edges",
        "perceptual": "|phi(x) - phi(x~)|: LPIPS or VGG where given, else features of the recogniser",
        "codebook": "|sg(E(x)) - z_q|^2 + |sg(z_q) - E(x)|^2",
        "adversarial": "-D(x~), times VQGAN's adaptive weight",
        "critic": "half of relu(1 + D(x~)) + relu(1 - D(x))",
    }
    needs: ClassVar[Mapping[str, FileNeed]] = {
        "recogniser": FileNeed("face recogniser that validation measures identity with", required=False),
        "vgg": FileNeed("VGG of the perceptual loss", required=False),
        "heads": FileNeed("LPIPS heads of that VGG", required=False),
    }
    pixel_layers: ClassVar[tuple[str, ...]] = (
        "vq.shortcut", "vq.encoder.conv_in", "vq.encoder.conv_out", "vq.quant", "vq.post_quant", "vq.decoder.conv_in",
        "vq.decoder.conv_out",
    )  # fmt: skip

    def __init__(self, config: VqConfig, files: Mapping[str, Path]) -> None:
        super().__init__(config, files)
        self._faces: Pictures | None = None
        self.options = get_method(self.method).config(config.network).options["vq"]
        self.recogniser = losses.recogniser_of(files)
        self.perceptual = None
        if self._weighs("perceptual"):
            self.perceptual = losses.load_perceptual(files.get("vgg"), files.get("heads"), self.recogniser)
            self.frozen["perceptual"] = self.perceptual
        self.frozen["recogniser"] = self.recogniser

    def networks(self) -> dict[str, nn.Module]:
        nets: dict[str, nn.Module] = {"net": VqNet(self.options)}
        if self._weighs("adversarial"):
            nets["discriminator"] = PatchDiscriminator(self.config.critic_channels)
        return nets

    def objectives(self) -> tuple[Objective, ...]:
        reconstruct = Objective("reconstruct", ("net",), self._reconstruct)
        judge = Objective("judge", ("discriminator",), self._judge, needs="adversarial", optimiser="adamw")
        return (reconstruct, judge) if self._weighs("adversarial") else (reconstruct,)

    def _weighs(self, term: str) -> bool:
        """Tell whether any phase uses a term."""
        return any(phase.weights.get(term) for phase in self.config.phases)

    def _reconstruct(self, nets: Nets, batch: Batch, step: Step) -> dict[str, Tensor]:
        net: VQAutoencoder = nets["net"].vq  # type: ignore[assignment]
        shown = torch.rand(len(batch["truth"]), generator=step.generator, device=step.generator.device)
        degraded = (shown < self.config.degraded).to(batch["truth"].device)
        picture = torch.where(degraded[:, None, None, None], batch["low"], batch["truth"])
        z = net.encode(picture * 2 - 1)
        follow(net, z)
        terms = {}
        if step.weight("codebook"):
            self._start_codebook(net)
            quantised, _ = net.quantise(z)
            terms["codebook"] = losses.vq(z, quantised, self.config.commitment)
            made = net.decode_codes(losses.straight_through(z, quantised))
        else:
            made = net.decode_codes(z)
        output = (made + 1) / 2
        terms["l1"] = losses.l1(output, picture, batch["enlarged"])
        if step.weight("colour"):
            terms["colour"] = losses.l1(F.avg_pool2d(output, 8), F.avg_pool2d(picture, 8))
        if self.perceptual is not None and step.weight("perceptual"):
            terms["perceptual"] = self.perceptual(output, picture)
        if step.weight("adversarial"):
            adversarial = losses.generator_loss(nets["discriminator"](made), "hinge")
            reconstruction = sum(step.weight(term) * terms[term] for term in ("l1", "perceptual") if term in terms)
            last = net.decoder.conv_out.weight
            terms["adversarial"] = adversarial * losses.adaptive_weight(reconstruction, adversarial, last)  # type: ignore[arg-type]
            step.kept.update(fake=made.detach(), real=picture * 2 - 1)
        return terms

    def _judge(self, nets: Nets, batch: Batch, step: Step) -> dict[str, Tensor]:
        discriminator = nets["discriminator"]
        real, fake = discriminator(step.kept["real"]), discriminator(step.kept["fake"])
        return {"critic": losses.discriminator_loss(real, fake, "hinge")}

    @torch.no_grad()
    def _start_codebook(self, net: VQAutoencoder) -> None:
        """Fit a codebook that is as it was built to latents of the pictures."""
        if is_started(net) or self._faces is None:
            return
        self.say(f"fitting {net.codes} entries of the codebook to {self.config.codebook_images} pictures")
        rng = np.random.default_rng(self.config.seed)
        rows = []
        for _ in range(self.config.codebook_images):
            image = fit(self._faces[self._faces.pick(rng)], self.config.face_size)
            face = torch.from_numpy(image).permute(2, 0, 1)[None].to(net.codebook.device).float() / 127.5 - 1
            latents = net.encode(face).float().flatten(2)[0].T
            rows.append(latents[torch.from_numpy(rng.permutation(len(latents))[:_POSITIONS]).to(latents.device)])
        fit_codebook(net, torch.cat(rows))

    def examples(self, pictures: Pictures, phase: Phase) -> Examples:
        self._faces = pictures
        return face_pairs(self.config, pictures, phase)  # type: ignore[arg-type]

    def validator(self, pictures: Pictures) -> Validator:
        quantises = bool(self.config.phases[-1].weights.get("codebook"))

        def reconstruct(net: VQAutoencoder, face: Tensor) -> Tensor:
            z = net.encode(face * 2 - 1)
            started = quantises and is_started(net)
            return ((net.decode(z) if started else net.decode_codes(z)) + 1) / 2

        return Reconstruction(
            pictures,
            self.config.preset(),
            lambda nets: lambda face: reconstruct(nets["net"].vq, face),  # type: ignore[arg-type]
            recogniser=self.recogniser,
            size=self.config.face_size,
            limit=self.config.validate_limit,
        )


@torch.no_grad()
def follow(net: VQAutoencoder, z: Tensor, share: float = 0.01) -> None:
    """Let the statistics that latents are normalised by follow those of a batch."""
    values = z.detach().float().permute(1, 0, 2, 3).flatten(1)
    fresh = bool((net.mean == 0).all())
    net.mean.lerp_(values.mean(1), 1.0 if fresh else share)
    net.std.lerp_(values.std(1), 1.0 if fresh else share)


def is_started(net: VQAutoencoder) -> bool:
    """Tell whether the codebook holds more than what it was built with."""
    return float(net.codebook.detach().abs().max()) > 1 / net.codes


@torch.no_grad()
def fit_codebook(net: VQAutoencoder, latents: Tensor, rounds: int = 8) -> None:
    """Fill the codebook with centres of latents (N, dim): Lloyd's algorithm, from a draw of them.

    Entries drawn at random and moved by the loss alone stay where they fell for thousands of steps, and flat parts of
    a picture show their distances as patches.
    """
    generator = torch.Generator().manual_seed(net.codes)
    chosen = torch.randint(len(latents), (net.codes,), generator=generator).to(latents.device)
    net.codebook.copy_(latents[chosen])
    for _ in range(rounds):
        numbers = net.nearest(latents.T[None, :, :, None]).flatten()
        members = torch.zeros(net.codes, device=latents.device).index_add_(0, numbers, torch.ones_like(latents[:, 0]))
        sums = torch.zeros_like(net.codebook).index_add_(0, numbers, latents)
        centres = sums / members.clamp(min=1)[:, None]
        # An entry that nothing is nearest to moves to a latent, where it will be.
        spare = latents[torch.randint(len(latents), (net.codes,), generator=generator).to(latents.device)]
        net.codebook.copy_(torch.where(members[:, None] > 0, centres, spare))
