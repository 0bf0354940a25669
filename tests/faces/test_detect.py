"""The face detector: what it finds on real pictures, its geometry, and the errors of the other back ends."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from marks import runs_yunet
from torch import Tensor

from bfr_core.backends.detectors.embedded import crop_square, cut_square
from bfr_core.faces.detect import Detector, load_detector
from bfr_core.faces.pyramid import Candidates, merge, overlap, pyramid, to_frame
from bfr_core.networks.face_detector import FaceDetectorNet, FaceRefinerNet, cells, fold
from bfr_core.types import Face


@pytest.fixture(scope="module")
def ours() -> Detector:
    return load_detector()


def read(path: Path) -> np.ndarray:
    image = cv2.imread(str(path), cv2.IMREAD_COLOR)
    assert image is not None
    return np.ascontiguousarray(image[..., ::-1])


def frames(*images: np.ndarray) -> Tensor:
    return torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).float() / 255


def one(detector: Detector, image: np.ndarray) -> Face:
    faces = detector.detect(frames(image))[0]
    assert len(faces) == 1, [(face.box, face.score) for face in faces]
    return faces[0]


def iou(a: Face, b: Face) -> float:
    return float(overlap(np.array(a.box), np.array([b.box]))[0][0])


def assert_upright(face: Face) -> None:
    """Points in the order of POINT_NAMES, on a face that is not upside down."""
    left_eye, right_eye, nose, left_mouth, right_mouth = face.points
    assert left_eye[0] < right_eye[0]
    assert left_mouth[0] < right_mouth[0]
    assert max(left_eye[1], right_eye[1]) < nose[1] < min(left_mouth[1], right_mouth[1])


# Real pictures.


@pytest.mark.parametrize("name", ["astronaut.png", "obama.jpg", "biden.jpg", "obama-240p.jpg"])
def test_one_face_is_found_on_a_portrait(ours: Detector, shared: Path, name: str) -> None:
    assert_upright(one(ours, read(shared / "photos" / "clean" / name)))


def test_two_people_are_two_faces_biggest_first(ours: Detector, shared: Path) -> None:
    faces = ours.detect(frames(read(shared / "photos" / "clean" / "two_people.jpg")))[0]
    assert len(faces) == 2
    assert faces[0].size >= faces[1].size
    for face in faces:
        assert_upright(face)


@runs_yunet
def test_agrees_with_yunet_on_clean_portraits(ours: Detector, shared: Path) -> None:
    yunet = load_detector("yunet", path=shared / "weights" / "yunet_n_dynamic.onnx")
    for name in ("astronaut.png", "obama.jpg", "biden.jpg", "obama-720p.jpg"):
        image = read(shared / "photos" / "clean" / name)
        a, b = one(ours, image), one(yunet, image)
        assert iou(a, b) > 0.65, name
        assert np.linalg.norm(a.points - b.points, axis=1).mean() < 0.12 * b.eye_distance, name


def test_a_picture_without_faces_is_an_empty_list(ours: Detector) -> None:
    y, x = np.mgrid[:300, :400]
    ramp = np.stack((x * 255 // 400, y * 255 // 300, (x + y) * 255 // 700), -1).astype(np.uint8)
    noise = np.random.default_rng(0).integers(0, 256, ramp.shape, dtype=np.uint8)
    assert ours.detect(frames(ramp, noise)) == [[], []]


def test_no_frames_are_no_lists(ours: Detector) -> None:
    assert ours.detect(torch.zeros(0, 3, 64, 64)) == []


def test_scale_changes_nothing_but_the_unit(ours: Detector, shared: Path) -> None:
    found = []
    for name in ("240p", "480p", "720p", "1080p"):
        image = read(shared / "photos" / "clean" / f"obama-{name}.jpg")
        face = one(ours, image)
        height, width = image.shape[:2]
        found.append((face.points / (width, height), face.eye_distance / width))
    reference, eyes = found[-1]
    for points, _ in found[:-1]:
        # In units of the picture; and the same in units of the face, without a common offset.
        assert np.abs(points - reference).max() < 0.015
        assert np.abs((points - reference).mean(0)).max() < 0.08 * eyes


def test_small_face_in_a_4k_picture(ours: Detector, shared: Path) -> None:
    image = read(shared / "photos" / "clean" / "astronaut.png")
    face = one(ours, image)
    scale = 24 / face.size
    small = cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    canvas = np.full((2160, 3840, 3), (90, 110, 130), np.uint8)
    for x, y in ((700, 500), (3001, 1503)):
        canvas[y : y + small.shape[0], x : x + small.shape[1]] = small
    found = sorted(ours.detect(frames(canvas))[0], key=lambda f: f.box[0])
    assert len(found) == 2
    for (x, y), got in zip(((700, 500), (3001, 1503)), found, strict=True):
        assert np.abs(got.points - (face.points * scale + (x, y))).max() < 4


@pytest.mark.parametrize("margin", [0.35, 0.1])
def test_face_that_fills_the_frame(ours: Detector, shared: Path, margin: float) -> None:
    image = read(shared / "photos" / "clean" / "astronaut.png")
    face = one(ours, image)
    (x0, y0, x1, y1), m = face.box, margin * face.size
    top, left = max(int(y0 - m), 0), int(x0 - m)
    crop = image[top : int(y1 + m), left : int(x1 + m)]
    for side in (200, 512, 1200):
        scale = side / crop.shape[0]
        big = cv2.resize(crop, None, fx=scale, fy=scale, interpolation=cv2.INTER_CUBIC)
        got = one(ours, big)
        error = np.linalg.norm(got.points - (face.points - (left, top)) * scale, axis=1).mean()
        assert error < 0.15 * face.eye_distance * scale


@pytest.mark.parametrize("angle", [-40, -20, 20, 40])
def test_turned_face(ours: Detector, shared: Path, angle: float) -> None:
    image = read(shared / "photos" / "clean" / "astronaut.png")
    face = one(ours, image)
    centre = tuple(map(float, face.points[2]))
    matrix = cv2.getRotationMatrix2D(centre, angle, 1.0)
    turned = cv2.warpAffine(image, matrix, (512, 512), borderMode=cv2.BORDER_REPLICATE)
    got = one(ours, turned)
    expected = face.points @ matrix[:, :2].T + matrix[:, 2]
    assert np.linalg.norm(got.points - expected, axis=1).mean() < 0.15 * face.eye_distance


def test_mirror_image_gives_mirrored_points(ours: Detector, shared: Path) -> None:
    image = read(shared / "photos" / "clean" / "biden.jpg")
    face, mirrored = one(ours, image), one(ours, np.ascontiguousarray(image[:, ::-1]))
    back = (mirrored.points * (-1, 1) + (image.shape[1], 0))[[1, 0, 2, 4, 3]]
    assert np.linalg.norm(back - face.points, axis=1).mean() < 0.1 * face.eye_distance


def test_batch_equals_single(ours: Detector, shared: Path) -> None:
    clean = shared / "photos" / "clean"
    images = [cv2.resize(read(clean / name), (480, 360)) for name in ("astronaut.png", "obama.jpg", "two_people.jpg")]
    batch = ours.detect(frames(*images))
    for image, together in zip(images, batch, strict=True):
        alone = ours.detect(frames(image))[0]
        assert len(alone) == len(together)
        for a, b in zip(alone, together, strict=True):
            np.testing.assert_allclose(a.points, b.points, atol=1e-2)
            np.testing.assert_allclose(a.box, b.box, atol=1e-2)


def test_layout_of_the_tensor_does_not_matter(ours: Detector, shared: Path) -> None:
    planes = frames(read(shared / "photos" / "clean" / "obama-480p.jpg")).contiguous()
    interleaved = planes.contiguous(memory_format=torch.channels_last)
    a, b = ours.detect(planes)[0], ours.detect(interleaved)[0]
    np.testing.assert_allclose(a[0].points, b[0].points, atol=1e-2)
    assert planes.is_contiguous(), "the input is not touched"


def test_threshold_is_the_least_score(ours: Detector, shared: Path) -> None:
    image = frames(read(shared / "photos" / "groups" / "solvay1927.jpg"))
    some, all_of_them = (ours.detect(image, threshold=value)[0] for value in (0.7, 0.3))
    assert len(some) <= len(all_of_them)
    assert min(face.score for face in some) >= 0.7
    assert ours.detect(image, threshold=1.01) == [[]]


def test_many_small_faces(ours: Detector, shared: Path) -> None:
    faces = ours.detect(frames(read(shared / "photos" / "groups" / "solvay1927.jpg")))[0]
    assert 20 <= len(faces) <= 33
    assert [face.size for face in faces] == sorted((face.size for face in faces), reverse=True)


@pytest.mark.parametrize("size", [(1, 1), (5, 400), (33, 31), (64, 64)])
def test_odd_sizes_are_fine(ours: Detector, size: tuple[int, int]) -> None:
    assert ours.detect(torch.full((1, 3, *size), 0.5)) == [[]]


# Geometry.


def test_centres_of_cells() -> None:
    centres = cells(2, 3, 8, torch.zeros(1))
    assert centres.tolist() == [[4, 4], [12, 4], [20, 4], [4, 12], [12, 12], [20, 12]]


def test_decoding_of_a_known_output() -> None:
    net = FaceDetectorNet().eval()
    with torch.no_grad():
        net.out.weight.zero_()
        net.out.bias.zero_()
        net.out.bias[5:] = torch.arange(10) / 10
        said = net(torch.rand(1, 3, 32, 64))
    assert said.logits.shape == (1, 32 + 8 + 2)
    # First cell of stride 8: base 32, centre (4, 4).
    torch.testing.assert_close(said.boxes[0, 0], torch.tensor([4.0 - 16, 4 - 16, 4 + 16, 4 + 16]))
    torch.testing.assert_close(said.points[0, 0], 4 + 32 * (torch.arange(10) / 10).view(5, 2))
    # Last cell of stride 32: base 128, centre (48, 16).
    torch.testing.assert_close(said.boxes[0, -1], torch.tensor([48.0 - 64, 16 - 64, 48 + 64, 16 + 64]))


def test_folding_changes_nothing() -> None:
    torch.manual_seed(0)
    trained = FaceDetectorNet((4, 6, 8, 8, 8), 8, norm=True)
    for _ in range(3):
        trained(torch.rand(4, 3, 64, 64))
    trained.eval()
    folded = FaceDetectorNet((4, 6, 8, 8, 8), 8).eval()
    folded.load_state_dict(fold(trained))
    x = torch.rand(2, 3, 64, 96)
    with torch.no_grad():
        a, b = trained(x), folded(x)
    torch.testing.assert_close(a.boxes, b.boxes, atol=1e-3, rtol=1e-4)
    torch.testing.assert_close(a.logits, b.logits, atol=1e-4, rtol=1e-4)


def test_second_look_maps_back_to_the_frame() -> None:
    detector = load_detector()
    refine = detector.net.refine  # type: ignore[attr-defined]
    with torch.no_grad():
        refine.out.weight.zero_()
        refine.out.bias.zero_()
        refine.out.bias[0] = 10
        # Eyes a quarter of the crop left and right of its middle and as far below it; the mirror image agrees.
        refine.out.bias[5:9] = torch.tensor([-0.25, 0.25, 0.25, 0.25])
    named = Face((30, 40, 62, 90), np.zeros((5, 2)), 0.9)
    left, top, side = crop_square(named)
    assert side == round(FaceRefinerNet.MARGIN * 40)
    assert abs(left + side / 2 - 46) <= 0.5
    got = detector._second_look(torch.rand(3, 100, 100), [named], 0.5)[0]  # type: ignore[attr-defined]
    np.testing.assert_allclose(got.points[0], (left + 0.25 * side, top + 0.75 * side), atol=1e-3)
    np.testing.assert_allclose(got.points[1], (left + 0.75 * side, top + 0.75 * side), atol=1e-3)
    np.testing.assert_allclose(got.points[2], (left + 0.5 * side, top + 0.5 * side), atol=1e-3)
    np.testing.assert_allclose(got.box[2] - got.box[0], 40, atol=0.1)


@pytest.mark.parametrize("square", [(-5, -7, 20), (50, 60, 30), (-30, -30, 200), (-90, 10, 40), (3, 4, 8)])
def test_squares_beyond_the_frame_are_gray(square: tuple[int, int, int]) -> None:
    left, top, side = square
    frame = torch.rand(3, 64, 72)
    expected = torch.full((3, side, side), 0.5)
    for y in range(side):
        for x in range(side):
            if 0 <= top + y < 64 and 0 <= left + x < 72:
                expected[:, y, x] = frame[:, top + y, left + x]
    torch.testing.assert_close(cut_square(frame, square, side)[0], expected)


@settings(max_examples=200, deadline=None)
@given(st.integers(1, 9000), st.integers(1, 9000))
def test_plan_keeps_small_faces_and_bounds_the_work(width: int, height: int) -> None:
    passes = pyramid(width, height)
    first = passes[0]
    assert first.width <= width
    assert first.height <= height
    if width * height <= 3840 * 2160:
        assert first.scale_x >= 0.49 or width < 50
    assert first.width * first.height <= 3840 * 2160 * 1.01 + width + height
    for each in passes:
        assert each.scale_x == each.width / width
        assert all(side % 32 == 0 for side in each.padded)
    assert all(each.width <= 320 and each.height <= 320 for each in passes[1:])


@settings(max_examples=200, deadline=None)
@given(st.integers(40, 4000), st.integers(40, 4000), st.floats(0, 1), st.floats(0, 1))
def test_coordinates_survive_the_way_there_and_back(width: int, height: int, u: float, v: float) -> None:
    for at in pyramid(width, height):
        point = np.array([u * width, v * height])
        searched = point * (at.scale_x, at.scale_y)
        box = np.concatenate((searched - 5, searched + 5))
        back = to_frame(box[None], np.tile(searched, (1, 5, 1)), np.ones(1), at)
        np.testing.assert_allclose(back.points[0], np.tile(point, (5, 1)), atol=1e-6)
        np.testing.assert_allclose((back.boxes[0, :2] + back.boxes[0, 2:]) / 2, point, atol=1e-6)


def candidates(*rows: tuple[tuple[float, float, float, float], float]) -> Candidates:
    boxes = np.array([row[0] for row in rows], np.float64).reshape(-1, 4)
    centre = (boxes[:, :2] + boxes[:, 2:]) / 2
    return Candidates(boxes, np.tile(centre[:, None], (1, 5, 1)), np.array([row[1] for row in rows], np.float64))


def test_merging_of_two_searches() -> None:
    fine = candidates(((0, 0, 10, 10), 0.9), ((100, 100, 140, 140), 0.6))
    coarse = candidates(((101, 100, 141, 140), 0.9), ((110, 110, 125, 125), 0.5))
    faces = merge([fine, coarse])
    assert [round(face.score, 3) for face in faces] == [0.9, 0.9]
    np.testing.assert_allclose(faces[0].box, (100.6, 100, 140.6, 140))
    np.testing.assert_allclose(faces[1].box, (0, 0, 10, 10))
    assert merge([candidates(), candidates()]) == []


def test_values_that_are_not_numbers_are_dropped() -> None:
    at = pyramid(100, 100)[0]
    found = to_frame(np.full((1, 4), np.nan), np.zeros((1, 5, 2)), np.ones(1), at)
    assert len(found.scores) == 0
