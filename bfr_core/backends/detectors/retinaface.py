"""RetinaFace through the facexlib package."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...errors import ModelError
from ...models.checkpoints.files import fill
from ...models.spec import Checkpoint, KnownFile, ModelSpec, has_all
from ...types import Face
from ._pictures import Found, detect_each

THRESHOLD = 0.8


class RetinaFaceDetector:
    """RetinaFace with a ResNet-50 or MobileNet body, whichever the file holds.

    Args:
        net: facexlib's own, filled and frozen, where it is to compute.
    """

    name = "facexlib"

    def __init__(self, net: Any) -> None:
        self.net = net
        self.to_device(next(net.parameters()).device)

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


def _load(checkpoint: Checkpoint) -> RetinaFaceDetector:
    try:
        from facexlib.detection.retinaface import RetinaFace
    except (ImportError, RuntimeError) as error:  # torchvision of another torch misses its operators: RuntimeError
        torchvision = "torchvision" in str(error)
        fitting = f" with the torchvision that goes with torch {torch.__version__}" if torchvision else ""
        raise ModelError(
            "The detector facexlib cannot run here",
            found=f"importing it failed: {error}; expected facexlib >= 0.3.0 and torchvision",
            kept="Nothing was changed and no other detector is used in its place",
            todo=f"Run `{SPEC.install}`{fitting}, or choose the detector embedded",
        ) from error
    body = "mobile0.25" if any(key.startswith("body.stage1.") for key in checkpoint.state) else "resnet50"
    # The package's own loader would fetch a file from the network; this one takes what was checked.
    net = RetinaFace(network_name=body, half=False, device=checkpoint.device)
    fill(net, checkpoint.state, what=f"facexlib's RetinaFace with a {body} body")
    return RetinaFaceDetector(net.eval().requires_grad_(False).to(checkpoint.device))


SPEC = ModelSpec(
    "facexlib",
    "detector",
    "RetinaFace (facexlib)",
    "MIT",
    _load,
    (
        KnownFile(
            "detection_Resnet50_Final.pth",
            "6d1de9c2944f2ccddca5f5e010ea5ae64a39845a86311af6fdf30841b0a5a16d",
            "xinntao/facexlib, release v0.1.0",
            "https://github.com/xinntao/facexlib/releases/download/v0.1.0/detection_Resnet50_Final.pth",
        ),
        KnownFile(
            "retinaface_mobilenet025.pth",
            "2979b33ffafda5d74b6948cd7a5b9a7a62f62b949cef24e95fd15d2883a65220",
            "biubug6/Pytorch_Retinaface, mobilenet0.25_Final.pth",
        ),
    ),
    needs=("facexlib", "torchvision"),
    install="pip install 'bfr-faces[facexlib]'",
    detect=has_all("ClassHead.0.conv1x1.weight", "BboxHead.0.conv1x1.weight", "LandmarkHead.0.conv1x1.weight"),
    order=30,
)
