"""Which tracks of a film to restore: asked for by photo, number, place or size, and not left alone by the filter.

Nobody is removed: a track that is left alone says why, so that a person can read it, and change it in `tracks.json`.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeGuard

import numpy as np
import torch
from torch import Tensor

from ..errors import SettingsError
from ..faces.align import sample
from ..faces.check import LEAST, NO_FACE
from ..faces.find import SAME_FACE
from ..faces.pyramid import overlap
from ..faces.quality import QualityFilter, yaw
from ..types import Face
from .smooth import SIDE
from .tracks import box_sizes
from .types import Scan, Track

if TYPE_CHECKING:
    from ..faces.people import People

THUMBNAIL = 160
"""Side of the picture of a track."""
_EDITABLE = ("restore", "strength", "seed")
_EDIT = ", ".join(_EDITABLE)
_ABOUT = (
    "Set restore to true or false, add strength (0 to 1) or seed to a track, then run the same command again. "
    "Pictures of the tracks are in report/."
)


@dataclass(frozen=True, slots=True)
class TrackSelection:
    """Whom to restore; what is not said does not matter."""

    people: People | None = None
    """By photos."""
    ids: Collection[int] = ()
    """Only these tracks; neither the quality filter applies to them, nor the check of what is a face."""
    except_ids: Collection[int] = ()
    """All but these tracks."""
    persons: Collection[int] = ()
    """Only these persons, by the numbers of `tracks.people`."""
    largest: int = 0
    """Tracks that are among so many largest, of those not left alone for another reason, in half of their frames."""
    region: tuple[float, float, float, float] | None = None
    """x0, y0, x1, y1 as shares of the frame: tracks whose median centre lies inside."""
    faces: Sequence[Face] | None = None
    """Only the tracks that are these faces of the first frame, and those of the same persons; None for everybody."""
    quality_filter: QualityFilter | None = field(default_factory=QualityFilter)
    """Who has nothing to gain; None for everybody has."""


def choose(tracks: Sequence[Track], choice: TrackSelection, shape: tuple[int, int], *, size: int = 512) -> None:
    """Mark every track as to be restored or not, with the reason.

    Args:
        tracks: all of a film; changed in place.
        choice: whom.
        shape: height and width of an upright frame.
        size: side of the restorer's crop.

    Raises:
        SettingsError: a number is of no track or person, or a value is out of range.
    """
    _check(tracks, choice)
    for track in tracks:
        track.reason = _reason(track, shape, choice, size)
    if choice.faces is not None:
        _by_faces(tracks, choice.faces)
    if choice.people is not None:
        _by_people(tracks, choice.people)
    if choice.largest:
        _by_size(tracks, choice.largest)
    for track in tracks:
        track.restore = not track.reason


def _check(tracks: Sequence[Track], choice: TrackSelection) -> None:
    ids, persons = {track.id for track in tracks}, {track.person for track in tracks} - {0}
    for asked, there, what in (
        ({*choice.ids, *choice.except_ids}, ids, "track"),
        ({*choice.persons}, persons, "person"),
    ):
        if missing := sorted(asked - there):
            raise SettingsError(
                f"There is no {what} {', '.join(map(str, missing))} in this film",
                found=f"found {len(there)}: {_numbers(there)}; expected numbers among them",
                kept="The analysis of the film is kept, nothing was restored",
                todo="Choose by the pictures in the report, or leave the number out",
            )
    found = ""
    if choice.largest < 0:
        found = f"found {choice.largest} largest faces; expected 0 or more"
    elif choice.region is not None:
        x0, y0, x1, y1 = choice.region
        if not (0 <= x0 < x1 <= 1 and 0 <= y0 < y1 <= 1):
            found = f"found a region of {x0:g} {y0:g} {x1:g} {y1:g}; expected left, top, right and bottom, 0 to 1"
    if found:
        raise SettingsError(
            "Cannot choose faces of this film", found=found, kept="Nothing was restored", todo="Correct the value"
        )


def _numbers(numbers: Collection[int]) -> str:
    shown = [str(number) for number in sorted(numbers)[:12]]
    return ", ".join(shown) + (", ..." if len(numbers) > len(shown) else "") if shown else "none"


def _reason(track: Track, shape: tuple[int, int], choice: TrackSelection, size: int) -> str:
    if track.id in choice.except_ids:
        return "this track was to be left alone"
    if choice.ids and track.id not in choice.ids:
        return "only other tracks were asked for"
    if choice.persons and track.person not in choice.persons:
        return "only other persons were asked for"
    if choice.region is not None:
        x, y = np.median((track.boxes[:, :2] + track.boxes[:, 2:]) / 2, axis=0) / shape[::-1]
        x0, y0, x1, y1 = choice.region
        if not (x0 <= x <= x1 and y0 <= y <= y1):
            return f"its middle, {x:.2f} {y:.2f} of the frame, is outside the region asked for"
    if track.id in choice.ids:
        return ""
    if track.facts.get("likelihood", 1.0) < LEAST:
        return NO_FACE.format(track.facts["score"])
    if choice.quality_filter is None:
        return ""
    return _brief(track, choice.quality_filter.min_seconds) or choice.quality_filter.reason(track.facts, size)


def _brief(track: Track, least: float) -> str:
    """Say that a face comes and goes within a shot in less than `least` seconds, empty where it does not."""
    seconds = track.facts["seconds"]
    if track.weight[0] < 1 and track.weight[-1] < 1 and seconds < least:
        return f"in sight for {seconds:.2f} s only, less than {least:g} s"
    return ""


def _by_faces(tracks: Sequence[Track], faces: Sequence[Face]) -> None:
    there = [track for track in tracks if track.first == 0]
    boxes = np.array([track.boxes[0] for track in there], np.float64).reshape(-1, 4)
    meant = set()
    for face in faces:
        shared = overlap(np.array(face.box, np.float64), boxes)[0]
        if len(shared) and shared.max() >= SAME_FACE:
            meant.add(there[int(shared.argmax())].id)
    persons = {track.person for track in there if track.id in meant} - {0}
    for track in tracks:
        if track.id not in meant and track.person not in persons:
            track.reason = track.reason or "it is none of the faces that were given in the first frame"


def _by_people(tracks: Sequence[Track], people: People) -> None:
    known = [track for track in tracks if track.identity is not None]
    for track in tracks:
        if track.identity is None and len(people.only) and not track.reason:
            track.reason = "nobody could tell who it is"
    if not known:
        return
    vectors = torch.from_numpy(np.stack([np.asarray(track.identity, np.float32) for track in known]))
    first, last = (np.array([getattr(track, name) for track in known]) for name in ("first", "last"))
    together = (first[:, None] <= last) & (first <= last[:, None])
    for track, likeness in zip(known, people.find_vectors(vectors, torch.from_numpy(together)), strict=True):
        track.facts["likeness"] = round(likeness.cosine, 4)
        track.reason = track.reason or likeness.reason


def _by_size(tracks: Sequence[Track], largest: int) -> None:
    rest = [track for track in tracks if not track.reason]
    firsts, lasts = (np.array([getattr(track, name) for track in rest], int) for name in ("first", "last"))
    reasons = {}
    for track in rest:
        size, larger = box_sizes(track.boxes), np.zeros(len(track.frames), int)
        for place in np.flatnonzero((firsts <= track.last) & (lasts >= track.first)).tolist():
            other = rest[place]
            low, high = max(track.first, other.first), min(track.last, other.last)
            if other is not track:
                mine = slice(low - track.first, high - track.first + 1)
                theirs = box_sizes(other.boxes)[low - other.first : high - other.first + 1]
                larger[mine] += (theirs > size[mine]) | ((theirs == size[mine]) & (other.id < track.id))
        if (larger < largest).mean() < 0.5:
            reasons[track.id] = f"only the {largest} largest faces were asked for"
    for track in rest:
        track.reason = reasons.get(track.id, "")


def to_json(tracks: Sequence[Track], scan: Scan) -> dict[str, Any]:
    """Return the tracks of a scan as plain JSON types, for `tracks.json`: what a person reads and edits."""
    times = scan.times
    entries = [
        {
            "id": track.id,
            "person": track.person,
            "first_frame": track.first,
            "last_frame": track.last,
            "first_s": round(float(times[track.first]), 3),
            "last_s": round(float(times[track.last]), 3),
            "box": np.median(track.boxes, axis=0).round(1).astype(float).tolist(),
            "facts": dict(track.facts),
            "restore": track.restore,
            "reason": track.reason,
        }
        for track in tracks
    ]
    return {"about": _ABOUT, "tracks": entries}


def apply_json(tracks: Sequence[Track], edited: Any) -> tuple[dict[int, float], dict[int, int]]:
    """Take over what a person edited in `tracks.json`.

    `restore` is set; `strength` (0 to 1) and `seed` may be added to an entry. Tracks without an entry stay as they are.

    Returns:
        Strengths and seeds by track, of those that have one.

    Raises:
        SettingsError: no list of entries, an unknown track or key, a value of the wrong kind, or an entry about other
            frames than those of the track. Nothing is changed then.
    """
    entries = edited.get("tracks") if isinstance(edited, Mapping) else None
    if not isinstance(entries, list) or not all(isinstance(entry, Mapping) for entry in entries):
        raise _cannot_edit("found no list `tracks` of entries; expected the file as it was written")
    if strange := sorted(set(map(str, edited)) - {"about", "tracks"}):
        raise _cannot_edit(f"found {', '.join(map(repr, strange))} beside `tracks`; expected nothing of that name")
    by_id, seen = {track.id: track for track in tracks}, set()
    for number, entry in enumerate(entries, 1):
        if problem := _problem(entry, by_id, seen):
            raise _cannot_edit(f"entry {number}: {problem}")
        seen.add(entry["id"])
    strengths, seeds = {}, {}
    for entry in entries:
        track = by_id[entry["id"]]
        if entry.get("restore", track.restore) != track.restore:
            track.restore = entry["restore"]
            track.reason = "" if track.restore else "left alone in tracks.json"
        if entry.get("strength") is not None:
            strengths[track.id] = float(entry["strength"])
        if entry.get("seed") is not None:
            seeds[track.id] = entry["seed"]
    return strengths, seeds


_READ_ONLY = ("id", "person", "first_frame", "last_frame", "first_s", "last_s", "box", "facts", "reason")


def _problem(entry: Mapping[str, Any], tracks: Mapping[int, Track], seen: Collection[int]) -> str:
    known = (*_READ_ONLY, *_EDITABLE)
    if unknown := [key for key in entry if key not in known]:
        return f"unknown key {', '.join(map(repr, unknown))}; expected {', '.join(known)}"
    number = entry.get("id")
    if not _is_whole(number) or number not in tracks:
        return f"id {number!r} is of no track; expected {_numbers(tracks)}"
    if number in seen:
        return f"id {number} comes twice"
    track = tracks[number]
    for key, value in (("first_frame", track.first), ("last_frame", track.last)):
        if entry.get(key, value) != value:
            return f"{key} of track {number} is {entry[key]!r}; expected {value}: only {_EDIT} may be changed"
    if not isinstance(entry.get("restore", True), bool):
        return f"restore of track {number} is {entry['restore']!r}; expected true or false"
    strength, seed = entry.get("strength"), entry.get("seed")
    if strength is not None and not (_is_whole(strength) or isinstance(strength, float)):
        return f"strength of track {number} is {strength!r}; expected a number, 0 to 1"
    if strength is not None and not 0 <= strength <= 1:
        return f"strength of track {number} is {strength!r}; expected 0 to 1"
    if seed is not None and not (_is_whole(seed) and 0 <= seed < 2**63):
        return f"seed of track {number} is {seed!r}; expected a whole number, 0 or more"
    return ""


def _is_whole(value: Any) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool)


def _cannot_edit(found: str) -> SettingsError:
    return SettingsError(
        "Cannot use the edited tracks",
        found=found,
        kept="Nothing was changed; the analysis of the film is kept",
        todo="Correct tracks.json, or delete it to have it written again",
    )


def worth(track: Track) -> np.ndarray:
    """Return how well each row of a track shows it, (n,): large, frontal, and surely a face."""
    frontal = np.cos(np.radians(np.minimum(yaw(track.points), 85)))
    return box_sizes(track.boxes) * frontal * track.scores * track.weight * np.where(track.observed, 1.0, 0.5)


def best_row(track: Track) -> int:
    """Return the row of a track that shows it best."""
    return int(worth(track).argmax())


def thumbnail(rgb: Tensor, track: Track, row: int) -> Tensor:
    """Return the aligned face of one frame of a track, (3, THUMBNAIL, THUMBNAIL), from the frame (3, H, W)."""
    return sample(rgb, track.matrices[row] * (THUMBNAIL / SIDE), THUMBNAIL).clamp(0, 1)
