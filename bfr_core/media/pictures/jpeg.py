"""The parts of a JPEG file: segments, scans, and what follows the picture. No pixel is decoded here.

Markers and layouts are those of ITU-T T.81 (JPEG), with the applications' segments of JFIF, EXIF, XMP and ICC.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

SOI, EOI, SOS, DQT, DHT, DRI, COM = 0xD8, 0xD9, 0xDA, 0xDB, 0xC4, 0xDD, 0xFE
APP0, APP1, APP2, APP11, APP13, APP14 = 0xE0, 0xE1, 0xE2, 0xEB, 0xED, 0xEE
EXIF, XMP, MORE_XMP = b"Exif\0\0", b"http://ns.adobe.com/xap/1.0/\0", b"http://ns.adobe.com/xmp/extension/\0"
ICC, MPF, RESOURCES, JFIF, JFXX = b"ICC_PROFILE\0", b"MPF\0", b"Photoshop 3.0\0", b"JFIF\0", b"JFXX\0"

LARGEST_BODY = 65_533
"""Bytes a segment holds."""

_FRAMES = {*range(0xC0, 0xD0)} - {DHT, 0xC8, 0xCC}
_MARKER = re.compile(rb"\xff+[^\x00\xff\xd0-\xd7]")
_RESTART = re.compile(rb"\xff[\xd0-\xd7]")

# The tables of T.81 Annex K.3, by the hash of a DHT's sixteen counts: a file that has others was optimised.
_USUAL_COUNTS = {
    bytes([0, 1, 5, 1, 1, 1, 1, 1, 1, 0, 0, 0, 0, 0, 0, 0]),
    bytes([0, 3, 1, 1, 1, 1, 1, 1, 1, 1, 1, 0, 0, 0, 0, 0]),
    bytes([0, 2, 1, 3, 3, 2, 4, 3, 5, 5, 4, 4, 0, 0, 1, 125]),
    bytes([0, 2, 1, 2, 4, 4, 3, 4, 7, 5, 4, 4, 0, 1, 2, 119]),
}


class Segment(NamedTuple):
    """One marker with its body, without the length."""

    marker: int
    body: bytes

    def packed(self) -> bytes:
        """Return the bytes in the file."""
        return bytes([0xFF, self.marker]) + struct.pack(">H", len(self.body) + 2) + self.body


class Component(NamedTuple):
    """One colour channel of a frame."""

    name: int
    across: int
    """Horizontal sampling factor."""
    down: int
    """Vertical sampling factor."""
    table: int


@dataclass(frozen=True, slots=True)
class Frame:
    """What a frame header says."""

    process: int
    """The marker's low four bits: 0 baseline, 1 extended, 2 progressive, 3 lossless, 9 and up arithmetic."""
    bits: int
    """Bits a sample."""
    width: int
    height: int
    components: tuple[Component, ...]

    @property
    def progressive(self) -> bool:
        """Whether detail comes in several passes."""
        return self.process in (2, 10)

    @property
    def across(self) -> int:
        """The largest horizontal sampling factor."""
        return max(component.across for component in self.components)

    @property
    def down(self) -> int:
        """The largest vertical sampling factor."""
        return max(component.down for component in self.components)


@dataclass(frozen=True, slots=True)
class Jpeg:
    """A JPEG file, taken apart."""

    head: tuple[Segment, ...]
    """All segments in front of the first scan."""
    body: bytes
    """From the first scan's marker to the end marker, both within."""
    rest: bytes
    """Whatever stands behind the end marker: second pictures, gain maps, films of motion photos."""

    @property
    def frame(self) -> Frame:
        """Return the frame header.

        Raises:
            ValueError: there is none, or it is damaged.
        """
        return read_frame(self.head)

    @property
    def optimised(self) -> bool:
        """Whether the Huffman tables were made for this picture."""
        counts = [body[place + 1 : place + 17] for body in self._bodies(DHT) for place in _tables(body)]
        return any(each not in _USUAL_COUNTS for each in counts)

    @property
    def restart_interval(self) -> int:
        """MCUs between two restart markers; 0 is none."""
        bodies = self._bodies(DRI)
        return struct.unpack(">H", bodies[-1][:2])[0] if bodies else 0

    def _bodies(self, marker: int) -> list[bytes]:
        return [segment.body for segment in self.head if segment.marker == marker]

    def packed(self) -> bytes:
        """Return the bytes of the whole file."""
        return b"".join([b"\xff\xd8", *(segment.packed() for segment in self.head), self.body, self.rest])

    def bare(self) -> bytes:
        """Return a file of the pixels alone: only what tells a decoder how to read colours stands beside them."""
        kept = [each for each in self.head if each.marker >> 4 != 0xE or each.marker in (APP0, APP14)]
        kept = [each for each in kept if each.marker != COM]
        return Jpeg(tuple(kept), self.body, b"").packed()


def _tables(body: bytes) -> Iterator[int]:
    """Yield where each Huffman table of a DHT begins."""
    place = 0
    while place + 17 <= len(body):
        yield place
        place += 17 + sum(body[place + 1 : place + 17])


def read_frame(segments: tuple[Segment, ...]) -> Frame:
    """Return the frame header among the segments.

    Raises:
        ValueError: there is none, or it is damaged.
    """
    for marker, body in segments:
        if marker in (*_FRAMES, 0xF7):
            try:
                bits, height, width, count = struct.unpack_from(">BHHB", body)
                parts = [struct.unpack_from("BBB", body, 6 + 3 * number) for number in range(count)]
            except struct.error as error:
                raise ValueError("its frame header is cut") from error
            components = tuple(Component(name, both >> 4, both & 15, table) for name, both, table in parts)
            if not components or any(not 1 <= factor <= 4 for each in components for factor in each[1:3]):
                raise ValueError("its frame header is damaged")
            return Frame(0x37 if marker == 0xF7 else marker & 15, bits, width, height, components)
    raise ValueError("it has no frame header")


def read_head(data: bytes) -> tuple[tuple[Segment, ...], int]:
    """Return the segments in front of the first scan, and where that begins.

    Raises:
        ValueError: the file is cut or damaged in front of it.
    """
    segments: list[Segment] = []
    place = 2
    while True:
        place = _next_marker(data, place)
        if place + 4 > len(data):
            raise ValueError("its segments are cut")
        marker = data[place + 1]
        if marker == SOS:
            return tuple(segments), place
        if marker in (0x01, SOI, EOI):
            raise ValueError("its segments are damaged")
        (length,) = struct.unpack_from(">H", data, place + 2)
        if length < 2 or place + 2 + length > len(data):
            raise ValueError("a segment reaches beyond the end")
        segments.append(Segment(marker, data[place + 4 : place + 2 + length]))
        place += 2 + length


def _next_marker(data: bytes, place: int) -> int:
    """Return where the next marker stands, passing over fill bytes and stray ones, as decoders do.

    Raises:
        ValueError: there is none.
    """
    found = _MARKER.search(data, place)
    if found is None:
        raise ValueError("it ends in front of its end marker")
    return found.end() - 2


def split(data: bytes) -> Jpeg:
    """Take a JPEG file apart.

    Raises:
        ValueError: the file is cut or damaged.
    """
    head, start = read_head(data)
    end = max([end for *_, end in scans(data, start)], default=start)
    while data[end + 1] != EOI:  # tables behind the last scan
        end = _next_marker(data, end + 2 + struct.unpack_from(">H", data, end + 2)[0])
    return Jpeg(head, data[start : end + 2], data[end + 2 :])


def scans(data: bytes, start: int) -> Iterator[tuple[bytes, int, int]]:
    """Yield of every scan its header, where its coded data begin, and where they end, from `start` on.

    Raises:
        ValueError: the file is cut or damaged.
    """
    place = start
    while True:
        place = _next_marker(data, place)
        if data[place + 1] == EOI:
            return
        if place + 4 > len(data):
            raise ValueError("it is cut between two scans")
        (length,) = struct.unpack_from(">H", data, place + 2)
        begin = place + 2 + length
        if data[place + 1] == SOS:
            header, place = data[place + 4 : begin], _next_marker(data, begin)
            yield header, begin, place
        else:
            place = begin


def count_restarts(data: bytes) -> int:
    """Return how many restart markers stand in a scan's coded data."""
    return len(_RESTART.findall(data))
