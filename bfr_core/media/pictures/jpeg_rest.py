"""What stands behind the end of a JPEG: gain maps of HDR pictures, second pictures, previews, films of motion photos.

Places are told by CIPA DC-007 (the index of a Multi-Picture file: offsets and sizes) and by Google's container
directory in XMP (lengths). A gain map says by how much each place is brighter in HDR (Ultra HDR, ISO 21496-1, Apple's
HDR gain map); its own parameters are in its own segments, which stay byte for byte.
"""

from __future__ import annotations

import io
import re
import struct
from collections.abc import Sequence
from dataclasses import dataclass, replace

import cv2
import numpy as np
from PIL import Image

from .jpeg import APP1, APP2, APP14, COM, MPF, XMP, Jpeg, Segment, split
from .jpeg_write import follow

_GAIN_MAPS = (b"http://ns.adobe.com/hdr-gain-map/1.0/", b"HDRGainMap", b"urn:iso:std:iso:ts:21496:-1\0")
_DIRECTORY = b"http://ns.google.com/photos/1.0/container/item/"
_ENTRIES = 0xB002
_PREVIEW = 1
"""The class of previews among the kinds of the index: the upper of three bytes."""


@dataclass(frozen=True, slots=True)
class Part:
    """One thing behind the picture."""

    start: int
    """Where it stands in the file."""
    data: bytes
    jpeg: Jpeg | None = None
    """Taken apart, where it is a JPEG."""
    preview: bool = False
    """A smaller copy of the picture."""

    @property
    def end(self) -> int:
        """Where it ends in the file."""
        return self.start + len(self.data)

    @property
    def gain_map(self) -> bool:
        """Whether it is the gain map of an HDR picture."""
        return self.jpeg is not None and any(
            name in body for _, body in self.jpeg.head for name in _GAIN_MAPS if len(body) > len(name)
        )

    def __str__(self) -> str:
        if self.gain_map:
            return "the gain map, which makes the picture HDR"
        if self.jpeg:
            frame = self.jpeg.frame
            what = "a preview" if self.preview else "a second picture"
            return f"{what} of {frame.width} x {frame.height} pixels behind the first"
        if self.data[4:8] == b"ftyp":
            return "the film of a motion photo"
        return f"{len(self.data)} bytes behind the picture"


def parts(jpeg: Jpeg) -> list[Part]:
    """Return what stands behind the picture, as far as it is known; filling zeros are no part."""
    place = start = len(jpeg.packed()) - len(jpeg.rest)
    kinds = {entry.offset: entry.kind for entry in _read_index(jpeg.head)[1]}
    found: list[Part] = []
    rest = jpeg.rest
    while place - start < len(rest):
        here = rest[place - start :]
        zeros = len(here) - len(here.lstrip(b"\0"))
        # A film begins with the three zeros of its first box's length.
        if zeros and here[zeros : zeros + 3] == b"\xff\xd8\xff":
            place += zeros
            continue
        if not here[zeros:]:
            break
        try:
            inner = split(here) if here.startswith(b"\xff\xd8\xff") else None
            size = len(here) - len(inner.rest) if inner else len(here)
            shown = inner and replace(inner, rest=b"")
            preview = bool(inner and inner.frame and kinds.get(place, 0) >> 16 & 0xFF == _PREVIEW)
        except ValueError:
            size, shown, preview = len(here), None, False
        found.append(Part(place, here[:size], shown, preview))
        place += size
    return found


def carry(new: Jpeg, stored: Jpeg, pixels: np.ndarray) -> Jpeg:
    """Put what stood behind `stored` behind `new`, true of its pixels, and make the index and the directory true.

    Where nothing changed a gain map stays as it is. Where the picture changed, the gain keeps its low frequencies and
    follows the edges that are there now. Previews change as the picture did. All else is carried as it is.

    Args:
        new: the new picture, with the segments of `stored`.
        stored: the file it was made from.
        pixels: (H, W, 1 or 3) uint8 of the new picture, in the orientation of `stored`.

    """
    if not stored.rest:
        return new
    change = _change(stored, pixels)
    replaced: list[tuple[Part, bytes]] = []
    for part in parts(stored):
        data = part.data
        if change is not None and change.any() and part.jpeg and (part.gain_map or part.preview):
            data = _following(part, part.jpeg, pixels, change)
        replaced.append((part, data))
    head = _with_lengths(new.head, [(len(part.data), len(data)) for part, data in replaced if part.jpeg])
    first = len(Jpeg(head, new.body, b"").packed())
    old_first = len(stored.packed()) - len(stored.rest)
    places = {0: (0, first - old_first)}
    rest, place = [], old_first
    for part, data in replaced:
        rest.append(stored.rest[place - old_first : part.start - old_first])
        places[part.start] = (first + sum(map(len, rest)), len(data) - len(part.data))
        rest.append(data)
        place = part.end
    rest.append(stored.rest[place - old_first :])
    return Jpeg(_with_index(head, stored.head, places), new.body, b"".join(rest))


def _following(part: Part, jpeg: Jpeg, pixels: np.ndarray, change: np.ndarray) -> bytes:
    """Return a gain map or preview as it is after the picture's change; a damaged one as it is."""
    try:
        return _gain(jpeg, pixels, change) if part.gain_map else _preview(jpeg, change)
    except Exception:
        # Decoders have no error class of their own; the picture in front is whole and has to be written.
        return part.data


def _change(stored: Jpeg, pixels: np.ndarray) -> np.ndarray | None:
    """Return (H, W, 3) float32, new less old; None where the size is another, so that no place is the same."""
    with Image.open(io.BytesIO(stored.bare()), formats=["jpeg"]) as image:
        old = np.asarray(image.convert("RGB"), np.float32)
    if old.shape[:2] != pixels.shape[:2]:
        return None
    return pixels.astype(np.float32) - old


def _decoded(jpeg: Jpeg) -> np.ndarray:
    with Image.open(io.BytesIO(jpeg.bare()), formats=["jpeg"]) as image:
        pixels = np.array(image if image.mode == "L" else image.convert("RGB"))
    return pixels[..., None] if pixels.ndim == 2 else pixels


def _recoded(jpeg: Jpeg, pixels: np.ndarray) -> bytes:
    """Encode as the part was coded, with its own segments."""
    encoded = split(follow(jpeg.packed(), pixels))
    own = [segment for segment in jpeg.head if segment.marker >> 4 == 0xE or segment.marker == COM]
    marked = any(segment.marker == APP14 for segment in own)
    coded = [each for each in encoded.head if each.marker >> 4 != 0xE or (each.marker == APP14 and not marked)]
    return Jpeg((*own, *coded), encoded.body, b"").packed()


def _gain(jpeg: Jpeg, pixels: np.ndarray, change: np.ndarray) -> bytes:
    """Return the gain map with the gain of changed places smoothed along the edges of the new picture.

    By the guided filter of He, Sun and Tang (ECCV 2010, Eq. 5 and 6), with the new picture as the guide.
    """
    old = _decoded(jpeg)
    size = old.shape[1::-1]
    luma = cv2.resize(pixels.astype(np.float32).mean(2), size, interpolation=cv2.INTER_AREA)
    where = cv2.resize((change != 0).any(2).astype(np.float32), size, interpolation=cv2.INTER_AREA)
    radius = max(1, round(float(where.sum()) ** 0.5 / 16))
    box = (2 * radius + 1, 2 * radius + 1)
    mean, spread = cv2.blur(luma, box), cv2.blur(luma * luma, box)
    new = old.copy()
    for number in range(old.shape[2]):
        gain = old[..., number].astype(np.float32)
        gain_mean = cv2.blur(gain, box)
        slope = (cv2.blur(luma * gain, box) - mean * gain_mean) / (spread - mean * mean + 16.0**2)
        offset = gain_mean - slope * mean
        smooth = cv2.blur(slope, box) * luma + cv2.blur(offset, box)
        np.copyto(
            new[..., number],
            np.rint(gain + where * (smooth - gain)).clip(0, 255).astype(np.uint8),
            where=where > 0,
        )
    return _recoded(jpeg, new)


def _preview(jpeg: Jpeg, change: np.ndarray) -> bytes:
    """Return a preview that changed as the picture did; one of another shape, with bars, stays as it is."""
    old = _decoded(jpeg)
    height, width = old.shape[:2]
    if abs(width * change.shape[0] - height * change.shape[1]) > 2 * max(change.shape[:2]):
        return jpeg.packed()
    step = cv2.resize(change, (width, height), interpolation=cv2.INTER_AREA)
    step = step.mean(2, keepdims=True) if old.shape[2] == 1 else step
    return _recoded(jpeg, np.rint(old + step).clip(0, 255).astype(np.uint8))


@dataclass(frozen=True, slots=True)
class _Entry:
    """One picture in the index."""

    place: int
    """Where the entry stands in the segment's body."""
    kind: int
    size: int
    offset: int
    """Where the picture begins in the file; 0 is the first."""


def _read_index(head: Sequence[Segment]) -> tuple[int, list[_Entry]]:
    """Return the number of the index's segment and its entries; none where there is no index, or it is damaged."""
    place = 2
    for number, segment in enumerate(head):
        if segment.marker == APP2 and segment.body.startswith(MPF):
            try:
                return number, _entries(segment.body, place + 4 + len(MPF))
            except struct.error:
                break
        place += len(segment.body) + 4
    return -1, []


def _entries(body: bytes, base: int) -> list[_Entry]:
    start = len(MPF)
    endian = "<" if body[start : start + 2] == b"II" else ">"
    (first,) = struct.unpack_from(f"{endian}I", body, start + 4)
    (count,) = struct.unpack_from(f"{endian}H", body, start + first)
    for number in range(count):
        tag, _, size, value = struct.unpack_from(f"{endian}HHII", body, start + first + 2 + 12 * number)
        if tag == _ENTRIES:
            places = range(start + value, start + value + size, 16)
            read = [(place, *struct.unpack_from(f"{endian}III", body, place)) for place in places]
            return [_Entry(place, kind, size, offset and base + offset) for place, kind, size, offset in read]
    return []


def _with_index(
    head: tuple[Segment, ...], stored: Sequence[Segment], places: dict[int, tuple[int, int]]
) -> tuple[Segment, ...]:
    """Make the index true.

    Args:
        head: segments of the new file, with the index of the old.
        stored: segments of the old file.
        places: by where a picture began, where it begins now and how many bytes it has grown.
    """
    _, entries = _read_index(stored)
    number, _ = _read_index(head)
    if number < 0:
        return head
    body = bytearray(head[number].body)
    endian = "<" if body[len(MPF) : len(MPF) + 2] == b"II" else ">"
    base = 2 + sum(len(segment.body) + 4 for segment in head[:number]) + 4 + len(MPF)
    shift = places[0][1]
    for entry in entries:
        start, grown = places.get(entry.offset, (entry.offset + shift, 0))
        struct.pack_into(f"{endian}II", body, entry.place + 4, entry.size + grown, start and start - base)
    return (*head[:number], Segment(APP2, bytes(body)), *head[number + 1 :])


def _with_lengths(head: tuple[Segment, ...], lengths: Sequence[tuple[int, int]]) -> tuple[Segment, ...]:
    """Make the lengths in the container directory true: old and new ones, in the order of the file."""
    waiting = [pair for pair in lengths if pair[0] != pair[1]]

    def length(found: re.Match[bytes]) -> bytes:
        for pair in waiting:
            if int(found[2]) == pair[0]:
                waiting.remove(pair)
                return found[1] + str(pair[1]).encode() + found[3]
        return found[0]

    def packet(body: bytes) -> bytes:
        named = re.search(rb"xmlns:(\w+)\s*=\s*[\"']" + re.escape(_DIRECTORY), body)
        if named is None:
            return body
        return re.sub(rb"(\b" + named[1] + rb":Length\s*(?:=\s*[\"']|>\s*))(\d+)(\s*[\"'<])", length, body)

    return tuple(
        Segment(marker, packet(body)) if marker == APP1 and body.startswith(XMP) else Segment(marker, body)
        for marker, body in head
    )
