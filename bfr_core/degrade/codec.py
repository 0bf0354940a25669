"""Send frames through a video codec in memory and back."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from typing import Any

import numpy as np

from ..errors import SettingsError
from ..media.clips import to_rgb
from ..media.scaling import ACCURATE

_ENCODERS = {"h264": "libx264", "mpeg4": "mpeg4"}
_SMALLEST = 16
"""Sides below this are filled up: the encoders work in blocks of 16 and refuse some sizes below."""


class Recoder:
    """An encoder and its decoder, joined: 8-bit RGB frames in, what a viewer would see out, in the same order.

    One thread each, so that the same frames give the same result everywhere.

    Args:
        codec: 'h264' or 'mpeg4'.
        quality: constant rate factor of h264, quantiser of mpeg4.
        width: of the frames.
        height: of the frames.

    Raises:
        SettingsError: this build of FFmpeg lacks the encoder.
    """

    def __init__(self, codec: str, quality: int, width: int, height: int) -> None:
        import av.error

        self._av, self._size, self._count = av, (height, width), 0
        # 4:2:0 needs even sides; the border that is added repeats the edge and is cut off again.
        self._padded = tuple(max(side + side % 2, _SMALLEST) for side in self._size)
        try:
            encoder: Any = av.CodecContext.create(_ENCODERS[codec], "w")
        except (av.error.FFmpegError, ValueError) as error:
            raise SettingsError(
                f"Cannot compress with {codec}",
                found=f"this build of FFmpeg has no encoder {_ENCODERS[codec]} ({error})",
                kept="Nothing was changed",
                todo="Choose codec=mpeg4 or codec=none",
            ) from error
        encoder.height, encoder.width = self._padded
        encoder.pix_fmt, encoder.time_base, encoder.framerate = "yuv420p", Fraction(1, 25), Fraction(25)
        encoder.thread_count = 1
        if codec == "h264":
            encoder.options = {"crf": str(quality), "preset": "veryfast", "threads": "1"}
        else:
            encoder.options = {"qmin": str(quality), "qmax": str(quality), "threads": "1"}
        self._encoder = encoder
        self._decoder: Any = av.CodecContext.create(codec, "r")
        self._decoder.thread_count = 1

    def push(self, image: np.ndarray) -> list[np.ndarray]:
        """Take the next (h, w, 3) uint8 frame and return the frames that are ready."""
        rows, columns = (full - side for full, side in zip(self._padded, self._size, strict=True))
        padded = np.pad(image, ((0, rows), (0, columns), (0, 0)), mode="edge") if rows or columns else image
        frame = self._av.VideoFrame.from_ndarray(np.ascontiguousarray(padded), format="rgb24")
        frame = frame.reformat(format="yuv420p", interpolation=ACCURATE)
        frame.pts, frame.time_base = self._count, Fraction(1, 25)
        self._count += 1
        return list(self._decode(self._encoder.encode(frame)))

    def finish(self) -> list[np.ndarray]:
        """Return the frames that the encoder and decoder still hold."""
        return [*self._decode(self._encoder.encode(None)), *self._decode([None])]

    def _decode(self, packets: list[Any]) -> Iterator[np.ndarray]:
        height, width = self._size
        for packet in packets:
            for frame in self._decoder.decode(packet):
                yield to_rgb(frame)[:height, :width]
