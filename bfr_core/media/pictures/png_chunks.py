"""The chunks of a PNG that stand beside its pixels. After the PNG specification, third edition."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator, Sequence

from .beside import Beside, Chunk, Density

XMP_KEY = b"XML:com.adobe.xmp"
_SIGNATURE = 8
_TEXTS = (b"tEXt", b"zTXt", b"iTXt")
_COLOUR = (b"cICP", b"mDCV", b"cLLI", b"gAMA", b"cHRM", b"sRGB")
_PLACE = (b"oFFs", b"pCAL", b"sCAL", b"sTER")
_WRITTEN_ANEW = (b"IHDR", b"PLTE", b"IDAT", b"IEND", b"tRNS", b"iCCP", b"eXIf", b"pHYs", b"acTL", b"fcTL", b"fdAT")
_NAMES = {
    b"tIME": "the time of the last change",
    b"sBIT": "how many bits were significant",
    b"bKGD": "a background colour",
    b"hIST": "a histogram",
    b"sPLT": "a suggested palette",
    b"caBX": "content credentials (C2PA), which vouch for the picture as it was",
}
_RAW_PROFILES = (b"Raw profile type exif", b"Raw profile type APP1", b"Raw profile type icc")


def chunks(data: bytes) -> Iterator[Chunk]:
    """Yield the chunks of a PNG, as far as they are whole."""
    place = _SIGNATURE
    while place + 12 <= len(data):
        (size,) = struct.unpack_from(">I", data, place)
        if place + 12 + size > len(data):
            return
        yield Chunk(data[place + 4 : place + 8], data[place + 8 : place + 8 + size])
        place += 12 + size


def read_beside(data: bytes, orientation: int) -> tuple[Beside, list[str]]:
    """Return what the chunks say beside pixels, profile and EXIF, and notes of what is not kept."""
    packet, density = None, None
    texts: list[Chunk] = []
    kept: list[Chunk] = []
    notes: list[str] = []
    for chunk in chunks(data):
        name, body = chunk
        if name in _TEXTS and body.startswith(XMP_KEY + b"\0") and name == b"iTXt":
            packet = _packet(body) or packet
        elif name in _TEXTS:
            if not body.startswith(_RAW_PROFILES):
                texts.append(chunk)
        elif name == b"pHYs" and len(body) == 9:
            across, down, unit = struct.unpack(">IIB", body)
            density = Density(across, down, "metre" if unit == 1 else "")
        elif name in (*_COLOUR, *_PLACE):
            kept.append(chunk)
        elif name in _NAMES:
            ending = " are" if name == b"caBX" else f" ({name.decode()}) is"
            notes.append(f"{_NAMES[name]}{ending} not kept")
        elif name not in _WRITTEN_ANEW:
            # A chunk whose fourth letter is small may be copied by who does not know it.
            if name[3:4].islower():
                kept.append(chunk)
            else:
                notes.append(f"the chunk {name.decode('latin-1')}, which depends on the pixels, is not kept")
    beside = Beside(xmp=packet, orientation=orientation, texts=tuple(texts), chunks=tuple(kept), density=density)
    return beside, notes


def _packet(body: bytes) -> bytes | None:
    """Return the XMP packet of an iTXt chunk; None where it is damaged."""
    try:
        packed, _, rest = body[len(XMP_KEY) + 1], body[len(XMP_KEY) + 2], body[len(XMP_KEY) + 3 :]
        text = rest.split(b"\0", 2)[2]
        return zlib.decompress(text) if packed else text
    except (IndexError, zlib.error):
        return None


def packed(name: bytes, body: bytes) -> bytes:
    """Return a chunk as it stands in a file."""
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))


def put_beside(
    png: bytes,
    beside: Beside,
    *,
    icc: bytes | None,
    exif: bytes | None,
    packet: bytes | None,
    comments: Sequence[Chunk],
) -> bytes:
    """Put what stands beside the pixels into an encoded PNG, right behind its header.

    Args:
        png: the encoder's file.
        beside: what stands beside the pixels.
        icc: colour profile.
        exif: EXIF block from its TIFF header on.
        packet: the XMP packet of the picture as it is written.
        comments: text chunks besides those of `beside`.
    """
    after_header = 33
    extra = [packed(*chunk) for chunk in beside.chunks]
    if icc:
        extra.insert(0, packed(b"iCCP", b"ICC Profile\0\0" + zlib.compress(icc)))
    if density := beside.density:
        metre = density.per("metre")
        across, down, _ = metre or density
        if metre or across != down:
            extra.append(packed(b"pHYs", struct.pack(">IIB", across, down, 1 if metre else 0)))
    if exif:
        extra.append(packed(b"eXIf", exif))
    if packet:
        extra.append(packed(b"iTXt", XMP_KEY + b"\0\0\0\0\0" + packet))
    extra += [packed(*chunk) for chunk in (*beside.texts, *comments)]
    return png[:after_header] + b"".join(extra) + png[after_header:]
