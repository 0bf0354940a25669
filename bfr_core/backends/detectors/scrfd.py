"""SCRFD through the insightface package."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...errors import ModelError, WeightsError
from ...models.spec import Checkpoint, KnownFile, ModelSpec
from ...types import Face
from ._pictures import Found, detect_each

THRESHOLD = 0.5


class ScrfdDetector:
    """SCRFD with five points, on ONNX Runtime.

    Args:
        path: ONNX file.
        device: a CUDA device is used where ONNX Runtime has one.
        get_model: insightface's.
    """

    name = "insightface"

    def __init__(self, path: Path, device: torch.device, get_model: Callable[..., Any]) -> None:
        self._get_model, self._path = get_model, path
        self.to_device(device)

    def to_device(self, device: torch.device | str) -> None:
        """Open the model where it is to run: ONNX Runtime cannot move one."""
        cuda = torch.device(device).type == "cuda"
        providers = ["CUDAExecutionProvider"] * cuda + ["CPUExecutionProvider"]
        # From 2.0 on the package would open and keep a session for each size of picture that it is ever given, which
        # one session takes all. Releases before it pass over what they do not know.
        model = self._get_model(str(self._path), providers=providers, static_shape_sessions=False)
        if model is None or not hasattr(model, "det_thresh"):
            raise WeightsError(
                f"insightface cannot use {self._path} as a detector",
                found=f"it opened as {type(model).__name__}; expected SCRFD or RetinaFace with five points",
                kept="Nothing was loaded and the file is unchanged",
                todo="Give det_10g.onnx of the buffalo_l pack, or choose the detector embedded",
            )
        model.prepare(0 if cuda else -1)
        self._model = model

    def detect(self, frames: Tensor, *, threshold: float | None = None) -> list[list[Face]]:
        """Return the faces of every frame (B, 3, H, W), the biggest first."""
        self._model.det_thresh = THRESHOLD if threshold is None else threshold
        return detect_each(frames, self._search)

    def _search(self, image: np.ndarray) -> Found:
        # Its input size is (width, height), as large as the picture, so that it scales nothing itself.
        boxes, points = self._model.detect(image, input_size=(image.shape[1], image.shape[0]))
        if points is None:
            raise WeightsError(
                f"{self._path} gives no facial points",
                found="it finds boxes only; expected five points a face, without which no face can be aligned",
                kept="The frames are unchanged",
                todo="Give a model with key points, such as det_10g.onnx",
            )
        boxes = np.asarray(boxes, np.float64).reshape(-1, 5)
        return boxes[:, :4], np.asarray(points, np.float64).reshape(-1, 5, 2), boxes[:, 4]


def _load(checkpoint: Checkpoint) -> ScrfdDetector:
    try:
        from insightface.model_zoo import get_model
    except ImportError as error:
        raise ModelError(
            "The detector insightface cannot run here",
            found=f"importing it failed: {error}; expected insightface >= 0.7.3 and onnxruntime",
            kept="Nothing was changed and no other detector is used in its place",
            todo=f"Run `{SPEC.install}`, or choose the detector embedded",
        ) from error
    return ScrfdDetector(checkpoint.path, checkpoint.device, get_model)


SPEC = ModelSpec(
    "insightface",
    "detector",
    "SCRFD (InsightFace)",
    "non-commercial research",
    _load,
    (
        KnownFile(
            "det_10g.onnx",
            "5838f7fe053675b1c7a08b633df49e7af5495cee0493c7dcf6697200b85b5b91",
            "deepinsight/insightface, release v0.7, in buffalo_l.zip",
        ),
    ),
    needs=("insightface", "onnxruntime"),
    install="pip install 'bfr-faces[insightface]'",
    suffixes=(".onnx",),
    order=20,
)
