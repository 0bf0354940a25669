"""The two fields of interlaced pictures: told apart in time, restored as pictures of their own, and woven again.

A frame of a tape holds two pictures that were taken one after the other: the top field in its even lines, and the
bottom field in its odd ones. Restored as one, a face that moves would get one place in both, and comb.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from ..errors import InputMediaError, SettingsError
from ..media.scaling import ACCURATE
from .attention import Box, Drawn, changed_boxes
from .pixels import Filter
from .types import Track, VideoInfo

if TYPE_CHECKING:
    from pathlib import Path

    from .pixels import Pixels
    from .render import Rendered, RenderOptions

Deinterlace = Literal["off", "frame", "field"]
DEINTERLACE: tuple[Deinterlace, ...] = ("off", "frame", "field")
ORDERS = {"tff": "top field first", "bff": "bottom field first"}

_LEAST = (3, 4)
"""Columns and lines of a frame that bwdif takes."""


class Orders:
    """Tells which field of a frame comes first; PyAV tells only whether there are two, and a filter the rest."""

    def __init__(self) -> None:
        self._graph: Any = None
        self._layout: tuple[Any, ...] = ()

    def __call__(self, frame: Any) -> str:
        """Return 'tff', 'bff', or '' for a frame that is one picture."""
        if not frame.interlaced_frame:
            return ""
        layout = frame.width, frame.height, frame.format.name
        if layout != self._layout:
            self._graph, self._layout = _graph(frame, "select", r"eq(interlace_type\,TOPFIRST)"), layout
        self._graph.push(frame)
        return "tff" if _pulled(self._graph) else "bff"


class Marker:
    """Marks frames by which of their fields comes first, as encoders ask each of them."""

    def __init__(self) -> None:
        self._graphs: dict[tuple[Any, ...], Any] = {}

    def __call__(self, frame: Any, order: str) -> Any:
        """Return the frame with that mark; its samples are shared."""
        key = order, frame.width, frame.height, frame.format.name
        if key not in self._graphs:
            self._graphs[key] = _graph(frame, "setfield", f"mode={order}")
        self._graphs[key].push(frame)
        (marked,) = _pulled(self._graphs[key])
        return marked


def per_field(frame: Any, pix_fmt: str) -> Any:
    """Return a frame of two fields with its colour at another vertical resolution, each field for itself.

    A row of halved chroma belongs to one field, a quarter of the way between two of its lines: FFmpeg's scaler knows.
    """
    filters = (("scale", f"interl=1:flags={ACCURATE}"), ("format", f"pix_fmts={pix_fmt}"))
    return Filter(frame, *filters, time_base=frame.time_base or Fraction(1, 25))(frame)


def rows_of_chroma(pix_fmt: str) -> int:
    """Return how many of 64 rows of a frame have chroma of their own."""
    import av

    parts = av.VideoFormat(pix_fmt, 64, 64).components
    return min((part.height for part in parts if part.is_chroma), default=64)


def _graph(frame: Any, name: str, arguments: str, time_base: Fraction | None = None) -> Any:
    from av.filter import Graph

    graph: Any = Graph()
    base = time_base or frame.time_base or Fraction(1, 25)
    source: Any = graph.add_buffer(width=frame.width, height=frame.height, format=frame.format, time_base=base)
    middle: Any = graph.add(name, arguments)
    source.link_to(middle)
    middle.link_to(graph.add("buffersink"))
    graph.configure()
    return graph


def _pulled(graph: Any) -> list[Any]:
    """Return the frames that are ready."""
    import av.error

    ready = []
    while True:
        try:
            ready.append(graph.pull())
        except (av.error.BlockingIOError, av.error.EOFError):
            return ready


# Apart


@dataclass(frozen=True, slots=True)
class Apart:
    """A frame, and its fields as whole pictures in the order of time."""

    whole: Any
    """The frame as it was."""
    pts: int
    pictures: tuple[Any, ...]
    """One or two. Each has the lines of its field, bit for bit, and the others made to fit."""
    lasts: int
    """Ticks until the next frame."""


def apart(frames: Iterable[tuple[Any, int]], info: VideoInfo, *, both: bool) -> Iterator[Apart]:
    """Yield frames with their fields made whole by FFmpeg's bwdif, which looks at the frames before and after.

    A frame that is not marked as interlaced stays as it is, twice where both fields are asked for.

    Args:
        frames: and their time stamps, which ascend.
        info: of their clip.
        both: give both fields, otherwise the first.

    Raises:
        InputMediaError: they are too small, or of a pixel format that bwdif does not take.
    """
    mode = f"mode=send_{'field' if both else 'frame'}:parity=auto:deint=interlaced"
    held: deque[tuple[Any, int, int]] = deque()
    made: deque[Any] = deque()
    graph, lasts = None, _usual(info)

    def ready() -> Iterator[Apart]:
        nonlocal lasts
        while held and len(made) >= held[0][2]:
            frame, pts, count = held.popleft()
            lasts = held[0][1] - pts if held else lasts
            pictures = [made.popleft() for _ in range(count)]
            yield Apart(frame, pts, tuple(pictures * 2 if both and count == 1 else pictures), lasts)

    for frame, pts in frames:
        if graph is None:
            _check(frame, info)
            graph = _graph(frame, "bwdif", mode, info.time_base)
        held.append((frame, pts, 2 if both and frame.interlaced_frame else 1))
        graph.push(frame)
        made.extend(_checked(_pulled(graph), frame, info))
        yield from ready()
    if graph is not None:
        graph.push(None)
        made.extend(_pulled(graph))
        yield from ready()


def _usual(info: VideoInfo) -> int:
    return max(1, round(1 / ((info.rate or 25) * info.time_base)))


def _check(frame: Any, info: VideoInfo) -> None:
    if frame.width < _LEAST[0] or frame.height < _LEAST[1]:
        found = f"its frames are {frame.width} x {frame.height}; expected at least {_LEAST[0]} x {_LEAST[1]}"
        raise _cannot(info.path, found)


def _checked(made: list[Any], frame: Any, info: VideoInfo) -> list[Any]:
    if made and made[0].format.name != frame.format.name:
        raise _cannot(info.path, f"bwdif would turn {frame.format.name} into {made[0].format.name}")
    return made


def _cannot(path: Path, found: str) -> InputMediaError:
    return InputMediaError(
        f"Cannot tell the fields of {path} apart",
        found=found,
        kept="Nothing was written",
        todo="Convert the clip first",
    )


# Through a job


class Cadence:
    """How frames of a clip become the pictures that are restored, and those the frames of the result.

    Faces are looked for in the first field of each frame. Where fields are kept, both are restored, each at its own
    time, and woven; so frames, tracks and masks are counted as the clip counts them.

    Args:
        info: of the clip.
        deinterlace: what becomes of its fields; nothing where it has none.
    """

    def __init__(self, info: VideoInfo, deinterlace: Deinterlace) -> None:
        self.info = info
        self.split = bool(info.fields) and deinterlace != "frame"
        """Whether both fields are restored."""
        self.weave = self.split and deinterlace == "off"
        """Whether they are put together again."""

    @property
    def per_frame(self) -> int:
        """Pictures that become one frame of the result."""
        return 2 if self.weave else 1

    def stamps(self, pts: np.ndarray) -> np.ndarray:
        """Return the time stamps of the result's frames, in its time base."""
        if not self.split or self.weave or not len(pts):
            return pts
        lasts = np.diff(pts, append=2 * pts[-1] - pts[-2] if len(pts) > 1 else pts[-1] + _usual(self.info))
        return np.stack([2 * pts, 2 * pts + lasts], 1).reshape(-1)

    def times(self, times: np.ndarray) -> np.ndarray:
        """Return when the pictures that are restored are seen, in seconds."""
        if not self.split or not len(times):
            return times
        lasts = np.diff(times, append=2 * times[-1] - times[-2] if len(times) > 1 else times[-1] + 0.04)
        return np.stack([times, times + lasts / 2], 1).reshape(-1)

    def tracks(self, tracks: Sequence[Track]) -> Sequence[Track]:
        """Return tracks by the pictures that are restored: between two frames a face is half way."""
        return [_doubled(track) for track in tracks] if self.split else tracks

    def options(self, options: RenderOptions) -> RenderOptions:
        """Return options whose masks are counted by the pictures that are restored."""
        if not self.split or options.within is None or len(options.within) == 1:
            return options
        return replace(options, within=options.within.repeat_interleave(2, 0))

    def woven(self, made: Iterable[Rendered], pixels: Pixels) -> Iterator[Drawn]:
        """Yield frames of two fields, restored where one of them is, and the decoder's own elsewhere."""
        orders, first = Orders(), None
        for item in made:
            if first is None:
                first = item
                continue
            moment = first.moment
            whole = result = moment.whole
            faces: tuple[Box, ...] = ()
            order = orders(whole) or self.info.fields
            for field, line in ((first, order == "bff"), (item, order == "tff")):
                if field.before is None or field.after is None:
                    continue
                result = pixels.copy(whole) if result is whole else result
                faces += changed_boxes(field.before, field.after, field.box)
                changed = pixels.write(field.moment.picture, field.before, field.after, field.box)
                for target, source in zip(pixels.planes(result), pixels.planes(changed), strict=True):
                    target[line::2] = source[line::2]
            yield replace(moment, index=first.index // 2), result, faces
            first = None


def _doubled(track: Track) -> Track:
    def between(values: np.ndarray, *, on: bool) -> np.ndarray:
        ahead = values[-1:] + (values[-1:] - values[-2:-1] if on and len(values) > 1 else 0)
        return np.stack([values, (values + np.concatenate([values[1:], ahead])) / 2], 1).reshape(-1, *values.shape[1:])

    return replace(
        track,
        frames=np.arange(2 * track.first, 2 * track.last + 2),
        observed=track.observed.repeat(2),
        boxes=track.boxes.repeat(2, 0),
        points=track.points.repeat(2, 0),
        scores=track.scores.repeat(2),
        matrices=between(track.matrices, on=True),
        weight=between(track.weight, on=False).astype(np.float32),
    )


def made_of(info: VideoInfo, deinterlace: Deinterlace) -> VideoInfo:
    """Return what a clip is once its fields are dealt with.

    Raises:
        SettingsError: unknown `deinterlace`, or it is stored turned, where its fields would be columns.
    """
    if deinterlace not in DEINTERLACE:
        raise SettingsError(
            f"Cannot deinterlace by {deinterlace!r}",
            found=f"{deinterlace!r}; expected one of {', '.join(DEINTERLACE)}",
            kept="Nothing was started",
            todo="Correct the setting",
        )
    if not info.fields:
        return info
    if info.turned:
        raise SettingsError(
            f"Cannot restore {info.path}",
            found="it is interlaced and its pictures are stored turned; expected one of both",
            kept="Nothing was started and no file was changed",
            todo="Deinterlace it first",
        )
    if deinterlace == "off":
        return info
    made = replace(info, fields="")
    if deinterlace == "frame":
        return made
    return replace(
        made,
        time_base=info.time_base / 2,
        rate=info.rate and info.rate * 2,
        frames=info.frames and info.frames * 2,
        start=None if info.start is None else info.start * 2,
    )


def told(info: VideoInfo, deinterlace: Deinterlace) -> list[str]:
    """Return what a person should know of what becomes of the fields."""
    if not info.fields:
        return ["It is not marked as interlaced, so nothing is deinterlaced."] if deinterlace != "off" else []
    what = {
        "off": "its fields stay fields, and faces are restored in each by itself",
        "frame": "one picture is made of each two fields",
        "field": "a picture is made of each field, at double rate",
    }
    return [f"It is interlaced, {ORDERS[info.fields]}: {what[deinterlace]}."]
