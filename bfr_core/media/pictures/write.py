"""Write a picture in the format that its name says, whole or not at all."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ...errors import OutputMediaError, SettingsError
from .. import metadata
from ..atomic import publish
from ..encoding import encode
from ..formats import PICTURES, picture_format, suffixes
from .picture import Picture, single_channel

_LARGEST_SIDE = {"jpeg": 65_500, "webp": 16_383}
_LARGEST_EXIF_IN_JPEG = 65_527


def write_picture(path: Path, picture: Picture, *, quality: int = 95) -> None:
    """Write a picture in the format its suffix names, whole or not at all.

    PNG keeps 8 and 16 bit, TIFF (deflate) also float; both are exact. JPEG is written without chroma subsampling.
    WebP is lossy below quality 100 and lossless at 100. Alpha, ICC and EXIF are written to every format that has them;
    TIFF takes of the EXIF block what describes the photo, its camera and its place.
    A picture that was gray, and still is, is written as one channel, except to WebP, which has none, and except with
    alpha deeper than 8 bit, which few programs read. A gray profile then has no place and is left out.

    Raises:
        OutputMediaError: the suffix is unknown, the format cannot hold the depth, alpha, size or EXIF (nothing is
            cut down in silence), or the file cannot be written.
        SettingsError: `quality` is not 1 to 100.
    """
    path = Path(path)
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
    _require_room(path, picture, kind)
    single = kind != "webp" and single_channel(picture)
    icc = picture.icc
    if icc and metadata.profile_space(icc) == "GRAY" and not single:
        icc = None
    try:
        data = encode(kind, _channels(picture, single), icc=icc, exif=picture.exif, quality=quality)
    except Exception as error:
        raise _unwritable(path, f"the {kind.upper()} encoder failed: {error}", "Use another format") from error
    with publish(path) as file:
        file.write(data)


def _unwritable(path: Path, found: str, todo: str) -> OutputMediaError:
    return OutputMediaError(
        f"Cannot write {path}", found=found, kept="An older file of that name is untouched", todo=todo
    )


def _require_room(path: Path, picture: Picture, kind: str) -> None:
    """Refuse what the format cannot hold."""
    dtype, (height, width) = str(picture.rgb.dtype), picture.rgb.shape[:2]
    depth = {"uint8": "8 bit", "uint16": "16 bit", "float32": "float"}[dtype]
    if dtype == "float32" and kind != "tiff":
        raise _unwritable(path, f"the picture is {depth}, and {kind.upper()} has no float", "Name the output .tif")
    if dtype == "uint16" and kind in ("jpeg", "webp"):
        raise _unwritable(path, f"the picture has {depth}, and {kind.upper()} holds 8", "Name the output .png or .tif")
    if picture.alpha is not None and kind == "jpeg":
        raise _unwritable(path, "the picture has an alpha channel, and JPEG holds none", "Name the output .png")
    limit = _LARGEST_SIDE.get(kind)
    if limit and max(height, width) > limit:
        found = f"the picture is {width} x {height}, and {kind.upper()} holds {limit} a side"
        raise _unwritable(path, found, "Name the output .png or .tif")
    if kind == "jpeg" and picture.exif and len(picture.exif) > _LARGEST_EXIF_IN_JPEG:
        found = f"its EXIF block has {len(picture.exif)} bytes, and JPEG holds {_LARGEST_EXIF_IN_JPEG}"
        raise _unwritable(path, found, "Name the output .png or .tif")


def _channels(picture: Picture, single: bool) -> np.ndarray:
    """Return (H, W, 1 to 4): gray or RGB, then alpha."""
    colours = picture.rgb[..., :1] if single else picture.rgb
    return colours if picture.alpha is None else np.concatenate([colours, picture.alpha[..., None]], axis=2)
