"""Clips for tests, made with PyAV: every frame tells its number, and every odd container is made on purpose."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from fractions import Fraction
from itertools import count
from pathlib import Path
from typing import Any

import av
import numpy as np

BITS = 10
"""Of the painted frame number, one black or white block each, in the upper quarter of the frame."""

BARS = np.array(
    [(192, 192, 192), (192, 192, 0), (0, 192, 192), (0, 192, 0), (192, 0, 192), (192, 0, 0), (0, 0, 192), (40, 40, 40)],
    np.uint8,
)


def picture(index: int, width: int = 96, height: int = 64) -> np.ndarray:
    """Colour bars that move by a pixel a frame, with the frame's number in blocks above: (H, W, 3) uint8 RGB."""
    columns = (np.arange(width) + index) * len(BARS) // width % len(BARS)
    image = np.broadcast_to(BARS[columns], (height, width, 3)).copy()
    top = max(height // 4, 1)
    for bit in range(BITS):
        image[:top, bit * width // BITS : (bit + 1) * width // BITS] = 235 if index >> bit & 1 else 16
    return image


def number(image: np.ndarray) -> int:
    """Read the number painted by `picture` off (H, W, 3) uint8, upright."""
    height, width = image.shape[:2]
    row = image[max(height // 8, 0)].mean(1)
    return sum(int(row[(2 * bit + 1) * width // (2 * BITS)] > 128) << bit for bit in range(BITS))


def vfr(count: int, seed: int = 0, most: int = 30) -> list[int]:
    """Time stamps with gaps of 1 to `most` ticks."""
    return [0, *np.cumsum(np.random.default_rng(seed).integers(1, most + 1, count - 1)).tolist()][:count]


def frame_of(image: np.ndarray, pix_fmt: str = "yuv420p", matrix: int = 5, full: bool = False) -> Any:
    """Return RGB as a frame of any pixel format."""
    frame: Any = av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format="rgb24")
    return frame.reformat(
        format=pix_fmt, dst_colorspace=matrix, dst_color_range=2 if full else 1, interpolation=4 | 0x2000 | 0x40000
    )


def blank(pix_fmt: str, width: int, height: int) -> Any:
    return av.VideoFrame(width, height, pix_fmt)


def planes(frame: Any) -> list[np.ndarray]:
    """The planes of a planar frame as arrays of its samples, without the padding of lines; copies."""
    deep = max(component.bits for component in frame.format.components) > 8
    found = []
    for plane in frame.planes:
        samples = np.frombuffer(plane, np.uint8).reshape(-1, plane.line_size)[: plane.height]
        rows = samples[:, : plane.width * (2 if deep else 1)]
        found.append(np.ascontiguousarray(rows).view("<u2" if deep else np.uint8).copy())
    return found


def side_data(frame: Any) -> list[tuple[str, bytes]]:
    """The side data of a frame in its order; by index, which means the same to every version of PyAV."""
    found = []
    with suppress(IndexError):  # `len` counts types, of which one may be there twice
        for index in count():
            item = frame.side_data[index]
            found.append((item.type.name, bytes(item)))
    return found


def fill(frame: Any, values: Sequence[np.ndarray]) -> Any:
    """Set the planes of a planar frame."""
    for plane, value in zip(frame.planes, values, strict=True):
        lines = np.zeros((plane.buffer_size // plane.line_size, plane.line_size), np.uint8)
        raw = np.ascontiguousarray(value).view(np.uint8)
        lines[: raw.shape[0], : raw.shape[1]] = raw
        plane.update(lines.tobytes() + bytes(plane.buffer_size - lines.size))
    return frame


def write_clip(
    path: Path,
    count: int = 12,
    *,
    size: tuple[int, int] = (96, 64),
    rate: int = 25,
    codec: str = "libx264",
    pix_fmt: str = "yuv420p",
    pts: Sequence[int] | None = None,
    time_base: Fraction | None = None,
    options: dict[str, str] | None = None,
    audio: int = 0,
    audio_s: float | None = None,
    audio_start_s: float = 0.0,
    subtitles: int = 0,
    videos: int = 1,
    container: str | None = None,
    container_options: dict[str, str] | None = None,
    colour: dict[str, int] | None = None,
    full: bool = False,
    aspect: Fraction | None = None,
    metadata: dict[str, str] | None = None,
    make: Callable[[int], np.ndarray] | None = None,
    frames: Sequence[Any] | None = None,
) -> Path:
    """Write a clip and return its path.

    Args:
        path: its suffix names the container unless `container` does.
        count: frames.
        size: width and height.
        rate: frames a second where `pts` is not given.
        codec: FFmpeg's encoder of the pictures.
        pix_fmt: of the encoder.
        pts: time stamps of the frames in `time_base`.
        time_base: of `pts`; 1 / 1000 where they are given without it.
        options: of the encoder.
        audio: number of sound streams, each a tone of its own.
        audio_s: length of the sound, as long as the pictures by default.
        audio_start_s: when it begins.
        subtitles: number of text streams (.mkv only).
        videos: number of video streams, all alike but inverted from the second on.
        container: FFmpeg's name of the format.
        container_options: of the muxer.
        colour: colorspace, color_primaries, color_trc as FFmpeg numbers.
        full: samples in full range.
        aspect: of a pixel.
        metadata: of the container.
        make: paints frame k, `picture` by default.
        frames: ready frames instead of painted ones.
    """
    width, height = size
    ticks = time_base or (Fraction(1, 1000) if pts is not None else Fraction(1, rate))
    stamps = list(pts) if pts is not None else list(range(count))
    colour = {"colorspace": 5} | (colour or {})
    given: dict[str, Any] = {"format": container} if container else {}
    with av.open(str(path), "w", container_options=container_options or {}, **given) as output:
        output.metadata.update(metadata or {})
        streams: list[Any] = []
        for _ in range(videos):
            stream: Any = output.add_stream(codec, rate=rate, options=dict(options or {}))
            stream.width, stream.height, stream.pix_fmt = width, height, pix_fmt
            stream.time_base = stream.codec_context.time_base = ticks
            stream.codec_context.thread_count = 1
            for name, value in colour.items():
                setattr(stream.codec_context, name, value)
            stream.codec_context.color_range = 2 if full else 1
            if aspect:
                stream.codec_context.sample_aspect_ratio = aspect
            streams.append(stream)
        sounds: list[Any] = [output.add_stream("aac", rate=16000, layout="mono") for _ in range(audio)]
        texts: list[Any] = []
        for _ in range(subtitles):
            texts.append(_text_stream(output, path))
        seconds = float(stamps[-1] * ticks) + 1 / rate if stamps else 0.0
        tones = [_tone(sound, index, audio_s or seconds, audio_start_s) for index, sound in enumerate(sounds)]
        for index, stamp in enumerate(stamps):
            for which, stream in enumerate(streams):
                if frames is not None:
                    frame = frames[index]
                else:
                    image = (make or (lambda k: picture(k, width, height)))(index)
                    frame = frame_of(image if which == 0 else 255 - image, pix_fmt, colour["colorspace"], full)
                frame.pts, frame.time_base = stamp, ticks
                frame.color_range, frame.colorspace = (2 if full else 1), colour["colorspace"]
                output.mux(stream.encode(frame))
            for tone in tones:
                for packet in next(tone, []):
                    output.mux(packet)
        for stream in streams:
            output.mux(stream.encode(None))
        for sound, tone in zip(sounds, tones, strict=True):
            for packets in tone:
                for packet in packets:
                    output.mux(packet)
            output.mux(sound.encode(None))
        for text in texts:
            for at in range(max(int(seconds), 1)):
                _say(output, text, at, path)
    return path


def _tone(stream: Any, index: int, seconds: float, start_s: float) -> Iterator[list[Any]]:
    rate, size = 16000, 1024
    first = round(start_s * rate)
    for at in range(0, round(seconds * rate), size):
        wave = 0.2 * np.sin(2 * np.pi * (300 + 200 * index) * np.arange(at, at + size) / rate)
        frame = av.AudioFrame.from_ndarray(wave[None].astype(np.float32), format="fltp", layout="mono")
        frame.sample_rate, frame.pts, frame.time_base = rate, first + at, Fraction(1, rate)
        yield stream.encode(frame)


def _text_stream(output: Any, path: Path) -> Any:
    """A subtitle stream needs a template: PyAV has no text encoder in all versions."""
    source = path.with_name(f"{path.stem}.words.srt")
    source.write_text("1\n00:00:00,000 --> 00:00:01,000\nword\n", "utf-8")
    with av.open(str(source)) as words:
        stream = output.add_stream_from_template(words.streams.subtitles[0])
    source.unlink()
    return stream


def _say(output: Any, stream: Any, second: int, path: Path) -> None:
    packet = av.Packet(f"word {second}".encode())
    packet.stream, packet.pts, packet.dts = stream, second * 1000, second * 1000
    packet.duration, packet.time_base = 900, Fraction(1, 1000)
    output.mux(packet)


# --- containers changed by hand -----------------------------------------------------------------------------------


def boxes(data: bytes, start: int = 0, end: int | None = None) -> Iterator[tuple[bytes, int, int]]:
    """Yield kind, start and end of the boxes of an MP4 file, one level deep."""
    end = len(data) if end is None else end
    while start + 8 <= end:
        size, kind = struct.unpack(">I4s", data[start : start + 8])
        size = struct.unpack(">Q", data[start + 8 : start + 16])[0] if size == 1 else size or end - start
        yield kind, start, start + size
        start += size


EXIF = {
    1: (1, 0, 0, 1),
    2: (-1, 0, 0, 1),
    3: (-1, 0, 0, -1),
    4: (1, 0, 0, -1),
    5: (0, 1, 1, 0),
    6: (0, 1, -1, 0),
    7: (0, -1, -1, 0),
    8: (0, -1, 1, 0),
}
"""The eight ways to store a picture, as EXIF counts them: a, b, c, d of a matrix with x' = a x + c y, y' = b x + d y,
where y points down, that brings the stored pixels upright."""


def stored(image: np.ndarray, way: int) -> np.ndarray:
    """Return the pixels to store so that way `way` shows `image`; by NumPy alone, as an oracle."""
    undo: dict[int, Callable[[np.ndarray], np.ndarray]] = {
        1: lambda x: x,
        2: lambda x: x[:, ::-1],
        3: lambda x: x[::-1, ::-1],
        4: lambda x: x[::-1],
        5: lambda x: x.swapaxes(0, 1),
        6: lambda x: np.rot90(x, 1),  # shown turned clockwise, so stored turned counterclockwise
        7: lambda x: x[::-1, ::-1].swapaxes(0, 1),
        8: lambda x: np.rot90(x, -1),
    }
    return np.ascontiguousarray(undo[way](image))


def set_matrix(path: Path, way: int) -> Path:
    """Give the first track of an MP4 or MOV file the display matrix of EXIF way 1 to 8."""
    data = bytearray(path.read_bytes())
    place = data.find(b"tkhd")
    a, b, c, d = EXIF[way]
    matrix = struct.pack(">9i", a << 16, b << 16, 0, c << 16, d << 16, 0, 0, 0, 1 << 30)
    offset = place + 4 + (40 if data[place + 4] == 0 else 52)
    data[offset : offset + 36] = matrix
    path.write_bytes(data)
    return path


def add_cover(path: Path) -> Path:
    """Add a cover picture to an MP4 whose `moov` is last, as music players store it."""
    image: Any = frame_of(picture(3), "yuvj420p", full=True)
    encoder: Any = av.CodecContext.create("mjpeg", "w")
    encoder.width, encoder.height, encoder.pix_fmt, encoder.time_base = 96, 64, "yuvj420p", Fraction(1, 25)
    image.pts = 0
    jpeg = b"".join(bytes(packet) for packet in [*encoder.encode(image), *encoder.encode(None)])

    def box(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I4s", len(body) + 8, kind) + body

    data = path.read_bytes()
    kind, start, end = list(boxes(data))[-1]
    assert kind == b"moov" and end == len(data)
    cover = box(b"covr", box(b"data", struct.pack(">II", 13, 0) + jpeg))
    handler = box(b"hdlr", bytes(8) + b"mdirappl" + bytes(9))
    extra = box(b"udta", box(b"meta", bytes(4) + handler + box(b"ilst", cover)))
    body = data[start + 8 : end]
    for inner, first, last in boxes(data, start + 8, end):
        if inner == b"udta":  # the first one counts
            body = data[start + 8 : first] + data[last:end]
    path.write_bytes(data[:start] + box(b"moov", body + extra))
    return path


def sound_only(path: Path, seconds: float = 0.5) -> Path:
    with av.open(str(path), "w") as output:
        stream: Any = output.add_stream("aac", rate=16000, layout="mono")
        for packets in _tone(stream, 0, seconds, 0.0):
            output.mux(packets)
        output.mux(stream.encode(None))
    return path


def joined(path: Path, *parts: Path) -> Path:
    """Join transport streams by their bytes, as broadcasters' recorders do."""
    path.write_bytes(b"".join(part.read_bytes() for part in parts))
    return path


def flip_bytes(path: Path, seed: int, count: int = 60, keep: float = 0.1, until: float = 1.0) -> Path:
    """Damage `count` random bytes after the first share `keep` of a file."""
    data = bytearray(path.read_bytes())
    generator = np.random.default_rng(seed)
    for place in generator.integers(int(len(data) * keep), int(len(data) * until), count):
        data[place] ^= 1 << int(generator.integers(8))
    path.write_bytes(data)
    return path


def cut_short(source: Path, target: Path, share: float) -> Path:
    data = source.read_bytes()
    target.write_bytes(data[: int(len(data) * share)])
    return target


def decoded(path: Path) -> list[tuple[int | None, np.ndarray]]:
    """Every frame as FFmpeg alone gives it: time stamp and RGB uint8."""
    found = []
    with av.open(str(path)) as container, suppress(av.error.EOFError):
        for frame in container.decode(container.streams.video[0]):
            found.append((frame.pts, frame.to_ndarray(format="rgb24")))
    return found
