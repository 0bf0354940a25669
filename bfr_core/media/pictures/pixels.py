"""Pixels out of the decoders: colours and alpha as arrays, upright."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
from PIL import Image, ImageCms

from .. import metadata
from .picture import Picture
from .refuse import unreadable


def decode_deep(data: bytes, shape: tuple[int, ...], dtype: type) -> tuple[np.ndarray, np.ndarray | None]:
    """Decode 16-bit or float pixels. Returns (H, W, 3) and (H, W) or None."""
    pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    if pixels is None or pixels.shape[:2] != tuple(shape) or pixels.dtype != dtype:
        raise ValueError("its pixels do not decode")
    if pixels.ndim == 2:
        return np.repeat(pixels[..., None], 3, axis=2), None
    alpha = np.ascontiguousarray(pixels[..., 3]) if pixels.shape[2] == 4 else None
    return np.ascontiguousarray(pixels[..., 2::-1]), alpha


def from_pillow(path: Path, image: Image.Image, kind: str) -> Picture:
    """Decode 8-bit pixels as they are stored, with profile and notes; EXIF and rotation are the caller's."""
    notes: list[str] = []
    if (frames := getattr(image, "n_frames", 1)) > 1 and kind not in ("tiff", "jpeg"):
        notes.append(f"animated: first frame of {frames} used")
    image.load()
    info, mode = image.info, image.mode
    profile = info.get("icc_profile")
    gray, alpha = mode in ("1", "L", "LA", "La", "I;16"), None
    if mode == "CMYK":
        image, how = from_cmyk(image, profile)
        profile = None
        notes.append(how)
    elif mode not in ("1", "L", "LA", "La", "I;16", "P", "PA", "RGB", "RGBA", "RGBX", "RGBa", "YCbCr"):
        found = f"its colour mode is {mode}; expected gray, RGB, RGBA, palette or CMYK"
        raise unreadable(path, found, "Save it as RGB")
    if mode == "1":
        notes.append("1 bit per pixel becomes 8")
    elif mode in ("P", "PA"):
        notes.append("the palette becomes full RGB")
    if mode == "I;16":
        # Its 16-bit pixels are decoded by OpenCV; Pillow is here for what stands around them.
        rgb = np.zeros((image.height, image.width, 3), np.uint8)
    elif image.has_transparency_data:
        rgba = np.asarray(image.convert("LA").convert("RGBA") if mode == "La" else image.convert("RGBA"))
        rgb, alpha = np.ascontiguousarray(rgba[..., :3]), np.ascontiguousarray(rgba[..., 3])
    else:
        rgb = np.array(image.convert("RGB"))
    icc, more = metadata.fitting_profile(profile, gray=gray)
    return Picture(rgb, alpha, icc, None, gray, kind, (*notes, *more))


def from_cmyk(image: Image.Image, profile: bytes | None) -> tuple[Image.Image, str]:
    """Return the picture as sRGB, and how that was done."""
    if profile and metadata.profile_space(profile) == "CMYK":
        try:
            source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
            result = ImageCms.profileToProfile(
                image,
                source,
                ImageCms.createProfile("sRGB"),
                renderingIntent=ImageCms.Intent.RELATIVE_COLORIMETRIC,
                outputMode="RGB",
                flags=ImageCms.Flags.BLACKPOINTCOMPENSATION,
            )
        except (ImageCms.PyCMSError, OSError):
            return image.convert("RGB"), "CMYK converted to RGB without its ICC profile, which is damaged"
        if result is not None:
            return result, "CMYK converted to sRGB RGB through its ICC profile"
    return image.convert("RGB"), "CMYK converted to RGB by the plain formula, as it has no ICC profile for CMYK"


def upright(picture: Picture, orientation: int) -> Picture:
    """Apply an EXIF orientation: the position of the stored first row and column, as the viewer sees them."""
    alpha = None if picture.alpha is None else turn(picture.alpha, orientation)
    return replace(picture, rgb=turn(picture.rgb, orientation), alpha=alpha)


def turn(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """Turn stored rows and columns, (H, W) or (H, W, C), as an EXIF orientation asks."""
    if orientation >= 5:
        pixels = pixels.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    return np.ascontiguousarray(pixels)


def turn_back(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """Undo `turn`."""
    return turn(pixels, {6: 8, 8: 6}.get(orientation, orientation))
