"""The embedded face detector's second look at what its search names."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

from pydantic.dataclasses import dataclass
from torch import Tensor, nn

from bfr_core.errors import SettingsError
from bfr_core.models.checkpoints.files import fill, load_state
from bfr_core.networks.face_detector import FaceDetectorNet, FaceRefinerNet

from ..checkpoint import averaged, read_newest
from ..config import STRICT, Count, Phase
from ..data import Batch, Examples
from ..detection.crops import CropExamples, Crops, collect
from ..detection.losses import refiner_losses
from ..detection.trained import TrainedDetector
from ..detection.validation import DetectionValidator
from ..stage import FileNeed, Nets, Objective, Step, Validator, is_checkpoint
from .detector import DetectorConfig, DetectorStage, shipped_part

SEARCH = "detector.search"


@dataclass(frozen=True, config=STRICT)
class RefinerConfig(DetectorConfig):
    """The second look: what is searched for crops, beside what both stages have."""

    pictures: Count = 9_000
    """Training pictures that are searched for crops, once."""
    sides: tuple[Count, ...] = (192, 256, 320)
    """Their sides, in turn."""


COMPACT = RefinerConfig(
    phases=(
        Phase(
            "first", 420_000, batch=128, size=FaceRefinerNet.SIZE, lr=(3e-3, 1.5e-5), warmup=25_600,
            weights={"score": 1.0, "box": 1.0, "points": 25.0},
        ),
        Phase(
            "points", 520_000, batch=128, size=FaceRefinerNet.SIZE, lr=(2e-3, 1e-5), warmup=25_600,
            weights={"score": 1.0, "box": 1.0, "points": 40.0},
        ),
    ),
    seed=11,
    betas=(0.9, 0.999),
    weight_decay=1e-3,
    clip=5.0,
    ema=40_000.0,
    validate_images=150_000,
    validate_limit=120,
)  # fmt: skip
"""An image is one crop here. The seed is not the search's, so that it searches pictures it was not trained on."""


class RefinerStage(DetectorStage[RefinerConfig]):
    """Train the second look.

    The search goes over training pictures first, which takes minutes; a run that is continued makes the same crops
    again. `--init` takes checkpoints of this stage, not the shipped detector, whose batch norms are folded.
    """

    title: ClassVar[str] = "Face detector: second look"
    source: ClassVar[str] = (
        "Cross-entropy with smoothed labels, GIoU and smooth L1 on crops that the search names: faces and false alarms."
    )
    terms: ClassVar[Mapping[str, str]] = {
        "score": "BCE(s, 0.99 or 0.01)",
        "box": "1 - GIoU",
        "points": "smooth L1 of the five points in units of the crop, beta 0.01",
    }
    configs: ClassVar[Mapping[str, RefinerConfig]] = {"compact": COMPACT}
    needs: ClassVar[Mapping[str, FileNeed]] = {
        "search": FileNeed(f"run of {SEARCH}, a checkpoint of one, or a shipped detector, that names the candidates"),
        **DetectorStage.needs,
    }
    pixel_layers: ClassVar[tuple[str, ...]] = ("body.0", "out")

    def __init__(self, config: RefinerConfig, files: Mapping[str, Path]) -> None:
        super().__init__(config, files)
        self._crops: Crops | None = None
        self.search = read_search(files["search"])
        self.frozen["search"] = self.search

    def from_shipped(self, weights: Mapping[str, Tensor]) -> dict[str, nn.Module]:
        return {"net": shipped_part(FaceRefinerNet(), weights, "refine", what=self.title)}

    def networks(self) -> dict[str, nn.Module]:
        return {"net": FaceRefinerNet(norm=True)}

    def objectives(self) -> tuple[Objective, ...]:
        return (Objective("look", ("net",), self._look),)

    def _look(self, nets: Nets, batch: Batch, step: Step) -> dict[str, Tensor]:
        said = nets["net"](batch["image"], batch["logit"])
        return refiner_losses(
            said, judged=batch["judged"], face=batch["face"], boxes=batch["box"], points=batch["points"]
        )

    def examples(self, pictures: Any, phase: Phase) -> Examples:
        if phase.size != FaceRefinerNet.SIZE:
            raise SettingsError(
                f"Cannot train phase {phase.name} of the second look",
                found=f"its size is {phase.size}; the network sees crops of {FaceRefinerNet.SIZE} px",
                kept="Nothing was started",
                todo=f"Set it to {FaceRefinerNet.SIZE}",
            )
        if self._crops is None:
            self.say(f"Searching {self.config.pictures} training pictures for crops, which takes minutes")
            self._crops = collect(
                TrainedDetector(self.search),
                pictures,
                count=self.config.pictures,
                sides=self.config.sides,
                seed=self.config.seed,
            )
        return CropExamples(self._crops, pictures, self.seed_of(phase))

    def validator(self, pictures: Any) -> Validator:
        return DetectionValidator(
            pictures, lambda nets: TrainedDetector(self.search, nets["net"]), limit=self.config.validate_limit
        )


def read_search(path: Path) -> FaceDetectorNet:
    """Return the averaged search of a checkpoint, or that of a shipped detector.

    Raises:
        WeightsError: the file is neither, or is damaged.
        SettingsError: it is a checkpoint of another stage.
    """
    if not is_checkpoint(path):
        return shipped_part(FaceDetectorNet(), load_state(path), "search", what=f"the search of {path.name}").eval()
    net = FaceDetectorNet(norm=True)
    fill(net, averaged(read_newest(path, SEARCH), "net"), what=f"the search of {path.name}")
    return net.eval()


STAGE = RefinerStage
