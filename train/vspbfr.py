"""What the training stages of VSPBFR share."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import ClassVar, Generic, TypeVar

import torch
from pydantic.dataclasses import dataclass
from torch import Tensor, nn
from torch.nn import functional as F

from bfr_core.faces.identity import RecognizerNet, load_recognizer
from bfr_core.methods.vspbfr.diffuser import (
    RELEASED_DIFFUSION,
    RELEASED_TACC,
    TACC,
    Diffusion,
    conditions,
    diffuse,
    predict,
)
from bfr_core.methods.vspbfr.model import StyleEncoderDecoder
from bfr_core.models.checkpoints.files import fill, load_state
from bfr_core.networks.stylegan2 import Discriminator, Noise
from bfr_core.registry import get_method

from . import losses
from .adversary import judge
from .config import STRICT, Amount, Count, Phase, Positive, Share
from .data import Examples
from .pairs import RestoreConfig, face_pairs
from .pictures import Pictures
from .stage import FileNeed, Nets, Stage, Step, Validator
from .validation import RestoreValidator


@dataclass(frozen=True, config=STRICT)
class StyleConfig(RestoreConfig):
    """A stage of VSPBFR."""

    r1: Amount = 10.0
    """gamma of Eq. 9."""
    r1_every: Count = 16
    """Steps between two evaluations of its last term."""
    perceptual_side: Count = 256
    """Side that pictures are compared at where the recogniser's features stand in for LPIPS."""
    critic: dict[int, Count] = dataclasses.field(default_factory=dict)
    """Channels of the discriminator's maps by their side."""
    critic_patch: Count = 1
    """Side of the square of pixels that one position of its largest map sees."""
    critic_crop: int = 0
    """Side of the square it judges, cut out at random; 0 for the whole picture."""
    critic_rate: Positive = 1.0
    """Learning rate of the discriminator relative to the phase's."""
    mixing: Share = 0.5
    """How often a picture is made of two random styles."""

    def discriminator(self) -> Discriminator:
        """Build D."""
        return Discriminator(max(self.critic), self.critic, patch=self.critic_patch)


S = TypeVar("S", bound=StyleConfig)

RECOGNISER = FileNeed("face recogniser of the identity loss: IR-SE50, resnet101, resnet18 ArcFace or MobileFaceNet")
STYLE = FileNeed("style encoder and facial feature bank: exported weights of vspbfr.bank or vspbfr.encoder")
DIFFUSER = FileNeed("code diffuser: exported weights of vspbfr.diffuser")
PERCEPTUAL = {
    "vgg": FileNeed("VGG of the perceptual loss; without it the recogniser's features are compared", required=False),
    "heads": FileNeed("LPIPS heads of that VGG", required=False),
}


class StyleStage(Stage[S], Generic[S]):
    """A stage of VSPBFR: recogniser and perceptual loss, pairs of faces, the network's options."""

    method: ClassVar[str] = "vspbfr"
    needs: ClassVar[Mapping[str, FileNeed]] = {"recogniser": RECOGNISER, **PERCEPTUAL}
    pixel_layers: ClassVar[tuple[str, ...]] = ()

    def __init__(self, config: S, files: Mapping[str, Path]) -> None:
        super().__init__(config, files)
        self.options = get_method("vspbfr").config(config.network).options
        self.recogniser: RecognizerNet = load_recognizer(files["recogniser"])
        self.perceptual = losses.load_perceptual(
            files.get("vgg"), files.get("heads"), self.recogniser, config.perceptual_side
        )
        self.frozen.update(recogniser=self.recogniser, perceptual=self.perceptual)

    def compare(self, output: Tensor, truth: Tensor, step: Step, enlarged: Tensor | None = None) -> dict[str, Tensor]:
        """Return the terms between two pictures in [0, 1] that this phase weighs."""
        terms = {}
        if step.weight("l1"):
            terms["l1"] = losses.l1(output, truth, enlarged)
        if step.weight("l2"):
            terms["l2"] = (output - truth).square().mean()
        if step.weight("perceptual"):
            terms["perceptual"] = self.perceptual(output, truth)
        if step.weight("identity"):
            terms["identity"] = losses.identity(self.recogniser, output, truth)
        return terms

    def judge(self, discriminator: nn.Module, real: Tensor, fake: Tensor, step: Step) -> dict[str, Tensor]:
        """Return what the discriminator learns from: Eq. 9 for real and restored pictures in [-1, 1]."""
        return judge(discriminator, real, fake, step, gamma=self.config.r1, every=self.config.r1_every)

    def examples(self, pictures: Pictures, phase: Phase) -> Examples:
        return face_pairs(self.config, pictures, phase)  # type: ignore[arg-type]

    def restoration(self, pictures: Pictures, restore: Callable[[Nets], Callable[[Tensor], Tensor]]) -> Validator:
        """Return the validation of what maps a degraded face to a picture."""
        return RestoreValidator(
            pictures,
            self.config.preset(),
            restore,
            recogniser=self.recogniser,
            size=self.config.face_size,
            limit=self.config.validate_limit,
        )


def load_style(config: StyleConfig, path: Path) -> StyleEncoderDecoder:
    """Build E and S of a config and fill them from exported weights.

    Raises:
        WeightsError: the file does not fit.
    """
    options = get_method("vspbfr").config(config.network).options
    net = build_style(options)
    state = load_state(path)
    fill(net, state, what=f"style encoder and facial feature bank, config {config.network}")
    return net


def build_style(options: Mapping) -> StyleEncoderDecoder:
    """Build E and S of a config."""
    return StyleEncoderDecoder(options.get("style_dim", 512), encoder=options["encoder"], bank=options["bank"])


class CodeDiffuser(nn.Module):
    """P with its process, under the keys of the whole network.

    Shapes: initial and noise (B, N, dim); returns w^0.
    """

    def __init__(self, options: Mapping, blocks: int = 4) -> None:
        super().__init__()
        dim = options.get("style_dim", 512)
        self.att_mapper = nn.ModuleList(TACC(dim, options.get("tacc", RELEASED_TACC)) for _ in range(blocks))
        self.diffusion: Diffusion = options.get("diffusion", RELEASED_DIFFUSION)

    def forward(self, initial: Tensor, noise: Tensor, generator: torch.Generator) -> Tensor:
        return diffuse(self.att_mapper, initial, noise, self.diffusion, lambda _: like(initial, generator))[-1]

    def guess(self, x: Tensor, initial: Tensor, t: int) -> Tensor:
        """Return what the blocks predict for w^t, t in 1 ... T."""
        every = conditions(initial, self.diffusion)[t - 1 : t]
        return predict(self.att_mapper, [block.condition(every) for block in self.att_mapper], x, 0)  # type: ignore[operator]


def like(x: Tensor, generator: torch.Generator) -> Tensor:
    """Return standard normal noise in the shape of `x`."""
    return torch.randn(x.shape, generator=generator, device=x.device, dtype=x.dtype)


def noise_of(batch: int, generator: torch.Generator, device: torch.device) -> Noise:
    """Return the layers' noise of a training step."""
    return lambda layer, side: torch.randn(batch, 1, side, side, generator=generator, device=device)


def mixed_styles(mapping: nn.Module, tokens: int, count: int, mixing: float, generator: torch.Generator) -> Tensor:
    """Return F(z) for each code, (count, tokens, dim); with probability `mixing` the later codes take a second one."""
    last = next(reversed(list(mapping.parameters())))
    device, dim = last.device, len(last)
    first, second = (mapping(torch.randn(count, dim, generator=generator, device=device))[:, None] for _ in "ab")
    luck = torch.rand(count, generator=generator, device=device)
    start = torch.randint(1, tokens, (count,), generator=generator, device=device)
    later = torch.arange(tokens, device=device) >= torch.where(luck < mixing, start, tokens)[:, None]
    return torch.where(later[:, :, None], second, first)


def sized(picture: Tensor, side: int) -> Tensor:
    """Bring square pictures to a side."""
    if picture.shape[-1] == side:
        return picture
    return F.interpolate(picture, (side, side), mode="bilinear", antialias=True, align_corners=False)


def invert(net: nn.Module, face: Tensor) -> Tensor:
    """Return S(E(face)) at the face's size, all in [0, 1]."""
    return sized((net.decoder(net.encode(face * 2 - 1)) + 1) / 2, face.shape[-1])  # type: ignore[operator]
