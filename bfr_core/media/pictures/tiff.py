"""Read the pages of a TIFF: gray, RGB, CMYK and L*a*b* of 8 or 16 bits or float, interleaved or in planes.

A decoder is handed the file with a directory of its own at the end, which says of the same pixels what that decoder
reads right: one page, upright, CMYK and L*a*b* as plain channels, a plane as a gray picture.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image
from PIL.TiffImagePlugin import ImageFileDirectory_v2

from .. import metadata
from ..formats import TIFF_CODECS
from .colours import from_cmyk16, from_lab, plain_alpha
from .directory import page_chain, with_directory
from .picture import FULL_SCALE, Picture
from .pixels import decode_deep, from_pillow, upright
from .refuse import require_size, unreadable
from .tiff_beside import read_beside

_COMPRESSIONS = {
    2: "CCITT run lengths", 3: "CCITT group 3", 4: "CCITT group 4", 5: "LZW", 6: "JPEG of the old kind", 7: "JPEG",
    8: "deflate", 9: "JBIG", 10: "JBIG", 32766: "NeXT", 32773: "PackBits", 32809: "ThunderScan", 32946: "deflate",
    33003: "JPEG 2000", 33004: "JPEG 2000", 33005: "JPEG 2000", 33007: "JPEG", 34661: "JBIG", 34676: "SGI Log",
    34677: "SGI Log", 34712: "JPEG 2000", 34887: "LERC", 34892: "lossy JPEG", 34925: "LZMA", 34926: "Zstandard",
    34927: "WebP", 34933: "PNG", 34934: "JPEG XR", 22610: "JPEG XR", 50000: "Zstandard", 50001: "WebP",
    50002: "JPEG XL", 52546: "JPEG XL",
}  # fmt: skip
_IN_PILLOW = {1, 2, 3, 4, 5, 7, 8, 32773, 32946}
"""Compressions that every build of Pillow reads: where those fail, the file is damaged."""
_IN_OPENCV = {1, 5, 8, 32773, 32946}
_GRAY, _RGB, _CMYK, _LAB = (0, 1), (2,), (5,), (8, 9)
_FORMS = {1: "unsigned", 2: "signed", 3: "float"}


def page_offsets(data: bytes) -> tuple[list[int], list[str]]:
    """Return where the directories of the pages begin, and notes on what else the file chains to them."""
    offsets, reduced, masks = [], 0, 0
    for offset in page_chain(data):
        kind = 0
        if offsets:
            try:
                kind = metadata.read_directory(data, offset).get(254, 0)
            except Exception:
                # Pillow's directory reader has no error class of its own; reading the page says what is wrong.
                kind = 0
        if kind & 1:
            reduced += 1
        elif kind & 4:
            masks += 1
        else:
            offsets.append(offset)
    notes = [f"{reduced} reduced cop{'y is' if reduced == 1 else 'ies are'} not kept"] if reduced else []
    return offsets, notes + ([f"{masks} mask(s) of transparency are not kept"] if masks else [])


def read_tiff(path: Path, data: bytes) -> Picture:
    """Read the first page of a TIFF or BigTIFF, upright."""
    offsets, notes = page_offsets(data)
    picture = read_page(path, data, offsets[0])
    if len(offsets) > 1:
        notes.append(f"first page of {len(offsets)} used")
    return replace(picture, notes=(*picture.notes, *notes))


def read_page(path: Path, data: bytes, offset: int) -> Picture:
    """Read the page whose directory begins at `offset`, upright."""
    tags = metadata.read_directory(data, offset)
    width, height, samples = tags[256], tags[257], tags.get(277, 1)
    require_size(path, width, height)
    _require_pixels(path, data, tags)
    photometric = tags.get(262, 1)
    if max(tags.get(258, (1,))) <= 8 and photometric not in _LAB:
        picture = _read_shallow(path, data, offset, tags)
    else:
        picture = _read_deep(path, data, offset, tags)
    notes = list(picture.notes)
    colours = {0: 1, 1: 1, 3: 1, 5: 4}.get(photometric, 3)
    if (spare := samples - colours - (picture.alpha is not None)) > 0:
        notes.append(f"{spare} extra channel(s) are not kept")
    if 37724 in tags:
        notes.append("Photoshop layers are not kept")
    page = with_directory(data, offset, {})
    _, orientation = metadata.set_upright(page)
    beside, more = read_beside(tags, orientation)
    exif, _, damage = metadata.kept_exif(metadata.to_block(metadata.describing_tags(page)))
    return upright(replace(picture, exif=exif, beside=beside, notes=(*notes, *more, *damage)), orientation)


def _require_pixels(path: Path, data: bytes, tags: ImageFileDirectory_v2) -> None:
    """Refuse a page whose pixels lie beyond the end of the file.

    The decoders would take what is put there for them, the directory, for pixels.

    Raises:
        InputMediaError: the file is cut short.
    """
    offsets, counts = (324, 325) if 324 in tags else (273, 279)
    pairs = list(zip(tags.get(offsets, ()), tags.get(counts, ()), strict=False))
    if tags.get(259, 1) == 1 and 324 not in tags and len(pairs) == 1:
        # Some writers say too much of the only strip.
        bits = sum(tags.get(258, (1,) * tags.get(277, 1)))
        pairs = [(pairs[0][0], min(pairs[0][1], (tags[256] * bits + 7) // 8 * tags[257]))]
    if pairs and (end := max(offset + count for offset, count in pairs)) > len(data):
        found = f"it is cut short: its pixels reach to byte {end}, and it holds {len(data)}"
        raise unreadable(path, found, "Get a whole copy of the file")


def _read_shallow(path: Path, data: bytes, offset: int, tags: ImageFileDirectory_v2) -> Picture:
    """Read a page of at most 8 bits with Pillow."""
    # Both decoders turn a TIFF upright, each in its own versions; patched to 1, it is turned by the caller, once.
    page = with_directory(data, offset, {metadata.ORIENTATION: (3, (1,))})
    try:
        with Image.open(io.BytesIO(page), formats=["TIFF"]) as image:
            return from_pillow(path, image, "tiff")
    except Exception:
        if tags.get(259, 1) in _IN_PILLOW:
            raise
        pixels = _by_tifffile(path, page, tags)
    if pixels.dtype != np.uint8 or tags.get(262, 1) not in (*_GRAY, *_RGB, 6):
        raise unreadable(
            path, f"its pixels are {_layout(tags)}, {_packing(tags)}", "Save it as RGB with LZW or deflate"
        )
    # Where the codec knows YCbCr (6), it gives RGB.
    return _picture(pixels, 2 if tags.get(262, 1) == 6 else tags.get(262, 1), tags)


def _read_deep(path: Path, data: bytes, offset: int, tags: ImageFileDirectory_v2) -> Picture:
    """Read a page of 16-bit or float channels, or of L*a*b*."""
    bits, samples, photometric = set(tags.get(258, (1,))), tags.get(277, 1), tags.get(262, 1)
    form = set(tags.get(339, (1,)))
    unsigned = form == {1} or (form == {1, 2} and photometric == 8)  # of L*a*b*, two are signed
    dtype = None
    if bits == {8} or (bits == {16} and unsigned):
        dtype = np.uint8 if bits == {8} else np.uint16
    elif (bits, form) == ({32}, {3}):
        dtype = np.float32
    packed = len(bits) == 1 and 8 < min(bits) < 16 and unsigned  # 12 bits of scanners: for tifffile
    least = {6: 3, **dict.fromkeys(_GRAY, 1), **dict.fromkeys((*_RGB, *_LAB), 3), **dict.fromkeys(_CMYK, 4)}
    # JPEG of 12 bit may be YCbCr (6), of which the codec makes RGB.
    known = samples >= least.get(photometric, samples + 1) and (photometric != 6 or packed)
    known = known and not (photometric in (*_CMYK, *_LAB) and bits == {32})
    if not known or (dtype is None and not (packed and TIFF_CODECS.here)):
        found = f"its pixels are {_layout(tags)}; expected gray, RGB, CMYK or L*a*b* of 8 or 16 bit unsigned, or gray "
        todo = f"Save it as 16-bit RGB or RGBA{f', or {TIFF_CODECS.install}' if packed else ''}"
        raise unreadable(path, f"{found}or RGB of 32 bit float", todo)
    pixels = _samples(path, data, offset, tags, np.uint16 if dtype is None else dtype)
    if dtype is None:
        pixels = np.rint(pixels * (65_535 / ((1 << min(bits)) - 1))).astype(np.uint16)
    return _picture(pixels, 2 if photometric == 6 else photometric, tags)


def _samples(path: Path, data: bytes, offset: int, tags: ImageFileDirectory_v2, dtype: type) -> np.ndarray:
    """Return (H, W, C) as it is stored: with OpenCV, and where that does not know how it is packed, with tifffile."""
    samples, shape = tags.get(277, 1), (tags[257], tags[256])
    plain = {metadata.ORIENTATION: (3, (1,)), 262: (3, (1 if samples == 1 else 2,)), 339: None, 338: None}
    form = 3 if dtype == np.float32 else 1
    bits = 8 * np.dtype(dtype).itemsize
    whole = with_directory(data, offset, {metadata.ORIENTATION: (3, (1,))})
    if set(tags.get(258, (1,))) != {bits}:
        return _by_tifffile(path, whole, tags)
    try:
        if samples > 1 and tags.get(284, 1) != 1:
            # OpenCV returns wrong pixels and no error for planes stored one after the other.
            one = plain | {258: (3, (bits,)), 262: (3, (1,)), 277: (3, (1,)), 284: (3, (1,)), 339: (3, (form,))}
            planes = [with_directory(data, offset, one | _plane(tags, number)) for number in range(samples)]
            return np.stack([decode_deep(plane, shape, dtype)[0][..., 0] for plane in planes], axis=2)
        if samples in (1, 3, 4):
            more = {339: (3, (form,) * samples)} | ({338: (3, (2,))} if samples == 4 else {})
            rgb, alpha = decode_deep(with_directory(data, offset, plain | more), shape, dtype)
            return rgb[..., :1] if samples == 1 else rgb if alpha is None else np.dstack([rgb, alpha])
    except ValueError:
        if tags.get(259, 1) in _IN_OPENCV:
            raise
    return _by_tifffile(path, whole, tags)


def _plane(tags: ImageFileDirectory_v2, number: int) -> dict[int, tuple[int, Sequence[int]] | None]:
    """Return where the strips or tiles of one plane lie."""
    pair = (324, 325) if 324 in tags else (273, 279)
    changes = {}
    for tag in pair:
        values = tags[tag]
        count = len(values) // tags.get(277, 1)
        changes[tag] = (4, tuple(values[number * count : (number + 1) * count]))
    return changes


def _by_tifffile(path: Path, page: bytes, tags: ImageFileDirectory_v2) -> np.ndarray:
    """Return (H, W, C) as tifffile and imagecodecs read it.

    Raises:
        InputMediaError: they are not installed, or cannot read it either.
    """
    if not TIFF_CODECS.here:
        found = f"its pixels are {_layout(tags)}, {_packing(tags)}, which neither Pillow nor OpenCV reads here"
        raise unreadable(path, found, f"{TIFF_CODECS.install}, or save it with LZW or deflate")
    import tifffile

    try:
        with tifffile.TiffFile(io.BytesIO(page)) as file:
            first = file.pages[0]
            pixels, axes = np.asarray(first.asarray()), str(first.axes)
    except (ValueError, RuntimeError, KeyError, struct.error, tifffile.TiffFileError) as error:
        found = f"its pixels are {_layout(tags)}, {_packing(tags)}, and imagecodecs does not read it: {error}"
        raise unreadable(path, found, "Save it with LZW or deflate") from error
    if axes.startswith("S"):
        pixels = np.moveaxis(pixels, 0, -1)
    pixels = pixels.reshape(tags[257], tags[256], -1)
    return np.ascontiguousarray(pixels.astype(pixels.dtype.newbyteorder("=")))


def _picture(pixels: np.ndarray, photometric: int, tags: ImageFileDirectory_v2) -> Picture:
    """Return (H, W, C) as a picture; further channels than colours and alpha are the caller's to note."""
    colours = {5: 4}.get(photometric, 1 if photometric in _GRAY else 3)
    scale, notes = FULL_SCALE[str(pixels.dtype)], []
    extra = list(tags.get(338, ()) or ())[: pixels.shape[2] - colours]
    if not extra and pixels.shape[2] == colours + 1 and colours == 3:
        extra = [2]  # an old habit: four channels of RGB without a word about the fourth
    place = next((number for number, what in enumerate(extra) if what in (1, 2)), None)
    alpha = None if place is None else np.ascontiguousarray(pixels[..., colours + place])
    values, profile = pixels[..., :colours], tags.get(metadata.ICC_PROFILE)
    if photometric in _LAB:
        rgb, note = from_lab(values, offset=photometric == 9)
        profile = None
        notes.append(note)
    elif photometric in _CMYK:
        rgb, note = from_cmyk16(values, profile)
        profile, alpha = None, None if rgb.dtype != pixels.dtype else alpha
        notes.append(note)
    else:
        rgb = np.repeat(values, 3, axis=2) if colours == 1 else np.ascontiguousarray(values)
    if photometric == 0:
        rgb = (scale - rgb).astype(pixels.dtype)
    if alpha is not None and place is not None and extra[place] == 1:
        rgb = plain_alpha(rgb, alpha)
        notes.append("premultiplied alpha turned into plain alpha")
    icc, more = metadata.fitting_profile(profile, gray=colours == 1)
    return Picture(rgb, alpha, icc, None, colours == 1, "tiff", (*notes, *more))


def _packing(tags: ImageFileDirectory_v2) -> str:
    """Return how a page is compressed, in words."""
    number = tags.get(259, 1)
    name = _COMPRESSIONS.get(number, "an unknown method")
    return "uncompressed" if number == 1 else f"compressed by {name} ({number})"


def _layout(tags: ImageFileDirectory_v2) -> str:
    """Return what the pixels of a page are, in words."""
    bits, samples = sorted(set(tags.get(258, (1,)))), tags.get(277, 1)
    kinds = "/".join(_FORMS.get(value, str(value)) for value in sorted(set(tags.get(339, (1,)))))
    planes = ", stored as planes" if samples > 1 and tags.get(284, 1) != 1 else ""
    return f"{samples} channel(s) of {'/'.join(map(str, bits))} bit {kinds}, photometric {tags.get(262, 1)}{planes}"
