"""Read the frames of a clip in order of presentation, upright, and count whatever is lost on the way."""

from __future__ import annotations

import hashlib
from bisect import insort
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any, Literal

from ..errors import InputMediaError, SettingsError
from ..media.clips import clock, open_clip, read_frames, unreadable
from ..media.scaling import ACCURATE
from .fields import Orders, apart
from .pixels import Filter, Pixels
from .probe import no_stamps
from .timeline import Timeline
from .types import VideoFrame, VideoInfo

OnDamage = Literal["stop", "hold", "skip"]
ON_DAMAGE: tuple[OnDamage, ...] = ("stop", "hold", "skip")

FieldsAs = Literal["woven", "first", "both"]

FAILURES = 9
"""Decoding failures in a row that stop a run under every policy: a decoder that has lost its way gives nothing more."""

_TOLD = 20
"""Losses that are described one by one; the rest are counted."""

_SHORT_S = 0.5
"""By how much a clip may end before the length in its header."""

_EDGE = 1 << 20
"""Bytes at either end of a file that tell it from another."""

_SEEK_S = 10.0
"""Start of a window from which the decoder begins at a key frame near it, not at the beginning."""

_MARGIN_S = 2.0
"""How much before a window it then begins: frames right after a key frame may refer to what was not decoded."""

_TURNS = {1: (("transpose", "clock"),), 2: (("hflip", ""), ("vflip", "")), 3: (("transpose", "cclock"),)}
_KEPT = "The part that was finished before it is kept"
_POLICY = "Get a whole copy of the clip, or run again with on_damage (--on-damage) set to hold or skip"


class Reader:
    """Iterate over the frames of a clip; every iteration begins anew.

    Frames come in the decoder's order, which is that of presentation, with their own time stamps, made upright once.
    With `stop` every fault ends the run. With `hold` a frame that cannot be decoded shows the last good one instead,
    and with `skip` it is left out; both leave out frames whose time stamps do not ascend, and all of it is counted.
    Damage that a decoder conceals without a word cannot be noticed.

    Args:
        info: from `probe`.
        on_damage: 'stop', 'hold' or 'skip'.
        rate: frames a second of a clip that has no time stamps.
        window: start and length in seconds from the first frame on; other frames are not given. The first one that is
            given then has index 0 and time 0.
        fields_as: how to give frames of two fields: 'woven' as they are, 'first' the first field as a whole picture,
            'both' each field as a picture of its own, so that there are two for every frame, with its time stamp, and
            also for those that are no fields.
        check_cancel: called for every packet; raises to stop.

    Attributes:
        frames: given so far.
        lost: descriptions of the first losses.
        lost_count: all losses.
        notes: what a person should know, complete after the end.
        fields: 'tff' or 'bff' once a frame of two fields was seen, '' before.
        pixels: the conversions behind `VideoFrame.rgb` and `VideoFrame.small`.

    Raises:
        SettingsError: unknown `on_damage`, or a rate or window that cannot be.
    """

    def __init__(
        self,
        info: VideoInfo,
        *,
        on_damage: OnDamage = "stop",
        rate: Fraction | None = None,
        window: tuple[float, float] | None = None,
        fields_as: FieldsAs = "woven",
        check_cancel: Callable[[], None] = lambda: None,
    ) -> None:
        if on_damage not in ON_DAMAGE:
            raise _refuse("on_damage", on_damage, f"one of {', '.join(ON_DAMAGE)}")
        if rate is not None and not rate > 0:
            raise _refuse("rate", rate, "a frame rate above 0")
        if window is not None and not (window[0] >= 0 and window[1] > 0):
            raise _refuse("window", window, "a start from 0 on and a length above 0, in seconds")
        self.info, self.on_damage, self.rate, self.window = info, on_damage, rate, window
        self.fields_as, self.check_cancel = fields_as, check_cancel
        self.pixels = Pixels(info)
        self._reset()

    def _reset(self) -> None:
        self.frames, self.lost_count = 0, 0
        self.lost: list[str] = []
        self.notes: list[str] = []
        self.fields = ""
        self._orders = Orders()
        self._number = 0  # of decoded frames, those outside the window included
        self._layout: tuple[int, int, str] | None = None
        self._clock = ""
        self._upright: Filter | None = None
        self._copier: Filter | None = None
        self._missing: list[int] = []  # time stamps of packets that could not be decoded, until a later frame comes
        self._end_s = 0.0

    def __iter__(self) -> Iterator[VideoFrame]:
        """Yield every frame.

        Raises:
            InputMediaError: see the class; also where no frame is left to give.
        """
        self._reset()
        zero = self.info.start
        from_s, until_s = (0.0, float("inf")) if self.window is None else (self.window[0], sum(self.window))
        begin = None
        for whole, pts, pictures, lasts in self._whole(from_s):
            zero = pts if zero is None else zero
            time = float((pts - zero) * self.info.time_base)
            if time < from_s:
                continue
            if time >= until_s:
                break
            begin = time if begin is None else begin
            shown = time - begin if self.window is not None else time
            for number, picture in enumerate(pictures):
                step = float(number * lasts / len(pictures) * self.info.time_base)
                yield self._moment(picture, pts, shown + step, whole if len(pictures) > 1 else None)
        if not self.frames:
            if self.window is not None:
                found = f"no frame of it lies between {from_s:g} and {until_s:g} s"
                raise unreadable(self.info.path, found, "Choose another window")
            raise unreadable(self.info.path, "no frame of it can be used", "Get a whole copy of the clip")

    def _whole(self, from_s: float) -> Iterator[tuple[Any, int, tuple[Any, ...], int]]:
        """Yield frames with their time stamps, the pictures that are given of each, and the ticks they last."""
        frames = self._ascending(self._decoded(from_s))
        if self.fields_as == "woven":
            for picture, pts in frames:
                yield picture, pts, (picture,), 0
            return
        for each in apart(frames, self.info, both=self.fields_as == "both"):
            yield each.whole, each.pts, each.pictures, each.lasts

    # --- packets and frames --------------------------------------------------------------------------------------

    def _decoded(self, from_s: float) -> Iterator[Any]:
        """Yield the decoder's frames, from shortly before `from_s` on where the clip can be entered there."""
        with open_clip(self.info.path) as container:
            frames = self._frames(container)
            start = self.info.start
            whole = from_s < _SEEK_S or start is None or self.on_damage != "stop" or self.info.joints
            if start is None or whole or not self._enter(container, from_s):
                yield from frames
                return
            first = next(frames, None)
            wanted = start + from_s / float(self.info.time_base)
            if first is not None and first.pts is not None and first.pts <= wanted:
                yield first
                yield from frames
                return
        # The index led behind the window, so everything before it has to be decoded.
        with open_clip(self.info.path) as container:
            yield from self._frames(container)

    def _enter(self, container: Any, from_s: float) -> bool:
        import av.error

        stream = container.streams[self.info.video]
        ticks = round((from_s - _MARGIN_S) / float(self.info.time_base))
        try:
            container.seek((self.info.start or 0) + ticks, stream=stream, backward=True)
        except (av.error.FFmpegError, OSError, ValueError):
            return False
        return True

    def _frames(self, container: Any) -> Iterator[Any]:
        stream = self._open_stream(container)
        timeline = Timeline(self.info.joints)
        # In Matroska and AVI only the last packets of all streams tell that the end is missing.
        streams = () if self._counts_all(container) else (stream,)
        gave_up = False

        def on_packet(packet: Any) -> None:
            self.check_cancel()
            timeline.move(packet)
            if packet.pts is not None and packet.time_base:
                self._end_s = max(self._end_s, float((packet.pts + (packet.duration or 0)) * packet.time_base))

        def on_fault(error: Exception, packet: Any, row: int) -> bool:
            nonlocal gave_up
            self.check_cancel()
            if packet is None:
                self._fault(f"the clip cannot be read on after frame {self._number}: {error}", error)
                gave_up = row == FAILURES
                if gave_up:
                    self.notes.append(f"The clip ends early, after {self._number} frames: {error}")
                return not gave_up
            self._fault(f"frame {self._number} cannot be decoded: {error}", error, row == FAILURES)
            stamp = packet.dts if self._clock == "dts" else packet.pts
            if stamp is not None:
                insort(self._missing, stamp)
            return True

        yield from read_frames(container, stream, streams=streams, on_packet=on_packet, on_fault=on_fault)
        if self.window is None and not gave_up:
            self._look_at_end(container, stream)

    def _counts_all(self, container: Any) -> bool:
        return self.window is None and self.info.container.split(",")[0] in ("matroska", "avi")

    def _look_at_end(self, container: Any, stream: Any) -> None:
        """Notice a clip that was cut off: FFmpeg reads some to their last whole packet without an error."""
        promised = 0.0
        if self._counts_all(container):
            promised = (container.duration or 0) / 1e6
        elif self.info.container.startswith("mov") and stream.duration:
            promised = float(((stream.start_time or 0) + stream.duration) * stream.time_base)
        if self._end_s + _SHORT_S < promised:
            found = f"it ends at {self._end_s:.2f} s; its header promises {promised:.2f} s"
            self._fault(found, None)
            self.notes.append(f"The clip was cut short: {found}.")

    def _open_stream(self, container: Any) -> Any:
        stream = container.streams[self.info.video] if self.info.video < len(container.streams) else None
        if stream is None or stream.type != "video" or stream.codec_context is None:
            raise self._changed(f"its stream {self.info.video} is no video any more")
        if self.on_damage == "stop":
            stream.thread_type = "AUTO"
        else:
            # Threads conceal damage differently, and all passes must see the same frames.
            stream.codec_context.thread_count = 1
        return stream

    # --- time ----------------------------------------------------------------------------------------------------

    def _ascending(self, frames: Iterator[Any]) -> Iterator[tuple[Any, int]]:
        """Yield upright frames with strictly ascending time stamps."""
        last: int | None = None
        good: Any = None
        for frame in frames:
            number, self._number = self._number, self._number + 1
            pts = self._stamp(frame, number, last)
            if pts is None or (last is not None and pts <= last):
                found = "has no time stamp" if pts is None else f"has the time stamp {pts} after {last}"
                self._fault(f"frame {number} {found}", None, todo="Rewrite the clip as MP4 or MKV with a remuxer")
                continue
            while self._missing and self._missing[0] <= pts:
                lost = self._missing.pop(0)
                if self.on_damage == "hold" and good is not None and (last is None or lost > last) and lost < pts:
                    last = lost
                    yield self._again(good, lost), lost
            if frame.is_corrupt:
                self._fault(f"frame {number} is damaged", None)
                if self.on_damage == "skip":
                    continue
            self._guard(frame, number)
            if frame.is_corrupt and good is not None:
                picture = self._again(good, pts)
            else:
                frame.pts = pts
                picture = good = self._made_upright(frame)
            last = pts
            yield picture, pts
        for lost in self._missing if self.on_damage == "hold" and good is not None else ():
            if last is None or lost > last:
                last = lost
                yield self._again(good, lost), lost

    def _stamp(self, frame: Any, number: int, last: int | None) -> int | None:
        """Return a frame's time stamp; the first frame decides where those of all come from."""
        if not self._clock:
            self._clock = clock(self.info.container, frame) or "rate"
            if self._clock == "rate" and self.rate is None:
                raise no_stamps(self.info.path)
            if self._clock == "rate":
                self.notes.append(f"Its frames have no time stamps; {self.rate} frames a second are assumed.")
            elif self.rate is not None:
                self.notes.append("Its frames have time stamps of their own; the rate that was given is not used.")
        if self._clock == "rate":
            return round(number / (self.rate or 1) / self.info.time_base)
        if self._clock == "dts" and frame.dts is None and last is not None:
            return last + 1  # of frames that the decoder held back at the end; a tick of AVI is a frame
        return getattr(frame, self._clock)

    # --- pictures ------------------------------------------------------------------------------------------------

    def _guard(self, frame: Any, number: int) -> None:
        """Raise where a frame is not like those before it."""
        layout = frame.width, frame.height, frame.format.name
        if self._layout is None:
            self._layout = layout
        elif layout != self._layout:
            old, new = ("{} x {} {}".format(*each) for each in (self._layout, layout))
            found = f"frame {number} is {new}; those before it are {old}"
            raise unreadable(self.info.path, found, "Cut the clip there and restore the parts by themselves", _KEPT)
        self.fields = self.fields or self._orders(frame)

    def _made_upright(self, frame: Any) -> Any:
        info = self.info
        if frame.format.name != info.pix_fmt:
            pts, time_base = frame.pts, frame.time_base
            frame = frame.reformat(format=info.pix_fmt, interpolation=ACCURATE)
            frame.pts, frame.time_base = pts, time_base
        if info.mirrored or info.turned:
            if self._upright is None:
                filters = ((("hflip", ""),) if info.mirrored else ()) + _TURNS.get(info.turned, ())
                self._upright = Filter(frame, *filters, time_base=info.time_base)
            frame = self._upright(frame)
        # An encoder would take over the types of the source's frames.
        frame.pict_type = 0
        if (frame.width, frame.height) != (info.width, info.height):
            found = f"its frames are {frame.width} x {frame.height}; they were {info.width} x {info.height}"
            raise self._changed(found)
        return frame

    def _again(self, good: Any, pts: int) -> Any:
        # Not the copier of `pixels`: this may run in another thread than `Pixels.write`.
        if self._copier is None:
            self._copier = Filter(good, ("copy", ""), time_base=self.info.time_base)
        picture = self._copier(good)
        picture.pts = pts
        return picture

    def _moment(self, picture: Any, pts: int, time: float, whole: Any) -> VideoFrame:
        index, self.frames = self.frames, self.frames + 1
        pixels = self.pixels
        return VideoFrame(index, time, lambda: pixels.rgb(picture), lambda: pixels.small(picture), picture, pts, whole)

    # --- faults --------------------------------------------------------------------------------------------------

    def _fault(self, found: str, cause: Exception | None, final: bool = False, todo: str = _POLICY) -> None:
        """Count a fault, or raise it."""
        if self.on_damage == "stop":
            raise unreadable(self.info.path, found, todo, _KEPT) from cause
        if final:
            found = f"{FAILURES} packets in a row could not be decoded; {found}"
            raise unreadable(self.info.path, found, "Get a whole copy of the clip", _KEPT) from cause
        self.lost_count += 1
        if len(self.lost) < _TOLD:
            self.lost.append(found)

    def _changed(self, found: str) -> InputMediaError:
        return unreadable(self.info.path, f"it is not the clip that was looked at: {found}", "Start again", _KEPT)


def _refuse(name: str, given: Any, expected: str) -> SettingsError:
    return SettingsError(
        f"Cannot read a clip with {name} = {given!r}",
        found=f"{given!r}; expected {expected}",
        kept="Nothing was started",
        todo="Correct the setting",
    )


def file_fingerprint(path: Path) -> dict[str, Any]:
    """Return what tells a file from another and from a changed one: size, time of change, hash of both ends.

    Raises:
        InputMediaError: it is gone or cannot be read.
    """
    try:
        state = path.stat()
        digest = hashlib.sha256()
        with path.open("rb") as file:
            digest.update(file.read(_EDGE))
            file.seek(max(0, state.st_size - _EDGE))
            digest.update(file.read(_EDGE))
    except OSError as error:
        raise unreadable(path, f"it has gone or cannot be read: {error.strerror}", "Put the clip back") from error
    return {"bytes": state.st_size, "mtime_ns": state.st_mtime_ns, "sha256": digest.hexdigest()}
