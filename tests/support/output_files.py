"""Whether two folders of results hold the same pixels, to the bit."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import av
import cv2
import numpy as np
from safetensors.numpy import load_file

PICTURES = (".png", ".jpg", ".webp", ".tif")
CLIPS = (".mkv", ".mp4")
ARRAYS = (".npy", ".safetensors")
"""What nodes hand on, and codes and latents."""


@dataclass(frozen=True, slots=True)
class Values:
    """Numbers of a file that are compared with each other."""

    array: np.ndarray
    levels: float
    """What a difference is multiplied by to count in levels, and 0 where it is no picture."""
    of: int = 0
    """The highest level."""


@dataclass(slots=True)
class Difference:
    """What is different in two folders."""

    files: int = 0
    """That were compared."""
    largest: float = 0.0
    """Difference of two values, in levels of `of`, or in plain numbers where `of` is 0."""
    of: int = 255
    differing: int = 0
    values: int = 0
    where: str = ""
    """File of the largest difference."""
    unequal: set[str] = field(default_factory=set)
    """Files in which values differ."""
    other: str = ""
    """First thing that cannot be put as a difference of values: a file, shape or time stamp."""

    @property
    def equal(self) -> bool:
        """Tell whether nothing differs, and something was compared."""
        return bool(self.files) and not self.differing and not self.other

    @property
    def share(self) -> float:
        """Return the share of differing values, of all that were compared."""
        return self.differing / self.values if self.values else 0.0

    def add(self, name: str, before: Values, after: Values) -> None:
        """Compare two sets of values."""
        a, b = before.array, after.array
        if a.shape != b.shape or a.dtype != b.dtype:
            self.say(f"{name}: {a.dtype} {a.shape} before, {b.dtype} {b.shape} after")
            return
        self.values += a.size
        unequal = (a != b) & ~(np.isnan(a) & np.isnan(b)) if a.dtype.kind == "f" else a != b
        if not unequal.any():
            return
        self.differing += int(unequal.sum())
        self.unequal.add(name)
        apart = np.abs(a[unequal].astype(np.float64) - b[unequal].astype(np.float64)) * (before.levels or 1)
        most = float(np.nan_to_num(apart, nan=np.inf).max())
        if not self.where or most / (before.of or 1) > self.largest / (self.of or 1):
            self.largest, self.of, self.where = most, before.of, name

    def say(self, text: str) -> None:
        """Note what differs otherwise; the first such thing is kept."""
        self.other = self.other or text


def compare_folders(before: Path, after: Path) -> Difference:
    """Compare every picture, clip and array in two folders; other files, such as reports, are not looked at."""
    found = Difference()
    theirs, ours = _files(before), _files(after)
    for name in sorted({*theirs, *ours}):
        if name not in ours or name not in theirs:
            found.say(f"{name}: only {'before' if name in theirs else 'after'}")
            continue
        found.files += 1
        old, new = _read(theirs[name]), _read(ours[name])
        for part in old.keys() | new.keys():
            if part not in new or part not in old:
                found.say(f"{name}: {part} only {'before' if part in old else 'after'}")
        for part in sorted(old.keys() & new.keys()):
            found.add(name, old[part], new[part])
    return found


def _files(folder: Path) -> dict[str, Path]:
    wanted = (path for path in folder.rglob("*") if path.suffix in (*PICTURES, *CLIPS, *ARRAYS))
    return {path.relative_to(folder).as_posix(): path for path in wanted if path.is_file()}


def _read(path: Path) -> dict[str, Values]:
    """Return the numbers in a file, by part."""
    if path.suffix in CLIPS:
        return _read_clip(path)
    if path.suffix == ".safetensors":
        return {name: Values(array, 0) for name, array in load_file(path).items()}
    array = np.load(path) if path.suffix == ".npy" else cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    if array is None:
        raise ValueError(f"{path} cannot be read as a picture")
    return {"": Values(array, 255, 255) if array.dtype.kind == "f" else Values(array, 1, np.iinfo(array.dtype).max)}


def _read_clip(path: Path) -> dict[str, Values]:
    """Return the planes of every frame as they are stored, and its time in nanoseconds."""
    found: dict[str, Values] = {}
    with av.open(str(path)) as container:
        for index, frame in enumerate(container.decode(video=0)):
            frame_name = f"frame {index} {frame.format.name}"
            for number, plane in enumerate(frame.planes):
                bits = frame.format.components[number].bits
                kind = np.dtype(np.uint16 if bits > 8 else np.uint8)
                rows = np.frombuffer(plane, kind).reshape(plane.height, plane.line_size // kind.itemsize)
                # A line may be longer than what is shown of it, and what stands there is no pixel.
                width = plane.width * (len(frame.format.components) if len(frame.planes) == 1 else 1)
                found[f"{frame_name} plane {number}"] = Values(rows[:, :width].copy(), 1, 2**bits - 1)
            if frame.pts is None or frame.time_base is None:
                raise ValueError(f"{path}: frame {index} has no time stamp")
            time = round(frame.pts * frame.time_base * 10**9)
            # As a name: two times have no difference in levels.
            found[f"frame {index} at {time} ns"] = Values(np.zeros(0, np.uint8), 1, 255)
    return found
