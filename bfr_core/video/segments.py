"""Encode a run of frames to one file, which is there whole or not at all."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import BfrError, OutputMediaError
from ..media.atomic import publish
from ..media.luma import assumed_matrix
from ..media.pyav import open_output
from ..media.scaling import ACCURATE
from .attention import Attention, Box
from .encode import Encoding, add_video
from .fields import Marker, Orders, per_field, rows_of_chroma
from .types import VideoInfo

PREFIX = "segment_"


@dataclass(frozen=True, slots=True)
class Segment:
    """A finished file of encoded frames."""

    number: int
    """From 0, in order of the film."""
    first: int
    """Index of its first frame."""
    frames: int
    path: Path
    bytes: int
    sha256: str


class SegmentWriter:
    """Encodes consecutive frames of a film into one file of a folder.

    Args:
        folder: where the file goes.
        encoding: of the film.
        info: the clip, with the size and matrix of the result.
        number: of the segment, which names the file.
        first: index of its first frame.

    Raises:
        OutputMediaError: the folder cannot be written, or the encoder refuses.
    """

    def __init__(
        self, folder: Path | os.PathLike[str], encoding: Encoding, info: VideoInfo, number: int, first: int = 0
    ) -> None:
        self.encoding, self.info, self.number, self.first = encoding, info, number, first
        self.frames = 0
        self._attention = Attention(encoding.finer_faces)
        self._path = Path(folder) / f"{PREFIX}{number:06}.{encoding.segment_container}"
        self._last: int | None = None
        self._orders, self._mark = Orders(), Marker()
        self._packets = 0
        self._output: Any = None
        self._stack = ExitStack()
        with self._whole_or_nothing():
            self._file = self._stack.enter_context(publish(self._path))
            self._output = open_output(self._file, format=encoding.segment_container)
            self._stream = add_video(self._output, encoding, info)

    def __enter__(self) -> SegmentWriter:
        return self

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        if error is not None:
            self.abort()

    def write(self, picture: Any, pts: int, faces: Sequence[Box] = ()) -> None:
        """Encode one frame.

        Args:
            picture: the decoder's frame, or a changed copy; of the size in `info`.
            pts: its time stamp in the clip's time base, later than that of the frame before.
            faces: where faces were restored in it, which are encoded finer if the encoding says so.

        Raises:
            OutputMediaError: the frame does not fit, the encoder fails, or the disk is full. No file is left.
        """
        with self._whole_or_nothing():
            if self._last is not None and pts <= self._last:
                raise self._error(
                    f"frame {self.first + self.frames} has the time stamp {pts}, and the one before {self._last}; "
                    "expected them to grow",
                    "Report this with the clip",
                )
            if (picture.width, picture.height) != (self.info.width, self.info.height):
                raise self._error(
                    f"frame {self.first + self.frames} has {picture.width} x {picture.height} pixels, expected "
                    f"{self.info.width} x {self.info.height}",
                    "Restore the parts of the clip by themselves",
                )
            order = self._orders(picture)
            frame = fit(picture, self.encoding, self.info)
            if self.info.fields and (order or self.encoding.codec != "ffv1"):
                # One that is no fields goes with the rest, except where every frame is described by itself.
                frame = self._mark(frame, order or self.info.fields)
            frame.pts, frame.time_base = pts, self.info.time_base
            # A decoded frame remembers what kind it was, and an encoder takes that for an order.
            frame.pict_type = 0
            self._mux(self._stream.encode(self._attention(frame, faces)))
        self._last = pts
        self.frames += 1

    def finish(self) -> Segment:
        """Write what the encoder holds back, and publish the file.

        Raises:
            OutputMediaError: nothing was written, frames are missing, or the disk is full. No file is left.
        """
        with self._whole_or_nothing():
            self._mux(self._stream.encode(None))
            # Some containers write, and notice a full disk, only now.
            self._output.close()
            if not self.frames or self._packets != self.frames:
                raise self._error(
                    f"the encoder gave {self._packets} packets for {self.frames} frames; expected as many, and more "
                    "than none",
                    "Choose another codec",
                )
            self._stack.close()
        size, digest = measure(self._path)
        return Segment(self.number, self.first, self.frames, self._path, size, digest)

    def abort(self) -> None:
        """Stop and leave no file. Harmless after `finish`."""
        if self._output is not None:
            with suppress(Exception):
                self._output.close()
            self._output = None
        with suppress(_Aborted):
            # `publish` drops its file when its block ends in an error.
            self._stack.__exit__(_Aborted, _Aborted(), None)

    def __del__(self) -> None:
        # The container has to go before the file that it writes to.
        if hasattr(self, "_stack"):
            self.abort()

    def _mux(self, packets: Any) -> None:
        for packet in packets:
            self._output.mux(packet)
            self._packets += 1

    def _error(self, found: str, todo: str) -> OutputMediaError:
        kept = f"The segments before it are kept in {self._path.parent}"
        return OutputMediaError(f"Cannot write segment {self.number}", found=found, kept=kept, todo=todo)

    @contextmanager
    def _whole_or_nothing(self) -> Iterator[None]:
        """Leave no file where the block fails, and say why."""
        try:
            yield
        except BaseException as error:
            told = self._give_up(error)
            if told is error:
                raise
            raise told from error

    def _give_up(self, error: BaseException) -> BaseException:
        import av.error

        written = 0
        with suppress(Exception):
            written = Path(self._file.name).stat().st_size
        shown = error
        if isinstance(error, OSError) and not isinstance(error, av.error.FFmpegError):
            # Only `publish` knows what a full disk looks like on each system.
            try:
                self._stack.__exit__(type(error), error, error.__traceback__)
            except BfrError as told:
                shown = told
        self.abort()
        if isinstance(shown, OutputMediaError) and shown is not error:
            needed = self._needed(written)
            return self._error(shown.found + needed, shown.todo)
        if isinstance(shown, (av.error.FFmpegError, ValueError)):
            found = f"frame {self.first + self.frames}: FFmpeg refused: {shown}"
            return self._error(found, "Choose another codec or pixel format, or free some space")
        return shown

    def _needed(self, written: int) -> str:
        """Guess how much more the film takes, from what its frames took so far."""
        info = self.info
        total = info.frames or (round(info.seconds * info.rate) if info.seconds and info.rate else 0)
        done = self.first + self.frames
        if not written or not self.frames or total <= done:
            return ""
        mib = max(1, round(written / self.frames * (total - self.first) / 2**20))
        return f"; the frames from here on need about {mib} MiB, and the joined film as much again as all segments"


class _Aborted(Exception):  # noqa: N818
    """Ends the block of a file that is given up."""


def fit(picture: Any, encoding: Encoding, info: VideoInfo) -> Any:
    """Return a frame in the encoder's pixel format; `picture` itself where it has it.

    The two names of one format, with and without the full range in it, differ in no sample. Everything else was
    announced by `choose_encoding`.
    """
    import av

    had, wanted = picture.format.name, encoding.pix_fmt
    if had == wanted:
        return picture
    if had.replace("yuvj", "yuv") == wanted.replace("yuvj", "yuv"):
        frame = av.VideoFrame(picture.width, picture.height, wanted)
        for source, target in zip(picture.planes, frame.planes, strict=True):
            rows = _rows(bytes(source), source.line_size, target.line_size)
            target.update(b"".join(rows)[: target.buffer_size].ljust(target.buffer_size, b"\0"))
        frame.colorspace, frame.color_range = picture.colorspace, picture.color_range
        return frame
    reach = 2 if info.full_range else 1
    colours = {} if _is_rgb(had) == _is_rgb(wanted) else {"dst_colorspace": assumed_matrix(info.height)}
    if colour := encoding.colour:
        reach, colours = max(colour.range, 1), {"dst_colorspace": 5 if colour.matrix == 2 else colour.matrix}
    ranges = {} if _is_rgb(had) else {"src_color_range": reach}
    if info.fields and rows_of_chroma(had) != rows_of_chroma(wanted):
        return per_field(picture, wanted)
    return picture.reformat(format=wanted, interpolation=ACCURATE, dst_color_range=reach, **ranges, **colours)


def _rows(data: bytes, had: int, wanted: int) -> Iterator[bytes]:
    """Yield the rows of a plane with another length of line."""
    for start in range(0, len(data), had):
        yield data[start : start + had][:wanted].ljust(wanted, b"\0")


def _is_rgb(name: str) -> bool:
    import av

    return av.VideoFormat(name, 16, 16).is_rgb


def measure(path: Path, check_cancel: Callable[[], None] = lambda: None) -> tuple[int, str]:
    """Return a file's size and SHA-256; `check_cancel` is asked at every MiB.

    Raises:
        OutputMediaError: it cannot be read.
    """
    digest, size = hashlib.sha256(), 0
    try:
        with path.open("rb") as file:
            while block := file.read(1 << 20):
                check_cancel()
                digest.update(block)
                size += len(block)
    except OSError as error:
        raise OutputMediaError(
            f"Cannot read {path} back",
            found=str(error),
            kept="The other segments are kept",
            todo="Check the disk, and run the same command again",
        ) from error
    return size, digest.hexdigest()
