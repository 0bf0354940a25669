"""Open a finished film again, decode it to its end, and compare it with what was to be written."""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import OutputMediaError
from ..media.clips import OPEN_OPTIONS, read_frames
from ..media.pyav import chapters, open_input
from .fields import ORDERS, Orders
from .sound import Heard, samples_of
from .types import ProgressCallback, no_progress

_HEADERS = {2: "tff", 3: "bff", 4: "tff", 5: "bff"}
"""FFmpeg's AVFieldOrder, stored field by field or line by line."""
_MILLISECOND = Fraction(1, 1000)


@dataclass(slots=True)
class Copied:
    """What was copied of one stream, to be found again in the result. It grows by 8 bytes a packet."""

    index: int
    """In the clip."""
    target: int
    """In the result."""
    time_base: Fraction
    cover: bool = False
    """It is one picture that is shown at no time."""
    stamps: array[int] = field(default_factory=lambda: array("q"))
    """In `time_base`, as written."""
    digest: Any = field(default_factory=hashlib.sha256)
    bytes: int = 0
    waiting: list[Any] = field(default_factory=list)
    """Packets that are not written yet."""
    latest: int | None = None
    """Decoding stamp of the packet before."""
    moved_s: float = 0.0
    """What a packet was moved by at most because its stamp fell back."""

    even: bool = False
    """It is PCM, which MP4 and MOV hold without packets: readers cut it as they like."""
    places: array[int] = field(default_factory=lambda: array("q"))
    """Of such a stream: how many bytes come before each packet."""

    def add(self, packet: Any, stamp: int) -> None:
        """Take note of a packet that is shown at `stamp`."""
        data = bytes(packet) if self.even else _payload(bytes(packet))
        if self.even:
            self.places.append(self.bytes)
        self.digest.update(data)
        self.bytes += len(data)
        self.stamps.append(stamp)


@dataclass(frozen=True, slots=True)
class Written:
    """What a film is expected to hold."""

    video: int
    """Index of the restored stream."""
    size: tuple[int, int]
    """Width and height of its frames."""
    pts: np.ndarray
    """(N,) time stamps of its frames in `time_base`."""
    time_base: Fraction
    exact: bool
    """The container keeps every time stamp; others round to a millisecond."""
    copied: Sequence[Copied]
    heard: Sequence[Heard]
    """Sound that was decoded."""
    chapters: int
    metadata: dict[str, str]
    shift_s: float
    """What all stamps were moved by."""
    notes: tuple[str, ...]
    fields: str = ""
    """Which field comes first, 'tff' or 'bff'; '' where frames are whole."""
    alpha: bool = False
    """Frames have transparency."""


def verify(
    path: Path,
    target: Path,
    written: Written,
    check_cancel: Callable[[], None],
    on_progress: ProgressCallback = no_progress,
) -> dict[str, Any]:
    """Compare a film with what was to be written.

    Args:
        path: the film, under the name it has for now.
        target: the name it is to get.
        written: what was to be written.
        check_cancel: raises where the run is to stop.
        on_progress: hears how many frames were found, as "verify".

    Returns:
        What was found, as plain JSON types. Entries of the metadata that the container dropped are in its notes.

    Raises:
        OutputMediaError: a frame, a packet, a chapter or a time stamp is missing or differs.
    """
    import av.error

    try:
        with open_input(str(path), options=OPEN_OPTIONS) as opened:
            worst = _compare_frames(opened, written, check_cancel, on_progress)
        with open_input(str(path), options=OPEN_OPTIONS) as again:
            streams = _compare_streams(again, written.copied, check_cancel)
            streams += _compare_sound(path, written.heard, check_cancel)
            found = chapters(again)
            if written.chapters and len(found) != written.chapters:
                raise _Mismatch(f"it has {len(found)} chapters, expected {written.chapters}")
            held = {key.lower() for key in again.metadata}
    except (av.error.FFmpegError, _Mismatch) as error:
        raise OutputMediaError(
            f"{target} is not what it should be",
            found=str(error),
            kept=f"It is kept as {target.name}.rejected, and the segments are kept",
            todo="Look at it, and run the same command again, perhaps with another container",
        ) from error
    lost = [key for key in written.metadata if key.lower() not in held]
    notes = [f"{target.suffix} did not keep the clip's {', '.join(lost)}"] if lost else []
    return {
        "frames": len(written.pts),
        "worst_stamp_s": worst,
        "shift_s": written.shift_s,
        "bytes": path.stat().st_size,
        "streams": streams,
        "chapters": written.chapters,
        "notes": [*written.notes, *notes],
    }


class _Mismatch(Exception):  # noqa: N818
    """The result differs from what was written."""


def _compare_frames(
    container: Any, written: Written, check_cancel: Callable[[], None], on_progress: ProgressCallback
) -> float:
    """Return the largest difference of a frame's stamp in seconds."""
    stream = container.streams[written.video]
    stream.thread_type = "AUTO"
    base, worst, count, total = Fraction(stream.time_base), Fraction(0), 0, len(written.pts)
    orders, first = Orders(), ""
    allowed = Fraction(0) if written.exact else _MILLISECOND / 2
    for frame in read_frames(container, stream):
        check_cancel()
        if count % 16 == 0:
            on_progress("verify", count, total)
        if count < total:
            if (frame.width, frame.height) != written.size:
                found, expected = ("{} x {}".format(*size) for size in ((frame.width, frame.height), written.size))
                raise _Mismatch(f"frame {count} has {found} pixels, expected {expected}")
            order = orders(frame)
            first = first or order
            if order and not written.fields:
                raise _Mismatch(f"frame {count} is marked as interlaced, expected whole frames")
            if written.alpha and not any(part.is_alpha for part in frame.format.components):
                raise _Mismatch(f"frame {count} has no transparency")
            if frame.pts is None or frame.is_corrupt:
                raise _Mismatch(f"frame {count} is damaged")
            expected = int(written.pts[count]) * written.time_base
            worst = max(worst, abs(frame.pts * base - expected))
            if worst > allowed:
                shown = f"{float(frame.pts * base):.6f}"
                raise _Mismatch(f"frame {count} is shown at {shown} s, expected {float(expected):.6f} s")
        count += 1
    if count != total:
        raise _Mismatch(f"{count} frames can be decoded, expected {total}")
    # The header's word, where it has one; before PyAV 18 it is not told.
    header = _HEADERS.get(getattr(stream.codec_context, "field_order", 0), first)
    if wrong := [order for order in (first, header) if order != written.fields]:
        found = ORDERS.get(wrong[0], "whole frames")
        raise _Mismatch(f"its fields are marked as {found}, expected {ORDERS[written.fields]}")
    on_progress("verify", count, total)
    return float(worst)


def _compare_streams(
    container: Any, copied: Sequence[Copied], check_cancel: Callable[[], None]
) -> list[dict[str, Any]]:
    missing = [stream.index for stream in copied if stream.target >= len(container.streams)]
    if missing:
        raise _Mismatch(f"stream {missing[0]} is not in it")
    found = {
        stream.target: Copied(
            stream.index, stream.target, Fraction(container.streams[stream.target].time_base), stream.cover,
            even=stream.even,
        )
        for stream in copied
    }  # fmt: skip
    if found:
        for count, packet in enumerate(container.demux(*(container.streams[number] for number in found))):
            if count % 64 == 0:
                check_cancel()
            if packet.size:
                stream = found[packet.stream_index]
                shown = packet.pts if packet.pts is not None else packet.dts
                stream.add(packet, 0 if stream.cover or shown is None else shown)
    told: list[dict[str, Any]] = []
    for stream in copied:
        got, name = found[stream.target], f"stream {stream.index}"
        if stream.even and got.bytes != stream.bytes:
            raise _Mismatch(f"{name} has {got.bytes} bytes, expected {stream.bytes}")
        if not stream.even and len(got.stamps) != len(stream.stamps):
            raise _Mismatch(f"{name} has {len(got.stamps)} packets, expected {len(stream.stamps)}")
        if got.digest.digest() != stream.digest.digest():
            raise _Mismatch(f"{name} holds other bytes than in the clip")
        off = _worst(stream, got)
        if off > max(got.time_base, _MILLISECOND):
            raise _Mismatch(f"{name} is off by {float(off):.6f} s against the pictures")
        told.append(
            {"stream": stream.index, "packets": len(got.stamps), "bytes": got.bytes, "worst_stamp_s": float(off)}
        )
    return told


def _compare_sound(path: Path, heard: Sequence[Heard], check_cancel: Callable[[], None]) -> list[dict[str, Any]]:
    """Decode the sound of a film, and compare its samples and its times with what was given to the encoders."""
    told: list[dict[str, Any]] = []
    for was in heard:
        if not was.samples:  # some muxers leave such a stream out
            continue
        with open_input(str(path), options=OPEN_OPTIONS) as opened:
            got, worst = Heard(was.index, was.target, was.recipe), Fraction(0)
            for count, frame in enumerate(opened.decode(opened.streams[was.target])):
                if count % 64 == 0:
                    check_cancel()
                if frame.pts is not None and was.start is not None:
                    expected = was.start + Fraction(got.samples, was.recipe.rate)
                    worst = max(worst, abs(frame.pts * Fraction(frame.time_base) - expected))
                got.add(samples_of(frame, was.recipe.sample))
        name = f"stream {was.index}"
        if got.samples != was.samples:
            raise _Mismatch(f"{name} has {got.samples} samples, expected {was.samples}")
        if got.digest.digest() != was.digest.digest():
            raise _Mismatch(f"{name} sounds otherwise than what was decoded from the clip")
        if worst > _MILLISECOND:
            raise _Mismatch(f"{name} is off by {float(worst):.6f} s against the pictures")
        told.append({
            "stream": was.index, "stored": was.recipe.title, "samples": was.samples, "worst_stamp_s": float(worst)
        })  # fmt: skip
    return told


def _worst(one: Copied, other: Copied) -> Fraction:
    """Return the largest difference between the stamps of two streams, in seconds."""
    if not len(one.stamps):
        return Fraction(0)
    if one.even:
        # When the first byte of each packet that was found is heard, by the packets that were written.
        expected = np.interp(other.places, one.places, np.array(one.stamps) * float(one.time_base))
        inside = np.array(other.places) <= one.places[-1]
        off = np.abs(expected - np.array(other.stamps) * float(other.time_base))[inside]
        return Fraction(float(off.max()))
    base, scale = one.time_base, other.time_base
    # Python's integers: the products of two time bases leave 64 bits.
    first = np.array(one.stamps, object) * (base.numerator * scale.denominator)
    second = np.array(other.stamps, object) * (scale.numerator * base.denominator)
    return Fraction(int(np.abs(first - second).max()), base.denominator * scale.denominator)


def _payload(data: bytes) -> bytes:
    """Return a packet without the header that AAC has in transport streams, and MP4 and MKV hold elsewhere.

    Source:
        ISO/IEC 13818-7, adts_fixed_header: 12 bits of sync, layer 0, and the length of the frame.
    """
    if len(data) > 7 and data[0] == 0xFF and data[1] & 0xF6 == 0xF0:
        length = (data[3] & 3) << 11 | data[4] << 3 | data[5] >> 5
        if length == len(data):
            return data[7 if data[1] & 1 else 9 :]
    return data
