"""From frames and tracks to frames with restored faces, in order and in constant memory.

Each face that is to be restored is cut out through its track's smoothed matrix, restored in batches that reach across
frames and faces, steadied in time, and pasted back. Frames without such a face pass through: their pixels are not
even computed. The same code serves films and batches of images.
"""

from __future__ import annotations

import hashlib
import zlib
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..bounds import bounded, check_bounds
from ..compose import detail
from ..compose.masks import FEATHER
from ..compose.paste import composite
from ..compose.within import keep_outside, within_of
from ..faces.align import sample
from ..restoration.faces import FaceBatch, restore_crops
from ..restoration.options import COLOURS, Colours
from ..restoration.upscale import fit_faces
from ..restorer import Restorer, face_seed
from ..runtime import Runtime
from ..types import Face, FaceCrop
from .deflicker import MAX_FRAMES, REACH_S, Deflicker
from .enlarge import Enlarge
from .smooth import SIDE
from .types import Scan, Track, VideoFrame

_MASK_SIDE = 64
"""Side of the flat masks by which faces are shown in part."""

_NOBODY = Face((0.0, 0.0, 0.0, 0.0), np.zeros((5, 2)), 0.0)
"""Of crops that are pasted by their matrix alone."""


@dataclass(frozen=True, slots=True)
class RenderOptions:
    """What is done to the faces of a film."""

    strength: float = bounded(1.0, 0, 1)
    feather: float = bounded(FEATHER, 0, 0.5)
    grain: float = bounded(1.0, 0, 1)
    """How much of the grain around faces is put back into them, new in each frame as the film's is."""
    seed: int = 0
    colours: Colours = field(default="auto", metadata={"choices": COLOURS})
    settings: Mapping[str, Any] = field(default_factory=dict)
    """Of the method."""
    deflicker: float = bounded(1.0, 0, 1)
    """How much of the change from frame to frame that the input does not show is taken out; 0 restores every frame for
    itself."""
    strengths: Mapping[int, float] = field(default_factory=dict)
    """By the id of a track, in place of `strength`."""
    seeds: Mapping[int, int] = field(default_factory=dict)
    """By the id of a track, in place of `seed`."""
    within: Tensor | None = None
    """Where in the frames restoring may show, (M, h, w) in [0, 1] of any size: one mask for all frames, or one for
    each; None for everywhere."""

    def check(self) -> None:
        """Raise SettingsError where a value is out of range."""
        check_bounds(self, "restore a film")
        for track, strength in self.strengths.items():
            check_bounds(replace(self, strength=strength, strengths={}), f"restore track {track} of a film")

    def told(self) -> dict[str, Any]:
        """Return what a job is told by, as plain JSON types: two runs that agree in it give the same frames."""
        told = {
            "strength": self.strength,
            "feather": self.feather,
            "grain": self.grain,
            "seed": self.seed,
            "colours": self.colours,
            "settings": dict(self.settings),
            "deflicker": self.deflicker,
            "strengths": {str(track): value for track, value in sorted(self.strengths.items())},
            "seeds": {str(track): value for track, value in sorted(self.seeds.items())},
        }
        if self.within is not None:
            shape, data = list(self.within.shape), self.within.detach().cpu().contiguous().numpy().data
            told["within"] = [*shape, hashlib.sha256(data).hexdigest()]
        return told


@dataclass(slots=True)
class Rendered:
    """One frame on its way out."""

    index: int
    moment: VideoFrame
    """Enlarged where asked for."""
    before: Tensor | None = None
    """(3, H, W) as `moment.rgb()` gave it, enlarged where asked for; None where nothing is to be changed."""
    after: Tensor | None = None
    """The same with restored faces: equal to `before`, bit for bit, outside `box` and wherever no face is shown."""
    box: tuple[int, int, int, int] = (0, 0, 0, 0)
    """x0, y0, x1, y1 in pixels, the last two exclusive: around all that was changed."""


def reach(found: Scan | Sequence[float] | np.ndarray, options: RenderOptions) -> int:
    """Return how many frames before and after a part of a film take part in its result.

    Args:
        found: what was found in the film, or the times of all its frames in seconds.
        options: as for `render`.
    """
    if options.deflicker == 0:
        return 0
    times = np.asarray(found.times if isinstance(found, Scan) else found, np.float64)
    if not len(times):
        return 0
    after = np.searchsorted(times, times + REACH_S + 1e-6, side="right") - np.arange(len(times)) - 1
    before = np.arange(len(times)) - np.searchsorted(times, times - REACH_S - 1e-6, side="left")
    return int(min(max(after.max(), before.max(), 0), MAX_FRAMES))


def track_seed(options: RenderOptions, track: Track) -> int:
    """Return the seed of a face: one for all its frames, so that a method which draws noise draws the same for each."""
    return face_seed(options.seeds.get(track.id, options.seed), 0, track.id)


def render(
    moments: Iterable[VideoFrame],
    tracks: Sequence[Track],
    restorer: Restorer,
    options: RenderOptions,
    runtime: Runtime,
    *,
    span: tuple[int, int] | None = None,
    upscale: int = 1,
    enlarge: Enlarge | None = None,
) -> Iterator[Rendered]:
    """Restore the chosen faces of a film, or of a part of it.

    Held at once: no more than 2 * reach + batch frames, and of each face no more crops than that. A part gives the
    same as the whole where `moments` begins `reach` frames before the span and goes on as far after it, both as far as
    the film goes; the restorer's own arithmetic may differ by rounding with the size of a batch.

    Args:
        moments: consecutive frames in order.
        tracks: those marked `restore` are restored in the frames where their weight is above zero.
        restorer: the loaded method.
        options: what to do.
        runtime: where to run.
        span: first frame to give and the one after the last; None for all that come.
        upscale: how many times as wide and as high `enlarge` makes frames.
        enlarge: makes the frames of the span larger, into which the faces are then put; None leaves their size.

    Yields:
        Every frame of the span, in order.

    Raises:
        SettingsError: an option is out of range.
        RestoreError: the method failed.
    """
    options.check()
    canvas = (upscale, enlarge) if enlarge is not None else (1, lambda moment: moment)
    return _Renderer(tracks, restorer, options, runtime, span or (0, 1 << 62), canvas).run(iter(moments))


@dataclass(slots=True)
class _Shown:
    """One face in one frame."""

    track: Track
    moment: VideoFrame
    matrix: np.ndarray
    """(2, 3): frame to the crop of the restorer's size."""
    strength: float
    image: Tensor
    """(3, S, S): the crop until it is restored, then the restored face."""
    restored: bool = False


@dataclass(slots=True)
class _Held:
    """A frame that waits for its faces, or for those of frames after it."""

    moment: VideoFrame
    faces: list[_Shown]


class _Renderer:
    """The state of one `render`."""

    def __init__(
        self,
        tracks: Sequence[Track],
        restorer: Restorer,
        options: RenderOptions,
        runtime: Runtime,
        span: tuple[int, int],
        canvas: tuple[int, Enlarge],
    ) -> None:
        self.upscale, self.enlarge = canvas
        self.restorer, self.options, self.runtime, self.span = restorer, options, runtime, span
        chosen = [track for track in tracks if track.restore and len(track.frames) and self._strength(track) > 0]
        self._coming = deque(sorted(chosen, key=lambda track: (track.first, track.id)))
        self._here: list[Track] = []
        self.held: deque[_Held] = deque()
        self.waiting: deque[_Shown] = deque()
        """Faces that are cut out and not yet restored."""
        self._steady: dict[int, Deflicker] = {}

    def _strength(self, track: Track) -> float:
        return self.options.strengths.get(track.id, self.options.strength)

    def run(self, moments: Iterator[VideoFrame]) -> Iterator[Rendered]:
        """Yield the frames of the span."""
        for moment in moments:
            self.runtime.check_cancel()
            self._take(moment)
            while len(self.waiting) >= max(self.runtime.batch, 1):
                self._restore()
            # Frames without faces behind the last one must not be held for the sake of a full batch.
            if self.waiting and len(self.held) > max(self.runtime.batch, 1) + MAX_FRAMES:
                self._restore()
            yield from self._give(moment)
        while self.waiting:
            self._restore()
        yield from self._give(None)

    def _take(self, moment: VideoFrame) -> None:
        """Cut out the faces of a frame."""
        while self._coming and self._coming[0].first <= moment.index:
            self._here.append(self._coming.popleft())
        self._here = [track for track in self._here if track.last >= moment.index]
        held = _Held(moment, [])
        frame: Tensor | None = None
        for track in self._here:
            row = track.at(moment.index)
            if row is None or track.weight[row] <= 0 or not self._needed(track, moment.index):
                continue
            frame = moment.rgb() if frame is None else frame
            matrix = track.matrices[row] * (self.restorer.size / SIDE)
            image = sample(frame, matrix, self.restorer.size, enlarge=self.upscale).clamp_(0, 1)
            strength = self._strength(track) * float(track.weight[row])
            held.faces.append(_Shown(track, moment, matrix, strength, image))
        self.waiting.extend(held.faces)
        self.held.append(held)

    def _needed(self, track: Track, index: int) -> bool:
        """Return whether a face matters to the span: in it, or beside it in a track that reaches into it."""
        first, last = self.span
        if first <= index < last:
            return True
        if self.options.deflicker == 0:
            return False
        return track.last >= first if index < first else track.first < last

    def _restore(self) -> None:
        """Restore one batch of the faces that wait."""
        part = [self.waiting.popleft() for _ in range(min(max(self.runtime.batch, 1), len(self.waiting)))]
        batch = FaceBatch(
            torch.stack([shown.image for shown in part]),
            [track_seed(self.options, shown.track) for shown in part],
            self.options.settings,
            colours=self.options.colours,
        )
        made = restore_crops(batch, self.restorer, self.runtime).faces
        for shown, face in zip(part, made, strict=True):
            if self.options.deflicker:
                steady = self._steady.setdefault(shown.track.id, Deflicker(self.restorer.size))
                steady.add(shown.moment.index, shown.moment.time, shown.image, face)
            shown.image, shown.restored = face, True

    def _give(self, latest: VideoFrame | None) -> Iterator[Rendered]:
        """Yield the frames that nothing still to come can change; all that is left where nothing comes."""
        while self.held and self._ready(self.held[0], latest):
            held = self.held.popleft()
            first, last = self.span
            if first <= held.moment.index < last:
                yield self._rendered(held)
            self._forget(held.moment.index)

    def _ready(self, held: _Held, latest: VideoFrame | None) -> bool:
        """Return whether a frame's faces are restored, and so are those within reach of them."""
        if not held.faces or not self.options.deflicker:
            return all(shown.restored for shown in held.faces)
        if latest is not None and self._within(held.moment, latest):
            return False
        near = (other for other in self.held if self._within(held.moment, other.moment))
        return all(shown.restored for other in near for shown in other.faces)

    @staticmethod
    def _within(one: VideoFrame, other: VideoFrame) -> bool:
        return other.index - one.index <= MAX_FRAMES and other.time - one.time <= REACH_S + 1e-6

    def _forget(self, index: int) -> None:
        for track, steady in list(self._steady.items()):
            steady.drop(index + 1 - MAX_FRAMES)
            if not len(steady):
                del self._steady[track]

    def _rendered(self, held: _Held) -> Rendered:
        moment = self.enlarge(held.moment)
        if not held.faces:
            return Rendered(moment.index, moment)
        before = moment.rgb()
        faces = [self._face(shown) for shown in held.faces]
        most = max(shown.strength for shown in held.faces)
        # A mask caps how much of a face is shown; what all faces share is left to the strength of the whole.
        masks = [
            None if shown.strength == most else torch.full((_MASK_SIDE, _MASK_SIDE), shown.strength / most)
            for shown in held.faces
        ]
        crops = [FaceCrop(face, shown.matrix, _NOBODY) for face, shown in zip(faces, held.faces, strict=True)]
        # One figure for all frames of a track: what is kept of its fine detail must not tremble.
        worth = [detail.worth(shown.track.facts.get("sharpness", 0.0)) for shown in held.faces]
        # What the frame shows draws its grain too: where a film holds a frame, the grain stands still as all else does.
        shows = zlib.crc32((before * 255).to(torch.uint8).cpu().numpy().tobytes()) if self.options.grain else 0
        seeds = [face_seed(track_seed(self.options, shown.track), shows, 0) for shown in held.faces]
        after, blended = composite(
            before, crops, fit_faces(faces, crops, self.upscale), masks=masks, strength=most,
            feather=self.options.feather, worth=worth, upscale=self.upscale, grain=self.options.grain, seeds=seeds,
        )  # fmt: skip
        if self.options.within is not None:
            mask = within_of(self.options.within, moment.index, (before.shape[1], before.shape[2]))
            after, blended = keep_outside(before, after, blended, mask)
        box = _around(blended)
        return Rendered(moment.index, moment, before, after, box) if box else Rendered(moment.index, moment)

    def _face(self, shown: _Shown) -> Tensor:
        share = self.options.deflicker
        if share == 0:
            return shown.image
        steady = self._steady[shown.track.id].result(shown.moment.index)
        return steady if share == 1 else torch.lerp(shown.image, steady, share)


def _around(blended: Tensor) -> tuple[int, int, int, int] | None:
    """Return the box around all that is above zero, None where nothing is."""
    rows, columns = blended.amax(1).nonzero(), blended.amax(0).nonzero()
    if not len(rows):
        return None
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1
