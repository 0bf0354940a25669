"""A picture in memory, and its colours as a tensor."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor

from ...errors import InputMediaError
from .. import metadata
from ..scaling import enlarge_plane
from .beside import Beside, Coding

FULL_SCALE = {"uint8": 255, "uint16": 65_535, "float32": 1}
"""What full intensity is in each type of pixels."""


@dataclass(frozen=True, slots=True)
class Picture:
    """A picture, upright, with what its file said about it."""

    rgb: np.ndarray
    """(H, W, 3) uint8, uint16 or float32; R, G and B are equal for a gray file. Float is meant as [0, 1] but kept."""
    alpha: np.ndarray | None = None
    """(H, W) of the same dtype, not multiplied into `rgb`; full scale is opaque."""
    icc: bytes | None = None
    """Colour profile that `rgb` is in; None is taken as sRGB."""
    exif: bytes | None = None
    """EXIF block from its TIFF header on, without 'Exif\\0\\0'; its orientation is 1."""
    gray: bool = False
    """The file had a single colour channel."""
    kind: str = "png"
    """'jpeg', 'png', 'webp' or 'tiff': what the file was, whatever its name."""
    notes: tuple[str, ...] = ()
    """Everything the file held that is not carried over."""
    beside: Beside = field(default_factory=Beside)
    """XMP, IPTC, comments, texts and resolution."""
    coding: Coding = field(default_factory=Coding)
    """How the file was coded, which a file of the same format follows."""

    def __post_init__(self) -> None:
        fits = self.rgb.ndim == 3 and self.rgb.shape[2] == 3 and self.rgb.size > 0 and str(self.rgb.dtype) in FULL_SCALE
        if fits and self.alpha is not None:
            fits = self.alpha.shape == self.rgb.shape[:2] and self.alpha.dtype == self.rgb.dtype
        if not fits:
            alpha = "none" if self.alpha is None else f"{self.alpha.shape} {self.alpha.dtype}"
            raise InputMediaError(
                "These arrays are not a picture",
                found=f"found rgb {self.rgb.shape} {self.rgb.dtype} and alpha {alpha}; expected (H, W, 3) and (H, W), "
                "both uint8, uint16 or float32, at least one pixel",
                kept="They are unchanged",
                todo="Convert them first",
            )


def to_float(picture: Picture) -> Tensor:
    """Return the colours as (3, H, W) float32: integers in [0, 1], float as it is."""
    values = torch.from_numpy(picture.rgb.astype(np.float32)).permute(2, 0, 1).contiguous()
    return values.div_(FULL_SCALE[str(picture.rgb.dtype)])


def from_float(picture: Picture, rgb: Tensor, changed: Tensor | None = None) -> Picture:
    """Return `picture` with new colours at its own depth.

    Integer depths are clamped to [0, 1] and rounded; float is taken as it is. Alpha, EXIF and notes stay. A gray
    profile is dropped, and noted, once the colours are not gray any more.

    Args:
        picture: what `rgb` was made from.
        rgb: (3, H, W) float, on any device.
        changed: (H, W) bool; where it is False the original is copied bit for bit. None takes all of `rgb`.

    Raises:
        InputMediaError: a shape or dtype differs, or `rgb` holds NaN or infinity.
    """
    height, width = picture.rgb.shape[:2]
    shapes_fit = tuple(rgb.shape) == (3, height, width) and rgb.is_floating_point()
    if changed is not None:
        shapes_fit = shapes_fit and tuple(changed.shape) == (height, width) and changed.dtype == torch.bool
    finite = shapes_fit and bool(torch.isfinite(rgb).all())
    if not finite:
        mask = "none" if changed is None else f"{tuple(changed.shape)} {changed.dtype}"
        found = f"found {tuple(rgb.shape)} {rgb.dtype} and mask {mask}; expected (3, {height}, {width}) float and "
        found += f"({height}, {width}) bool"
        raise InputMediaError(
            "Cannot turn this tensor into the picture it was made from",
            found="some of its values are NaN or infinite" if shapes_fit else found,
            kept="The picture is unchanged",
            todo="Run again in float32" if shapes_fit else "Bring it to that shape first",
        )
    values = rgb.detach().to("cpu", torch.float32).permute(1, 2, 0).numpy()
    scale = FULL_SCALE[str(picture.rgb.dtype)]
    if scale > 1:
        values = np.rint(values.clip(0, 1) * np.float32(scale)).astype(picture.rgb.dtype)
    if changed is not None:
        values = np.where(changed.cpu().numpy()[..., None], values, picture.rgb)
    result = replace(picture, rgb=np.ascontiguousarray(values))
    if result.icc and metadata.profile_space(result.icc) == "GRAY" and not single_channel(result):
        note = "the gray ICC profile does not fit colour and is not kept"
        result = replace(result, icc=None, notes=(*result.notes, note))
    return result


def enlarged_from_float(picture: Picture, rgb: Tensor, factor: int) -> Picture:
    """Return `picture` with new colours that are `factor` times as wide and as high, at its own depth.

    Alpha is enlarged by Lanczos; EXIF and XMP say the new size. As `from_float` otherwise.
    """
    height, width = picture.rgb.shape[:2]
    alpha, exif = picture.alpha, picture.exif
    if alpha is not None:
        alpha = enlarge_plane(alpha, factor, (0, FULL_SCALE[str(alpha.dtype)]))
    if exif is not None:
        exif = metadata.enlarged_exif(exif, factor)
    blank = np.empty((height * factor, width * factor, 3), picture.rgb.dtype)
    beside = replace(picture.beside, factor=picture.beside.factor * factor)
    return from_float(replace(picture, rgb=blank, alpha=alpha, exif=exif, beside=beside), rgb)


def single_channel(picture: Picture) -> bool:
    """Tell whether the picture is written as one colour channel."""
    if not picture.gray or (picture.alpha is not None and picture.rgb.dtype != np.uint8):
        return False
    # Compared as bits, so that -0.0 is not taken for 0.0 and lost.
    bits = picture.rgb.view(np.uint32) if picture.rgb.dtype == np.float32 else picture.rgb
    return bool((bits[..., :1] == bits[..., 1:]).all())
