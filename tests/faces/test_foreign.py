"""Faces as other tools describe them."""

from __future__ import annotations

import numpy as np
import pytest

from bfr_core.errors import InputMediaError
from bfr_core.faces.align import FFHQ_TEMPLATE
from bfr_core.faces.foreign import MESH_POINTS, box_of_points, points_of_mesh, region_around

MEAN = {
    33: (170.7, 246.6), 133: (223.3, 249.3), 159: (192.3, 237.8), 145: (196.0, 252.9), 263: (344.3, 243.9),
    362: (291.3, 248.6), 386: (322.3, 235.7), 374: (318.9, 251.1), 1: (257.2, 324.7), 4: (257.1, 311.7),
    61: (200.8, 369.2), 291: (317.2, 367.5),
}  # fmt: skip
"""Where MediaPipe 0.10.14 found these vertices in crops of the FFHQ template of 512 px, the mean over 105 faces."""


def mesh(points: int = 478) -> np.ndarray:
    made = np.random.default_rng(0).uniform(100, 400, (points, 3))
    for vertex, place in MEAN.items():
        made[vertex, :2] = place
    return made


@pytest.mark.parametrize("points", [468, 478])
def test_points_of_the_mesh_are_those_of_the_template(points: int) -> None:
    assert {vertex for vertices in MESH_POINTS for vertex in vertices} == set(MEAN)
    found = points_of_mesh(mesh(points))
    assert found.shape == (5, 2) and found.dtype == np.float64
    assert np.abs(found - FFHQ_TEMPLATE).max() < 7, "of an eye distance of 126"
    assert np.abs(points_of_mesh(mesh(points)[:, :2]) - found).max() == 0


@pytest.mark.parametrize("wrong", [np.zeros((68, 2)), np.zeros(478), np.zeros((478, 1)), np.full((478, 2), np.nan)])
def test_what_is_no_mesh_is_refused(wrong: np.ndarray) -> None:
    with pytest.raises(InputMediaError) as caught:
        points_of_mesh(wrong)
    assert "468" in caught.value.found


def test_boxes_and_regions() -> None:
    assert box_of_points(np.array([[3.0, 9.0, 1], [5, 2, 1]])) == (3, 2, 5, 9)
    assert region_around((40, 40, 60, 80), (200, 300)) == (20, 0, 80, 120)
    assert region_around((40, 40, 60, 80), (200, 300), 1) == (40, 40, 60, 80)
    assert region_around((-10, -10, 20, 20), (200, 300)) == (0, 0, 50, 50)
    for box in ((290.0, 190.0, 400.0, 300.0), (400.0, 400.0, 500.0, 500.0), (-50.0, -50.0, -10.0, -10.0)):
        left, top, right, bottom = region_around(box, (200, 300))
        assert 0 <= left < right <= 300 and 0 <= top < bottom <= 200
