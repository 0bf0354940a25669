"""The check of faces: whether what a detector found, aligned by its points, is one."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

from pydantic.dataclasses import dataclass
from torch import Tensor, nn
from torch.nn import functional as F

from bfr_core.errors import SettingsError
from bfr_core.faces.check import LEAST
from bfr_core.faces.detect import load_detector
from bfr_core.models.checkpoints.files import fill
from bfr_core.networks.face_check import FaceCheckNet
from bfr_core.networks.face_detector import fold

from ..config import STRICT, Count, Phase
from ..data import Batch, Examples
from ..detection.checks import CheckValidator, ViewExamples, Views, collect
from ..stage import FileNeed, Nets, Objective, Step, Validator
from .detector import DetectorConfig, DetectorStage

_SMOOTH = 0.01


@dataclass(frozen=True, config=STRICT)
class FaceCheckConfig(DetectorConfig):
    """The check: what is searched for crops, beside what the stages of the detector have."""

    pictures: Count = 1_500
    """Training pictures that are searched for crops, once."""
    sides: tuple[Count, ...] = (192, 256)
    """Their sides, in turn."""
    faces: float = 3.0
    """How much a face that is thrown out costs, where one that is let through costs 1."""


COMPACT = FaceCheckConfig(
    phases=(
        Phase(
            "check", 70_000, batch=128, size=FaceCheckNet.SIZE, lr=(2e-3, 1e-5), warmup=3_000,
            weights={"score": 1.0},
        ),
    ),
    seed=23,
    betas=(0.9, 0.999),
    weight_decay=1e-2,
    clip=5.0,
    ema=6_000.0,
    validate_images=35_000,
    validate_limit=20,
)  # fmt: skip
"""An image is one crop here."""


class FaceCheckStage(DetectorStage[FaceCheckConfig]):
    """Train the check.

    The embedded detector goes over training pictures first, which takes minutes; a run that is continued makes the
    same crops again. `--init` takes checkpoints of this stage, not the shipped check, whose batch norms are folded.
    """

    title: ClassVar[str] = "Check of faces"
    source: ClassVar[str] = "Cross-entropy with smoothed labels, on aligned crops of what the detector finds."
    terms: ClassVar[Mapping[str, str]] = {"score": "BCE(s, 0.99 or 0.01), faces weighted by `faces`"}
    configs: ClassVar[Mapping[str, FaceCheckConfig]] = {"compact": COMPACT}
    needs: ClassVar[Mapping[str, FileNeed]] = DetectorStage.needs
    pixel_layers: ClassVar[tuple[str, ...]] = ("body.0", "is_face")
    figures: ClassVar[tuple[str, ...]] = ("faces_kept", "alarms_left", "faces", "alarms")
    weaknesses: ClassVar[str] = (
        "Its faces are those of the detector's training: portraits, pasted and degraded. Of what else there is it has "
        "seen parts of those portraits, textures, and drawn things. Statues, masks, dolls and painted faces are faces "
        "to it."
    )

    def __init__(self, config: FaceCheckConfig, files: Mapping[str, Path]) -> None:
        super().__init__(config, files)
        self._views: Views | None = None
        self._detector = load_detector()

    @classmethod
    def shipped(cls, weights: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        net = FaceCheckNet(norm=True)
        fill(net, dict(weights), what=cls.title)
        return fold(net)

    def from_shipped(self, weights: Mapping[str, Tensor]) -> dict[str, nn.Module]:
        net = FaceCheckNet()
        fill(net, weights, what=self.title)
        return {"net": net}

    def networks(self) -> dict[str, nn.Module]:
        return {"net": FaceCheckNet(norm=True)}

    def objectives(self) -> tuple[Objective, ...]:
        return (Objective("check", ("net",), self._check),)

    def _check(self, nets: Nets, batch: Batch, step: Step) -> dict[str, Tensor]:
        said, face = nets["net"](batch["image"]).float(), batch["face"].float()
        # Label smoothing (arXiv:1512.00567, Sec. 7).
        wanted = face * (1 - 2 * _SMOOTH) + _SMOOTH
        cost = 1 + face * (self.config.faces - 1)
        return {"score": F.binary_cross_entropy_with_logits(said, wanted, weight=cost)}

    def examples(self, pictures: Any, phase: Phase) -> Examples:
        if phase.size != FaceCheckNet.SIZE:
            raise SettingsError(
                f"Cannot train phase {phase.name} of the check of faces",
                found=f"its size is {phase.size}; the network sees crops of {FaceCheckNet.SIZE} px",
                kept="Nothing was started",
                todo=f"Set it to {FaceCheckNet.SIZE}",
            )
        if self._views is None:
            config = self.config
            self.say(f"Searching {config.pictures} training pictures for crops, which takes minutes")
            self._views = collect(self._detector, pictures, count=config.pictures, sides=config.sides, seed=config.seed)
            faces = int(self._views.face.sum())
            self.say(f"{faces} faces and {len(self._views.face) - faces} others were found")
        return ViewExamples(self._views, pictures, self.seed_of(phase))

    def validator(self, pictures: Any) -> Validator:
        return CheckValidator(pictures, self._detector, limit=self.config.validate_limit, least=LEAST)


STAGE = FaceCheckStage
