"""Write a picture in the format that its name says, whole or not at all."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ...errors import OutputMediaError, SettingsError
from .. import metadata
from ..atomic import publish
from ..encoding import encode
from ..formats import PICTURES, Package, picture_format, suffixes
from .animation import Frame, encode_gif
from .others import PLAIN
from .picture import Picture, single_channel
from .plugins import encode_younger, is_srgb
from .sniff import missing, picture_kind

_LARGEST_SIDE = {"jpeg": 65_500, "webp": 16_383, "gif": 65_535, "avif": 65_535, "heif": 16_384}
_LARGEST_EXIF_IN_JPEG = 65_527
_YOUNGER = ("avif", "heif", "jxl")
_OF_16_BIT = ("png", "tiff", "heif", "ppm")
_WITHOUT_ALPHA = ("jpeg", "bmp", "ppm")
_WITHOUT_PROFILE = ("jxl", "gif", "bmp", "ppm", "jpeg2000")
_WITHOUT_EXIF = ("gif", "bmp", "ppm", "jpeg2000")


def write_picture(path: Path, picture: Picture, *, quality: int = 95) -> None:
    """Write a picture in the format its suffix names, whole or not at all.

    PNG keeps 8 and 16 bit, TIFF (deflate) also float; both are exact. JPEG is written without chroma subsampling.
    WebP and JPEG XL are lossy below quality 100 and lossless at 100; AVIF and HEIC always are lossy. GIF keeps the
    colours of a picture that has 256 at most. Alpha, ICC and EXIF are written to every format that has them;
    TIFF takes of the EXIF block what describes the photo, its camera and its place.
    A picture that was gray, and still is, is written as one channel, except to WebP, which has none, and except with
    alpha deeper than 8 bit, which few programs read. A gray profile then has no place and is left out.

    Raises:
        OutputMediaError: the suffix is unknown, the format cannot hold the depth, alpha, size or EXIF (nothing is
            cut down in silence), or the file cannot be written.
        SettingsError: `quality` is not 1 to 100.
    """
    path = Path(path)
    data = encode_picture(path, picture, quality=quality)
    with publish(path) as file:
        file.write(data)


def encode_picture(path: Path, picture: Picture, *, quality: int = 95) -> bytes:
    """Return the bytes that `write_picture` would write to `path`; errors as there."""
    if not 1 <= quality <= 100:
        raise SettingsError(
            "Cannot use this quality",
            found=f"found {quality}, expected 1 to 100",
            kept="Nothing was written",
            todo="Use 95",
        )
    named = picture_format(path)
    if named is None or not named.write:
        expected = ", ".join(suffixes(PICTURES, write=True))
        raise _unwritable(
            path, f"found the suffix '{path.suffix}', expected one of {expected}", "Use one of these suffixes"
        )
    kind = named.name
    if (lacking := missing(named)) is not None:
        here = isinstance(lacking, Package)
        found = f"{lacking.title}, which writes {named.title}, is not installed" if here else f"{lacking}"
        raise _unwritable(
            path, found, f"{lacking.install}, or name the output .png" if here else "Name the output .png"
        )
    _require_room(path, picture, kind)
    single = kind != "webp" and single_channel(picture)
    icc = picture.icc
    if icc and metadata.profile_space(icc) == "GRAY" and not single:
        icc = None
    try:
        pixels = _channels(picture, single)
        if kind in PLAIN:
            data = PLAIN[kind](pixels)
        elif kind == "gif":
            data = encode_gif([Frame(picture)], None)
        elif kind in _YOUNGER:
            data = encode_younger(kind, pixels, icc=icc, exif=picture.exif, quality=quality)
        else:
            data = encode(kind, pixels, icc=icc, exif=picture.exif, quality=quality)
    except Exception as error:
        raise _unwritable(path, f"the {named.title} encoder failed: {error}", "Use another format") from error
    return data


def _unwritable(path: Path, found: str, todo: str) -> OutputMediaError:
    return OutputMediaError(
        f"Cannot write {path}", found=found, kept="An older file of that name is untouched", todo=todo
    )


def _require_room(path: Path, picture: Picture, kind: str) -> None:
    """Refuse what the format cannot hold."""
    dtype, (height, width), name = str(picture.rgb.dtype), picture.rgb.shape[:2], picture_kind(kind).title
    depth = {"uint8": "8 bit", "uint16": "16 bit", "float32": "float"}[dtype]
    if dtype == "float32" and kind != "tiff":
        raise _unwritable(path, f"the picture is {depth}, and {name} has no float", "Name the output .tif")
    if dtype == "uint16" and kind not in _OF_16_BIT:
        raise _unwritable(path, f"the picture has {depth}, and {name} holds 8", "Name the output .png or .tif")
    if picture.alpha is not None and kind in _WITHOUT_ALPHA:
        raise _unwritable(path, f"the picture has an alpha channel, and {name} holds none", "Name the output .png")
    if picture.alpha is not None and kind == "gif" and not np.isin(picture.alpha, (0, 255)).all():
        found = "the picture is half transparent in places, and GIF knows transparent and opaque"
        raise _unwritable(path, found, "Name the output .png or .webp")
    if picture.icc and kind in _WITHOUT_PROFILE and not is_srgb(picture.icc):
        found = f"the picture's colours are those of its ICC profile, and {name} is written without one"
        raise _unwritable(path, found, "Name the output .png or .tif")
    limit = _LARGEST_SIDE.get(kind)
    if limit and max(height, width) > limit:
        found = f"the picture is {width} x {height}, and {name} holds {limit} a side"
        raise _unwritable(path, found, "Name the output .png or .tif")
    if kind == "jpeg" and picture.exif and len(picture.exif) > _LARGEST_EXIF_IN_JPEG:
        found = f"its EXIF block has {len(picture.exif)} bytes, and JPEG holds {_LARGEST_EXIF_IN_JPEG}"
        raise _unwritable(path, found, "Name the output .png or .tif")


def not_written(path: Path, picture: Picture) -> tuple[str, ...]:
    """Return notes on what the format that `path` names cannot hold and `encode_picture` leaves out."""
    named = picture_format(path)
    if named is None or named.name not in _WITHOUT_EXIF or not picture.exif:
        return ()
    return (f"{named.title} holds no EXIF block, which is left out",)


def _channels(picture: Picture, single: bool) -> np.ndarray:
    """Return (H, W, 1 to 4): gray or RGB, then alpha."""
    colours = picture.rgb[..., :1] if single else picture.rgb
    return colours if picture.alpha is None else np.concatenate([colours, picture.alpha[..., None]], axis=2)
