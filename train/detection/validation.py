"""Validation of face detectors: held-out scenes as they are, and after they were shrunk eightfold and saved as JPEG."""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

import cv2
import numpy as np

from bfr_core.bench.detector import to_frames
from bfr_core.degrade.chain import degrade, fixed
from bfr_core.errors import InputMediaError
from bfr_core.faces.pyramid import overlap
from bfr_core.models.roles import FaceDetector
from bfr_core.types import Face

from ..stage import Check, Nets, Validator
from .labelled import Faces, LabelledPictures

_ROWS = 6
_LABEL, _FOUND = (64, 160, 255), (255, 208, 0)


class DetectionValidator(Validator):
    """Look for the faces of held-out scenes.

    `recall` is the share of labelled faces that a found box overlaps with an IoU of at least 0.5; `point_error` the
    mean distance of their points in units of the eyes' distance, 1 where no face was found; `unlabelled` what was
    found beside them. The last part of a figure's name says whether of the clean or the degraded scenes, as in
    `bfr bench`.

    Args:
        pictures: labelled ones; of the held-out scenes at most `limit`, spread evenly, are used.
        build: makes a detector of the judged networks.
        limit: most scenes to use.

    Raises:
        InputMediaError: there is no held-out scene.
    """

    columns: ClassVar[str] = "labels | found | found after 8x down and JPEG 60"

    def __init__(self, pictures: LabelledPictures, build: Callable[[Nets], FaceDetector], *, limit: int) -> None:
        if not pictures.held:
            raise InputMediaError(
                "There is nothing to validate the detector on",
                found=f"none of {len(pictures.sources)} pictures is a labelled scene of the held-out tenth",
                kept="Nothing was started",
                todo="Give the folder with labels.json as --val too: its held-out tenth is never trained on",
            )
        self.pictures, self.build = pictures, build
        self.numbers = pictures.held[:: max(len(pictures.held) // limit, 1)][:limit]
        self._worse = fixed(8, jpeg_quality=60)

    def run(self, nets: Nets) -> Check:
        """Search every scene twice."""
        detector = self.build(nets)
        clean, degraded = Tally(), Tally()
        shown = set(self.numbers[:: max(len(self.numbers) // _ROWS, 1)][:_ROWS])
        rows: list[list[np.ndarray]] = []
        for number in self.numbers:
            scene = self.pictures.labelled(number)
            image = scene.pyramid[0]
            x, y, w, h = scene.boxes.T
            truth = np.stack((x, y, x + w, y + h), 1), scene.points
            drawn = [draw(image, truth, _LABEL)]
            for picture, tally in ((image, clean), (degrade(image, self._worse), degraded)):
                faces = detector.detect(to_frames(picture))[0]
                tally.add(truth, faces)
                found = np.array([face.box for face in faces]).reshape(-1, 4)
                drawn.append(draw(picture, (found, np.array([face.points for face in faces])), _FOUND))
            if number in shown:
                rows.append(drawn)
        named = (("clean", clean), ("x8_jpeg60", degraded))
        return Check({f"{key}_{name}": value for name, tally in named for key, value in tally.figures().items()}, rows)


class Tally:
    """Counts what was found of what is there."""

    def __init__(self) -> None:
        self.wanted = self.matched = self.unlabelled = 0
        self.errors: list[float] = []

    def add(self, truth: Faces, faces: list[Face]) -> None:
        """Match the faces of one picture to its labels, each label with the best box that is still free.

        Shapes: truth: boxes (F, 4) x0, y0, x1, y1 and points (F, 5, 2).
        """
        boxes = np.array([face.box for face in faces]).reshape(-1, 4)
        free = np.ones(len(faces), bool)
        for box, points in zip(*truth, strict=True):
            iou = overlap(box, boxes)[0] * free
            self.wanted += 1
            if len(iou) and iou.max() >= 0.5:
                best = int(iou.argmax())
                free[best] = False
                self.matched += 1
                distance = np.linalg.norm(faces[best].points - points, axis=1).mean()
                self.errors.append(float(distance / np.linalg.norm(points[1] - points[0])))
        self.unlabelled += int(free.sum())

    def figures(self) -> dict[str, float]:
        """Return recall, mean error of the points, and how much more was found."""
        return {
            "recall": self.matched / max(self.wanted, 1),
            "point_error": float(np.mean(self.errors)) if self.errors else 1.0,
            "unlabelled": float(self.unlabelled),
        }


def draw(image: np.ndarray, faces: Faces, colour: tuple[int, int, int]) -> np.ndarray:
    """Return a copy of the picture with boxes (F, 4) x0, y0, x1, y1 and points (F, 5, 2)."""
    image = np.ascontiguousarray(image).copy()
    for box, points in zip(*faces, strict=True):
        x0, y0, x1, y1 = (round(float(value)) for value in box)
        cv2.rectangle(image, (x0, y0), (x1, y1), colour, 2, cv2.LINE_AA)
        for x, y in points:
            cv2.circle(image, (round(float(x)), round(float(y))), 3, colour, -1, cv2.LINE_AA)
    return image
