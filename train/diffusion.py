"""What the training stages of the diffusion methods share."""

from __future__ import annotations

import dataclasses
from abc import abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Generic, TypeVar

import torch
from einops import rearrange
from pydantic.dataclasses import dataclass
from torch import Tensor, nn

from bfr_core.diffusion.guidance import IdentityGuide
from bfr_core.diffusion.levels import q_sample
from bfr_core.errors import SettingsError, WeightsError
from bfr_core.models.checkpoints.cards import load_embedded
from bfr_core.models.checkpoints.files import fill, load_state
from bfr_core.models.checkpoints.origin import read_origin
from bfr_core.registry import Context, Method, get_method

from . import losses
from .config import STRICT, Count, Phase, Positive
from .data import Batch, Examples
from .pairs import FREE, RestoreConfig, RestorePhase, face_pairs
from .pictures import Pictures
from .stage import FileNeed, Nets, Objective, Stage, Step, Validator
from .validation import RestoreValidator

IRN = FileNeed("identity recovery network: exported weights of irn.irn; without it the embedded one", required=False)
RECOGNISER = FileNeed("face recogniser; without it the embedded one", required=False)


@dataclass(frozen=True, config=STRICT)
class DiffusionConfig(RestoreConfig):
    """A stage of a diffusion method."""

    validate_settings: dict[str, float | int | bool | str] = dataclasses.field(default_factory=dict)
    """Settings of the method while validating, such as fewer steps."""


D = TypeVar("D", bound=DiffusionConfig)


class Denoiser(nn.Module):
    """The U-Net under the keys of the whole network.

    Shapes: x (B, C, H, W), what is noisy beside its condition; t (B,); returns what the U-Net predicts.
    """

    def __init__(self, unet: nn.Module) -> None:
        super().__init__()
        self.unet = unet

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        return self.unet(x, t)


class DiffusionStage(Stage[D], Generic[D]):
    """A stage of a diffusion method: builds the whole network, of which it trains a part and freezes the rest."""

    needs: ClassVar[Mapping[str, FileNeed]] = {"recogniser": RECOGNISER, "irn": IRN}
    pixel_layers: ClassVar[tuple[str, ...]] = ("unet.input_blocks.0.", "unet.out.", "unet.time_embed")

    def __init__(self, config: D, files: Mapping[str, Path]) -> None:
        super().__init__(config, files)
        declared = get_method(self.method)
        self.declared, self.chosen = declared, declared.config(config.network)
        self.recogniser = losses.recogniser_of(files)
        self.whole: Any = declared.build(self.chosen)
        """The network as it restores; the part that this stage trains is put in before each validation."""
        if getattr(self.whole, "irn", None) is not None:
            fill(self.whole.irn, self._recovery_weights(files), what=f"identity recovery network of {declared.title}")
            self.frozen["irn"] = self.whole.irn
        self.frozen["recogniser"] = self.recogniser

    def _recovery_weights(self, files: Mapping[str, Path]) -> Mapping[str, Tensor]:
        if "irn" in files:
            return load_state(files["irn"])
        embedded = self.chosen.shared.get("irn.")
        if embedded is None:
            raise SettingsError(
                f"{self.declared.title}, config {self.chosen.name}, has no identity recovery network to look through",
                found="no --irn was given, and none is embedded for this config",
                kept="Nothing was started",
                todo="Train one with irn.irn and give its exported weights with --irn",
            )
        return load_embedded(embedded)

    @torch.no_grad()
    def recovered(self, low: Tensor) -> Tensor:
        """Return f_phi(x_d) of degraded pictures, both [0, 1]; the pictures themselves where the method has none."""
        irn = getattr(self.whole, "irn", None)
        return low if irn is None else irn(low).clamp(0, 1)

    def examples(self, pictures: Pictures, phase: Phase) -> Examples:
        return face_pairs(self.config, pictures, phase)  # type: ignore[arg-type]

    def put(self, nets: Nets) -> nn.Module:
        """Return the whole network with the trained part in it."""
        self.whole.unet = nets["net"].unet
        return self.whole

    def validator(self, pictures: Pictures) -> Validator:
        settings = self.declared.settings(self.config.validate_settings, self.chosen)
        context = Context(guide=IdentityGuide(self.recogniser, "recogniser of this run"))

        def restore(nets: Nets, face: Tensor) -> Tensor:
            whole = self.put(nets).eval()
            return self.declared.restore(whole, face, settings, [0], {}, context)

        return RestoreValidator(
            pictures,
            self.config.preset(),
            lambda nets: lambda face: restore(nets, face),
            recogniser=self.recogniser,
            size=self.config.face_size,
            limit=self.config.validate_limit,
        )


@dataclass(frozen=True, config=STRICT)
class PixelConfig(DiffusionConfig):
    """Training a conditional diffusion model of pixels."""

    latest: int = 0
    """Levels are drawn below this one; 0 for all. A chain that starts at T' never sees later ones."""
    split: Count = 1
    """Each picture is cut into this many patches a side, a training example each. The condition is made before."""


COMPACT_PIXELS = PixelConfig(
    phases=(
        RestorePhase("crops", 8_000, batch=8, size=256, lr=(0.012, 0.004), warmup=160, weights={"residual": 1.0}),
        RestorePhase(
            "faces", 2_000, batch=4, size=512, lr=(0.004, 0.0006), warmup=80, weights={"residual": 1.0}, mild=0.2
        ),
    ),
    optimiser="muon",
    clip=0.5,
    ema=800.0,
    precision="auto",
    latest=700,
    folder_weights=FREE,
)  # fmt: skip
"""Two cores, about an hour: the network that both methods of pixels have. Levels are drawn as far as the fidelity dial
starts from."""


P = TypeVar("P", bound=PixelConfig)


class PixelDiffusionStage(DiffusionStage[P], Generic[P]):
    """Train f_theta(y_t, condition, t) to give what the config's network predicts."""

    terms: ClassVar[Mapping[str, str]] = {
        "noise": "|eps - f_theta(y_t, condition, t)|^2",
        "residual": "EDM's loss of y_0 - g_phi(x), see bfr_core.networks.conditional_diffusion",
        "bound": "the variational bound of a step, for the variance where it is learnt (arXiv:2102.09672)",
    }

    def networks(self) -> dict[str, nn.Module]:
        return {"net": Denoiser(get_method(self.method).build(self.chosen).unet)}  # type: ignore[arg-type]

    def objectives(self) -> tuple[Objective, ...]:
        return (Objective("denoise", ("net",), self._denoise),)

    def _denoise(self, nets: Nets, batch: Batch, step: Step) -> dict[str, Tensor]:
        whole, schedule = self.whole, self.whole.schedule
        condition = whole.condition(batch["low"] * 2 - 1, self.recovered(batch["low"]) * 2 - 1)
        y0, condition = (patches(picture, self.config.split) for picture in (batch["truth"] * 2 - 1, condition))
        latest = self.config.latest or whole.timesteps
        t = torch.randint(latest, (len(y0),), generator=step.generator, device=step.generator.device)
        level = schedule.at(t)
        noise = noise_like(y0, step.generator)
        y_t = q_sample(y0, level, noise)
        given = nets["net"](torch.cat([y_t, condition], dim=1), level.t)
        target = whole.target(y0, noise, y_t, condition, level)
        terms = {whole.predicts: losses.diffusion(given[:, :3], target)}
        if whole.learned_variance and step.weight("bound"):
            estimate = whole.estimated(y_t, given[:, :3], condition, level).clean
            kept = level.alpha.square()
            before = schedule.at((t - 1).clamp(min=0)).alpha.square()
            before = torch.where(t.view(-1, 1, 1, 1) > 0, before, torch.ones_like(before))
            terms["bound"] = losses.variational_bound(given[:, 3:], y0, y_t, estimate, kept, before)
        return terms


MASK_NEEDS = {
    "vgg": FileNeed("VGG of the perceptual loss", required=False),
    "heads": FileNeed("LPIPS heads of that VGG", required=False),
}


@dataclass(frozen=True, config=STRICT)
class MaskConfig(DiffusionConfig):
    """Training a mask of a guidance."""

    scale: tuple[Positive, Positive] = (0.02, 0.3)
    """Strength of the guidance, drawn between these, logarithmically: the mask has to serve them all."""
    perceptual_side: int = 256
    """Side that pictures are compared at where the recogniser's features stand in for LPIPS."""


M = TypeVar("M", bound=MaskConfig)


class MaskNet(nn.Module):
    """A mask under the keys of the whole network."""

    def __init__(self, mask: nn.Module) -> None:
        super().__init__()
        self.mask = mask

    def forward(self, *seen: Tensor) -> Tensor:
        return self.mask(*seen)


class MaskStage(DiffusionStage[M], Generic[M]):
    """Train where guidance may act, with everything else frozen."""

    pixel_layers: ClassVar[tuple[str, ...]] = ()
    weaknesses: ClassVar[str] = "Trained for minutes with one recogniser; another may want another mask."

    def __init__(self, config: M, files: Mapping[str, Path]) -> None:
        super().__init__(config, files)
        load_denoiser(self.whole, files["diffusion"], self.declared)
        self.perceptual = losses.load_perceptual(
            files.get("vgg"), files.get("heads"), self.recogniser, config.perceptual_side
        )
        self.guide = IdentityGuide(self.recogniser, "recogniser of this run")
        self.frozen.update(unet=self.whole.unet, perceptual=self.perceptual)

    def networks(self) -> dict[str, nn.Module]:
        return {"net": MaskNet(get_method(self.method).build(self.chosen).mask)}  # type: ignore[arg-type]

    def put(self, nets: Nets) -> nn.Module:
        self.whole.mask = nets["net"].mask
        return self.whole

    def objectives(self) -> tuple[Objective, ...]:
        return (Objective("mask", ("net",), self._mask),)

    @abstractmethod
    def _mask(self, nets: Nets, batch: Batch, step: Step) -> dict[str, Tensor]:
        """Guide a noisy face through the mask, and judge what comes of it."""

    def strength(self, step: Step) -> float:
        """Draw how strongly this step guides, between both ends of `scale`, logarithmically."""
        low, high = self.config.scale
        return low * (high / low) ** torch.rand((), generator=step.generator, device=step.generator.device).item()

    def judged(self, mask: Tensor, output: Tensor, truth: Tensor, step: Step) -> dict[str, Tensor]:
        """Return the terms of a mask and the guided picture that came of it, (B, 3, H, W) in [0, 1]."""
        terms = {"sparsity": losses.sparsity(mask)}
        if step.weight("perceptual"):
            terms["perceptual"] = self.perceptual(output, truth)
        if step.weight("identity"):
            terms["identity"] = losses.identity(self.recogniser, output, truth)
        return terms


def patches(pictures: Tensor, split: int) -> Tensor:
    """Cut pictures (B, C, H, W) into `split` x `split` patches each: (B split^2, C, H / split, W / split)."""
    return rearrange(pictures, "b c (r h) (s w) -> (b r s) c h w", r=split, s=split)


def load_denoiser(whole: nn.Module, path: Path, method: Method) -> None:
    """Fill the U-Net of a method's whole network from exported weights of its diffusion stage.

    Raises:
        WeightsError: the file does not fit, or says that it is of another method, whose U-Net may be built alike.
    """
    origin = read_origin(path)
    if origin and origin.method != method.id:
        raise WeightsError(
            f"Cannot use {path} as the denoiser of {method.title}",
            found=f"it holds weights of {origin.words}",
            kept="Nothing was started",
            todo=f"Give exported weights of {method.id}.diffusion; --init starts training from another method's",
        )
    state = {key.removeprefix("unet."): tensor for key, tensor in load_state(path).items()}
    fill(whole.unet, state, what=f"denoiser of {method.title}")  # type: ignore[arg-type]


def noise_like(x: Tensor, generator: torch.Generator) -> Tensor:
    """Return standard normal noise in the shape of `x`, drawn where the step's generator draws."""
    return torch.randn(x.shape, generator=generator, device=generator.device, dtype=x.dtype).to(x.device)
