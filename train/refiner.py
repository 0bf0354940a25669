"""Train the detector's second look on what its search names.

First the search goes over training pictures: what it names and is a face gives crops with box and points, what it
names and is none gives the false alarms to learn from. Then the small network learns from those crops.

    python -m train.refiner $DATA --search runs/second/last.pt --out runs/refiner --pictures 6000 --minutes 10

The weights we ship came from two such runs, the second (`--init`, points weighted 40 instead of 25) from the first.
$DATA is as in train.detector. One core (AVX2): 6 minutes for the crops, then the minutes given. The crops are
made anew by each run; training is short enough not to be resumed.
"""

from __future__ import annotations

import argparse
import copy
import json
import math
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from bfr_core.faces.backends.embedded import EmbeddedDetector, crop_square
from bfr_core.faces.passes import overlap
from bfr_core.networks.face_detector import FaceCascade, FaceDetectorNet, FaceRefinerNet, fold
from bfr_core.types import Face

from .detector import giou
from .scenes import POINTS_FLIPPED, SceneMixer, Training, read_faces, read_scenes

STORED = 96
"""Side of the stored crops; they show half as much again as the network sees, for shifting and scaling."""
SPREAD = STORED / FaceRefinerNet.SIZE


@dataclass(slots=True)
class Crops:
    """Crops of candidates, N in all."""

    images: np.ndarray
    """(N, STORED, STORED, 3) uint8."""
    logits: np.ndarray
    """(N,) of the search; NaN where the box was drawn at random and not found."""
    face: np.ndarray
    """(N,) bool."""
    boxes: np.ndarray
    """(N, 4) in units of the stored crop."""
    points: np.ndarray
    """(N, 5, 2)."""


class Searcher(EmbeddedDetector):
    """The search alone."""

    def __init__(self, net: FaceDetectorNet) -> None:
        self.net = FaceCascade()
        self.net.search.load_state_dict(fold(net))
        self.net.eval().requires_grad_(False)
        self.to_device("cpu")


def collect(searcher: Searcher, mixers: list[SceneMixer], pictures: int) -> Crops:
    """Search training pictures and keep what is named."""
    rows: list[tuple[np.ndarray, float, bool, np.ndarray, np.ndarray]] = []
    rng = np.random.Generator(np.random.PCG64(5))
    for index in range(pictures):
        made = mixers[index % len(mixers)][index]
        frame = torch.from_numpy(made.image).permute(2, 0, 1)[None].float() / 255
        for face in searcher.search(frame)[0]:
            which = _match(face, made)
            if which == -2:
                continue
            logit = math.log(face.score / (1 - min(face.score, 0.99)))
            rows.append(_cut(made, face, which, logit))
        for which in np.flatnonzero(made.kind == 1):
            # Faces as a search that errs otherwise would frame them; they teach the points, not the score.
            x0, y0, x1, y1 = made.boxes[which].astype(float)
            size = math.sqrt((x1 - x0) * (y1 - y0))
            dx, dy = rng.normal(0, 0.07, 2) * size
            grow = math.exp(rng.normal(0, 0.12))
            cx, cy, w, h = (x0 + x1) / 2 + dx, (y0 + y1) / 2 + dy, (x1 - x0) * grow / 2, (y1 - y0) * grow / 2
            framed = Face((cx - w, cy - h, cx + w, cy + h), made.points[which], 1.0)
            rows.append(_cut(made, framed, int(which), math.nan))
    images, logits, face, boxes, points = (np.stack(column) for column in zip(*rows, strict=True))
    return Crops(images, logits.astype(np.float32), face, boxes.astype(np.float32), points.astype(np.float32))


def _match(face: Face, made: Training) -> int:
    """Return which labelled face this is, -1 for none, -2 where that cannot be said."""
    iou, within = overlap(np.array(face.box), made.boxes.astype(np.float64))
    known = made.kind > 0
    if not known.any():
        return -1
    best = int(np.argmax(np.where(known, iou, -1)))
    if iou[best] > 0.4:
        return best if made.kind[best] == 1 else -2
    return -1 if float((iou * known).max()) < 0.15 and float((within * known).max()) < 0.5 else -2


def _cut(
    made: Training, face: Face, which: int, logit: float
) -> tuple[np.ndarray, float, bool, np.ndarray, np.ndarray]:
    left, top, side = crop_square(face, FaceRefinerNet.MARGIN * SPREAD)
    size = made.image.shape[0]
    pads = (max(-top, 0), max(top + side - size, 0), max(-left, 0), max(left + side - size, 0))
    inside = made.image[max(top, 0) : max(top + side, 0), max(left, 0) : max(left + side, 0)]
    padded = cv2.copyMakeBorder(inside, *pads, cv2.BORDER_CONSTANT, value=(128, 128, 128))
    way = cv2.INTER_AREA if side > STORED else cv2.INTER_LINEAR
    image = cv2.resize(padded, (STORED, STORED), interpolation=way)
    corner = np.array([left, top], np.float64)
    if which < 0:
        return image, logit, False, np.zeros(4), np.zeros((5, 2))
    box = (made.boxes[which] - np.tile(corner, 2)) / side
    return image, logit, True, box, (made.points[which] - corner) / side


def batch(crops: Crops, rows: np.ndarray, rng: np.random.Generator) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Return crops as the network sees them, shifted, scaled, mirrored, relit: images, logits, face, boxes, points."""
    size = FaceRefinerNet.SIZE
    images = np.empty((len(rows), size, size, 3), np.uint8)
    boxes, points = crops.boxes[rows].copy(), crops.points[rows].copy()
    for k, row in enumerate(rows):
        scale = math.exp(rng.normal(0, 0.06))
        dx, dy = rng.normal(0, 1.5, 2)
        angle = math.radians(rng.normal(0, 4))
        mirror = rng.random() < 0.5
        c, s = math.cos(angle) * scale, math.sin(angle) * scale
        linear = np.array([[c, -s], [s, c]]) @ np.diag([-1.0 if mirror else 1.0, 1.0])
        shift = np.array([size / 2 + dx, size / 2 + dy]) - linear @ np.full(2, STORED / 2)
        matrix = np.column_stack((linear, shift + linear @ np.full(2, 0.5) - 0.5))
        image = cv2.warpAffine(
            crops.images[row], matrix, (size, size), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE
        )
        if rng.random() < 0.5:
            gain, lift = math.exp(rng.normal(0, 0.2)), rng.normal(0, 12)
            image = np.clip(image * np.float32(gain) + np.float32(lift), 0, 255).astype(np.uint8)
        if rng.random() < 0.15:
            image = np.repeat(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)[..., None], 3, 2)
        images[k] = image
        moved = (points[k] * STORED) @ linear.T + shift
        points[k] = (moved[POINTS_FLIPPED] if mirror else moved) / size
        centre = linear @ ((boxes[k, :2] + boxes[k, 2:]) / 2 * STORED) + shift
        half = (boxes[k, 2:] - boxes[k, :2]) / 2 * STORED * scale
        boxes[k] = np.concatenate((centre - half, centre + half)) / size
    pixels = torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255
    arrays = (crops.logits[rows], crops.face[rows], boxes, points)
    logits, face, box, point = (torch.from_numpy(np.ascontiguousarray(array)) for array in arrays)
    return pixels, logits, face, box, point


def train(net: FaceRefinerNet, crops: Crops, minutes: float, size: int, lr: float) -> FaceRefinerNet:
    """Train `net` and return its average over time."""
    net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    ema = copy.deepcopy(net).requires_grad_(False).eval()
    optimiser = torch.optim.AdamW(net.parameters(), lr=lr, weight_decay=1e-3)
    rng = np.random.Generator(np.random.PCG64(len(crops.images)))
    groups = [
        np.flatnonzero(g)
        for g in (crops.face & ~np.isnan(crops.logits), ~crops.face, crops.face & np.isnan(crops.logits))
    ]
    start = shown = time.monotonic()
    step, before, sums = 0, 0, np.zeros(3)
    while (done := (time.monotonic() - start) / 60 / minutes) < 1:
        for group in optimiser.param_groups:
            group["lr"] = lr * min(1, (step + 1) / 200) * max(0.5 * (1 + math.cos(math.pi * done)), 0.005)
        rows = np.concatenate(
            [rng.choice(g, n) for g, n in zip(groups, (size * 3 // 8, size * 3 // 8, size // 4), strict=True)]
        )
        pixels, logits, face, boxes, points = batch(crops, rows, rng)
        judged = ~torch.isnan(logits)
        said = net(pixels.contiguous(memory_format=torch.channels_last), torch.nan_to_num(logits))
        score = F.binary_cross_entropy_with_logits(said.logits[judged], face[judged].float() * 0.98 + 0.01)
        box = (1 - giou(said.boxes[face], boxes[face])[1]).mean()
        distance = F.smooth_l1_loss(said.points[face], points[face], beta=0.01)
        optimiser.zero_grad(set_to_none=True)
        (score + box + 40 * distance).backward()
        torch.nn.utils.clip_grad_norm_(net.parameters(), 5.0)
        optimiser.step()
        decay = min(0.998, (1 + step) / (10 + step))
        with torch.no_grad():
            for slow, fast in zip(ema.state_dict().values(), net.state_dict().values(), strict=True):
                if slow.is_floating_point():
                    slow.lerp_(fast, 1 - decay)
        step += 1
        sums += (score.item(), box.item(), distance.item() * 40)
        if time.monotonic() - shown > 30:
            means = dict(zip(("score", "box", "points"), (sums / (step - before)).round(4).tolist(), strict=True))
            sys.stdout.write(json.dumps({"step": step, "done": round(done, 3), **means}) + "\n")
            sys.stdout.flush()
            sums, before, shown = np.zeros(3), step, time.monotonic()
    return ema


def main(argv: list[str] | None = None) -> int:
    """Run the command."""
    parser = argparse.ArgumentParser(prog="python -m train.refiner", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--scenes", type=Path, required=True)
    parser.add_argument("--faces", type=Path, nargs="*", default=[])
    parser.add_argument("--yunet", type=Path)
    parser.add_argument("--search", type=Path, required=True, help="checkpoint of train.detector")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--pictures", type=int, default=6000)
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--init", type=Path, help="checkpoint of this script to start from")
    parser.add_argument("--seed", type=int, default=11)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--lr", type=float, default=3e-3)
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args(argv)
    torch.set_num_threads(args.threads)
    cv2.setNumThreads(1)
    torch.manual_seed(0)
    args.out.mkdir(parents=True, exist_ok=True)
    scenes = read_scenes(args.scenes, held=False)
    if args.faces:
        scenes += read_faces(args.faces, args.yunet)
    search = FaceDetectorNet(norm=True)
    search.load_state_dict(torch.load(args.search, map_location="cpu", weights_only=True)["ema"])
    search.eval()
    mixers = [SceneMixer(scenes, size=side, seed=args.seed) for side in (192, 256, 320)]
    crops = collect(Searcher(search), mixers, args.pictures)
    found = crops.face & ~np.isnan(crops.logits)
    sys.stdout.write(json.dumps({"faces": int(found.sum()), "false alarms": int((~crops.face).sum())}) + "\n")
    net, seen = FaceRefinerNet(norm=True), args.pictures
    if args.init:
        before = torch.load(args.init, map_location="cpu", weights_only=True)
        net.load_state_dict(before["ema"])
        seen += before["seen"]
    net = train(net, crops, args.minutes, args.batch, args.lr)
    temp = args.out / "last.part"
    torch.save({"ema": net.state_dict(), "seen": seen}, temp)
    temp.replace(args.out / "last.pt")
    return 0


if __name__ == "__main__":
    sys.exit(main())
