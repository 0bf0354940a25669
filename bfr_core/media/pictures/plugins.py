"""The younger formats, AVIF, HEIC and JPEG XL: what their headers say, and what reads and writes them.

All three turn a picture in the container or in the coded stream, and say that this goes before the orientation of EXIF.
Decoders apply it, each in its own way; here a picture is turned once.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageCms

from .. import metadata
from . import xmp
from .beside import Beside
from .picture import Picture
from .refuse import require_size, unreadable

_TRANSFERS = {16: "PQ", 18: "HLG"}
_SRGB = {1, 2}
"""Codes of primaries that are those of sRGB, or said nowhere."""
_IN_BOXES = {b"meta": 4, b"iprp": 0, b"ipco": 0, b"moov": 0, b"trak": 0, b"mdia": 0, b"minf": 0, b"stbl": 0}
"""Boxes that hold boxes, and how many bytes stand before those."""


def prepare(kind: str) -> None:
    """Make Pillow know a format whose plugin is a package of its own."""
    if kind == "jxl":
        import pillow_jxl

        # The package leaves the plugin to Pillow's search, which is over once another file was opened.

        del pillow_jxl


# ISO files


def _boxes(data: bytes, start: int, end: int) -> Iterator[tuple[bytes, bytes]]:
    """Yield kind and content of the boxes that properties of pictures stand in, the outer before the inner."""
    while start + 8 <= end:
        size, kind = struct.unpack_from(">I4s", data, start)
        head = 8
        if size == 1 and start + 16 <= end:
            size, head = struct.unpack_from(">Q", data, start + 8)[0], 16
        stop = end if size == 0 else start + size
        if stop > end or stop < start + head:
            return
        if kind in _IN_BOXES:
            yield from _boxes(data, start + head + _IN_BOXES[kind], stop)
        elif kind in (b"av1C", b"colr"):
            yield kind, data[start + head : stop]
        start = stop


def require_plain_colours(path: Path, primaries: int, transfer: int) -> list[str]:
    """Refuse HDR, and return notes of colours that are no sRGB and have no profile.

    Raises:
        InputMediaError: the values follow PQ or HLG, as those of HDR pictures do.
    """
    if transfer in _TRANSFERS:
        found = f"it is an HDR picture ({_TRANSFERS[transfer]}); expected one of standard range"
        raise unreadable(path, found, "Save it as a picture of standard range (SDR)")
    if primaries not in _SRGB:
        return [f"colour primaries {primaries} (ITU-T H.273) are taken as sRGB, as there is no ICC profile"]
    return []


def avif_notes(path: Path, data: bytes, *, profile: bool) -> list[str]:
    """Return what Pillow does not say of an AVIF.

    Raises:
        InputMediaError: it is HDR.
    """
    depth, notes = 8, []
    for kind, body in _boxes(data, 0, len(data)):
        if kind == b"av1C" and len(body) >= 3 and body[2] & 0x40:
            depth = max(depth, 12 if body[2] & 0x20 else 10)
        elif kind == b"colr" and body[:4] == b"nclx" and len(body) >= 8:
            primaries, transfer = struct.unpack_from(">HH", body, 4)
            more = require_plain_colours(path, 1 if profile else primaries, transfer)
            notes += [note for note in more if note not in notes]
    if depth > 8:
        notes.insert(0, f"{depth} bit become 8")
    return notes


def read_heif(path: Path, data: bytes) -> Picture:
    """Read a HEIC or HEIF with pillow-heif, at its full depth.

    libheif turns the picture as the container says, so what EXIF says is put to 1.

    Raises:
        InputMediaError: too large, or HDR.
    """
    import pillow_heif

    file = pillow_heif.open_heif(io.BytesIO(data), convert_hdr_to_8bit=False)
    image = file[file.primary_index]
    require_size(path, *image.size)
    info: dict[str, Any] = image.info
    profile = info.get("icc_profile")
    nclx = info.get("nclx_profile") or {}
    notes = []
    if nclx and not profile:
        notes = require_plain_colours(path, nclx.get("color_primaries", 2), nclx.get("transfer_characteristics", 2))
    if len(file) > 1:
        notes.append(f"several pictures: the main one of {len(file)} used")
    unkept = {"depth_images": "a map of depth", "aux": "what phones add (such as a gain map)"}
    notes += [f"{name} is not kept" for key, name in unkept.items() if info.get(key)]
    pixels = np.asarray(image)
    if pixels.dtype not in (np.uint8, np.uint16):
        raise ValueError(f"its pixels are {pixels.dtype}")
    pixels = pixels[..., None] if pixels.ndim == 2 else pixels
    gray = pixels.shape[2] < 3
    rgb = np.repeat(pixels[..., :1], 3, axis=2) if gray else pixels[..., :3]
    alpha = pixels[..., -1] if pixels.shape[2] in (2, 4) else None
    if image.premultiplied_alpha:
        notes.append("premultiplied alpha is kept as it is")
    exif, _, damage = metadata.kept_exif(info.get("exif"))
    icc, more = metadata.fitting_profile(profile, gray=gray)
    alpha = None if alpha is None else np.ascontiguousarray(alpha)
    # As in EXIF. pillow-heif would turn what it writes by the orientation in XMP.
    packet = xmp.without_turn(info["xmp"]) if info.get("xmp") else None
    beside = Beside(xmp=packet)
    return Picture(np.ascontiguousarray(rgb), alpha, icc, exif, gray, "heif", (*notes, *more, *damage), beside)


# JPEG XL


@dataclass(frozen=True, slots=True)
class JxlHeader:
    """What a JPEG XL says before its pixels. Source: ISO/IEC 18181-1, annex D."""

    width: int
    height: int
    depth: str
    """'8 bit', '16 bit', 'float' and the like."""
    animated: bool


class _Bits:
    """A reader of bits, the lowest of each byte first."""

    def __init__(self, data: bytes) -> None:
        self.value, self.place = int.from_bytes(data[:64], "little"), 0

    def take(self, count: int) -> int:
        found = self.value >> self.place & ((1 << count) - 1)
        self.place += count
        return found

    def choose(self, *ways: tuple[int, int]) -> int:
        """Read two bits that choose among four (offset, number of bits)."""
        offset, count = ways[self.take(2)]
        return offset + self.take(count)


def _jxl_size(bits: _Bits) -> tuple[int, int]:
    small = bits.take(1)
    sizes = ((1, 9), (1, 13), (1, 18), (1, 30))
    height = 8 * (bits.take(5) + 1) if small else bits.choose(*sizes)
    ratio = bits.take(3)
    if ratio:
        above, below = ((1, 1), (12, 10), (4, 3), (3, 2), (16, 9), (5, 4), (2, 1))[ratio - 1]
        return height * above // below, height
    return (8 * (bits.take(5) + 1) if small else bits.choose(*sizes)), height


def jxl_header(data: bytes) -> JxlHeader:
    """Read the header of a JPEG XL, of a bare stream or a container.

    Raises:
        ValueError: there is no stream in the container.
    """
    if data[:2] != b"\xff\x0a":
        places = [(data.find(b"jxlc"), 4), (data.find(b"jxlp"), 8)]
        starts = [place + skip for place, skip in places if place >= 0]
        if not starts:
            raise ValueError("it has no coded picture")
        data = data[starts[0] : starts[0] + 80]
    bits = _Bits(data[2:])
    width, height = _jxl_size(bits)
    if bits.take(1):  # all as usual
        return JxlHeader(width, height, "8 bit", False)
    animated = False
    if bits.take(1):  # extra fields
        bits.take(3)  # orientation
        if bits.take(1):
            _jxl_size(bits)
        if bits.take(1):  # a preview, whose size is packed in another way: rare
            return JxlHeader(width, height, "8 bit", False)
        animated = bool(bits.take(1))
        if animated:
            bits.choose((100, 0), (1000, 0), (1, 10), (1, 30))
            bits.choose((1, 0), (1001, 0), (1, 8), (1, 10))
            bits.choose((0, 0), (0, 3), (0, 16), (0, 32))
            bits.take(1)
    if bits.take(1):
        return JxlHeader(width, height, "float", animated)
    return JxlHeader(width, height, f"{bits.choose((8, 0), (10, 0), (12, 0), (1, 6))} bit", animated)


def jxl_notes(header: JxlHeader, data: bytes) -> list[str]:
    """Return what the plugin does not say of a JPEG XL."""
    notes = [] if header.depth == "8 bit" else [f"{header.depth} become 8"]
    if header.animated:
        notes.append("animated: first frame used")
    if data[:2] != b"\xff\x0a" and b"xml " in data[:4096]:
        notes.append("XMP is not kept")
    return notes


# Writing


def is_srgb(profile: bytes) -> bool:
    """Tell whether an ICC profile says that it is sRGB, which is what pictures without one are taken for."""
    try:
        return "srgb" in ImageCms.getProfileDescription(ImageCms.ImageCmsProfile(io.BytesIO(profile))).lower()
    except (ImageCms.PyCMSError, OSError):
        return False


def without_orientation(exif: bytes) -> bytes:
    """Return an EXIF block without its orientation; no other tag is moved or changed.

    Pillow's writer of AVIF moves an orientation into the container, and packs the block anew for that, which maker
    notes do not survive.
    """
    layout = metadata._layout(exif)
    tags, end = metadata._entries(exif, layout, layout.first)
    if metadata.ORIENTATION not in tags:
        return exif
    place, end = tags[metadata.ORIENTATION], end + struct.calcsize(f"={layout.offset}")
    patched = bytearray(exif)
    patched[place : end - layout.entry] = exif[place + layout.entry : end]
    struct.pack_into(layout.endian + layout.count, patched, layout.first, len(tags) - 1)
    return bytes(patched)


def encode_younger(
    kind: str, pixels: np.ndarray, *, icc: bytes | None, exif: bytes | None, beside: Beside, quality: int
) -> bytes:
    """Encode (H, W, 1 to 4) uint8, for HEIC also uint16, as AVIF, HEIC or JPEG XL, upright."""
    stream = io.BytesIO()
    packet = xmp.fitted(beside.xmp, beside.orientation, beside.factor) if beside.xmp else None
    if kind == "heif":
        import pillow_heif

        mode = {1: "L", 2: "LA", 3: "RGB", 4: "RGBA"}[pixels.shape[2]]
        mode += ";16" if pixels.dtype == np.uint16 else ""
        file = pillow_heif.from_bytes(mode, (pixels.shape[1], pixels.shape[0]), np.ascontiguousarray(pixels).tobytes())
        if icc:
            file.info["icc_profile"], file.info["icc_profile_type"] = icc, "prof"
        options: dict[str, Any] = {"quality": -1 if quality == 100 else quality, "chroma": 444}
        file.save(stream, exif=exif, xmp=packet, **options)
        return stream.getvalue()
    prepare(kind)
    image = Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else np.ascontiguousarray(pixels))
    if kind == "avif":
        options = {"quality": quality, "subsampling": "4:4:4", "icc_profile": icc or b""}
        image.save(stream, "AVIF", exif=without_orientation(exif) if exif else b"", xmp=packet or b"", **options)
    else:
        if icc:
            image.info["icc_profile"] = icc
        image.save(stream, "JXL", exif=exif, xmp=packet, quality=quality, lossless=quality == 100)
    return stream.getvalue()
