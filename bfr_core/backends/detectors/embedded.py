"""The detector that comes with the package: a search of the whole frame, then a second look at what it names."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from ...faces.detect import check_frames
from ...faces.pyramid import Candidates, PyramidLevel, merge, pyramid, to_frame
from ...models.spec import Checkpoint, ModelSpec, has_all
from ...networks.face_detector import FaceCascade, FaceRefinerNet
from ...types import Face

THRESHOLD = 0.8
TINY_PX, TINY_THRESHOLD = 20.0, 0.9
"""Faces below that size need that score: buttons and badges look like them, and nothing can be restored from them."""
CANDIDATE = 0.25
"""Score of the search from which a place gets a second look."""
_LOOKS = 2
"""Second looks; the other one sees the face framed by the first. It halves the false alarms [measured]."""
MIRRORED_POINTS = [1, 0, 2, 4, 3]
"""Order of the five points in a mirror: left and right are the viewer's."""
_MOST_CANDIDATES = 256
"""A frame with more candidates than this keeps the best of them; a crowd on one photograph has fewer."""
_PIXELS_AT_ONCE = 2_000_000
"""Frames are searched together up to this many pixels: more gains no speed and costs memory."""


class EmbeddedDetector:
    """Ours, on torch.

    Args:
        net: filled, frozen, where it is to compute.
    """

    name = "embedded"
    doubtful = True

    def __init__(self, net: FaceCascade) -> None:
        self.net = net
        self.to_device(next(net.parameters()).device)

    def to_device(self, device: torch.device | str) -> None:
        """Move the networks."""
        # Channels last halves the time of small dense convolutions on processors.
        self.net.to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]

    def detect(self, frames: Tensor, *, threshold: float | None = None) -> list[list[Face]]:
        """Return the faces of every frame (B, 3, H, W), the biggest first."""
        check_frames(frames)
        height, width = frames.shape[2:]
        first = pyramid(width, height)[0]
        chunk = max(1, _PIXELS_AT_ONCE // (first.width * first.height))
        faces: list[list[Face]] = []
        for start in range(0, len(frames), chunk):
            part = frames[start : start + chunk].to(next(self.net.parameters()).device, torch.float32)
            for frame, found in zip(part, self.search(part), strict=True):
                faces.append(self._second_look(frame, found, threshold))
        return faces

    def follow(self, frame: Tensor, faces: Sequence[Face], *, threshold: float | None = None) -> list[Face]:
        """Return the faces of a neighbouring frame where they are in this one, without a search: a tenth of the time.

        Faces that are gone, or moved by more than about a third of their size, are missing; new ones are not found.

        Shapes: frame (3, H, W).
        """
        check_frames(frame[None])
        return self._second_look(frame.to(next(self.net.parameters()).device, torch.float32), list(faces), threshold)

    def search(self, frames: Tensor) -> list[list[Face]]:
        """Return what the search names in frames on the network's device, before the second look."""
        pictures, found = frames, [list[Candidates]() for _ in frames]
        for at in pyramid(frames.shape[3], frames.shape[2]):
            # The reduced picture is made from the searched one: reading all of a 4K frame again costs more.
            pictures = _resize(pictures, at)
            for row, candidates in zip(found, self._search(pictures, at), strict=True):
                row.append(candidates)
        named = [merge(row) for row in found]
        return [sorted(row, key=lambda face: -face.score)[:_MOST_CANDIDATES] for row in named]

    def _search(self, pictures: Tensor, at: PyramidLevel) -> list[Candidates]:
        width, height = at.padded
        # Gray, which is zero once the network has centred its input, like the padding of its convolutions.
        pictures = F.pad(pictures, (0, width - at.width, 0, height - at.height), value=0.5)
        with torch.inference_mode():
            said = self.net.search(pictures.contiguous(memory_format=torch.channels_last))
            scores = said.logits.sigmoid()
        found = []
        for i, row in enumerate(scores):
            keep = torch.nonzero(row >= CANDIDATE)[:, 0]
            boxes, points, kept = (v.cpu().numpy() for v in (said.boxes[i, keep], said.points[i, keep], row[keep]))
            found.append(to_frame(boxes, points, kept, at))
        return found

    def _second_look(self, frame: Tensor, named: list[Face], threshold: float | None) -> list[Face]:
        first = torch.tensor([face.score for face in named], device=frame.device)
        scores = np.zeros(len(named))
        for _ in range(_LOOKS):
            named, scores = self._look(frame, named, first)
        boxes = np.array([face.box for face in named]).reshape(-1, 4)
        points = np.array([face.points for face in named]).reshape(-1, 5, 2)
        tiny = np.array([face.size for face in named]) < TINY_PX
        keep = scores >= (np.where(tiny, TINY_THRESHOLD, THRESHOLD) if threshold is None else threshold)
        # Merged once more, without averaging: two candidates may have turned out to be one face.
        return merge([Candidates(boxes[keep], points[keep], scores[keep])], blend=1.0)

    def _look(self, frame: Tensor, named: list[Face], first: Tensor) -> tuple[list[Face], np.ndarray]:
        """Return the candidates corrected, and how sure of each the refiner is."""
        if not named:
            return named, np.zeros(0)
        squares = [crop_square(face) for face in named]
        crops = torch.cat([cut_square(frame, square) for square in squares])
        crops = torch.cat((crops, crops.flip(3))).contiguous(memory_format=torch.channels_last)
        with torch.inference_mode():
            said = self.net.refine(crops, torch.logit(first.clamp(0.01, 0.99)).repeat(2))
        # The mean of the crop and its mirror image errs less than either, above all sideways.
        n = len(named)
        boxes, points = said.boxes.cpu().double().numpy(), said.points.cpu().double().numpy()
        mirrored = boxes[n:, [2, 1, 0, 3]] * (-1, 1, -1, 1) + (1, 0, 1, 0)
        boxes = (boxes[:n] + mirrored) / 2
        points = (points[:n] + (points[n:] * (-1, 1) + (1, 0))[:, MIRRORED_POINTS]) / 2
        scores = ((said.logits[:n] + said.logits[n:]) / 2).sigmoid().cpu().double().numpy()
        corner, side = np.array([s[:2] for s in squares], np.float64), np.array([s[2] for s in squares], np.float64)
        boxes = boxes * side[:, None] + np.tile(corner, 2)
        points = points * side[:, None, None] + corner[:, None]
        faces = []
        for box, five, score in zip(boxes, points, scores, strict=True):
            x0, y0, x1, y1 = map(float, box)
            faces.append(Face((x0, y0, x1, y1), five, float(score)))
        return faces, scores


def crop_square(face: Face, margin: float = FaceRefinerNet.MARGIN) -> tuple[int, int, int]:
    """Return the square of whole pixels around a candidate: left, top, side."""
    x0, y0, x1, y1 = face.box
    side = max(round(margin * face.size), 8)
    return round((x0 + x1 - side) / 2), round((y0 + y1 - side) / 2), side


def cut_square(frame: Tensor, square: tuple[int, int, int], size: int = FaceRefinerNet.SIZE) -> Tensor:
    """Cut a square out of a frame (3, H, W), gray beyond its border, and resize it to (1, 3, size, size)."""
    left, top, side = square
    height, width = frame.shape[1:]
    inside = frame[None, :, max(top, 0) : max(top + side, 0), max(left, 0) : max(left + side, 0)]
    pads = (max(-left, 0), max(left + side - width, 0), max(-top, 0), max(top + side - height, 0))
    if inside.numel() == 0:
        return frame.new_full((1, 3, size, size), 0.5)
    square_pixels = F.pad(inside, pads, value=0.5)
    return F.interpolate(square_pixels, (size, size), mode="bilinear", antialias=True, align_corners=False)


def _resize(pictures: Tensor, at: PyramidLevel) -> Tensor:
    height, width = pictures.shape[2:]
    if (height, width) == (at.height, at.width):
        return pictures
    if (height, width) == (2 * at.height, 2 * at.width):
        return F.avg_pool2d(pictures, 2)
    return F.interpolate(pictures, (at.height, at.width), mode="bilinear", antialias=True, align_corners=False)


def _load(checkpoint: Checkpoint) -> EmbeddedDetector:
    return EmbeddedDetector(checkpoint.fill(FaceCascade))


SPEC = ModelSpec(
    "embedded",
    "detector",
    "Ours, comes with the package",
    "MIT",
    _load,
    embedded=("detector",),
    detect=has_all("search.out.weight", "refine.out.weight"),
    order=0,
)
