"""The embedded face detector's search of the whole frame."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, TypeVar

from pydantic.dataclasses import dataclass
from torch import Tensor, nn

from bfr_core.errors import SettingsError
from bfr_core.models.checkpoints.files import fill
from bfr_core.networks.face_detector import FaceDetectorNet

from ..config import STRICT, C, Phase, TrainConfig
from ..data import Batch, Examples
from ..detection.labelled import LabelledPictures
from ..detection.losses import search_losses
from ..detection.scenes import SceneMixer
from ..detection.trained import TrainedDetector
from ..detection.validation import DetectionValidator
from ..stage import FileNeed, Nets, Objective, Stage, Step, Validator

N = TypeVar("N", bound=nn.Module)

VARIED = {"cc0gen": 2.0, "free512": 2.5, "free256": 2.5, "cc0gen512": 0.4, "pd512": 0.4, "pd256": 0.4}
"""Portraits in the wild and generated ones vary most in pose, light, age and skin."""


@dataclass(frozen=True, config=STRICT)
class DetectorConfig(TrainConfig):
    """A stage of the detector."""

    folder_weights: dict[str, float] = dataclasses.field(default_factory=lambda: dict(VARIED))
    """How often pictures below a folder of that name are drawn, relative to 1."""


_TERMS = {"score": 1.0, "box": 1.5, "points": 20.0}

COMPACT = DetectorConfig(
    phases=(
        Phase("wide", 60_000, batch=16, size=256, lr=(2e-3, 1e-5), warmup=3_000, weights=_TERMS),
        Phase("near", 25_000, batch=12, size=192, lr=(1.5e-3, 7.5e-6), warmup=3_000, weights=_TERMS),
    ),
    betas=(0.9, 0.999),
    weight_decay=5e-4,
    clip=5.0,
    ema=2_000.0,
    validate_images=5_000,
    validate_limit=120,
)
"""What we ship came from two runs, of 42,848 images of 256 px and 38,424 of 192 px: 31 and 20 minutes of one core
(AVX2). Smaller pictures are seen faster."""


class DetectorStage(Stage[C]):
    """What both stages of the detector share: pictures with labels."""

    method: ClassVar[str] = "detector"
    needs: ClassVar[Mapping[str, FileNeed]] = {
        "yunet": FileNeed("YuNet file that labels the pictures of folders without labels.json", required=False)
    }
    weaknesses: ClassVar[str] = (
        "Trained on portraits: profiles beyond about 60 degrees, faces turned by more than 50 degrees in the plane and "
        "faces under 12 pixels are missed more often than elsewhere."
    )

    folded: ClassVar[bool] = True
    figures: ClassVar[tuple[str, ...]] = tuple(
        f"{figure}_{scenes}" for scenes in ("clean", "x8_jpeg60") for figure in ("recall", "point_error", "unlabelled")
    )

    def pictures(
        self, places: Sequence[Path], *, held: bool, align: bool, store: Path | None, memory: int
    ) -> LabelledPictures:
        return LabelledPictures(
            places,
            yunet=self.files.get("yunet"),
            folder_weights=getattr(self.config, "folder_weights", None),
            held=held,
            align=align,
            store=store,
            memory=memory,
        )

    @classmethod
    def shipped(cls, weights: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        raise SettingsError(
            f"Cannot export {cls.title} by itself",
            found="the package ships both networks of the detector in one file",
            kept="Nothing was written",
            todo="Use python -m train.detection.export --search RUN --refiner RUN -o FILE.safetensors",
        )

    def seed_of(self, phase: Phase) -> int:
        """Return the seed of a phase's examples."""
        return self.config.seed * 1000 + [one.name for one in self.config.phases].index(phase.name)


class SearchStage(DetectorStage[DetectorConfig]):
    """Train the search.

    `--init` takes checkpoints of this stage. It does not take the shipped detector: its batch norms are folded into
    the convolutions, and training needs them apart.
    """

    title: ClassVar[str] = "Face detector: search"
    source: ClassVar[str] = (
        "Score: quality focal loss, Generalized Focal Loss Eq. 2, with the root of the IoU as its target; box: GIoU; "
        "points: smooth L1 in units of the face's size; cells are given to faces by YOLOX's SimOTA, on grids of a "
        "fitting size only."
    )
    terms: ClassVar[Mapping[str, str]] = {
        "score": "|q - s|^2 BCE(s, q), q = sqrt(IoU) at a face's cells and 0 elsewhere",
        "box": "1 - GIoU",
        "points": "smooth L1 of the five points over the face's size, beta 0.02",
    }
    configs: ClassVar[Mapping[str, DetectorConfig]] = {"compact": COMPACT}
    pixel_layers: ClassVar[tuple[str, ...]] = ("stem", "out")

    def from_shipped(self, weights: Mapping[str, Tensor]) -> dict[str, nn.Module]:
        return {"net": shipped_part(FaceDetectorNet(), weights, "search", what=self.title)}

    def networks(self) -> dict[str, nn.Module]:
        return {"net": FaceDetectorNet(norm=True)}

    def objectives(self) -> tuple[Objective, ...]:
        return (Objective("search", ("net",), self._search),)

    def _search(self, nets: Nets, batch: Batch, step: Step) -> dict[str, Tensor]:
        image = batch["image"]
        return search_losses(nets["net"](image), image.shape[-1], batch["boxes"], batch["points"], batch["kind"])

    def examples(self, pictures: Any, phase: Phase) -> Examples:
        return SceneMixer(pictures, size=phase.size, seed=self.seed_of(phase))

    def validator(self, pictures: Any) -> Validator:
        return DetectionValidator(pictures, lambda nets: TrainedDetector(nets["net"]), limit=self.config.validate_limit)


def shipped_part(net: N, weights: Mapping[str, Tensor], part: str, *, what: str) -> N:
    """Fill one of the detector's two networks, built without batch norms, from the file that holds both.

    Args:
        net: the network.
        weights: of the shipped detector.
        part: `search` or `refine`.
        what: the network in words, for messages.

    Raises:
        WeightsError: the file lacks the network, or holds another.
    """
    own = {key.removeprefix(f"{part}."): t for key, t in weights.items() if key.startswith(f"{part}.")}
    fill(net, own, what=what)
    return net


STAGE = SearchStage
