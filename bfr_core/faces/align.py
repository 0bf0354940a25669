"""Turning a face upright into the square the restorers were trained on, and the way back.

Convention: coordinates are continuous (see `types`); a matrix maps frame to crop; pixel (i, j) is sampled at its
centre (j + 0.5, i + 0.5). `grid_sample(align_corners=False)` has the same convention, so scaling needs no offset:
a crop pasted back unchanged lands exactly where it was cut, at every size.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from ..errors import InputMediaError
from ..media.scaling import enlarge_plane
from ..types import Face, FaceCrop

FFHQ_TEMPLATE = np.array(
    [
        [192.98138, 239.94708],
        [318.90277, 240.19360],
        [256.63416, 314.01935],
        [201.26117, 371.41043],
        [313.08905, 371.15118],
    ]
)
FFHQ_TEMPLATE.flags.writeable = False
"""Mean position of the five points in the FFHQ crop of 512 pixels, in the order of POINT_NAMES."""

_TEMPLATE_SIZE = 512

_MOST_TIMES = 8
"""A face is enlarged by Lanczos that many times at most; what is drawn out further has no detail to lose."""


def similarity(source: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Return the similarity that maps `source` points onto `target` points with the least squared error.

    Shapes: source, target (N, 2), N >= 2; returns (2, 3) float64 [[a, -b, tx], [b, a, ty]], never a reflection.
    Source: Umeyama, "Least-squares estimation of transformation parameters", 1991, in its closed form for the plane.

    Raises:
        InputMediaError: the source points coincide or are not finite, so no similarity exists.
    """
    source, target = np.asarray(source, np.float64), np.asarray(target, np.float64)
    if not (np.isfinite(source).all() and np.ptp(source, axis=0).max() > 1e-6):
        raise InputMediaError(
            "Cannot align a face",
            found=f"its points are {np.round(source, 2).tolist()}, expected finite points that differ",
            kept="The picture is unchanged",
            todo="Check the detector or the boxes that were given",
        )
    source_mean, target_mean = source.mean(0), target.mean(0)
    x, y = (source - source_mean).T
    u, v = (target - target_mean).T
    spread = float((x * x + y * y).sum())
    a = float((x * u + y * v).sum()) / spread
    b = float((x * v - y * u).sum()) / spread
    tx, ty = target_mean - np.array([a * source_mean[0] - b * source_mean[1], b * source_mean[0] + a * source_mean[1]])
    return np.array([[a, -b, tx], [b, a, ty]])


def invert(matrix: np.ndarray) -> np.ndarray:
    """Return the inverse of a (2, 3) affine matrix."""
    linear = np.linalg.inv(matrix[:, :2])
    return np.hstack([linear, -linear @ matrix[:, 2:]])


def transform(matrix: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Apply a (2, 3) matrix to (N, 2) points."""
    return points @ matrix[:, :2].T + matrix[:, 2]


def points_from_box(box: tuple[float, float, float, float]) -> np.ndarray:
    """Return where the five points of an upright face lie in `box`, (5, 2): the best guess where none were given.

    The proportions are the mean over 1,016 detected faces, made symmetric; across the box a point strays from them by
    5 % of its width (8 % the nose), so real points are better.
    """
    x0, y0, x1, y1 = box
    unit = np.array([[0.263, 0.388], [0.737, 0.388], [0.5, 0.597], [0.281, 0.728], [0.719, 0.728]])
    return unit * [x1 - x0, y1 - y0] + [x0, y0]


def align_face(frame: Tensor, face: Face, size: int = 512, *, frame_index: int = 0, enlarge: int = 1) -> FaceCrop:
    """Cut one face out of a frame, upright in the FFHQ template; see `sample` for `enlarge`.

    Shapes: frame (3, H, W) float32 [0, 1]; the crop is (3, size, size).

    Raises:
        InputMediaError: the face's points do not define a similarity.
    """
    matrix = similarity(face.points, FFHQ_TEMPLATE * (size / _TEMPLATE_SIZE))
    return FaceCrop(sample(frame, matrix, size, enlarge=enlarge), matrix, face, frame_index)


def align_faces(
    frame: Tensor, faces: Sequence[Face], size: int = 512, *, frame_index: int = 0, enlarge: int = 1
) -> list[FaceCrop]:
    """Cut every face out of a frame; see `align_face`."""
    return [align_face(frame, face, size, frame_index=frame_index, enlarge=enlarge) for face in faces]


def whole_crop(image: Tensor, size: int, *, enlarge: int = 1) -> FaceCrop:
    """Treat a whole picture as an aligned face, brought to `size` where it is not; see `sample` for `enlarge`.

    Shapes: image (3, S, S) float32 [0, 1].

    Raises:
        InputMediaError: the picture is not square.
    """
    height, width = image.shape[-2:]
    if height != width:
        raise InputMediaError(
            "Cannot treat this picture as an aligned face",
            found=f"it is {width} x {height} pixels, expected a square",
            kept="The picture is unchanged",
            todo="Leave --aligned out, so that faces are detected",
        )
    scale = size / width
    matrix = np.array([[scale, 0.0, 0.0], [0.0, scale, 0.0]])
    face = Face((0.0, 0.0, float(width), float(height)), FFHQ_TEMPLATE * (width / _TEMPLATE_SIZE), 1.0)
    return FaceCrop(sample(image, matrix, size, enlarge=enlarge), matrix, face)


def sample(frame: Tensor, matrix: np.ndarray, size: int, *, enlarge: int = 1, linear: bool = False) -> Tensor:
    """Sample a square crop from a frame through a similarity.

    A face smaller than the crop is enlarged by Lanczos first, at least `enlarge` times and until it has more pixels
    than the crop: drawn out linearly alone, it would lose of the little it has. A face larger than the crop is shrunk
    with an antialias first: sampling alone would skip pixels, which shows as jagged edges in a photo and as shimmer in
    a film. Beyond the frame its content is mirrored.

    Shapes: frame (C, H, W) float; returns (C, size, size).

    Args:
        frame: what is sampled.
        matrix: (2, 3), frame to crop.
        size: side of the crop in pixels.
        enlarge: times that a small face is enlarged by Lanczos at least.
        linear: draw a small face out linearly alone, for measures whose limits were found so.
    """
    height, width = frame.shape[-2:]
    corners = np.array([[0, 0], [size, 0], [0, size], [size, size]], np.float64)
    inverse = invert(matrix)
    reach = transform(inverse, corners)
    margin = 4.0 / min(math.hypot(matrix[0, 0], matrix[1, 0]), 1.0)
    x0, y0 = np.clip(np.floor(reach.min(0) - margin), 0, [width - 1, height - 1]).astype(int)
    x1, y1 = np.clip(np.ceil(reach.max(0) + margin), [x0 + 1, y0 + 1], [width, height]).astype(int)
    region = frame[None, :, y0:y1, x0:x1]
    # Shift to the region, then scale to the shrunken region: continuous coordinates need only these.
    to_region = inverse.copy()
    to_region[:, 2] -= [x0, y0]
    scale = math.hypot(matrix[0, 0], matrix[1, 0])
    if scale > 1 and not linear:
        times = max(min(math.ceil(scale), _MOST_TIMES), enlarge)
        planes = [enlarge_plane(plane, times, (0.0, 1.0)) for plane in region[0].cpu().numpy()]
        region, scale = torch.from_numpy(np.stack(planes))[None].to(frame), max(scale / times, 1.0)
        to_region *= times
    if scale < 1:
        rows, columns = region.shape[-2:]
        small = (max(round(rows * scale), 1), max(round(columns * scale), 1))
        region = F.interpolate(region, small, mode="bilinear", antialias=True, align_corners=False)
        to_region *= [[small[1] / columns], [small[0] / rows]]
    # "reflection" mirrors about the outer pixel edge and stays defined however far outside the frame a point is.
    grid = pixel_grid(to_region, (size, size), region.shape[-2:], frame.device)
    return F.grid_sample(region, grid, mode="bilinear", padding_mode="reflection", align_corners=False)[0]


def pixel_grid(
    matrix: np.ndarray,
    shape: tuple[int, int],
    source: Sequence[int],
    device: torch.device,
    *,
    origin: tuple[int, int] = (0, 0),
) -> Tensor:
    """Return the grid_sample grid that reads, for each pixel of the target, where `matrix` says it lies in the source.

    Args:
        matrix: (2, 3), target coordinates to source coordinates.
        shape: height and width of the target.
        source: height and width of the source.
        device: where the grid is made.
        origin: x and y of the target's top-left pixel in the coordinates that `matrix` takes.

    Returns:
        (1, h, w, 2) float32, normalised as grid_sample(align_corners=False) reads it.
    """
    norm = np.array([[2.0 / source[1]], [2.0 / source[0]]])
    linear, offset = matrix[:, :2] * norm, matrix[:, 2] * norm[:, 0] - 1.0
    # The origin and the half pixel are added in float64: at 8K coordinates float32 would cost 1/1000 px.
    offset = offset + linear @ (np.asarray(origin, np.float64) + 0.5)
    x = torch.arange(shape[1], dtype=torch.float32, device=device)
    y = torch.arange(shape[0], dtype=torch.float32, device=device)[:, None]
    grid = torch.empty(1, *shape, 2, device=device)
    for axis, (along_x, along_y) in enumerate(linear.tolist()):
        torch.add(along_x * x + float(offset[axis]), along_y * y, out=grid[0, ..., axis])
    return grid
