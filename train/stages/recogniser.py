"""The embedded face recogniser, distilled from a larger one."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import torch
from pydantic.dataclasses import dataclass
from torch import Tensor, nn

from bfr_core.backends.recognizers.embedded import LAYOUT
from bfr_core.bench.recogniser import VIEWS
from bfr_core.errors import SettingsError
from bfr_core.faces.identity import RecognizerNet, load_recognizer
from bfr_core.models.checkpoints.files import fill
from bfr_core.networks.face_detector import fold
from bfr_core.networks.face_embedder import FaceEmbedder

from ..config import STRICT, Count, Phase, Share, TrainConfig
from ..data import Batch, Examples
from ..pictures import Pictures
from ..recognition import FaceViews, Student, Teacher, VerificationValidator
from ..stage import FileNeed, Nets, Objective, Stage, Step, Validator


@dataclass(frozen=True, config=STRICT)
class RecogniserConfig(TrainConfig):
    """The recogniser: how many views, and how bad they are, beside what every stage has."""

    views: Count = 12_000
    """Clean views the teacher is asked about, once each; it takes longer than a step on one image."""
    hard: Share = 0.5
    """Share of the images that are degraded hard."""
    mild: Share = 0.3
    """Share that is degraded mildly; the rest only changes in colour."""


_TERMS = {"cosine": 1.0, "pairs": 5.0, "maps": 1.0}

COMPACT = RecogniserConfig(
    phases=(
        Phase("views", 100_800, batch=24, size=FaceEmbedder.SIZE, lr=(0.02, 0.006), warmup=480, weights=_TERMS),
        Phase("last", 30_000, batch=24, size=FaceEmbedder.SIZE, lr=(0.006, 0.0002), weights=_TERMS),
    ),
    optimiser="muon",
    clip=5.0,
    ema=1_500.0,
    weight_decay=1e-3,
    save_minutes=2.0,
    validate_images=24_000,
    validate_limit=200,
)
"""About 35 minutes of one free core (AVX2): 27 ms for a clean view, 12 ms for an image. What we ship saw less: its card
has the command."""


class RecogniserStage(Stage[RecogniserConfig]):
    """Train e = f(view) on the teacher's embedding of the clean view.

    `--init` takes checkpoints of this stage. It does not take the shipped weights: their batch norms are folded into
    the convolutions, and training needs them apart.
    """

    title: ClassVar[str] = "Face recogniser"
    method: ClassVar[str] = "recogniser"
    source: ClassVar[str] = (
        "Distillation of embeddings, of their similarities within a batch (relational knowledge distillation, "
        "arXiv:1904.05068, with cosines in place of distances) and of inner maps (FitNets, arXiv:1412.6550, with all "
        "terms at once). The target of a degraded view is what the teacher says of the clean one."
    )
    terms: ClassVar[Mapping[str, str]] = {
        "cosine": "1 - cos(f(view), teacher(clean view))",
        "pairs": "mean over i != j of (cos(f_i, f_j) - cos(t_i, t_j))^2",
        "maps": "share of the variance of the teacher's maps at 1/8 and 1/16 that a 1x1 convolution cannot read",
    }
    configs: ClassVar[Mapping[str, RecogniserConfig]] = {"compact": COMPACT}
    needs: ClassVar[Mapping[str, FileNeed]] = {"recogniser": FileNeed("MobileFaceNet file to learn from")}
    weaknesses: ClassVar[str] = (
        "Learnt from about a thousand people, nearly all of them one frontal portrait each: it knows less about pose "
        "and age than its teacher does, and its figures are of views of one picture, not of pictures years apart. Good "
        "for guidance, selection and drift; not for deciding who somebody is."
    )
    pixel_layers: ClassVar[tuple[str, ...]] = ("net.stages.0", "net.place", "read")
    folded: ClassVar[bool] = True
    figures: ClassVar[tuple[str, ...]] = (
        *(f"{figure}_{view}" for view in VIEWS for figure in ("auc", "tar", "least", "same")),
        "other", "agreement", "cosine",
    )  # fmt: skip

    def __init__(self, config: RecogniserConfig, files: Mapping[str, Path]) -> None:
        super().__init__(config, files)
        if any(phase.size != FaceEmbedder.SIZE for phase in config.phases):
            raise SettingsError(
                "Cannot train the recogniser at another size",
                found=f"a phase has size {', '.join(str(phase.size) for phase in config.phases)}; "
                f"the network reads {FaceEmbedder.SIZE}",
                kept="Nothing was started",
                todo=f"Set it to {FaceEmbedder.SIZE}",
            )
        self.teacher = Teacher(load_recognizer(files["recogniser"]))
        self.frozen["teacher"] = self.teacher

    @classmethod
    def shipped(cls, weights: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        student = Student()
        fill(student, dict(weights), what=cls.title)
        return fold(student.net)

    def from_shipped(self, weights: Mapping[str, Tensor]) -> dict[str, nn.Module]:
        student = Student(norm=False)
        fill(student.net, weights, what=self.title)
        return {"net": student}

    def networks(self) -> dict[str, nn.Module]:
        return {"net": Student()}

    def objectives(self) -> tuple[Objective, ...]:
        return (Objective("distil", ("net",), self._distil),)

    def _distil(self, nets: Nets, batch: Batch, step: Step) -> dict[str, Tensor]:
        vectors, read = nets["net"](LAYOUT.preprocessing.normalise(batch["seen"]))
        target, *maps = self.teacher(batch["number"], batch["clean"], [one.shape[-1] for one in read])
        return {
            "cosine": 1 - (vectors * target).sum(1).mean(),
            "pairs": _pairs(vectors, target),
            "maps": torch.stack([_missed(one, wanted) for one, wanted in zip(read, maps, strict=True)]).mean(),
        }

    def examples(self, pictures: Pictures, phase: Phase) -> Examples:
        config = self.config
        # The same views in every phase, so that the teacher is asked once.
        return FaceViews(pictures, seed=config.seed, views=config.views, hard=config.hard, mild=config.mild)

    def validator(self, pictures: Pictures) -> Validator:
        return VerificationValidator(pictures, self.teacher.recogniser, _recogniser, limit=self.config.validate_limit)


def _recogniser(nets: Nets) -> RecognizerNet:
    net = FaceEmbedder()
    student: Any = nets["net"]
    fill(net, fold(student.net), what="the trained recogniser")
    return RecognizerNet(net, LAYOUT).to(next(student.parameters()).device)


def _missed(found: Tensor, wanted: Tensor) -> Tensor:
    """Return the share of the variance, over faces and places, that is not explained; the mean over channels."""
    error = (found - wanted).square().mean((0, 2, 3))
    return (error / (wanted.var((0, 2, 3), unbiased=False) + 1e-4)).mean()


def _pairs(vectors: Tensor, target: Tensor) -> Tensor:
    others = ~torch.eye(len(vectors), dtype=torch.bool, device=vectors.device)
    return (vectors @ vectors.T - target @ target.T)[others].square().mean()


STAGE = RecogniserStage
