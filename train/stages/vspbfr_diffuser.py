"""The code diffuser P of VSPBFR (paper Sec. III-D, Code diffuser training)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from pydantic.dataclasses import dataclass
from torch import Tensor, nn

from bfr_core.errors import SettingsError

from .. import losses
from ..config import STRICT, Phase
from ..data import Batch, Examples, Feed
from ..pairs import FREE, RestorePhase
from ..pictures import Pictures
from ..stage import FileNeed, Nets, Objective, Step, Validator
from ..vspbfr import STYLE, CodeDiffuser, StyleConfig, StyleStage, like, load_style, sized

_ENCODED = 16
"""Faces encoded at a time."""
_PICTURED = ("l1", "perceptual", "identity")
"""Losses between pictures."""


@dataclass(frozen=True, config=STRICT)
class DiffuserConfig(StyleConfig):
    """Training a code diffuser."""

    begins: Literal["initial", "clean"] = "initial"
    """What is noised to w^T: the degraded face's codes as released, or w^0 as printed (Eq. 1)."""
    pairs: int = 0
    """Faces that are degraded and encoded once, before training, so that a step costs the diffuser alone; a phase then
    counts pairs of codes, and no loss may need a picture. 0 encodes each face anew."""


COMPACT = DiffuserConfig(
    phases=(
        RestorePhase(
            "chain", 320_000, batch=64, size=256, lr=(0.01, 0.0005), warmup=6_400, weights={"codes": 1.0},
        ),
    ),
    face_size=256,
    optimiser="muon",
    clip=1.0,
    ema=20_000.0,
    pairs=2_048,
    validate_images=160_000,
    folder_weights=FREE,
)  # fmt: skip
"""Two cores, minutes: 5,000 steps on 2,048 pairs of codes."""

RELEASED = DiffuserConfig(
    network="official",
    phases=(
        RestorePhase(
            "chain", 1_600_000, batch=8, lr=(2e-4, 2e-4),
            weights={"codes": 1.0, "perceptual": 0.1, "identity": 0.1},
        ),
    ),
    degradation="vspbfr-code",
    betas=(0.5, 0.999),
    clip=0.0,
    ema=0.0,
)  # fmt: skip
"""200,000 steps of 8. L1 of w^0 in place of Eq. 3's noise, through the whole chain, as the released training does."""

PAPER = DiffuserConfig(
    network="paper",
    phases=(
        RestorePhase(
            "noise", 1_600_000, batch=8, lr=(2e-4, 2e-4),
            weights={"diffusion": 1.0, "perceptual": 0.1, "identity": 0.1},
        ),
    ),
    degradation="vspbfr-paper",
    betas=(0.5, 0.999),
    clip=0.0,
    ema=0.0,
    begins="clean",
)  # fmt: skip
"""As printed: L_dm + 0.1 L_lpips + 0.1 L_id, Adam 0.5, 0.999, 2e-4."""


class CodePairs(Examples[Pictures]):
    """Draw `initial` and `clean` codes that were encoded before."""

    def __init__(self, pairs: tuple[np.ndarray, np.ndarray], pictures: Pictures, seed: int) -> None:
        super().__init__(pictures, seed)
        self.pairs = pairs

    def example(self, index: int, rng: np.random.Generator, bad: dict[str, str]) -> dict[str, Any]:
        number = int(rng.integers(len(self.pairs[0])))
        return {name: codes[number] for name, codes in zip(("initial", "clean"), self.pairs, strict=True)}


class DiffuserStage(StyleStage[DiffuserConfig]):
    """Train w^0 = P(w^T, w_hat) with style encoder and generator frozen; the truth is E(I_gt)."""

    title: ClassVar[str] = "Code diffuser"
    source: ClassVar[str] = (
        "Paper Sec. III-D: L_dm + 0.1 L_lpips + 0.1 L_id. The released code trains the chain as a whole on L1 of w^0 "
        "in place of L_dm; the configs `compact` and `official` follow it, `paper` the text."
    )
    terms: ClassVar[Mapping[str, str]] = {
        "codes": "|w^0 - E(I_gt)| after the whole chain",
        "diffusion": "L_dm = |epsilon - epsilon_hat^t|^2 at a random t",
        "l1": "|I_ve - I_gt|, I_ve = S(w^0)",
        "perceptual": "L_lpips(I_ve, I_gt); without --vgg and --heads features of the VGG or of the recogniser",
        "identity": "L_id = 1 - cos(R(I_ve), R(I_gt))",
    }
    configs: ClassVar[Mapping[str, Any]] = {"compact": COMPACT, "official": RELEASED, "paper": PAPER}
    needs: ClassVar[Mapping[str, FileNeed]] = {**StyleStage.needs, "style": STYLE}
    weaknesses: ClassVar[str] = "Trained for minutes; what it adds to the style encoder's codes is small."

    def __init__(self, config: DiffuserConfig, files: Mapping[str, Path]) -> None:
        super().__init__(config, files)
        needing = {term for phase in config.phases for term in _PICTURED if phase.weights.get(term)}
        if config.pairs and needing:
            raise SettingsError(
                "Cannot train the code diffuser on pairs of codes",
                found=f"{', '.join(sorted(needing))} compare pictures, and pairs = {config.pairs} keeps none",
                kept="Nothing was started",
                todo="Set pairs=0, or leave those weights out",
            )
        self.style = load_style(config, files["style"])
        self._pairs: tuple[np.ndarray, np.ndarray] | None = None
        self.frozen["style"] = self.style

    def networks(self) -> dict[str, nn.Module]:
        return {"net": CodeDiffuser(self.options)}

    def objectives(self) -> tuple[Objective, ...]:
        return (Objective("diffuse", ("net",), self._diffuse),)

    def _diffuse(self, nets: Nets, batch: Batch, step: Step) -> dict[str, Tensor]:
        net: CodeDiffuser = nets["net"]  # type: ignore[assignment]
        process, generator = net.diffusion, step.generator
        initial, clean = self._codes(batch)
        terms: dict[str, Tensor] = {}
        if step.weight("diffusion"):
            t = 1 + int(torch.randint(process.steps, (), generator=generator, device=generator.device))
            epsilon = like(clean, generator)
            guess = net.guess(process.noised(clean, epsilon, t), initial, t)
            target = epsilon if process.predicts == "noise" else clean
            terms["diffusion"] = losses.diffusion(guess, target)
        pictures = any(step.weight(term) for term in _PICTURED)
        if step.weight("codes") or pictures:
            begun = initial if self.config.begins == "initial" else clean
            last = process.noised(begun, like(begun, generator), process.steps)
            codes = net(initial, last, generator)
            if step.weight("codes"):
                terms["codes"] = losses.l1(codes, clean)
            if pictures:
                inverted = sized((self.style.decoder(codes) + 1) / 2, batch["truth"].shape[-1])
                terms |= self.compare(inverted, batch["truth"], step, batch["enlarged"])
        return terms

    @torch.no_grad()
    def _codes(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Return E(I_de) and E(I_gt)."""
        if "initial" in batch:
            return batch["initial"], batch["clean"]
        initial, clean = (self.style.encode(batch[side] * 2 - 1) for side in ("low", "truth"))
        return initial, clean

    def examples(self, pictures: Pictures, phase: Phase) -> Examples:
        faces = super().examples(pictures, phase)
        if not self.config.pairs:
            return faces
        if self._pairs is None:
            self.say(f"Degrading and encoding {self.config.pairs} faces, which takes minutes")
            self._pairs = self._encode(faces)
        return CodePairs(self._pairs, pictures, self.config.seed)

    def _encode(self, faces: Examples) -> tuple[np.ndarray, np.ndarray]:
        feed = Feed(faces, start=0, batch=_ENCODED, device=next(self.style.parameters()).device)
        found = []
        for _ in range(0, self.config.pairs, _ENCODED):
            found.append([codes.cpu().numpy() for codes in self._codes(feed.next())])
        feed.close()
        initial, clean = zip(*found, strict=True)
        return np.concatenate(initial)[: self.config.pairs], np.concatenate(clean)[: self.config.pairs]

    def validator(self, pictures: Pictures) -> Validator:
        def restore(nets: Nets, face: Tensor) -> Tensor:
            generator = torch.Generator(face.device).manual_seed(0)
            initial = self.style.encode(face * 2 - 1)
            codes = nets["net"](initial, like(initial, generator), generator)
            return sized((self.style.decoder(codes) + 1) / 2, face.shape[-1])

        return self.restoration(pictures, lambda nets: lambda face: restore(nets, face))


STAGE = DiffuserStage
