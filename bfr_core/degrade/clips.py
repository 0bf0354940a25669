"""Degrade a clip from file to file: time stamps and sound kept, and a record of what was done to which frame."""

from __future__ import annotations

import os
import stat
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import BfrError, InputMediaError, OutputMediaError
from ..media.atomic import make_folder, publish, require_writable
from ..media.clips import open_clip, orientation, pick_video, read_frames, to_rgb
from ..media.formats import FILMS, film_format, suffixes
from ..media.outputs import FilePair
from ..media.pyav import open_output, rational
from ..media.scaling import ACCURATE
from .video import ClipParams, FrameRecord, degrade_frames

_CODEC = "h264"
WRITTEN = suffixes([each for each in FILMS if _CODEC in each.codecs], write=True)
"""Suffixes that are written: of containers that hold H.264."""

_COPIED_AUDIO = {"aac", "mp3", "ac3", "eac3", "opus", "flac", "alac"}
_QUALITY = {"crf": "12", "preset": "veryfast", "bf": "0"}
"""Of the file: what the degradation took away stays, and nothing visible is added. No B-frames, so that the time
stamps need no edit list."""


def record_path(target: Path) -> Path:
    """Return where the record of a clip is written: beside it, with .json after its name."""
    return target.with_name(f"{target.name}.json")


def plan_clips(sources: Sequence[Path], out: Path, *, alone: bool, overwrite: bool) -> list[FilePair]:
    """Pair every clip with its output file, and make the output folder.

    Args:
        sources: clips.
        out: output file where `alone` and its suffix is a clip's, else a folder.
        alone: there is one clip and nothing else to write.
        overwrite: replace results of an earlier run; never an input.

    Raises:
        InputMediaError: a clip is missing or no regular file.
        OutputMediaError: an output is an input, exists already, is asked for twice, cannot be written there, or has
            a suffix that is not written.
    """

    def refuse(tree: type[BfrError], what: str, found: str, todo: str) -> BfrError:
        return tree(what, found=found, kept="Nothing was started and no file was changed", todo=todo)

    named = film_format(out)
    if alone and named is not None and out.suffix.lower() not in WRITTEN and not out.is_dir():
        found = f"{named.title} is not written here; expected one of {', '.join(WRITTEN)}"
        raise refuse(OutputMediaError, f"Cannot write {out}", found, "Give the output one of these suffixes")
    single = alone and out.suffix.lower() in WRITTEN and not out.is_dir()
    jobs: list[FilePair] = []
    for source in sources:
        if not source.exists() or not stat.S_ISREG(source.stat().st_mode):
            found = "it is no regular file" if source.exists() else "there is no such file"
            raise refuse(InputMediaError, f"Cannot read {source}", found, "Check the name and the folder")
        suffix = source.suffix if source.suffix.lower() in WRITTEN else ".mp4"
        jobs.append(FilePair(source, out if single else out / f"{source.stem}{suffix}"))
    for index, job in enumerate(jobs):
        if any(job.target == other.target for other in jobs[:index]):
            found = f"two inputs would become {job.target}"
            raise refuse(OutputMediaError, "Two inputs have one output", found, "Degrade them into two folders")
        for path in (job.target, record_path(job.target)):
            if not os.path.lexists(path):
                continue
            same = path.exists() and any(path.samefile(source) for source in sources)
            if same or not overwrite:
                found = "it is an input, which would be lost" if same else "it exists already"
                todo = "Choose another output" if same else "Choose another output, or allow overwriting"
                raise refuse(OutputMediaError, f"Will not write over {path}", found, todo)
    for place in sorted({job.target.parent for job in jobs}):
        make_folder(place)
        require_writable(place)
    return jobs


def degrade_clip(source: Path, target: Path, params: ClipParams) -> dict[str, Any]:
    """Degrade one clip into `target` and return the record of its frames.

    Every frame that is not dropped keeps its time stamp, in Matroska to its millisecond; a dropped one leaves a gap.
    Sound in common formats is copied as it is; whatever is not carried over is said in the record's notes.

    Args:
        source: clip; of several video streams the one marked as default is used, else the first.
        target: file whose suffix is in WRITTEN.
        params: from `draw_clip`.

    Raises:
        InputMediaError: the clip cannot be read, has no pictures, no time stamps, is stored rotated, or changes size.
        OutputMediaError: the result cannot be written.
    """
    import av.codec.codec
    import av.error

    kind = film_format(target)
    if kind is None or target.suffix.lower() not in WRITTEN:
        found = f"its suffix is '{target.suffix}'; expected one of {', '.join(WRITTEN)}"
        raise OutputMediaError(
            f"Cannot write {target}", found=found, kept="Nothing was started", todo="Use one of these"
        )
    with open_clip(source) as container, publish(target) as file:
        video = pick_video(source, container)
        output: Any = None
        try:
            # The start of a track is kept in movie ticks, by default milliseconds.
            options = {} if kind.name == "matroska" else {"movie_timescale": str(video.time_base.denominator)}
            output = open_output(file, format=kind.name, options=options)
            return _Clip(source, target, container, video, output).run(params)
        except (av.error.FFmpegError, av.codec.codec.UnknownCodecError) as error:
            raise _unwritable(target, error) from error
        finally:
            if output is not None:
                # After an error its trailer has no place to go; after success it is closed already.
                with suppress(Exception):
                    output.close()


def _unwritable(target: Path, error: Exception) -> OutputMediaError:
    return OutputMediaError(
        f"Cannot write {target}",
        found=f"FFmpeg refused: {error}",
        kept="No unfinished file is left, and an older file of that name is untouched",
        todo="Choose another suffix, .mp4 or .mkv",
    )


def _unreadable(source: Path, found: str, todo: str) -> InputMediaError:
    return InputMediaError(f"Cannot degrade {source}", found=found, kept="The clip is untouched", todo=todo)


class _Clip:
    """One clip on its way from container to container."""

    def __init__(self, source: Path, target: Path, container: Any, video: Any, output: Any) -> None:
        self.source, self.target, self.container, self.output = source, target, container, output
        self.video = video
        context = self.video.codec_context
        rate = rational(self.video.average_rate) or Fraction(25)
        self.time_base = Fraction(self.video.time_base)
        self.written: Any = self.output.add_stream("libx264", rate=rate, options=_QUALITY)
        self.written.width, self.written.height = context.width, context.height
        even = context.width % 2 == 0 and context.height % 2 == 0
        self.written.pix_fmt = "yuv420p" if even else "yuv444p"
        self.written.codec_context.thread_count = 1
        self.written.time_base = self.written.codec_context.time_base = self.time_base
        if aspect := rational(context.sample_aspect_ratio):
            self.written.codec_context.sample_aspect_ratio = aspect
        # The matrix of the input, so that colours come back as they were; swscale's own default is BT.601.
        self.matrix = 1 if context.colorspace == 1 else 5
        self.written.codec_context.colorspace = context.colorspace
        self.written.codec_context.color_range = 1
        self.notes: list[str] = []
        self.sound: dict[int, Any] = {}
        for stream in container.streams:
            if stream.type == "audio" and stream.codec_context.name in _COPIED_AUDIO:
                self.sound[stream.index] = self.output.add_stream_from_template(stream)
            elif stream is not self.video:
                name = stream.codec_context.name if stream.codec_context else "unknown"
                self.notes.append(f"stream {stream.index} ({stream.type}, {name}) is not copied")
        self.stamps: deque[int] = deque()
        self.first = 0
        self.read = 0
        self.last_s = 0.0

    def run(self, params: ClipParams) -> dict[str, Any]:
        """Write every frame and return the record."""
        records: list[FrameRecord] = []
        for image, record in degrade_frames(self._frames(), params):
            self._write(image, record)
            records.append(record)
        if not records:
            raise _unreadable(self.source, "it holds no frame that can be decoded", "Get a whole copy of the clip")
        self.output.mux(self.written.encode(None))
        self.output.close()
        promised = (self.container.start_time or 0) + (self.container.duration or 0)
        if promised / 1e6 > self.last_s + 1:
            # A Matroska file that was cut short ends without an error.
            self.notes.append(
                f"its pictures end at {self.last_s:.2f} s, and its header promises {promised / 1e6:.2f} s"
            )
        shown = {record.index for record in records}
        return {
            "clip": params.to_dict(),
            "frames": [asdict(record) for record in records],
            "dropped": [index for index in range(self.read) if index not in shown],
            "held": [record.index for record in records if record.index != record.shows],
            "notes": self.notes,
        }

    def _frames(self) -> Iterator[tuple[float, np.ndarray]]:
        """Yield time and RGB of every frame, and pass the sound on as it comes."""

        def on_packet(packet: Any) -> None:
            if packet.stream.index in self.sound:
                self._copy(packet)

        streams = [self.video, *(self.container.streams[index] for index in self.sound)]
        frames = read_frames(self.container, self.video, streams=streams, on_packet=on_packet, on_fault=self._damaged)
        for frame in frames:
            yield self._take(frame)

    def _damaged(self, error: Exception, packet: Any, row: int) -> bool:
        found = f"frame {self.read} cannot be decoded: {error}"
        raise _unreadable(self.source, found, "Get a whole copy of the clip") from error

    def _copy(self, packet: Any) -> None:
        import av.error

        if packet.dts is None:  # the end of the stream
            return
        packet.stream = self.sound[packet.stream.index]
        try:
            self.output.mux(packet)
        except av.error.FFmpegError as error:
            raise _unwritable(self.target, error) from error

    def _take(self, frame: Any) -> tuple[float, np.ndarray]:
        if frame.pts is None:
            raise _unreadable(self.source, f"frame {self.read} has no time stamp", "Put the clip into MP4 or MKV first")
        notes: list[str] = []
        turned, mirrored = orientation(frame, notes)
        if turned or mirrored:
            found = f"it is stored turned by {90 * turned} degrees{' and mirrored' * mirrored}; expected upright"
            raise _unreadable(self.source, found, "Save it upright first")
        if not self.read:
            self.notes += notes
        self.read += 1
        self.stamps.append(frame.pts)
        self.last_s = float(frame.pts * self.time_base)
        return self.last_s, to_rgb(frame)

    def _write(self, image: np.ndarray, record: FrameRecord) -> None:
        import av

        while self.first < record.index:  # dropped before it
            self.stamps.popleft()
            self.first += 1
        picture: Any = av.VideoFrame.from_ndarray(image, format="rgb24")
        frame = picture.reformat(
            format=self.written.pix_fmt, dst_colorspace=self.matrix, dst_color_range=1, interpolation=ACCURATE
        )
        frame.pts, frame.time_base = self.stamps[0], self.time_base
        self.output.mux(self.written.encode(frame))
