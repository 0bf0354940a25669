"""What stands beside the pixels of a JPEG: taken out of its segments, and put back in the same order."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Sequence

from .beside import Beside, Density
from .jpeg import (
    APP0,
    APP1,
    APP2,
    APP11,
    APP13,
    APP14,
    COM,
    EXIF,
    ICC,
    JFIF,
    JFXX,
    LARGEST_BODY,
    MORE_XMP,
    MPF,
    RESOURCES,
    XMP,
    Segment,
)

_UNITS = {0: "", 1: "inch", 2: "cm"}
_PREVIEWS = (1033, 1036)
"""Photoshop's image resources that hold a small copy of the picture."""


def read_beside(head: Sequence[Segment], orientation: int) -> tuple[Beside, list[str]]:
    """Return what the segments say beside pixels, profile and EXIF, and notes of what is not kept."""
    packet = next((body[len(XMP) :] for marker, body in head if marker == APP1 and body.startswith(XMP)), None)
    resources = [body[len(RESOURCES) :] for marker, body in head if marker == APP13 and body.startswith(RESOURCES)]
    density = None
    notes = []
    for marker, body in head:
        if marker == APP0 and body.startswith(JFIF) and len(body) >= 12:
            unit, across, down = struct.unpack_from(">BHH", body, 7)
            density = Density(across, down, _UNITS.get(unit, ""))
        elif marker == APP11 and b"jumb" in body[:64] and b"c2pa" in body[:256]:
            notes = ["content credentials (C2PA) vouch for the picture as it was, and are not kept"]
    kept, previews = without_previews(b"".join(resources)) if resources else (None, False)
    if previews:
        notes.append("a preview among Photoshop's data shows the picture as it was, and is not kept")
    return Beside(
        xmp=packet,
        extended_xmp=_extended(head),
        orientation=orientation,
        resources=kept or None,
        comments=tuple(body for marker, body in head if marker == COM),
        density=density,
    ), notes


def _extended(head: Sequence[Segment]) -> bytes | None:
    """Join the parts of extended XMP, each of which says where it belongs; None where one is missing.

    Returns:
        The 32 letters that the packet calls it by, then the text.
    """
    start = len(MORE_XMP)
    bodies = [body[start:] for marker, body in head if marker == APP1 and body.startswith(MORE_XMP)]
    parts = sorted((struct.unpack_from(">II", body, 32), body) for body in bodies if len(body) >= 40)
    whole = b"".join(body[40:] for _, body in parts)
    return parts[0][1][:32] + whole if parts and len(whole) == parts[0][0][0] else None


def without_previews(resources: bytes) -> tuple[bytes, bool]:
    """Return Photoshop's image resources without small copies of the picture, and whether there was one.

    What cannot be taken apart is returned as it is.
    """
    kept, place, found = [], 0, False
    while place + 12 <= len(resources):
        (number,) = struct.unpack_from(">H", resources, place + 4)
        name = resources[place + 6] + 1
        size_at = place + 6 + name + name % 2
        if resources[place : place + 4] not in (b"8BIM", b"8B64", b"MeSa", b"PHUT", b"AgHg", b"DCSR"):
            break
        if size_at + 4 > len(resources):
            break
        (size,) = struct.unpack_from(">I", resources, size_at)
        end = size_at + 4 + size + size % 2
        if number in _PREVIEWS:
            found = True
        else:
            kept.append(resources[place:end])
        place = end
    return b"".join([*kept, resources[place:]]), found


def put_beside(
    encoded: Sequence[Segment],
    beside: Beside,
    *,
    icc: bytes | None,
    exif: bytes | None,
    stored: Sequence[Segment] = (),
    packet: Callable[[bytes], bytes] = bytes,
) -> tuple[Segment, ...]:
    """Return the segments of a new JPEG's head.

    Args:
        encoded: segments as the encoder wrote them.
        beside: what stands beside the pixels.
        icc: colour profile.
        exif: EXIF block from its TIFF header on.
        stored: segments of the JPEG that the picture was read from. What has its place there keeps it, and the own
            segments of applications stay byte for byte; they speak of the picture in its stored orientation.
        packet: what to do to the XMP packet before it is put in.
    """
    groups: dict[str, list[Segment]] = {
        "exif": [Segment(APP1, EXIF + exif)] if exif else [],
        "xmp": [Segment(APP1, XMP + packet(beside.xmp))] if beside.xmp else [],
        "more": list(_pack_extended(beside.extended_xmp)),
        "resources": list(_in_parts(APP13, RESOURCES, beside.resources)),
        "icc": list(_pack_icc(icc)),
        "comment": [Segment(COM, comment) for comment in beside.comments],
    }
    head: list[Segment] = []
    kept_names = {_name(segment) for segment in stored}
    if not stored or "jfif" in kept_names:
        head.append(Segment(APP0, _jfif(stored, beside.density)))
    adobe = next((each for each in stored if each.marker == APP14 and each.body[11:12] == b"\1"), None)
    late = [segment for segment in encoded if segment.marker != APP0]
    if adobe and sum(segment.marker == APP14 for segment in late) == 0 and len(_frame_body(encoded)) > 9:
        late.insert(0, adobe)
    for segment in stored:
        name = _name(segment)
        if name in groups:
            # Each group stands where its first segment stood.
            head += groups.pop(name)
        elif name == "own":
            head.append(segment)
    for group in groups.values():
        head += group
    return (*head, *late)


def _frame_body(segments: Iterable[Segment]) -> bytes:
    return next(body for marker, body in segments if marker in (0xC0, 0xC1, 0xC2, 0xC9, 0xCA))


def _name(segment: Segment) -> str:
    """Tell whose segment it is: 'own' is an application's that is carried as it is, '' one that is written anew."""
    marker, body = segment
    starts = {APP1: ((EXIF, "exif"), (XMP, "xmp"), (MORE_XMP, "more")), APP2: ((ICC, "icc"),)}
    starts |= {APP13: ((RESOURCES, "resources"),), APP0: ((JFIF, "jfif"), (JFXX, ""))}
    for start, name in starts.get(marker, ()):
        if body.startswith(start):
            return name
    if marker == COM:
        return "comment"
    if marker == APP14 or (marker == APP11 and b"jumb" in body[:64]):
        return ""
    return "own" if marker >> 4 == 0xE else ""


def _jfif(stored: Sequence[Segment], density: Density | None) -> bytes:
    """Return JFIF's segment without its small copy of the picture."""
    old = next((body for marker, body in stored if marker == APP0 and body.startswith(JFIF)), JFIF + b"\1\1")
    if density and density.unit == "metre":
        density = density.per("inch")
    across, down, unit = density or Density(1, 1, "")
    code = next(code for code, name in _UNITS.items() if name == unit)
    return old[:7] + struct.pack(">BHHBB", code, min(across, 65_535), min(down, 65_535), 0, 0)


def _in_parts(marker: int, start: bytes, body: bytes | None) -> Iterable[Segment]:
    room = LARGEST_BODY - len(start)
    for place in range(0, len(body or b""), room):
        yield Segment(marker, start + (body or b"")[place : place + room])


def _pack_icc(icc: bytes | None) -> Iterable[Segment]:
    room = LARGEST_BODY - len(ICC) - 2
    parts = [icc[place : place + room] for place in range(0, len(icc), room)] if icc else []
    for number, part in enumerate(parts, 1):
        yield Segment(APP2, ICC + bytes([number, len(parts)]) + part)


def _pack_extended(extended: bytes | None) -> Iterable[Segment]:
    """Part extended XMP, whose first 32 bytes are the name that the packet calls it by."""
    if extended:
        name, body = extended[:32], extended[32:]
        room = 65_400
        for place in range(0, len(body), room):
            yield Segment(APP1, MORE_XMP + name + struct.pack(">II", len(body), place) + body[place : place + room])


def own_segments(head: Sequence[Segment]) -> str:
    """Return the names of segments that belong to an application and speak to nobody else, such as 'APP4 and APP12'."""
    names = sorted({segment.marker & 15 for segment in head if _name(segment) == "own" and segment.body[:4] != MPF})
    return " and ".join(f"APP{number}" for number in names)
