"""Training stages run as users run them, through the command, on a few small faces."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from accelerate.state import AcceleratorState
from PIL import Image
from skimage.data import astronaut

import train.__main__ as command
from train.checkpoint import Checkpoints


def few_faces(folder: Path) -> Path:
    """Fill a folder with four pictures of 64 px and their licence."""
    for index in range(4):
        top, left = 6 * index, 150 + 9 * index
        Image.fromarray(astronaut()[top : top + 192, left : left + 192]).resize((64, 64)).save(folder / f"{index}.png")
    (folder / "LICENCE.txt").write_text("CC0\n")
    return folder


def train(
    stage: str,
    faces: Path,
    out: Path,
    *,
    weights: Sequence[Mapping[str, float]],
    images: int = 8,
    batch: int = 4,
    lr: tuple[float, float] = (0.01, 0.005),
    config: str = "compact",
    network: str = "tiny",
    files: Sequence[Any] = (),
    **fields: Any,
) -> dict[str, Any]:
    """Train a stage, a phase for each mapping of weights, and return its last checkpoint.

    The command ends with an AssertionError where it fails.
    """
    AcceleratorState._reset_state(reset_partial_state=True)  # accelerate keeps one precision for a process
    phase = {"images": images, "batch": batch, "size": 64, "lr": lr}
    phases = [{**phase, "name": f"phase{index}", "weights": terms} for index, terms in enumerate(weights)]
    small = {"base": config, "network": network, "face_size": 64, "phases": phases, "validate_limit": 1, **fields}
    path = out.parent / f"{out.name}.json"
    path.write_text(json.dumps(small))
    arguments = [stage, "--config", path, "--data", faces, "--val", faces, "--out", out, "--workers", 0]
    arguments += ["--cpu", "--licence", "CC0", *files]
    assert command.main([str(argument) for argument in arguments]) == 0
    state = Checkpoints(out).load(lambda text: None)
    assert state is not None
    return state


def exported(run: Path) -> Path:
    """Export the weights of a run, beside it."""
    target = run.parent / f"{run.name}.safetensors"
    assert command.main(["export", str(run), "-o", str(target), "--dtype", "float32"]) == 0
    return target
