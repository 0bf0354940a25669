"""Searching pictures: turned ones, and boxes that a person drew."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from bfr_core.faces.align import points_from_box
from bfr_core.faces.detect import load_detector
from bfr_core.faces.find import FoundFaces, find_faces
from bfr_core.media.pictures import read_picture, to_float
from bfr_core.types import Face

MARKS = (0.3, 0.4, 0.5, 0.6, 0.7)
"""Values of the pixels that a `Marked` detector takes for the five points, in their order."""


class Marked:
    """A detector that finds five marked pixels where they stand as a face does, upright."""

    name = "marked"

    def __init__(self, score: float = 0.99, elsewhere: float = 0.0) -> None:
        self.score, self.elsewhere, self.searches = score, elsewhere, 0

    def detect(self, frames: Tensor, *, threshold: float | None = None) -> list[list[Face]]:
        self.searches += 1
        (frame,) = frames
        points = np.array(
            [[float(x) + 0.5, float(y) + 0.5] for mark in MARKS for y, x in (frame[0] == mark).nonzero().tolist()[:1]]
        )
        low, high = points.min(0) - 15, points.max(0) + 15
        upright = points[:2, 1].max() < points[2, 1] < points[3:, 1].min() and points[0, 0] < points[1, 0]
        score = self.score if upright else self.elsewhere
        face = Face((*low.tolist(), *high.tolist()), points, score)
        return [[face] if score >= (threshold or 0.5) else []]

    def to_device(self, device: object) -> None:
        pass


def marked(height: int, width: int, x: int, y: int) -> tuple[Tensor, np.ndarray]:
    """Return a frame with the marks of a face, its eyes level, and where they are."""
    frame = torch.zeros(3, height, width)
    pixels = [(x, y), (x + 20, y), (x + 10, y + 11), (x + 2, y + 22), (x + 18, y + 22)]
    for (left, top), mark in zip(pixels, MARKS, strict=True):
        frame[:, top, left] = mark
    return frame, np.array(pixels) + 0.5


def drawn(*corners: float) -> Face:
    box = (corners[0], corners[1], corners[2], corners[3])
    return Face(box, points_from_box(box), 1.0, origin="drawn")


@given(st.integers(60, 150), st.integers(60, 150), st.integers(0, 3), st.data())
@settings(max_examples=60, deadline=None)
def test_turned_faces_have_the_coordinates_of_the_frame(height, width, turns, data):
    x, y = data.draw(st.integers(0, width - 21)), data.draw(st.integers(0, height - 23))
    upright, _ = marked(height, width, x, y)
    # A scan that lies: it has to be turned by as much again to stand.
    lying = torch.rot90(upright, -turns, (1, 2)).contiguous()
    (face,) = find_faces(lying, Marked()).faces
    assert face.turned == 90 * turns
    for (left, top), mark in zip(face.points.tolist(), MARKS, strict=True):
        assert lying[0, int(top), int(left)] == mark and (left % 1, top % 1) == (0.5, 0.5)
    low, high = face.points.min(0) - 15, face.points.max(0) + 15
    assert face.box == (*low.tolist(), *high.tolist())


def test_a_sure_face_costs_one_search_and_nobody_four():
    frame, _ = marked(80, 90, 20, 30)
    detector = Marked()
    found = find_faces(frame, detector)
    assert detector.searches == 1 and found.notes == [] and found.detector == "marked" and found.seconds > 0
    nobody = Marked(0.0)
    found = find_faces(frame, nobody)
    assert nobody.searches == 4 and found.faces == []
    assert found.notes[0].startswith("No face was found, upright or turned")
    assert "below that of 0.8" in find_faces(frame, nobody, threshold=0.8).notes[0]


@pytest.mark.parametrize(("turned", "upright", "expected"), [(0.99, 0.85, 90), (0.85, 0.0, None), (0.91, 0.93, 0)])
def test_a_turned_face_must_be_surer_than_upright_ones_and_sure_in_itself(turned, upright, expected):
    """A face that lies is sometimes seen upright too, with wrong points and less surely."""
    frame, _ = marked(90, 90, 30, 30)
    found = find_faces(torch.rot90(frame, -1, (1, 2)).contiguous(), Marked(turned, upright), threshold=0.5)
    # Where nothing is believed, the doubtful upright one stays; with none, nothing does.
    assert [face.turned for face in found.faces] == ([] if expected is None else [expected])
    assert bool(found.notes) == (expected != 0)


def test_points_that_are_no_face_are_not_believed_in_a_turned_picture():
    frame, _ = marked(90, 90, 30, 30)
    nose = (frame[0] == MARKS[2]).nonzero()[0].tolist()
    frame[:, nose[0], nose[1]] = 0
    frame[:, nose[0], 55] = MARKS[2]  # beyond the right eye
    assert len(find_faces(frame, Marked()).faces) == 1
    assert find_faces(torch.rot90(frame, 1, (1, 2)).contiguous(), Marked()).faces == []


# --- real pictures ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def detector():
    return load_detector()


def picture(shared, name: str) -> Tensor:
    return to_float(read_picture(shared / "photos" / name))


def test_a_box_over_a_wall_is_empty_and_one_over_a_face_has_its_points(shared, detector):
    frame = picture(shared, "clean/obama-480p.jpg")
    (face,) = find_faces(frame, detector).faces
    x0, y0, x1, y1 = face.box
    loose = drawn(x0 - 10, y0 - 15, x1 + 12, y1 + 5)
    found = find_faces(frame, detector, boxes=[drawn(5, 5, 125, 125), loose])
    assert isinstance(found, FoundFaces) and found.detector == "given"
    wall, there = found.faces
    assert wall.origin == "empty" and there.origin == "drawn"
    assert there.box == loose.box and np.abs(there.points - face.points).max() < 1


def test_a_box_much_larger_than_the_face_is_about_the_face_in_it(shared, detector):
    frame = picture(shared, "clean/obama-480p.jpg")
    (face,) = find_faces(frame, detector).faces
    (there,) = find_faces(frame, detector, boxes=[drawn(0, 0, frame.shape[2], frame.shape[1])]).faces
    assert there.origin == "drawn" and np.abs(there.points - face.points).max() < 0.1 * face.size


def test_a_face_that_the_search_missed_is_found_in_its_box(shared, detector):
    frame = picture(shared, "degraded/200_00101_02_org.png")
    assert find_faces(frame, detector).faces == []
    (there,) = find_faces(frame, detector, boxes=[drawn(110, 90, 400, 470)]).faces
    eyes, mouth = there.points[:2].mean(0), there.points[3:].mean(0)
    assert there.origin == "drawn" and 200 < eyes[1] < 280 and 340 < mouth[1] < 410 and 240 < eyes[0] < 310


def test_a_group_that_lies_is_found_whole(shared, detector):
    frame = picture(shared, "groups/2008_001322.jpg")
    upright = find_faces(frame, detector).faces
    lying = find_faces(torch.rot90(frame, 1, (1, 2)).contiguous(), detector)
    assert len(upright) == 3 and [face.turned for face in lying.faces] == [270] * 3
    assert lying.notes == ["3 faces were found when the picture was turned by 270 degrees to the left"]
    # A quarter to the left brings (x, y) to (y, width - x).
    for face in upright:
        x, y = face.points.T
        there = np.stack([y, frame.shape[2] - x], 1)
        assert min(np.abs(other.points - there).max() for other in lying.faces) < 0.1 * face.size


def test_textures_are_no_faces_however_they_are_turned(detector):
    for seed, cells in enumerate((8, 24, 64)):
        grain = torch.rand(1, 3, cells, cells, generator=torch.Generator().manual_seed(seed))
        wall = torch.nn.functional.interpolate(grain, (320, 320), mode="bicubic")[0].clamp(0, 1)
        assert find_faces(wall, detector).faces == []
