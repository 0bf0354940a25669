"""Pictures with their faces: box and five points for each, from a list beside them or from a teacher."""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from bfr_core.errors import InputMediaError, SettingsError
from bfr_core.faces.detect import load_detector
from bfr_core.media.pictures import decode_picture, to_float
from bfr_core.media.sheets import to_bytes

from ..pictures import SMALLEST, Pictures, Source, fit

LABELS = "labels.json"
"""Beside the pictures: {file: [{"box": [x, y, w, h], "points": [[x, y] times 5]}, ...]}, in pixels."""
FACE_SIDE = 256
"""Aligned faces are kept at this side: the mixer pastes them smaller still."""
_BORDER = 32
"""Added around an aligned face, which fills its frame, before the teacher looks at it."""
_TEACHER_SIDE, _TEACHER_THRESHOLD = 320, 0.8
_LEVELS = 5
"""Halvings kept of every picture, so that shrinking it never aliases."""


@dataclass(frozen=True, slots=True)
class Labelled:
    """A picture with its faces, at several sizes."""

    pyramid: list[np.ndarray]
    """(H, W, 3) uint8 RGB, each half the size of the one before."""
    boxes: np.ndarray
    """(F, 4) float64 x, y, w, h in pixels of the largest."""
    points: np.ndarray
    """(F, 5, 2) float64."""


Faces = tuple[np.ndarray, np.ndarray]
"""Boxes and points as in `Labelled`."""


def held_out(name: str) -> bool:
    """Whether the picture that labels.json calls `name` is in the held-out tenth."""
    return zlib.crc32(name.encode()) % 10 == 0


def pyramid(image: np.ndarray) -> list[np.ndarray]:
    """Return the picture and its halvings."""
    levels = [image]
    while len(levels) < _LEVELS and min(levels[-1].shape[:2]) >= 16:
        levels.append(cv2.resize(levels[-1], None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA))
    return levels


class LabelledPictures(Pictures):
    """Pictures whose faces are known.

    A folder with labels.json holds scenes of any size; the tenth of them that `held_out` names is never drawn, and
    is what validation and `bfr bench` measure on. Any other place holds aligned faces, which YuNet labels when they
    are first read: one in which it does not find exactly one face cannot be used.

    Args:
        places: folders and shards.
        yunet: YuNet's file, needed where a place has no labels.json.
        folder_weights: how often the pictures below a folder of that name are drawn, relative to 1.
        held: whether this side is for validation, which uses the held-out scenes only.
        align: find and align the largest face of each picture without labels.
        store: folder for aligned faces.
        memory: bytes of pictures to keep.

    Raises:
        InputMediaError: a place is missing or empty, or its labels are damaged or do not name its pictures.
        SettingsError: a place has no labels and no YuNet is given.
        WeightsError: the YuNet file is not one.
    """

    def __init__(
        self,
        places: Sequence[Path],
        *,
        yunet: Path | None = None,
        folder_weights: Mapping[str, float] | None = None,
        held: bool = False,
        align: bool = False,
        store: Path | None = None,
        memory: int = 1 << 30,
    ) -> None:
        # A quarter of the memory is left for the halvings of each picture.
        super().__init__(places, folder_weights=folder_weights, align=align, store=store, memory=memory * 3 // 4)
        self._yunet, self._held_side = yunet, held
        self._teacher: cv2.FaceDetectorYN | None = None
        self._pyramids: dict[int, list[np.ndarray]] = {}
        self._labels: dict[int, Faces] = {}
        self._scenes: set[Source] = set()
        self.held: list[int] = []
        """Numbers of the held-out scenes."""
        for place in places:
            if (place / LABELS).is_file():
                self._take_labels(place)
            elif yunet is None:
                raise SettingsError(
                    f"Cannot learn faces from {place}",
                    found=f"it has no {LABELS}, and no detector is given to label its pictures",
                    kept="Nothing was started",
                    todo="Give --yunet yunet_n_dynamic.onnx, or a folder with labels",
                )
        if yunet is not None:
            load_detector("yunet", path=yunet)  # an unusable file is said before training, not by a worker
        shares = np.diff(self._cumulative, prepend=0.0)
        shares[[number for number, (boxes, _) in self._labels.items() if not len(boxes)]] = 0
        shares[self.held] = 0
        self.drawn = int(np.count_nonzero(shares))
        """How many pictures training draws from."""
        if self.drawn:
            cumulative = np.cumsum(shares)
            self._cumulative = cumulative / cumulative[-1]

    def __len__(self) -> int:
        """Return how many pictures this side of the split uses."""
        return len(self.held) if self._held_side else self.drawn

    def labelled(self, number: int) -> Labelled:
        """Return one picture with its faces.

        Raises:
            InputMediaError: it cannot be read, or it has no labels and the teacher does not find one face in it.
        """
        image = self[number]
        if number not in self._labels:
            self._labels[number] = self._label(image, self.sources[number])
        if number not in self._pyramids:
            for gone in self._pyramids.keys() - self._kept.keys():
                del self._pyramids[gone]
            self._pyramids[number] = pyramid(image)
        return Labelled(self._pyramids[number], *self._labels[number])

    def _take_labels(self, place: Path) -> None:
        labels = _read_labels(place / LABELS)
        numbers = {
            source.path.relative_to(place).as_posix(): number
            for number, source in enumerate(self.sources)
            if source.path.is_relative_to(place) and not source.member
        }
        if odd := sorted(labels.keys() ^ numbers.keys()):
            raise InputMediaError(
                f"{place / LABELS} does not fit the pictures beside it",
                found=f"{len(odd)} are only in one of them: {', '.join(odd[:3])}{' and more' if len(odd) > 3 else ''}",
                kept="Nothing was started",
                todo="Remove pictures without labels, and labels without pictures; a picture without faces has []",
            )
        for name, number in numbers.items():
            self._labels[number] = labels[name]
            self._scenes.add(self.sources[number])
            if held_out(name) and len(labels[name][0]):
                self.held.append(number)

    def _read(self, source: Source) -> np.ndarray:
        if source not in self._scenes:
            face = super()._read(source)
            return fit(face, min(FACE_SIDE, face.shape[0]))
        picture = decode_picture(source.read(), Path(source.name))
        image = picture.rgb if picture.rgb.dtype == np.uint8 else to_bytes(to_float(picture))
        if min(image.shape[:2]) < SMALLEST:
            raise InputMediaError(
                f"Cannot learn from {source.name}",
                found=f"it is {image.shape[1]} x {image.shape[0]} pixels; expected at least {SMALLEST} a side",
                kept="It was left out and counted",
                todo="Remove the picture",
            )
        return image

    def _label(self, image: np.ndarray, source: Source) -> Faces:
        if (teacher := self._teacher) is None:
            # Not through the detector of `bfr_core`: its second search, at half the size, moves the box by 2.7 px
            # [median of 479 faces of 256 px], and the labels of the scenes came from one search.
            side = (_TEACHER_SIDE, _TEACHER_SIDE)
            teacher = self._teacher = cv2.FaceDetectorYN.create(str(self._yunet), "", side, _TEACHER_THRESHOLD)
        padded = cv2.copyMakeBorder(image, *(4 * [_BORDER]), cv2.BORDER_REPLICATE)
        rows = teacher.detect(cv2.resize(padded, (_TEACHER_SIDE, _TEACHER_SIDE))[..., ::-1].copy())[1]
        if rows is None or len(rows) != 1:
            raise InputMediaError(
                f"Cannot learn from {source.name}",
                found=f"YuNet finds {0 if rows is None else len(rows)} faces in it, expected one",
                kept="It was left out and counted",
                todo="Remove the picture",
            )
        row = rows[0].astype(np.float64) * (padded.shape[0] / _TEACHER_SIDE)
        return row[None, :4] - (_BORDER, _BORDER, 0, 0), row[None, 4:14].reshape(1, 5, 2) - _BORDER

    def __getstate__(self) -> dict[str, object]:
        """Leave the teacher and the halvings behind as well when a worker process is spawned."""
        return {**super().__getstate__(), "_teacher": None, "_pyramids": {}}


def _read_labels(path: Path) -> dict[str, Faces]:
    try:
        return {
            name: (
                np.array([face["box"] for face in faces], np.float64).reshape(-1, 4),
                np.array([face["points"] for face in faces], np.float64).reshape(-1, 5, 2),
            )
            for name, faces in json.loads(path.read_text("utf-8")).items()
        }
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputMediaError(
            f"Cannot read the labels {path}",
            found=f"{type(error).__name__}: {error}; expected a JSON object: for each file a list of faces with "
            "box [x, y, w, h] and five points [x, y]",
            kept="Nothing was started",
            todo="Mend the file",
        ) from error
