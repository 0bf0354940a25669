"""What a format has no place for, in words."""

from __future__ import annotations

import struct

from .jpeg import split
from .jpeg_beside import own_segments
from .picture import Picture

_NAMES = {"jpeg": "JPEG", "png": "PNG", "webp": "WebP", "tiff": "TIFF"}
_SRGB_GAMMA = 0.45455


def lost(picture: Picture, kind: str) -> tuple[str, ...]:
    """Return what `picture` holds that is not in a file of `kind`."""
    beside, name = picture.beside, _NAMES[kind]
    things: list[str] = []
    if beside.extended_xmp and kind != "jpeg":
        things.append("extended XMP")
    if beside.resources and kind in ("png", "webp"):
        things.append("IPTC and Photoshop's data")
    if beside.iptc and kind != "tiff":
        things.append("IPTC")
    if beside.comments and kind in ("webp", "tiff"):
        things.append("a comment")
    if kind != "png":
        if beside.texts:
            keys = [body.split(b"\0")[0].decode("latin-1") for _, body in beside.texts]
            things.append(f"text ({', '.join(dict.fromkeys(keys))})")
        things += _lost_chunks(picture)
    if kind == "webp" and beside.density and beside.density.unit:
        things.append("the resolution in front of the picture")
    notes = [f"{thing} is not kept: {name} has no place for it" for thing in things]
    if picture.coding.jpeg and kind != "jpeg":
        jpeg = split(picture.coding.jpeg)
        if own := own_segments(jpeg.head):
            notes.append(f"{own} of the JPEG's maker or program are not kept: {name} has no place for them")
        if jpeg.rest.strip(b"\0"):
            notes.append(
                f"what stands behind the picture ({len(jpeg.rest)} bytes) is not kept: {name} has no place for it"
            )
    return tuple(notes)


def _lost_chunks(picture: Picture) -> list[str]:
    things = []
    for name, body in picture.beside.chunks:
        if name == b"gAMA" and len(body) == 4:
            gamma = struct.unpack(">I", body)[0] / 100_000
            if not picture.icc and abs(gamma - _SRGB_GAMMA) > 0.005:
                things.append(f"a gamma of {gamma:.4g} (sRGB is assumed)")
        elif name == b"cICP":
            things.append(f"what the colours mean (cICP {body.hex(' ')})")
        elif name not in (b"sRGB", b"cHRM"):
            things.append(f"the chunk {name.decode('latin-1')}")
    return things
