"""Say what a clip is before any work begins, and refuse what cannot be read with a text of its own.

Everything a header says may be wrong; what frames are like is taken from the first one that can be decoded.
"""

from __future__ import annotations

import errno
import math
import stat
import struct
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import InputMediaError
from ..media.clips import OPEN_OPTIONS, READABLE
from ..media.pyav import disposition, open_input, rational, side_data
from .pixels import REFUSED, Pixels, depth_of, has_alpha, planar_format, square_chroma
from .types import StreamInfo, VideoInfo

_TRIES = 9
"""Failures before the first frame after which the clip counts as unreadable."""

_DEFAULT, _ATTACHED = 1, 0x400
"""Flags of FFmpeg's AV_DISPOSITION: the stream to take of several, and the cover of a sound file."""

_COVERS = {"mjpeg", "png", "bmp", "gif", "tiff", "webp"}
_LARGEST = 16384 * 16384
"""Pixels of a frame; a file of a kilobyte can claim more, and memory would go before the first face."""

INTERLACED = "It is interlaced; frames are restored as they are, with both fields."

_TURNS = ("", "a quarter turn clockwise", "half a turn", "a quarter turn counterclockwise")


def unreadable(path: Path, found: str, todo: str, kept: str = "The clip is untouched") -> InputMediaError:
    """Return the error for a clip that cannot be read."""
    return InputMediaError(f"Cannot read {path}", found=found, kept=kept, todo=todo)


def no_stamps(path: Path) -> InputMediaError:
    """Return the error for a clip that does not say when its frames are shown."""
    return unreadable(path, "its frames have no time stamps", "Give its frame rate, for instance 25")


def open_clip(path: Path) -> Any:
    """Open a clip with PyAV, and nothing but a clip.

    Raises:
        InputMediaError: it is missing, no regular file, empty, forbidden, or no container that is read.
    """
    import av.error

    try:
        state = path.stat()
    except (OSError, ValueError) as error:
        found = "there is no such file" if isinstance(error, FileNotFoundError) else f"the system refused: {error}"
        raise unreadable(path, found, "Check the name and the folder", "Nothing was started") from error
    # A pipe or a device would block, or never end.
    if stat.S_ISDIR(state.st_mode):
        raise unreadable(path, "it is a folder; expected a file", "Name the clip itself")
    if not stat.S_ISREG(state.st_mode):
        raise unreadable(path, "it is a pipe or a device; expected a file", "Save the clip to a file first")
    if state.st_size == 0:
        raise unreadable(path, "it is empty (0 bytes)", "Get a whole copy of the clip")
    try:
        with path.open("rb") as file:
            file.read(1)
    except OSError as error:
        found = f"this user may not read it ({error.strerror})"
        raise unreadable(path, found, "Change its permissions, or copy it") from error
    try:
        # An absolute path: FFmpeg would take the start of a name such as 'concat:a.mp4' for a protocol.
        return open_input(str(path.absolute()), options=OPEN_OPTIONS)
    except (av.error.FFmpegError, OSError, ValueError) as error:
        if _lacks_index(path):
            found = "it ends before its index (no 'moov' box): a recording or copy that was cut off"
            raise unreadable(path, found, "Get a whole copy, or repair it with a tool made for that") from error
        if getattr(error, "errno", None) == errno.EINVAL:
            found = f"FFmpeg takes it for a format that is not read here ({error}); expected one of {READABLE}"
            raise unreadable(path, found, "Convert the clip to MP4 or MKV") from error
        raise unreadable(path, f"FFmpeg refused it: {error}", "Get a whole copy of the clip, as MP4 or MKV") from error


def _lacks_index(path: Path) -> bool:
    """Return whether it begins like an MP4 or MOV file and has no 'moov' box."""
    size, place, kinds = path.stat().st_size, 0, []
    with path.open("rb") as file:
        while place + 8 <= size and len(kinds) < 1000:
            file.seek(place)
            head = file.read(16)
            length, kind = struct.unpack(">I4s", head[:8])
            if length == 1 and len(head) == 16:
                length = struct.unpack(">Q", head[8:])[0]
            kinds.append(kind)
            if length < 8:
                break
            place += length
    return bool(kinds) and kinds[0] in (b"ftyp", b"mdat", b"wide", b"free") and b"moov" not in kinds


def probe(path: Path, *, stream: int | None = None) -> VideoInfo:
    """Return what a clip is, from its header and its first frame.

    Args:
        path: a file.
        stream: index of the video stream to take; otherwise the one marked as default, else the first.

    Raises:
        InputMediaError: it cannot be read, holds no video, or no frame of it can be decoded.
    """
    with open_clip(path) as container:
        return _describe(path, container, stream)


def _describe(path: Path, container: Any, wanted: int | None) -> VideoInfo:
    notes: list[str] = []
    video = _choose(path, container, wanted, notes)
    frame = first_frame(path, container, video)
    context = video.codec_context
    turned, mirrored = orientation(frame, notes)
    stored = frame.format.name
    pix_fmt = planar_format(stored)
    if turned % 2:
        pix_fmt = square_chroma(pix_fmt)
    width, height = (frame.height, frame.width) if turned % 2 else (frame.width, frame.height)
    if width * height > _LARGEST:
        raise unreadable(path, f"its frames have {width} x {height} pixels", "Scale the clip down first")
    aspect = rational(video.sample_aspect_ratio) or rational(context.sample_aspect_ratio) or Fraction(1)
    aspect = aspect if aspect > 0 else Fraction(1)
    matrix = int(frame.colorspace)
    if matrix in REFUSED:
        found = f"its colours are stored as {REFUSED[matrix]}; expected RGB, gray or Y'CbCr"
        raise unreadable(path, found, "Convert the clip to BT.709 or BT.2020 first")
    rgb = frame.format.is_rgb or stored == "pal8"
    seconds = _seconds(container, video)
    info = VideoInfo(
        path=path,
        container=container.format.name,
        bytes=path.stat().st_size,
        streams=tuple(_stream_info(each) for each in container.streams),
        video=video.index,
        width=width,
        height=height,
        turned=turned,
        mirrored=mirrored,
        pixel_aspect=1 / aspect if turned % 2 else aspect,
        time_base=Fraction(video.time_base),
        rate=_rate(video),
        frames=video.frames or None,
        seconds=seconds,
        codec=context.name,
        pix_fmt=pix_fmt,
        depth=depth_of(pix_fmt),
        matrix=0 if rgb else matrix,
        full_range=bool(rgb or stored.startswith("yuvj") or int(frame.color_range) == 2),
        primaries=_colour(frame, context, "color_primaries"),
        transfer=_colour(frame, context, "color_trc"),
        alpha=has_alpha(pix_fmt),
        start=_start(frame, clock(container.format.name, frame)),
    )
    notes += [*Pixels(info).notes, *_remarks(info, frame, video, stored)]
    return replace(info, notes=tuple(notes))


def _choose(path: Path, container: Any, wanted: int | None, notes: list[str]) -> Any:
    """Return the video stream to work on, and note the others."""
    kinds = [each.type for each in container.streams]
    found = ", ".join(kinds) or "none at all"
    moving = [each for each in container.streams.video if not is_cover(each)]
    if wanted is not None:
        chosen = [each for each in moving if each.index == wanted]
        if not chosen:
            have = ", ".join(str(each.index) for each in moving) or "none"
            raise unreadable(path, f"stream {wanted} is no video; those that are: {have}", "Name another stream")
    elif not moving:
        if container.streams.video:
            found = "its only picture is the cover of a sound file"
        elif not kinds:
            found = "it holds no streams"
        else:
            found = f"it has no video stream, only {found}"
        raise unreadable(path, found, "Name a clip with moving pictures")
    else:
        default = [each for each in moving if (disposition(each) or 0) & _DEFAULT]
        chosen = default or moving
    video = chosen[0]
    if video.codec_context is None:
        found = f"this build of FFmpeg has no decoder for its video stream {video.index}"
        raise unreadable(path, found, "Convert the clip to H.264 first")
    others = [str(each.index) for each in container.streams.video if each is not video and each in moving]
    if others:
        notes.append(f"Faces are restored in video stream {video.index}; stream {', '.join(others)} stays as it is.")
    return video


def is_cover(stream: Any) -> bool:
    """Return whether a video stream is a still picture attached to the file."""
    if (flags := disposition(stream)) is not None:
        return bool(flags & _ATTACHED)
    # Where PyAV does not tell: a cover has no rate, and a codec of still pictures.
    name = stream.codec_context.name if stream.codec_context else ""
    return name in _COVERS and not stream.average_rate


def first_frame(path: Path, container: Any, video: Any) -> Any:
    """Return the first frame that can be decoded."""
    import av.error

    failures, last = 0, "it holds none"
    packets = container.demux(video)
    while failures < _TRIES:
        try:
            for packet in packets:
                for frame in packet.decode():
                    return frame
            break
        except (av.error.EOFError, IndexError):  # the latter where a stream begins on the way
            break
        except (av.error.FFmpegError, ValueError) as error:
            failures, last = failures + 1, str(error)
            packets = container.demux(video)
    raise unreadable(path, f"no frame of it can be decoded: {last}", "Get a whole copy of the clip")


def clock(container: str, frame: Any) -> str:
    """Return which stamp of the frames tells their time: 'pts', 'dts', or '' where there is none.

    AVI stores no order of presentation; what FFmpeg fills in as `pts` is that of the packets.
    """
    if frame.pts is not None and (container != "avi" or frame.dts is None):
        return "pts"
    return "dts" if frame.dts is not None else ""


def _start(frame: Any, kind: str) -> int | None:
    return getattr(frame, kind) if kind else None


def orientation(frame: Any, notes: list[str]) -> tuple[int, bool]:
    """Return the quarter turns clockwise and the mirroring, which comes before them, that bring a frame upright."""
    stored = side_data(frame).get("DISPLAYMATRIX")
    if stored is None:
        return 0, False
    a, b, _, c, d = (int(value) for value in np.frombuffer(stored, np.int32)[:5])
    mirrored = a * d - b * c < 0
    if mirrored:
        a, b = -a, -b
    degrees = math.degrees(math.atan2(b, a))
    turned = round(degrees / 90) % 4
    if abs(degrees - 90 * round(degrees / 90)) > 1:
        notes.append(f"Its header turns the pictures by {degrees:.0f} degrees, which is not applied.")
        return 0, False
    if mirrored or turned:
        words = [*(["mirrored"] if mirrored else []), *([_TURNS[turned]] if turned else [])]
        notes.append(f"Its pictures are stored askew ({', then '.join(words)}); the result is stored upright.")
    return turned, mirrored


def _stream_info(stream: Any) -> StreamInfo:
    context = stream.codec_context
    name = context.name if context is not None else ""
    return StreamInfo(stream.index, stream.type or "unknown", name, stream.language or "")


def _rate(video: Any) -> Fraction | None:
    rate = rational(video.average_rate) or rational(video.guessed_rate)
    return rate if rate and rate > 0 else None


def _seconds(container: Any, video: Any) -> float | None:
    if video.duration and video.duration > 0:
        return float(video.duration * video.time_base)
    return container.duration / 1e6 if container.duration and container.duration > 0 else None


def _colour(frame: Any, context: Any, name: str) -> int:
    """Return a colour property of the frame, or of the codec where PyAV or the frame does not tell."""
    value = int(getattr(frame, name, 2))
    return value if value != 2 else int(getattr(context, name, 2))


def _remarks(info: VideoInfo, frame: Any, video: Any, stored: str) -> list[str]:
    notes = []
    if info.seconds is None:
        notes.append("Its length is not known before the end.")
    if info.start is None:
        notes.append("Its frames have no time stamps, so a frame rate has to be given.")
    if frame.interlaced_frame:
        notes.append(INTERLACED)
    if video.metadata.get("alpha_mode") == "1" and not info.alpha:
        notes.append("Its transparency cannot be decoded and is lost.")
    if "f32" in stored or "f16" in stored:
        notes.append(f"Its samples are floating point ({stored}) and become 16-bit integers.")
    if info.hdr:
        curve = "PQ" if info.transfer == 16 else "HLG"
        notes.append(
            f"It is HDR ({curve}): restorers see faces mapped to SDR around a reference white of 203 nits, and what "
            "they change is mapped back; everything else keeps its code values."
        )
    return notes
