"""Faces followed through a film: the detections of its frames, linked to one track for each face in each shot.

Two passes: detections are linked from look to look by where a face would be if it moved on as it did, and by who it
is where that is known; then a track that ends and one that begins soon after are joined if they are of one face. All
distances are in face sizes, so that a face of 40 and one of 400 px are followed alike.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from ..faces.quality import yaw
from .scan import ScanOptions
from .smooth import SIDE, crop_matrices, smooth_matrices
from .types import Scan, Track

_ALONE = 0.95
"""Least score of a face that was seen once, in a shot that was looked at once."""
_FAR = 1.25
"""Face sizes that a prediction may be wrong by where the face was seen once."""
_FAR_MOVING = 0.7
"""Likewise where its speed is known."""
_FAR_PER_S = 1.5
"""Face sizes more for each second without a look."""
_SPEED_S = 0.08
"""Seconds over which a speed is measured at least: over one frame it would be the noise of two detections."""
_GROWTH = 1.8
"""Largest ratio of sizes from look to look."""
_STRANGER = 0.1
"""Likeness below which two faces are not one, however near they are."""
_WEIGHT_OVERLAP, _WEIGHT_WHO = 0.5, 1.0
"""What no overlap, and no likeness, cost in face sizes of distance."""
_NEVER = 1e6
"""Cost of what cannot be."""


@dataclass(slots=True)
class _Path:
    """A track in the making: rows of the scan."""

    rows: list[int]
    times: list[float]
    vectors: list[np.ndarray] = field(default_factory=list)

    def add(self, scan: Scan, row: int) -> None:
        self.rows.append(row)
        self.times.append(float(scan.times[scan.frame[row]]))
        vector = scan.identity[row]
        if vector.size and np.isfinite(vector[0]):
            self.vectors.append(vector)

    @property
    def who(self) -> np.ndarray | None:
        if not self.vectors:
            return None
        mean = np.mean(self.vectors[-8:], 0)
        return mean / max(float(np.linalg.norm(mean)), 1e-9)


def link(
    scan: Scan, options: ScanOptions | None = None, check_cancel: Callable[[], None] = lambda: None
) -> list[Track]:
    """Return the tracks of a film, in order of their first frame, then of size.

    Nobody is a track across a cut, before the first or after the last detection. A face that was detected once is
    taken for a false alarm, unless the shot was looked at once and the detector was sure.
    """
    options = options or ScanOptions()
    if not len(scan):
        return []
    starts = np.flatnonzero(scan.cuts).tolist()
    tracks: list[Track] = []
    for start, stop in zip(starts, [*starts[1:], len(scan)], strict=True):
        first, last = np.searchsorted(scan.frame, np.array([start, stop])).tolist()
        paths = _link_shot(scan, first, last, options, check_cancel)
        looks = int(scan.looked[start:stop].sum())
        for path in paths:
            check_cancel()
            if len(path.rows) > 1 or (looks == 1 and scan.scores[path.rows[0]] >= _ALONE):
                tracks.append(_track(scan, path, start, stop, options))
    tracks.sort(key=lambda track: (track.first, -float(box_sizes(track.boxes[:1])[0])))
    for number, track in enumerate(tracks, 1):
        track.id = number
    return tracks


def people(tracks: Sequence[Track], least: float, check_cancel: Callable[[], None] = lambda: None) -> int:
    """Number the persons of a film in `track.person`, by their identity vectors, and return how many there are.

    The two groups of tracks that are most alike (mean cosine of their tracks) are taken for one person, again and
    again, while they are at least `least` alike; two faces of one frame are never one person. Persons are numbered in
    order of their first track. Tracks without a vector stay at 0.
    """
    known = [track for track in tracks if track.identity is not None]
    for track in tracks:
        track.person = 0
    if not known:
        return 0
    vectors = np.stack([track.identity for track in known if track.identity is not None]).astype(np.float64)
    firsts, lasts = (np.array([getattr(track, name) for track in known]) for name in ("first", "last"))
    likeness = vectors @ vectors.T
    # Of a track with itself, too.
    likeness[(firsts[:, None] <= lasts) & (firsts <= lasts[:, None])] = -np.inf
    rows = np.arange(len(known))
    counts, groups = np.ones(len(known)), [[i] for i in range(len(known))]
    nearest = likeness.argmax(1)
    while True:
        check_cancel()
        i = int(likeness[rows, nearest].argmax())
        j = int(nearest[i])
        if not likeness[i, j] >= least:
            break
        merged = (counts[i] * likeness[i] + counts[j] * likeness[j]) / (counts[i] + counts[j])
        likeness[i], likeness[:, i] = merged, merged
        likeness[i, i] = likeness[j] = likeness[:, j] = -np.inf
        counts[i] += counts[j]
        groups[i] += groups[j]
        groups[j] = []
        # A mean is not above the larger of its two, so only rows whose nearest was one of them have to be read anew.
        stale = (nearest == i) | (nearest == j)
        stale[[i, j]] = True
        nearest[stale] = likeness[stale].argmax(1)
    persons = sorted((group for group in groups if group), key=min)
    for number, group in enumerate(persons, 1):
        for i in group:
            known[i].person = number
    return len(persons)


def _link_shot(
    scan: Scan, first: int, last: int, options: ScanOptions, check_cancel: Callable[[], None]
) -> list[_Path]:
    done: list[_Path] = []
    live: list[_Path] = []
    for frame in np.unique(scan.frame[first:last]).tolist():
        check_cancel()
        low, high = np.searchsorted(scan.frame, np.array([frame, frame + 1])).tolist()
        rows = range(low, high)
        time = float(scan.times[frame])
        ended = [path for path in live if time - path.times[-1] > options.gap_s]
        done += ended
        live = [path for path in live if time - path.times[-1] <= options.gap_s]
        taken = set()
        for i, j in assign(_costs(scan, live, slice(low, high), time)):
            live[i].add(scan, rows[j])
            taken.add(rows[j])
        for row in rows:
            if row not in taken:
                path = _Path([], [])
                path.add(scan, row)
                live.append(path)
    return done + live


def _predict(scan: Scan, path: _Path, time: float) -> tuple[np.ndarray, float]:
    """Return where the points of a face would be, and by how many face sizes that may be wrong."""
    now, wait = scan.points[path.rows[-1]], time - path.times[-1]
    if len(path.rows) < 2:
        return now, _FAR + _FAR_PER_S * wait
    back = len(path.rows) - 2
    while back > 0 and path.times[-1] - path.times[back] < _SPEED_S:
        back -= 1
    span = path.times[-1] - path.times[back]
    speed = (now.mean(0) - scan.points[path.rows[back]].mean(0)) / max(span, 1e-3)
    # Heads turn back: what moved for a moment is not taken to move on for long.
    return now + speed * min(wait, 2 * span), _FAR_MOVING + _FAR_PER_S * wait


def _costs(scan: Scan, paths: Sequence[_Path], rows: slice, time: float) -> np.ndarray:
    """Return how badly each detection of a frame continues each path, (paths, rows); _NEVER where it cannot."""
    boxes, points = scan.boxes[rows].astype(np.float64), scan.points[rows]
    if not paths or not len(boxes):
        return np.zeros((len(paths), len(boxes)))
    before = scan.boxes[[path.rows[-1] for path in paths]].astype(np.float64)
    predicted, far = zip(*(_predict(scan, path, time) for path in paths), strict=True)
    expected = np.stack(predicted)
    sizes, others = box_sizes(before)[:, None], box_sizes(boxes)[None]
    distance = np.linalg.norm(expected[:, None] - points[None], axis=3).mean(2) / np.sqrt(sizes * others)
    shift = np.tile((expected - scan.points[[path.rows[-1] for path in paths]]).mean(1), 2)
    costs = distance + _WEIGHT_OVERLAP * (1 - _overlaps(before + shift, boxes))
    costs[distance > np.array(far)[:, None]] = _NEVER
    costs[np.maximum(sizes, others) > _GROWTH * np.minimum(sizes, others)] = _NEVER
    for number, path in enumerate(paths):
        if path.who is not None:
            likeness = scan.identity[rows] @ path.who
            known = np.isfinite(likeness)
            costs[number, known] += _WEIGHT_WHO * (1 - likeness[known])
            costs[number, known & (np.nan_to_num(likeness) < _STRANGER)] = _NEVER
    return costs


def assign(costs: np.ndarray) -> list[tuple[int, int]]:
    """Return pairs (row, column) of least total cost, as many as possible without a pair of cost _NEVER or more.

    Never raises, whatever the costs: what cannot be paired is left alone.
    """
    if not costs.size:
        return []
    finite = np.minimum(np.nan_to_num(costs, nan=_NEVER, posinf=_NEVER), _NEVER)
    return [(i, j) for i, j in _hungarian(finite) if finite[i, j] < _NEVER]


def _hungarian(costs: np.ndarray) -> list[tuple[int, int]]:
    """Return the assignment of least cost, by shortest augmenting paths."""
    if costs.shape[0] > costs.shape[1]:
        return [(i, j) for j, i in _hungarian(costs.T)]
    n, m = costs.shape
    row_price, column_price = np.zeros(n + 1), np.zeros(m + 1)
    owner = np.zeros(m + 1, int)
    for i in range(1, n + 1):
        owner[0], column = i, 0
        least, way = np.full(m + 1, np.inf), np.zeros(m + 1, int)
        used = np.zeros(m + 1, bool)
        while True:
            used[column] = True
            row = owner[column]
            free = ~used
            free[0] = False
            reduced = np.full(m + 1, np.inf)
            reduced[1:] = costs[row - 1] - row_price[row] - column_price[1:]
            better = free & (reduced < least)
            least[better], way[better] = reduced[better], column
            following = int(np.where(free, least, np.inf).argmin())
            step = least[following]
            row_price[owner[used]] += step
            column_price[used] -= step
            least[free] -= step
            column = following
            if owner[column] == 0:
                break
        while column:
            owner[column] = owner[way[column]]
            column = way[column]
    return [(int(owner[j]) - 1, j - 1) for j in range(1, m + 1) if owner[j]]


def _track(scan: Scan, path: _Path, start: int, stop: int, options: ScanOptions) -> Track:
    rows = np.array(path.rows)
    seen = scan.frame[rows]
    frames = np.arange(seen[0], seen[-1] + 1)
    times, known = scan.times[frames], scan.times[seen]
    observed = np.isin(frames, seen)
    points = _between(times, known, scan.points[rows])
    boxes = _between(times, known, scan.boxes[rows].astype(np.float64)).astype(np.float32)
    latest = np.searchsorted(seen, frames, "right") - 1
    matrices = crop_matrices(points)
    if options.steady:
        matrices = smooth_matrices(times, matrices, observed)
    identity = None
    vectors = scan.identity[rows]
    if vectors.shape[1]:
        vectors = vectors[np.isfinite(vectors[:, 0])]
        if len(vectors):
            mean = vectors.mean(0)
            identity = mean / max(float(np.linalg.norm(mean)), 1e-9)
    weight = _weight(times, frames[0] > start, frames[-1] < stop - 1, options.fade_s)
    return Track(
        0, 0, frames, observed, boxes, points, scan.scores[rows][latest], matrices, weight,
        facts=facts(scan, rows), identity=identity,
    )  # fmt: skip


def _between(times: np.ndarray, known: np.ndarray, values: np.ndarray) -> np.ndarray:
    flat = values.reshape(len(values), -1)
    filled = np.stack([np.interp(times, known, column) for column in flat.T], 1)
    return filled.reshape(len(times), *values.shape[1:])


def _weight(times: np.ndarray, appears: bool, leaves: bool, fade_s: float) -> np.ndarray:
    weight = np.ones(len(times))
    if fade_s > 0 and len(times) > 1:
        step = float(np.median(np.diff(times)))
        if appears:
            weight = np.minimum(weight, (times - times[0] + step) / (fade_s + step))
        if leaves:
            weight = np.minimum(weight, (times[-1] - times + step) / (fade_s + step))
    return weight.astype(np.float32)


def facts(scan: Scan, rows: np.ndarray) -> dict[str, float]:
    """Return what is known of a face by the detections of its track, medians over them.

    size: of the box, in pixels (geometric mean of its sides); side: of the FFHQ crop, in pixels of the frame; eyes:
    their distance, in pixels; yaw: degrees; score: the detector's; looks: how many there were; seconds: from first to
    last; sharpness: see `faces.quality`, and likelihood that it is a face, see `faces.check`, where measured.
    """
    boxes, points = scan.boxes[rows].astype(np.float64), scan.points[rows]
    scale = np.hypot(*crop_matrices(points)[:, :, 0].T)
    known = {
        "size": box_sizes(boxes),
        "side": SIDE / scale,
        "eyes": np.linalg.norm(points[:, 1] - points[:, 0], axis=1),
        "yaw": yaw(points),
        "score": scan.scores[rows],
    }
    told = {name: round(float(np.median(values)), 3) for name, values in known.items()}
    times = scan.times[scan.frame[rows]]
    told |= {"looks": float(len(rows)), "seconds": round(float(times[-1] - times[0]), 3)}
    for name, values in (("sharpness", scan.sharpness[rows]), ("likelihood", scan.likelihood[rows])):
        if np.isfinite(values).any():
            told[name] = round(float(np.nanmedian(values)), 3)
    return told


def box_sizes(boxes: np.ndarray) -> np.ndarray:
    """Return the geometric means of the sides of (n, 4) boxes."""
    return np.sqrt(np.maximum((boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1]), 1e-6))


def _overlaps(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Return the IoU of each of (n, 4) boxes with each of (m, 4), (n, m)."""
    low = np.maximum(one[:, None, :2], other[None, :, :2])
    shared = np.clip(np.minimum(one[:, None, 2:], other[None, :, 2:]) - low, 0, None).prod(2)
    return shared / np.maximum(box_sizes(one)[:, None] ** 2 + box_sizes(other)[None] ** 2 - shared, 1e-9)
