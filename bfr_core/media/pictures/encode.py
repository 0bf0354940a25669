"""Turn arrays of pixels into the bytes of a picture file.

TIFF is written here: Pillow cannot write 16-bit or float RGB, and OpenCV drops profiles and EXIF. 16-bit PNG comes
from OpenCV, as Pillow cuts it to 8 bit. The rest is Pillow's; what stands beside the pixels is put in afterwards, as
encoders reword it.
"""

from __future__ import annotations

import io
import zlib
from dataclasses import replace
from typing import Any

import cv2
import numpy as np
from PIL import Image
from PIL.TiffImagePlugin import ImageFileDirectory_v2

from .. import metadata
from . import jpeg_beside, jpeg_rest, jpeg_write, png_chunks, xmp
from .beside import Beside, Chunk, Coding, Density
from .jpeg import Jpeg, split

LARGEST_TIFF = 2**32 - 1
"""Bytes a classic TIFF can hold."""

USUAL_QUALITY = 95
"""Of JPEG and WebP where there is no input of that format to follow."""


def encode(
    kind: str,
    pixels: np.ndarray,
    *,
    icc: bytes | None = None,
    exif: bytes | None = None,
    beside: Beside | None = None,
    coding: Coding | None = None,
    quality: int | None = None,
) -> bytes:
    """Encode one picture.

    Args:
        kind: 'jpeg', 'png', 'webp' or 'tiff'.
        pixels: (H, W, 1 to 4) gray or RGB, then alpha, of a depth that `kind` holds.
        icc: colour profile.
        exif: EXIF block from its TIFF header on.
        beside: what else stands beside the pixels; of it, what `kind` has a place for is written.
        coding: how the input was coded. A JPEG's pixels are turned back to how it was stored.
        quality: 1 to 100 for JPEG and WebP; WebP is lossless at 100. None follows `coding`.

    Raises:
        Exception: whatever the encoder raises.
    """
    beside, coding = beside or Beside(), coding or Coding()
    if beside.density and beside.orientation >= 5 and not (kind == "jpeg" and coding.jpeg):
        across, down, unit = beside.density
        beside = replace(beside, density=Density(down, across, unit))
    if kind == "jpeg":
        return _encode_jpeg(pixels, icc, exif, beside, coding, quality).packed()
    packet = xmp.fitted(beside.xmp, beside.orientation, beside.factor) if beside.xmp else None
    if kind == "tiff":
        return _encode_tiff(pixels, icc, exif, beside, packet)
    if kind == "png":
        comments = [_comment(comment) for comment in beside.comments]
        png = _encode_png(pixels)
        return png_chunks.put_beside(png, beside, icc=icc, exif=exif, packet=packet, comments=comments)
    options: dict[str, Any] = {"icc_profile": icc or b"", "exif": b"Exif\0\0" + exif if exif else b""}
    lossless = coding.lossless if quality is None else quality == 100
    quality = quality or coding.quality or USUAL_QUALITY
    # Of a picture without loss, quality is how hard the encoder tries.
    options |= {"quality": 100 if lossless else quality, "lossless": lossless, "exact": True, "xmp": packet or b""}
    stream = io.BytesIO()
    Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else np.ascontiguousarray(pixels)).save(
        stream, kind, **options
    )
    return stream.getvalue()


def _comment(comment: bytes) -> Chunk:
    """Return a JPEG's comment as a PNG's: Latin-1 where it is no UTF-8."""
    comment = comment.replace(b"\0", b"")
    try:
        plain = comment.decode("utf-8").isascii()
    except UnicodeDecodeError:
        plain = True
    return Chunk(b"tEXt", b"Comment\0" + comment) if plain else Chunk(b"iTXt", b"Comment\0\0\0\0\0" + comment)


def _encode_png(pixels: np.ndarray) -> bytes:
    if pixels.dtype == np.uint16:
        order = {1: [0], 3: [2, 1, 0], 4: [2, 1, 0, 3]}[pixels.shape[2]]
        done, encoded = cv2.imencode(".png", np.ascontiguousarray(pixels[..., order]))
        if not done:
            raise ValueError("OpenCV gave no reason")
        return encoded.tobytes()
    stream = io.BytesIO()
    Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else np.ascontiguousarray(pixels)).save(stream, "png")
    return stream.getvalue()


def _encode_jpeg(
    pixels: np.ndarray, icc: bytes | None, exif: bytes | None, beside: Beside, coding: Coding, quality: int | None
) -> Jpeg:
    stored = split(coding.jpeg) if coding.jpeg else None
    if coding.jpeg and quality is None:
        encoded = split(jpeg_write.follow(coding.jpeg, pixels))
    else:
        stream = io.BytesIO()
        image = Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else np.ascontiguousarray(pixels))
        image.save(stream, "jpeg", quality=quality or USUAL_QUALITY, subsampling=0)
        encoded = split(stream.getvalue())
    turned = 1 if stored else beside.orientation
    head = jpeg_beside.put_beside(
        encoded.head,
        beside,
        icc=icc,
        exif=exif,
        stored=stored.head if stored else (),
        packet=lambda packet: xmp.fitted(packet, turned, beside.factor),
    )
    new = Jpeg(head, encoded.body, b"")
    return jpeg_rest.carry(new, stored, pixels) if stored else new


def _encode_tiff(
    pixels: np.ndarray, icc: bytes | None, exif: bytes | None, beside: Beside, packet: bytes | None
) -> bytes:
    """Encode (H, W, C) as a little-endian TIFF in deflated strips of about a megabyte."""
    height, width, count = pixels.shape
    dtype, colours = pixels.dtype, 1 if count < 3 else 3
    rows = max(1, 2**20 // (width * count * dtype.itemsize))
    strips = []
    for top in range(0, height, rows):
        strip = pixels[top : top + rows]
        if dtype != np.float32:
            # Predictor 2: the difference to the left neighbour, wrapping around.
            strip = np.concatenate([strip[:, :1], strip[:, 1:] - strip[:, :-1]], axis=1)
        strips.append(zlib.compress(strip.astype(dtype.newbyteorder("<")).tobytes()))
    sizes = [len(strip) for strip in strips]
    tags = metadata.describing_tags(exif) if exif else ImageFileDirectory_v2()
    tags[256], tags[257], tags[258], tags[259] = width, height, (8 * dtype.itemsize,) * count, 8
    tags[262], tags[277], tags[278], tags[284] = 1 if colours == 1 else 2, count, rows, 1
    tags[317], tags[339] = 1 if dtype == np.float32 else 2, (3 if dtype == np.float32 else 1,) * count
    tags.tagtype |= {273: 4, 279: 4}
    tags[273], tags[279] = tuple(int(offset) for offset in np.cumsum([0, *sizes[:-1]])), tuple(sizes)
    if count > colours:
        tags[338] = (2,)
    others = {metadata.ICC_PROFILE: icc, metadata.XMP: packet, metadata.PHOTOSHOP: beside.resources}
    for tag, body in (others | {metadata.IPTC: beside.iptc}).items():
        if body:
            tags.tagtype[tag] = 1 if tag == metadata.XMP else 7
            tags[tag] = body
    inch = beside.density.per("inch") if beside.density else None
    if inch and 282 not in tags:
        tags[282], tags[283], tags[296] = inch.across, inch.down, 2
    stream = io.BytesIO()
    tags.save(stream)
    if stream.tell() + sum(sizes) > LARGEST_TIFF:
        raise ValueError(f"the picture needs {sum(sizes)} bytes, and TIFF holds {LARGEST_TIFF}")
    return b"".join([stream.getvalue(), *strips])
