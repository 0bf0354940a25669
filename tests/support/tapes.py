"""Interlaced clips whose every field is another moment."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np

from bfr_core.video.pixels import Filter

START, SPEED = 50, 6
"""Where the disc is in the first field, and how many pixels it moves in a frame."""

OPTIONS = {
    "libx264": {"crf": "10", "preset": "ultrafast", "bf": "0", "flags": "+ildct+ilme"},
    "mpeg2video": {"flags": "+ildct+ilme", "qscale": "2"},
    "prores_ks": {"flags": "+ildct+ilme"},
}
"""By which an encoder codes fields; DV and FFV1 take the frames' word."""


def tape(
    path: Path,
    frames: int = 12,
    *,
    order: str = "tff",
    codec: str = "libx264",
    size: tuple[int, int] = (160, 96),
    rate: int | Fraction = 25,
    pix_fmt: str = "yuv420p",
    whole: tuple[int, ...] = (),
    spot: bool = True,
) -> Path:
    """Write a clip with a bright disc that drifts, in each field at its own time.

    Args:
        path: its suffix names the container.
        frames: each of two fields.
        order: 'tff' or 'bff'.
        codec: FFmpeg's encoder.
        size: width and height.
        rate: frames a second.
        pix_fmt: of the encoder.
        whole: numbers of frames that are one picture, and marked so.
        spot: draw the disc.
    """
    width, height = size
    texture = np.random.default_rng(3).integers(20, 120, (height, width, 3), np.uint8)
    if codec in ("dvvideo", "mpeg2video"):
        texture[:] = 60
    y, x = np.mgrid[:height, :width]
    base = 1 / Fraction(rate)
    with av.open(str(path), "w") as output:
        options = dict(OPTIONS.get(codec, {}))
        if codec == "libx264":
            options["x264-params"] = f"{order}=1"
        stream: Any = output.add_stream(codec, rate=rate, options=options)
        stream.width, stream.height, stream.pix_fmt = width, height, pix_fmt
        stream.time_base = stream.codec_context.time_base = base
        for number in range(frames):
            image = texture.copy()
            for field in (0, 1):
                half = texture.copy()
                place = START + SPEED * (number + (field / 2 if number not in whole else 0))
                half[((x - place) ** 2 + (y - 48) ** 2 < 300) & spot] = 235
                line = field if order == "tff" else 1 - field
                image[line::2] = half[line::2]
            frame: Any = av.VideoFrame.from_ndarray(image, format="rgb24")
            mark = "prog" if number in whole else order
            filters = (("setfield", f"mode={mark}"), ("scale", "interl=-1:flags=accurate_rnd+full_chroma_int"),
                       ("format", f"pix_fmts={pix_fmt}"))  # fmt: skip
            frame = Filter(frame, *filters, time_base=base)(frame)
            frame.pts, frame.time_base, frame.pict_type = number, base, 0
            output.mux(stream.encode(frame))
        output.mux(stream.encode(None))
    return path


def frames_of(path: Path) -> list[Any]:
    with av.open(str(path)) as container:
        return list(container.decode(video=0))


def header_order(path: Path) -> int | None:
    """What the container or the codec's header says of the order, as FFmpeg's AVFieldOrder; None before PyAV 18."""
    with av.open(str(path)) as container:
        return getattr(container.streams.video[0].codec_context, "field_order", None)
