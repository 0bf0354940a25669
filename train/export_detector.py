"""Write a trained detector as the package ships it: batch norms folded, half precision, with a card."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors.torch import save

from bfr_core.media.atomic import publish
from bfr_core.networks.face_detector import FaceDetectorNet, fold
from bfr_core.weights import sha256_of


def export(trained: FaceDetectorNet, seen: int, target: Path, metrics: Path | None = None, command: str = "") -> None:
    """Write `target` (safetensors) and the card beside it.

    Args:
        trained: the network with batch norms.
        seen: training pictures it has seen.
        target: where the weights go.
        metrics: what `python -m bfr_core.bench.detector` printed for these weights; the card has none without.
        command: the command that trained it.
    """
    state = {name: tensor.to(torch.float16).contiguous() for name, tensor in fold(trained).items()}
    with publish(target) as file:
        file.write(save(state, {"format": "pt"}))
    card = {
        "method": "detector",
        "config": "embedded",
        "title": "Face detector: box, five points, score",
        "parameters": sum(tensor.numel() for tensor in state.values()),
        "sha256": sha256_of(target),
        "licence": "MIT",
        "images": "Nine tenths of scenes/ (810 portraits of US legislators, public domain; 200 computer-"
        "generated people, CC0); faces/*/train (about 1,020 aligned portraits, public domain and CC0). Boxes and points "
        "were labelled by YuNet.",
        "images_seen": seen,
        "command": command,
        "metrics": json.loads(metrics.read_text()) if metrics else {},
        "weaknesses": "Trained on portraits: profiles beyond about 60 degrees, faces turned by more than 50 degrees in "
        "the plane, strong expressions and faces under 12 pixels are missed more often than elsewhere.",
    }
    with publish(target.with_suffix(".json")) as file:
        file.write((json.dumps(card, indent=2) + "\n").encode())
