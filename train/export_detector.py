"""Write the trained detector as the package ships it: batch norms folded, half precision, with a card.

    python -m train.export_detector --search runs/second/last.pt --refiner runs/refiner/last.pt \
        --target bfr_core/weights/embedded/detector.safetensors
    bfr bench detector --data ../shared/data --json figures.json

and the first again with `--metrics figures.json`, so that the card has the figures.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import torch

from bfr_core.networks.face_detector import FaceDetectorNet, FaceRefinerNet, fold

from .export import write_weights


def export(search: Path, refiner: Path, target: Path, metrics: Path | None = None, *, earlier: int = 0) -> None:
    """Write `target` (safetensors) and the card beside it."""
    state: dict[str, torch.Tensor] = {}
    seen = earlier
    for prefix, net, path in (
        ("search", FaceDetectorNet(norm=True), search),
        ("refine", FaceRefinerNet(norm=True), refiner),
    ):
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
        net.load_state_dict(checkpoint["ema"])
        net.eval()
        state |= {f"{prefix}.{name}": tensor for name, tensor in fold(net).items()}
        seen += checkpoint["seen"]
    write_weights(
        target,
        state,
        method="detector",
        config="embedded",
        title="Face detector: box, five points, score",
        images="Nine tenths of scenes/ (810 portraits of US legislators, public domain; 200 computer-generated people, "
        "CC0); faces/*/train (about 1,020 aligned portraits, public domain and CC0). Boxes and points were labelled by "
        "YuNet.",
        images_seen=seen,
        command="python -m train.detector (two runs), python -m train.refiner: see their first lines",
        metrics=json.loads(metrics.read_text())["detector"] if metrics else {},
        weaknesses=WEAKNESSES,
    )


WEAKNESSES = (
    "Trained on portraits: profiles beyond about 60 degrees, faces turned by more than 50 degrees in the plane and "
    "faces under 12 pixels are missed more often than elsewhere."
)


def main(argv: list[str] | None = None) -> int:
    """Run the command."""
    parser = argparse.ArgumentParser(prog="python -m train.export_detector")
    parser.add_argument("--search", type=Path, required=True, help="checkpoint of train.detector")
    parser.add_argument("--refiner", type=Path, required=True, help="checkpoint of train.refiner")
    parser.add_argument("--target", type=Path, required=True)
    parser.add_argument("--earlier", type=int, default=0, help="images seen by runs that these two started from")
    parser.add_argument("--metrics", type=Path, help="what `bfr bench detector --json` wrote")
    args = parser.parse_args(argv)
    export(args.search, args.refiner, args.target, args.metrics, earlier=args.earlier)
    return 0


if __name__ == "__main__":
    sys.exit(main())
