"""Write the trained detector as the package ships it: both networks in one file, batch norms folded, with a card.

    python -m train.detection.export --search runs/search --refiner runs/refiner -o detector.safetensors --licence TEXT
    bfr bench detector --data PICTURES --json figures.json

measures what the package has embedded; the first line again with `--metrics figures.json` puts its figures on the card.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from bfr_core.errors import BfrError
from bfr_core.networks.face_detector import FaceDetectorNet, FaceRefinerNet, fold
from bfr_core.weights import Card, fill

from ..checkpoint import averaged, read_newest
from ..export import images_seen, licence_of, write_weights
from ..run import chained
from ..stages.detector import DetectorStage

_PARTS = (("search", FaceDetectorNet, "detector.search"), ("refine", FaceRefinerNet, "detector.refiner"))
"""Name in `FaceCascade`, network, stage."""


def export_detector(
    search: Path, refiner: Path, target: Path, *, metrics: Path | None = None, licence: str = "", images: str = ""
) -> Card:
    """Write the averaged networks of two runs, or of two checkpoints, with their card.

    Raises:
        WeightsError: a checkpoint cannot be read.
        SettingsError: one is of another stage, the target is no safetensors file, or nobody stated the pictures'
            licence.
    """
    weights: dict[str, Tensor] = {}
    states = []
    for (prefix, network, stage), place in zip(_PARTS, (search, refiner), strict=True):
        state = read_newest(place, stage)
        net = network(norm=True)
        fill(net, averaged(state, "net"), what=f"{stage} of {place.name}")
        weights |= {f"{prefix}.{name}": tensor for name, tensor in fold(net).items()}
        states.append(state)
    facts = [state["data"] for state in states]
    licence = licence or licence_of(states)
    places = dict.fromkeys(place for fact in facts for place in fact["places"])
    words = images or (
        f"{facts[0]['pictures']} pictures of {', '.join(places)}; those without a list of labels were labelled by YuNet"
    )
    figures: dict[str, Any] = (
        json.loads(metrics.read_text("utf-8"))["detector"]
        if metrics
        else {stage: state["figures"] for (_, _, stage), state in zip(_PARTS, states, strict=True)}
    )
    return write_weights(
        target,
        weights,
        method="detector",
        config="embedded",
        title="Face detector: box, five points, score",
        images=f"{words}; {licence}",
        images_seen=sum(map(images_seen, states)),
        command="; ".join(chained(state["started_from"], state["command"]) for state in states),
        metrics=figures,
        weaknesses=DetectorStage.weaknesses,
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m train.detection.export",
        description="Write the trained face detector as half-precision safetensors with its card.",
    )
    parser.add_argument("--search", type=Path, required=True, metavar="RUN", help="run of detector.search, or a .pt")
    parser.add_argument("--refiner", type=Path, required=True, metavar="RUN", help="run of detector.refiner, or a .pt")
    parser.add_argument("-o", "--out", type=Path, required=True, metavar="FILE.safetensors")
    parser.add_argument("--metrics", type=Path, metavar="JSON", help="figures for the card: `bfr bench --json`")
    parser.add_argument("--licence", default="", help="licence of the pictures, where a run does not know it")
    parser.add_argument("--images", default="", help="the pictures in words, in place of their folders' names")
    args = parser.parse_args(argv)
    try:
        card = export_detector(
            args.search, args.refiner, args.out, metrics=args.metrics, licence=args.licence, images=args.images
        )
    except BfrError as error:
        sys.stderr.write(f"Error: {error}\n")
        return 1
    sys.stdout.write(
        f"{args.out}: {card.parameters / 1e6:.2f} M parameters after {card.images_seen} images, sha256 {card.sha256}; "
        f"card {args.out.with_suffix('.json').name}\n"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
