"""The detector's training: pictures that fit their labels, and losses that reach zero where they should."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from bfr_core.networks.face_detector import BASE, STRIDES, Predictions, cells
from train.detector import assign, giou, losses
from train.scenes import POINTS_FLIPPED, Canvas, Labelled, SceneMixer, _pyramid, held_out

MARKS = np.array([[70, 80], [110, 80], [90, 105], [75, 130], [106, 130]], np.float64)
COLOURS = np.array([[255, 0, 0], [0, 255, 0], [0, 0, 255], [255, 255, 0], [255, 0, 255]], np.uint8)


@pytest.fixture(scope="module")
def scene() -> Labelled:
    """A gray picture with a disc of its own colour at each of the five points."""
    image = np.full((220, 180, 3), 128, np.uint8)
    y, x = np.mgrid[:220, :180] + 0.5
    for (px, py), colour in zip(MARKS, COLOURS, strict=True):
        image[(x - px) ** 2 + (y - py) ** 2 < 64] = colour
    return Labelled("scene", _pyramid(image), np.array([[50.0, 50.0, 80.0, 100.0]]), MARKS[None])


def test_the_same_index_gives_the_same_picture(scene: Labelled) -> None:
    a, b = SceneMixer([scene], size=96, seed=3), SceneMixer([scene], size=96, seed=3)
    for index in range(12):
        np.testing.assert_array_equal(a[index].image, b[index].image)
        np.testing.assert_array_equal(a[index].points, b[index].points)
    assert not np.array_equal(a[0].image, SceneMixer([scene], size=96, seed=4)[0].image)


def test_points_follow_their_marks_through_warp_and_mirror(scene: Labelled) -> None:
    mixer = SceneMixer([scene], size=256)
    checked = 0
    for seed in range(60):
        canvas = Canvas(np.full((256, 256, 3), 10, np.uint8))
        mixer._paste(np.random.default_rng(seed), canvas, face=True, size=90.0, whole=True)
        for point, colour in zip(canvas.points[0], COLOURS, strict=True):
            x, y = (int(v) for v in point)
            if not (4 < x < 251 and 4 < y < 251):
                continue
            seen = canvas.image[y, x]
            if (seen < 12).all():  # a mask that left this mark out
                continue
            # A mirrored picture has the mirrored colours: the viewer's left eye is the other eye.
            other = COLOURS[POINTS_FLIPPED][[tuple(c) for c in COLOURS].index(tuple(colour))]
            close = [np.abs(seen.astype(int) - c.astype(int)).max() < 60 for c in (colour, other)]
            assert any(close), (seed, seen, colour)
            checked += 1
    assert checked > 150


def test_the_split_is_a_tenth_and_stable() -> None:
    names = [f"pd/{i:06d}.jpg" for i in range(2000)]
    share = sum(map(held_out, names)) / len(names)
    assert 0.08 < share < 0.12
    assert held_out("pd/W000797.jpg")


def perfect(boxes: torch.Tensor, points: torch.Tensor, size: int) -> Predictions:
    """Every cell predicts the first face exactly."""
    count = sum((size // stride) ** 2 for stride in STRIDES)
    return Predictions(
        torch.full((1, count), -9.0), boxes[:, :1].expand(1, count, 4), points[:, :1].expand(1, count, 5, 2)
    )


def test_cells_of_a_fitting_grid_are_given_to_a_face() -> None:
    size = 128
    boxes = torch.tensor([[[40.0, 40.0, 60.0, 64.0], [0.0, 0.0, 0.0, 0.0]]])
    points = torch.zeros(1, 2, 5, 2) + 50
    kind = torch.tensor([[1, 0]])
    grids = [cells(size // stride, size // stride, stride, boxes) for stride in STRIDES]
    strides = torch.cat([torch.full((len(grid),), float(s)) for grid, s in zip(grids, STRIDES, strict=True)])
    centres = torch.cat(grids)
    index, loose = assign(perfect(boxes, points, size), centres, strides, boxes, kind)
    chosen = torch.nonzero(index[0] >= 0)[:, 0]
    assert len(chosen) >= 1
    assert set(strides[chosen].tolist()) == {8.0}, "22 px belongs to the finest grid"
    assert (centres[chosen] - torch.tensor([50.0, 52.0])).abs().max() <= 8
    assert not loose.any()
    ignored = assign(perfect(boxes, points, size), centres, strides, boxes, kind * 2)
    assert (ignored[0] < 0).all()
    assert ignored[1].any()


def test_losses_of_exact_predictions_are_those_of_the_score_alone() -> None:
    boxes = torch.tensor([[[30.0, 30.0, 80.0, 90.0]]])
    points = torch.rand(1, 1, 5, 2) * 50 + 30
    parts = losses(perfect(boxes, points, 128), 128, boxes, points, torch.tensor([[1]]))
    assert parts["box"].item() == pytest.approx(0, abs=1e-5)
    assert parts["points"].item() == pytest.approx(0, abs=1e-6)
    assert parts["score"].item() > 0.5


def test_giou_of_known_boxes() -> None:
    a = torch.tensor([[0.0, 0.0, 2.0, 2.0], [0.0, 0.0, 1.0, 1.0]])
    b = torch.tensor([[1.0, 0.0, 3.0, 2.0], [2.0, 0.0, 3.0, 1.0]])
    iou, generalised = giou(a, b)
    torch.testing.assert_close(iou, torch.tensor([1 / 3, 0.0]))
    torch.testing.assert_close(generalised, torch.tensor([1 / 3, -1 / 3]))
    assert BASE * STRIDES[0] == 32
