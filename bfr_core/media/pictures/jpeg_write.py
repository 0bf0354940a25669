"""Write a JPEG as its input was coded: the same tables, sampling and passes, and the same blocks where nothing changed.

Pillow hands out the planes of a JPEG as they are coded, before chroma is enlarged, and takes planes the same way.
libjpeg's two transforms then give the coefficients that were there: the rounding in between is smaller than half a
step of the tables, unless these are very fine or the block was clipped at black or white.
"""

from __future__ import annotations

import io
import struct
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from PIL import Image

from .jpeg import Frame, Jpeg, Segment, split

_SUBSAMPLING = {(1, 1): 0, (2, 1): 1, (2, 2): 2}
"""What libjpeg's interface in Pillow writes, by the factors of luma over those of chroma."""


@dataclass(frozen=True, slots=True)
class _Source:
    """A JPEG that a new one follows."""

    frame: Frame
    tables: list[list[int]]
    """Quantisation table of each component, in natural order."""
    space: str
    """'L', 'YCbCr', 'RGB' or 'CMYK': what the samples are."""
    options: dict[str, Any]
    """Of Pillow's encoder: passes, Huffman tables and restart markers."""


def follow(data: bytes, pixels: np.ndarray) -> bytes:
    """Encode pixels as `data` was, taking from it every block in which nothing changed.

    Args:
        data: a JPEG file.
        pixels: (H, W, 1 or 3) uint8 gray or RGB, in the orientation of `data`; of another size only tables, sampling
            and passes are taken over.

    Raises:
        ValueError, OSError: `data` is damaged.
    """
    jpeg = split(data)
    source = _read_source(jpeg)
    channels = pixels.shape[2]
    across, down = _sampling(source.frame)
    same_size = pixels.shape[:2] == (source.frame.height, source.frame.width)
    if not same_size or {1: "L", 3: "YCbCr"}[channels] != source.space:
        image = Image.fromarray(pixels[..., 0] if channels == 1 else np.ascontiguousarray(pixels))
        keep_rgb = source.space == "RGB" and channels == 3
        return _encode_image(source, image, across, down, keep_rgb)
    # A plane ends with whole blocks, whose last rows and columns no viewer shows; they are kept as well. Scans of a
    # single channel have no blocks beyond the picture's own.
    single = source.frame.progressive or b"\xff\xda" in jpeg.body[2:]
    unit = (8, 8) if single or channels == 1 else (8 * down, 8 * across)
    if channels == 3 and not is_usual(source.frame):
        unit = (1, 1)
    height, width = (-(-size // step) * step for size, step in zip(pixels.shape[:2], unit, strict=True))
    larger = _resized(jpeg, height, width).bare()
    planes = _planes(larger, source, (height, width))
    old = _open(jpeg.bare(), {1: "L", 3: "RGB"}[channels])
    _put_change(planes, pixels, old, across, down)
    stored = [planes[0]]
    stored += [plane.repeat(down, 0).repeat(across, 1)[:height, :width] for plane in planes[1:]]
    image = Image.fromarray(planes[0]) if channels == 1 else Image.merge("YCbCr", [Image.fromarray(p) for p in stored])
    encoded = split(_encode_image(source, image, across, down, keep_rgb=False))
    return _resized(encoded, *pixels.shape[:2]).packed()


def _read_source(jpeg: Jpeg) -> _Source:
    frame = jpeg.frame
    with Image.open(io.BytesIO(jpeg.bare()), formats=["jpeg"]) as image:
        tables = [list(image.quantization[table]) for *_, table in image.layer]  # type: ignore[attr-defined]
        space, info = image.mode, image.info
    if space == "RGB":
        # As libjpeg decides: by JFIF, by Adobe's marker, by the components' names.
        named = bytes(each.name for each in frame.components) == b"RGB"
        plain = "jfif" not in info and (info["adobe_transform"] == 0 if "adobe_transform" in info else named)
        space = "RGB" if plain else "YCbCr"
    options: dict[str, Any] = {"progressive": frame.progressive, "optimize": jpeg.optimised}
    if jpeg.restart_interval:
        options["restart_marker_blocks"] = jpeg.restart_interval
    return _Source(frame, tables, space, options)


def _sampling(frame: Frame) -> tuple[int, int]:
    """Return how much chroma is written smaller, across and down: what holds as much as the input's."""
    if len(frame.components) < 3:
        return 1, 1
    chroma = frame.components[1:3]
    across = min(frame.components[0].across // max(1, each.across) for each in chroma)
    down = min(frame.components[0].down // max(1, each.down) for each in chroma)
    return next(pair for pair in ((2, 2), (2, 1), (1, 1)) if pair[0] <= max(across, 1) and pair[1] <= max(down, 1))


def is_usual(frame: Frame) -> bool:
    """Tell whether the planes have the sampling that they are written with."""
    luma, *chroma = frame.components
    return (luma.across, luma.down) in _SUBSAMPLING and all(each[1:3] == (1, 1) for each in chroma)


def _encode_image(source: _Source, image: Image.Image, across: int, down: int, keep_rgb: bool) -> bytes:
    tables = source.tables[:1] if image.mode == "L" else (source.tables * 3)[:3]
    options = source.options | {"qtables": tables}
    if image.mode != "L":
        options["subsampling"] = _SUBSAMPLING[across, down]
    if keep_rgb:
        options["keep_rgb"] = True
    stream = io.BytesIO()
    image.save(stream, "jpeg", **options)
    return stream.getvalue()


def _resized(jpeg: Jpeg, height: int, width: int) -> Jpeg:
    """Return the file with another size in its frame header, of as many blocks."""
    head = [
        Segment(marker, body[:1] + struct.pack(">HH", height, width) + body[5:])
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC)
        else Segment(marker, body)
        for marker, body in jpeg.head
    ]
    return Jpeg(tuple(head), jpeg.body, jpeg.rest)


def _open(data: bytes, mode: str, size: tuple[int, int] | None = None) -> np.ndarray:
    """Decode to a colour mode, which libjpeg itself does where it can; (H, W, C)."""
    with Image.open(io.BytesIO(data), formats=["jpeg"]) as image:
        image.draft(mode, size or image.size)
        pixels = np.array(image if image.mode == mode else image.convert(mode))
    return pixels[..., None] if pixels.ndim == 2 else pixels


def _planes(data: bytes, source: _Source, size: tuple[int, int]) -> list[np.ndarray]:
    """Return the planes as they are coded: luma, and chroma in its own size where that is 4:2:0, 4:2:2 or 4:4:4."""
    luma = np.ascontiguousarray(_open(data, "L")[..., 0])
    if source.space == "L":
        return [luma]
    sampling = _sampling(source.frame)
    height, width = size
    usual = is_usual(source.frame)
    if sampling == (2, 2) and usual and min(size) >= 16:
        # At half the size libjpeg has no need to enlarge chroma, and gives it as it is.
        half = _open(data, "YCbCr", (width // 2, height // 2))
        return [luma, np.ascontiguousarray(half[..., 1]), np.ascontiguousarray(half[..., 2])]
    full = _open(data, "YCbCr")
    chroma = [np.ascontiguousarray(full[..., number]) for number in (1, 2)]
    if sampling == (2, 1) and usual:
        chroma = [_halved(plane) for plane in chroma]
    elif sampling != (1, 1):
        spare = [(0, -length % factor) for length, factor in zip(size, sampling[::-1], strict=True)]
        chroma = [np.pad(plane, spare, "edge") for plane in chroma]
        sizes = [(plane.shape[1] // sampling[0], plane.shape[0] // sampling[1]) for plane in chroma]
        chroma = [
            cv2.resize(plane, each, interpolation=cv2.INTER_AREA) for plane, each in zip(chroma, sizes, strict=True)
        ]
    return [luma, *chroma]


def _halved(plane: np.ndarray) -> np.ndarray:
    """Undo the enlarging of 4:2:2, where a sample is three parts of its own and one of its neighbour.

    Two neighbours' mean is then 6/8 of the sample between them and 1/8 of those beside it, which is solved by
    iteration: each turn leaves a third of the error.
    """
    mean = plane.reshape(plane.shape[0], -1, 2).mean(2, dtype=np.float32)
    inner = mean.copy()
    # The outermost samples of a row are stored as they are, and not mixed.
    for _ in range(16):
        sides = np.pad(inner, ((0, 0), (1, 1)), "edge")
        inner = (8 * mean - sides[:, :-2] - sides[:, 2:]) / 6
    return np.rint(inner).clip(0, 255).astype(np.uint8)


def _put_change(planes: list[np.ndarray], pixels: np.ndarray, old: np.ndarray, across: int, down: int) -> None:
    """Add to the planes, in place, by what the pixels differ: a sample none of whose pixels changed stays."""
    rows, columns = (np.flatnonzero((pixels != old).any(axis=(1 - axis, 2))) for axis in (0, 1))
    if not rows.size:
        return
    top, left = rows[0] // down * down, columns[0] // across * across
    here = (slice(top, rows[-1] + 1), slice(left, columns[-1] + 1))
    change = _luma_chroma(pixels[here]) - _luma_chroma(old[here])
    for number, plane in enumerate(planes):
        step = change[..., number]
        sampled = (across, down) if number else (1, 1)
        if sampled != (1, 1):
            # The last chroma sample may reach beyond the edge.
            spare = [(0, -size % factor) for size, factor in zip(step.shape, (down, across), strict=True)]
            step = np.pad(step, spare, "edge")
            size = step.shape[1] // across, step.shape[0] // down
            step = cv2.resize(step, size, interpolation=cv2.INTER_AREA)
        place = plane[top // sampled[1] :, left // sampled[0] :][: step.shape[0], : step.shape[1]]
        np.copyto(place, np.rint(place + step).clip(0, 255).astype(np.uint8), where=step != 0)


def _luma_chroma(pixels: np.ndarray) -> np.ndarray:
    """Return (H, W, C) float32 after JFIF 1.02: Y, Cb and Cr, or gray as it is."""
    values = np.ascontiguousarray(pixels, np.float32)
    if pixels.shape[2] == 1:
        return values
    weights = np.array([[0.299, 0.587, 0.114], [-0.168736, -0.331264, 0.5], [0.5, -0.418688, -0.081312]], np.float32)
    return cv2.transform(values, weights)
