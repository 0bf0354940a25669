"""Join TIFF files of one page, as they are written here, to one file of several pages."""

from __future__ import annotations

import struct
from collections.abc import Sequence

from .. import metadata
from .encode import LARGEST_TIFF

_SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4}
"""Bytes of a value, by type."""
_STRIPS = 273
_DIRECTORIES = (metadata.EXIF_DIRECTORY, metadata.GPS_DIRECTORY, metadata.INTEROP_DIRECTORY)


def join_tiffs(files: Sequence[bytes]) -> bytes:
    """Return one little-endian TIFF whose pages are those of `files`, in order.

    Args:
        files: classic little-endian TIFFs of one page each, with strips.

    Raises:
        ValueError: together they are larger than a TIFF can be.
    """
    result = bytearray(b"II*\0\0\0\0\0")
    link = 4
    for file in files:
        base = len(result) + len(result) % 2
        if base + len(file) > LARGEST_TIFF:
            raise ValueError(f"the pages need more than the {LARGEST_TIFF} bytes that TIFF holds")
        result += bytes(base - len(result))
        page = bytearray(file)
        (first,) = struct.unpack_from("<I", page, 4)
        end = _move(page, first, base)
        # The header of the page stays in front of it as eight bytes that nothing points to.
        result += page
        struct.pack_into("<I", result, link, base + first)
        link = base + end
    return bytes(result)


def _move(page: bytearray, directory: int, base: int) -> int:
    """Add `base` to every offset in a directory and those below it; return where that of the next page stands."""
    layout = metadata._layout(bytes(page[:8]))
    (count,) = struct.unpack_from("<H", page, directory)
    for place in range(directory + 2, directory + 2 + count * layout.entry, layout.entry):
        tag, kind, values = struct.unpack_from("<HHI", page, place)
        size = _SIZES.get(kind, 1) * values
        (offset,) = struct.unpack_from("<I", page, place + 8)
        if tag in _DIRECTORIES:
            _move(page, offset, base)
        elif tag == _STRIPS:
            code = f"<{values}{'H' if kind == 3 else 'I'}"
            start = offset if size > 4 else place + 8
            moved = [strip + base for strip in struct.unpack_from(code, page, start)]
            if kind == 3:
                raise ValueError("its strips have short offsets")
            struct.pack_into(code, page, start, *moved)
        if tag in _DIRECTORIES or size > 4:
            struct.pack_into("<I", page, place + 8, offset + base)
    return directory + 2 + count * layout.entry
