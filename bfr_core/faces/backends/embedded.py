"""The detector that comes with the package."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from ...networks.face_detector import FaceDetectorNet
from ...types import Face
from ...weights import fill, load_embedded, load_state
from ..detect import check_frames
from ..passes import Candidates, Pass, merge, plan, to_frame

THRESHOLD = 0.5
_PIXELS_AT_ONCE = 2_000_000
"""Frames are searched together up to this many pixels: more gains no speed and costs memory."""


class EmbeddedDetector:
    """Ours, on torch.

    Args:
        path: weights of `FaceDetectorNet`; None for those that come with the package.
        device: where it computes.
    """

    name = "embedded"

    def __init__(self, path: Path | None, device: torch.device) -> None:
        self.net = FaceDetectorNet()
        state = load_embedded("detector") if path is None else load_state(path)
        fill(self.net, state, what="the embedded face detector")
        self.net.eval().requires_grad_(False)
        self.to_device(device)

    def to_device(self, device: torch.device | str) -> None:
        """Move the network."""
        # Channels last halves the time of small dense convolutions on processors.
        self.net.to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]

    def detect(self, frames: Tensor, *, threshold: float | None = None) -> list[list[Face]]:
        """Return the faces of every frame (B, 3, H, W), the biggest first."""
        check_frames(frames)
        least = THRESHOLD if threshold is None else threshold
        height, width = frames.shape[2:]
        passes = plan(width, height)
        chunk = max(1, _PIXELS_AT_ONCE // (passes[0].width * passes[0].height))
        faces: list[list[Face]] = []
        for start in range(0, len(frames), chunk):
            part = frames[start : start + chunk].to(next(self.net.parameters()).device, torch.float32)
            found: list[list[Candidates]] = [[] for _ in part]
            for at in passes:
                # The reduced picture is made from the searched one: reading all of a 4K frame again costs more.
                part = _resize(part, at)
                for row, candidates in zip(found, self._search(part, at, least), strict=True):
                    row.append(candidates)
            faces += [merge(row) for row in found]
        return faces

    def _search(self, pictures: Tensor, at: Pass, least: float) -> list[Candidates]:
        width, height = at.padded
        # Gray, which is zero once the network has centred its input, like the padding of its convolutions.
        pictures = F.pad(pictures, (0, width - at.width, 0, height - at.height), value=0.5)
        with torch.inference_mode():
            said = self.net(pictures.contiguous(memory_format=torch.channels_last))
            scores = said.logits.sigmoid()
        found = []
        for i, row in enumerate(scores):
            keep = torch.nonzero(row >= least)[:, 0]
            boxes, points, kept = (
                value.cpu().numpy() for value in (said.boxes[i, keep], said.points[i, keep], row[keep])
            )
            found.append(to_frame(boxes, points, kept, at))
        return found


def _resize(pictures: Tensor, at: Pass) -> Tensor:
    height, width = pictures.shape[2:]
    if (height, width) == (at.height, at.width):
        return pictures
    if (height, width) == (2 * at.height, 2 * at.width):
        return F.avg_pool2d(pictures, 2)
    return F.interpolate(pictures, (at.height, at.width), mode="bilinear", antialias=True, align_corners=False)
