"""Weights that come with the package, each with a card that says where they come from."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from ...errors import WeightsError
from .files import load_state

_FOLDER = Path(__file__).parents[2] / "weights" / "embedded"


@dataclass(frozen=True, slots=True)
class Card:
    """What is known about one weight file."""

    name: str
    method: str
    config: str
    title: str
    parameters: int
    sha256: str
    licence: str
    """Of the weights themselves."""
    images: str
    """What they were trained on, and under which licence."""
    images_seen: int
    command: str
    metrics: dict[str, Any]
    weaknesses: str


def embedded(name: str) -> Path:
    """Return the path of the embedded weights called `name`; it may not exist."""
    return _FOLDER / f"{name}.safetensors"


def read_card(name: str) -> Card:
    """Return the card of the embedded weights called `name`.

    Raises:
        WeightsError: the card is missing or does not have the fields of a card.
    """
    path = _FOLDER / f"{name}.json"
    try:
        fields = json.loads(path.read_text("utf-8"))
        return Card(name=name, **fields)
    except (OSError, ValueError, TypeError) as error:
        raise WeightsError(
            f"Cannot read the card of the weights {name}",
            found=f"{path}: {error}; expected a JSON object with the fields of a card",
            kept="Nothing was changed",
            todo="Install the package again",
        ) from error


def embedded_cards() -> list[Card]:
    """Return the cards of all embedded weights, by name."""
    return [read_card(path.stem) for path in sorted(_FOLDER.glob("*.json"))]


def load_embedded(name: str) -> dict[str, Tensor]:
    """Read embedded weights, checked against the hash on their card.

    Raises:
        WeightsError: the file or its card is missing or damaged.
    """
    return load_state(embedded(name), sha256=read_card(name).sha256)
