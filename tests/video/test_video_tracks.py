"""Faces followed through films: what peers get wrong, on made-up detections where the truth is known."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from film_scans import film, person
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linear_sum_assignment

from bfr_core.video.scan import ScanOptions
from bfr_core.video.tracks import assign, link, people
from bfr_core.video.types import Scan, Track


def spans(tracks: list[Track]) -> list[tuple[int, int]]:
    return [(track.first, track.last) for track in tracks]


# Defects of peers ---------------------------------------------------------------------------------------------------


def test_nobody_detected_is_no_track():
    assert link(film({}, 30)) == []
    assert link(Scan.joined([])) == []


def test_a_person_who_left_is_not_pasted():
    (track,) = link(film({frame: [(200 + 2 * frame, 100, 80)] for frame in range(10)}, 20))
    assert (track.first, track.last) == (0, 9)
    assert track.at(10) is None and track.weight[-1] < 0.5


def test_one_missed_detection_is_one_track():
    faces = {frame: [(200 + 3 * frame, 100, 80)] for frame in range(20) if frame != 9}
    (track,) = link(film(faces, 20))
    assert (track.first, track.last) == (0, 19)
    assert track.observed.tolist() == [frame != 9 for frame in range(20)]
    middle = (track.points[8] + track.points[10]) / 2
    np.testing.assert_allclose(track.points[9], middle)
    assert np.diff(track.frames).tolist() == [1] * 19


@pytest.mark.parametrize("size", [70, 100, 200])
def test_a_face_that_moves_80_pixels_a_frame_is_one_track(size):
    faces = {frame: [(100 + 80 * frame, 300, size)] for frame in range(12)}
    (track,) = link(film(faces, 12))
    assert spans([track]) == [(0, 11)] and track.observed.all()


def test_a_face_of_16_pixels_is_not_taken_for_one_60_pixels_away():
    """Gates are in face sizes: 60 px is nothing for a large face, and another person for a tiny one."""
    faces = {frame: [(100 if frame < 10 else 160, 100, 16)] for frame in range(20)}
    assert spans(link(film(faces, 20))) == [(0, 9), (10, 19)]


def crossing(asked: int, noise: float = 0.0, width: int = 8) -> Scan:
    """Two people of equal size walk through each other; every `asked` frames they are asked who they are."""
    rng = np.random.default_rng(2)
    faces = {}
    for frame in range(60):
        who = frame % asked == 0 if asked else False
        here = [(100 + 6 * frame, 200.0, 80.0), (460 - 6 * frame, 206.0, 80.0)]
        rows = [
            (*(np.array(place) + rng.normal(0, noise, 3)), person(number, width) if who else None)
            for number, place in enumerate(here)
        ]
        # While they cover each other one of them is not seen, and their order is the detector's.
        faces[frame] = rows[:1] if 28 <= frame <= 31 else rows[:: (-1) ** frame]
    return film(faces, 60, width=width)


@pytest.mark.parametrize("asked", [0, 3, 12])
def test_crossing_people_keep_their_tracks(asked):
    tracks = link(crossing(asked, 1.0))
    assert spans(tracks) == [(0, 59), (0, 59)]
    ways = sorted(float(track.points[-1, :, 0].mean() - track.points[0, :, 0].mean()) for track in tracks)
    assert ways == pytest.approx([-354, 354], abs=20)
    if asked:
        assert people(tracks, 0.5) == 2 and tracks[0].person != tracks[1].person


def test_people_who_meet_and_turn_back_are_told_apart_by_who_they_are():
    """By motion alone they would have passed each other."""
    faces = {}
    for frame in range(50):
        apart = 8 * abs(frame - 25) + 30
        faces[frame] = [(300 - apart / 2, 200, 80, person(0)), (300 + apart / 2, 200, 80, person(1))][:: (-1) ** frame]
        if 23 <= frame <= 27:
            faces[frame] = faces[frame][:1]
    tracks = link(film(faces, 50, width=8))
    for track in tracks:
        assert track.identity is not None and np.sort(track.identity)[-1] == pytest.approx(1)


# The rules ----------------------------------------------------------------------------------------------------------


def test_no_track_crosses_a_cut_and_none_fades_at_one():
    scan = film({frame: [(200, 100, 80)] for frame in range(30)}, 30, cuts=(0, 12))
    tracks = link(scan)
    assert spans(tracks) == [(0, 11), (12, 29)]
    assert all((track.weight == 1).all() for track in tracks)


def test_a_face_fades_in_and_out_within_a_shot():
    """Over 0.12 s: three frames at 25 a second, six at 50."""
    for rate, frames in ((25, 3), (50, 6)):
        scan = film({frame: [(200, 100, 80)] for frame in range(20, 80)}, 100, rate=rate)
        (track,) = link(scan)
        weight = track.weight
        assert (weight[frames:-frames] == 1).all() and (weight[:frames] < 1).all() and (weight[-frames:] < 1).all()
        np.testing.assert_allclose(weight, weight[::-1], atol=1e-6)
        assert (np.diff(weight[: frames + 1]) > 0).all() and 0 < weight[0] < 0.5
    (hard,) = link(scan, ScanOptions(fade_s=0.0))
    assert (hard.weight == 1).all()


def test_a_face_seen_once_is_a_false_alarm_but_not_in_a_shot_of_one_look():
    assert link(film({5: [(200, 100, 80)]}, 20)) == []
    one = film({5: [(200, 100, 80)]}, 6, cuts=(0, 5))
    assert spans(link(one)) == [(5, 5)]
    one.scores[:] = 0.85
    assert link(one) == []


def test_a_long_absence_ends_a_track():
    faces = {frame: [(200, 100, 80)] for frame in [*range(10), *range(40, 50)]}
    assert spans(link(film(faces, 60))) == [(0, 9), (40, 49)]
    assert spans(link(film(faces, 60), ScanOptions(gap_s=2.0))) == [(0, 49)]


def test_what_another_face_is_in_the_same_place_is_another_track():
    faces = {frame: [(200, 100, 80, person(0 if frame < 15 else 1))] for frame in range(30)}
    assert spans(link(film(faces, 30, width=8))) == [(0, 14), (15, 29)]


def test_tracks_are_numbered_by_first_frame_then_size():
    faces = {frame: [(100, 100, 40), (300, 100, 90)] + ([(500, 100, 99)] if frame > 4 else []) for frame in range(20)}
    tracks = link(film(faces, 20))
    assert [track.id for track in tracks] == [1, 2, 3]
    assert [round(track.facts["size"]) for track in tracks] == [90, 40, 99]


def test_frame_times_count_not_frame_numbers():
    """At 250 frames a second ten missing frames are 40 ms; at 2 a second they are a new scene."""
    faces = {frame: [(200, 100, 80)] for frame in [*range(10), *range(20, 30)]}
    assert len(link(film(faces, 30, rate=250))) == 1
    assert len(link(film(faces, 30, rate=2))) == 2


def test_facts_are_medians_of_what_was_seen():
    scan = film({frame: [(200, 100, 60 + frame)] for frame in range(21)}, 21)
    scan.sharpness[[0, 10, 20]] = [0.2, 0.5, 0.3]
    (track,) = link(scan)
    assert track.facts["size"] == pytest.approx(70) and track.facts["sharpness"] == pytest.approx(0.3)
    assert track.facts["eyes"] == pytest.approx(28) and track.facts["looks"] == 21
    assert track.facts["seconds"] == pytest.approx(0.8) and track.facts["yaw"] == pytest.approx(0, abs=0.1)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 40), st.integers(0, 6))
def test_any_detections_give_tracks_that_keep_the_rules(seed, frames, most):
    """Faces anywhere, of any size, on one point, or not finite in who they are: no error, no overlap, no hole."""
    rng = np.random.default_rng(seed)
    faces = {}
    for frame in range(frames):
        faces[frame] = [
            (*rng.choice([50.0, 120.0, 121.0, 400.0], 2), float(rng.choice([1e-3, 5, 80, 90, 4000])),
             person(rng.integers(3)) if rng.random() < 0.4 else None, float(rng.uniform(0.5, 1)))
            for _ in range(rng.integers(0, most + 1))
        ]  # fmt: skip
    cuts = (0, *rng.integers(0, frames, 2).tolist())
    scan = film(faces, frames, cuts=cuts, width=8)
    tracks = link(scan)
    used = [(frame, *track.boxes[track.at(frame)]) for track in tracks for frame in track.frames[track.observed]]
    known = [(int(frame), *box) for frame, box in zip(scan.frame, scan.boxes, strict=True)]
    for row in used:
        known.remove(next(other for other in known if other[0] == row[0] and np.allclose(other[1:], row[1:])))
    for track in tracks:
        assert track.frames.tolist() == list(range(track.first, track.last + 1))
        assert track.observed[0] and track.observed[-1]
        assert not any(track.first < cut <= track.last for cut in cuts)
        assert all(len(part) == len(track.frames) for part in (track.points, track.matrices, track.weight))
        assert np.isfinite(track.matrices).all() and (track.weight > 0).all() and (track.weight <= 1).all()


# Assignment ---------------------------------------------------------------------------------------------------------


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 10_000), st.integers(0, 7), st.integers(0, 7))
def test_the_assignment_is_the_best_one(seed, rows, columns):
    costs = np.random.default_rng(seed).uniform(0, 5, (rows, columns))
    chosen = assign(costs)
    expected = costs[linear_sum_assignment(costs)].sum()
    assert sum(costs[i, j] for i, j in chosen) == pytest.approx(expected)
    assert len(chosen) == min(rows, columns)
    assert len({i for i, _ in chosen}) == len({j for _, j in chosen}) == len(chosen)


def test_an_assignment_that_is_impossible_leaves_faces_alone():
    """As many pairs as can be, then the cheapest: by trying all."""
    never = np.inf
    costs = np.array([[never, 2.0, never], [never, 1.0, never], [4.0, 3.0, never]])
    possible = [
        [(i, j) for i, j in enumerate(order) if np.isfinite(costs[i, j])]
        for order in itertools.permutations(range(3))
    ]  # fmt: skip
    best = min(possible, key=lambda pairs: (-len(pairs), sum(costs[pair] for pair in pairs)))
    assert sorted(assign(costs)) == sorted(best) == [(1, 1), (2, 0)]
    assert assign(np.full((3, 2), never)) == []
    assert assign(np.full((2, 2), np.nan)) == []


# People -------------------------------------------------------------------------------------------------------------


def blur(vector: np.ndarray, seed: int, share: float = 0.3) -> np.ndarray:
    """Return a unit vector somewhat off another."""
    moved = vector + np.random.default_rng(seed).normal(0, share / len(vector) ** 0.5, len(vector))
    return (moved / np.linalg.norm(moved)).astype(np.float32)


def test_persons_are_numbered_over_the_film_by_who_they_are():
    faces: dict[int, list[tuple]] = {}
    for frame in range(60):
        number = (0, 1, 0, 2, 1, 0)[frame // 10]
        faces[frame] = [(200, 100, 80, blur(person(number, 32), frame))]
    tracks = link(film(faces, 60, cuts=tuple(range(0, 60, 10)), width=32))
    assert people(tracks, 0.5) == 3
    assert [track.person for track in tracks] == [1, 2, 1, 3, 2, 1]


def test_two_faces_of_one_frame_are_never_one_person():
    """Twins: as alike as can be, and yet two."""
    faces = {frame: [(100, 100, 80, person(0)), (400, 100, 80, person(0))] for frame in range(20)}
    tracks = link(film(faces, 40, cuts=(0,), width=8))
    assert people(tracks, 0.5) == 2


def test_nobody_is_a_person_where_nobody_asked():
    tracks = link(film({frame: [(100, 100, 80)] for frame in range(20)}, 20))
    assert people(tracks, 0.5) == 0 and tracks[0].person == 0 and tracks[0].identity is None
