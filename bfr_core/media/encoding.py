"""Turn arrays of pixels into the bytes of a picture file.

TIFF is written here: Pillow cannot write 16-bit or float RGB, and OpenCV drops profiles and EXIF. 16-bit PNG comes
from OpenCV, as Pillow cuts it to 8 bit; the chunks OpenCV drops are put in afterwards. The rest is Pillow's.
"""

from __future__ import annotations

import io
import zlib
from typing import Any

import cv2
import numpy as np
from PIL import Image
from PIL.TiffImagePlugin import ImageFileDirectory_v2

from . import metadata

LARGEST_TIFF = 2**32 - 1
"""Bytes a classic TIFF can hold."""


def encode(kind: str, pixels: np.ndarray, *, icc: bytes | None, exif: bytes | None, quality: int) -> bytes:
    """Encode one picture.

    Args:
        kind: 'jpeg', 'png', 'webp' or 'tiff'.
        pixels: (H, W, 1 to 4) gray or RGB, then alpha, of a depth that `kind` holds.
        icc: colour profile.
        exif: EXIF block from its TIFF header on.
        quality: 1 to 100 for JPEG and WebP; WebP is lossless at 100.

    Raises:
        Exception: whatever the encoder raises.
    """
    if kind == "tiff":
        return _encode_tiff(pixels, icc, exif)
    if kind == "png" and pixels.dtype == np.uint16:
        order = {1: [0], 3: [2, 1, 0], 4: [2, 1, 0, 3]}[pixels.shape[2]]
        done, encoded = cv2.imencode(".png", np.ascontiguousarray(pixels[..., order]))
        if not done:
            raise ValueError("OpenCV gave no reason")
        # OpenCV writes no profile or EXIF before 4.12.
        return metadata.insert_png_chunks(encoded.tobytes(), icc=icc, exif=exif)
    image = Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else np.ascontiguousarray(pixels))
    options: dict[str, Any] = {"icc_profile": icc, "exif": b"Exif\0\0" + exif if exif else b""}
    if kind == "jpeg":
        options |= {"quality": quality, "subsampling": 0}
    elif kind == "webp":
        options |= {"quality": quality, "lossless": quality == 100, "exact": True, "icc_profile": icc or b""}
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def _encode_tiff(pixels: np.ndarray, icc: bytes | None, exif: bytes | None) -> bytes:
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
    tags.tagtype |= {273: 4, 279: 4, metadata.ICC_PROFILE: 7}
    tags[273], tags[279] = tuple(int(offset) for offset in np.cumsum([0, *sizes[:-1]])), tuple(sizes)
    if count > colours:
        tags[338] = (2,)
    if icc:
        tags[metadata.ICC_PROFILE] = icc
    stream = io.BytesIO()
    tags.save(stream)
    if stream.tell() + sum(sizes) > LARGEST_TIFF:
        raise ValueError(f"the picture needs {sum(sizes)} bytes, and TIFF holds {LARGEST_TIFF}")
    return b"".join([stream.getvalue(), *strips])
