"""Faces as other tools describe them: the mesh of MediaPipe, and regions around boxes."""

from __future__ import annotations

import numpy as np

from ..errors import InputMediaError

MESH_POINTS: tuple[tuple[int, ...], ...] = ((33, 133, 159, 145), (263, 362, 386, 374), (1, 4), (61,), (291,))
"""Vertices of MediaPipe's face mesh whose means are our five points: corners and lids of each eye, two at the tip of
the nose, and the corners of the mouth. Left and right are the viewer's. Over 105 faces they lie where the embedded
detector has its points, to 1 to 3 % of the distance of the eyes."""

_MESH = 468
"""Vertices without the irises, which newer models add."""


def points_of_mesh(mesh: np.ndarray) -> np.ndarray:
    """Return the five points of a face mesh, (5, 2) float64.

    Args:
        mesh: (468 or more, 2 or more), in pixels.

    Raises:
        InputMediaError: another shape, or numbers that are not finite.
    """
    found = ""
    if mesh.ndim != 2 or mesh.shape[0] < _MESH or mesh.shape[1] < 2:
        found = f"found shape {mesh.shape}"
    elif not np.isfinite(mesh[:, :2]).all():
        found = "found NaN or infinity"
    if found:
        raise InputMediaError(
            "Cannot read these face landmarks",
            found=f"{found}; expected the {_MESH} or 478 points of MediaPipe's face mesh, x and y in pixels",
            kept="The image is unchanged",
            todo="Connect the landmarks of a MediaPipe face node",
        )
    return np.stack([mesh[list(vertices), :2].mean(0) for vertices in MESH_POINTS]).astype(np.float64)


def box_of_points(points: np.ndarray) -> tuple[float, float, float, float]:
    """Return the box around points, (n, 2): x0, y0, x1, y1."""
    (x0, y0), (x1, y1) = points[:, :2].min(0).tolist(), points[:, :2].max(0).tolist()
    return x0, y0, x1, y1


def region_around(
    box: tuple[float, float, float, float], shape: tuple[int, int], factor: float = 3.0
) -> tuple[int, int, int, int]:
    """Return the region of a picture around a box, x0, y0, x1, y1 in whole pixels within the picture.

    Args:
        box: in pixels.
        shape: height and width of the picture.
        factor: how many times as long as the box's each side is, as far as the picture goes.
    """
    x0, y0, x1, y1 = box
    width, height = (x1 - x0) * factor / 2, (y1 - y0) * factor / 2
    x, y = (x0 + x1) / 2, (y0 + y1) / 2
    left, top = (int(min(max(low, 0), size - 1)) for low, size in ((x - width, shape[1]), (y - height, shape[0])))
    right, bottom = (
        int(min(max(np.ceil(high), low + 1), size))
        for high, low, size in ((x + width, left, shape[1]), (y + height, top, shape[0]))
    )
    return left, top, right, bottom
