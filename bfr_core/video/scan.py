"""The first pass over a film: where shots begin, and which faces are in which frame.

Searching a frame takes longer than decoding it, so not every frame is searched. While nobody is there, one search in
`look_s` is enough. A face in sight is followed from frame to frame by the detector's second look alone, and the frame
is searched a few times a second for new ones, or where a face is lost; a new one is followed back through the frames
since the search before, which are held for that. So births and deaths are known to the frame and every frame has its
own points, and only faces that come and go between two searches are missed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Protocol, runtime_checkable

import numpy as np
import torch
from torch.nn import functional as F

from ..bounds import bounded, check_bounds
from ..errors import InputMediaError
from ..faces.align import FFHQ_TEMPLATE, sample, similarity
from ..faces.check import likelihoods, view_of_crop
from ..faces.pyramid import overlap
from ..faces.quality import CROP, sharpness
from ..runtime import Runtime
from ..types import Face
from .cuts import CutFinder
from .types import Scan, VideoFrame

if TYPE_CHECKING:
    from ..faces.detect import Detector
    from ..faces.identity import RecognizerNet

PART = 500
"""Frames of a part, about: a killed job loses less than a minute of work."""
SEARCH_S = 0.2
"""Seconds from search to search with faces in sight, where they can be followed."""
MAX_HELD = 48
"""Frames held between two searches at most, whatever the frame rate: 48 of 4K are 600 MB."""
_SAME = 0.3
"""Least overlap (IoU) of a face with itself in a neighbouring frame."""
_NEAR = 1.2
"""Faces nearer to each other than this many sizes may cross, and are asked who they are more often."""
_NEAR_SHARE = 0.25
"""Share of `identity_s` then."""


HALVED_PX, _HALVED_SIDE = 32.0, 128
"""Smallest wanted face, and smallest side of a frame, for which a search in half the size is enough: a face of 16 px is
found there."""
_NAMED = 0.35
"""Score there from which a place is looked at in full size."""


@dataclass(frozen=True, slots=True)
class ScanOptions:
    """How closely a film is looked at, and how what is found becomes tracks.

    Raises:
        SettingsError: a value is out of range.
    """

    every: int = bounded(0, 0, 30)
    """Frames from search to search with faces in sight; 0 for each frame on an accelerator and with detectors that
    cannot follow a face, and for SEARCH_S otherwise. What lies between is followed, or else filled in."""
    look_s: float = bounded(0.5, 0, 10)
    """Seconds from search to search while nobody is in sight."""
    threshold: float | None = bounded(None, 0, 1)
    """Least score of a face; None for the detector's own."""
    min_px: float = bounded(0.0, 0, 1e6)
    """Smaller faces, in pixels, are of no use to the caller, and may be missed."""
    identity_s: float = bounded(0.5, 0, 60)
    """Seconds after which a face is asked again who it is and how sharp."""
    gap_s: float = bounded(0.5, 0, 10)
    """Longest time for which a face may be missed and still be the same track, in seconds."""
    fade_s: float = bounded(0.12, 0, 10)
    """Seconds over which a face that appears or leaves within a shot is faded in and out."""
    steady: bool = True
    """Take the tremble of the detector out of the alignment."""

    def __post_init__(self) -> None:
        check_bounds(self, "look for faces")


EVERY_FRAME = ScanOptions(every=1, look_s=0)
"""Asks for the faces of each frame, as `GivenFaces` has them."""


def scan(
    moments: Iterable[VideoFrame],
    detector: Detector,
    recogniser: RecognizerNet | None = None,
    options: ScanOptions | None = None,
    runtime: Runtime | None = None,
    *,
    start: Sequence[Scan] = (),
) -> Iterator[Scan]:
    """Look through a film, and yield what was found in parts of about PART frames, each as soon as it is final.

    Args:
        moments: all frames of the film in order, from its first, also where `start` holds some of them already.
        detector: finds the faces.
        recogniser: tells people apart; None for nobody asks.
        options: how closely to look.
        runtime: where to run, and who may cancel.
        start: parts of an earlier run with the same options, which are not yielded again: of their frames only the
            lumas are read. The parts that follow are those of a run without a break.
    """
    yield from _Scanner(detector, recogniser, options or ScanOptions(), runtime or Runtime()).parts(moments, start)


@runtime_checkable
class Follower(Protocol):
    """A detector whose search and closer look can be had apart; see `EmbeddedDetector`."""

    def search(self, frames: torch.Tensor) -> list[list[Face]]:
        """Return the places of frames (B, 3, H, W) that may be faces."""
        ...

    def follow(self, frame: torch.Tensor, faces: Sequence[Face], *, threshold: float | None = None) -> list[Face]:
        """Return the faces of a neighbouring frame where they are in this one, (3, H, W)."""
        ...


class GivenFaces:
    """A detector that was told the faces of every frame, by another tool or by hand: these alone are followed.

    Args:
        frames: the faces of each frame, in order.

    To be used with EVERY_FRAME.
    """

    def __init__(self, frames: Sequence[Sequence[Face]]) -> None:
        self.frames = frames
        told = [[(*face.box, *face.points.flatten().tolist(), face.score) for face in faces] for faces in frames]
        self.name = f"given {hashlib.sha256(repr(told).encode()).hexdigest()[:16]}"

    def at(self, index: int) -> list[Face]:
        """Return the faces of a frame.

        Raises:
            InputMediaError: the film has more frames than faces were given for.
        """
        if index >= len(self.frames):
            raise InputMediaError(
                "Cannot use these faces",
                found=f"they were found in {len(self.frames)} frames, and the film has more; expected as many",
                kept="Nothing was restored",
                todo="Find the faces in all frames of the same film, or in its first frame alone",
            )
        return list(self.frames[index])

    def detect(self, frames: torch.Tensor, *, threshold: float | None = None) -> list[list[Face]]:
        """Refuse: frames do not tell which they are."""
        raise AssertionError("given faces are asked for by the number of their frame")

    def to_device(self, device: torch.device) -> None:
        """Do nothing: there is no network."""


@dataclass(slots=True)
class _Seen:
    """One face of one frame."""

    face: Face
    identity: np.ndarray | None = None
    sharpness: float = float("nan")
    likelihood: float = float("nan")


@dataclass(slots=True)
class _Row:
    """One frame, and the moment itself until it is decided whether to look."""

    time: float
    pts: int
    cut: bool
    moment: VideoFrame | None
    seen: list[_Seen] | None = None
    """None where nobody looked."""


class _Scanner:
    """The state of one scan."""

    def __init__(
        self, detector: Detector, recogniser: RecognizerNet | None, options: ScanOptions, runtime: Runtime
    ) -> None:
        self.detector, self.recogniser, self.options, self.runtime = detector, recogniser, options, runtime
        can = isinstance(detector, Follower)
        dense = options.every == 1 or (not options.every and not (can and runtime.device.type == "cpu"))
        self.dense = dense
        """Whether every frame is searched while faces are in sight."""
        self.follower = detector if can and not dense else None
        self.rows: list[_Row] = []
        """Frames of the part in the making."""
        self.held: list[_Row] = []
        """Frames after `last`, the end of `rows`."""
        self.last: _Row | None = None
        """The latest frame that was searched, None at the start of a shot."""
        self.asked: list[tuple[float, np.ndarray]] = []
        """When and where faces were asked who they are: time, box."""
        self.width = 0
        """Of the identity vectors, once there is one."""
        self.emitted = 0
        """Frames in the parts before."""

    def parts(self, moments: Iterable[VideoFrame], done: Sequence[Scan]) -> Iterator[Scan]:
        """Yield parts as they become final."""
        skipped, cuts = sum(map(len, done)), CutFinder()
        self._resume(Scan.joined(done))
        for count, moment in enumerate(moments):
            self.runtime.check_cancel()
            cut = cuts.step(moment.small())
            if count < skipped:
                continue
            if cut:
                self._close_shot()
            row = _Row(moment.time, moment.pts, cut, moment)
            self.rows.append(row)
            self.held.append(row)
            self._take(row)
            if not self.held and len(self.rows) >= PART:
                yield self._emit()
        self._close_shot()
        if self.rows:
            yield self._emit()

    def _take(self, row: _Row) -> None:
        """Look for faces in the newest frame, or put that off."""
        last = self.last
        if last is None:
            self._search_newest()
        elif self.dense and self._in_sight():
            if len(self.held) >= min(max(self.runtime.batch, 1), MAX_HELD):
                self._search(self.held)
                self._settle()
        elif len(self.held) >= MAX_HELD:
            self._search_newest()
        elif not self._in_sight():
            if row.time - last.time >= self.options.look_s - 1e-6:
                self._search_newest()
        elif self._is_search_due(row, last):
            self._search_newest()
        elif self.follower is not None:
            faces = self._in_sight()
            found = self.follower.follow(_rgb(row), faces, threshold=self.options.threshold)
            row.seen = [_Seen(_rounded(face)) for face in found]
            if len(found) < len(faces):
                # Gone, or too fast to follow.
                self._search_newest()

    def _in_sight(self) -> list[Face]:
        """Return the faces of the latest frame that is known, beside the newest."""
        for row in reversed([self.last, *self.held[:-1]]):
            if row is not None and row.seen is not None:
                return [seen.face for seen in row.seen]
        return []

    def _is_search_due(self, row: _Row, last: _Row) -> bool:
        if self.options.every:
            return len(self.held) >= self.options.every
        return row.time - last.time >= SEARCH_S - 1e-6

    def _close_shot(self) -> None:
        """Look at the last frames before a cut or the end, of which no later frame will tell."""
        if self.held and self.last is not None:
            if self.dense and self._in_sight():
                self._search(self.held)
            elif not self.follower or not self._in_sight():
                self._search_newest()
            self._settle()
        self.last, self.asked = None, []

    def _detect(self, frames: torch.Tensor) -> list[list[Face]]:
        """Search frames (B, 3, H, W).

        Where nobody asks for small faces, the search names places in frames of half the size, in a quarter of the
        time, and the look at them in full size decides.
        """
        threshold = self.options.threshold
        if self.follower is None or self.options.min_px < HALVED_PX or min(frames.shape[2:]) < _HALVED_SIDE:
            return self.detector.detect(frames, threshold=threshold)
        halved = F.avg_pool2d(frames.to(self.runtime.device), 2)
        found = []
        for frame, places in zip(frames, self.follower.search(halved), strict=True):
            named = [_doubled(face) for face in places if face.score >= _NAMED]
            found.append(self.follower.follow(frame, named, threshold=threshold) if named else [])
        return found

    def _search(self, rows: Sequence[_Row]) -> None:
        step = max(self.runtime.batch, 1)
        for at in range(0, len(rows), step):
            self.runtime.check_cancel()
            part = rows[at : at + step]
            if isinstance(self.detector, GivenFaces):
                found = [self.detector.at(row.moment.index) for row in part if row.moment is not None]
            else:
                found = self._detect(torch.stack([_rgb(row) for row in part]))
            for row, faces in zip(part, found, strict=True):
                row.seen = [_Seen(_rounded(face)) for face in faces]

    def _search_newest(self) -> None:
        """Search the newest frame, and trace new faces back to where they came from."""
        newest, between = self.held[-1], self.held[:-1]
        before = self._in_sight()
        self._search([newest])
        fresh = _unlike([seen.face for seen in newest.seen or []], before)
        if self.dense or self.follower is None:
            # Filled in by straight lines where nobody came or went.
            if between and (fresh or len(before) != len(newest.seen or [])):
                self._search(between)
        else:
            self._trace_back(between, fresh)
        self._settle()

    def _trace_back(self, between: Sequence[_Row], faces: list[Face]) -> None:
        """Follow faces back in time, until they are not there."""
        for row in reversed(between):
            if not faces or self.follower is None:
                return
            self.runtime.check_cancel()
            known = [seen.face for seen in row.seen or []]
            frame = _rgb(row)
            found = _unlike(self.follower.follow(frame, faces, threshold=self.options.threshold), known)
            if len(found) < len(faces):
                found = _unlike(self._detect(frame[None])[0], known)
            faces = [_rounded(face) for face in found]
            row.seen = [*(row.seen or []), *map(_Seen, faces)] if faces or row.seen else row.seen

    def _settle(self) -> None:
        """Make the held frames final."""
        # In the order of time: who is asked at one frame is not asked at the next.
        for row in self.held:
            self._ask(row)
            row.moment = None
        if self.held:
            self.last, self.held = self.held[-1], []

    def _ask(self, row: _Row) -> None:
        """Ask the faces of a frame whether they are any, who they are and how sharp, where that is due."""
        self.asked = [(time, box) for time, box in self.asked if row.time - time < self.options.identity_s]
        due = [number for number, seen in enumerate(row.seen or []) if self._is_due(row, number)]
        if not due or not row.seen:
            return
        frame = _rgb(row)
        crops = []
        for number in due:
            face = row.seen[number].face
            crops.append(sample(frame, similarity(face.points, FFHQ_TEMPLATE * (CROP / 512)), CROP).clamp(0, 1))
            self.asked.append((row.time, np.array(face.box)))
        vectors = None
        if self.recogniser is not None:
            from ..faces.identity import identities

            vectors = identities(self.recogniser, torch.stack(crops)).numpy().astype(np.float32)
            self.width = vectors.shape[1]
        # What a person or another tool said is a face is one.
        told = isinstance(self.detector, GivenFaces)
        likely = [1.0] * len(crops) if told else likelihoods(torch.stack([view_of_crop(crop) for crop in crops]))
        for place, number in enumerate(due):
            row.seen[number].sharpness, row.seen[number].likelihood = sharpness(crops[place]), likely[place]
            row.seen[number].identity = None if vectors is None else vectors[place]

    def _is_due(self, row: _Row, number: int) -> bool:
        seen = row.seen or []
        face = seen[number].face
        wait = self.options.identity_s
        for other in seen:
            near = np.linalg.norm(other.face.points.mean(0) - face.points.mean(0)) < _NEAR * max(face.size, 1.0)
            if other is not seen[number] and near:
                wait *= _NEAR_SHARE
                break
        recent = np.array([box for time, box in self.asked if row.time - time < wait - 1e-6]).reshape(-1, 4)
        return not len(recent) or float(overlap(np.array(face.box), recent)[0].max()) < _SAME

    def _emit(self) -> Scan:
        rows, self.rows = self.rows, []
        seen = [(self.emitted + number, face) for number, row in enumerate(rows) for face in row.seen or []]
        part = _part(rows, [frame for frame, _ in seen], [face for _, face in seen], self.width)
        self.emitted += len(rows)
        return part

    def _resume(self, done: Scan) -> None:
        """Take up where earlier parts end, as if there had been no break."""
        self.emitted, self.width = len(done), done.identity.shape[1]
        if not len(done):
            return
        shot = int(np.flatnonzero(done.cuts)[-1])
        asked = np.flatnonzero((done.frame >= shot) & np.isfinite(done.sharpness))
        self.asked = [
            (float(done.times[done.frame[row]]), done.boxes[row].astype(np.float64)) for row in asked.tolist()
        ]
        final = len(done) - 1
        seen = [_seen(done, row) for row in np.flatnonzero(done.frame == final).tolist()]
        self.last = _Row(float(done.times[final]), int(done.pts[final]), bool(done.cuts[final]), None, seen)


def _unlike(faces: Sequence[Face], others: Sequence[Face]) -> list[Face]:
    """Return the faces that are none of the others."""
    if not others:
        return list(faces)
    boxes = np.array([other.box for other in others])
    return [face for face in faces if float(overlap(np.array(face.box), boxes)[0].max()) < _SAME]


def _seen(part: Scan, row: int) -> _Seen:
    x0, y0, x1, y1 = part.boxes[row].tolist()
    return _Seen(Face((x0, y0, x1, y1), part.points[row], float(part.scores[row])))


def _rgb(row: _Row) -> torch.Tensor:
    if row.moment is None:
        raise AssertionError("a frame is looked at after it was let go")
    return row.moment.rgb().clamp(0, 1)


def _doubled(face: Face) -> Face:
    x0, y0, x1, y1 = (2 * value for value in face.box)
    return Face((x0, y0, x1, y1), 2 * face.points, face.score)


def _rounded(face: Face) -> Face:
    """Return a face as a part keeps it, so that a scan decides the same whether it was interrupted or not."""
    x0, y0, x1, y1 = np.array(face.box, np.float32).tolist()
    return replace(face, box=(x0, y0, x1, y1))


def _part(rows: Sequence[_Row], frame: Sequence[int], seen: Sequence[_Seen], width: int) -> Scan:
    blank = np.full(width, np.nan, np.float32)
    return Scan(
        times=np.array([row.time for row in rows], np.float64),
        pts=np.array([row.pts for row in rows], np.int64),
        cuts=np.array([row.cut for row in rows], bool),
        looked=np.array([row.seen is not None for row in rows], bool),
        frame=np.array(frame, np.int64),
        boxes=np.array([one.face.box for one in seen], np.float32).reshape(-1, 4),
        points=np.array([one.face.points for one in seen], np.float64).reshape(-1, 5, 2),
        scores=np.array([one.face.score for one in seen], np.float32),
        identity=np.array([blank if one.identity is None else one.identity for one in seen], np.float32).reshape(
            len(seen), width
        ),
        sharpness=np.array([one.sharpness for one in seen], np.float32),
        likelihood=np.array([one.likelihood for one in seen], np.float32),
    )
