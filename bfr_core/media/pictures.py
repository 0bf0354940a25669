"""Read pictures with all they carry, and write them back with nothing lost in silence.

Two decoders share the work, each for what it alone does right. Pillow reads every header, profile and EXIF block,
and all 8-bit pixels: it knows palettes, transparency keys, CMYK and gray with alpha, which OpenCV mixes up. OpenCV
reads 16-bit and float pixels, which Pillow cuts to 8 bit or refuses.
"""

from __future__ import annotations

import io
import stat
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np
import torch
from PIL import Image, ImageCms
from PIL.TiffImagePlugin import ImageFileDirectory_v2
from torch import Tensor

from ..errors import BfrError, InputMediaError, OutputMediaError, SettingsError
from . import metadata
from .atomic import publish
from .decoders import strict_decoders
from .encoding import encode
from .formats import PICTURES, picture_format, suffixes, titles
from .scaling import enlarge_plane

MAX_PIXELS = 178_956_970
"""Largest width times height: about 13 400 squared, where Pillow refuses too. 0.5 GB of 8-bit RGB."""

MAX_FILE_BYTES = 2**32 - 1
"""Largest file read into memory: what a classic TIFF can hold."""

_LARGEST_SIDE = {"jpeg": 65_500, "webp": 16_383}
_LARGEST_EXIF_IN_JPEG = 65_527
_FULL_SCALE = {"uint8": 255, "uint16": 65_535, "float32": 1}


@dataclass(frozen=True, slots=True)
class Picture:
    """A picture, upright, with what its file said about it.

    Resolution in dots per inch is kept only where it is part of the EXIF block.
    """

    rgb: np.ndarray
    """(H, W, 3) uint8, uint16 or float32; R, G and B are equal for a gray file. Float is meant as [0, 1] but kept."""
    alpha: np.ndarray | None = None
    """(H, W) of the same dtype, not multiplied into `rgb`; full scale is opaque."""
    icc: bytes | None = None
    """Colour profile that `rgb` is in; None is taken as sRGB."""
    exif: bytes | None = None
    """EXIF block from its TIFF header on, without 'Exif\\0\\0'; its orientation is 1."""
    gray: bool = False
    """The file had a single colour channel."""
    kind: str = "png"
    """'jpeg', 'png', 'webp' or 'tiff': what the file was, whatever its name."""
    notes: tuple[str, ...] = ()
    """Everything the file held that is not carried over."""

    def __post_init__(self) -> None:
        fits = (
            self.rgb.ndim == 3 and self.rgb.shape[2] == 3 and self.rgb.size > 0 and str(self.rgb.dtype) in _FULL_SCALE
        )
        if fits and self.alpha is not None:
            fits = self.alpha.shape == self.rgb.shape[:2] and self.alpha.dtype == self.rgb.dtype
        if not fits:
            alpha = "none" if self.alpha is None else f"{self.alpha.shape} {self.alpha.dtype}"
            raise InputMediaError(
                "These arrays are not a picture",
                found=f"found rgb {self.rgb.shape} {self.rgb.dtype} and alpha {alpha}; expected (H, W, 3) and (H, W), "
                "both uint8, uint16 or float32, at least one pixel",
                kept="They are unchanged",
                todo="Convert them first",
            )


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
            picture = _read_tiff(path, data) if kind == "tiff" else _read_common(path, data, kind)
    except BfrError:
        raise
    except MemoryError as error:
        raise _unreadable(path, "it does not fit into memory", "Close other programs or shrink it") from error
    except Exception as error:
        # Decoders raise SyntaxError, struct.error, OSError, ValueError, zlib.error and more on damaged files.
        state = "is cut short" if metadata.ends_early(kind, data) else "is damaged"
        found = f"the {kind.upper()} file {state} ({error or type(error).__name__}); it holds {len(data)} bytes"
        raise _unreadable(path, found, "Get a whole copy of the file") from error
    if picture.rgb.dtype == np.float32:
        values = [picture.rgb] if picture.alpha is None else [picture.rgb, picture.alpha]
        if bad := sum(int(np.count_nonzero(~np.isfinite(value))) for value in values):
            raise _unreadable(path, f"{bad} of its values are NaN or infinite", "Repair the picture where it was made")
    named = picture_format(path)
    if named is not None and named.name != kind:
        picture = replace(picture, notes=(*picture.notes, f"named {path.suffix} but holds {kind.upper()}"))
    return picture


def to_float(picture: Picture) -> Tensor:
    """Return the colours as (3, H, W) float32: integers in [0, 1], float as it is."""
    values = torch.from_numpy(picture.rgb.astype(np.float32)).permute(2, 0, 1).contiguous()
    return values.div_(_FULL_SCALE[str(picture.rgb.dtype)])


def from_float(picture: Picture, rgb: Tensor, changed: Tensor | None = None) -> Picture:
    """Return `picture` with new colours at its own depth.

    Integer depths are clamped to [0, 1] and rounded; float is taken as it is. Alpha, EXIF and notes stay. A gray
    profile is dropped, and noted, once the colours are not gray any more.

    Args:
        picture: what `rgb` was made from.
        rgb: (3, H, W) float, on any device.
        changed: (H, W) bool; where it is False the original is copied bit for bit. None takes all of `rgb`.

    Raises:
        InputMediaError: a shape or dtype differs, or `rgb` holds NaN or infinity.
    """
    height, width = picture.rgb.shape[:2]
    shapes_fit = tuple(rgb.shape) == (3, height, width) and rgb.is_floating_point()
    if changed is not None:
        shapes_fit = shapes_fit and tuple(changed.shape) == (height, width) and changed.dtype == torch.bool
    finite = shapes_fit and bool(torch.isfinite(rgb).all())
    if not finite:
        mask = "none" if changed is None else f"{tuple(changed.shape)} {changed.dtype}"
        found = f"found {tuple(rgb.shape)} {rgb.dtype} and mask {mask}; expected (3, {height}, {width}) float and "
        found += f"({height}, {width}) bool"
        raise InputMediaError(
            "Cannot turn this tensor into the picture it was made from",
            found="some of its values are NaN or infinite" if shapes_fit else found,
            kept="The picture is unchanged",
            todo="Run again in float32" if shapes_fit else "Bring it to that shape first",
        )
    values = rgb.detach().to("cpu", torch.float32).permute(1, 2, 0).numpy()
    scale = _FULL_SCALE[str(picture.rgb.dtype)]
    if scale > 1:
        values = np.rint(values.clip(0, 1) * np.float32(scale)).astype(picture.rgb.dtype)
    if changed is not None:
        values = np.where(changed.cpu().numpy()[..., None], values, picture.rgb)
    result = replace(picture, rgb=np.ascontiguousarray(values))
    if result.icc and metadata.profile_space(result.icc) == "GRAY" and not _single_channel(result):
        note = "the gray ICC profile does not fit colour and is not kept"
        result = replace(result, icc=None, notes=(*result.notes, note))
    return result


def enlarged_from_float(picture: Picture, rgb: Tensor, factor: int) -> Picture:
    """Return `picture` with new colours that are `factor` times as wide and as high, at its own depth.

    Alpha is enlarged by Lanczos, and the EXIF block says the new size. As `from_float` otherwise.
    """
    height, width = picture.rgb.shape[:2]
    alpha, exif = picture.alpha, picture.exif
    if alpha is not None:
        alpha = enlarge_plane(alpha, factor, (0, _FULL_SCALE[str(alpha.dtype)]))
    if exif is not None:
        exif = metadata.enlarged_exif(exif, factor)
    blank = np.empty((height * factor, width * factor, 3), picture.rgb.dtype)
    return from_float(replace(picture, rgb=blank, alpha=alpha, exif=exif), rgb)


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
    single = kind != "webp" and _single_channel(picture)
    icc = picture.icc
    if icc and metadata.profile_space(icc) == "GRAY" and not single:
        icc = None
    try:
        data = encode(kind, _channels(picture, single), icc=icc, exif=picture.exif, quality=quality)
    except Exception as error:
        raise _unwritable(path, f"the {kind.upper()} encoder failed: {error}", "Use another format") from error
    with publish(path) as file:
        file.write(data)


# Reading


def _unreadable(path: Path, found: str, todo: str) -> InputMediaError:
    return InputMediaError(f"Cannot read {path}", found=found, kept="The file is untouched", todo=todo)


def _read_bytes(path: Path) -> bytes:
    try:
        status = path.stat()
        # Told before opening: a FIFO would wait for its writer for ever.
        if stat.S_ISDIR(status.st_mode):
            raise _unreadable(path, "it is a folder; expected one picture file", "Name a file inside it")
        if not stat.S_ISREG(status.st_mode):
            raise _unreadable(
                path, "it is a pipe, socket or device; expected a regular file", "Save it to a file first"
            )
        if status.st_size > MAX_FILE_BYTES:
            found = f"it has {status.st_size} bytes; expected at most {MAX_FILE_BYTES}"
            raise _unreadable(path, found, "Save a smaller copy")
        return path.read_bytes()
    except PermissionError as error:
        raise _unreadable(path, "this user may not read it", "Change its permissions") from error
    except (FileNotFoundError, NotADirectoryError) as error:
        broken = path.is_symlink()
        found = "it is a link to a file that does not exist" if broken else "there is no such file"
        raise _unreadable(path, found, "Check the name and the folder") from error
    except (OSError, ValueError) as error:  # ValueError: a NUL character in the name
        raise _unreadable(path, f"the system refused: {error}", "Check the name and the disk") from error


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
        raise _unreadable(path, "the file is empty (0 bytes)", "Get a whole copy of the file")
    if data[4:8] == b"ftyp":
        found, todo = "it is a HEIC, AVIF or MP4 file", "Save it as PNG or JPEG; for a film use the video input"
        raise _unreadable(path, found, todo)
    head = data[:512].lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    for start, found, todo in _FOREIGN:
        if head.startswith(start):
            raise _unreadable(path, found, todo)
    found = f"it begins with {data[:8].hex(' ')}; expected {titles(PICTURES, last='or')}"
    raise _unreadable(path, found, "Save it in one of these formats")


def _require_size(path: Path, width: int, height: int) -> None:
    if width * height > MAX_PIXELS:
        found = f"its header says {width} x {height} pixels; expected at most {MAX_PIXELS} in all"
        raise _unreadable(path, found, "Save a smaller copy if the file is what you think it is")
    if width < 1 or height < 1:
        raise ValueError(f"its header says {width} x {height} pixels")


def _read_common(path: Path, data: bytes, kind: str) -> Picture:
    """Read a JPEG, PNG or WebP."""
    if size := metadata.header_size(kind, data):
        _require_size(path, *size)
    with Image.open(io.BytesIO(data), formats=[kind]) as image:
        _require_size(path, *image.size)
        picture = _from_pillow(path, image, kind)
    exif, orientation, notes = metadata.kept_exif(image.info.get("exif") or metadata.legacy_exif(image.info))
    if kind == "png" and data[24] == 16:
        rgb, alpha = _decode_deep(data, picture.rgb.shape[:2], np.uint16)
        # Colour type 0 is gray, 4 gray with alpha.
        picture = replace(picture, rgb=rgb, alpha=alpha, gray=data[25] in (0, 4))
    return _upright(replace(picture, exif=exif, notes=(*picture.notes, *notes)), orientation)


def _read_tiff(path: Path, data: bytes) -> Picture:
    tags = metadata.read_directory(data)
    width, height, samples = tags[256], tags[257], tags.get(277, 1)
    _require_size(path, width, height)
    # Both decoders turn a TIFF upright, each in its own versions; patched to 1, it is turned here, once.
    upright, orientation = metadata.set_upright(data)
    depth = max(tags.get(258, (1,)))
    if depth <= 8:
        with Image.open(io.BytesIO(upright), formats=["TIFF"]) as image:
            picture = _from_pillow(path, image, "tiff")
    else:
        picture = _read_deep_tiff(path, upright, tags)
    notes = list(picture.notes)
    colours = {0: 1, 1: 1, 3: 1, 5: 4}.get(tags.get(262), 3)
    if (spare := samples - colours - (picture.alpha is not None)) > 0:
        notes.append(f"{spare} extra channel(s) are not kept")
    unkept = {700: "XMP", 33723: "IPTC", 34377: "Photoshop data", 37724: "Photoshop layers"}
    notes += [f"{name} is not kept" for tag, name in unkept.items() if tag in tags]
    if (pages := metadata.count_pages(data)) > 1:
        notes.append(f"first page of {pages} used")
    exif, _, damage = metadata.kept_exif(metadata.to_block(metadata.describing_tags(data)))
    return _upright(replace(picture, exif=exif, notes=(*notes, *damage)), orientation)


def _read_deep_tiff(path: Path, data: bytes, tags: ImageFileDirectory_v2) -> Picture:
    """Read a TIFF of 16-bit or float channels."""
    bits, samples, photometric = set(tags.get(258, (1,))), tags.get(277, 1), tags.get(262, 1)
    form = set(tags.get(339, (1,)))
    dtype = np.uint16 if (bits, form) == ({16}, {1}) else np.float32 if (bits, form) == ({32}, {3}) else None
    # OpenCV returns wrong pixels and no error for planes stored one after the other, so they are refused by name.
    planar = samples > 1 and tags.get(284, 1) != 1
    known = (samples == 1 and photometric in (0, 1)) or (samples in (3, 4) and photometric == 2)
    if dtype is None or planar or not known:
        form_names = {1: "unsigned", 2: "signed", 3: "float"}
        kinds = "/".join(form_names.get(value, str(value)) for value in sorted(form))
        found = f"{samples} channel(s) of {'/'.join(map(str, sorted(bits)))} bit {kinds}, photometric {photometric}"
        found += ", stored as planes" if planar else ""
        found = (
            f"its pixels are {found}; expected gray, RGB or RGBA of 8 or 16 bit unsigned or 32 bit float, interleaved"
        )
        raise _unreadable(path, found, "Save it as 16-bit RGB or RGBA")
    rgb, alpha = _decode_deep(data, (tags[257], tags[256]), dtype)
    notes: list[str] = []
    extra = tags.get(338, (2,))[0]
    if photometric == 0:
        rgb = (_FULL_SCALE[str(rgb.dtype)] - rgb).astype(dtype)
    if alpha is not None and extra == 0:
        alpha = None
    elif alpha is not None and extra == 1:
        # Alpha is stored unmultiplied everywhere else; where it is 0 the colour is gone and stays as it is.
        scale = _FULL_SCALE[str(rgb.dtype)]
        plain = rgb.astype(np.float64) * scale / np.maximum(alpha, np.finfo(np.float32).tiny)[..., None]
        plain = np.rint(plain).clip(0, scale) if scale > 1 else plain
        rgb = np.where((alpha > 0)[..., None], plain, rgb).astype(dtype)
        notes.append("premultiplied alpha turned into plain alpha")
    icc, more = metadata.fitting_profile(tags.get(metadata.ICC_PROFILE), gray=samples == 1)
    return Picture(rgb, alpha, icc, None, samples == 1, "tiff", (*notes, *more))


def _decode_deep(data: bytes, shape: tuple[int, ...], dtype: type) -> tuple[np.ndarray, np.ndarray | None]:
    """Decode 16-bit or float pixels. Returns (H, W, 3) and (H, W) or None."""
    pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    if pixels is None or pixels.shape[:2] != tuple(shape) or pixels.dtype != dtype:
        raise ValueError("its pixels do not decode")
    if pixels.ndim == 2:
        return np.repeat(pixels[..., None], 3, axis=2), None
    alpha = np.ascontiguousarray(pixels[..., 3]) if pixels.shape[2] == 4 else None
    return np.ascontiguousarray(pixels[..., 2::-1]), alpha


def _from_pillow(path: Path, image: Image.Image, kind: str) -> Picture:
    """Decode 8-bit pixels as they are stored, with profile and notes; EXIF and rotation are the caller's."""
    notes: list[str] = []
    if (frames := getattr(image, "n_frames", 1)) > 1 and kind != "tiff":
        notes.append(f"{'several pictures' if kind == 'jpeg' else 'animated'}: first frame of {frames} used")
    image.load()
    info, mode = image.info, image.mode
    profile = info.get("icc_profile")
    gray, alpha = mode in ("1", "L", "LA", "La", "I;16"), None
    if mode == "CMYK":
        image, how = _from_cmyk(image, profile)
        profile = None
        notes.append(how)
    elif mode not in ("1", "L", "LA", "La", "I;16", "P", "PA", "RGB", "RGBA", "RGBX", "RGBa", "YCbCr"):
        found = f"its colour mode is {mode}; expected gray, RGB, RGBA, palette or CMYK"
        raise _unreadable(path, found, "Save it as RGB")
    if mode == "1":
        notes.append("1 bit per pixel becomes 8")
    elif mode in ("P", "PA"):
        notes.append("the palette becomes full RGB")
    if mode == "I;16":
        # Its 16-bit pixels are decoded by OpenCV; Pillow is here for what stands around them.
        rgb = np.zeros((image.height, image.width, 3), np.uint8)
    elif image.has_transparency_data:
        rgba = np.asarray(image.convert("LA").convert("RGBA") if mode == "La" else image.convert("RGBA"))
        rgb, alpha = np.ascontiguousarray(rgba[..., :3]), np.ascontiguousarray(rgba[..., 3])
    else:
        rgb = np.array(image.convert("RGB"))
    unkept = {"xmp": "XMP", "photoshop": "Photoshop data", "comment": "a comment"}
    notes += [f"{name} is not kept" for key, name in unkept.items() if info.get(key) and kind != "tiff"]
    if getattr(image, "text", None) and set(image.text) - {"XML:com.adobe.xmp", "Raw profile type exif"}:
        notes.append("text notes are not kept")
    if not profile and abs(info.get("gamma", 0.45455) - 0.45455) > 0.005:
        notes.append(f"a gamma of {info['gamma']:.4g} is not kept; sRGB is assumed")
    icc, more = metadata.fitting_profile(profile, gray=gray)
    return Picture(rgb, alpha, icc, None, gray, kind, (*notes, *more))


def _from_cmyk(image: Image.Image, profile: bytes | None) -> tuple[Image.Image, str]:
    """Return the picture as sRGB, and how that was done."""
    if profile and metadata.profile_space(profile) == "CMYK":
        try:
            source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
            result = ImageCms.profileToProfile(
                image,
                source,
                ImageCms.createProfile("sRGB"),
                renderingIntent=ImageCms.Intent.RELATIVE_COLORIMETRIC,
                outputMode="RGB",
                flags=ImageCms.Flags.BLACKPOINTCOMPENSATION,
            )
        except (ImageCms.PyCMSError, OSError):
            return image.convert("RGB"), "CMYK converted to RGB without its ICC profile, which is damaged"
        if result is not None:
            return result, "CMYK converted to sRGB RGB through its ICC profile"
    return image.convert("RGB"), "CMYK converted to RGB by the plain formula, as it has no ICC profile for CMYK"


def _upright(picture: Picture, orientation: int) -> Picture:
    """Apply an EXIF orientation: the position of the stored first row and column, as the viewer sees them."""

    def turn(pixels: np.ndarray) -> np.ndarray:
        if orientation >= 5:
            pixels = pixels.swapaxes(0, 1)
        if orientation in (3, 4, 7, 8):
            pixels = pixels[::-1]
        if orientation in (2, 3, 6, 7):
            pixels = pixels[:, ::-1]
        return np.ascontiguousarray(pixels)

    alpha = None if picture.alpha is None else turn(picture.alpha)
    return replace(picture, rgb=turn(picture.rgb), alpha=alpha)


# Writing


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


def _single_channel(picture: Picture) -> bool:
    """Tell whether the picture is written as one colour channel."""
    if not picture.gray or (picture.alpha is not None and picture.rgb.dtype != np.uint8):
        return False
    # Compared as bits, so that -0.0 is not taken for 0.0 and lost.
    bits = picture.rgb.view(np.uint32) if picture.rgb.dtype == np.float32 else picture.rgb
    return bool((bits[..., :1] == bits[..., 1:]).all())


def _channels(picture: Picture, single: bool) -> np.ndarray:
    """Return (H, W, 1 to 4): gray or RGB, then alpha."""
    colours = picture.rgb[..., :1] if single else picture.rgb
    return colours if picture.alpha is None else np.concatenate([colours, picture.alpha[..., None]], axis=2)
