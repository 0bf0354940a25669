"""Animations, frame by frame: GIF, WebP, PNG and AVIF.

Pillow lays every frame over those before it, as the file says; what is read is what a viewer shows. GIF is written
here: Pillow drops frames that show nothing new and makes palettes anew, which would change pixels that no face touches.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from .. import metadata
from . import webp, xmp
from .beside import Beside, Coding
from .encode import USUAL_QUALITY
from .picture import Picture
from .pixels import from_pillow, upright
from .plugins import avif_notes
from .refuse import require_size, unreadable

ANIMATED = {"gif": "GIF", "webp": "WEBP", "png": "PNG", "avif": "AVIF"}
"""Kinds that are read and written with all their frames, with Pillow's names of them."""

MOST_BYTES = 2**32
"""Of all frames together, uncompressed: they are held in memory while the file is written."""


@dataclass(frozen=True, slots=True)
class Frame:
    """One of several pictures of a file."""

    picture: Picture
    milliseconds: float = 0
    """How long it is shown."""
    changed: np.ndarray | None = None
    """(H, W) bool: where it is not what was read; None where that is not known."""


@dataclass(frozen=True, slots=True)
class Play:
    """How an animation is shown."""

    count: int
    loop: int | None
    """How often it is shown, 0 for ever; None where the file does not say, which is once."""
    poster: bool = False
    """The first picture is shown where animations are not, and is no part of this one (PNG)."""


def animation_of(path: Path, data: bytes, kind: str) -> Play | None:
    """Return how the animation in a file is shown; None where it holds one frame.

    Raises:
        InputMediaError: it is too large.
    """
    if size := metadata.header_size(kind, data):
        require_size(path, *size)
    with Image.open(io.BytesIO(data), formats=[ANIMATED[kind]]) as image:
        count = getattr(image, "n_frames", 1)
        require_size(path, *image.size)
        if count < 2:
            return None
        if (needed := 4 * image.width * image.height * count) > MOST_BYTES:
            found = f"its {count} frames of {image.width} x {image.height} take {needed} bytes of memory; expected at "
            raise unreadable(path, f"{found}most {MOST_BYTES}", "Make a film of it (MP4), or use --pages first")
        loop = image.info.get("loop", 0 if kind == "avif" else None)
        return Play(count, loop, bool(image.info.get("default_image")))


def read_frames(path: Path, data: bytes, kind: str) -> Iterator[Frame]:
    """Yield the frames of an animation as they are shown, upright, with the notes of the file at the first."""
    with Image.open(io.BytesIO(data), formats=[ANIMATED[kind]]) as image:
        exif, orientation, notes = metadata.kept_exif(image.info.get("exif"))
        coding = webp_coding(data) if kind == "webp" else Coding()
        packet = image.info.get("xmp")
        beside = Beside(xmp=packet.encode() if isinstance(packet, str) else packet, orientation=orientation)
        if kind == "png" and data[24] == 16:
            notes.append("16 bit become 8")
        if kind == "avif":
            notes += avif_notes(path, data, profile=bool(image.info.get("icc_profile")))
        for number in range(getattr(image, "n_frames", 1)):
            image.seek(number)
            image.load()
            frame = _frame(path, image, kind, exif, orientation, notes if number == 0 else [])
            yield replace(frame, picture=replace(frame.picture, coding=coding, beside=beside))


def webp_coding(data: bytes) -> Coding:
    """Return how the frames of an animated WebP are coded: without loss if all are, else as well as the best."""
    qualities, lossy = [], False
    for name, body in webp.chunks(data):
        if name == b"ANMF":
            for inner, content in webp.chunks(bytes(12) + body[16:]):
                lossy = lossy or inner == b"VP8 "
                if inner == b"VP8 " and (quality := webp.estimated_quality(content)):
                    qualities.append(quality)
    return Coding(quality=max(qualities, default=None), lossless=not lossy)


def _frame(path: Path, image: Image.Image, kind: str, exif: bytes | None, orientation: int, notes: list[str]) -> Frame:
    picture = from_pillow(path, image, kind)
    of_frames = ("animated", "the palette")
    notes = [*(note for note in picture.notes if not note.startswith(of_frames)), *notes]
    # Gray is a matter of the whole animation, and no format of these keeps it by the frame.
    whole = Picture(picture.rgb, picture.alpha, picture.icc, exif, False, kind, tuple(notes))
    return Frame(upright(whole, orientation), float(image.info.get("duration", 0)))


# Writing


def encode_animation(kind: str, frames: Iterable[Frame], play: Play, *, quality: int | None) -> bytes:
    """Encode frames of one size as GIF, WebP, PNG or AVIF, with their times, loops and transparency.

    Raises:
        Exception: whatever the encoder raises.
    """
    if kind == "gif":
        return encode_gif(frames, play.loop)
    held = list(frames)
    alpha = any(frame.picture.alpha is not None for frame in held)
    images = [Image.fromarray(_rgba(frame.picture) if alpha else frame.picture.rgb) for frame in held]
    first = held[0].picture
    times = [round(frame.milliseconds) for frame in held]
    options: dict[str, Any] = {"save_all": True, "append_images": images[1:], "icc_profile": first.icc}
    options |= {"exif": b"Exif\0\0" + first.exif if first.exif else b""}
    if first.beside.xmp and kind != "png":
        options["xmp"] = xmp.fitted(first.beside.xmp, first.beside.orientation, first.beside.factor)
    if kind == "webp":
        lossless = first.coding.lossless if quality is None else quality == 100
        options |= {"quality": 100 if lossless else quality or first.coding.quality or USUAL_QUALITY}
        options |= {"lossless": lossless, "exact": True, "icc_profile": first.icc or b""}
        options |= {"duration": times, "loop": play.loop or 0}
    elif kind == "png":
        # Each frame takes the place of what it covers, alpha included.
        options |= {"loop": play.loop or 0, "blend": 0, "disposal": 0, "default_image": play.poster}
        options |= {"duration": [frame.milliseconds for frame in held][play.poster :]}
    else:
        options |= {
            "quality": quality or USUAL_QUALITY,
            "subsampling": "4:4:4",
            "duration": times,
            "icc_profile": first.icc or b"",
        }
    stream = io.BytesIO()
    images[0].save(stream, ANIMATED[kind], **options)
    return stream.getvalue()


def _rgba(picture: Picture) -> np.ndarray:
    alpha = np.full(picture.rgb.shape[:2], 255, np.uint8) if picture.alpha is None else picture.alpha
    return np.concatenate([picture.rgb, alpha[..., None]], axis=2)


# GIF. Source: Graphics Interchange Format, version 89a.


def encode_gif(frames: Iterable[Frame], loop: int | None) -> bytes:
    """Encode frames of one size as a GIF, each with a palette of its own.

    Pixels that did not change keep their colours bit for bit, as long as a frame has 256 of them; those that changed
    take what is left of the palette, dithered. Without transparency a frame is stored as far as it differs from the
    one before; with it, whole, and cleared when its time is over.
    """
    indexed = [(*_indexed(frame), round(frame.milliseconds / 10)) for frame in frames]
    height, width = indexed[0][0].shape
    clear = any(hole is not None for _, _, hole, _ in indexed)
    parts = [b"GIF89a", struct.pack("<HHBBB", width, height, 0x70, 0, 0)]
    if loop is not None:
        parts.append(b"\x21\xff\x0bNETSCAPE2.0\x03\x01" + struct.pack("<HB", min(loop, 0xFFFF), 0))
    shown: np.ndarray | None = None
    for indices, palette, hole, wait in indexed:
        colours = palette[indices]
        top, bottom, left, right = 0, height, 0, width
        if shown is not None and not clear:
            differs = (colours != shown).any(axis=2)
            rows, columns = np.flatnonzero(differs.any(axis=1)), np.flatnonzero(differs.any(axis=0))
            # A frame that shows nothing new is one pixel, which keeps its time.
            top, bottom = (rows[0], rows[-1] + 1) if len(rows) else (0, 1)
            left, right = (columns[0], columns[-1] + 1) if len(columns) else (0, 1)
        shown = colours
        flags = (2 if clear else 1) << 2 | (hole is not None)
        parts.append(struct.pack("<BBBBHBB", 0x21, 0xF9, 4, flags, min(wait, 0xFFFF), hole or 0, 0))
        bits = max(1, (len(palette) - 1).bit_length())
        table = np.zeros((1 << bits, 3), np.uint8)
        table[: len(palette)] = palette
        parts.append(struct.pack("<BHHHHB", 0x2C, left, top, right - left, bottom - top, 0x80 | (bits - 1)))
        parts += [table.tobytes(), _lzw(indices[top:bottom, left:right])]
    return b"".join([*parts, b"\x3b"])


def _lzw(indices: np.ndarray) -> bytes:
    """Return (H, W) uint8 as the coded data of a GIF image: Pillow's, out of a file of one frame."""
    stream = io.BytesIO()
    image = Image.fromarray(np.ascontiguousarray(indices))
    image.putpalette(bytes(range(256)) * 3)
    image.save(stream, "GIF", optimize=False, interlace=False)
    data = stream.getvalue()

    def behind_blocks(place: int) -> int:
        while data[place]:
            place += 1 + data[place]
        return place + 1

    place = 13 + (3 << (data[10] & 7) + 1 if data[10] & 0x80 else 0)
    while data[place] == 0x21:
        place = behind_blocks(place + 2)
    flags = data[place + 9]
    place += 10 + (3 << (flags & 7) + 1 if flags & 0x80 else 0)
    return data[place : behind_blocks(place + 1)]


def _indexed(frame: Frame) -> tuple[np.ndarray, np.ndarray, int | None]:
    """Return (H, W) uint8 indices, the (N, 3) uint8 colours they stand for, and the index of transparency or None."""
    picture = frame.picture
    opaque = np.ones(picture.rgb.shape[:2], bool) if picture.alpha is None else picture.alpha > 127
    hole = not opaque.all()
    values = picture.rgb.astype(np.uint32) @ np.array([1 << 16, 1 << 8, 1], np.uint32)
    changed = opaque if frame.changed is None else frame.changed & opaque
    kept = np.unique(values[opaque & ~changed])
    room = 256 - hole
    if len(kept) > room:
        kept, changed = kept[:0], opaque
    new = np.setdiff1d(values[changed], kept)
    if len(new) > room - len(kept):
        new = _fewer(picture.rgb[changed], room - len(kept))
        new = np.setdiff1d(new, kept)
    numbers = np.concatenate([kept, new]).astype(np.uint32)
    if not len(numbers):
        numbers = np.zeros(1, np.uint32)
    palette = np.stack([numbers >> 16, numbers >> 8 & 255, numbers & 255], axis=1).astype(np.uint8)
    order = np.argsort(numbers)
    places = np.searchsorted(numbers[order], values).clip(0, len(numbers) - 1)
    indices = order[places].astype(np.uint8)
    wrong = opaque & (numbers[indices] != values)
    if wrong.any():
        indices[wrong] = _dithered(picture.rgb, palette)[wrong]
    if hole:
        palette = np.concatenate([palette, np.zeros((1, 3), np.uint8)])
        indices[~opaque] = len(palette) - 1
    return indices, palette, len(palette) - 1 if hole else None


def _fewer(colours: np.ndarray, count: int) -> np.ndarray:
    """Return at most `count` colours, as numbers, that stand for (N, 3) uint8 colours."""
    if count < 1:
        return np.zeros(0, np.uint32)
    reduced = Image.fromarray(colours[None]).quantize(count, Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE)
    table = np.array(reduced.getpalette(), np.uint32).reshape(-1, 3)[: int(np.asarray(reduced).max()) + 1]
    return np.unique(table @ np.array([1 << 16, 1 << 8, 1], np.uint32))


def _dithered(rgb: np.ndarray, palette: np.ndarray) -> np.ndarray:
    """Return (H, W) uint8 indices into `palette`, with the error of each pixel spread over the next ones."""
    model = Image.new("P", (1, 1))
    full = np.concatenate([palette, np.repeat(palette[-1:], 256 - len(palette), axis=0)])
    model.putpalette(full.tobytes())
    found = np.asarray(Image.fromarray(rgb).quantize(palette=model, dither=Image.Dither.FLOYDSTEINBERG))
    return np.minimum(found, len(palette) - 1).astype(np.uint8)
