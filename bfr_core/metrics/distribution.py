"""Distribution: how alike two sets of faces are as sets, from Inception features that a person gives."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ..errors import InputMediaError, WeightsError
from ..models.checkpoints.arrays import load_arrays

_FEATURE_NAMES = ("", "features", "activations", "pool3", "arr_0")
_STATISTIC_NAMES = (("mu", "sigma"), ("mean", "cov"), ("mean", "covariance"))
_FEATURES_TODO = "Give the pool3 features of Inception v3 (pytorch-fid's pt_inception-2015-12-05), one row a picture"
_STATISTICS_TODO = (
    "Give inception_FFHQ_512.pth (linked in the README of github.com/TencentARC/VQFR), or an .npz made with "
    "numpy.savez(file, mu=mean, sigma=covariance)"
)
_NEWTON_STEPS = 100
_NUMERIC = "buif"
"""NumPy's kinds of real numbers."""


def load_features(path: Path) -> np.ndarray:
    """Return the features in a file, (N, D) float64: `.npy`, `.npz`, `.safetensors`, `.pth` or `.pt`.

    Raises:
        WeightsError: it cannot be read, holds no or several matrices, or values that are not finite.
    """
    arrays = load_arrays(path)
    matrices = {name: array for name, array in arrays.items() if array.ndim == 2 and array.dtype.kind in _NUMERIC}
    named = [name for name in _FEATURE_NAMES if name in matrices] or (list(matrices) if len(matrices) == 1 else [])
    if not named:
        raise WeightsError(
            f"Cannot find the features in {path}",
            found=f"found {_outline(arrays)}; expected one matrix of a row per picture, named features if others are",
            kept="Nothing was loaded and the file is unchanged",
            todo=_FEATURES_TODO,
        )
    return _finite(path, matrices[named[0]], _FEATURES_TODO)


def load_statistics(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Return the mean (D,) and the covariance (D, D) of a reference set, float64.

    Reads `.npz` with mu and sigma (pytorch-fid) and the published `inception_FFHQ_512.pth` with mean and cov.

    Raises:
        WeightsError: it cannot be read, holds no such pair, or values that are not finite.
    """
    arrays = load_arrays(path)
    numbers = {name: array for name, array in arrays.items() if array.dtype.kind in _NUMERIC}
    pairs = [(numbers[a], numbers[b]) for a, b in _STATISTIC_NAMES if a in numbers and b in numbers]
    if not pairs or pairs[0][1].shape != (pairs[0][0].size,) * 2:
        raise WeightsError(
            f"Cannot find statistics in {path}",
            found=f"found {_outline(arrays)}; expected mean (D,) and cov (D, D), or mu and sigma",
            kept="Nothing was loaded and the file is unchanged",
            todo=_STATISTICS_TODO,
        )
    mean, covariance = (_finite(path, array, _STATISTICS_TODO) for array in pairs[0])
    return mean.ravel(), covariance


def statistics(features: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the mean (D,) and the sample covariance (D, D) of features (N, D).

    Raises:
        InputMediaError: there are fewer than two rows.
    """
    if features.ndim != 2 or len(features) < 2:
        raise InputMediaError(
            "Cannot take the statistics of features",
            found=f"found shape {features.shape}; expected at least two rows",
            kept="Nothing was computed",
            todo="Give the features of more pictures (the papers use 3,000)",
        )
    features = features.astype(np.float64)
    return features.mean(0), np.atleast_2d(np.cov(features, rowvar=False))


def frechet_distance(mean_a: np.ndarray, cov_a: np.ndarray, mean_b: np.ndarray, cov_b: np.ndarray) -> float:
    """Return |m_a - m_b|^2 + tr(C_a + C_b - 2 (C_a C_b)^(1/2)), the squared 2-Wasserstein distance of two Gaussians.

    The trace of the root is the sum of the roots of the eigenvalues of C_a^(1/2) C_b C_a^(1/2), which has those of
    the product and is symmetric: real and stable for covariances of low rank too, where the papers' scripts add a
    small multiple of the identity.

    Source: Heusel et al., arXiv:1706.08500, Eq. 6.

    Raises:
        InputMediaError: the two differ in dimension.
    """
    if mean_a.shape != mean_b.shape or cov_a.shape != cov_b.shape:
        raise InputMediaError(
            "Cannot compare two distributions",
            found=f"features of {mean_a.size} and {mean_b.size} dimensions; expected the same network for both",
            kept="Nothing was computed",
            todo=_FEATURES_TODO,
        )
    values, vectors = np.linalg.eigh(cov_a)
    root = (vectors * np.sqrt(values.clip(min=0))) @ vectors.T
    product = root @ cov_b @ root
    trace_of_root = np.sqrt(np.linalg.eigvalsh((product + product.T) / 2).clip(min=0)).sum()
    distance = np.square(mean_a - mean_b).sum() + np.trace(cov_a) + np.trace(cov_b) - 2 * trace_of_root
    return max(float(distance), 0.0)  # rounding can leave two equal sets just below


def fid(features: np.ndarray, reference: tuple[np.ndarray, np.ndarray]) -> float:
    """Return the Fréchet distance of features (N, D) to a reference of mean and covariance; lower is more alike.

    The papers' FID takes the statistics of FFHQ at 512 px as the reference, FID-dagger (VSPBFR) those of the paired
    truth. It depends on N: compare figures of one number of pictures only.
    """
    return frechet_distance(*statistics(features), *reference)


def paired_unpaired_ids(real: np.ndarray, fake: np.ndarray) -> tuple[float, float]:
    """Return the paired and the unpaired inception discriminative score, in [0, 1]; higher is harder to tell apart.

    A linear support vector machine learns to tell real from fake features and is asked about the same features.
    P-IDS is the share of fakes it holds for more real than their own truth, U-IDS the share it mistakes.

    Shapes: real, fake (N, D), row for row the same face.
    Source: Zhao et al., "Co-Modulated GANs", arXiv:2103.10428, Sec. 4, and its script
    (metrics/inception_discriminative_score: scikit-learn's LinearSVC(dual=False)).

    Raises:
        InputMediaError: the two differ in shape or are empty.
    """
    if real.shape != fake.shape or real.ndim != 2 or not len(real):
        raise InputMediaError(
            "Cannot compute P-IDS and U-IDS",
            found=f"found shapes {real.shape} and {fake.shape}; expected the same (N, D) twice, row for row a pair",
            kept="Nothing was computed",
            todo="Give the features of the restored faces and of their truths in the same order",
        )
    samples = np.concatenate([real, fake]).astype(np.float64)
    sides = np.repeat([1.0, -1.0], len(real))
    weights, bias = linear_svm(samples, sides)
    real_scores, fake_scores = np.split(samples @ weights + bias, 2)
    mistaken = (real_scores <= 0).sum() + (fake_scores > 0).sum()
    return float((fake_scores > real_scores).mean()), float(mistaken / len(samples))


def linear_svm(samples: np.ndarray, sides: np.ndarray, cost: float = 1.0) -> tuple[np.ndarray, float]:
    """Fit a linear support vector machine: minimise |w|^2 / 2 + cost * sum max(0, 1 - y (w x + b))^2, b^2 / 2 included.

    The bias is the weight of a constant feature and so is drawn to zero with the others, as LinearSVC does. Solved
    by Newton's method, which ends exactly once the set of samples inside the margin no longer changes.

    Shapes: samples (N, D), sides (N,) of -1 and 1; returns weights (D,) and the bias.
    Source: Keerthi and DeCoste, "A modified finite Newton method for fast solution of large scale linear SVMs", 2005.
    """
    rows = np.concatenate([samples, np.ones((len(samples), 1))], 1)
    basis = None
    if len(rows) < rows.shape[1]:
        # The solution is a mix of the samples: in a basis of their span it has N numbers in place of D.
        basis, coordinates = np.linalg.qr(rows.T)
        rows = coordinates.T
    weights = np.zeros(rows.shape[1])
    inside = sides * (rows @ weights) < 1
    for _ in range(_NEWTON_STEPS):
        active = rows[inside]
        hessian = np.eye(len(weights)) + 2 * cost * active.T @ active
        step = np.linalg.solve(hessian, 2 * cost * active.T @ sides[inside]) - weights
        length = _line_search(weights, step, rows, sides, cost)
        weights = weights + length * step
        before, inside = inside, sides * (rows @ weights) < 1
        settled = length == 1 and np.array_equal(inside, before)
        if settled or np.linalg.norm(step) <= 1e-10 * np.linalg.norm(weights):
            break
    else:
        raise InputMediaError(
            "Cannot tell real from fake features",
            found=f"the support vector machine did not settle in {_NEWTON_STEPS} steps; expected about ten",
            kept="Nothing was computed",
            todo="Look for features that are far larger than the others",
        )
    weights = weights if basis is None else basis @ weights
    return weights[:-1], float(weights[-1])


def _line_search(weights: np.ndarray, step: np.ndarray, rows: np.ndarray, sides: np.ndarray, cost: float) -> float:
    """Return the length along `step` that minimises the cost: its slope rises, and is linear between kinks."""
    margin, change = sides * (rows @ weights), sides * (rows @ step)

    def slope(length: float) -> float:
        slack = np.maximum(0, 1 - margin - length * change)
        return float((weights + length * step) @ step - 2 * cost * slack @ change)

    if abs(slope(1.0)) <= 1e-12 * abs(slope(0.0)):
        return 1.0
    low, high = 0.0, 1.0
    while slope(high) < 0:
        low, high = high, 2 * high
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if slope(middle) < 0 else (low, middle)
    return (low + high) / 2


def _finite(path: Path, array: np.ndarray, todo: str) -> np.ndarray:
    array = array.astype(np.float64)
    if bad := int((~np.isfinite(array)).sum()):
        raise WeightsError(
            f"Will not use {path}",
            found=f"{bad} of {array.size} values are NaN or infinite; expected finite numbers",
            kept="Nothing was loaded and the file is unchanged",
            todo=todo,
        )
    return array


def _outline(arrays: dict[str, np.ndarray]) -> str:
    return ", ".join(f"{name or 'one array'} {array.shape}" for name, array in list(arrays.items())[:6])
