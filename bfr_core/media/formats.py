"""The formats of pictures and films: what is read, what is written, and how a file is named.

This is the one table of them. Commands, nodes and texts take their lists from it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from .content import name_of


@dataclass(frozen=True, slots=True)
class Package:
    """A package that a format needs, and that is not installed with this one."""

    modules: tuple[str, ...]
    """What is imported."""
    title: str
    """Its name in the package index."""
    extra: str
    """Extra of this distribution that installs it."""

    @property
    def here(self) -> bool:
        """Whether it is installed; nothing is imported."""
        return all(find_spec(module) is not None for module in self.modules)

    @property
    def install(self) -> str:
        """The command that installs it."""
        return f"pip install 'bfr-faces[{self.extra}]'"


HEIF = Package(("pillow_heif",), "pillow-heif", "heif")
JXL = Package(("pillow_jxl",), "pillow-jxl-plugin", "jxl")
TIFF_CODECS = Package(("tifffile", "imagecodecs"), "tifffile and imagecodecs", "tiff")


@dataclass(frozen=True, slots=True)
class PictureFormat:
    """A format of still pictures, some of which hold several."""

    name: str
    """That of the decoders and encoders, and of `Picture.kind`."""
    title: str
    """What people call it."""
    suffixes: tuple[str, ...]
    read: bool = True
    write: bool = True
    notes: str = ""
    """What a person should know of it."""
    several: str = ""
    """What its further pictures are called, in the plural, where it is read and written with all of them."""
    needs: Package | None = None
    """Without it no file of this format is read or written."""
    helps: Package | None = None
    """With it, more files of this format are read."""
    instead: str = ""
    """What to do with a file of a format that is not read."""


@dataclass(frozen=True, slots=True)
class FilmFormat:
    """A container of moving pictures."""

    name: str
    """FFmpeg's name of the muxer, and of the demuxer where that is not in `demuxers`."""
    title: str
    """What people call it."""
    suffixes: tuple[str, ...]
    demuxers: tuple[str, ...]
    """FFmpeg's names of what may read a file of that name."""
    codecs: tuple[str, ...] = ()
    """What is written to it, by the names of `video.encode.ENCODERS`; the first is usual."""
    read: bool = True
    write: bool = False
    notes: str = ""
    """What a person should know of it."""


_DEVELOP = "Develop it in a raw converter (darktable, RawTherapee, the camera maker's) and save a 16-bit TIFF or PNG"

PICTURES = (
    PictureFormat("jpeg", "JPEG", (".jpg", ".jpeg", ".jpe", ".jfif"), notes="8 bit, without alpha"),
    PictureFormat("png", "PNG", (".png", ".apng"), notes="8 and 16 bit", several="frames"),
    PictureFormat("webp", "WebP", (".webp",), notes="8 bit; without loss at quality 100", several="frames"),
    PictureFormat(
        "tiff", "TIFF", (".tif", ".tiff"), notes="8 and 16 bit, and float; rarer compressions need the package",
        several="pages", helps=TIFF_CODECS,
    ),
    PictureFormat("avif", "AVIF", (".avif", ".avifs"), notes="10 and 12 bit become 8", several="frames"),
    PictureFormat("heif", "HEIC", (".heic", ".heif", ".hif"), notes="8 bit, and up to 12 kept as 16", needs=HEIF),
    PictureFormat("jxl", "JPEG XL", (".jxl",), notes="more than 8 bit become 8", needs=JXL),
    PictureFormat(
        "gif", "GIF", (".gif",), notes="256 colours a frame; as MKV or MP4 it is restored as a film", several="frames"
    ),
    PictureFormat("bmp", "BMP", (".bmp", ".dib"), notes="8 bit, without alpha, profile and EXIF"),
    PictureFormat(
        "ppm", "PNM", (".pnm", ".ppm", ".pgm", ".pbm"), notes="8 and 16 bit, without alpha, profile and EXIF"
    ),
    PictureFormat("jpeg2000", "JPEG 2000", (".jp2", ".j2k", ".jpx"), notes="more than 8 bit become 8; no EXIF"),
    PictureFormat(
        "raw", "camera raw",
        (
            ".dng", ".cr2", ".cr3", ".crw", ".nef", ".nrw", ".arw", ".sr2", ".srf", ".raf", ".orf", ".rw2", ".pef",
            ".srw", ".x3f", ".3fr", ".iiq",
        ),
        read=False, write=False, instead=_DEVELOP,
    ),
)  # fmt: skip

_ISO = ("mov", "mp4", "m4a", "3gp", "3g2", "mj2")
"""FFmpeg has one demuxer for all of them, which a white list has to name in full."""

_NO_TIMES = "it has no times, so a frame rate is needed"

FILMS = (
    FilmFormat("mp4", "MP4", (".mp4", ".m4v"), _ISO, ("h264", "h265", "vp9"), write=True),
    FilmFormat("mov", "MOV", (".mov", ".qt"), _ISO, ("h264", "h265", "prores"), write=True),
    FilmFormat(
        "matroska", "MKV", (".mkv",), ("matroska", "webm"), ("h264", "h265", "vp9", "ffv1", "prores"),
        write=True, notes="times in milliseconds",
    ),
    FilmFormat(
        "webm", "WebM", (".webm",), ("matroska", "webm"), ("vp9",), write=True, notes="times in milliseconds"
    ),
    FilmFormat("avi", "AVI", (".avi", ".divx"), ("avi",)),
    FilmFormat("mpegts", "MPEG-TS", (".ts", ".m2ts", ".mts", ".m2t", ".tod", ".trp"), ("mpegts",)),
    FilmFormat("mpeg", "MPEG-PS", (".mpg", ".mpeg", ".vob", ".mod", ".m2p"), ("mpeg", "mpegts", "mpegvideo")),
    FilmFormat("3gp", "3GP", (".3gp", ".3g2"), _ISO),
    FilmFormat("dv", "DV", (".dv", ".dif"), ("dv",), notes="tapes: every frame is two fields"),
    FilmFormat("asf", "WMV", (".wmv", ".asf"), ("asf",)),
    FilmFormat("flv", "FLV", (".flv",), ("flv",)),
    FilmFormat("f4v", "F4V", (".f4v",), _ISO),
    FilmFormat("mxf", "MXF", (".mxf",), ("mxf",)),
    FilmFormat("ogg", "Ogg", (".ogv", ".ogm"), ("ogg",)),
    FilmFormat("rm", "RealMedia", (".rm", ".rmvb"), ("rm",)),
    FilmFormat("wtv", "WTV", (".wtv",), ("wtv",)),
    FilmFormat("mpegvideo", "raw MPEG-1 and -2", (".m2v", ".m1v", ".mpv"), ("mpegvideo",)),
    FilmFormat("h264", "raw H.264", (".h264", ".264", ".avc"), ("h264",), notes=_NO_TIMES),
    FilmFormat("hevc", "raw H.265", (".h265", ".265", ".hevc"), ("hevc",), notes=_NO_TIMES),
    FilmFormat("yuv4mpegpipe", "Y4M", (".y4m",), ("yuv4mpegpipe",)),
    FilmFormat("ivf", "IVF", (".ivf",), ("ivf",)),
    FilmFormat("nut", "NUT", (".nut",), ("nut",)),
    FilmFormat("gif", "GIF", (".gif",), ("gif",)),
)  # fmt: skip


_FILM_NAMES = frozenset(each.name for each in FILMS if each.read)


def picture_format(path: Path) -> PictureFormat | None:
    """Return the format that a file's suffix names; None where it names none of pictures."""
    return next((each for each in PICTURES if path.suffix.lower() in each.suffixes), None)


def film_format(path: Path) -> FilmFormat | None:
    """Return the format that a file's suffix names; None where it names none of films."""
    return next((each for each in FILMS if path.suffix.lower() in each.suffixes), None)


def is_picture(path: Path) -> bool:
    """Return whether a file is named like a picture that is read."""
    found = picture_format(path)
    return found is not None and found.read


def is_clip(path: Path) -> bool:
    """Return whether `path` is a film that is read: by its content where that tells, else by its name; no folder is."""
    if (told := name_of(path)) is not None:
        return told in _FILM_NAMES
    found = film_format(path)
    return found is not None and found.read and not path.is_dir()


def is_picture_and_film(path: Path) -> bool:
    """Return whether a file is of a format that is both, which GIF is: by its content where that tells."""
    told = name_of(path) or getattr(film_format(path), "name", None)
    return any(each.name == told for each in PICTURES) and told in _FILM_NAMES


def becomes_film(source: Path, target: Path) -> bool:
    """Return whether a file is restored as a film: a GIF is one if its result is named as one."""
    named = picture_format(target)
    return is_clip(source) and not (is_picture_and_film(source) and named is not None and named.write)


def content_format(path: Path) -> PictureFormat | FilmFormat | None:
    """Return the format that a file's content tells; None where it tells none, or one that is not in the tables."""
    told = name_of(path)
    return next((each for each in (*FILMS, *PICTURES) if each.name == told), None)


def misnamed(path: Path) -> str:
    """Return words on a file whose content is not what its suffix says; empty where they agree, or one is not known."""
    told, named = name_of(path), film_format(path) or picture_format(path)
    if told is None or named is None or told == named.name:
        return ""
    found = content_format(path)
    if isinstance(found, FilmFormat) and isinstance(named, FilmFormat) and set(found.demuxers) & set(named.demuxers):
        return ""  # one demuxer reads both, as of MP4 and MOV
    what = found.title if found else told.upper()
    kind = "film" if told in _FILM_NAMES else "picture"
    return f"it is named {path.suffix}, and its content is a {kind}: {what}"


def suffixes(formats: Sequence[PictureFormat | FilmFormat], *, write: bool = False) -> tuple[str, ...]:
    """Return the suffixes of those formats that are read, or of those that are written."""
    return tuple(suffix for each in formats if (each.write if write else each.read) for suffix in each.suffixes)


def titles(formats: Sequence[PictureFormat | FilmFormat], *, write: bool = False, last: str = "and") -> str:
    """Return the names of those formats that are read, or of those that are written, as in 'JPEG, PNG and WebP'."""
    names = [each.title for each in formats if (each.write if write else each.read)]
    return f" {last} ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)


def demuxers() -> str:
    """Return FFmpeg's names of the containers that are read, as its white list takes them."""
    return ",".join(dict.fromkeys(name for each in FILMS if each.read for name in each.demuxers))
