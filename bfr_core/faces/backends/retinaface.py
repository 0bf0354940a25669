"""RetinaFace through the facexlib package."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ...errors import DetectorError
from ...types import Face
from ...weights import fill, load_state
from .arrays import Found, detect_each

THRESHOLD = 0.8


class RetinaFaceDetector:
    """RetinaFace with a ResNet-50 or MobileNet body, whichever the file holds.

    Args:
        path: weights as facexlib or Pytorch_Retinaface publish them.
        device: where it computes.
    """

    name = "facexlib"

    def __init__(self, path: Path, device: torch.device) -> None:
        try:
            from facexlib.detection.retinaface import RetinaFace
        except ImportError as error:
            raise DetectorError(
                "The detector facexlib cannot run here",
                found=f"importing it failed: {error}; expected facexlib >= 0.3.0 and torchvision",
                kept="Nothing was changed and no other detector is used in its place",
                todo="Run `pip install 'bfr-faces[facexlib]'`, or choose the detector embedded",
            ) from error
        state = load_state(path)
        body = "mobile0.25" if any(key.startswith("body.stage1.") for key in state) else "resnet50"
        # The package's own loader would fetch a file from the network; this one takes what was checked.
        self.net = RetinaFace(network_name=body, half=False, device=device)
        fill(self.net, state, what=f"facexlib's RetinaFace with a {body} body")
        self.net.eval().requires_grad_(False)
        self.to_device(device)

    def to_device(self, device: torch.device | str) -> None:
        """Move the network and the two things facexlib keeps beside it."""
        self.net.to(device)
        self.net.device = torch.device(device)
        self.net.mean_tensor = self.net.mean_tensor.to(device)

    def detect(self, frames: Tensor, *, threshold: float | None = None) -> list[list[Face]]:
        """Return the faces of every frame (B, 3, H, W), the biggest first."""
        least = THRESHOLD if threshold is None else threshold

        def search(image: np.ndarray) -> Found:
            with torch.inference_mode():
                rows = np.asarray(self.net.detect_faces(image, conf_threshold=least), np.float64).reshape(-1, 15)
            return rows[:, :4], rows[:, 5:].reshape(-1, 5, 2), rows[:, 4]

        return detect_each(frames, search)
