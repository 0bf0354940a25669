"""The detector made of networks that are still being trained."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from bfr_core.backends.detectors.embedded import EmbeddedDetector
from bfr_core.faces.detect import check_frames
from bfr_core.networks.face_detector import FaceCascade, fold
from bfr_core.types import Face


class TrainedDetector(EmbeddedDetector):
    """The detector as it would be shipped, or its search alone, on the device of its networks.

    Args:
        search: with batch norms.
        refine: with batch norms; without it `detect` returns everything that the search names, the surest first.
    """

    name = "trained"

    def __init__(self, search: nn.Module, refine: nn.Module | None = None) -> None:
        self.net = FaceCascade()
        self.net.search.load_state_dict(fold(search))
        self._both = refine is not None
        if refine is not None:
            self.net.refine.load_state_dict(fold(refine))
        self.net.eval().requires_grad_(False)
        self.device = next(search.parameters()).device
        self.to_device(self.device)

    def detect(self, frames: Tensor, *, threshold: float | None = None) -> list[list[Face]]:
        """Return the faces of every frame (B, 3, H, W)."""
        if self._both:
            return super().detect(frames, threshold=threshold)
        check_frames(frames)
        named = self.search(frames.to(self.device, torch.float32))
        return [[face for face in row if face.score >= (threshold or 0)] for row in named]
