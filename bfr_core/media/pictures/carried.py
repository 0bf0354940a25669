"""What a format has no place for, in words."""

from __future__ import annotations

import struct
from collections.abc import Collection

from .jpeg import Jpeg, split
from .jpeg_beside import own_segments
from .jpeg_rest import parts
from .jpeg_write import is_usual
from .picture import Picture
from .sniff import picture_kind

_BARE = ("gif", "bmp", "ppm", "jpeg2000")
"""Kinds that are written without EXIF and XMP."""
_SRGB_GAMMA = 0.45455


def lost(picture: Picture, kind: str, told: Collection[str] = ()) -> tuple[str, ...]:
    """Return what `picture` holds that is not in a file of `kind`.

    Args:
        picture: what was written.
        kind: name of the format.
        told: keys of texts that stand in the EXIF block.
    """
    beside, name = picture.beside, picture_kind(kind).title
    things: list[str] = []
    if kind in _BARE and picture.exif:
        things.append("the EXIF block")
    if kind in _BARE and beside.xmp:
        things.append("XMP")
    if beside.extended_xmp and kind != "jpeg":
        things.append("extended XMP")
    if beside.resources and kind not in ("jpeg", "tiff"):
        things.append("IPTC and Photoshop's data")
    if beside.iptc and kind != "tiff":
        things.append("IPTC")
    if beside.comments and kind not in ("jpeg", "png"):
        things.append("a comment")
    if kind != "png":
        keys = dict.fromkeys(body.split(b"\0")[0].decode("latin-1") for _, body in beside.texts)
        if untold := [key for key in keys if key not in told]:
            things.append(f"text ({', '.join(untold)})")
        things += _lost_chunks(picture)
    if kind not in ("jpeg", "png", "tiff") and beside.density and beside.density.unit and not picture.exif:
        things.append("how many pixels an inch has")
    notes = [f"{thing} is not kept: {name} has no place for it" for thing in things]
    if picture.coding.jpeg:
        notes += _behind(split(picture.coding.jpeg), kind, name)
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


def _behind(jpeg: Jpeg, kind: str, name: str) -> list[str]:
    """Say what becomes of a JPEG's own segments and of what stands behind it."""
    if kind == "jpeg":
        others = [part for part in parts(jpeg) if part.jpeg and not part.gain_map and not part.preview]
        films = [part for part in parts(jpeg) if not part.jpeg and part.data[4:8] == b"ftyp"]
        notes = [f"{part} is carried as it was: faces in it are not restored" for part in (*others, *films)]
        if jpeg.frame.process >= 9:
            notes.append("arithmetic coding, which few programs read, becomes Huffman coding")
        if len(jpeg.frame.components) == 3 and not is_usual(jpeg.frame):
            notes.append("the sampling of its colours is rare and becomes a finer one; colours are compressed anew")
        return notes
    notes = [f"{part} is not kept: {name} has no place for it" for part in parts(jpeg)]
    if own := own_segments(jpeg.head):
        notes.append(f"{own} of the JPEG's maker or program are not kept: {name} has no place for them")
    return notes
