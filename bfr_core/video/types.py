"""The values that pass between the passes over a film.

Times are in seconds from the first frame's time stamp on. Coordinates are those of upright frames, see
`bfr_core.types`. Everything that grows with the length of a film is a NumPy array: an hour has 90,000 frames, and a
Python object for each would be the largest thing in memory.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from .timeline import Joint

ProgressCallback = Callable[[str, int, int], None]
"""Hears the name of a pass, frames done, and frames in all (0 where nobody knows)."""


Preview = Callable[[Tensor, Tensor], None]
"""Sees a frame before and after, (3, H, W) in [0, 1], at most once a second."""


def now_and_then(preview: Preview | None) -> Preview:
    """Return what may be shown every frame and passes on one a second, the first at once."""
    shown = -math.inf

    def show(before: Tensor, after: Tensor) -> None:
        nonlocal shown
        now = time.monotonic()
        if preview and now - shown > 1:
            shown = now
            preview(before, after)

    return show


def no_progress(name: str, done: int, total: int) -> None:
    """Let progress pass."""


@dataclass(frozen=True, slots=True)
class StreamInfo:
    """One stream of a container."""

    index: int
    kind: str
    """'video', 'audio', 'subtitle', 'data', 'attachment' or 'unknown'."""
    codec: str
    """FFmpeg's name; empty where it knows none."""
    language: str = ""


@dataclass(frozen=True, slots=True)
class VideoInfo:
    """What a clip is, as its header and its first frame say."""

    path: Path
    container: str
    """FFmpeg's name of the format."""
    bytes: int
    streams: tuple[StreamInfo, ...]
    video: int
    """Index of the stream whose faces are restored."""
    width: int
    """Of upright frames, as is `height`."""
    height: int
    turned: int
    """Quarter turns clockwise that bring the stored pixels upright, 0 to 3, after `mirrored`."""
    mirrored: bool
    """The stored pixels are mirrored left to right before they are turned."""
    pixel_aspect: Fraction
    """Of an upright pixel, 1 for square ones."""
    time_base: Fraction
    rate: Fraction | None
    """Average frames a second, a guess."""
    frames: int | None
    """As the header says, which may be wrong; for progress alone."""
    seconds: float | None
    codec: str
    pix_fmt: str
    """Of the frames that `Reader` gives: planar and upright, with the stored samples wherever that can be."""
    depth: int
    """Bits of a colour."""
    matrix: int
    """FFmpeg's AVCOL_SPC of the pixels, 2 where it is unknown; so `full_range` (False where unknown) and the others."""
    full_range: bool
    primaries: int
    transfer: int
    alpha: bool
    """It has transparency, which a plan knows to be in use: an alpha channel that is opaque throughout is none."""
    notes: tuple[str, ...] = ()
    """What a person should know of it: other video streams, missing durations, turned pixels."""
    start: int | None = None
    """Time stamp of the first frame; None where the clip has none."""
    joints: tuple[Joint, ...] = ()
    """Where its times start anew: what lies behind is moved, so that all of them ascend."""
    fields: str = ""
    """Which of a frame's two fields comes first, 'tff' the top or 'bff' the bottom one; '' where frames are whole."""

    @property
    def hdr(self) -> bool:
        """Whether code values are those of PQ or HLG."""
        return self.transfer in (16, 18)

    def to_dict(self) -> dict[str, Any]:
        """Return it as plain JSON types."""
        plain = asdict(self)
        return plain | {
            name: str(plain[name]) for name in ("path", "pixel_aspect", "time_base", "rate") if plain[name] is not None
        }


@dataclass(slots=True)
class VideoFrame:
    """One frame on its way through a pass, whatever it comes from: a decoder or a batch of images."""

    index: int
    """In order of presentation, from 0."""
    time: float
    """Seconds after the first frame."""
    rgb: Callable[[], Tensor]
    """Makes (3, H, W) float32 RGB in [0, 1], as restorers take it; dear, so called where it is needed and not kept."""
    small: Callable[[], np.ndarray]
    """Makes the luma as (h, w) uint8 with h * w of about 4,000: enough to notice a cut, and cheap."""
    picture: Any = None
    """The decoder's frame, upright, in its own pixel format."""
    pts: int = 0
    """In the clip's time base; 0 where the frame comes from no clip."""
    whole: Any = None
    """The frame of two fields, where `picture` is one of them; see `fields`."""


@dataclass(slots=True)
class Scan:
    """What the first pass found, in the order of frames. N frames, M detections in them."""

    times: np.ndarray
    """(N,) float64 seconds."""
    pts: np.ndarray
    """(N,) int64."""
    cuts: np.ndarray
    """(N,) bool: a new shot begins with this frame; the first is one."""
    looked: np.ndarray
    """(N,) bool: faces were looked for in this frame."""
    frame: np.ndarray
    """(M,) int64, ascending."""
    boxes: np.ndarray
    """(M, 4) float32."""
    points: np.ndarray
    """(M, 5, 2) float64."""
    scores: np.ndarray
    """(M,) float32."""
    identity: np.ndarray
    """(M, D) float32 of unit length, NaN in rows that the recogniser was not asked about; D may be 0."""
    sharpness: np.ndarray
    """(M,) float32, see `faces.quality`; NaN where not measured."""
    likelihood: np.ndarray = field(default_factory=lambda: np.zeros(0, np.float32))
    """(M,) float32 that it is a face, see `faces.check`; NaN where not looked at. Scans of before have none."""

    def __post_init__(self) -> None:
        if len(self.likelihood) != len(self.scores):
            object.__setattr__(self, "likelihood", np.full(len(self.scores), np.nan, np.float32))

    def __len__(self) -> int:
        return len(self.times)

    def arrays(self) -> dict[str, np.ndarray]:
        """Return all arrays by name, to be written."""
        return {declared.name: getattr(self, declared.name) for declared in fields(self)}

    @classmethod
    def joined(cls, parts: Sequence[Scan]) -> Scan:
        """Return the consecutive parts of one film as one; of no parts a film of no frames.

        Identity vectors of parts in which nobody was asked may have another length, without a number in them.
        """
        width = max((part.identity.shape[1] for part in parts), default=0)

        def padded(part: Scan) -> np.ndarray:
            return np.pad(part.identity, ((0, 0), (0, width - part.identity.shape[1])), constant_values=np.nan)

        empty = cls(
            times=np.zeros(0), pts=np.zeros(0, np.int64), cuts=np.zeros(0, bool), looked=np.zeros(0, bool),
            frame=np.zeros(0, np.int64), boxes=np.zeros((0, 4), np.float32), points=np.zeros((0, 5, 2)),
            scores=np.zeros(0, np.float32), identity=np.zeros((0, width), np.float32),
            sharpness=np.zeros(0, np.float32),
        )  # fmt: skip
        whole = [empty, *(replace(part, identity=padded(part)) for part in parts)]
        return cls(**{name: np.concatenate([getattr(part, name) for part in whole]) for name in empty.arrays()})


@dataclass(slots=True)
class Track:
    """One face followed through n consecutive frames of one shot, without holes."""

    id: int
    """From 1, in order of the first frame, then of size."""
    person: int
    """Number of the person that the recogniser takes it for, from 1; 0 where it was not asked."""
    frames: np.ndarray
    """(n,) int64, consecutive."""
    observed: np.ndarray
    """(n,) bool: detected there; False where filled between detections."""
    boxes: np.ndarray
    """(n, 4) float32."""
    points: np.ndarray
    """(n, 5, 2) float64, of detections, filled between; not smoothed."""
    scores: np.ndarray
    """(n,) float32; of filled frames that of the detection before."""
    matrices: np.ndarray
    """(n, 2, 3) float64, frame to the FFHQ crop of 512 px, smoothed in time."""
    weight: np.ndarray
    """(n,) float32 in [0, 1]: how much of the restored face is shown; fades where a face comes or goes in a shot."""
    restore: bool = True
    reason: str = ""
    """Why it is left alone."""
    facts: dict[str, float] = field(default_factory=dict)
    """What was measured: size (px), sharpness, yaw, likeness, ... for reports and for people who choose."""
    identity: np.ndarray | None = None
    """(D,) mean of the identity vectors, of unit length; None where nobody looked."""

    @property
    def first(self) -> int:
        """Its first frame."""
        return int(self.frames[0])

    @property
    def last(self) -> int:
        """Its last frame."""
        return int(self.frames[-1])

    def at(self, index: int) -> int | None:
        """Return the row of a frame, None where the face is not there."""
        row = index - self.first
        return row if 0 <= row < len(self.frames) else None
