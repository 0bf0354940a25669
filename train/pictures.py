"""The pictures a run learns from: folders and tar shards, aligned faces or photos that are aligned while they are read.

Nothing is skipped in silence. A picture that cannot be used raises `InputMediaError` when it is read; whoever draws
pictures counts them, and the run ends when they are more than its config allows.
"""

from __future__ import annotations

import hashlib
import tarfile
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch

from bfr_core.errors import InputMediaError, OutputMediaError
from bfr_core.faces.align import align_face
from bfr_core.faces.detect import load_detector
from bfr_core.media.atomic import make_folder, publish
from bfr_core.media.formats import PICTURES, is_picture, suffixes
from bfr_core.media.pictures import decode_picture, to_float
from bfr_core.media.sheets import to_bytes
from bfr_core.models.roles import FaceDetector

SMALLEST = 64
"""Faces with a shorter side, in pixels, teach a restorer nothing."""
ALIGNED_SIZE = 512


@dataclass(frozen=True, slots=True)
class Source:
    """Where one picture lies: a file, or a member of a tar shard."""

    path: Path
    member: str = ""
    offset: int = 0
    length: int = -1

    @property
    def name(self) -> str:
        """What messages call it."""
        return f"{self.path}:{self.member}" if self.member else str(self.path)

    def read(self) -> bytes:
        """Return its bytes.

        Raises:
            InputMediaError: the file is gone or cannot be read.
        """
        try:
            with self.path.open("rb") as file:
                file.seek(self.offset)
                return file.read(self.length)
        except OSError as error:
            raise InputMediaError(
                f"Cannot read {self.name}",
                found=error.strerror or str(error),
                kept="Nothing was changed",
                todo="Put the picture back, or leave its folder out",
            ) from error


def list_sources(places: Sequence[Path]) -> list[Source]:
    """Return the pictures below folders and in tar shards (`.tar`, as WebDataset writes them), in a fixed order.

    Raises:
        InputMediaError: a place is missing, holds no picture, or is a damaged shard.
    """
    sources: list[Source] = []
    for place in places:
        if place.suffix == ".tar" and place.is_file():
            found = _members(place)
        else:
            paths = sorted(path for path in place.rglob("*") if path.suffix.lower() == ".tar" or is_picture(path))
            found = []
            for path in paths:
                found += _members(path) if path.suffix == ".tar" else [Source(path)]
        if not found:
            raise InputMediaError(
                f"No training pictures in {place}",
                found=f"the folder {'holds none' if place.exists() else 'does not exist'}; "
                f"expected files ending in {', '.join(suffixes(PICTURES))}, or .tar shards of them",
                kept="Nothing was started",
                todo="Name folders of face pictures with --data and --val",
            )
        sources += found
    return sources


def _members(shard: Path) -> list[Source]:
    try:
        with tarfile.open(shard, "r:") as archive:  # "r:": compressed shards cannot be read at an offset
            return [
                Source(shard, member.name, member.offset_data, member.size)
                for member in archive
                if member.isfile() and is_picture(Path(member.name))
            ]
    except (OSError, tarfile.TarError) as error:
        raise InputMediaError(
            f"Cannot read the shard {shard}",
            found=f"{error}; expected an uncompressed tar file",
            kept="Nothing was started",
            todo="Unpack a compressed shard first, or get a whole copy",
        ) from error


class Pictures:
    """Face pictures by number, (S, S, 3) uint8 RGB, kept in memory once read as far as `memory` allows.

    Args:
        places: folders and shards.
        folder_weights: how often the pictures below a folder of that name are drawn, relative to 1.
        align: find and align the largest face of each picture; else each is an aligned face already.
        store: folder for aligned faces, so that later runs need not detect again.
        memory: bytes of pictures to keep.
    """

    def __init__(
        self,
        places: Sequence[Path],
        *,
        folder_weights: Mapping[str, float] | None = None,
        align: bool = False,
        store: Path | None = None,
        memory: int = 1 << 30,
    ) -> None:
        self.sources = list_sources(places)
        weights = np.array([_weight(source, folder_weights or {}) for source in self.sources], np.float64)
        cumulative = np.cumsum(weights)
        self._cumulative = cumulative / cumulative[-1]
        self._align, self._store, self._memory = align, store, memory
        self._kept: OrderedDict[int, np.ndarray] = OrderedDict()
        self._bytes = 0
        self._detector: FaceDetector | None = None

    def __len__(self) -> int:
        return len(self.sources)

    def pick(self, rng: np.random.Generator) -> int:
        """Draw the number of a picture."""
        return int(np.searchsorted(self._cumulative, rng.random(), side="right"))

    def __getitem__(self, index: int) -> np.ndarray:
        """Return one picture.

        Raises:
            InputMediaError: it cannot be read, is too small, is not square, or shows no face where one is looked for.
        """
        if index in self._kept:
            self._kept.move_to_end(index)
            return self._kept[index]
        image = self._read(self.sources[index])
        self._kept[index] = image
        self._bytes += image.nbytes
        while self._bytes > self._memory and len(self._kept) > 1:
            self._bytes -= self._kept.popitem(last=False)[1].nbytes
        return image

    def _read(self, source: Source) -> np.ndarray:
        data = source.read()
        stored = self._store / f"{hashlib.sha256(data).hexdigest()[:32]}.png" if self._store and self._align else None
        if stored is not None and stored.exists():
            return decode_picture(stored.read_bytes(), stored).rgb
        picture = decode_picture(data, Path(source.name))
        if self._align:
            image = self._aligned(source, to_float(picture).clamp(0, 1))
            if stored is not None:
                _write_png(stored, image)
        else:
            image = picture.rgb if picture.rgb.dtype == np.uint8 else to_bytes(to_float(picture))
        height, width = image.shape[:2]
        if height != width or width < SMALLEST:
            raise InputMediaError(
                f"Cannot learn from {source.name}",
                found=f"it is {width} x {height} pixels; expected a square aligned face of at least {SMALLEST}",
                kept="It was left out and counted",
                todo="Give --align for photos that are not aligned, or remove the picture",
            )
        return image

    def _aligned(self, source: Source, frame: torch.Tensor) -> np.ndarray:
        if self._detector is None:
            self._detector = load_detector()
        faces = [face for face in self._detector.detect(frame[None])[0] if face.size >= SMALLEST]
        if not faces:
            raise InputMediaError(
                f"Cannot learn from {source.name}",
                found=f"no face of at least {SMALLEST} pixels was found in it",
                kept="It was left out and counted",
                todo="Remove the picture",
            )
        return to_bytes(align_face(frame, max(faces, key=lambda face: face.size), ALIGNED_SIZE).image)

    def __getstate__(self) -> dict[str, object]:
        """Leave pictures and detector behind when a worker process is spawned."""
        return {**self.__dict__, "_kept": OrderedDict(), "_bytes": 0, "_detector": None}


def _weight(source: Source, weights: Mapping[str, float]) -> float:
    return next((weights[part] for part in reversed(source.path.parts) if part in weights), 1.0)


def _write_png(path: Path, image: np.ndarray) -> None:
    make_folder(path.parent)
    done, data = cv2.imencode(".png", image[..., ::-1])
    if not done:
        raise OutputMediaError(
            f"Cannot write {path}", found="the PNG encoder refused it", kept="Nothing was written", todo="Report this"
        )
    with publish(path) as file:
        file.write(data.tobytes())


def fit(image: np.ndarray, size: int) -> np.ndarray:
    """Bring a square picture to `size`, averaging where it shrinks."""
    side = image.shape[0]
    if side == size:
        return image
    return cv2.resize(image, (size, size), interpolation=cv2.INTER_CUBIC if side < size else cv2.INTER_AREA)
