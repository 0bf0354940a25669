"""Choose an encoder that keeps what the clip has, and set it up in the same way for every segment."""

from __future__ import annotations

import io
import struct
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

from ..errors import OutputMediaError, SettingsError
from ..media.clips import open_clip
from ..media.formats import FILMS, film_format, suffixes
from ..media.luma import assumed_matrix
from ..media.pyav import open_output, side_data
from .layouts import choose_format, traits
from .probe import first_frame
from .types import VideoInfo

ENCODERS = {"h264": "libx264", "h265": "libx265", "vp9": "libvpx-vp9", "ffv1": "ffv1", "prores": "prores_ks"}
"""Names of codecs that can be asked for, and their encoders."""

FIELDS = ("h264", "ffv1", "prores")
"""Those that keep the two fields of a frame, and say which comes first."""

_NO_FIELDS = {
    "h265": "x265 codes each field as a picture of its own, which FFmpeg and players show as frames of their own",
    "vp9": "VP9 knows no fields",
}

_CLEAR = {"matroska": ("ffv1", "prores", "vp9"), "mov": ("prores",), "webm": ("vp9",)}
"""By container: codecs that keep transparency; the first is usual."""

PRESETS = ("ultrafast", "superfast", "veryfast", "faster", "fast", "medium", "slow", "slower", "veryslow")

_HOLDS = {each.name: each.codecs for each in FILMS if each.write}
"""By FFmpeg's name of a container: keys of ENCODERS."""

_VP9_SPEED: dict[str, str] = dict(zip(PRESETS, ("8", "7", "6", "5", "4", "3", "2", "1", "0"), strict=True))
_MOST_SAMPLES = 35_651_584
"""Pixels of a frame that the highest levels of H.264, H.265 and VP9 allow; the number is the same."""

FINEST_CRF = 16
"""Quality where the input is no guide, and the finest that is chosen by it."""

_WORKERS = 4
"""Threads of an encoder. A fixed number, because their number changes the bits; the machine must not."""


@dataclass(frozen=True, slots=True)
class Colour:
    """How RGB is written as Y'CbCr, and what the file says of it, in FFmpeg's numbers (ITU-T H.273)."""

    range: int
    """1 limited, 2 full; 0 limited, and the file does not say so."""
    matrix: int
    """2: BT.601, and the file does not say so."""
    primaries: int
    transfer: int


@dataclass(frozen=True, slots=True)
class EncodeSettings:
    """What a person chooses of the result."""

    codec: str = "auto"
    """'auto' or a key of ENCODERS."""
    crf: int | None = None
    """Quality, lower is better: 0 to 51, for VP9 to 63; None follows the input, see `rate`. Not asked by FFV1, which
    loses nothing, and ProRes."""
    preset: str = "medium"
    """How long the encoder may take, one of PRESETS. Not asked by FFV1 and ProRes."""
    pix_fmt: str = "auto"
    """FFmpeg's name of a pixel format; 'auto' keeps the clip's wherever the encoder takes it."""
    drop_alpha: bool = False
    """Leave transparency out; otherwise it is kept, and refused where the container cannot hold it."""
    colour: Colour | None = None
    """Of the result where the clip is RGB and the result is not; None for full range and the usual matrix."""


@dataclass(frozen=True, slots=True)
class Encoding:
    """An encoder as every segment of a film uses it."""

    codec: str
    """Name of the encoder."""
    pix_fmt: str
    options: dict[str, str]
    container: str
    """FFmpeg's name of the final container."""
    source_format: str
    """Pixel format of the frames that come."""
    notes: tuple[str, ...] = field(default=())
    colour: Colour | None = None
    """Of the result where RGB is converted; None: as `full_range` and `assumed_matrix` of the clip have it."""
    finer_faces: int = 0
    """Steps of the quantiser by which restored faces are encoded finer than the rest."""

    @property
    def segment_container(self) -> str:
        """Container of segments: NUT keeps packets and stamps as they are, and knows no ProRes, nor VP9's alpha."""
        if self.codec == "libvpx-vp9" and self.has_alpha:
            return "webm"
        return "mov" if self.codec == "prores_ks" else "nut"

    @property
    def has_fields(self) -> bool:
        """Whether its frames are two fields each."""
        return "field_order" in self.options

    @property
    def has_alpha(self) -> bool:
        """Whether its pixels have transparency."""
        return traits(self.pix_fmt).alpha


def choose_encoding(
    info: VideoInfo, target: Path, settings: EncodeSettings | None = None, *, gop: int = 250
) -> Encoding:
    """Choose codec, pixel format and options for a clip's result.

    Args:
        info: the clip.
        target: file whose suffix names the container.
        settings: what a person asks for.
        gop: the longest run of frames that begins with a whole picture. A segment begins with one in any case.

    Raises:
        SettingsError: a setting is unknown, out of range, or does not fit the container.
        OutputMediaError: the suffix names no container that is written.
    """
    settings = settings or EncodeSettings()
    container = container_of(target)
    notes: list[str] = []
    name = _choose_codec(info, target, container, settings, notes)
    encoder = ENCODERS[name]
    pix_fmt = choose_format(info, encoder, settings.pix_fmt, notes, dropped=settings.drop_alpha)
    options = _options(name, pix_fmt, settings, gop) | (_field_options(name, info.fields) if info.fields else {})
    if name == "h265" and info.hdr and (light := mastering(info)):
        options["x265-params"] += ":" + light
        notes.append("the mastering display's data are carried over")
    converted = traits(info.pix_fmt).rgb and not traits(pix_fmt).rgb
    colour = settings.colour if converted else None
    return Encoding(encoder, pix_fmt, options, container, info.pix_fmt, tuple(notes), colour)


def container_of(target: Path) -> str:
    """Return FFmpeg's name of the container that the suffix of `target` names.

    Raises:
        OutputMediaError: it names none that is written.
    """
    found = film_format(target)
    if found is None or not found.write:
        raise OutputMediaError(
            f"Cannot tell the container of {target}",
            found=f"its suffix is '{target.suffix}'; expected one of {', '.join(suffixes(FILMS, write=True))}",
            kept="Nothing was started and no file was changed",
            todo="Give the output one of these suffixes",
        )
    return found.name


def _refuse(what: str, found: str, todo: str) -> SettingsError:
    return SettingsError(what, found=found, kept="Nothing was started and no file was changed", todo=todo)


def _choose_codec(info: VideoInfo, target: Path, container: str, settings: EncodeSettings, notes: list[str]) -> str:
    if settings.codec != "auto" and settings.codec not in ENCODERS:
        found = f"found '{settings.codec}', expected auto or one of {', '.join(ENCODERS)}"
        raise _refuse("Cannot use this codec", found, "Use one of these")
    if settings.preset not in PRESETS:
        found = f"found '{settings.preset}', expected one of {', '.join(PRESETS)}"
        raise _refuse("Cannot use this preset", found, "Use one of these")
    name = settings.codec
    if name == "auto":
        if container == "webm":
            name = "vp9"
        elif info.alpha and not settings.drop_alpha and container in _CLEAR:
            name = _CLEAR[container][0]
        elif info.fields:
            deep = {"matroska": "ffv1", "mov": "prores"} if info.depth > 10 else {}
            name = deep.get(container, "h264")
        elif container == "matroska" and info.codec == "ffv1":
            name = "ffv1"
        else:
            name = "h265" if info.hdr or info.depth > 10 else "h264"
            if name == "h265":
                why = "its colours are HDR" if info.hdr else f"it has {info.depth} bits a colour"
                notes.append(f"it is encoded as H.265, because {why}")
    if info.alpha and name not in _CLEAR.get(container, ()) and not settings.drop_alpha:
        raise OutputMediaError(
            f"Cannot keep the transparency of {info.path}",
            found=f"{target.suffix} holds none as {name}; expected .mkv (ffv1), .mov (prores) or .webm (vp9)",
            kept="Nothing was started and no file was changed",
            todo="Choose one of these, or do without transparency (--drop-alpha)",
        )
    if info.fields and name not in FIELDS:
        raise OutputMediaError(
            f"Cannot write {target} as {name}",
            found=f"{info.path} is interlaced, and {_NO_FIELDS.get(name, f'{name} has no fields')}; expected one of "
            f"{', '.join(FIELDS)}",
            kept="Nothing was started and no file was changed",
            todo="Choose one of these in .mkv or .mov, or deinterlace it (deinterlace, or --deinterlace)",
        )
    if name not in _HOLDS[container]:
        fits = suffixes([each for each in FILMS if name in each.codecs], write=True)
        found = f"{target.suffix} files hold {', '.join(sorted(_HOLDS[container]))}"
        raise _refuse(f"Cannot write {name} to {target}", found, f"Use another codec, or one of {', '.join(fits)}")
    most = 63 if name == "vp9" else 51
    if settings.crf is not None and not 0 <= settings.crf <= most:
        raise _refuse(
            "Cannot use this quality", f"crf is {settings.crf}, expected 0 to {most}", "Use one in this range"
        )
    return name


def _options(name: str, pix_fmt: str, settings: EncodeSettings, gop: int) -> dict[str, str]:
    """Return the encoder's options: closed groups of at most `gop` frames, and no B-frames.

    Without B-frames the order of packets is that of frames, so that segments join by copying.
    """
    crf, preset, group = str(FINEST_CRF if settings.crf is None else settings.crf), settings.preset, str(gop)
    if name == "h264":
        return {"crf": crf, "preset": preset, "bf": "0", "g": group}
    if name == "h265":
        fixed = f"bframes=0:keyint={group}:open-gop=0:pools={_WORKERS}:frame-threads=2:log-level=error"
        return {"crf": crf, "preset": preset, "x265-params": fixed}
    if name == "vp9":
        speed = _VP9_SPEED[preset]
        return {"crf": crf, "b": "0", "deadline": "good", "cpu-used": speed, "row-mt": "1", "g": group}
    if name == "ffv1":
        return {"level": "3", "slices": "4", "slicecrc": "1", "coder": "1", "context": "0", "g": "1"}
    # By number, as PyAV 14 knows no other way: 4 is 4444, 3 is 422 HQ.
    return {"profile": "4" if "444" in pix_fmt else "3", "vendor": "apl0"}


def _field_options(name: str, fields: str) -> dict[str, str]:
    """Return what an encoder, and the container's header, are told of fields that are stored line by line.

    Source:
        FFmpeg's own program: of interlaced frames it says TB or BT, which Matroska and MOV call interleaved.
    """
    order = {"field_order": "tb" if fields == "tff" else "bt"}
    if name == "h264":
        # By the frames alone x264 numbers the fields of both orders as if the top one came first.
        return order | {"flags": "+ildct+ilme", "x264-params": f"{fields}=1"}
    return order if name == "ffv1" else order | {"flags": "+ildct+ilme"}


def mastering(info: VideoInfo) -> str:
    """Return the first frame's data of the mastering display and of light levels, as x265 wants them.

    Source:
        SMPTE ST 2086 units: chromaticity in steps of 0.00002, luminance in steps of 0.0001 cd/m2.
    """
    with open_clip(info.path) as container:
        frame = first_frame(info.path, container, container.streams[info.video])
        sides = side_data(frame)
    parts: list[str] = []
    display, light = sides.get("MASTERING_DISPLAY_METADATA"), sides.get("CONTENT_LIGHT_LEVEL")
    if display and len(display) >= 88:
        *ratios, has_primaries, has_luminance = struct.unpack("=20i2i", display[:88])
        pairs = zip(ratios[::2], ratios[1::2], strict=True)
        values = [Fraction(top, bottom) if bottom else Fraction(0) for top, bottom in pairs]
        if has_primaries and has_luminance:
            red, green, blue, white = ([round(50000 * v) for v in values[i : i + 2]] for i in (0, 2, 4, 6))
            low, high = (round(10000 * value) for value in values[8:10])
            named = zip("GBR", (green, blue, red), strict=True)
            spots = "".join(f"{letter}({x},{y})" for letter, (x, y) in named)
            parts.append(f"master-display={spots}WP({white[0]},{white[1]})L({high},{low})")
    if light and len(light) >= 8:
        parts.append("max-cll={},{}".format(*struct.unpack("=2I", light[:8])))
    return ":".join(parts)


def add_video(output: Any, encoding: Encoding, info: VideoInfo) -> Any:
    """Add the stream of restored pictures to an open output and set its encoder up.

    The same encoder is opened for each segment and for the final file, which takes their packets: its header then
    describes them exactly, with every version of PyAV.
    """
    clear = encoding.codec == "libvpx-vp9" and encoding.has_alpha
    rate = info.rate if info.rate and info.rate < 1000 else Fraction(25)
    stream = output.add_stream(encoding.codec, rate=rate.limit_denominator(100_000), options=dict(encoding.options))
    if clear:
        stream.metadata["alpha_mode"] = "1"
    context = stream.codec_context
    stream.width, stream.height, stream.pix_fmt = info.width, info.height, encoding.pix_fmt
    stream.time_base = context.time_base = info.time_base
    context.bit_rate = 0
    context.thread_count = _WORKERS
    if info.pixel_aspect > 0:
        context.sample_aspect_ratio = info.pixel_aspect
    # RGB and gray have no other range than full; for the rest 1 is limited and 2 is full.
    context.color_range = 2 if info.full_range else 1
    context.colorspace = _matrix(encoding, info)
    context.color_primaries, context.color_trc = info.primaries, info.transfer
    if colour := encoding.colour:
        context.color_range, context.colorspace = colour.range, colour.matrix
        context.color_primaries, context.color_trc = colour.primaries, colour.transfer
    if encoding.codec == "libx265" and output.format.name in ("mp4", "mov"):
        # Apple's players know H.265 by this name alone.
        context.codec_tag = "hvc1"
    return stream


def _matrix(encoding: Encoding, info: VideoInfo) -> int:
    """Return the matrix to write: that of the clip, or the one that pictures without any are converted with."""
    was, now = traits(encoding.source_format), traits(encoding.pix_fmt)
    if now.rgb:
        return 0
    if was.rgb or info.matrix == 0:
        return 1 if assumed_matrix(info.height) == 1 else 6  # 5 by its other name, which encoders know
    return info.matrix


def check_level(encoding: Encoding, info: VideoInfo) -> None:
    """Refuse frames that no level of a codec allows: encoders make films of them that nothing plays.

    Source:
        Tables A-1 of ITU-T H.264 and A.8 of H.265, and VP9's levels: of 6.2 the most samples of luma.

    Raises:
        OutputMediaError: they have too many pixels.
    """
    pixels = info.width * info.height
    if encoding.codec in ("libx264", "libx265", "libvpx-vp9") and pixels > _MOST_SAMPLES:
        raise OutputMediaError(
            f"Cannot encode {info.path} at this size with {encoding.codec}",
            found=f"its frames would be {info.width} x {info.height}, {pixels:,} pixels; expected at most "
            f"{_MOST_SAMPLES:,}, which is what the highest level of the codec allows",
            kept="Nothing was started and no file was changed",
            todo="Choose a lower upscale, or the codec ffv1 or prores",
        )


def trial(encoding: Encoding, info: VideoInfo) -> None:
    """Encode two gray frames in memory.

    Raises:
        OutputMediaError: the encoder refuses; the message has FFmpeg's last line.
    """
    import av.error

    for container in dict.fromkeys((encoding.segment_container, encoding.container)):
        with _heard() as lines:
            try:
                _encode_two(encoding, info, container)
            except (av.error.FFmpegError, ValueError, OverflowError) as error:
                last = f" ({lines[-1][1]}: {lines[-1][2].strip()})" if lines else ""
                raise OutputMediaError(
                    f"Cannot encode {info.path} with {encoding.codec}",
                    found=f"{info.width} x {info.height} as {encoding.pix_fmt}: FFmpeg refused: {error}{last}",
                    kept="Nothing was started and no file was changed",
                    todo="Choose another codec, pixel format or container",
                ) from error


@contextmanager
def _heard() -> Iterator[list[Any]]:
    """Give a list that takes FFmpeg's lines about errors as (level, who, text); PyAV drops them otherwise."""
    import av.logging

    level = av.logging.get_level()
    av.logging.set_level(av.logging.ERROR)
    try:
        with av.logging.Capture() as lines:
            yield lines
    finally:
        av.logging.set_level(level)


def _encode_two(encoding: Encoding, info: VideoInfo, container: str) -> None:
    import av

    output = open_output(io.BytesIO(), format=container)
    try:
        stream = add_video(output, encoding, info)
        for count in range(2):
            frame = av.VideoFrame(info.width, info.height, encoding.pix_fmt)
            for plane in frame.planes:
                plane.update(bytes(plane.buffer_size))
            frame.pts, frame.time_base = count * max(1, _tick(info)), info.time_base
            output.mux(stream.encode(frame))
        output.mux(stream.encode(None))
        output.close()
    finally:
        with suppress(Exception):
            output.close()


def _tick(info: VideoInfo) -> int:
    return round(1 / (info.time_base * (info.rate or 25)))
