"""Write trained weights as the package ships them: safetensors with a card beside them."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor

from bfr_core.errors import SettingsError
from bfr_core.media.atomic import publish
from bfr_core.models.checkpoints.cards import Card
from bfr_core.models.checkpoints.files import sha256_of
from bfr_core.models.checkpoints.origin import Origin

from .checkpoint import averaged, read_newest
from .run import chained
from .stage import find_stage


def write_weights(target: Path, state: Mapping[str, Tensor], *, dtype: str = "float16", **card: Any) -> Card:
    """Write `target` and its card; `card` gives the fields of `Card` that cannot be read from the weights.

    Raises:
        SettingsError: the target is no safetensors file, or a number does not fit into half precision.
    """
    if target.suffix != ".safetensors":
        raise SettingsError(
            f"Cannot export to {target}",
            found=f"its suffix is {target.suffix or 'missing'}, expected .safetensors",
            kept="Nothing was written",
            todo="Name the output something.safetensors",
        )
    kind = {"float16": torch.float16, "float32": torch.float32}[dtype]
    cast = {name: (t.to(kind) if t.is_floating_point() else t).contiguous() for name, t in state.items()}
    lost = [name for name, t in cast.items() if t.is_floating_point() and not torch.isfinite(t).all()]
    if lost:
        raise SettingsError(
            f"Cannot write {target}",
            found=f"{', '.join(lost[:3])} hold numbers that {dtype} cannot",
            kept="Nothing was written",
            todo="Export with --dtype float32, or look for a run that diverged",
        )
    origin = Origin(card["method"], card["config"], card["title"])
    with publish(target) as file:
        file.write(save(cast, {"format": "pt", **origin.metadata()}))
    parameters = sum(tensor.numel() for tensor in cast.values())
    full = Card(name=target.stem, parameters=parameters, sha256=sha256_of(target), licence="MIT", **card)
    fields = dataclasses.asdict(full)
    del fields["name"]
    with publish(target.with_suffix(".json")) as file:
        file.write((json.dumps(fields, indent=2) + "\n").encode())
    return full


def licence_of(states: Sequence[dict[str, Any]]) -> str:
    """Return the licences of the pictures that runs learnt from, as stated when they were trained.

    Raises:
        SettingsError: nobody stated those of some pictures.
    """
    facts = [state["data"] for state in states]
    if unlicensed := sorted({place for fact in facts for place in fact["unlicensed"]}):
        raise SettingsError(
            "Cannot write a card",
            found=f"no licence is known for the pictures in {', '.join(unlicensed)}",
            kept="Nothing was written",
            todo="State it: --licence 'public domain and CC0'",
        )
    return "; ".join(dict.fromkeys(fact["licences"] for fact in facts))


def images_seen(state: dict[str, Any]) -> int:
    """Return the images of a run and of those whose weights it started from."""
    return state["position"]["total"] + state["started_from"].get("images_seen", 0)


def export(
    checkpoint: Path,
    target: Path,
    *,
    metrics: Path | None = None,
    licence: str = "",
    images: str = "",
    weaknesses: str = "",
    dtype: str = "float16",
) -> Card:
    """Write the averaged weights of a checkpoint, or of the newest one in a run's folder, with their card.

    Raises:
        WeightsError: the checkpoint cannot be read.
        SettingsError: the target is no safetensors file, or nobody stated the pictures' licence.
    """
    state = read_newest(checkpoint)
    facts = state["data"]
    licence = licence or licence_of([state])
    stage = find_stage(state["stage"])
    figures = json.loads(metrics.read_text("utf-8")) if metrics else state["figures"]
    if metrics and (one := figures.get("restorer", {}).get(f"{stage.method}/{state['config']['network']}")):
        figures = one
    words = images or f"{facts['pictures']} pictures of {', '.join(facts['places'])}"
    weights = {key: tensor for name in stage.exported for key, tensor in averaged(state, name).items()}
    return write_weights(
        target,
        stage.shipped(weights),
        dtype=dtype,
        method=stage.method,
        config=state["config"]["network"],
        title=stage.title,
        images=f"{words}; {licence}",
        images_seen=images_seen(state),
        command=chained(state["started_from"], state["command"]),
        metrics=figures,
        weaknesses=weaknesses or stage.weaknesses,
    )
