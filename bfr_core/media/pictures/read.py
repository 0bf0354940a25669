"""Read the file of a picture: told by its content, upright, at its full depth."""

from __future__ import annotations

import io
import stat
from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image

from ...errors import BfrError
from .. import metadata
from ..decoders import strict_decoders
from ..formats import PICTURES, film_format, picture_format, titles
from . import jpeg_beside, png_chunks, webp
from .beside import Coding
from .jpeg import split
from .jpeg_check import first_missing_row, require_process
from .picture import Picture
from .pixels import decode_deep, from_pillow, upright
from .refuse import MAX_FILE_BYTES, plain_words, require_size, unreadable
from .tiff import read_tiff


def read_picture(path: Path) -> Picture:
    """Read a JPEG, PNG, WebP or TIFF file at its full depth, told by its content and not by its suffix.

    EXIF rotation is applied to the pixels. CMYK becomes sRGB, through the file's profile where it has one. Of an
    animation or a file of several pages the first is read. What is not carried over is said in `notes`.

    Raises:
        InputMediaError: the path is missing, no regular file, unreadable, empty, no picture of these kinds, damaged,
            cut short, of more than MAX_PIXELS (refused from its header, before decoding), or of a pixel layout that
            is not read (the message names it).
    """
    path = Path(path)
    return decode_picture(_read_bytes(path), path)


def decode_picture(data: bytes, path: Path) -> Picture:
    """Read a picture from the bytes of its file; `path` names it in messages. As `read_picture` otherwise."""
    kind = _kind(path, data)
    try:
        with strict_decoders():
            picture = read_tiff(path, data) if kind == "tiff" else _read_common(path, data, kind)
    except BfrError:
        raise
    except MemoryError as error:
        raise unreadable(path, "it does not fit into memory", "Close other programs or shrink it") from error
    except Exception as error:
        # Decoders raise SyntaxError, struct.error, OSError, ValueError, zlib.error and more on damaged files.
        state = "is cut short" if metadata.ends_early(kind, data) else "is damaged"
        found = f"the {kind.upper()} file {state} ({plain_words(error)}); it holds {len(data)} bytes"
        raise unreadable(path, found, "Get a whole copy of the file") from error
    if picture.rgb.dtype == np.float32:
        values = [picture.rgb] if picture.alpha is None else [picture.rgb, picture.alpha]
        if bad := sum(int(np.count_nonzero(~np.isfinite(value))) for value in values):
            raise unreadable(path, f"{bad} of its values are NaN or infinite", "Repair the picture where it was made")
    named = picture_format(path) or film_format(path)
    if named is not None and named.name != kind:
        picture = replace(picture, notes=(*picture.notes, f"named {path.suffix} but holds {kind.upper()}"))
    return picture


def _read_bytes(path: Path) -> bytes:
    try:
        status = path.stat()
        # Told before opening: a FIFO would wait for its writer for ever.
        if stat.S_ISDIR(status.st_mode):
            raise unreadable(path, "it is a folder; expected one picture file", "Name a file inside it")
        if not stat.S_ISREG(status.st_mode):
            raise unreadable(path, "it is a pipe, socket or device; expected a regular file", "Save it to a file first")
        if status.st_size > MAX_FILE_BYTES:
            found = f"it has {status.st_size} bytes; expected at most {MAX_FILE_BYTES}"
            raise unreadable(path, found, "Save a smaller copy")
        return path.read_bytes()
    except PermissionError as error:
        raise unreadable(path, "this user may not read it", "Change its permissions") from error
    except (FileNotFoundError, NotADirectoryError) as error:
        broken = path.is_symlink()
        found = "it is a link to a file that does not exist" if broken else "there is no such file"
        raise unreadable(path, found, "Check the name and the folder") from error
    except (OSError, ValueError) as error:  # ValueError: a NUL character in the name
        raise unreadable(path, f"the system refused: {error}", "Check the name and the disk") from error


_FOREIGN = (
    (b"version https://git-lfs", "it is a Git LFS pointer, not the picture", "Fetch the real file with 'git lfs pull'"),
    (b"<!doctype html", "it is a web page, not a picture", "Download the picture itself"),
    (b"<html", "it is a web page, not a picture", "Download the picture itself"),
    (b"<svg", "it is an SVG drawing", "Export it as PNG"),
    (b"gif8", "it is a GIF", "Save it as PNG; to restore an animation, name it .gif, which is a film"),
    (b"bm", "it is a BMP", "Save it as PNG"),
    (b"%pdf", "it is a PDF", "Export its page as PNG"),
)


def _kind(path: Path, data: bytes) -> str:
    if data[:3] == b"\xff\xd8\xff":
        return "jpeg"
    if data[:8] == b"\x89PNG\r\n\x1a\n":
        return "png"
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "webp"
    if data[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"):
        return "tiff"
    if not data:
        raise unreadable(path, "the file is empty (0 bytes)", "Get a whole copy of the file")
    if data[4:8] == b"ftyp":
        found, todo = "it is a HEIC, AVIF or MP4 file", "Save it as PNG or JPEG; for a film use the video input"
        raise unreadable(path, found, todo)
    head = data[:512].lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    for start, found, todo in _FOREIGN:
        if head.startswith(start):
            raise unreadable(path, found, todo)
    found = f"it begins with {data[:8].hex(' ')}; expected {titles(PICTURES, last='or')}"
    raise unreadable(path, found, "Save it in one of these formats")


def _read_common(path: Path, data: bytes, kind: str) -> Picture:
    """Read a JPEG, PNG or WebP."""
    if size := metadata.header_size(kind, data):
        require_size(path, *size)
    if kind == "jpeg":
        require_process(path, data)
    with Image.open(io.BytesIO(data), formats=[kind]) as image:
        require_size(path, *image.size)
        picture = from_pillow(path, image, kind)
        last = image.getpixel((image.width - 1, image.height - 1)) if kind == "jpeg" else 0
    exif, orientation, notes = metadata.kept_exif(image.info.get("exif") or metadata.legacy_exif(image.info))
    if kind == "png" and data[24] == 16:
        rgb, alpha = decode_deep(data, picture.rgb.shape[:2], np.uint16)
        # Colour type 0 is gray, 4 gray with alpha.
        picture = replace(picture, rgb=rgb, alpha=alpha, gray=data[25] in (0, 4))
    picture = upright(replace(picture, exif=exif), orientation)
    if kind == "jpeg":
        jpeg = split(data)
        if (row := first_missing_row(jpeg, last if isinstance(last, tuple) else (last,))) is not None:
            found = "the JPEG file is cut short: it has an end, but data of its pixels are missing "
            found += f"from row {row} of {jpeg.frame.height} on"
            raise unreadable(path, found, "Get a whole copy of the file")
        beside, more = jpeg_beside.read_beside(jpeg.head, orientation)
        coding = Coding(jpeg=data)
    elif kind == "png":
        beside, more = png_chunks.read_beside(data, orientation)
        coding = Coding()
    else:
        beside, coding, more = webp.read_beside(data, orientation)
    return replace(picture, beside=beside, coding=coding, notes=(*picture.notes, *notes, *more))
