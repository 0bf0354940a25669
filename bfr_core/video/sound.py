"""Sound that a container does not hold as it is: decoded, and stored without loss, with its times.

What a decoder gives is what comes out of the result, sample for sample: whole numbers as FLAC or PCM, floating point,
which most decoders of lossy sound give, as PCM. Where sound is missing between two packets there is silence, so that
what follows keeps its time.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

_GAP = Fraction(1, 50)
"""Seconds between the end of a packet and the next that are a gap; smaller ones are rounded stamps."""

_LAYOUTS = ("mono", "stereo", "3.0", "quad", "5.0", "5.1", "6.1", "7.1")
"""FFmpeg's usual names of 1 to 8 channels, for sound that does not say which they are."""

_DEEP = ("pcm_s24be", "pcm_s24le", "pcm_s24daud", "pcm_s24le_planar", "pcm_u24be", "pcm_u24le", "pcm_dvd", "pcm_bluray")
"""Decoders that give 24 bits in samples of 32."""

_LARGEST_INDEX = 1 << 28
"""Bytes of an index that are read at most."""

_PCM = {"u8": "pcm_u8", "s16": "pcm_s16le", "s32": "pcm_s32le", "flt": "pcm_f32le", "dbl": "pcm_f64le"}
_TITLES = {
    "u8": "8 bit",
    "s16": "16 bit",
    "s32": "32 bit",
    "flt": "32 bit floating point",
    "dbl": "64 bit floating point",
}
_TYPES = {"u8": np.uint8, "s16": np.int16, "s32": np.int32, "flt": np.float32, "dbl": np.float64}


@dataclass(frozen=True, slots=True)
class Recipe:
    """How one stream of sound is stored."""

    codec: str
    """FFmpeg's name of the encoder."""
    sample: str
    """FFmpeg's name of the samples that it is given, packed."""
    rate: int
    layout: str
    title: str
    """What people call it."""


def recipe_for(stream: Any, container: str) -> Recipe | None:
    """Return how a container holds the decoded sound of a stream bit for bit; None where it cannot.

    Args:
        stream: of an open clip.
        container: FFmpeg's name of the one to write.
    """
    context = stream.codec_context
    if stream.type != "audio" or context is None or container not in ("mp4", "mov", "matroska") or not context.rate:
        return None
    sample = context.format.name.removesuffix("p") if context.format is not None else ""
    channels = len(context.layout.channels)
    if sample not in _PCM or not 1 <= channels <= len(_LAYOUTS):
        return None
    layout = context.layout.name if "channels" not in context.layout.name else _LAYOUTS[channels - 1]
    deep = sample == "s32" and context.name in _DEEP
    title = "24 bit" if deep else _TITLES[sample]
    # QuickTime has no FLAC; 8 bit stay 8 bit where PCM may have them.
    if container != "mov" and (sample == "s16" or deep or (sample == "u8" and container == "mp4")):
        return Recipe("flac", "s32" if deep else "s16", context.rate, layout, f"FLAC of {title}")
    codec = "pcm_s24le" if deep else _PCM[sample]
    return Recipe(codec, sample, context.rate, layout, f"PCM of {title}")


def name_of_unknown(path: Path, track: int) -> str:
    """Return the four letters that an MP4 or MOV file has for the codec of a track; empty where it has none.

    PyAV tells nothing of streams that FFmpeg has no decoder for.

    Source:
        ISO/IEC 14496-12: sample entries, in moov / trak / mdia / minf / stbl / stsd.
    """
    with path.open("rb") as file:
        index, place, size = b"", 0, path.stat().st_size
        while not index and place + 8 <= size:
            file.seek(place)
            length, kind, long = struct.unpack(">I4sQ", file.read(16).ljust(16, b"\0"))
            length = long if length == 1 else length or size - place
            if length < 8:
                break
            if kind == b"moov":
                file.seek(place + 8)
                index = file.read(min(length, _LARGEST_INDEX) - 8)
            place += length
    tracks = [body for kind, body in _boxes(index) if kind == b"trak"]
    found = tracks[track] if track < len(tracks) else b""
    for wanted in (b"mdia", b"minf", b"stbl", b"stsd"):
        found = next((body for kind, body in _boxes(found) if kind == wanted), b"")
    name = found[12:16].decode("ascii", "replace").strip()
    return name if name.isalnum() else ""


def _boxes(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    place = 0
    while place + 8 <= len(data):
        length, kind = struct.unpack(">I4s", data[place : place + 8])
        if length < 8:
            return
        yield kind, data[place + 8 : place + length]
        place += length


@dataclass(slots=True)
class Heard:
    """What was decoded, to be found again in the result."""

    index: int
    """In the clip."""
    target: int
    """In the result."""
    recipe: Recipe
    start: Fraction | None = None
    """Seconds at which it begins in the result; None while nothing came."""
    samples: int = 0
    """Of each channel."""
    silent: int = 0
    """Samples of silence where sound was missing."""
    lost: int = 0
    """Packets that could not be decoded."""
    digest: Any = field(default_factory=hashlib.sha256)

    def add(self, values: np.ndarray) -> None:
        """Take note of samples, (n, channels)."""
        self.digest.update(np.ascontiguousarray(values).tobytes())
        self.samples += len(values)


def samples_of(frame: Any, sample: str) -> np.ndarray:
    """Return a frame of sound as (n, channels) of a sample format, whose numbers it has; 8 bit fill the upper of 16."""
    values = frame.to_ndarray()
    values = values.T if frame.format.is_planar else values.reshape(-1, len(frame.layout.channels))
    if values.dtype == np.uint8 and sample == "s16":
        return (values.astype(np.int16) - 128) << 8
    return values


class Sound:
    """Decodes one stream, and encodes it to an output.

    Args:
        output: an open container, before its header is written.
        stream: of the clip.
        recipe: from `recipe_for`.
        window: first and last second of the part to keep, in the times of the clip.
    """

    def __init__(
        self, output: Any, stream: Any, recipe: Recipe, window: tuple[Fraction, Fraction] | None = None
    ) -> None:
        # FLAC takes 24 bits in samples of 32 where it is told of them.
        options = {"bits_per_raw_sample": "24"} if recipe.codec == "flac" and recipe.sample == "s32" else {}
        self.made = output.add_stream(recipe.codec, rate=recipe.rate, layout=recipe.layout, options=options)
        context = self.made.codec_context
        context.format, context.time_base = recipe.sample, Fraction(1, recipe.rate)
        self.heard = Heard(stream.index, self.made.index, recipe)
        self._window = window

    def take(self, packet: Any, offset: Fraction = Fraction(0)) -> Iterator[Any]:
        """Yield the packets to write after the next of the clip; one without data empties the decoder.

        Args:
            packet: of the stream, with the clip's stamps.
            offset: seconds that all stamps are moved by in the result.
        """
        import av.error

        try:
            frames = packet.decode()
        except av.error.EOFError:
            frames = []
        except (av.error.FFmpegError, ValueError):
            self.heard.lost += 1
            return
        for frame in frames:
            yield from self._encode(frame, offset)

    def finish(self) -> Iterator[Any]:
        """Yield the packets that the encoder holds back."""
        if self.heard.samples:
            yield from self.made.encode(None)

    def notes(self) -> list[str]:
        """Return what a person should know of what was done."""
        heard, notes = self.heard, []
        if heard.lost:
            many = "1 packet" if heard.lost == 1 else f"{heard.lost} packets"
            notes.append(f"{many} of stream {heard.index} could not be decoded and left silence")
        elif heard.silent:
            seconds = heard.silent / heard.recipe.rate
            notes.append(f"sound is missing in stream {heard.index} for {seconds:.2f} s, where silence stands now")
        return notes

    def _encode(self, frame: Any, offset: Fraction) -> Iterator[Any]:
        heard, rate = self.heard, self.heard.recipe.rate
        values = samples_of(frame, heard.recipe.sample)
        at = None if frame.pts is None or frame.time_base is None else frame.pts * Fraction(frame.time_base)
        if at is None:
            at = Fraction(0) if heard.start is None else self._end - offset
        if self._window is not None:
            skip = max(0, round((self._window[0] - at) * rate))
            values = values[skip : max(skip, round((self._window[1] - at) * rate))]
            at += Fraction(skip, rate)
        if not len(values):
            return
        if heard.start is None:
            heard.start = Fraction(round((at + offset) * rate), rate)
        missing = at + offset - self._end
        if missing > _GAP:
            left = round(missing * rate)
            heard.silent += left
            while left:  # second by second: what is missing may last an hour
                quiet = np.full((min(left, rate), values.shape[1]), 128 if values.dtype == np.uint8 else 0)
                left -= len(quiet)
                yield from self._write(quiet)
        yield from self._write(values)

    @property
    def _end(self) -> Fraction:
        return (self.heard.start or Fraction(0)) + Fraction(self.heard.samples, self.heard.recipe.rate)

    def _write(self, values: np.ndarray) -> Iterator[Any]:
        import av

        recipe = self.heard.recipe
        packed = np.ascontiguousarray(values, _TYPES[recipe.sample]).reshape(1, -1)
        frame = av.AudioFrame.from_ndarray(packed, format=recipe.sample, layout=recipe.layout)
        frame.sample_rate, frame.time_base = recipe.rate, Fraction(1, recipe.rate)
        frame.pts = round(self._end * recipe.rate)
        self.heard.add(packed.reshape(values.shape))
        yield from self.made.encode(frame)
