"""Which tracks are restored: by photo, number, place, size and need; and what a person may edit."""

from __future__ import annotations

import copy
import json

import cv2
import numpy as np
import pytest
import torch
from film_scans import film, person
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from bfr_core.errors import SettingsError
from bfr_core.faces.align import FFHQ_TEMPLATE
from bfr_core.faces.people import People
from bfr_core.faces.quality import CROP, SHARP, QualityFilter, sharpness, yaw
from bfr_core.types import Face
from bfr_core.video.choose import THUMBNAIL, TrackSelection, apply_json, best_row, choose, thumbnail, to_json
from bfr_core.video.tracks import link, people
from bfr_core.video.types import Scan, Track

SHAPE = (400, 1000)


def three() -> Scan:
    """Three people beside each other for two seconds, the middle one largest, then the first alone in a second shot."""
    faces = {
        frame: [(150, 200, 80, person(0)), (500, 200, 120, person(1)), (850, 200, 60, person(2))] for frame in range(50)
    }
    faces |= {frame: [(500, 100, 90, person(0))] for frame in range(50, 80)}
    return film(faces, 80, cuts=(0, 50), width=8)


@pytest.fixture
def tracks() -> list[Track]:
    found = link(three())
    people(found, 0.5)
    assert [round(track.facts["size"]) for track in found] == [120, 80, 60, 90]
    return found


def chosen(tracks: list[Track], **choice) -> list[int]:
    choose(tracks, TrackSelection(**{"quality_filter": None, **choice}), SHAPE)
    assert all(track.restore == (not track.reason) for track in tracks)
    return [track.id for track in tracks if track.restore]


class Nobody:
    """A recogniser that is not asked: the tracks bring their vectors."""


def looking_for(only=(), others=()) -> People:
    vectors = [torch.from_numpy(np.stack([person(n) for n in some])) if some else None for some in (only, others)]
    return People.of(Nobody(), "test", only=vectors[0], others=vectors[1], min_likeness=0.4)


def test_everybody_is_restored_and_nobody_removed(tracks):
    assert chosen(tracks) == [1, 2, 3, 4]
    assert chosen(tracks, ids=[2]) == [2] and len(tracks) == 4
    assert "only other tracks" in tracks[0].reason


@pytest.mark.parametrize(
    ("choice", "expected"),
    [
        ({"except_ids": [1, 4]}, [2, 3]),
        ({"persons": [2]}, [2, 4]),
        ({"largest": 1}, [1, 4]),
        ({"largest": 2}, [1, 2, 4]),
        ({"largest": 1, "except_ids": [1]}, [2, 4]),
        ({"region": (0.0, 0.0, 0.3, 1.0)}, [2]),
        ({"region": (0.4, 0.0, 0.6, 0.3)}, [4]),
        ({"ids": [1, 2], "region": (0.0, 0.0, 0.3, 1.0)}, [2]),
    ],
)
def test_numbers_places_and_sizes(tracks, choice, expected):
    assert chosen(tracks, **choice) == expected


def test_faces_of_the_first_frame_are_followed_into_every_shot(tracks):
    def given(*rows):
        return [Face(tuple((tracks[row].boxes[0] + 3).tolist()), tracks[row].points[0], 1.0) for row in rows]

    # The second comes back after the cut.
    assert chosen(tracks, faces=given(1)) == [2, 4]
    assert chosen(tracks, faces=given(0, 2)) == [1, 3]
    assert "first frame" in tracks[1].reason
    assert chosen(tracks, faces=[]) == []
    assert chosen(tracks, faces=[Face((0.0, 0.0, 9.0, 9.0), tracks[0].points[0], 1.0)]) == []
    assert chosen(tracks, faces=given(1), except_ids=[2]) == [4]
    for track in tracks:  # nobody tells people apart
        track.person = 0
    assert chosen(tracks, faces=given(1)) == [2]


@pytest.mark.parametrize(
    ("only", "others", "expected"),
    [((0,), (), [2, 4]), ((0, 2), (), [2, 3, 4]), ((), (1,), [2, 3, 4]), ((0, 1), (1,), [2, 4]), ((5,), (), [])],
)
def test_people_are_found_in_every_shot(tracks, only, others, expected):
    assert chosen(tracks, people=looking_for(only, others)) == expected
    assert all("likeness" in track.facts for track in tracks)
    if expected == []:
        assert all("cosine" in track.reason and "0.4" in track.reason for track in tracks)


def test_of_two_in_one_frame_only_the_more_alike_is_the_person():
    """Both are like the reference; alone in another shot the less alike one is taken for the person."""
    less = (person(0) + 0.9 * person(1)) / np.sqrt(1.81)
    faces = {frame: [(150, 200, 80, person(0)), (500, 200, 120, less)] for frame in range(30)}
    faces |= {frame: [(500, 200, 120, less)] for frame in range(30, 60)}
    found = link(film(faces, 60, cuts=(0, 30), width=8))
    assert chosen(found, people=looking_for((0,))) == [2, 3]
    assert "more like the reference" in found[0].reason


def test_a_track_that_nobody_could_tell_is_left_alone_when_somebody_is_looked_for():
    found = link(film({frame: [(500, 200, 120)] for frame in range(20)}, 20))
    assert chosen(found, people=looking_for((0,))) == []
    assert chosen(found, people=looking_for((), (0,))) == [1]


@pytest.mark.parametrize(
    ("choice", "says"),
    [({"ids": [9]}, "track 9"), ({"except_ids": [0]}, "track 0"), ({"persons": [7]}, "person 7"),
     ({"largest": -1}, "-1"), ({"region": (0.5, 0, 0.4, 1)}, "0.5"), ({"region": (0, 0, 1, float("nan"))}, "nan")],
)  # fmt: skip
def test_what_is_not_there_is_refused(tracks, choice, says):
    with pytest.raises(SettingsError, match=says):
        chosen(tracks, **choice)


# The gate -----------------------------------------------------------------------------------------------------------


def test_small_turned_brief_and_sharp_faces_are_left_alone_with_numbers():
    faces = {frame: [(150, 200, 20), (500, 200, 250)] for frame in range(30)}
    faces |= {frame: [*faces[frame], (800, 200, 90)] for frame in range(10, 14)}
    scan = film(faces, 30)
    scan.points[scan.boxes[:, 0] > 700, 2, 0] += 36  # the nose of the third near its right eye
    for row in np.flatnonzero(scan.frame % 10 == 0):
        scan.sharpness[row] = 0.61
    found = link(scan)
    assert [round(track.facts["size"]) for track in found] == [250, 20, 90]
    choose(found, TrackSelection(), SHAPE, size=512)
    side = found[0].facts["side"]
    assert found[0].reason == ("sharp already: 0.61, at least 0.55" if 512 / side < 1.5 else "")
    assert "20 px is below the minimum of 32" in found[1].reason and "0.12 s" in found[2].reason
    choose(found, TrackSelection(quality_filter=QualityFilter(min_seconds=0, min_size=0, sharp=2)), SHAPE)
    assert [track.restore for track in found] == [True, True, False] and "degrees" in found[2].reason
    choose(found, TrackSelection(quality_filter=None), SHAPE)
    assert all(track.restore for track in found)
    choose(found, TrackSelection(ids=[2]), SHAPE)
    assert found[1].restore, "whoever names a track wants it"


def test_a_crop_that_is_enlarged_is_never_sharp_already():
    scan = film({frame: [(500, 200, 250)] for frame in range(30)}, 30)
    scan.sharpness[::5] = 0.99
    (track,) = link(scan)
    side = track.facts["side"]
    for size, sharp in ((int(side * 1.45), True), (int(side * 1.55), False)):
        choose([track], TrackSelection(), SHAPE, size=size)
        assert track.reason.startswith("sharp") == sharp


@pytest.mark.parametrize("wrong", [{"min_size": -1}, {"sharp": 11}, {"max_yaw": 91}, {"min_seconds": float("nan")}])
def test_limits_of_the_gate_are_checked(wrong):
    with pytest.raises(SettingsError, match=next(iter(wrong))):
        QualityFilter(**wrong)


def turned_head(degrees: float) -> np.ndarray:
    """Return the points of a head in three dimensions, turned and seen from afar."""
    eyes, down = 60.0, 65.0
    head = np.array([[-30, 0, 0], [30, 0, 0], [0, 38, 0.27 * eyes], [-24, down, 0], [24, down, 0]])
    turn = np.radians(degrees)
    x = head[:, 0] * np.cos(turn) + head[:, 2] * np.sin(turn)
    return np.stack([x, head[:, 1]], 1)


@settings(max_examples=40, deadline=None)
@given(st.floats(-75, 75), st.floats(-60, 60), st.floats(0.1, 30))
def test_yaw_is_that_of_a_head_however_tilted_and_large(degrees, tilt, size):
    turn = np.radians(tilt)
    spin = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    points = turned_head(degrees) @ spin.T * size + 500
    assert yaw(points[None])[0] == pytest.approx(abs(degrees), abs=1e-6)


def test_yaw_of_points_that_are_no_face_is_a_number():
    assert np.isfinite(yaw(np.zeros((2, 5, 2)))).all()
    assert yaw(FFHQ_TEMPLATE[None])[0] < 5


@pytest.fixture(scope="module")
def portraits(shared) -> list[np.ndarray]:
    files = sorted((shared / "faces" / "pd512" / "val").glob("*.jpg"))[:2]
    files += sorted((shared / "faces" / "free512" / "val").glob("*"))[:2]
    return [np.asarray(Image.open(path).convert("RGB").resize((512, 512))) for path in files]


def measured(picture: np.ndarray) -> float:
    small = torch.nn.functional.interpolate(
        torch.from_numpy(np.array(picture)).permute(2, 0, 1)[None].float() / 255, (CROP, CROP), mode="bilinear",
        antialias=True,
    )  # fmt: skip
    return sharpness(small[0])


def test_sharpness_falls_with_every_blur_and_not_with_noise(portraits):
    rng = np.random.default_rng(0)
    for picture in portraits:
        clean = measured(picture)
        falling = [measured(cv2.GaussianBlur(picture, (0, 0), sigma)) for sigma in (1, 2, 4, 8)]
        assert clean > falling[0] > falling[1] > falling[2] > falling[3] > 0
        noisy = np.clip(picture + rng.normal(0, 15, picture.shape), 0, 255).astype(np.uint8)
        assert measured(noisy) == pytest.approx(clean, abs=0.03)
        assert falling[1] < SHARP


def test_some_portraits_are_sharp_and_no_degraded_one_is(portraits):
    def shrunk(picture, factor):
        small = cv2.resize(picture, (512 // factor,) * 2, interpolation=cv2.INTER_AREA)
        return cv2.resize(small, (512, 512), interpolation=cv2.INTER_LINEAR)

    assert max(map(measured, portraits)) > SHARP
    assert max(measured(shrunk(picture, 3)) for picture in portraits) < SHARP
    assert max(measured(shrunk(picture, 8)) for picture in portraits) < 0.3


def test_a_step_has_the_sharpness_of_its_blur():
    """The width of an edge by hand: a step blurred by s has 0.7 / sqrt(s^2 + 0.49)."""
    for blur in (1.0, 2.0, 3.0):
        x = torch.arange(CROP).double() - CROP / 2 + 0.5
        step = 0.5 + 0.3 * torch.erf(x / (blur * 2**0.5))
        crop = step.float().expand(3, CROP, CROP)
        assert sharpness(crop) == pytest.approx(0.7 / (blur**2 + 0.49) ** 0.5, rel=0.1)
    assert sharpness(torch.full((3, CROP, CROP), 0.5)) == 0.0


# What a person edits ------------------------------------------------------------------------------------------------


def written(tracks: list[Track]) -> dict:
    """Return what was written to a file and read again."""
    choose(tracks, TrackSelection(quality_filter=None, except_ids=[1]), SHAPE)
    return json.loads(json.dumps(to_json(tracks, three())))


def test_what_is_not_edited_changes_nothing(tracks):
    told = written(tracks)
    before = [(track.restore, track.reason) for track in tracks]
    assert apply_json(tracks, told) == ({}, {})
    assert [(track.restore, track.reason) for track in tracks] == before
    assert told["tracks"][0] | {"facts": 0} == {
        "id": 1, "person": 1, "first_frame": 0, "last_frame": 49, "first_s": 0.0, "last_s": 1.96,
        "box": [440.0, 140.0, 560.0, 260.0], "facts": 0, "restore": False, "reason": "this track was to be left alone",
    }  # fmt: skip


def test_a_person_decides(tracks):
    told = written(tracks)
    told["tracks"][0]["restore"] = True
    told["tracks"][1] |= {"restore": False}
    told["tracks"][2] |= {"strength": 0.5, "seed": 7}
    del told["tracks"][3]
    assert apply_json(tracks, told) == ({3: 0.5}, {3: 7})
    assert [track.restore for track in tracks] == [True, False, True, True]
    assert [track.reason for track in tracks] == ["", "left alone in tracks.json", "", ""]


@pytest.mark.parametrize(
    ("number", "change", "says"),
    [
        (0, {"id": 12}, "id 12"), (0, {"id": 2}, "twice"), (0, {"id": "1"}, "'1'"), (0, {"id": True}, "True"),
        (0, {"restored": True}, "restored"), (0, {"restore": "yes"}, "'yes'"), (0, {"restore": None}, "None"),
        (1, {"strength": 1.5}, "1.5"), (1, {"strength": "1"}, "'1'"), (1, {"strength": float("nan")}, "nan"),
        (1, {"seed": -1}, "-1"), (1, {"seed": 0.5}, "0.5"), (1, {"first_frame": 3}, "first_frame"),
    ],
)  # fmt: skip
def test_edits_that_cannot_be_are_refused_and_change_nothing(tracks, number, change, says):
    told = written(tracks)
    told["tracks"][3]["restore"] = not told["tracks"][3]["restore"]
    told["tracks"][number] |= change
    before = copy.deepcopy([(track.restore, track.reason) for track in tracks])
    with pytest.raises(SettingsError, match=says):
        apply_json(tracks, told)
    assert [(track.restore, track.reason) for track in tracks] == before


@pytest.mark.parametrize("nonsense", [None, [], {}, {"tracks": 3}, {"tracks": [1]}, {"tracks": [], "restore": True}])
def test_another_kind_of_file_is_refused(tracks, nonsense):
    with pytest.raises(SettingsError, match="edited tracks"):
        apply_json(tracks, nonsense)


def test_a_track_is_shown_where_it_is_large_and_looks_ahead():
    scan = film({frame: [(500, 200, 60 + 2 * min(frame, 20))] for frame in range(30)}, 30)
    scan.points[20:24, 2, 0] += 25  # turned where it has just become large
    (track,) = link(scan)
    assert 24 <= best_row(track) < 30
    y, x = torch.meshgrid(torch.arange(400.0), torch.arange(1000.0), indexing="ij")
    frame = torch.stack([x / 1000, y / 400, x * 0])
    shown = thumbnail(frame, track, 5)
    assert shown.shape == (3, THUMBNAIL, THUMBNAIL)
    # The middle of the crop by its matrix.
    middle = np.linalg.solve(track.matrices[5][:, :2], 256 - track.matrices[5][:, 2])
    assert float(shown[0, 80, 80]) * 1000 == pytest.approx(middle[0] - 0.5, abs=1.5)
    assert float(shown[1, 80, 80]) * 400 == pytest.approx(middle[1] - 0.5, abs=1.5)
