"""Restored faces that are kept, so that who changes how they are shown does not wait for them to be restored again.

What a restorer made is kept as it left the network, before colours, strength, the drift limit and deflickering, under
a key of all that decides it: the crop, bit for bit, the seed, the method with its weights and settings, what guides
it, and where it was computed. So whatever is changed afterwards only blends again, and whatever decides it is
computed anew.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import struct
import time
from collections import OrderedDict
from collections.abc import Collection
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from threading import RLock
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from ..errors import OutputMediaError
from ..media.atomic import TEMPORARY_PREFIX, make_folder, publish
from ..types import Heard

MEMORY_LIMIT = 512 << 20
"""Bytes of faces in memory: 170 of 512 px."""
DISK_LIMIT = 4 << 30
"""Bytes of faces on disk: 2700 of 512 px, 108 seconds of one face at 25 frames a second."""

_SUFFIX = ".face"
_MAGIC = b"bfrface1"
_DIGEST_BYTES = 16
_TOP = 65535
"""Levels on disk are of 16 bits: half the bytes of float32, and 1/257 of a level of 8 bits. float16 would be coarser,
and zlib takes a third off at twenty times the time, which is more than a fast method takes on a GPU."""
_ABANDONED_S = 3600
"""Age of an unfinished file that no run can still be writing."""
_RECOUNT = 64
"""Faces between two looks at what other runs put into the same folder."""
_NAMED = 3
"""Damaged files that are named in a note."""


@dataclass(frozen=True, slots=True, eq=False)
class KeptFace:
    """What a restorer made of one crop, or of one whole picture."""

    image: Tensor
    """(3, H, W) float32 in [0, 1], on the CPU."""
    heard: Heard = field(default_factory=Heard)
    """What was said of it meanwhile."""


class Shelf(Protocol):
    """Where faces are kept. It may be used by several threads, and outlives a run."""

    limit: int
    """Bytes it may hold."""

    def rounded(self, images: Tensor) -> Tensor:
        """Return images as they will come back, so that a fresh face and a kept one are the same."""
        ...

    def load(self, key: str) -> KeptFace | None:
        """Return a face, None where it is not there.

        Raises:
            DamagedFaceError: it is there and no longer what was kept.
        """
        ...

    def save(self, key: str, face: KeptFace, needed: Collection[str]) -> bool:
        """Keep a face, in place of those that were used longest ago and are not `needed`; tell whether there was room.

        Raises:
            OutputMediaError: it cannot be written.
        """
        ...


class DamagedFaceError(Exception):
    """A kept face is not what it was; the text is the name of its file."""


class MemoryShelf:
    """Faces in memory, as exact as they were made."""

    def __init__(self, limit: int = MEMORY_LIMIT) -> None:
        self.limit = limit
        self._faces: OrderedDict[str, KeptFace] = OrderedDict()
        """Those that were used longest ago first."""
        self._bytes = 0
        self._lock = RLock()

    def __len__(self) -> int:
        return len(self._faces)

    def rounded(self, images: Tensor) -> Tensor:
        """Return the images themselves."""
        return images

    def load(self, key: str) -> KeptFace | None:
        """Return a face, None where it is not there."""
        with self._lock:
            face = self._faces.get(key)
            if face is not None:
                self._faces.move_to_end(key)
            return face

    def save(self, key: str, face: KeptFace, needed: Collection[str]) -> bool:
        """Keep a face; see `Shelf`."""
        size = face.image.nbytes
        with self._lock:
            spare = iter([old for old in self._faces if old not in needed])
            while self._bytes + size > self.limit:
                old = next(spare, None)
                if old is None:
                    return False
                self._bytes -= self._faces.pop(old).image.nbytes
            before = self._faces.pop(key, None)
            self._bytes += size - (before.image.nbytes if before else 0)
            self._faces[key] = face
            return True

    def clear(self) -> None:
        """Let go of all faces."""
        with self._lock:
            self._faces.clear()
            self._bytes = 0


class DiskShelf:
    """Faces in a folder, a file each, in levels of 16 bits.

    Several runs may use one folder: a file is there whole or not at all, bears the hash of what is in it, and who finds
    one missing restores the face again.

    Args:
        folder: made where it is missing; nothing else may lie in it.
        limit: bytes it may hold; of a disk that is nearly full, no more than half of what is free is taken.

    Raises:
        OutputMediaError: the folder cannot be made.
    """

    def __init__(self, folder: Path, limit: int = DISK_LIMIT) -> None:
        self.folder = Path(folder)
        make_folder(self.folder)
        self._lock = RLock()
        self._sizes: OrderedDict[str, int] = OrderedDict()
        """Bytes by key, those that were used longest ago first."""
        self._since_count = 0
        self._count()
        self.limit = min(limit, self.bytes + shutil.disk_usage(self.folder).free // 2)
        for path in self.folder.glob(f"{TEMPORARY_PREFIX}*"):
            with suppress(OSError):
                if time.time() - path.stat().st_mtime > _ABANDONED_S:
                    path.unlink()

    @property
    def bytes(self) -> int:
        """What the faces take."""
        return sum(self._sizes.values())

    def _count(self) -> None:
        found: list[tuple[int, str, int]] = []
        for path in self.folder.glob(f"*{_SUFFIX}"):
            with suppress(OSError):  # another run removed it
                told = path.stat()
                found.append((told.st_mtime_ns, path.stem, told.st_size))
        self._sizes = OrderedDict((key, size) for _, key, size in sorted(found))
        self._since_count = 0

    def _path(self, key: str) -> Path:
        return self.folder / f"{key}{_SUFFIX}"

    def rounded(self, images: Tensor) -> Tensor:
        """Return images in levels of 16 bits."""
        return torch.from_numpy(_values(_levels(images))).to(images.device)

    def load(self, key: str) -> KeptFace | None:
        """Return a face; see `Shelf`."""
        path = self._path(key)
        try:
            data = path.read_bytes()
        except OSError:
            return None
        try:
            face = _decoded(data, key)
        except (ValueError, LookupError, TypeError) as error:
            self._remove(key)
            raise DamagedFaceError(path.name) from error
        with self._lock, suppress(OSError):
            os.utime(path)
            self._sizes[key] = len(data)
            self._sizes.move_to_end(key)
        return face

    def save(self, key: str, face: KeptFace, needed: Collection[str]) -> bool:
        """Keep a face; see `Shelf`."""
        data = _encoded(face, key)
        with self._lock:
            if self._since_count >= _RECOUNT:
                self._count()
            spare = iter([old for old in self._sizes if old not in needed])
            room = self.limit - self.bytes - len(data)
            while room < 0:
                old = next(spare, None)
                if old is None:
                    return False
                room += self._sizes[old]
                self._remove(old)
            with publish(self._path(key), sync=False) as file:
                file.write(data)
            self._sizes[key] = len(data)
            self._since_count += 1
            return True

    def _remove(self, key: str) -> None:
        with self._lock:
            self._sizes.pop(key, None)
            with suppress(OSError):  # another run reads it; it will be removed another time
                self._path(key).unlink(missing_ok=True)


class KeptFaces:
    """The use that one run makes of a shelf: what it took from it, and what it put there.

    Faces that the run has used are not given up for others of it. A film longer than the shelf so keeps its beginning,
    where otherwise each of its faces would push out the one that is needed next.
    """

    def __init__(self, shelf: Shelf) -> None:
        self.shelf = shelf
        self._used: set[str] = set()
        self._made: set[str] = set()
        self._refused: set[str] = set()
        self._damaged: list[str] = []
        self._failed = ""

    def take(self, key: str) -> KeptFace | None:
        """Return a face, None where it has to be restored."""
        try:
            face = self.shelf.load(key)
        except DamagedFaceError as error:
            self._damaged.append(str(error))
            return None
        if face is not None:
            self._used.add(key)
        return face

    @property
    def taken(self) -> int:
        """Faces that were there before the run."""
        return len(self._used - self._made)

    def keep(self, key: str, face: KeptFace) -> None:
        """Keep a face that was restored, where there is room."""
        if self._failed:
            return
        try:
            if self.shelf.save(key, face, self._used):
                self._made.add(key)
                self._used.add(key)
            else:
                self._refused.add(key)
        except OutputMediaError as error:
            self._failed = error.found

    def said(self) -> dict[str, str]:
        """Return what the notes of the run say of its faces, by subject."""
        said: dict[str, str] = {}
        if self.taken:
            said["taken"] = f"{_faces(self.taken)} taken from an earlier run, and not restored again"
        if self._refused:
            size = f"{self.shelf.limit / 2**30:.3g} GiB"
            said["refused"] = f"{_faces(len(self._refused))} not kept for another run: the {size} for them are full"
        if self._damaged:
            names = ", ".join(self._damaged[:_NAMED]) + (", ..." if len(self._damaged) > _NAMED else "")
            said["damaged"] = f"{_faces(len(self._damaged))} kept but damaged, and restored again: {names}"
        if self._failed:
            said["failed"] = f"Restored faces are no longer kept for another run: {self._failed}"
        return said


def _faces(count: int) -> str:
    return "1 face was" if count == 1 else f"{count} faces were"


# --- on disk ------------------------------------------------------------------------------------------------------


def _levels(images: Tensor) -> np.ndarray:
    return np.rint(images.detach().cpu().numpy() * np.float32(_TOP)).astype("<u2")


def _values(levels: np.ndarray) -> np.ndarray:
    return levels.astype(np.float32) / np.float32(_TOP)


def _encoded(face: KeptFace, key: str) -> bytes:
    """Return a face as a file: the hash of all that follows, the length of what is told of it, that, and its levels."""
    told = {"key": key, "shape": list(face.image.shape), "heard": asdict(face.heard)}
    head = json.dumps(told).encode()
    body = struct.pack("<I", len(head)) + head + _levels(face.image).tobytes()
    return _MAGIC + hashlib.blake2b(body, digest_size=_DIGEST_BYTES).digest() + body


def _decoded(data: bytes, key: str) -> KeptFace:
    """Return the face in a file.

    Raises:
        ValueError: it is damaged, or another's.
    """
    start = len(_MAGIC) + _DIGEST_BYTES
    body = memoryview(data)[start:]
    if data[:start] != _MAGIC + hashlib.blake2b(body, digest_size=_DIGEST_BYTES).digest():
        raise ValueError("its hash is another")
    (length,) = struct.unpack("<I", body[:4])
    told = json.loads(bytes(body[4 : 4 + length]))
    if told["key"] != key:
        raise ValueError("it is another face")
    levels = np.frombuffer(body[4 + length :], "<u2").reshape(told["shape"])
    notes, numbers = told["heard"]["notes"], told["heard"]["numbers"]
    heard = Heard(notes, [(heading, each) for heading, each in numbers])
    return KeptFace(torch.from_numpy(_values(levels)), heard)


def heard_of(heard: Heard, count: int) -> list[Heard]:
    """Return what was said of each of `count` faces that were restored together: notes of all, numbers of its own."""
    joined: dict[str, dict[str, list[float]]] = {}
    for heading, numbers in heard.numbers:
        known = joined.setdefault(heading, {})
        for name, values in numbers.items():
            known.setdefault(name, []).extend(values)
    each = [Heard(list(dict.fromkeys(heard.notes))) for _ in range(count)]
    for heading, numbers in joined.items():
        for index, one in enumerate(each):
            # Of a whole picture there may be numbers for each of its patches.
            one.numbers.append((heading, {n: v if count == 1 else [v[index]] for n, v in numbers.items()}))
    return each
