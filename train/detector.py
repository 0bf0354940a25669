r"""Train the search of the embedded face detector.

Assignment of cells to faces: SimOTA (YOLOX, arXiv:2107.08430, Sec. 2.1), restricted to grids of a fitting size.
Score: quality focal loss (arXiv:2006.04388, Eq. 2) whose target is the root of the IoU, so that faint small faces,
whose boxes are never exact, still score. Box: GIoU. Points: smooth L1 in units of the face's size.

    DATA="--scenes ../shared/data/scenes --faces ../shared/data/faces/*/train
          --yunet ../shared/data/weights/yunet_n_dynamic.onnx"
    python -m train.detector $DATA --out runs/first --minutes 31
    python -m train.detector $DATA --out runs/second --init runs/first/last.pt --size 192 --batch 12 --lr 1.5e-3 \
        --seed 1 --minutes 20

The times are for one core (AVX2). Running the same command again continues from the last checkpoint. Then follow
train.refiner and train.export_detector.
"""

from __future__ import annotations

import argparse
import copy
import math
import queue
import sys
import threading
import time
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from bfr_core.networks.face_detector import BASE, STRIDES, FaceDetectorNet, Predictions, cells

from .log import Log
from .scenes import SceneMixer, read_faces, read_scenes

_LEVEL_RANGE = ((0.0, 2.0), (0.8, 2.6), (0.9, 1e9))
"""Face sizes each grid may answer for, in units of BASE * stride."""
_TOP = 8
"""Most cells given to one face."""


def assign(
    predictions: Predictions, centres: Tensor, strides: Tensor, boxes: Tensor, kind: Tensor
) -> tuple[Tensor, Tensor]:
    """Give cells to faces.

    Shapes: centres (N, 2), strides (N,), boxes (B, M, 4), kind (B, M) as in `Training`.

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
    low = torch.tensor([low for low, _ in _LEVEL_RANGE])[_level(strides)]
    high = torch.tensor([high for _, high in _LEVEL_RANGE])[_level(strides)]
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
    chosen = (torch.arange(_TOP) < wanted[..., None]) & (lowest < 1e5)
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


def losses(predictions: Predictions, size: int, boxes: Tensor, points: Tensor, kind: Tensor) -> dict[str, Tensor]:
    """Return the three parts of the loss, weighted, for pictures of `size` pixels a side."""
    grids = [cells(size // stride, size // stride, stride, boxes) for stride in STRIDES]
    strides = torch.cat([torch.full((len(grid),), float(stride)) for grid, stride in zip(grids, STRIDES, strict=True)])
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
        "box": 1.5 * (1 - overlap).sum() / count,
        "points": 20
        * F.smooth_l1_loss(distance, torch.zeros_like(distance), beta=0.02, reduction="sum")
        / (10 * count),
    }


Batch = tuple[Tensor, Tensor, Tensor, Tensor]


class Feed:
    """Batches made ahead by one thread."""

    def __init__(self, mixer: SceneMixer, start: int, batch: int) -> None:
        self._queue: queue.Queue[Batch] = queue.Queue(4)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._work, args=(mixer, start, batch), daemon=True)
        self._thread.start()

    def _work(self, mixer: SceneMixer, start: int, batch: int) -> None:
        while not self._stop.is_set():
            items = [mixer[start + i] for i in range(batch)]
            start += batch
            images = torch.from_numpy(np.stack([item.image for item in items])).permute(0, 3, 1, 2).float() / 255
            rest = (
                torch.from_numpy(np.stack([getattr(item, name) for item in items]))
                for name in ("boxes", "points", "kind")
            )
            made = (images, *rest)
            while not self._stop.is_set():
                try:
                    self._queue.put(made, timeout=1)  # type: ignore[arg-type]
                    break
                except queue.Full:
                    continue

    def next(self) -> Batch:
        """Return the next batch: pictures (B, 3, S, S), boxes, points, kinds."""
        while True:
            try:
                return self._queue.get(timeout=5)
            except queue.Empty:
                if not self._thread.is_alive():
                    raise RuntimeError("The thread that makes training pictures died; its error is above") from None

    def close(self) -> None:
        """Stop the thread."""
        self._stop.set()
        self._thread.join()


class Run:
    """The state of a training run."""

    def __init__(self, out: Path) -> None:
        self.checkpoint = out / "last.pt"
        self.net = FaceDetectorNet(norm=True).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.ema = copy.deepcopy(self.net).requires_grad_(False).eval()
        self.optimiser = torch.optim.AdamW(self.net.parameters(), lr=0, weight_decay=5e-4)
        self.seen, self.spent = 0, 0.0

    def save(self) -> None:
        """Write the checkpoint whole or not at all."""
        state = {name: getattr(self, name).state_dict() for name in ("net", "ema", "optimiser")}
        temp = self.checkpoint.with_suffix(".part")
        torch.save({**state, "seen": self.seen, "spent": self.spent}, temp)
        temp.replace(self.checkpoint)

    def load(self) -> None:
        """Continue from the checkpoint."""
        state = torch.load(self.checkpoint, map_location="cpu", weights_only=True)
        for name in ("net", "ema", "optimiser"):
            getattr(self, name).load_state_dict(state[name])
        self.seen, self.spent = state["seen"], state["spent"]

    def start_from(self, checkpoint: Path) -> None:
        """Start with the averaged weights of another run."""
        state = torch.load(checkpoint, map_location="cpu", weights_only=True)["ema"]
        self.net.load_state_dict(state)
        self.ema.load_state_dict(state)

    def step(self, batch: Batch, lr: float) -> dict[str, float]:
        """Take one optimiser step and return its losses."""
        for group in self.optimiser.param_groups:
            group["lr"] = lr
        images, boxes, points, kind = batch
        said = self.net(images.contiguous(memory_format=torch.channels_last))
        parts = losses(said, images.shape[-1], boxes, points, kind)
        self.optimiser.zero_grad(set_to_none=True)
        sum(parts.values()).backward()  # type: ignore[union-attr]
        norm = torch.nn.utils.clip_grad_norm_(self.net.parameters(), 5.0)
        if not torch.isfinite(norm):
            raise FloatingPointError(f"The gradient is not finite at image {self.seen}; {self.checkpoint} is intact")
        self.optimiser.step()
        steps = self.seen / len(images)
        decay = min(0.997, (1 + steps) / (10 + steps))
        with torch.no_grad():
            for slow, fast in zip(self.ema.state_dict().values(), self.net.state_dict().values(), strict=True):
                if slow.is_floating_point():
                    slow.lerp_(fast, 1 - decay)
        self.seen += len(images)
        return {name: part.item() for name, part in parts.items()}


def main(argv: list[str] | None = None) -> int:
    """Run the command."""
    parser = argparse.ArgumentParser(prog="python -m train.detector", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--scenes", type=Path, required=True, help="folder of pictures with labels.json")
    parser.add_argument("--faces", type=Path, nargs="*", default=[], help="folders of aligned faces, labelled by YuNet")
    parser.add_argument("--yunet", type=Path, help="YuNet file, needed with --faces")
    parser.add_argument("--out", type=Path, required=True, help="folder of the checkpoint and the log")
    parser.add_argument("--images", type=int, default=60_000)
    parser.add_argument("--minutes", type=float, default=math.inf, help="end the schedule after so much training time")
    parser.add_argument("--init", type=Path, help="checkpoint whose averaged weights to start a new run from")
    parser.add_argument("--size", type=int, default=256, help="side of the training pictures")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--lr", type=float, default=2e-3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args(argv)

    torch.set_num_threads(args.threads)
    cv2.setNumThreads(1)
    torch.manual_seed(0)
    args.out.mkdir(parents=True, exist_ok=True)
    run = Run(args.out)
    if run.checkpoint.exists():
        run.load()
    elif args.init:
        run.start_from(args.init)
    scenes = read_scenes(args.scenes, held=False)
    if args.faces:
        scenes += read_faces(args.faces, args.yunet)
    write = Log(args.out).write

    write({"scenes": len(scenes), "resumed_at": run.seen})
    feed = Feed(SceneMixer(scenes, size=args.size, seed=args.seed), run.seen, args.batch)
    began, before, first = time.monotonic(), run.spent, run.seen
    saved, sums, count = began, {"score": 0.0, "box": 0.0, "points": 0.0}, 0
    try:
        while True:
            # The schedule follows images or the clock, whichever is further: a shared machine has no steady rate.
            done = max(run.seen / args.images, run.spent / 60 / args.minutes)
            warm = min(1.0, (run.seen + args.batch) / 3000)
            for name, value in run.step(
                feed.next(), args.lr * warm * max(0.5 * (1 + math.cos(math.pi * min(done, 1))), 0.005)
            ).items():
                sums[name] += value
            count += 1
            now = time.monotonic()
            run.spent = before + now - began
            if now - saved > 60 or done >= 1:
                run.save()
                rate = (run.seen - first) / (now - began)
                write(
                    {
                        "seen": run.seen,
                        "done": round(done, 3),
                        "rate": round(rate, 1),
                        **{k: round(v / count, 4) for k, v in sums.items()},
                    }
                )
                saved, sums, count = now, dict.fromkeys(sums, 0.0), 0
            if done >= 1:
                return 0
    finally:
        feed.close()


if __name__ == "__main__":
    sys.exit(main())
