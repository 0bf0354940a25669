"""Write the shape of pixels into a Matroska file, where PyAV cannot tell the muxer of it.

The muxer takes the shape from a field that PyAV has no name for, and Matroska's default is square. It is written into
the finished header instead: a name for the track that is too long holds room for it, and nothing moves.

Source:
    RFC 9559, Matroska: Tracks, TrackEntry, Video, DisplayWidth, DisplayHeight, DisplayUnit.
    RFC 8794, EBML: Void, CRC-32.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import BinaryIO

_SEGMENT, _TRACKS, _ENTRY, _NAME, _VIDEO = 0x18538067, 0x1654AE6B, 0xAE, 0x536E, 0xE0
_WIDTH, _HEIGHT, _UNIT, _VOID, _CRC = 0x54B0, 0x54BA, 0x54B2, 0xEC, 0xBF
_BY_RATIO = 3
"""Of DisplayUnit: width and height are no pixels, but their ratio. WebM has pixels alone."""
_HEAD = 4 << 20
"""Bytes of a file that are searched for its tracks, which come before the pictures."""

ROOM = " " * 40
"""To be appended to the title of the track."""


def set_shape(file: BinaryIO, path: Path, track: int, size: tuple[int, int], aspect: Fraction, webm: bool) -> bool:
    """Say in a finished file how wide a pixel is.

    Args:
        file: the file, open for writing and flushed.
        path: its name for now.
        track: place of the track among all, whose title ends in ROOM.
        size: width and height in pixels.
        aspect: width of a pixel over its height.
        webm: write pixels, rounded.

    Returns:
        Whether the track and the room were found. Nothing is written otherwise.
    """
    with path.open("rb") as opened:
        data = opened.read(_HEAD)
    begin, end = 0, len(data)
    for wanted in (_SEGMENT, _TRACKS):
        found = next(((body, over) for kind, _, body, over in _elements(data, begin, end) if kind == wanted), None)
        if found is None:
            return False
        begin, end = found
    entries = [(body, over) for kind, _, body, over in _elements(data, begin, end) if kind == _ENTRY]
    if track >= len(entries):
        return False
    first, last = entries[track]
    entry = _with_shape(data, first, last, _shape(size, aspect, webm))
    if entry is None:
        return False
    tracks = data[begin:first] + entry + data[last:end]
    kind, _, body, over = next(_elements(tracks, 0, len(tracks)))
    if kind == _CRC:
        tracks = tracks[:body] + zlib.crc32(tracks[over:]).to_bytes(4, "little") + tracks[over:]
    file.seek(begin)
    file.write(tracks)
    return True


def _shape(size: tuple[int, int], aspect: Fraction, webm: bool) -> bytes:
    width, height = size
    if webm:
        return _element(_WIDTH, _integer(round(width * aspect))) + _element(_HEIGHT, _integer(height))
    ratio = Fraction(width, height) * aspect
    sides = _element(_WIDTH, _integer(ratio.numerator)) + _element(_HEIGHT, _integer(ratio.denominator))
    return sides + _element(_UNIT, _integer(_BY_RATIO))


def _with_shape(data: bytes, first: int, last: int, shape: bytes) -> bytes | None:
    """Return a track's entry of the same length with the shape in it and the room out of its name."""
    made, seen = b"", set()
    for kind, start, body, over in _elements(data, first, last):
        part = data[start:over]
        if kind == _NAME:
            name = data[body:over].decode("utf-8", "replace").removesuffix(ROOM)
            part = _element(_NAME, name.encode()) if name else b""
        elif kind == _VIDEO:
            part = _element(_VIDEO, data[body:over] + shape)
        made += part
        seen.add(kind)
    room = last - first - len(made)
    if not {_NAME, _VIDEO} <= seen or room < 2 or room > 120:
        return None
    return made + _element(_VOID, bytes(room - 2))


def _elements(data: bytes, start: int, end: int) -> Iterator[tuple[int, int, int, int]]:
    """Yield kind, start, start of the body and end of the elements of a level, as far as they are there."""
    while start < end:
        kind, after = _number(data, start, keep_mark=True)
        size, body = _number(data, after, keep_mark=False)
        if not after or not body:
            return
        unknown = size == (1 << 7 * (body - after)) - 1
        over = end if unknown else min(body + size, end)
        yield kind, start, body, over
        start = over


def _number(data: bytes, at: int, *, keep_mark: bool) -> tuple[int, int]:
    """Return a number of variable length and what follows it; 0 and 0 where there is none."""
    if at >= len(data) or not data[at]:
        return 0, 0
    length = 9 - data[at].bit_length()
    value = int.from_bytes(data[at : at + length], "big")
    return value if keep_mark else value & ((1 << 7 * length) - 1), at + length


def _element(kind: int, body: bytes) -> bytes:
    length = next(length for length in range(1, 9) if len(body) < (1 << 7 * length) - 1)
    size = (len(body) | 1 << 7 * length).to_bytes(length, "big")
    return _integer(kind) + size + body


def _integer(value: int) -> bytes:
    return value.to_bytes(max(1, (value.bit_length() + 7) // 8), "big")
