"""What is refused before a picture is decoded: files that are none, and pictures that are too large."""

from __future__ import annotations

import re
from pathlib import Path

from ...errors import InputMediaError

MAX_PIXELS = 178_956_970
"""Largest width times height: about 13 400 squared, where Pillow refuses too. 0.5 GB of 8-bit RGB."""

MAX_FILE_BYTES = 2**32 - 1
"""Largest file read into memory: what a classic TIFF can hold."""


def unreadable(path: Path, found: str, todo: str) -> InputMediaError:
    """Return the error of a picture that cannot be read."""
    return InputMediaError(f"Cannot read {path}", found=found, kept="The file is untouched", todo=todo)


_ADDRESS = re.compile(r"<[\w.]+(?: object)? at 0x[0-9a-fA-F]+>|0x[0-9a-fA-F]{6,}")


def plain_words(error: BaseException) -> str:
    """Return what a decoder says of a file, without the names and addresses of objects in this program."""
    words = _ADDRESS.sub("the file", str(error)).strip()
    return " ".join(words.split()) or type(error).__name__


def require_size(path: Path, width: int, height: int) -> None:
    """Refuse a header that says more than MAX_PIXELS, or none.

    Raises:
        InputMediaError: too many pixels.
        ValueError: less than one.
    """
    if width * height > MAX_PIXELS:
        found = f"its header says {width} x {height} pixels; expected at most {MAX_PIXELS} in all"
        raise unreadable(path, found, "Save a smaller copy if the file is what you think it is")
    if width < 1 or height < 1:
        raise ValueError(f"its header says {width} x {height} pixels")
