"""Join the segments, copy everything else of the clip beside them, check the result, and publish it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import OutputMediaError
from ..media.atomic import publish
from ..media.clips import is_cover, open_clip, unreadable
from ..media.pyav import chapters, disposition, has_chapters, open_input, open_output, rational, set_disposition
from .encode import Encoding, add_video
from .matroska import ROOM, set_shape
from .segments import Segment
from .sound import Sound
from .streams import KEEP_STAMPS, PLAIN_KEYS, copy_stream, is_attached, lasts, of_the_clip, stored_sound
from .timeline import Timeline
from .types import ProgressCallback, VideoInfo, no_progress
from .verify import Copied, Written, verify

_LATEST_START_S = 10.0
"""A clip whose first stamp is later, as in recordings of broadcasts, begins at zero in the result: most players show
nothing until then."""
_BACK_S = 0.5
"""By how much the stamps of a copied stream may fall back and be mended."""
_MOST_TICKS = 2**31 - 1


def join(
    segments: Sequence[Segment],
    info: VideoInfo,
    target: Path,
    encoding: Encoding,
    kept: Sequence[int],
    pts: np.ndarray,
    *,
    window: tuple[float, float] | None = None,
    check_cancel: Callable[[], None] = lambda: None,
    on_progress: ProgressCallback = no_progress,
    token: str | None = None,
) -> dict[str, Any]:
    """Write the film: the packets of all segments with the clip's own time stamps, and the streams that are kept.

    The stamps are those of the clip, moved only where its first one is negative or later than ten seconds, or where
    a part is cut out, which begins at zero. All streams move alike. Before it takes its name, the film is opened
    again and decoded to its end, and everything in it is compared.

    Args:
        segments: all of them, in order.
        info: the clip, with the size and matrix of the result.
        target: the file to publish.
        encoding: that the segments were made with.
        kept: streams of the clip to copy, from `plan_streams`.
        pts: (N,) time stamp of each frame in the clip's time base, ascending.
        window: the part that was asked for, start and length in seconds; only its sound is copied then.
        check_cancel: raises where the run is to stop; asked every few packets.
        on_progress: hears how many frames are written, as "join", and how many are found in the result, as "verify".
        token: names the unfinished file, so that a run that was killed leaves none behind; see `publish`.

    Returns:
        What was checked, as plain JSON types.

    Raises:
        InputMediaError: the clip cannot be read any more.
        OutputMediaError: the segments are not those of the film, the disk is full, or the result is not what it should
            be; it is kept beside the target as `<name>.rejected` then.
    """
    pts = np.asarray(pts, np.int64)
    _check_segments(segments, target, pts)
    film = _Film(segments, info, encoding, pts, window, check_cancel, on_progress)
    report: dict[str, Any] = {}

    def check(temporary: Path) -> None:
        report.update(verify(temporary, target, film.written(), check_cancel, on_progress))

    try:
        with publish(target, check=check, token=token) as file:
            film.write(file, target, kept)
    except _ffmpeg_errors() as error:
        raise film.error(target, f"FFmpeg refused: {error}", "Choose another container") from error
    except OutputMediaError as error:
        if not isinstance(error.__cause__, OSError):
            raise
        # `publish` puts a full disk into words; what is kept and needed is known here.
        needed = round(sum(segment.bytes for segment in segments) / 2**20 + 0.5)
        found = f"{error.found}; the film needs about {needed} MiB, and the sound of the clip"
        raise film.error(target, found, error.todo.split(",")[0]) from error
    return report


def _ffmpeg_errors() -> tuple[type[Exception], ...]:
    import av.codec.codec
    import av.error

    return (av.error.FFmpegError, av.codec.codec.UnknownCodecError, OverflowError)


def _check_segments(segments: Sequence[Segment], target: Path, pts: np.ndarray) -> None:
    count = sum(segment.frames for segment in segments)
    found, where = "", segments[0].path.parent if segments else "the folder of the job"
    if not len(pts) or not segments:
        found = "no frame was encoded; expected one at least"
    elif count != len(pts):
        found = f"the segments have {count} frames, expected {len(pts)}"
    elif any(after.first != before.first + before.frames for before, after in pairwise(segments)):
        found = "the segments do not follow one another"
    elif len(pts) > 1 and int(np.diff(pts).min()) <= 0:
        found = f"the time stamps do not grow at frame {int(np.argmin(np.diff(pts))) + 1}"
    if found:
        raise OutputMediaError(
            f"Cannot join {target}",
            found=found,
            kept="The segments are kept, and no output was written",
            todo=f"Run the same command again; where that does not help, delete {where}",
        )


class _Film:
    """One film on its way from segments to a checked file."""

    def __init__(
        self,
        segments: Sequence[Segment],
        info: VideoInfo,
        encoding: Encoding,
        pts: np.ndarray,
        window: tuple[float, float] | None,
        check_cancel: Callable[[], None],
        on_progress: ProgressCallback,
    ) -> None:
        self.segments, self.info, self.encoding, self.pts = segments, info, encoding, pts
        self.window, self.check_cancel, self.on_progress = window, check_cancel, on_progress
        self.copied: dict[int, Copied] = {}
        self.sounds: dict[int, Sound] = {}
        """Streams that are decoded, by their index in the clip."""
        self.chapters: list[dict[str, Any]] = []
        self.metadata: dict[str, str] = {}
        """Of the container, as written."""
        self.notes: list[str] = []
        self.target = Path()
        self.video = 0
        """Index of the restored stream in the result."""
        self.shift = self._choose_shift()
        """Ticks of the clip's time base that all stamps are moved by."""
        self.last = 0
        """Duration of the last frame in ticks."""

    def error(self, target: Path, found: str, todo: str) -> OutputMediaError:
        folder = self.segments[0].path.parent
        return OutputMediaError(
            f"Cannot write {target}",
            found=found,
            kept=f"All {len(self.segments)} segments are kept in {folder}, and an older file of that name is untouched",
            todo=f"{todo}, then run the same command again",
        )

    def written(self) -> Written:
        """Return what the result is expected to hold."""
        return Written(
            self.video, (self.info.width, self.info.height), self.pts + self.shift, self.info.time_base,
            self.encoding.container in ("mp4", "mov"),
            list(self.copied.values()), [sound.heard for sound in self.sounds.values()],
            len(self.chapters), self.metadata, float(self._offset), tuple(self.notes),
            self.info.fields, self.info.alpha and self.encoding.has_alpha,
        )  # fmt: skip

    def _choose_shift(self) -> int:
        first = int(self.pts[0])
        start = first * self.info.time_base
        if self.window is not None:
            return -first
        if start < 0 or start > _LATEST_START_S:
            self.notes.append(f"all time stamps are moved by {float(-start):.6f} s, so that the pictures begin at 0")
            return -first
        return 0

    def _options(self, source: Any, kept: Sequence[int]) -> dict[str, str]:
        container = self.encoding.container
        if container not in PLAIN_KEYS:
            return dict(KEEP_STAMPS)
        # Starts of tracks are kept in movie ticks: where the tracks have a common one, exactly.
        ticks = self.info.time_base.denominator
        bases = [rational(source.streams[index].time_base) for index in kept]
        shared = math.lcm(ticks, *(base.denominator for base in bases if base))
        options = {
            "video_track_timescale": str(ticks),
            "movie_timescale": str(shared if shared <= _MOST_TICKS else ticks),
        }
        if not {key.lower() for key in of_the_clip(source.metadata)} <= PLAIN_KEYS[container]:
            options["movflags"] = "use_metadata_tags"
        return KEEP_STAMPS | options

    def write(self, file: Any, target: Path, kept: Sequence[int]) -> None:
        """Write the whole film to an open file."""
        output: Any = None
        self.target = target
        try:
            with open_clip(self.info.path) as source:
                container = self.encoding.container
                options = self._options(source, kept)
                output = open_output(file, format=container, options=options)
                self._fill(source, output, kept)
                output.close()
                self._shape(file, target)
        finally:
            if output is not None:
                with suppress(Exception):
                    output.close()

    def _shape(self, file: Any, target: Path) -> None:
        """Write the shape of pixels where the muxer does not."""
        if not self._needs_shape:
            return
        file.flush()
        size, webm = (self.info.width, self.info.height), self.encoding.container == "webm"
        if not set_shape(file, Path(file.name), self.video, size, self.info.pixel_aspect, webm):
            found = f"its pixels are {self.info.pixel_aspect} as wide as high, and the header has no place for that"
            raise self.error(target, found, "Choose .mp4")

    @property
    def _needs_shape(self) -> bool:
        return self.encoding.container in ("matroska", "webm") and self.info.pixel_aspect not in (0, 1)

    def _fill(self, source: Any, output: Any, kept: Sequence[int]) -> None:
        recipes = stored_sound(self.info, self.encoding.container, kept)
        self.metadata = of_the_clip(source.metadata)
        output.metadata.update(self.metadata)
        made: dict[int, Any] = {}
        video: Any = None
        # In the order of the clip, so that stream numbers stay what people know; readers count attachments last.
        for stream in sorted(source.streams, key=lambda stream: stream.type == "attachment" or _is_cover(stream)):
            if stream.index == self.info.video:
                video = add_video(output, self.encoding, self.info)
                video.metadata.update({key: value for key, value in stream.metadata.items() if lasts(key)})
                if self._needs_shape:
                    video.metadata["title"] = video.metadata.get("title", "") + ROOM
                set_disposition(video, disposition(stream))
                self.video = video.index
            elif stream.index in recipes:
                sound = self.sounds[stream.index] = Sound(output, stream, recipes[stream.index], self._span)
                sound.made.metadata.update({key: value for key, value in stream.metadata.items() if lasts(key)})
                set_disposition(sound.made, disposition(stream))
            elif stream.index in kept:
                made[stream.index] = copy_stream(output, stream, self.info.path)
        if has_chapters():
            self.chapters = self._chapters(source)
            output.set_chapters(self.chapters)
        output.start_encoding()
        for index, stream in made.items():
            was = source.streams[index]
            if not is_attached(was, self.encoding.container):
                even = was.codec_context is not None and was.codec_context.name.startswith("pcm_")
                self.copied[index] = Copied(
                    index, stream.index, Fraction(was.time_base), _is_cover(was), even=even and was.type == "audio"
                )
        pictures = self._pictures(video)
        waiting = next(pictures)
        for count, packet in enumerate(self._source_packets(source)):
            if count % 64 == 0:
                self.check_cancel()
            index = packet.stream.index  # that of a packet without data, which empties a decoder, is told here alone
            if index == self.info.video:
                shown = packet.pts if packet.pts is not None else packet.dts
                # A film with a picture for each field counts in halves of the clip's ticks.
                same = packet.time_base == self.info.time_base
                if same and shown == int(self.pts[-1]) and packet.duration:
                    self.last = packet.duration
            stamp = packet.dts if packet.dts is not None else packet.pts
            # The last frame waits for the end, where its duration is known.
            while stamp is not None and waiting is not None and waiting[1]:
                if waiting[0].pts * self.info.time_base > stamp * packet.time_base + self._offset:
                    break
                output.mux(waiting[0])
                waiting = next(pictures, None)
            if index in self.sounds:
                for ready in self.sounds[index].take(packet, self._offset):
                    output.mux(ready)
            elif index in self.copied and packet.size:
                for ready in self._ready(packet, source.streams[index].type):
                    self._copy(ready, self.copied[index], made[index], output)
        while waiting is not None:
            packet, more = waiting
            if not more:
                packet.duration = self.last = self.last or self._usual()
            output.mux(packet)
            waiting = next(pictures, None)
        for copied in self.copied.values():
            if copied.moved_s:
                found = f"up to {copied.moved_s:.3f} s"
                self.notes.append(f"time stamps of stream {copied.index} fell back and were moved by {found}")
        for sound in self.sounds.values():
            for packet in sound.finish():
                output.mux(packet)
            self.notes += sound.notes()

    @property
    def _span(self) -> tuple[Fraction, Fraction] | None:
        """Return from when to when the part that is cut out lasts, in seconds of the clip."""
        if self.window is None:
            return None
        base = self.info.time_base
        return int(self.pts[0]) * base, (int(self.pts[-1]) + self._usual()) * base

    @property
    def _offset(self) -> Fraction:
        return self.shift * self.info.time_base

    def _usual(self) -> int:
        """Return how long a frame is shown where the clip does not say."""
        if len(self.pts) > 1:
            return int(np.median(np.diff(self.pts)))
        return max(1, round(1 / ((self.info.rate or 25) * self.info.time_base)))

    def _source_packets(self, source: Any) -> Iterator[Any]:
        import av.error

        others = [source.streams[index] for index in (*self.copied, *self.sounds)]
        streams = [source.streams[self.info.video], *others]
        timeline = Timeline(self.info.joints)
        try:
            for packet in source.demux(*streams):
                timeline.move(packet)
                yield packet
        except av.error.FFmpegError as error:
            raise unreadable(
                self.info.path,
                f"it ends in an error: {error}",
                "Get a whole copy of the clip, and run the same command again",
                "The finished segments are kept, and no output was written",
            ) from error

    def _ready(self, packet: Any, kind: str) -> list[Any]:
        """Return the packets of a stream that are ready to be copied, each with a decoding stamp.

        Matroska has none: FFmpeg works them out, and cannot for the first packets of a stream whose frames are stored
        out of order.
        """
        copied = self.copied[packet.stream_index]
        if copied.cover:
            packet.pts = packet.dts = 0
            return [packet] if not copied.stamps else []
        if self.window is not None and not self._in_window(packet, kind, copied):
            return []
        if packet.dts is None and kind == "video":
            copied.waiting.append(packet)
            return []
        if packet.dts is None:
            packet.dts = packet.pts
        waiting, copied.waiting = copied.waiting, []
        for back, early in enumerate(reversed(waiting), 1):
            early.dts = min(packet.dts - back * max(early.duration or 1, 1), early.pts)
        return [*waiting, packet] if packet.dts is not None else []

    def _in_window(self, packet: Any, kind: str, copied: Copied) -> bool:
        """Tell whether a packet belongs to the part that is cut out, and cut subtitles that begin before it."""
        base = Fraction(packet.time_base)
        start = int(self.pts[0]) * self.info.time_base
        end = (int(self.pts[-1]) + (self.last or self._usual())) * self.info.time_base
        stamp = packet.pts if packet.pts is not None else packet.dts
        if stamp is None:
            return False
        over = (stamp + (packet.duration or 0)) * base
        if kind == "subtitle" and stamp * base < start < over:
            packet.pts = packet.dts = math.ceil(start / base)
            packet.duration = max(1, int(over / base) - packet.pts)
            return True
        if kind == "video" and not copied.stamps and not copied.waiting and not packet.is_keyframe:
            return False
        return start <= stamp * base < end

    def _copy(self, packet: Any, copied: Copied, stream: Any, output: Any) -> None:
        move = 0 if copied.cover else round(self._offset / packet.time_base)
        if packet.pts is not None:
            packet.pts += move
        packet.dts += move
        self._keep_order(packet, copied, stream)
        copied.add(packet, packet.pts if packet.pts is not None else packet.dts)
        packet.stream = stream
        output.mux(packet)

    def _keep_order(self, packet: Any, copied: Copied, stream: Any) -> None:
        """Move a packet whose decoding stamp falls back a little, as no container takes it; refuse one far back."""
        strict = self.encoding.container in PLAIN_KEYS and stream.type != "subtitle"
        step = max(1, math.ceil(Fraction(stream.time_base or packet.time_base) / packet.time_base)) if strict else 0
        least = None if copied.latest is None else copied.latest + step
        if least is not None and packet.dts < least and not copied.cover:
            back = float((least - packet.dts) * packet.time_base)
            if back > _BACK_S:
                at = float(packet.dts * packet.time_base)
                raise self.error(
                    self.target,
                    f"the time stamps of stream {copied.index} fall back by {back:.3f} s at {at:.3f} s",
                    f"Rewrite the clip with a remuxer, or leave the stream out (--drop-streams {copied.index})",
                )
            copied.moved_s = max(copied.moved_s, back)
            packet.dts = least
            packet.pts = None if packet.pts is None else max(packet.pts, least)
        copied.latest = packet.dts

    def _pictures(self, stream: Any) -> Iterator[tuple[Any, bool]]:
        """Yield the packets of all segments with the stamps of the film, and whether another follows."""
        made = stream.codec_context.extradata
        index, total = 0, len(self.pts)
        for segment in self.segments:
            # The header says all there is to know; by default the first frames are decoded as well, to guess at more.
            container, options = self.encoding.segment_container, {"probesize": "32"}
            with open_input(str(segment.path), format=container, options=options) as opened:
                video = opened.streams.video[0]
                if (video.codec_context.extradata or b"") != (made or b"") and self.encoding.codec != "prores_ks":
                    raise self.error(segment.path, "it was made with other settings than the film", "Delete it")
                for packet in opened.demux(video):
                    if not packet.size:
                        continue
                    if index >= total:
                        raise self.error(segment.path, "it has more frames than it should", "Delete it")
                    if index % 16 == 0:
                        self.check_cancel()
                        self.on_progress("join", index, total)
                    stamp = int(self.pts[index]) + self.shift
                    packet.stream = stream
                    packet.time_base = self.info.time_base
                    packet.pts = packet.dts = stamp
                    index += 1
                    more = index < total
                    packet.duration = int(self.pts[index]) + self.shift - stamp if more else 0
                    yield packet, more
        if index != total:
            raise self.error(self.segments[-1].path, f"the segments hold {index} frames, expected {total}", "Delete it")

    def _chapters(self, source: Any) -> list[dict[str, Any]]:
        kept: list[dict[str, Any]] = []
        for chapter in chapters(source):
            base = chapter["time_base"]
            start, end = chapter["start"], chapter["end"]
            if self.window is not None:
                first = int(self.pts[0]) * self.info.time_base / base
                last = (int(self.pts[-1]) + self._usual()) * self.info.time_base / base
                start, end = max(start, math.ceil(first)), min(end, math.floor(last))
                if start >= end:
                    continue
            move = round(self._offset / base)
            kept.append(chapter | {"start": start + move, "end": end + move})
        return kept


def _is_cover(stream: Any) -> bool:
    return stream.type == "video" and is_cover(stream)
