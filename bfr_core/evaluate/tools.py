"""What the metrics measure with: networks and files, loaded once, and pictures that remember what was found in them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..errors import WeightsError
from ..faces.detect import load_detector
from ..faces.identity import RecognizerNet, embed
from ..metrics.distribution import load_features, load_statistics, statistics
from ..metrics.files import files, find
from ..metrics.lpips import Lpips
from ..metrics.niqe import Niqe
from ..metrics.temporal import Motion
from ..models.loader import load
from ..models.roles import ROLES, ExpressionClassifier, FaceDetector, FaceLandmarker

FEATURES = {
    "features_restored": "give --features-restored FILE, the Inception features of the restored faces, a row each",
    "features_truth": "give --features-truth FILE, the Inception features of the truths in the same order",
    "features_input": "give --features-input FILE, the Inception features of the inputs in the same order",
}
"""Features that a person brings, and how."""

OPTIONS = {
    "inception_reference": "give --features-reference FILE, the statistics or features of a set of real faces",
}
"""Files that may also be given by themselves."""


class MetricModels:
    """The networks and files behind the metrics, each loaded when something first asks for it.

    Args:
        folder: where the files of `metrics.files` are.
        given: files by key, used in place of those in the folder; the keys of FEATURES too.
        device: where the networks compute.
        detector: finds the five points; None for the one that comes with the package.

    Raises:
        WeightsError: a given file is missing; later, one is damaged or another network's.
    """

    def __init__(
        self,
        folder: Path | None = None,
        given: Mapping[str, Path] | None = None,
        device: torch.device | str = "cpu",
        detector: FaceDetector | None = None,
    ) -> None:
        self.folder, self.given, self.device = folder, dict(given or {}), torch.device(device)
        self._detector = detector
        self._features: dict[str, np.ndarray] = {}
        for key, path in self.given.items():
            if not path.is_file():
                raise WeightsError(
                    f"Cannot find {path}",
                    found=f"no such file, which was given for {_called(key)}",
                    kept="Nothing was measured",
                    todo="Check the name, or leave the option out",
                )

    def missing(self, needs: Sequence[str]) -> str:
        """Return what to put where for files that are not there; empty where all are."""
        return "; ".join(self._todo(key) for key in needs if self._find(key) is None)

    def file(self, key: str) -> Path:
        """Return the file behind `key`.

        Raises:
            WeightsError: there is none.
        """
        found = self._find(key)
        if found is None:
            raise WeightsError(
                f"Cannot measure without the file of {_called(key)}",
                found=f"found none in {self.folder}" if self.folder else "no folder of metric weights was named",
                kept="Nothing was measured",
                todo=self._todo(key),
            )
        return found

    def _find(self, key: str) -> Path | None:
        return self.given.get(key) or (None if key in FEATURES else find(self.folder, key))

    def _todo(self, key: str) -> str:
        if key in FEATURES:
            return FEATURES[key]
        todo = files()[key].todo + ("" if self.folder else "; name that folder with --weights")
        return todo + (f", or {OPTIONS[key]}" if key in OPTIONS else "")

    @cached_property
    def detector(self) -> FaceDetector:
        """What finds the five points."""
        return self._detector or load_detector(device=self.device)

    @cached_property
    def niqe(self) -> Niqe:
        """The statistics of pristine pictures."""
        return Niqe.load(self.file("niqe"))

    @cached_property
    def lpips(self) -> Lpips:
        """The perceptual distance on VGG16."""
        return Lpips.load(self.file("lpips_backbone"), self.file("lpips_heads")).to(self.device)

    @cached_property
    def lpips_alex(self) -> Lpips:
        """The perceptual distance on AlexNet."""
        return Lpips.load(self.file("lpips_backbone_alex"), self.file("lpips_heads_alex")).to(self.device)

    @cached_property
    def recognizer(self) -> RecognizerNet:
        """What tells people apart: the file that was given or is in the folder, else the embedded one."""
        return load("recognizer", self._find("recognizer"), device=self.device)

    @cached_property
    def landmarker(self) -> FaceLandmarker:
        """The landmark network."""
        return load("landmarker", self.file("landmarker"), device=self.device)

    @cached_property
    def expression(self) -> ExpressionClassifier:
        """The classifier of expressions."""
        return load("expression", self.file("expression"), device=self.device)

    @cached_property
    def reference(self) -> tuple[np.ndarray, np.ndarray]:
        """Mean and covariance of the features of real faces, read from statistics or worked out from features."""
        path = self.file("inception_reference")
        try:
            return load_statistics(path)
        except WeightsError:
            return statistics(load_features(path))

    def title_of(self, tool: str) -> str:
        """Return which recogniser or model is behind a tool, where files of several kinds serve."""
        if tool == "recognizer":
            return self.recognizer.title
        return self.niqe.model if tool == "niqe" else ""

    def features(self, side: str) -> np.ndarray:
        """Return the features of one side, (N, D)."""
        if side not in self._features:
            self._features[side] = load_features(self.file(f"features_{side}"))
        return self._features[side]


def _called(key: str) -> str:
    return ROLES[key].title if key in ROLES else key.replace("_", " ")


class FaceSample:
    """One aligned face, which remembers what was found in it.

    Shapes: image (3, S, S) float32 in [0, 1].
    """

    def __init__(self, image: Tensor, tools: MetricModels) -> None:
        # Apple's devices have no float64, which PSNR and SSIM need.
        self.image = image[None].to("cpu" if tools.device.type == "mps" else tools.device)
        self._seen, self._tools = self.image.to(tools.device), tools

    @property
    def seen(self) -> Tensor:
        """The picture where the networks are, (1, 3, S, S)."""
        return self._seen

    @cached_property
    def five_points(self) -> np.ndarray | None:
        """The five points of the largest face that the detector finds, (5, 2) pixels; None where it finds none."""
        found = self._tools.detector.detect(self._seen)[0]
        return found[0].points if found else None

    @cached_property
    def many_points(self) -> np.ndarray:
        """The 98 points of the landmark network, (98, 2) pixels."""
        return self._tools.landmarker(self._seen)[0].cpu().numpy()

    @cached_property
    def identity(self) -> Tensor:
        """The embedding, (D,) of unit length."""
        with torch.no_grad():
            return embed(self._tools.recognizer, self._seen)[0].cpu()

    @cached_property
    def emotion(self) -> int:
        """The label of the expression."""
        return int(self._tools.expression(self._seen)[0])

    @property
    def scale(self) -> float:
        """Pixels of the face at 512 px, in which landmark distances are given, per pixel of this picture."""
        return 512 / self.image.shape[-1]


@dataclass(frozen=True, slots=True)
class FramePair:
    """Two consecutive frames of a clip, by side, and how the truth moves between them."""

    frames: tuple[Mapping[str, Tensor], Mapping[str, Tensor]]
    """(3, H, W)."""
    motion: Motion
    faces: tuple[Mapping[str, FaceSample], Mapping[str, FaceSample]] | None
    """The same person in both, aligned with the points of the truth; None where that is not sure."""
    face_motion: Motion | None
