"""Read the file of a picture: told by its content, upright, at its full depth."""

from __future__ import annotations

import io
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image

from ...errors import BfrError
from .. import metadata
from ..decoders import strict_decoders
from ..formats import film_format, picture_format
from . import jpeg_beside, png_chunks, webp
from .beside import Coding
from .jpeg import split
from .jpeg_check import first_missing_row, require_process
from .others import OTHERS, read_other
from .picture import Picture
from .pixels import decode_deep, from_pillow, upright
from .plugins import read_heif
from .refuse import MAX_FILE_BYTES, plain_words, require_size, unreadable
from .sniff import kind_of, picture_kind
from .tiff import read_tiff


def read_picture(path: Path) -> Picture:
    """Read a picture at its full depth, told by its content and not by its suffix.

    Rotation is applied to the pixels. CMYK becomes sRGB, through the file's profile where it has one. Of an
    animation or a file of several pages the first is read. What is not carried over is said in `notes`.

    Raises:
        InputMediaError: the path is missing, no regular file, unreadable, empty, no picture of these kinds, damaged,
            cut short, of more than MAX_PIXELS (refused from its header, before decoding), or of a pixel layout that
            is not read (the message names it).
    """
    path = Path(path)
    return decode_picture(read_whole(path), path)


def decode_picture(data: bytes, path: Path) -> Picture:
    """Read a picture from the bytes of its file; `path` names it in messages. As `read_picture` otherwise."""
    kind = kind_of(path, data)
    with decoding(path, data, kind):
        picture = _READERS.get(kind, _read_common)(path, data, kind)
    return checked(path, picture)


@contextmanager
def decoding(path: Path, data: bytes, kind: str, which: str = "") -> Iterator[None]:
    """Hold the decoders' switches, and turn what they raise into words.

    `which` says of several pictures which one it is, as 'page 2 of '.

    Raises:
        InputMediaError: whatever a decoder raises.
    """
    try:
        with strict_decoders():
            yield
    except BfrError:
        raise
    except MemoryError as error:
        raise unreadable(path, "it does not fit into memory", "Close other programs or shrink it") from error
    except Exception as error:
        # Decoders raise SyntaxError, struct.error, OSError, ValueError, zlib.error and more on damaged files.
        state = "is cut short" if metadata.ends_early(kind, data) else "is damaged"
        found = f"{which}the {picture_kind(kind).title} file {state} ({plain_words(error)}); it holds "
        raise unreadable(path, f"{found}{len(data)} bytes", "Get a whole copy of the file") from error


def checked(path: Path, picture: Picture) -> Picture:
    """Return a decoded picture, with a note where the file is named as something else.

    Raises:
        InputMediaError: some of its values are NaN or infinite.
    """
    if picture.rgb.dtype == np.float32:
        values = [picture.rgb] if picture.alpha is None else [picture.rgb, picture.alpha]
        if bad := sum(int(np.count_nonzero(~np.isfinite(value))) for value in values):
            raise unreadable(path, f"{bad} of its values are NaN or infinite", "Repair the picture where it was made")
    named = picture_format(path) or film_format(path)
    if named is not None and named.name != picture.kind:
        held = picture_kind(picture.kind).title
        picture = replace(picture, notes=(*picture.notes, f"named {path.suffix} but holds {held}"))
    return picture


def read_whole(path: Path) -> bytes:
    """Return the bytes of a picture file.

    Raises:
        InputMediaError: it is missing, no regular file, unreadable or too large.
    """
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


_READERS = {
    "tiff": lambda path, data, _: read_tiff(path, data),
    "heif": lambda path, data, _: read_heif(path, data),
    **dict.fromkeys(OTHERS, read_other),
}
"""By kind; the others are read by `_read_common`."""
