"""The bytes beside the pixels: headers, EXIF and TIFF directories, ICC profiles, PNG chunks.

An EXIF block is a small TIFF file without pixels, so one set of functions reads both.
"""

from __future__ import annotations

import io
import struct
from typing import Any, NamedTuple

from PIL.TiffImagePlugin import ImageFileDirectory_v2

ORIENTATION = 0x0112
EXIF_DIRECTORY = 0x8769
GPS_DIRECTORY = 0x8825
INTEROP_DIRECTORY = 0xA005
ICC_PROFILE = 0x8773
XMP, IPTC, PHOTOSHOP = 700, 33723, 34377

_DESCRIBING = (270, 271, 272, ORIENTATION, 282, 283, 296, 305, 306, 315, 316, 18246, 33432, *range(40091, 40096))
"""Tags of a TIFF's first directory that describe the photo; the others lay out its pixels, which are written anew."""
_PIXEL_X, _PIXEL_Y = 0xA002, 0xA003


class _Layout(NamedTuple):
    """How a TIFF or BigTIFF directory is packed."""

    endian: str
    count: str
    entry: int
    value: int
    offset: str
    first: int


def _layout(block: bytes) -> _Layout:
    endian = {b"II": "<", b"MM": ">"}.get(bytes(block[:2]))
    if endian is None:
        raise ValueError("no TIFF header")
    (magic,) = struct.unpack_from(f"{endian}H", block, 2)
    if magic == 43:
        return _Layout(endian, "Q", 20, 12, "Q", struct.unpack_from(f"{endian}Q", block, 8)[0])
    return _Layout(endian, "H", 12, 8, "I", struct.unpack_from(f"{endian}I", block, 4)[0])


def _entries(block: bytes, layout: _Layout, directory: int) -> tuple[dict[int, int], int]:
    """Return where each tag's entry begins, and where the offset of the next directory stands."""
    (count,) = struct.unpack_from(layout.endian + layout.count, block, directory)
    start = directory + struct.calcsize(f"={layout.count}")
    end = start + count * layout.entry
    if end > len(block):
        raise ValueError("the directory reaches beyond the end")
    places = range(start, end, layout.entry)
    return {struct.unpack_from(f"{layout.endian}H", block, place)[0]: place for place in places}, end


def set_upright(block: bytes) -> tuple[bytes, int]:
    """Set the orientation of a TIFF file or EXIF block to 1, changing no other byte.

    Patched in place because re-writing a block loses maker notes, whose inner offsets only the camera knows.

    Returns:
        The block, and the orientation it had: 1 to 8, 1 where there was none or it was out of range.

    Raises:
        ValueError, struct.error: the block is damaged.
    """
    layout = _layout(block)
    tags, _ = _entries(block, layout, layout.first)
    if ORIENTATION not in tags:
        return block, 1
    place = tags[ORIENTATION]
    (kind,) = struct.unpack_from(f"{layout.endian}H", block, place + 2)
    code = layout.endian + {3: "H", 4: "I"}.get(kind, "B")
    (orientation,) = struct.unpack_from(code, block, place + layout.value)
    patched = bytearray(block)
    struct.pack_into(code, patched, place + layout.value, 1)
    return bytes(patched), orientation if 1 <= orientation <= 8 else 1


def upright_exif(block: bytes) -> tuple[bytes, int]:
    """Make an EXIF block true of the upright, restored picture.

    The orientation becomes 1, the stored width and height change places with it, and the preview is unlinked: it
    shows the picture as it was before.

    Returns:
        The block, and the orientation it had.

    Raises:
        ValueError, struct.error: the block is damaged.
    """
    block, orientation = set_upright(block)
    patched = bytearray(block)
    layout = _layout(block)
    _, end = _entries(block, layout, layout.first)
    struct.pack_into(layout.endian + layout.offset, patched, end, 0)
    upright = bytes(patched)
    return _swapped_sides(upright) if orientation >= 5 else upright, orientation


def stored_exif(block: bytes, orientation: int) -> bytes | None:
    """Undo `upright_exif` but for the preview: the orientation, and the stored width and height, are as they were.

    Returns:
        The block; None where it has no place for an orientation.

    Raises:
        ValueError, struct.error: the block is damaged.
    """
    layout = _layout(block)
    tags, _ = _entries(block, layout, layout.first)
    if ORIENTATION not in tags:
        return None
    place = tags[ORIENTATION]
    (kind,) = struct.unpack_from(f"{layout.endian}H", block, place + 2)
    patched = bytearray(_swapped_sides(block) if orientation >= 5 else block)
    struct.pack_into(layout.endian + {3: "H", 4: "I"}.get(kind, "B"), patched, place + layout.value, orientation)
    return bytes(patched)


def _swapped_sides(block: bytes) -> bytes:
    """Let the stored width and height change places."""
    layout, patched = _layout(block), bytearray(block)
    tags, _ = _entries(block, layout, layout.first)
    if EXIF_DIRECTORY in tags:
        place = tags[EXIF_DIRECTORY] + layout.value
        inner, _ = _entries(block, layout, struct.unpack_from(layout.endian + layout.offset, block, place)[0])
        if _PIXEL_X in inner and _PIXEL_Y in inner:
            x, y = inner[_PIXEL_X] + 2, inner[_PIXEL_Y] + 2
            size = layout.entry - 2
            patched[x : x + size], patched[y : y + size] = block[y : y + size], block[x : x + size]
    return bytes(patched)


def enlarged_exif(block: bytes, factor: int) -> bytes:
    """Make the stored width and height of an EXIF block true of the enlarged picture; every other byte stays.

    Raises:
        ValueError, struct.error: the block is damaged.
    """
    layout, patched = _layout(block), bytearray(block)
    tags, _ = _entries(block, layout, layout.first)
    if EXIF_DIRECTORY not in tags:
        return block
    place = tags[EXIF_DIRECTORY] + layout.value
    inner, _ = _entries(block, layout, struct.unpack_from(layout.endian + layout.offset, block, place)[0])
    for tag in (_PIXEL_X, _PIXEL_Y):
        if tag in inner:
            (kind,) = struct.unpack_from(f"{layout.endian}H", block, inner[tag] + 2)
            code, value = layout.endian + {3: "H", 4: "I"}.get(kind, "B"), inner[tag] + layout.value
            larger = factor * struct.unpack_from(code, block, value)[0]
            if kind == 3 and larger > 0xFFFF:  # as a long number, for which an entry has the room
                struct.pack_into(f"{layout.endian}H", patched, inner[tag] + 2, 4)
                code = f"{layout.endian}I"
            struct.pack_into(code, patched, value, larger)
    return bytes(patched)


def read_directory(block: bytes, offset: int | None = None, group: int | None = None) -> ImageFileDirectory_v2:
    """Read one directory of a TIFF file or EXIF block; the first one without `offset`."""
    directory = ImageFileDirectory_v2(block[: 16 if block[2:4] in (b"+\0", b"\0+") else 8], group=group)
    stream = io.BytesIO(block)
    stream.seek(directory.next if offset is None else offset)
    directory.load(stream)
    return directory


def describing_tags(block: bytes) -> ImageFileDirectory_v2:
    """Return what a TIFF file or EXIF block says about the photo: camera, date, author, exposure, place.

    The orientation is left as it is. Maker notes survive as bytes.
    """
    source, kept = read_directory(block), ImageFileDirectory_v2()
    for tag in _DESCRIBING:
        if tag in source:
            kept.tagtype[tag] = source.tagtype[tag]
            kept[tag] = source[tag]
    for tag in (EXIF_DIRECTORY, GPS_DIRECTORY):
        if tag in source and (inner := dict(read_directory(block, source[tag], tag))):
            if INTEROP_DIRECTORY in inner:
                inner[INTEROP_DIRECTORY] = dict(read_directory(block, inner[INTEROP_DIRECTORY], INTEROP_DIRECTORY))
            kept[tag] = inner
    return kept


def to_block(directory: ImageFileDirectory_v2) -> bytes | None:
    """Return a directory as an EXIF block, None when it is empty."""
    if not len(directory):
        return None
    stream = io.BytesIO()
    directory.save(stream)
    return stream.getvalue()


def profile_space(profile: bytes) -> str | None:
    """Return the colour space an ICC profile is for ('RGB', 'GRAY', 'CMYK', ...), None when it is no profile."""
    if len(profile) < 128 or profile[36:40] != b"acsp":
        return None
    return profile[16:20].decode("latin-1").strip()


def fitting_profile(profile: bytes | None, *, gray: bool) -> tuple[bytes | None, list[str]]:
    """Return the ICC profile if it is whole and describes RGB (or gray, for a gray picture), and notes."""
    if not profile:
        return None, []
    space = profile_space(profile)
    if space == "RGB" or (space == "GRAY" and gray):
        return bytes(profile), []
    return None, [f"an ICC profile {f'for {space}' if space else 'that is damaged'} is not kept"]


def legacy_exif(info: dict[Any, Any]) -> bytes | None:
    """Return the EXIF block that older ImageMagick versions put into a PNG as hexadecimal text."""
    text = info.get("Raw profile type exif")
    try:
        return bytes.fromhex("".join(text.split("\n")[3:])) if text else None
    except ValueError:
        return None


def kept_exif(block: bytes | None) -> tuple[bytes | None, int, list[str]]:
    """Return the EXIF block of the upright picture, the rotation it asked for, and notes."""
    block = (block or b"").removeprefix(b"Exif\0\0")
    if not block:
        return None, 1, []
    try:
        block, orientation = upright_exif(block)
        # A block that cannot be taken apart would stop the writing of a finished picture as TIFF.
        to_block(describing_tags(block))
    except Exception:
        # Pillow's directory reader has no error class of its own.
        return None, 1, ["the EXIF block is damaged and not kept"]
    return block, orientation, []


def ends_early(kind: str, data: bytes) -> bool:
    """Tell whether a JPEG, PNG or WebP lacks its end."""
    if kind == "webp":
        return len(data) < 12 or len(data) < 8 + struct.unpack_from("<I", data, 4)[0]
    ending = {"jpeg": b"\xff\xd9", "png": b"IEND"}.get(kind)
    return ending is not None and ending not in data[-4096:]


def header_size(kind: str, data: bytes) -> tuple[int, int] | None:
    """Read the size without a decoder; None leaves it to Pillow, whose JPEG header costs nothing."""
    if kind == "png" and data[12:16] == b"IHDR":
        return struct.unpack_from(">II", data, 16)
    # Pillow's WebP decoder allocates two whole canvases when it opens a file.
    chunk = data[12:16]
    if kind == "webp" and chunk == b"VP8X":
        return int.from_bytes(data[24:27], "little") + 1, int.from_bytes(data[27:30], "little") + 1
    if kind == "webp" and chunk == b"VP8L":
        bits = int.from_bytes(data[21:25], "little")
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    if kind == "webp":
        width, height = struct.unpack_from("<HH", data, 26)
        return width & 0x3FFF, height & 0x3FFF
    return None
