"""Where the times of a recording start anew, and what puts its parts one behind the other.

Recorders join transport streams by their bytes, DVDs their cells, and a receiver that loses its signal starts its
clock again: the stamps then jump back, or hours ahead. FFmpeg takes a jump back of more than a minute for the clock's
wrap-around (33 bits of 90 kHz, 26.5 hours), so that it shows as one ahead, too. Every stream of such a file jumps at
the same byte; what lies behind it is moved by one offset, so that sound and pictures stay as they were to one another.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from typing import Any

from ..media.clips import open_clip

CLOCK = 90_000
"""Ticks a second of the stamps of transport and program streams: ISO/IEC 13818-1, 2.4.3.7."""

_JOINED = ("mpegts", "mpeg")
"""FFmpeg's names of the containers whose clock may start anew."""
_BACK = CLOCK // 10
"""Ticks by which the decoding stamps of sound may fall back without a joint; those of pictures never do."""
_AHEAD = 60 * CLOCK
"""A longer gap ahead is another recording, or the clock that starts anew, not a picture that is shown for so long."""


@dataclass(frozen=True, slots=True)
class Joint:
    """A place in a file from which on the times count from another start."""

    position: int
    """Of the first byte behind it."""
    ticks: int
    """What all stamps behind it are moved by, in 1/90000 s, up to the next joint."""


@dataclass(slots=True)
class _Run:
    """Packets of one stream whose stamps, in ticks, follow one another."""

    begins: int
    """Position of its first packet."""
    after: int
    """Position of the packet of the run before, -1 without one."""
    first: int
    end: int


@dataclass(slots=True)
class _Followed:
    """What is known of a stream on the way."""

    pictures: bool
    runs: list[_Run] = field(default_factory=list)
    last: int | None = None
    """Decoding stamp of the packet before."""
    position: int = -1
    odd: tuple[int, int, int, int] | None = None
    """Decoding stamp, start, end and position of a packet that does not follow; the next one tells what it is."""

    def take(self, stamp: int, start: int, end: int, position: int) -> None:
        """Take note of the next packet."""
        if self.odd is not None:
            odd, self.odd = self.odd, None
            # One damaged stamp between others that follow one another is no joint.
            if self._follows(stamp, self.last) and not self._follows(stamp, odd[0]):
                self._add(stamp, start, end, position)
                return
            self._begin(*odd)
        if self.last is None:
            self._begin(stamp, start, end, position)
        elif self._follows(stamp, self.last):
            self._add(stamp, start, end, position)
        else:
            self.odd = stamp, start, end, position

    def finish(self) -> list[_Run]:
        """Return all runs."""
        if self.odd is not None:
            self._begin(*self.odd)
            self.odd = None
        return self.runs

    def _follows(self, stamp: int, last: int | None) -> bool:
        back = 0 if self.pictures else _BACK
        return last is not None and -back <= stamp - last <= _AHEAD

    def _begin(self, stamp: int, start: int, end: int, position: int) -> None:
        self.runs.append(_Run(position, self.position, start, end))
        self.last, self.position = stamp, position

    def _add(self, stamp: int, start: int, end: int, position: int) -> None:
        run = self.runs[-1]
        run.first, run.end = min(run.first, start), max(run.end, end)
        self.last, self.position = stamp, position


def find_joints(path: Path, container: str) -> tuple[tuple[Joint, ...], float]:
    """Return the places of a recording at which its times start anew, in order, and its length in seconds.

    The packets of the whole file are read for it, but not decoded, and only of containers that may have such places;
    of others the length is 0.

    Args:
        path: the clip.
        container: FFmpeg's name of its format.

    Raises:
        InputMediaError: it cannot be opened.
    """
    if container not in _JOINED:
        return (), 0.0
    state = path.stat()
    return _found(path, state.st_size, state.st_mtime_ns)


@lru_cache(maxsize=32)
def _found(path: Path, size: int, changed: int) -> tuple[tuple[Joint, ...], float]:
    del size, changed  # parts of the key: a file that was changed is read again
    followed: dict[int, _Followed] = {}
    with open_clip(path) as container:
        for packet in _packets(container):
            kind, index = packet.stream.type, packet.stream_index
            start = packet.pts if packet.pts is not None else packet.dts
            if kind not in ("video", "audio") or start is None or packet.time_base != Fraction(1, CLOCK):
                continue
            one = followed.setdefault(index, _Followed(kind == "video"))
            position = packet.pos if packet.pos is not None and packet.pos >= 0 else one.position
            stamp = packet.dts if packet.dts is not None else start
            one.take(stamp, start, start + (packet.duration or 0), position)
    return _joined(list(followed.values()))


def _packets(container: Any) -> Iterator[Any]:
    """Yield what can be read: damage is the reader's to tell of."""
    import av.error

    try:
        for packet in container.demux():
            if packet.size:
                yield packet
    except (av.error.FFmpegError, OSError, IndexError):
        return


def _joined(streams: Sequence[_Followed]) -> tuple[tuple[Joint, ...], float]:
    """Return the joints of all streams together, and the length in seconds."""
    runs = [one.finish() for one in streams]
    # A stream's joint lies somewhere between two of its packets; where such stretches overlap it is the same one.
    # Without the pictures it is none: sound alone whose stamps jump is damaged.
    pictures = [(run.after, run.begins) for one in streams if one.pictures for run in one.runs[1:]]
    places: list[int] = []
    for after, begins in sorted(pictures, key=lambda stretch: stretch[1]):
        if not places or after >= places[-1]:
            near = [run.begins for each in runs for run in each[1:] if run.after < begins and run.begins > after]
            places.append(min(near))
    joints: list[Joint] = []
    moved, begin = 0, 0
    ends: int | None = None
    for edge, until in pairwise([-1, *places, None]):
        part = [
            found for each in runs
            if (found := [run for run in each if run.begins >= (edge or 0) and (until is None or run.begins < until)])
        ]  # fmt: skip
        if not part:
            continue
        first = min(found[0].first for found in part)
        if ends is None:
            begin = first
        else:
            moved = ends - first
            joints.append(Joint(edge or 0, moved))
        ends = moved + max(found[-1].end for found in part)
    return tuple(joints), ((ends or 0) - begin) / CLOCK


class Timeline:
    """Puts the packets of a recording on one line of time, as they come.

    Args:
        joints: from `find_joints`.
    """

    def __init__(self, joints: Sequence[Joint]) -> None:
        self._places = [joint.position for joint in joints]
        self._ticks = [joint.ticks for joint in joints]
        self._seen: dict[int, int] = {}

    def move(self, packet: Any) -> None:
        """Move the stamps of a packet, which is the next of its stream."""
        if not self._places or not packet.size:
            return
        index, position = packet.stream_index, packet.pos
        if position is None or position < 0:  # of a packet that shares its bytes with the one before
            position = self._seen.get(index, -1)
        self._seen[index] = position
        part = bisect_right(self._places, position) - 1
        if part < 0:
            return
        ticks = round(Fraction(self._ticks[part], CLOCK) / packet.time_base)
        if packet.pts is not None:
            packet.pts += ticks
        if packet.dts is not None:
            packet.dts += ticks
