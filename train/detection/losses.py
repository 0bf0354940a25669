"""What the search and the second look are taught by.

Search. Assignment of cells to faces: SimOTA (YOLOX, arXiv:2107.08430, Sec. 2.1), restricted to grids of a fitting
size. Score: quality focal loss (arXiv:2006.04388, Eq. 2) whose target is the root of the IoU, so that faint small
faces, whose boxes are never exact, still score. Box: GIoU (arXiv:1902.09630). Points: smooth L1 in units of the
face's size.

Means are over the cells given to faces, or over the crops that show one, and not over pictures: with gradient
accumulation each part of a batch weighs the same, however many faces it has.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from bfr_core.networks.face_detector import BASE, STRIDES, Predictions, cells

_LEVEL_RANGE = ((0.0, 2.0), (0.8, 2.6), (0.9, 1e9))
"""Face sizes each grid may answer for, in units of BASE * stride."""
_TOP = 8
"""Most cells given to one face."""


def assign(
    predictions: Predictions, centres: Tensor, strides: Tensor, boxes: Tensor, kind: Tensor
) -> tuple[Tensor, Tensor]:
    """Give cells to faces.

    Shapes: centres (N, 2), strides (N,), boxes (B, M, 4), kind (B, M) as `SceneMixer` makes them.

    Returns:
        For every cell its face, (B, N), -1 for none; and which cells are to be left out of the score loss, (B, N).
    """
    face, ignored = kind == 1, kind == 2
    size = ((boxes[..., 2] - boxes[..., 0]) * (boxes[..., 3] - boxes[..., 1])).clamp(min=1).sqrt()
    middle = (boxes[..., :2] + boxes[..., 2:]) / 2
    offset = (centres - middle[:, :, None]).abs().amax(-1)
    inside = (
        (centres[:, 0] > boxes[..., :1]) & (centres[:, 0] < boxes[..., 2:3])
        & (centres[:, 1] > boxes[..., 1:2]) & (centres[:, 1] < boxes[..., 3:4])
    )  # fmt: skip
    low, high = strides.new_tensor(_LEVEL_RANGE)[_level(strides)].unbind(1)
    units = size[:, :, None] / (BASE * strides)
    # The middle of a face that the frame cuts may lie outside; any cell inside it will do then.
    reach = torch.maximum(1.0 * strides, 0.3 * size[:, :, None])
    candidate = (offset < reach) & (units >= low) & (units < high) & face[:, :, None]
    shared = pairwise_iou(boxes, predictions.boxes)
    score = predictions.logits.sigmoid()[:, None]
    cost = -(score.clamp(min=1e-4).log()) * 0.5 - 3 * shared.clamp(min=1e-4).log() + 0.5 * offset / strides
    cost = torch.where(candidate, cost, torch.full_like(cost, 1e6))
    quality = torch.where(candidate, shared, torch.zeros_like(shared))
    wanted = quality.topk(_TOP, -1).values.sum(-1).int().clamp(1, _TOP)
    lowest, cell = cost.topk(_TOP, -1, largest=False)
    chosen = (torch.arange(_TOP, device=cost.device) < wanted[..., None]) & (lowest < 1e5)
    taken = torch.full_like(cost, 1e6).scatter(-1, cell, torch.where(chosen, lowest, torch.full_like(lowest, 1e6)))
    best, index = taken.min(1)
    index = torch.where(best < 1e5, index, torch.full_like(index, -1))
    # Cells deep inside a face that are not chosen may guess as they like at the wrong grid; ignored faces likewise.
    loose = (inside & ignored[:, :, None]).any(1)
    return index, loose & (index < 0)


def _level(strides: Tensor) -> Tensor:
    return (strides / STRIDES[0]).log2().round().long()


def pairwise_iou(a: Tensor, b: Tensor) -> Tensor:
    """Return the IoU of every box of a (B, M, 4) with every box of b (B, N, 4), (B, M, N)."""
    low = torch.maximum(a[:, :, None, :2], b[:, None, :, :2])
    high = torch.minimum(a[:, :, None, 2:], b[:, None, :, 2:])
    shared = (high - low).clamp(min=0).prod(-1)
    area_a, area_b = ((x[..., 2:] - x[..., :2]).clamp(min=0).prod(-1) for x in (a, b))
    return shared / (area_a[:, :, None] + area_b[:, None] - shared).clamp(min=1e-6)


def giou(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Return IoU and generalised IoU of boxes (K, 4) one by one."""
    shared = (torch.minimum(a[:, 2:], b[:, 2:]) - torch.maximum(a[:, :2], b[:, :2])).clamp(min=0).prod(-1)
    union = (a[:, 2:] - a[:, :2]).prod(-1) + (b[:, 2:] - b[:, :2]).prod(-1) - shared
    hull = (torch.maximum(a[:, 2:], b[:, 2:]) - torch.minimum(a[:, :2], b[:, :2])).prod(-1)
    iou = shared / union.clamp(min=1e-6)
    return iou, iou - (hull - union) / hull.clamp(min=1e-6)


def search_losses(
    predictions: Predictions, size: int, boxes: Tensor, points: Tensor, kind: Tensor
) -> dict[str, Tensor]:
    """Return `score`, `box` and `points` for pictures of `size` pixels a side, labelled as `SceneMixer` makes them."""
    predictions = in_float32(predictions)
    grids = [cells(size // stride, size // stride, stride, boxes) for stride in STRIDES]
    strides = torch.cat([grid.new_full((len(grid),), stride) for grid, stride in zip(grids, STRIDES, strict=True)])
    with torch.no_grad():
        index, loose = assign(predictions, torch.cat(grids), strides, boxes, kind)
    row, cell = torch.nonzero(index >= 0, as_tuple=True)
    which = index[row, cell]
    # At least as if every picture had three cells, so that a batch of negatives takes no giant step.
    truth, count = boxes[row, which], max(len(row), 3 * len(boxes))
    iou, overlap = giou(predictions.boxes[row, cell], truth)
    target = torch.zeros_like(predictions.logits)
    target[row, cell] = iou.detach().clamp(0.05, 1).sqrt()
    plain = F.binary_cross_entropy_with_logits(predictions.logits, target, reduction="none")
    focus = (target - predictions.logits.sigmoid()).abs().square()
    unit = (truth[:, 2:] - truth[:, :2]).prod(-1).sqrt()
    distance = (predictions.points[row, cell] - points[row, which]) / unit[:, None, None]
    return {
        "score": (plain * focus * ~loose).sum() / count,
        "box": (1 - overlap).sum() / count,
        "points": F.smooth_l1_loss(distance, torch.zeros_like(distance), beta=0.02, reduction="sum") / (10 * count),
    }


def refiner_losses(
    predictions: Predictions, *, judged: Tensor, face: Tensor, boxes: Tensor, points: Tensor
) -> dict[str, Tensor]:
    """Return `score`, `box` and `points` for crops.

    Shapes: judged (N,) bool, crops whose score counts; face (N,) bool, crops whose box (N, 4) and points (N, 5, 2), in
    units of the crop, count.
    """
    predictions = in_float32(predictions)
    # Label smoothing (arXiv:1512.00567, Sec. 7).
    wanted = face.float() * 0.98 + 0.01
    score = F.binary_cross_entropy_with_logits(predictions.logits[judged], wanted[judged], reduction="sum")
    box = (1 - giou(predictions.boxes[face], boxes[face])[1]).sum()
    distance = F.smooth_l1_loss(predictions.points[face], points[face], beta=0.01, reduction="sum")
    faces = face.sum().clamp(min=1)
    return {"score": score / judged.sum().clamp(min=1), "box": box / faces, "points": distance / (10 * faces)}


def in_float32(predictions: Predictions) -> Predictions:
    """Return predictions as float32, whatever the network computed in."""
    return Predictions(predictions.logits.float(), predictions.boxes.float(), predictions.points.float())
