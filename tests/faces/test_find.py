"""Searching pictures: turned ones, and boxes that a person drew."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from bfr_core.faces.align import FFHQ_TEMPLATE, align_faces, points_from_box, sample, transform
from bfr_core.faces.detect import load_detector
from bfr_core.faces.find import FoundFaces, find_faces
from bfr_core.media.pictures import read_picture, to_float
from bfr_core.types import Face

MARKS = (0.3, 0.4, 0.5, 0.6, 0.7)
"""Values of the pixels that a `Marked` detector takes for the five points, in their order."""


class Marked:
    """A detector that finds five marked pixels where they stand as a face does, upright.

    They are no face by any look at them, and none is found where the picture is resampled: `find_faces` is asked
    without its check.
    """

    name = "marked"
    doubtful = True

    def __init__(self, score: float = 0.99, elsewhere: float = 0.0) -> None:
        self.score, self.elsewhere = score, elsewhere
        self.searched: list[tuple[int, int]] = []

    def detect(self, frames: Tensor, *, threshold: float | None = None) -> list[list[Face]]:
        (frame,) = frames
        self.searched.append((frame.shape[1], frame.shape[2]))
        points = np.array(
            [[float(x) + 0.5, float(y) + 0.5] for mark in MARKS for y, x in (frame[0] == mark).nonzero().tolist()[:1]]
        ).reshape(-1, 2)
        if len(points) < len(MARKS):
            return [[]]
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
    (face,) = find_faces(lying, Marked(), check=False).faces
    assert face.turned == 90 * turns
    for (left, top), mark in zip(face.points.tolist(), MARKS, strict=True):
        assert lying[0, int(top), int(left)] == mark and (left % 1, top % 1) == (0.5, 0.5)
    low, high = face.points.min(0) - 15, face.points.max(0) + 15
    assert face.box == (*low.tolist(), *high.tolist())


def test_beside_a_sure_face_others_are_looked_for_at_a_glance_and_closely_where_there_is_none():
    frame, _ = marked(1000, 1280, 20, 30)
    detector = Marked()
    found = find_faces(frame, detector, check=False)
    assert detector.searched == [(1000, 1280), (640, 500), (500, 640), (640, 500)]
    assert len(found.faces) == 1 and found.notes == [] and found.detector == "marked" and found.seconds > 0
    nobody = Marked(0.0)
    found = find_faces(frame, nobody, check=False)
    assert nobody.searched == [(1000, 1280), (1280, 1000), (1000, 1280), (1280, 1000)] and found.faces == []
    assert found.notes[0].startswith("No face was found, at any angle.")
    assert "below that of 0.8" in find_faces(frame, nobody, threshold=0.8, check=False).notes[0]


@pytest.mark.parametrize(("turned", "upright", "expected"), [(0.99, 0.85, 90), (0.85, 0.0, None), (0.91, 0.93, 0)])
def test_a_turned_face_must_be_surer_than_upright_ones_and_sure_in_itself(turned, upright, expected):
    """A face that lies is sometimes seen upright too, with wrong points and less surely."""
    frame, _ = marked(90, 90, 30, 30)
    found = find_faces(torch.rot90(frame, -1, (1, 2)).contiguous(), Marked(turned, upright), threshold=0.5, check=False)
    # Where nothing is believed, the doubtful upright one stays; with none, nothing does.
    assert [face.turned for face in found.faces] == ([] if expected is None else [expected])
    assert bool(found.notes) == (expected != 0)


def test_points_that_are_no_face_are_not_believed_in_a_turned_picture():
    frame, _ = marked(90, 90, 30, 30)
    nose = (frame[0] == MARKS[2]).nonzero()[0].tolist()
    frame[:, nose[0], nose[1]] = 0
    frame[:, nose[0], 55] = MARKS[2]  # beyond the right eye
    assert len(find_faces(frame, Marked(), check=False).faces) == 1
    assert find_faces(torch.rot90(frame, 1, (1, 2)).contiguous(), Marked(), check=False).faces == []


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
    assert len(upright) == 3 and len(lying.faces) == 3
    # Each by its own lean.
    assert all(abs(face.turned - 270) < 20 for face in lying.faces)
    assert all("found when the picture was turned by about" in note for note in lying.notes)
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


def at_angle(portrait: Tensor, angle: float, size: int, side: int = 420) -> tuple[Tensor, np.ndarray]:
    """Return an aligned portrait turned by `angle` degrees clockwise on a plain ground, and where its points are.

    Args:
        portrait: (3, S, S) in the FFHQ template.
        angle: in degrees.
        size: of the face's box in pixels, about.
        side: of the frame.
    """
    edge, scale, radians = portrait.shape[-1], size / 290 * 512 / portrait.shape[-1], np.radians(angle)
    linear = np.array([[np.cos(radians), -np.sin(radians)], [np.sin(radians), np.cos(radians)]]) * scale
    middle = np.full(2, 0.5) * edge
    matrix = np.column_stack((linear, np.full(2, side / 2) - linear @ middle))
    frame = sample(portrait, matrix, side)
    disc = sample(torch.ones(1, edge, edge), matrix, side)
    y, x = np.mgrid[:side, :side] + 0.5
    inside = torch.from_numpy(np.hypot(x - side / 2, y - side / 2) < 0.5 * edge * scale)[None]
    frame = torch.where(inside & (disc > 0), frame, torch.full_like(frame, 0.55))
    return frame, transform(matrix, FFHQ_TEMPLATE * edge / 512)


@pytest.mark.parametrize("angle", range(0, 360, 15))
def test_a_face_is_found_at_every_angle_and_aligned_by_its_points(shared, detector, angle):
    names = sorted((shared / "faces" / "free512" / "val").iterdir())
    portrait = to_float(read_picture(names[angle // 15 % len(names)]))
    frame, points = at_angle(portrait, angle, (60, 110, 170)[angle // 15 % 3])
    (face,) = find_faces(frame, detector).faces
    assert np.linalg.norm(face.points - points, axis=1).mean() < 0.2 * face.eye_distance
    crop = align_faces(frame, [face], 512)[0].image
    (upright,) = detector.detect(crop[None])[0]
    across = upright.points[1] - upright.points[0]
    assert abs(np.degrees(np.arctan2(across[1], across[0]))) < 8


@pytest.mark.parametrize("angle", [60, 90, 180, 270])
def test_a_face_that_lies_beside_one_that_stands_is_found_too(shared, detector, angle):
    """One that stood was enough for nobody to look further."""
    first, second = (
        to_float(read_picture(path)) for path in sorted((shared / "faces" / "pd512" / "val").iterdir())[:2]
    )
    (left, standing), (right, lying) = at_angle(first, 0, 130), at_angle(second, angle, 110)
    found = find_faces(torch.cat((left, right), 2), detector)
    assert len(found.faces) == 2
    for points in (standing, lying + np.array([420, 0])):
        nearest = min(found.faces, key=lambda face: float(np.abs(face.points - points).max()))
        assert np.linalg.norm(nearest.points - points, axis=1).mean() < 0.2 * nearest.eye_distance
    # The upright search sees one at 60 degrees by itself, with a sure one in sight or not.
    said = [f"1 face was found when the picture was turned by about {angle} degrees to the left"]
    assert found.notes == (said if angle > 60 else [])
