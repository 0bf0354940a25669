"""Alignment: closed-form similarity, half-pixel algebra, antialias."""

from __future__ import annotations

import math

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bfr_core.compose.paste import composite
from bfr_core.errors import InputMediaError
from bfr_core.faces.align import FFHQ_TEMPLATE, align_face, invert, points_from_box, similarity, transform, whole_crop
from bfr_core.types import Face


def matrix_of(scale: float, angle: float, shift: tuple[float, float]) -> np.ndarray:
    a, b = scale * math.cos(angle), scale * math.sin(angle)
    return np.array([[a, -b, shift[0]], [b, a, shift[1]]])


poses = st.tuples(
    st.floats(0.05, 20), st.floats(-math.pi, math.pi), st.tuples(st.floats(-5000, 5000), st.floats(-5000, 5000))
)


@given(poses)
@settings(max_examples=200, deadline=None)
def test_similarity_recovers_the_transform_that_made_the_points(pose):
    truth = matrix_of(*pose)
    np.testing.assert_allclose(similarity(FFHQ_TEMPLATE, transform(truth, FFHQ_TEMPLATE)), truth, rtol=1e-9, atol=1e-6)


@given(st.integers(0, 2**32 - 1))
@settings(max_examples=100, deadline=None)
def test_similarity_is_the_least_squares_one(seed):
    rng = np.random.default_rng(seed)
    source, target = rng.normal(size=(5, 2)), rng.normal(size=(5, 2))
    # Independent oracle: the similarity is linear in (a, b, tx, ty).
    rows = [row for x, y in source for row in ([x, -y, 1, 0], [y, x, 0, 1])]
    a, b, tx, ty = np.linalg.lstsq(np.array(rows), target.ravel(), rcond=None)[0]
    np.testing.assert_allclose(similarity(source, target), [[a, -b, tx], [b, a, ty]], atol=1e-9)


@given(poses, st.floats(-100, 100), st.floats(-100, 100))
@settings(max_examples=100, deadline=None)
def test_inverse_undoes(pose, x, y):
    matrix = matrix_of(*pose)
    point = np.array([[x, y]])
    np.testing.assert_allclose(transform(invert(matrix), transform(matrix, point)), point, atol=1e-6)


@pytest.mark.parametrize("points", [np.zeros((5, 2)), np.full((5, 2), np.nan), np.full((5, 2), np.inf)])
def test_points_without_a_similarity_are_refused(points):
    with pytest.raises(InputMediaError, match="Cannot align a face"):
        similarity(points, FFHQ_TEMPLATE)


def shift_of_unchanged_face(scale: float, angle: float, centre: tuple[float, float], side: int = 700) -> np.ndarray:
    """Cut a blob out, paste it back as it is, and return by how far its centroid moved, in pixels of the frame."""
    sigma = 12 / min(scale, 1)
    y, x = torch.meshgrid(torch.arange(side) + 0.5, torch.arange(side) + 0.5, indexing="ij")
    blob = torch.exp(-((x - centre[0]) ** 2 + (y - centre[1]) ** 2) / (2 * sigma**2))
    points = transform(matrix_of(1 / scale, angle, (0, 0)), FFHQ_TEMPLATE - 256) + centre
    frame = blob.expand(3, -1, -1).contiguous()
    crop = align_face(frame, Face((0.0, 0.0, 1.0, 1.0), points, 1.0), 512)
    out = composite(frame, [crop], [crop.image])[0][0].double()
    return np.array([((out * axis).sum() / out.sum() - at).item() for axis, at in zip((x, y), centre, strict=True)])


@pytest.mark.parametrize("scale", [0.3, 0.7, 1.0, 2.0, 4.0])
@pytest.mark.parametrize("angle", [0.0, 0.5])
def test_a_face_pasted_back_unchanged_stays_where_it_was(scale, angle):
    """Peers shift it by half a pixel at 2x and more.

    Resampling itself moves a centroid by up to 0.0015 px, one way or the other by where it lies within its pixel:
    opposite places cancel, a wrong offset would not. At the frame's own scale it is the cubic that does, by 0.042 px:
    PyTorch's, of a = -0.75, keeps the slope of a ramp but for that, and is the sharper for it.
    """
    there = shift_of_unchanged_face(scale, angle, (350.3, 348.7))
    opposite = shift_of_unchanged_face(scale, angle, (349.7, 351.3))
    assert np.abs(there).max() < (0.05 if (scale, angle) == (1.0, 0.0) else 2e-3)
    assert np.abs(there + opposite).max() < 5e-4


def test_crop_agrees_with_opencv_where_no_shrinking_is_needed():
    rng = np.random.default_rng(0)
    frame = cv2.GaussianBlur(rng.random((300, 400, 3), np.float32), (0, 0), 2)
    points = transform(matrix_of(1 / 3.7, 0.3, (0, 0)), FFHQ_TEMPLATE - 256) + np.array([210.4, 140.2])
    crop = align_face(torch.from_numpy(frame).permute(2, 0, 1).contiguous(), Face((0, 0, 1, 1), points, 1.0))
    # OpenCV puts pixel centres on whole numbers: shift by a half before and after.
    half = np.array([[1, 0, 0.5], [0, 1, 0.5], [0, 0, 1]])
    full = np.vstack([crop.matrix, [0, 0, 1]])
    theirs = cv2.warpAffine(frame, (np.linalg.inv(half) @ full @ half)[:2], (512, 512), flags=cv2.INTER_LINEAR)
    np.testing.assert_allclose(crop.image.permute(1, 2, 0).numpy(), theirs, atol=0.02)  # its weights have 5 bits


def test_a_large_face_is_shrunk_with_an_antialias():
    """A one-pixel checkerboard has no business in a crop of a quarter of its size: plain sampling would keep it."""
    board = ((torch.arange(2048)[:, None] + torch.arange(2048)) % 2).float().expand(3, -1, -1).contiguous()
    crop = align_face(board, Face((0, 0, 1, 1), (FFHQ_TEMPLATE - 256) * 3.9 + 1024, 1.0))
    assert crop.image[:, 64:-64, 64:-64].std() < 0.02


@pytest.mark.parametrize("centre", [(0, 0), (199, 10), (-300, -300)])
def test_faces_beyond_the_frame_have_defined_pixels(centre):
    frame = torch.rand(3, 200, 200)
    crop = align_face(frame, Face((0, 0, 1, 1), (FFHQ_TEMPLATE - 256) / 4 + centre, 1.0))
    assert crop.image.isfinite().all()
    assert crop.image.min() >= 0 and crop.image.max() <= 1


@pytest.mark.parametrize("shape", [(1, 1), (2, 3000), (3, 5)])
def test_tiny_and_thin_frames(shape):
    crop = align_face(torch.rand(3, *shape), Face((0, 0, 1, 1), points_from_box((0.0, 0.0, 2.0, 2.0)), 1.0), 64)
    assert crop.image.shape == (3, 64, 64) and crop.image.isfinite().all()


def test_whole_crop_wants_a_square():
    assert whole_crop(torch.rand(3, 256, 256), 512).image.shape == (3, 512, 512)
    with pytest.raises(InputMediaError, match="square"):
        whole_crop(torch.rand(3, 100, 256), 512)
