"""Open a clip, and nothing but a clip, and read its frames: one reader for all that look into films.

Everything a header says may be wrong, and a file may be named like a clip and be a playlist or a script.
"""

from __future__ import annotations

import errno
import math
import stat
import struct
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import InputMediaError
from .formats import demuxers, misnamed
from .pyav import disposition, open_input, side_data
from .scaling import ACCURATE

OPEN_OPTIONS = {"format_whitelist": demuxers(), "protocol_whitelist": "file"}
"""Of FFmpeg. A playlist or script named like a clip would make it open other files, or call the network."""

_DEFAULT, _ATTACHED = 1, 0x400
"""Flags of FFmpeg's AV_DISPOSITION: the stream to take of several, and the cover of a sound file."""

_COVERS = {"mjpeg", "png", "bmp", "gif", "tiff", "webp"}
_CLEAR = {"vp8": "libvpx", "vp9": "libvpx-vp9"}
"""Decoders that read transparency, by the names of those that do not."""

_TURNS = ("", "a quarter turn clockwise", "half a turn", "a quarter turn counterclockwise")


def unreadable(path: Path, found: str, todo: str, kept: str = "The clip is untouched") -> InputMediaError:
    """Return the error for a clip that cannot be read."""
    return InputMediaError(f"Cannot read {path}", found=found, kept=kept, todo=todo)


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
        if told := misnamed(path):
            raise unreadable(path, f"{told}; expected a film", "Name it for what it is") from error
        if getattr(error, "errno", None) == errno.EINVAL:
            found = f"FFmpeg takes it for a format that is not read here ({error}); expected one of {demuxers()}"
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


# Streams


def is_cover(stream: Any) -> bool:
    """Return whether a video stream is a still picture attached to the file."""
    if (flags := disposition(stream)) is not None:
        return bool(flags & _ATTACHED)
    # Where PyAV does not tell: a cover has no rate, and a codec of still pictures.
    name = stream.codec_context.name if stream.codec_context else ""
    return name in _COVERS and not stream.average_rate


def pick_video(path: Path, container: Any, index: int | None = None) -> Any:
    """Return the video stream to read: that of `index`, else the one marked as default, else the first.

    Raises:
        InputMediaError: there is none, or its codec is not known here.
    """
    kinds = [each.type for each in container.streams]
    moving = moving_streams(container)
    if index is not None:
        chosen = [each for each in moving if each.index == index]
        if not chosen:
            have = ", ".join(str(each.index) for each in moving) or "none"
            raise unreadable(path, f"stream {index} is no video; those that are: {have}", "Name another stream")
    elif not moving:
        if container.streams.video:
            found = "its only picture is the cover of a sound file"
        elif not kinds:
            found = "it holds no streams"
        else:
            found = f"it has no video stream, only {', '.join(kinds)}"
        raise unreadable(path, found, "Name a clip with moving pictures")
    else:
        chosen = [each for each in moving if (disposition(each) or 0) & _DEFAULT] or moving
    if chosen[0].codec_context is None:
        found = f"this build of FFmpeg has no decoder for its video stream {chosen[0].index}"
        raise unreadable(path, found, "Convert the clip to H.264 first")
    return chosen[0]


def moving_streams(container: Any) -> list[Any]:
    """Return the video streams that are no covers."""
    return [each for each in container.streams.video if not is_cover(each)]


# Frames


def says_clear(stream: Any) -> bool:
    """Return whether a stream's header says that it has transparency beside its pictures, as WebM's does."""
    return any(key.lower() == "alpha_mode" and value == "1" for key, value in stream.metadata.items())


def decoder_of(stream: Any) -> Any:
    """Return the decoder of a video stream where the usual one does not give all of it; None elsewhere.

    VP8 and VP9 hold transparency as a second picture beside each, which FFmpeg's own decoders leave out.
    """
    import av.codec

    name = _CLEAR.get(stream.codec_context.name if stream.codec_context else "")
    if name not in av.codec.codecs_available or not says_clear(stream):
        return None
    return av.codec.CodecContext.create(name, "r")


def read_frames(
    container: Any,
    stream: Any,
    *,
    streams: Sequence[Any] | None = None,
    on_packet: Callable[[Any], None] = lambda packet: None,
    on_fault: Callable[[Exception, Any, int], bool] | None = None,
) -> Iterator[Any]:
    """Yield the frames of a stream as the decoder gives them, which is in order of presentation.

    Args:
        container: from `open_clip`.
        stream: the one to decode.
        streams: those whose packets are read, `stream` among them; an empty list reads all, None that one alone.
        on_packet: is given every packet before it is decoded, those at the end of a stream without data included.
        on_fault: hears what cannot be read or decoded, the packet, which is None where the clip cannot be read on, and
            how many such faults came in a row; tells whether to go on behind it. Without one, faults are raised.

    Raises:
        av.error.FFmpegError, OSError, ValueError: the clip cannot be read on or decoded, and there is no `on_fault`.
    """
    import av.error

    wanted = (stream,) if streams is None else tuple(streams)
    packets, broken, failed = container.demux(*wanted), 0, 0
    clear = decoder_of(stream)
    while True:
        try:
            packet = next(packets)
            broken = 0
        except (StopIteration, av.error.EOFError, IndexError):
            # PyAV raises the last at the end of a clip where another stream has begun on the way.
            return
        except (av.error.FFmpegError, OSError) as error:
            broken += 1
            if on_fault is None:
                raise
            if not on_fault(error, None, broken):
                return
            packets = container.demux(*wanted)
            continue
        on_packet(packet)
        if packet.stream.index != stream.index:
            continue
        try:
            frames = packet.decode() if clear is None else clear.decode(packet)
        except av.error.EOFError:
            return
        except (av.error.FFmpegError, ValueError) as error:
            failed += 1
            if on_fault is None:
                raise
            if not on_fault(error, packet, failed):
                return
            continue
        failed = 0 if frames else failed
        yield from frames


def clock(container: str, frame: Any) -> str:
    """Return which stamp of the frames tells their time: 'pts', 'dts', or '' where there is none.

    AVI stores no order of presentation; what FFmpeg fills in as `pts` is that of the packets.
    """
    if frame.pts is not None and (container != "avi" or frame.dts is None):
        return "pts"
    return "dts" if frame.dts is not None else ""


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


def upright(pixels: np.ndarray, turned: int, mirrored: bool) -> np.ndarray:
    """Return (H, W, ...) as `orientation` says that it is meant."""
    return np.ascontiguousarray(np.rot90(pixels[:, ::-1] if mirrored else pixels, -turned))


def to_rgb(frame: Any) -> np.ndarray:
    """Return a frame as it is stored, (H, W, 3) uint8 RGB, by the scaler of FFmpeg."""
    return frame.to_ndarray(format="rgb24", interpolation=ACCURATE)
