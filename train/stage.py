"""What a training stage says about itself. The harness does everything else.

A stage names its configs, builds its networks, turns pictures into examples and computes losses. Devices, precision,
averages, checkpoints, validation and logging are the same for all of them and live in `loop`.
"""

from __future__ import annotations

import importlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Generic, Literal

import numpy as np
import torch
from torch import Tensor, nn

from bfr_core.errors import SettingsError
from bfr_core.models.checkpoints.files import fill, load_state
from bfr_core.registry import methods

from .checkpoint import averaged, read_newest
from .config import C, Phase
from .data import Batch, Examples
from .pictures import Pictures

OTHER_STAGES = {
    "detector.search": "detector",
    "detector.refiner": "refiner",
    "detector.check": "face_check",
    "recogniser": "recogniser",
}
"""Stages of networks that belong to no restoration method: name, module under `train.stages`."""


@dataclass(frozen=True, slots=True)
class FileNeed:
    """A file that a stage can use, given as the option of its name."""

    help: str
    required: bool = True


@dataclass(slots=True)
class Step:
    """Where a run stands when a loss is computed."""

    phase: Phase
    seen: int
    """Images of this phase before this step."""
    number: int
    """Steps of the run before this one, for what is done every k steps."""
    generator: torch.Generator
    """Noise of this step, decided by the seed and the images seen."""
    kept: dict[str, Tensor] = field(default_factory=dict)
    """What one objective leaves for the next on the same images, such as a generator's output."""

    def weight(self, term: str) -> float:
        """Return the weight of a term in this phase; 0 leaves it out."""
        return self.phase.weights.get(term, 0.0)


Nets = Mapping[str, nn.Module]
Loss = Callable[[Nets, Batch, Step], dict[str, Tensor]]


@dataclass(frozen=True, slots=True)
class Objective:
    """One loss and the networks that follow its gradient, with an optimiser of their own."""

    name: str
    trains: tuple[str, ...]
    loss: Loss
    """Returns the unweighted terms by name."""
    lr: float = 1.0
    """Learning rate relative to the phase's."""
    needs: str = ""
    """A term without which the objective rests, such as `adversarial` for a discriminator."""
    optimiser: Literal["", "adamw", "muon"] = ""
    """Takes the place of the config's."""


@dataclass(frozen=True, slots=True)
class Check:
    """What a validation found."""

    figures: dict[str, float]
    rows: list[list[np.ndarray]]
    """Rows of pictures for the sheet, (H, W, 3) uint8."""


class Validator(ABC):
    """Measures averaged networks on held-out pictures."""

    columns: ClassVar[str] = "input | output | truth"
    baseline: Mapping[str, float] = {}
    """The figures of the untouched input."""

    @abstractmethod
    def run(self, nets: Nets) -> Check:
        """Measure."""


class Stage(ABC, Generic[C]):
    """One training stage.

    Args:
        config: what to train, and how.
        files: files given for `needs`, by name.
    """

    title: ClassVar[str]
    method: ClassVar[str]
    """Id of the method that its weights belong to."""
    source: ClassVar[str]
    """Where the loss is published, and every departure from there."""
    terms: ClassVar[Mapping[str, str]]
    """Terms of the losses: name, equation."""
    configs: ClassVar[Mapping[str, Any]]
    """Presets by name, the default first."""
    needs: ClassVar[Mapping[str, FileNeed]] = {}
    weaknesses: ClassVar[str] = ""
    """What a person should know before using the weights, for their card."""
    averaged: ClassVar[tuple[str, ...]] = ("net",)
    """Networks whose average over time is kept, validated and exported."""
    exported: ClassVar[tuple[str, ...]] = ("net",)
    """Networks whose weights an export holds; no key is in two of them."""
    pixel_layers: ClassVar[tuple[str, ...]] = ("stem", "head")
    """Layers that map from or to pixels, whose scale matters: Muon leaves them to AdamW."""
    folded: ClassVar[bool] = False
    """Whether what is shipped has its batch norms folded, so that a run starts from checkpoints and not from that."""
    figures: ClassVar[tuple[str, ...]] = ("psnr", "sharpness", "grain", "weave", "identity")
    """Names of what a validation finds."""

    def __init__(self, config: C, files: Mapping[str, Path]) -> None:
        self.config, self.files = config, files
        self.frozen: dict[str, nn.Module] = {}
        """Networks that losses look through: moved to the device, never trained."""
        self.say: Callable[[str], None] = lambda text: None
        """Tells the run's journal what a stage does that takes time."""

    @classmethod
    def shipped(cls, weights: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """Return trained weights of the exported networks as a restorer loads them.

        Raises:
            SettingsError: they cannot be used by themselves; the message says what to do.
        """
        return weights

    def adopted(self, weights: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """Return weights that a restorer loads as the exported networks hold them, to start a run from."""
        return weights

    def from_shipped(self, weights: Mapping[str, Tensor]) -> dict[str, nn.Module]:
        """Return the exported networks with weights that a restorer loads, to validate.

        Weights of other networks of the method among them are left aside.

        Raises:
            WeightsError: some are missing or do not fit.
        """
        nets = {name: net for name, net in self.networks().items() if name in self.exported}
        wanted = {key for net in nets.values() for key in net.state_dict()}
        fill_exported(self, nets, {key: tensor for key, tensor in self.adopted(weights).items() if key in wanted})
        return nets

    @abstractmethod
    def networks(self) -> dict[str, nn.Module]:
        """Build the untrained networks, by name."""

    @abstractmethod
    def objectives(self) -> tuple[Objective, ...]:
        """Return the losses, in the order a step takes them."""

    def pictures(self, places: Sequence[Path], *, held: bool, align: bool, store: Path | None, memory: int) -> Pictures:
        """Open the pictures to learn from, or the held-out ones; a stage whose pictures carry labels reads those."""
        weights = getattr(self.config, "folder_weights", None)
        return Pictures(places, folder_weights=weights, align=align, store=store, memory=memory)

    @abstractmethod
    def examples(self, pictures: Pictures, phase: Phase) -> Examples:
        """Return the examples of a phase."""

    @abstractmethod
    def validator(self, pictures: Pictures) -> Validator:
        """Prepare a validation on held-out pictures."""


def fill_exported(stage: Stage, nets: Nets, weights: Mapping[str, Tensor]) -> None:
    """Fill the exported networks of a stage from the weights of all of them, as `adopted` returns them.

    Raises:
        WeightsError: some are missing, left over or do not fit.
    """
    left = dict(weights)
    *first, last = stage.exported
    for name in first:
        own = {key: left.pop(key) for key in nets[name].state_dict() if key in left}
        fill(nets[name], own, what=f"{name} of {stage.title}")
    fill(nets[last], left, what=f"{last} of {stage.title}")  # which names what is left over


def fill_from(stage: Stage, nets: Nets, place: Path) -> None:
    """Fill networks from a file: exported weights for the exported networks, or a checkpoint's averages for all.

    Args:
        stage: whose networks they are.
        nets: the networks by name.
        place: exported weights, a .pt file, or the folder of a run.

    Raises:
        WeightsError: the file is damaged or does not fit.
    """
    if is_checkpoint(place):
        state = read_newest(place)
        for key, net in nets.items():
            fill(net, averaged(state, key), what=f"{key} of {place.name}")
    else:
        fill_exported(stage, nets, stage.adopted(load_state(place)))


def is_checkpoint(place: Path) -> bool:
    """Tell a run's folder or one of its checkpoints from exported weights."""
    return place.is_dir() or place.suffix == ".pt"


def stage_names() -> dict[str, str]:
    """Return every stage as METHOD.STAGE with its module under `train.stages`."""
    declared = {
        f"{method.id}.{stage}": module for method in methods().values() for stage, module in method.stages.items()
    }
    return {**declared, **OTHER_STAGES}


def find_stage(name: str) -> type[Stage]:
    """Return the stage called METHOD.STAGE.

    Raises:
        SettingsError: there is none.
    """
    known = stage_names()
    if name not in known:
        raise SettingsError(
            f"There is no training stage {name!r}",
            found=f"expected one of {', '.join(known)}",
            kept="Nothing was started",
            todo="Choose a stage from the list",
        )
    return importlib.import_module(f".stages.{known[name]}", __package__).STAGE
