"""How well a recogniser tells the same person from others: figures over pairs, as face verification reports them."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from ..faces.identity import FaceRecognizer, embed


def roc_area(same: np.ndarray, other: np.ndarray) -> float:
    """Return the share of (same, other) pairs of pairs in which the same person is the more alike; ties count half.

    Shapes: same (N,), other (M,): similarities. The area under the ROC curve (Mann and Whitney's U over N M).
    """
    ordered = np.sort(other)
    below = np.searchsorted(ordered, same, side="left")
    not_above = np.searchsorted(ordered, same, side="right")
    return float((below + not_above).sum() / 2 / (len(same) * len(other)))


def accepted_at(same: np.ndarray, other: np.ndarray, false_share: float) -> tuple[float, float]:
    """Return the true accept rate where at most `false_share` of the others are accepted, and the threshold.

    A pair is accepted above the threshold, which is the similarity of an other pair.
    """
    wrong = int(false_share * len(other))
    threshold = float(np.sort(other)[::-1][wrong])
    return float((same > threshold).mean()), threshold


@torch.no_grad()
def embeddings(recogniser: FaceRecognizer, faces: Tensor, batch: int = 16) -> Tensor:
    """Return the embeddings (B, D) of aligned faces (B, 3, S, S), in [0, 1] or of 8 bit, some at a time."""
    scale = 1.0 if faces.is_floating_point() else 255.0
    return torch.cat([embed(recogniser, part.float() / scale) for part in faces.split(batch)])


def verification(clean: Tensor, views: Tensor) -> dict[str, float]:
    """Return the figures of people (N, D) against views of the same N people in the same order, (N, D).

    The view of each person is compared with the clean picture of every person: N pairs of the same one, N (N - 1) of
    two. `tar` is the true accept rate at a false accept rate of 1 %.
    """
    cosines = (views @ clean.T).double().cpu().numpy()
    same = np.diagonal(cosines)
    other = cosines[~np.eye(len(cosines), dtype=bool)]
    tar, threshold = accepted_at(same, other, 0.01)
    return {
        "auc": roc_area(same, other),
        "tar_at_far_1e-2": tar,
        "threshold": threshold,
        "same_mean": float(same.mean()),
        "other_mean": float(other.mean()),
    }


def agreement(ours: Tensor, theirs: Tensor) -> dict[str, float]:
    """Return how two recognisers agree on the same N faces, (N, D) each and D not necessarily the same.

    `correlation`: of the cosines of all pairs (Pearson). `cosine`: mean of embedding with embedding, where D is the
    same.
    """
    upper = np.triu_indices(len(ours), 1)
    cosines = [(e @ e.T).double().cpu().numpy()[upper] for e in (ours, theirs)]
    figures = {"correlation": float(np.corrcoef(*cosines)[0, 1])}
    if ours.shape[1] == theirs.shape[1]:
        figures["cosine"] = float((ours * theirs).sum(1).mean())
    return figures
