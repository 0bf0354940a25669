"""Landmarks: whether the features of the restored face are where the truth has them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from ..errors import InputMediaError, SettingsError

EYE_POINTS = {5: (0, 1), 68: (36, 45), 98: (60, 72)}
"""Which points span the inter-ocular distance: the eyes of 5 points, the outer corners of 68 (300-W) and 98 (WFLW)."""
Normaliser = Literal["interocular", "bbox"]


def lmd(points: Any, truth: Any, scale: float = 1.0) -> Tensor:
    """Return the landmark distance of each face: the mean distance between its points and the true ones.

    Shapes: points, truth (N, K, 2) arrays or tensors; returns (N,) float64.
    Units: pixels of the original picture; `scale` is original pixels per unit of the points.
    Source: VQFR (metric_paper/calculate_landmark_distance): 98 points of a FAN that sees the picture at 256 px.

    Raises:
        InputMediaError: the two differ in shape or are not finite.
    """
    return _distances(points, truth).mean(1) * scale


def nme(points: Any, truth: Any, normaliser: Normaliser = "interocular") -> Tensor:
    """Return the normalised mean error of each face: its landmark distance divided by the size of the true face.

    Inter-ocular is the usual size of 300-W and WFLW, between `EYE_POINTS`; bbox is the square root of the area of
    the tightest box around the true points, as face_alignment measures. VSPBFR states neither.

    Shapes: points, truth (N, K, 2); returns (N,) float64, a ratio (0.05 is 5 %).

    Raises:
        InputMediaError: the two differ in shape, are not finite, or a true face has no size.
        SettingsError: the normaliser is unknown, or inter-ocular is asked of points without known eyes.
    """
    if normaliser not in ("interocular", "bbox"):
        raise SettingsError(
            f"There is no normaliser {normaliser!r}",
            found=f"{normaliser!r}; expected interocular or bbox",
            kept="Nothing was computed",
            todo="Choose one of the two",
        )
    distances = _distances(points, truth)
    true = _tensor(truth)
    if normaliser == "bbox":
        size = (true.amax(1) - true.amin(1)).prod(1).sqrt()
    elif true.shape[1] in EYE_POINTS:
        first, second = EYE_POINTS[true.shape[1]]
        size = (true[:, first] - true[:, second]).norm(dim=1)
    else:
        raise SettingsError(
            "Cannot normalise by the inter-ocular distance",
            found=f"faces have {true.shape[1]} points; the eyes are known for {', '.join(map(str, EYE_POINTS))}",
            kept="Nothing was computed",
            todo="Choose bbox, or give points of a known layout",
        )
    if bool((size <= 0).any()):
        raise InputMediaError(
            "Cannot normalise a landmark error",
            found=f"{int((size <= 0).sum())} true faces have a size of zero; expected eyes or a box apart",
            kept="Nothing was computed",
            todo="Look at the true points of these faces",
        )
    return distances.mean(1) / size


def detection_success_rate(found: Sequence[bool | None]) -> float:
    """Return the share of faces that a detector finds in the restored picture, among those it finds in the truth.

    Args:
        found: per face, whether the restored one was found; None where the truth has no detection, which does not
            count.

    Returns:
        A share in [0, 1]; NaN where no truth has a detection.

    Source: VSPBFR, Sec. 4 (DSR), whose truth is likewise what is detected on the true pictures.
    """
    counted = [bool(hit) for hit in found if hit is not None]
    return sum(counted) / len(counted) if counted else float("nan")


def _tensor(points: Any) -> Tensor:
    return torch.as_tensor(points).detach().cpu().double()


def _distances(points: Any, truth: Any) -> Tensor:
    first, second = _tensor(points), _tensor(truth)
    right = first.shape == second.shape and first.ndim == 3 and first.shape[-1] == 2
    if not right or not bool(first.isfinite().all() and second.isfinite().all()):
        raise InputMediaError(
            "Cannot compare landmarks",
            found=f"found shapes {tuple(first.shape)} and {tuple(second.shape)}"
            f"{' with values that are not finite' if right else ''}; expected the same (N, K, 2) twice, finite",
            kept="Nothing was computed",
            todo="Give as many points for each face as for its truth",
        )
    return (first - second).norm(dim=2)
