"""What an evaluation compares: pictures matched by name, or the frames of clips matched by time."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from ..errors import InputMediaError
from ..media.clips import clock, open_clip, orientation, pick_video, read_frames, to_rgb, upright
from ..media.formats import is_picture
from ..media.pictures import read_picture, to_float
from ..media.pyav import rational

SIDES = ("restored", "input", "truth")
"""What is compared. A mapping by side leaves `input` out where there is none."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One face to compare."""

    name: str
    files: dict[str, Path]
    """By side; without `input` where that is missing."""


@dataclass(slots=True)
class Pairing:
    """Pictures that belong together, and those that are left over."""

    entries: list[Entry]
    unmatched: dict[str, list[str]] = field(default_factory=dict)
    """By side: names that no other side has, or inputs that a face lacks."""


def pair_pictures(paths: Mapping[str, Path]) -> Pairing:
    """Match files or folders by side: two files by themselves, folders by the path inside them without its suffix.

    Raises:
        InputMediaError: a path is missing, one is a folder and another a file, a name is there twice in one folder,
            or nothing matches.
    """
    for path in paths.values():
        if not path.exists():
            raise _refuse(f"Cannot read {path}", "there is no such file or folder", "Check the name and the folder")
    folders = {side: path.is_dir() for side, path in paths.items()}
    if len(set(folders.values())) > 1:
        kinds = ", ".join(f"{paths[side]} is a {'folder' if folder else 'file'}" for side, folder in folders.items())
        raise _refuse("Cannot match these", f"{kinds}; expected files only or folders only", "Name all of one kind")
    if not folders["restored"]:
        return Pairing([Entry(paths["restored"].stem, dict(paths))])
    found = {side: _listing(path) for side, path in paths.items()}
    restored, truth, given = found["restored"], found["truth"], found.get("input")
    both = [name for name in restored if name in truth]
    unmatched = {
        "restored": [name for name in restored if name not in truth],
        "truth": [name for name in truth if name not in restored],
    }
    if given is not None:
        unmatched["input"] = [name for name in both if name not in given]
    if not both:
        raise _refuse(
            f"Nothing to compare in {paths['restored']}",
            f"none of its {len(restored)} pictures has the name of one of the {len(truth)} in {paths['truth']} "
            "(suffixes do not count)",
            "Give restored pictures the names of their truth",
        )
    entries = [Entry(name, {side: names[name] for side, names in found.items() if name in names}) for name in both]
    return Pairing(entries, {side: names for side, names in unmatched.items() if names})


def _listing(folder: Path) -> dict[str, Path]:
    """Return the pictures below `folder` by their path inside it without suffix, sorted."""
    names: dict[str, Path] = {}
    for path in sorted(folder.rglob("*")):
        inner = path.relative_to(folder)
        if not is_picture(path) or any(part.startswith(".") for part in inner.parts):
            continue
        name = inner.with_suffix("").as_posix()
        if name in names:
            raise _refuse(
                f"Cannot match the pictures of {folder}",
                f"{names[name].name} and {path.name} have one name but for the suffix; expected one of them",
                "Move one of them away",
            )
        names[name] = path
    return names


def read_entry(entry: Entry, *, resize: bool) -> dict[str, Tensor]:
    """Return the pictures of an entry by side, (3, S, S) float32 in [0, 1], all of the size of the truth.

    Args:
        entry: what to read.
        resize: bring restored and input to the size of the truth (bicubic, antialiased).

    Raises:
        InputMediaError: a picture cannot be read, is not square, or has another size than its truth.
    """
    images = {side: to_float(read_picture(path)).clamp(0, 1) for side, path in entry.files.items()}
    truth = images["truth"]
    for side, image in images.items():
        height, width = image.shape[1:]
        if height != width:
            raise _refuse(
                f"Cannot take {entry.files[side]} as an aligned face",
                f"it is {width} x {height} pixels, expected a square",
                "Cut the faces out first, in the FFHQ template",
            )
        images[side] = same_size(image, truth, str(entry.files[side]), resize=resize)
    return images


def same_size(image: Tensor, truth: Tensor, name: str, *, resize: bool) -> Tensor:
    """Return `image` at the size of `truth`, both (3, H, W).

    Raises:
        InputMediaError: the sizes differ and `resize` is off.
    """
    if image.shape == truth.shape:
        return image
    if not resize:
        (height, width), (true_height, true_width) = image.shape[1:], truth.shape[1:]
        raise _refuse(
            f"Cannot compare {name} with its truth",
            f"it is {width} x {height} pixels and the truth {true_width} x {true_height}, expected the same size",
            "Add --resize to bring restored and input to the size of the truth",
        )
    return resized(image, truth)


def resized(image: Tensor, truth: Tensor) -> Tensor:
    """Return `image` (3, h, w) at the size of `truth` (3, H, W): bicubic, antialiased where it shrinks."""
    size = (int(truth.shape[1]), int(truth.shape[2]))
    return F.interpolate(image[None], size, mode="bicubic", antialias=True, align_corners=False)[0].clamp(0, 1)


@dataclass(frozen=True, slots=True)
class FrameSet:
    """The frames of all clips at one time."""

    index: int
    """Of the truth's frame, from 0."""
    time: float
    """Seconds from the truth's start."""
    frames: dict[str, Tensor]
    """By side, (3, H, W) float32 in [0, 1]; `input` is missing where it has no frame at that time."""

    @property
    def name(self) -> str:
        """How a person finds the frame."""
        return f"frame {self.index} ({self.time:.2f} s)"


@dataclass(slots=True)
class ClipMatch:
    """The clips of one evaluation, and how many of their frames found no partner so far."""

    paths: Mapping[str, Path]
    resize: bool = False
    unmatched: dict[str, int] = field(default_factory=dict)
    count: int = 0
    """Frames that the truth says it has; 0 where it does not say."""

    def moments(self) -> Iterator[FrameSet]:
        """Yield frames that belong together, holding one frame of each clip.

        Frames match when their times from the start of the clip differ by less than half a frame of the truth.

        Raises:
            InputMediaError: a clip cannot be decoded, or sizes differ without `resize`.
        """
        with ExitStack() as stack:
            clips = {side: stack.enter_context(closing(_Clip(path))) for side, path in self.paths.items()}
            truth = clips.pop("truth")
            self.count = truth.count
            for index, (time, true) in enumerate(iter(truth.next, None)):
                frames = {"truth": true}
                for side, clip in clips.items():
                    frame, passed = clip.at(time, truth.interval / 2)
                    self._count(side, passed)
                    if frame is not None:
                        name = f"{self.paths[side]} at {time:.2f} s"
                        frames[side] = same_size(frame, true, name, resize=self.resize)
                if "restored" not in frames:
                    self._count("truth", 1)
                    continue
                if "input" in clips and "input" not in frames:
                    self._count("input missing", 1)
                yield FrameSet(index, time, frames)
            for side, clip in clips.items():
                self._count(side, clip.rest())

    def _count(self, side: str, frames: int) -> None:
        if frames:
            self.unmatched[side] = self.unmatched.get(side, 0) + frames


class _Clip:
    """Frames of one clip with their times, one at a time."""

    def __init__(self, path: Path) -> None:
        self.path, self._file = path, open_clip(path)
        try:
            self._stream = pick_video(path, self._file)
        except InputMediaError:
            self._file.close()
            raise
        self._stream.thread_type = "AUTO"
        rate = rational(self._stream.average_rate)
        self.interval = 1.0 / float(rate) if rate else 0.04
        self.count = self._stream.frames
        self._base = Fraction(self._stream.time_base)
        self._clock, self._start, self._last = "", 0.0, 0.0
        self._frames = read_frames(self._file, self._stream, on_fault=self._damaged)
        self._read = 0
        self._waiting: tuple[float, Tensor] | None = None

    def next(self) -> tuple[float, Tensor] | None:
        """Return the time and pixels of the next frame, None at the end."""
        frame = next(self._frames, None)
        if frame is None:
            return None
        time = self._time(frame)
        self._read += 1
        pixels = upright(to_rgb(frame), *orientation(frame, []))
        return time, torch.from_numpy(pixels).permute(2, 0, 1).float().div_(255)

    def _damaged(self, error: Exception, packet: Any, row: int) -> bool:
        raise _refuse(
            f"Cannot decode {self.path}",
            f"frame {self._read} is damaged: {error}",
            "Make the clip again, or compare the part before it",
        ) from error

    def _time(self, frame: Any) -> float:
        """Return when a frame is shown, from the start of the clip on; the first one decides which stamps tell."""
        if not self._read:
            self._clock = clock(self._file.format.name, frame)
            # Decoding stamps begin somewhere; of those of presentation the header has the first.
            start = self._stream.start_time if self._clock == "pts" else None
            start = getattr(frame, self._clock) if self._clock and start is None else start
            self._start = float((start or 0) * self._base)
        stamp = getattr(frame, self._clock) if self._clock else None
        if stamp is None:
            self._last += self.interval if self._read else 0.0
        else:
            self._last = float(stamp * self._base) - self._start
        return self._last

    def at(self, time: float, tolerance: float) -> tuple[Tensor | None, int]:
        """Return the frame at `time`, None where there is none, and how many frames before it were passed over."""
        passed = 0
        while True:
            self._waiting = self._waiting or self.next()
            if self._waiting is None or self._waiting[0] > time + tolerance:
                return None, passed
            early = self._waiting[0] < time - tolerance
            frame, self._waiting = self._waiting[1], None
            if not early:
                return frame, passed
            passed += 1

    def rest(self) -> int:
        """Return how many frames are left, reading them."""
        left = 1 if self._waiting else 0
        while self.next() is not None:
            left += 1
        return left

    def close(self) -> None:
        self._file.close()


def _refuse(what: str, found: str, todo: str) -> InputMediaError:
    return InputMediaError(what, found=found, kept="No file was changed", todo=todo)
