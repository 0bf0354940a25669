"""Colours that are no RGB, at more than the 8 bits that Pillow converts: L*a*b* and CMYK; and multiplied alpha."""

from __future__ import annotations

import numpy as np
from PIL import Image

from .picture import FULL_SCALE

_ROWS = 256
"""Rows that are converted at once, in double precision."""

_WHITE = np.array([0.96422, 1.0, 0.82521])
"""XYZ of D50, which L*a*b* of prints and scans stands on. Source: ICC.1:2022, Sec. 6.3.4.3."""

_XYZ_TO_SRGB = np.array(
    [
        [3.1338561, -1.6168667, -0.4906146],
        [-0.9787684, 1.9161415, 0.0334540],
        [0.0719453, -0.2289914, 1.4052427],
    ]
)
"""From XYZ on D50 to linear sRGB, adapted to D65 by Bradford. Source: B. Lindbloom, RGB/XYZ Matrices."""


def from_lab(pixels: np.ndarray, *, offset: bool) -> tuple[np.ndarray, str]:
    """Return sRGB of the same depth, and how it was done.

    Args:
        pixels: (H, W, 3) uint8 or uint16 as a TIFF stores L*, a* and b*: L* over the whole range; a* and b* signed (of
            16 bits in 256ths), or with `offset` (ICCLab) shifted by half the range, and L* of 16 bits up to 0xFF00.
        offset: which of the two.
    """
    full = FULL_SCALE[str(pixels.dtype)]
    step, result = (1 if full == 255 else 256), np.empty_like(pixels)
    signed = np.int8 if full == 255 else np.int16
    most = 0xFF00 if offset and full > 255 else full
    for top in range(0, len(pixels), _ROWS):
        rows = pixels[top : top + _ROWS]
        lightness = rows[..., 0].astype(np.float64) * (100 / most)
        if offset:
            ab = (rows[..., 1:].astype(np.float64) - 128 * step) / step
        else:
            ab = np.ascontiguousarray(rows[..., 1:]).view(signed).astype(np.float64) / step
        result[top : top + _ROWS] = np.rint(_lab_to_srgb(lightness, ab) * full)
    return result, "L*a*b* converted to sRGB"


def _lab_to_srgb(lightness: np.ndarray, ab: np.ndarray) -> np.ndarray:
    """Return sRGB in [0, 1]; colours outside are clipped. Source: CIE 15:2004, Sec. 8.2.1.1; IEC 61966-2-1."""
    middle = (lightness + 16) / 116
    parts = np.stack([middle + ab[..., 0] / 500, middle, middle - ab[..., 1] / 200], axis=-1)
    xyz = np.where(parts > 6 / 29, parts**3, 3 * (6 / 29) ** 2 * (parts - 4 / 29)) * _WHITE
    linear = (xyz @ _XYZ_TO_SRGB.T).clip(0, 1)
    return np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)


def from_cmyk16(pixels: np.ndarray, profile: bytes | None) -> tuple[np.ndarray, str]:
    """Return sRGB of CMYK of 16 bits, and how it was done.

    Through a profile it is done by littleCMS at 8 bits, which is what Pillow hands it; by the plain formula at 16.

    Args:
        pixels: (H, W, 4) uint16, full scale is full ink.
        profile: of the inks, where there is one.
    """
    from .. import metadata
    from .pixels import from_cmyk

    if profile and metadata.profile_space(profile) == "CMYK":
        eight = np.rint(pixels / 257).astype(np.uint8)
        image, how = from_cmyk(Image.fromarray(eight, "CMYK"), profile)
        return np.array(image), f"{how}; 16 bit become 8"
    result = np.empty((*pixels.shape[:2], 3), np.uint16)
    for top in range(0, len(pixels), _ROWS):
        light = 0xFFFF - pixels[top : top + _ROWS].astype(np.float64)
        result[top : top + _ROWS] = np.rint(light[..., :3] * light[..., 3:] / 0xFFFF)
    return result, "CMYK converted to RGB by the plain formula, as it has no ICC profile for CMYK"


def plain_alpha(rgb: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    """Return colours that are not multiplied by alpha any more; where it is 0 the colour is gone and stays as it is."""
    scale = FULL_SCALE[str(rgb.dtype)]
    plain = rgb.astype(np.float64) * scale / np.maximum(alpha, np.finfo(np.float32).tiny)[..., None]
    plain = np.rint(plain).clip(0, scale) if scale > 1 else plain
    return np.where((alpha > 0)[..., None], plain, rgb).astype(rgb.dtype)
