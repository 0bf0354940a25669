"""PyAV from 14 to 19, read in one way.

Every container is opened here, and rates, time bases, side data, chapters and dispositions are read here: what one
version of PyAV does differently, or lacks, is known in this file alone.
"""

from __future__ import annotations

from fractions import Fraction
from itertools import count
from typing import Any


def open_input(file: Any, *, format: str | None = None, options: dict[str, str] | None = None) -> Any:
    """Open a container for reading, with FFmpeg's options of its demuxer; `file` is a path as str, or a file object.

    Raises:
        av.error.FFmpegError: FFmpeg refuses it.
    """
    import av

    # As `options` they would go to each stream, too, and PyAV before 17 crashes where streams appear only while a file
    # is looked into, as in MPEG-PS.
    return av.open(file, format=format, container_options=dict(options or {}), **_lenient())


def open_output(file: Any, *, format: str, options: dict[str, str] | None = None) -> Any:
    """Open a container for writing to a file object, with FFmpeg's options of its muxer.

    Raises:
        av.error.FFmpegError: FFmpeg refuses it.
    """
    import av

    return av.open(file, mode="w", format=format, container_options=dict(options or {}), **_lenient())


def _lenient() -> dict[str, Any]:
    """Return what lets titles pass that are no UTF-8, as those of old files: their bytes become surrogates, and back.

    PyAV 19 passes them so always; those before it raise unless they are told to.
    """
    import av

    return {"metadata_errors": "surrogateescape"} if int(av.__version__.partition(".")[0]) < 19 else {}


def rational(value: Any) -> Fraction | None:
    """Return a rate, a time base or an aspect ratio; None where it is not set.

    PyAV 19 gives an `AVRational`, 0/1 where nothing is set, which has not all that a Fraction can do; those before it
    give a Fraction or None.
    """
    return Fraction(value.numerator, value.denominator) if value else None


def side_data(frame: Any) -> dict[str, bytes]:
    """Return a frame's side data by the name of its type, such as 'DISPLAYMATRIX'.

    Iterating over it gives types from PyAV 19 on, and the data before; by index it is the data everywhere. How many
    there are only the index tells: from 19 on their `len` counts types, and x265 writes one of them twice.
    """
    data: dict[str, bytes] = {}
    for index in count():
        try:
            item = frame.side_data[index]
        except IndexError:
            break
        data[item.type.name] = bytes(item)
    return data


def has_chapters() -> bool:
    """Return whether this version of PyAV reads and writes chapters, as those from 16 on do."""
    import av.container

    return hasattr(av.container.OutputContainer, "set_chapters")


def chapters(container: Any) -> list[dict[str, Any]]:
    """Return the chapters of a container as PyAV describes them, with Fractions; none where it cannot read them."""
    found = container.chapters() if has_chapters() else []
    return [{**chapter, "time_base": Fraction(chapter["time_base"])} for chapter in found]


def disposition(stream: Any) -> int | None:
    """Return FFmpeg's flags of what a stream is for; None with PyAV before 14.1, which does not tell."""
    flags = getattr(stream, "disposition", None)
    return None if flags is None else int(flags.value)  # no number itself before PyAV 17


def set_disposition(stream: Any, flags: int | None) -> None:
    """Say what a stream of an output is for, where this version of PyAV can."""
    if flags is not None:
        stream.disposition = flags
