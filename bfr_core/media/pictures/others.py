"""Read AVIF, JPEG XL, GIF, BMP, PNM and JPEG 2000 with Pillow, and say what it cuts off."""

from __future__ import annotations

import io
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image

from .. import metadata
from .beside import Beside
from .picture import Picture
from .pixels import from_pillow, upright
from .plugins import avif_notes, jxl_header, jxl_notes, prepare
from .refuse import require_size

OTHERS = {"avif": "AVIF", "jxl": "JXL", "gif": "GIF", "bmp": "BMP", "ppm": "PPM", "jpeg2000": "JPEG2000"}
"""Kinds that are read here, with Pillow's names of them."""


def read_other(path: Path, data: bytes, kind: str) -> Picture:
    """Read a picture of one of `OTHERS`, upright; of an animation the first frame."""
    prepare(kind)
    header = jxl_header(data) if kind == "jxl" else None
    if header is not None:
        # The plugin decodes when it opens a file.
        require_size(path, header.width, header.height)
    with Image.open(io.BytesIO(data), formats=[OTHERS[kind]]) as image:
        require_size(path, *image.size)
        if kind == "ppm" and (deep := _read_deep_pnm(data, image)) is not None:
            return deep
        if image.mode in ("I", "I;16"):
            return _from_gray16(image, kind)
        picture = from_pillow(path, image, kind)
    notes, exif = list(picture.notes), image.info.get("exif")
    orientation = 1
    if kind == "gif":
        notes = [note for note in notes if not note.startswith("the palette")]  # one is made again
    if kind == "avif":
        notes += avif_notes(path, data, profile=bool(image.info.get("icc_profile")))
    elif header is not None:
        notes += jxl_notes(header, data)
    elif kind == "jpeg2000" and (depth := _depth_of_jpeg2000(data)) > 8:
        notes.append(f"{depth} bit become 8")
    if exif:
        exif, orientation, damage = metadata.kept_exif(exif)
        notes += damage
    # libjxl turns its own pictures. A JPEG that was packed without loss is unpacked, and lies as it lay.
    if kind == "jxl" and not getattr(image, "jpeg", False):
        orientation = 1
    packet = image.info.get("xmp")
    beside = Beside(xmp=packet.encode() if isinstance(packet, str) else packet, orientation=orientation)
    return upright(replace(picture, exif=exif or None, notes=tuple(notes), beside=beside), orientation)


def _from_gray16(image: Image.Image, kind: str) -> Picture:
    """Return a gray picture of 16 bit, whose values Pillow gives as they are."""
    values = np.asarray(image)
    if values.min() < 0 or values.max() > 0xFFFF:
        raise ValueError(f"its gray values reach from {values.min()} to {values.max()}")
    icc, notes = metadata.fitting_profile(image.info.get("icc_profile"), gray=True)
    rgb = np.repeat(values.astype(np.uint16)[..., None], 3, axis=2)
    return Picture(rgb, None, icc, None, True, kind, tuple(notes))


def _read_deep_pnm(data: bytes, image: Image.Image) -> Picture | None:
    """Return a binary PGM or PPM of more than 8 bits, which Pillow cuts to 8; None where it is none."""
    blank = rb"(?:\s|#[^\n]*\n)+"
    found = re.match(rb"P([56])" + blank + rb"(\d+)" + blank + rb"(\d+)" + blank + rb"(\d+)\s", data)
    if found is None or int(found[4]) < 256:
        return None
    count, most = (1 if found[1] == b"5" else 3), int(found[4])
    shape = (image.height, image.width, count)
    values = np.frombuffer(data, ">u2", int(np.prod(shape)), found.end()).reshape(shape).astype(np.uint16)
    if most != 0xFFFF:
        values = np.rint(values.astype(np.float64) * (0xFFFF / most)).clip(0, 0xFFFF).astype(np.uint16)
    return Picture(np.repeat(values, 3, axis=2) if count == 1 else values, None, None, None, count == 1, "ppm")


def _depth_of_jpeg2000(data: bytes) -> int:
    """Return the bits of the first component, 8 where they are not found."""
    start = data.find(b"\xff\x4f\xff\x51")
    return (data[start + 42] & 0x7F) + 1 if start >= 0 and start + 42 < len(data) else 8


# Writing


def _encode_plain(kind: str, pixels: np.ndarray) -> bytes:
    """Encode (H, W, 1 or 3) uint8 as BMP, PNM or JPEG 2000, or (H, W, 1 to 4) as the last."""
    image = Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else np.ascontiguousarray(pixels))
    stream = io.BytesIO()
    image.save(stream, OTHERS[kind])
    return stream.getvalue()


def _encode_pnm(pixels: np.ndarray) -> bytes:
    """Encode (H, W, 1 or 3) uint8 or uint16 as PGM or PPM."""
    height, width, count = pixels.shape
    most = 0xFFFF if pixels.dtype == np.uint16 else 255
    head = f"P{5 if count == 1 else 6}\n{width} {height}\n{most}\n".encode()
    return head + (pixels.astype(">u2") if most > 255 else pixels).tobytes()


PLAIN: dict[str, Callable[[np.ndarray], bytes]] = {
    "bmp": lambda pixels: _encode_plain("bmp", pixels),
    "jpeg2000": lambda pixels: _encode_plain("jpeg2000", pixels),
    "ppm": _encode_pnm,
}
"""Encoders of formats without profile and EXIF, by kind; all are exact."""
