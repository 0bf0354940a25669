"""Say what a clip is before any work begins, and refuse what cannot be read with a text of its own.

Everything a header says may be wrong; what frames are like is taken from the first one that can be decoded.
"""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

from ..errors import InputMediaError
from ..media.clips import clock, moving_streams, open_clip, orientation, pick_video, read_frames, says_clear, unreadable
from ..media.formats import misnamed
from ..media.pyav import rational
from .fields import Orders
from .pixels import REFUSED, Pixels, depth_of, has_alpha, planar_format, square_chroma
from .timeline import find_joints
from .types import StreamInfo, VideoInfo

_TRIES = 9
"""Failures before the first frame after which the clip counts as unreadable."""

_LARGEST = 16384 * 16384
"""Pixels of a frame; a file of a kilobyte can claim more, and memory would go before the first face."""

_FASTEST = 1000
"""Frames a second; a header that says more counts ticks."""


def no_stamps(path: Path) -> InputMediaError:
    """Return the error for a clip that does not say when its frames are shown."""
    return unreadable(path, "its frames have no time stamps", "Give its frame rate (--frame-rate), for instance 25")


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
    joints, length = find_joints(path, container.format.name)
    if joints:  # the header knows the first and the last stamp only
        seconds = length
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
        joints=joints,
        fields=Orders()(frame),
    )
    notes += [*Pixels(info).notes, *_remarks(info, frame, video, stored)]
    return replace(info, notes=tuple(notes))


def _choose(path: Path, container: Any, wanted: int | None, notes: list[str]) -> Any:
    """Return the video stream to work on, and note the others."""
    video = pick_video(path, container, wanted)
    others = [str(each.index) for each in moving_streams(container) if each.index != video.index]
    if others:
        notes.append(f"Faces are restored in video stream {video.index}; stream {', '.join(others)} stays as it is.")
    return video


def first_frame(path: Path, container: Any, video: Any) -> Any:
    """Return the first frame that can be decoded."""
    failures = ["it holds none"]

    def on_fault(error: Exception, packet: Any, row: int) -> bool:
        failures.append(str(error))
        return len(failures) <= _TRIES

    frame = next(read_frames(container, video, on_fault=on_fault), None)
    if frame is None:
        raise unreadable(path, f"no frame of it can be decoded: {failures[-1]}", "Get a whole copy of the clip")
    return frame


def _start(frame: Any, kind: str) -> int | None:
    return getattr(frame, kind) if kind else None


def _stream_info(stream: Any) -> StreamInfo:
    context = stream.codec_context
    name = context.name if context is not None else ""
    return StreamInfo(stream.index, stream.type or "unknown", name, stream.language or "")


def _rate(video: Any) -> Fraction | None:
    # Of raw DV the average is that of the ticks.
    rates = (rational(rate) for rate in (video.average_rate, video.guessed_rate, video.base_rate))
    return next((rate for rate in rates if rate and 0 < rate <= _FASTEST), None)


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
    if told := misnamed(info.path):
        notes.append(f"{told[0].upper()}{told[1:]}.")
    if info.joints:
        times = "in one place" if len(info.joints) == 1 else f"in {len(info.joints)} places"
        notes.append(f"Its times start anew {times}, as in joined recordings; its parts are put one behind the other.")
    if info.seconds is None:
        notes.append("Its length is not known before the end.")
    if info.start is None:
        notes.append("Its frames have no time stamps, so a frame rate has to be given.")
    if says_clear(video) and not info.alpha:
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
