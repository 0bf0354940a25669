"""Tell what a file is by its content, and what to do with those that are no pictures to restore."""

from __future__ import annotations

import struct
from pathlib import Path

from PIL import features

from .. import metadata
from ..decoders import strict_decoders
from ..formats import PICTURES, Package, PictureFormat, titles
from .refuse import unreadable

_FOREIGN = (
    (b"version https://git-lfs", "it is a Git LFS pointer, not the picture", "Fetch the real file with 'git lfs pull'"),
    (b"<!doctype html", "it is a web page, not a picture", "Download the picture itself"),
    (b"<html", "it is a web page, not a picture", "Download the picture itself"),
    (b"<svg", "it is an SVG drawing", "Export it as PNG"),
    (b"%pdf", "it is a PDF", "Export its page as PNG"),
    (b"8bps", "it is a Photoshop document", "Export it as TIFF or PNG, which flattens its layers"),
)

_RAW_HEADS = (
    (b"FUJIFILMCCD-RAW", "Fujifilm RAF"), (b"IIRO", "Olympus ORF"), (b"IIRS", "Olympus ORF"), (b"MMOR", "Olympus ORF"),
    (b"IIU\0", "Panasonic RW2"), (b"FOVb", "Sigma X3F"), (b"II\x1a\0\0\0HEAPCCDR", "Canon CRW"),
)  # fmt: skip

_BRANDS = {
    "avif": {b"avif", b"avis"},
    "heif": {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs"},
}
"""Of the first box of an ISO file, by what codes its pictures; 'mif1' and 'msf1' leave that to the others."""

_DNG_VERSION, _SUB_DIRECTORIES, _MAKE, _COMPRESSION, _PHOTOMETRIC = 50706, 330, 271, 259, 262
_SENSOR = {32803, 34892}
"""Photometric interpretations of a sensor's own values: a colour filter array, and linear raw."""
_OF_CAMERAS = {32767, 32769, 32770, 34713, 65000, 65535}
"""Compressions that Sony, Epson, Samsung, Nikon, Kodak and Pentax made for their own."""

_FEATURES = {"avif": "avif", "webp": "webp", "jpeg2000": "jpg_2000"}
"""What Pillow can be built without, by the formats that need it."""


def kind_of(path: Path, data: bytes) -> str:
    """Return the name of the format that a file's content is of; `path` names it in messages.

    Raises:
        InputMediaError: it is none of those that are read, or what reads it is not installed.
    """
    kind = _kind_of(path, data)
    require_reader(path, picture_kind(kind))
    return kind


def picture_kind(name: str) -> PictureFormat:
    """Return the format of that name."""
    return next(each for each in PICTURES if each.name == name)


def missing(kind: PictureFormat) -> Package | str | None:
    """Return what a format needs and is not here: a package, or words about Pillow's build; None where all is here."""
    if kind.needs is not None and not kind.needs.here:
        return kind.needs
    feature = _FEATURES.get(kind.name)
    if feature is not None and not features.check(feature):
        return f"this build of Pillow is without {kind.title}"
    return None


def require_reader(path: Path, kind: PictureFormat) -> None:
    """Refuse a file whose format needs what is not installed.

    Raises:
        InputMediaError: it says what to install.
    """
    lacking = missing(kind)
    if isinstance(lacking, Package):
        found = f"it is {_a(kind.title)} picture, and {lacking.title}, which reads them, is not installed"
        raise unreadable(path, found, f"{lacking.install}, then run again; or save the picture as JPEG or PNG")
    if lacking:
        found = f"it is {_a(kind.title)} picture, and {lacking}"
        raise unreadable(path, found, "Install Pillow from the package index (pip install --force-reinstall pillow)")


def _a(title: str) -> str:
    return f"an {title}" if title[0] in "AEIO" else f"a {title}"


def _kind_of(path: Path, data: bytes) -> str:
    for heads, kind in (
        ((b"\xff\xd8\xff",), "jpeg"),
        ((b"\x89PNG\r\n\x1a\n",), "png"),
        ((b"GIF87a", b"GIF89a"), "gif"),
        ((b"\xff\x0a", b"\0\0\0\x0cJXL \r\n\x87\n"), "jxl"),
        ((b"\0\0\0\x0cjP  \r\n\x87\n", b"\xff\x4f\xff\x51"), "jpeg2000"),
    ):
        if data.startswith(heads):
            return kind
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "webp"
    if camera := raw_camera(data):
        raise unreadable(path, f"it is a camera's raw file ({camera})", picture_kind("raw").instead)
    if data[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"):
        return "tiff"
    # Length of the file in the header, which a text that begins with these letters does not have.
    if data[:2] == b"BM" and len(data) > 18 and struct.unpack_from("<I", data, 14)[0] in (12, 40, 52, 56, 64, 108, 124):
        return "bmp"
    if data[:1] == b"P" and data[1:2] in b"123456" and data[2:3].isspace():
        return "ppm"
    if not data:
        raise unreadable(path, "the file is empty (0 bytes)", "Get a whole copy of the file")
    if data[4:8] == b"ftyp":
        return _iso_kind(path, data)
    head = data[:512].lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    for start, found, todo in _FOREIGN:
        if head.startswith(start):
            raise unreadable(path, found, todo)
    found = f"it begins with {data[:8].hex(' ')}; expected {titles(PICTURES, last='or')}"
    raise unreadable(path, found, "Save it in one of these formats")


def _iso_kind(path: Path, data: bytes) -> str:
    """Return what the brands of an ISO file say: the first one, else the compatible ones."""
    (length,) = struct.unpack_from(">I", data, 0)
    major, others = data[8:12], {data[place : place + 4] for place in range(16, min(length, len(data)), 4)}
    for brands in ({major}, others):
        for kind, known in _BRANDS.items():
            if brands & known:
                return kind
    if major == b"crx ":
        raise unreadable(path, "it is a camera's raw file (Canon CR3)", picture_kind("raw").instead)
    name = major.decode("latin-1").strip()
    if major in (b"mif1", b"msf1", b"jpeg", b"j2ki"):
        found = f"it is a HEIF file of the kind '{name}', whose pictures are coded as neither HEVC nor AV1"
        raise unreadable(path, found, "Save it as PNG or JPEG")
    found = f"it is an MP4 or MOV file (brand '{name}'), not a picture"
    raise unreadable(path, found, "Name it .mp4 or .mov to restore it as a film")


def raw_camera(data: bytes) -> str | None:
    """Return whose raw file this is, None where it is none; many are TIFF files of another content."""
    for head, name in _RAW_HEADS:
        if data.startswith(head):
            return name
    if data[:4] not in (b"II*\0", b"MM\0*"):
        return None
    if data[8:10] == b"CR":
        return "Canon CR2"
    try:
        with strict_decoders():
            first = metadata.read_directory(data)
            inner = first.get(_SUB_DIRECTORIES, ())
            inner = [inner] if isinstance(inner, int) else list(inner)[:16]
            maker, version = str(first.get(_MAKE, "")).strip("\0 "), first.get(_DNG_VERSION)
            every = [first, *(metadata.read_directory(data, offset) for offset in inner)]
            of_sensor = any(
                tags.get(_PHOTOMETRIC) in _SENSOR or tags.get(_COMPRESSION) in _OF_CAMERAS for tags in every
            )
    except Exception:
        # Pillow's directory reader has no error class of its own; a damaged TIFF is told as such later.
        return None
    if version is not None:
        return f"DNG{f' of {maker}' if maker else ''}"
    return (maker or "of an unnamed camera") if of_sensor else None
