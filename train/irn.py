"""Train the identity recovery network's `compact` config.

Source: CLR-Face Eq. 11 (= Diffuse-and-Restore Eq. 4), L = alpha * L1 + D_cos(f(x_hat), f(x)). Departure: the
first phase sees crops without the identity term, four times as many pictures in the same time. Both papers use
ArcFace; here MobileFaceNet stands in for it. The last phase mixes in pictures that are nearly good, because after the
papers' ranges alone the net lowered the identity of such pictures (0.994 to 0.983 at half resolution).

    python -m train.irn --data FACES/*/train --val FACES/*/val --recogniser mobilefacenet.pt --out runs/irn

Two cores (AVX2): about an hour and a half. Running the same command again continues from the last checkpoint.
"""

from __future__ import annotations

import argparse
import copy
import json
import math
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from bfr_core.degrade.chain import degrade, draw
from bfr_core.degrade.presets import PRESETS
from bfr_core.faces.identity import embed, identity_cosine, load_mobilefacenet
from bfr_core.metrics.fidelity import laplacian_variance, psnr
from bfr_core.networks.mobilefacenet import MobileFaceNet
from bfr_core.networks.restore_unet import RestoreUNet

from .data import FacePairs, Prefetch, list_images, read_rgb, to_tensor
from .export import write_weights
from .log import Log
from .optim import Muon

SIZE = 512


@dataclass(frozen=True, slots=True)
class Phase:
    """One stretch of training with its own crop, losses and cosine of the learning rate."""

    name: str
    images: int
    crop: int
    batch: int
    lr: tuple[float, float]
    """Learning rate of the convolutions at the start and, along a cosine, at the end."""
    warmup: int = 160
    """Images over which the learning rate rises."""
    mild: float = 0.0
    """Share of the pictures that are nearly good; see data.MILD."""
    identity: float = 0.0
    """Weight of D_cos where L1 has weight 1: 1 / alpha of Eq. 11."""


PHASES = (
    Phase("crops", images=7_400, crop=256, batch=8, lr=(0.015, 0.004)),
    Phase("faces", images=2_000, crop=512, batch=4, lr=(0.004, 0.0006), identity=0.03),
    Phase("mild", images=800, crop=512, batch=4, lr=(0.002, 0.0003), identity=0.03, mild=0.6),
)


def pixel_loss(output: Tensor, truth: Tensor, enlarged: Tensor) -> Tensor:
    """L1, at half size for truths that were enlarged, so that their softness is not learnt."""
    loss = output.new_zeros(())
    if (~enlarged).any():
        loss = loss + (output[~enlarged] - truth[~enlarged]).abs().mean() * (~enlarged).float().mean()
    if enlarged.any():
        small, small_truth = (F.avg_pool2d(x[enlarged], 2) for x in (output, truth))
        loss = loss + (small - small_truth).abs().mean() * enlarged.float().mean()
    return loss


class Validation:
    """Held-out faces under fixed degradations."""

    def __init__(self, files: list[Path], preset: str, recogniser: MobileFaceNet, limit: int | None = None) -> None:
        files = files[:: max(len(files) // limit, 1)][:limit] if limit else files
        images = [read_rgb(path) for path in files]
        ranges = PRESETS[preset].without_colour()
        self.truth = to_tensor(images)
        self.low = to_tensor([degrade(image, draw(ranges, seed)) for seed, image in enumerate(images)])
        self.recogniser = recogniser
        self.input = self.measure(self.low)

    def measure(self, faces: Tensor) -> dict[str, float]:
        """Return the mean figures of `faces` against the truth."""
        return {
            "psnr": psnr(faces, self.truth).mean().item(),
            "identity": identity_cosine(self.recogniser, faces, self.truth).mean().item(),
            "sharpness": laplacian_variance(faces).mean().item(),
        }

    def run(self, net: RestoreUNet) -> dict[str, float]:
        """Restore every face with `net` and measure it."""
        with torch.inference_mode():
            faces = torch.cat([net(face[None]).clamp(0, 1) for face in self.low])
        return self.measure(faces)


class Run:
    """The state of a training run: networks, optimisers and the number of images seen."""

    PARTS = ("net", "ema", "muon", "adam")

    def __init__(self, out: Path, recogniser: MobileFaceNet) -> None:
        self.out, self.recogniser = out, recogniser
        self.net = RestoreUNet().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.ema = copy.deepcopy(self.net).requires_grad_(False)
        # The first and last layers map pixels, whose scale matters; orthogonal updates would fix it.
        hidden = [p for name, p in self.net.named_parameters() if p.ndim == 4 and not name.startswith(("stem", "head"))]
        chosen = set(map(id, hidden))
        self.muon = Muon(hidden, lr=0)
        self.adam = torch.optim.AdamW(
            [p for p in self.net.parameters() if id(p) not in chosen], lr=0, betas=(0.9, 0.99)
        )
        self.phase, self.seen, self.total = 0, 0, 0

    @property
    def checkpoint(self) -> Path:
        return self.out / "last.pt"

    def save(self) -> None:
        """Write the checkpoint whole or not at all."""
        state = {name: getattr(self, name).state_dict() for name in self.PARTS}
        temp = self.checkpoint.with_suffix(".part")
        torch.save({**state, "phase": self.phase, "seen": self.seen, "total": self.total}, temp)
        temp.replace(self.checkpoint)

    def load(self) -> None:
        """Continue from the checkpoint."""
        state = torch.load(self.checkpoint, map_location="cpu", weights_only=True)
        for name in self.PARTS:
            getattr(self, name).load_state_dict(state[name])
        self.phase, self.seen, self.total = state["phase"], state["seen"], state["total"]

    def step(self, phase: Phase, low: Tensor, truth: Tensor, enlarged: Tensor) -> dict[str, float]:
        """Take one optimiser step and return its losses."""
        start, end = phase.lr
        lr = end + (start - end) * 0.5 * (1 + math.cos(math.pi * min(self.seen / phase.images, 1)))
        lr *= min(1.0, (self.seen + 1) / phase.warmup)
        for optimiser, factor in ((self.muon, 1.0), (self.adam, 0.03)):
            for group in optimiser.param_groups:
                group["lr"] = lr * factor
        output = self.net(low)
        loss = pixel_loss(output, truth, enlarged)
        losses = {"l1": loss.item()}
        if phase.identity:
            with torch.no_grad():
                target = embed(self.recogniser, truth)
            distance = 1 - (embed(self.recogniser, output.clamp(0, 1)) * target).sum(1).mean()
            losses["d_cos"] = distance.item()
            loss = loss + phase.identity * distance
        self.net.zero_grad(set_to_none=True)
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(self.net.parameters(), 0.1)
        if not torch.isfinite(norm):
            raise FloatingPointError(f"The gradient is not finite at image {self.total}; {self.checkpoint} is intact")
        self.muon.step()
        self.adam.step()
        decay = min(0.998, (1 + self.total / phase.batch) / (10 + self.total / phase.batch))
        with torch.no_grad():
            for slow, fast in zip(self.ema.parameters(), self.net.parameters(), strict=True):
                slow.lerp_(fast, 1 - decay)
        self.seen += len(low)
        self.total += len(low)
        return losses


def sampling_weight(path: Path) -> float:
    """Draw the varied portraits twice as often, the half-size ones half as often."""
    folder = path.parent.parent.name
    return {"pd512": 1.0, "free512": 3.0, "cc0gen512": 1.5, "pd256": 0.4, "free256": 0.8}.get(folder, 1.0)


def export(out: Path, target: Path, metrics: Path | None) -> None:
    """Write the averaged weights of the run in `out` as the package ships them."""
    state = torch.load(out / "last.pt", map_location="cpu", weights_only=True)
    figures = json.loads(metrics.read_text())["restorer"]["irn/compact"] if metrics else {}
    write_weights(
        target,
        state["ema"],
        method="irn",
        config="compact",
        title="Identity recovery network, compact U-Net",
        images="faces/*/train: 635 aligned portraits of 512 px and 388 of 256 px, official portraits of US legislators "
        "and agency staff (public domain), stock photos and computer-generated people (CC0)",
        images_seen=state["total"],
        command="python -m train.irn --data FACES/*/train --val FACES/*/val --recogniser mobilefacenet.pt --out DIR",
        metrics=figures,
        weaknesses="A regressor trained for under two hours on two cores: skin and hair come out smoother than they "
        "were, more so the poorer the input. Profiles, glasses and faces of children are rare in the training "
        "pictures. It does not invent what blur of more than about 10 px has removed. On pictures that are nearly good "
        "(half resolution) it lowers the identity cosine a little, from 0.994 to 0.990.",
    )


def main(argv: list[str] | None = None) -> int:
    """Run the command."""
    parser = argparse.ArgumentParser(prog="python -m train.irn", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path, nargs="+", default=[], help="folders of aligned faces")
    parser.add_argument("--val", type=Path, nargs="+", default=[], help="folders of held-out aligned faces")
    parser.add_argument("--recogniser", type=Path, help="MobileFaceNet weights for the identity loss")
    parser.add_argument("--out", type=Path, required=True, help="folder of the checkpoint and the log")
    parser.add_argument("--export", type=Path, metavar="FILE", help="write the weights and card, then end")
    parser.add_argument(
        "--metrics", type=Path, metavar="JSON", help="figures of `bfr bench restorer --json` for the card"
    )
    parser.add_argument("--preset", default="gfpgan", choices=sorted(PRESETS))
    parser.add_argument("--images", type=int, nargs="+", help="images of each phase, in place of the defaults")
    parser.add_argument("--time-limit", type=float, default=math.inf, metavar="MINUTES")
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args(argv)

    if args.export:
        export(args.out, args.export, args.metrics)
        return 0
    if not (args.data and args.val and args.recogniser):
        parser.error("training needs --data, --val and --recogniser")
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    args.out.mkdir(parents=True, exist_ok=True)
    recogniser = load_mobilefacenet(args.recogniser)
    phases = list(PHASES)
    if args.images:
        phases = [Phase(**{**asdict(p), "images": n}) for p, n in zip(PHASES, args.images, strict=False) if n]

    run = Run(args.out, recogniser)
    if run.checkpoint.exists():
        run.load()
    val = Validation(list_images(args.val), args.preset, recogniser, limit=24)
    write = Log(args.out).write

    write({"input": val.input, "resumed_at": run.total})
    files = list_images(args.data)
    start = saved = time.monotonic()
    while run.phase < len(phases):
        phase = phases[run.phase]
        pairs = FacePairs(
            files,
            [sampling_weight(path) for path in files],
            PRESETS[args.preset].without_colour(),
            size=SIZE,
            crop=phase.crop,
            seed=run.phase,
            mild=phase.mild,
        )
        feed = Prefetch(pairs, run.seen, phase.batch)
        try:
            began, first, sums, count = time.monotonic(), run.seen, {}, 0
            while run.seen < phase.images:
                losses = run.step(phase, *feed.next())
                for name, value in losses.items():
                    sums[name] = sums.get(name, 0.0) + value
                count += 1
                now = time.monotonic()
                done = now - start > 60 * args.time_limit
                if now - saved > 240 or done or run.seen >= phase.images:
                    run.save()
                    rate = (run.seen - first) / (now - began)
                    means = {name: round(value / count, 5) for name, value in sums.items()}
                    figures = {name: round(value, 4) for name, value in val.run(run.ema).items()}
                    left = round((phase.images - run.seen) / rate / 60, 1)
                    write(
                        {
                            "phase": phase.name,
                            "seen": run.seen,
                            "rate": round(rate, 2),
                            "left_min": left,
                            **means,
                            "val": figures,
                        }
                    )
                    sums, count, saved = {}, 0, time.monotonic()
                if done:
                    return 0
        finally:
            feed.close()
        run.phase, run.seen = run.phase + 1, 0
        run.save()
    return 0


if __name__ == "__main__":
    sys.exit(main())
