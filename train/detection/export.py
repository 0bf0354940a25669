"""Write the trained detector as the package ships it: both networks in one file, batch norms folded, with a card.

    python -m train.detection.export --search runs/search --refiner runs/refiner -o detector.safetensors --licence TEXT
    bfr bench detector --data PICTURES --json figures.json

measures what the package has embedded; the first line again with `--metrics figures.json` puts its figures on the card.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from bfr_core.errors import BfrError
from bfr_core.models.checkpoints.cards import Card
from bfr_core.models.checkpoints.files import fill, load_state
from bfr_core.networks.face_detector import FaceDetectorNet, FaceRefinerNet, fold

from ..checkpoint import averaged, read_newest
from ..export import images_seen, licence_of, write_weights
from ..run import chained
from ..stage import is_checkpoint
from ..stages.detector import DetectorStage

_PARTS = (("search", FaceDetectorNet, "detector.search"), ("refine", FaceRefinerNet, "detector.refiner"))
"""Name in `FaceCascade`, network, stage."""


@dataclass(frozen=True, slots=True)
class _Half:
    """One of the two networks, with what its run or its card says of it."""

    weights: Mapping[str, Tensor]
    pictures: str
    images_seen: int
    command: str
    figures: Any


def export_detector(
    search: Path, refiner: Path, target: Path, *, metrics: Path | None = None, licence: str = "", images: str = ""
) -> Card:
    """Write the averaged networks of two runs, or of two checkpoints, with their card.

    The search may be that of a shipped detector, whose card is beside it.

    Raises:
        WeightsError: a checkpoint cannot be read.
        SettingsError: one is of another stage, the target is no safetensors file, or nobody stated the pictures'
            licence.
    """
    trained = {part: read_newest(place, stage) for (part, _, stage), place in _places(search, refiner)}
    stated = licence or licence_of(list(trained.values()))
    halves = {
        stage: _trained(part, network, trained[part], place) if part in trained else _shipped(part, place)
        for (part, network, stage), place in zip(_PARTS, (search, refiner), strict=True)
    }
    words = images or "; ".join(dict.fromkeys(half.pictures for half in halves.values()))
    figures: dict[str, Any] = (
        json.loads(metrics.read_text("utf-8"))["detector"]
        if metrics
        else {stage: half.figures for stage, half in halves.items()}
    )
    return write_weights(
        target,
        {key: tensor for half in halves.values() for key, tensor in half.weights.items()},
        method="detector",
        config="embedded",
        title="Face detector: box, five points, score",
        images=f"{words}; {stated}",
        images_seen=sum(half.images_seen for half in halves.values()),
        command="; ".join(half.command for half in halves.values()),
        metrics=figures,
        weaknesses=DetectorStage.weaknesses,
    )


def _places(search: Path, refiner: Path) -> list[tuple[tuple[str, type, str], Path]]:
    """Return the parts that come from runs, with their places."""
    return [
        (part, place)
        for part, place in zip(_PARTS, (search, refiner), strict=True)
        if part[0] != "search" or is_checkpoint(place)
    ]


def _trained(part: str, network: type, state: dict[str, Any], place: Path) -> _Half:
    net = network(norm=True)
    fill(net, averaged(state, "net"), what=f"{state['stage']} of {place.name}")
    facts = state["data"]
    return _Half(
        {f"{part}.{name}": tensor for name, tensor in fold(net).items()},
        f"{facts['pictures']} pictures of {', '.join(facts['places'])}; those without a list of labels were labelled "
        "by YuNet",
        images_seen(state),
        chained(state["started_from"], state["command"]),
        state["figures"],
    )


def _shipped(part: str, place: Path) -> _Half:
    card = place.with_suffix(".json")
    known = json.loads(card.read_text("utf-8")) if card.is_file() else {}
    return _Half(
        {key: tensor for key, tensor in load_state(place).items() if key.startswith(f"{part}.")},
        f"the {part} of {place.name}: {known.get('images', 'pictures that nobody stated')}",
        known.get("images_seen", 0),
        f"the {part} of {place.name}: {known.get('command', '')}",
        known.get("metrics", {}),
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m train.detection.export",
        description="Write the trained face detector as half-precision safetensors with its card.",
    )
    parser.add_argument(
        "--search", type=Path, required=True, metavar="RUN", help="run of detector.search, a .pt, or a detector"
    )
    parser.add_argument("--refiner", type=Path, required=True, metavar="RUN", help="a run, or its .pt")
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
