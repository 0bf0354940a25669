"""Write a picture in the format that its name says, whole or not at all."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ...errors import OutputMediaError, SettingsError
from .. import metadata
from ..atomic import publish
from ..formats import PICTURES, Package, picture_format, suffixes
from . import carried, prompts
from .animation import Frame, encode_gif
from .beside import Coding
from .encode import USUAL_QUALITY, encode
from .others import PLAIN
from .picture import Picture, single_channel
from .pixels import turn_back
from .plugins import encode_younger, is_srgb
from .refuse import plain_words
from .sniff import missing, picture_kind

_LARGEST_SIDE = {"jpeg": 65_500, "webp": 16_383, "gif": 65_535, "avif": 65_535, "heif": 16_384}
_LARGEST_EXIF_IN_JPEG = 65_527
_YOUNGER = ("avif", "heif", "jxl")
_OF_16_BIT = ("png", "tiff", "heif", "ppm")
_WITHOUT_ALPHA = ("jpeg", "bmp", "ppm")
_WITHOUT_PROFILE = ("jxl", "gif", "bmp", "ppm", "jpeg2000")


def write_picture(path: Path, picture: Picture, *, quality: int | None = None) -> tuple[str, ...]:
    """Write a picture in the format its suffix names, whole or not at all.

    PNG keeps 8 and 16 bit, TIFF (deflate) also float; both are exact. A JPEG that was read from a JPEG is coded as that
    was, in its stored orientation, and so are its blocks in which nothing changed; a lossy WebP follows the quality of
    the WebP it was read from. Other lossy files are written at quality 95, without chroma subsampling where they can.
    AVIF and HEIC always are lossy. GIF keeps the colours of a picture that has 256 at most.
    Alpha, ICC, EXIF, XMP and what else stands beside the pixels are written to every format that has a place for them;
    TIFF takes of the EXIF block what describes the photo, its camera and its place.
    A picture that was gray, and still is, is written as one channel, except to WebP, which has none, and except with
    alpha deeper than 8 bit, which few programs read. A gray profile then has no place and is left out.

    Args:
        path: the file.
        picture: what to write.
        quality: 1 to 100 of lossy formats, in place of the input's; WebP and JPEG XL are lossless at 100, JPEG has
            whole chroma.

    Returns:
        Notes of what the format has no place for.

    Raises:
        OutputMediaError: the suffix is unknown, the format cannot hold the depth, alpha, size or EXIF (nothing is
            cut down in silence), or the file cannot be written.
        SettingsError: `quality` is not 1 to 100.
    """
    path = Path(path)
    data, notes = encode_picture(path, picture, quality=quality)
    with publish(path) as file:
        file.write(data)
    return notes


def encode_picture(path: Path, picture: Picture, *, quality: int | None = None) -> tuple[bytes, tuple[str, ...]]:
    """Return the bytes that `write_picture` would write to `path`, and its notes; errors as there."""
    if quality is not None and not 1 <= quality <= 100:
        raise SettingsError(
            "Cannot use this quality",
            found=f"found {quality}, expected 1 to 100",
            kept="Nothing was written",
            todo="Leave it out to follow the input, or use 95",
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
    pixels, exif, coding = _channels(picture, single), picture.exif, picture.coding
    if kind == "jpeg" and coding.jpeg and (turned := picture.beside.orientation) != 1:
        # Written as it was stored, every block keeps its place.
        stored = metadata.stored_exif(exif, turned) if exif else None
        exif, pixels = (stored, turn_back(pixels, turned)) if stored else (exif, pixels)
        coding = coding if stored else Coding()
    told: set[str] = set()
    if exif is None and kind in ("jpeg", "webp"):
        exif, told = prompts.as_exif(picture.beside.texts, _LARGEST_EXIF_IN_JPEG if kind == "jpeg" else None)
    try:
        if kind in PLAIN:
            data = PLAIN[kind](pixels)
        elif kind == "gif":
            data = encode_gif([Frame(picture)], None)
        elif kind in _YOUNGER:
            used = quality or USUAL_QUALITY
            data = encode_younger(kind, pixels, icc=icc, exif=exif, beside=picture.beside, quality=used)
        else:
            data = encode(kind, pixels, icc=icc, exif=exif, beside=picture.beside, coding=coding, quality=quality)
    except Exception as error:
        found = f"the {named.title} encoder failed: {plain_words(error)}"
        raise _unwritable(path, found, "Use another format") from error
    return data, carried.lost(picture, kind, told)


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


def _channels(picture: Picture, single: bool) -> np.ndarray:
    """Return (H, W, 1 to 4): gray or RGB, then alpha."""
    colours = picture.rgb[..., :1] if single else picture.rgb
    return colours if picture.alpha is None else np.concatenate([colours, picture.alpha[..., None]], axis=2)
