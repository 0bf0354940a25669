"""The state of a training run and one step of it.

What is random in a step follows from the seed and the images seen, so a continued run equals an uninterrupted one on
the same number of processes: weights, averages, optimisers, position in the data and noise.
"""

from __future__ import annotations

import contextlib
import copy
import hashlib
import json
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from bfr_core.errors import SettingsError, TrainError

from .checkpoint import Checkpoints, read_newest
from .config import RUNTIME_FIELDS, Phase, to_dict
from .data import Batch, Feed
from .journal import Journal
from .optim import build_optimiser, learning_rate, set_learning_rate
from .precision import Precision, called, refuse, settle
from .stage import Objective, Stage, Step, fill_from, is_checkpoint


@dataclass(frozen=True, slots=True)
class TrainOptions:
    """What a run is told beside its config: places, limits, and how the machine is used."""

    out: Path
    data: Sequence[Path]
    val: Sequence[Path]
    time_limit: float = math.inf
    """Seconds after which the run saves and ends."""
    init: Path | None = None
    """Weights or checkpoint to start a new run from."""
    align: bool = False
    store: Path | None = None
    workers: int = 1
    memory: int = 1 << 30
    """Bytes of decoded pictures to keep, over all workers."""
    cpu: bool = False
    licence: str = ""
    command: str = ""
    stop_after: float = math.inf
    """Images after which the run saves and ends."""


@dataclass(slots=True)
class Position:
    """How far a run is."""

    phase: int = 0
    seen: int = 0
    """Images of this phase."""
    total: int = 0
    """Images of all phases."""
    steps: int = 0
    skipped: int = 0
    """Steps left out because a gradient was not finite."""
    skipped_in_a_row: int = 0


@dataclass(slots=True)
class Tally:
    """What happened since the last report."""

    began: float = field(default_factory=time.monotonic)
    images: int = 0
    sums: dict[str, Tensor] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)
    """A term may be computed every k steps only, or have been left out."""
    waited: float = 0.0

    def add(self, name: str, value: Tensor) -> None:
        value = value.float()
        self.sums[name] = self.sums[name] + value if name in self.sums else value
        self.counts[name] = self.counts.get(name, 0) + 1


class Run:
    """The state of a training run and one step of it.

    Args:
        name: METHOD.STAGE and the config's name, as the checkpoint records them.
        stage: what is trained.
        options: places and limits.
        journal: hears what happens.
    """

    def __init__(
        self, name: tuple[str, str], stage: Stage, options: TrainOptions, journal: Journal | None = None
    ) -> None:
        self.name, self.stage, self.config, self.options = name, stage, stage.config, options
        self.precision = settle(self.config.precision, cpu=options.cpu)
        """What is computed in: the config's, or what `auto` came to here."""
        self.accelerator = _accelerator(self.precision, options.cpu)
        self.device = self.accelerator.device
        self.rank, self.world = self.accelerator.process_index, self.accelerator.num_processes
        self.journal = journal or Journal(options.out, main=self.accelerator.is_main_process)
        stage.say = self.journal.note
        self.checkpoints = Checkpoints(options.out)
        self._check_config()
        torch.manual_seed(self.config.seed)
        self.nets = stage.networks()
        if options.init is not None:
            fill_from(stage, self.nets, options.init)
        for net in self.nets.values():
            channels_last(net.to(self.device))
        for net in stage.frozen.values():
            net.to(self.device).eval().requires_grad_(False)
        self.objectives = stage.objectives()
        self.position = Position()
        self.figures: dict[str, Any] = {}
        self.bad: dict[str, str] = {}
        self.data_facts: dict[str, Any] = {}
        self.started_from = _described(options.init) if options.init is not None else {}
        self.averages = {
            key: copy.deepcopy(self.nets[key]).eval().requires_grad_(False)
            for key in (stage.averaged if self.config.ema else ())
        }
        self.optimisers = {
            objective.name: build_optimiser(
                [self.nets[key] for key in objective.trains], self.config, stage.pixel_layers, objective.optimiser
            )
            for objective in self.objectives
        }
        # What a stage froze when it built its networks stays frozen.
        self._trainable = {key: [w for w in net.parameters() if w.requires_grad] for key, net in self.nets.items()}
        self._wrapped: dict[str, nn.Module] = {}
        self._stepping: dict[str, Any] = {}

    def _check_config(self) -> None:
        terms = set(self.stage.terms)
        for phase in self.config.phases:
            if unknown := sorted(set(phase.weights) - terms):
                raise SettingsError(
                    f"Phase {phase.name} weighs losses that {self.stage.title} does not have: {', '.join(unknown)}",
                    found=f"expected {', '.join(sorted(terms))}",
                    kept="Nothing was started",
                    todo="Mend the weights of the phase",
                )
            if phase.batch % (self.world * self.config.accumulate):
                raise SettingsError(
                    f"Cannot split the batch of phase {phase.name}",
                    found=f"batch is {phase.batch}, expected a multiple of {self.world} processes times "
                    f"{self.config.accumulate} accumulated parts",
                    kept="Nothing was started",
                    todo="Change batch, accumulate or the number of processes",
                )

    # State

    def state(self) -> dict[str, Any]:
        """Return everything a checkpoint holds."""
        scaler = self.accelerator.scaler
        return {
            "stage": self.name[0],
            "config_name": self.name[1],
            "config": to_dict(self.config),
            "precision": self.precision,
            "networks": {key: net.state_dict() for key, net in self.nets.items()},
            "averages": {key: net.state_dict() for key, net in self.averages.items()},
            "optimisers": {key: optimiser.state_dict() for key, optimiser in self.optimisers.items()},
            "scaler": scaler.state_dict() if scaler is not None else {},
            "position": {key: getattr(self.position, key) for key in Position.__slots__},
            "figures": self.figures,
            "bad": self.bad,
            "command": self.options.command,
            "data": self.data_facts,
            "started_from": self.started_from,
        }

    def resume(self) -> bool:
        """Continue from the newest whole checkpoint; say whether there was one.

        Raises:
            SettingsError: it belongs to another stage or config.
            WeightsError: none is whole.
        """
        state = self.checkpoints.load(self.journal.note)
        if state is None:
            return False
        self._require_same(state)
        for key, net in self.nets.items():
            net.load_state_dict(state["networks"][key])
        for key, net in self.averages.items():
            net.load_state_dict(state["averages"][key])
        for key, optimiser in self.optimisers.items():
            optimiser.load_state_dict(state["optimisers"][key])
        if self.accelerator.scaler is not None and state["scaler"]:
            self.accelerator.scaler.load_state_dict(state["scaler"])
        self.position = Position(**state["position"])
        self.figures, self.bad, self.started_from = state["figures"], state["bad"], state["started_from"]
        before = state.get("precision", state["config"]["precision"])  # checkpoints did not always say
        if before != self.precision:
            self.journal.note(
                f"Computed in {called(before)} until now, in {called(self.precision)} from here on: precision is "
                f"{self.config.precision}"
            )
        if self.data_facts and state["data"].get("fingerprint") != self.data_facts["fingerprint"]:
            before, now = state["data"].get("pictures"), self.data_facts["pictures"]
            self.journal.note(f"The training pictures changed since the last checkpoint: {before} then, {now} now")
        return True

    def _require_same(self, state: dict[str, Any]) -> None:
        now, then = to_dict(self.config), state["config"]
        alike = {*RUNTIME_FIELDS}
        if "auto" in (now["precision"], then["precision"]):
            alike.add("precision")  # it follows the processor, which may be another one each time
        changed = [
            f"{key} was {then.get(key)!r} and is {now.get(key)!r}"
            for key in sorted({*now, *then} - alike)
            if now.get(key) != then.get(key)
        ]
        if state["stage"] != self.name[0]:
            changed.insert(0, f"the stage was {state['stage']} and is {self.name[0]}")
        if changed:
            raise SettingsError(
                f"Cannot continue the run in {self.options.out}",
                found="; ".join(changed),
                kept="Its checkpoints are unchanged",
                todo="Run the command it was started with, or name another --out (with --init to start from its "
                "weights)",
            )

    # A step

    def prepare(self) -> None:
        """Hand networks and optimisers to accelerate; call it once, after weights are in place."""
        for key, net in self.nets.items():
            run = torch.compile(net) if self.config.compile else net
            self._wrapped[key] = self.accelerator.prepare(run)  # type: ignore[assignment]
        for key, optimiser in self.optimisers.items():
            self._stepping[key] = self.accelerator.prepare(optimiser)

    def step(self, feed: Feed, phase: Phase, tally: Tally) -> None:
        """Take one step of every objective on one batch.

        Raises:
            TrainError: too many steps in a row had a gradient that is not finite.
        """
        parts = [feed.next() for _ in range(self.config.accumulate)]
        kept: list[dict[str, Tensor]] = [{} for _ in parts]
        # Both the step's own generator and the global one, which dropout and the like draw from.
        number = self._noise_seed()
        generator = torch.Generator(self.device).manual_seed(number)
        torch.manual_seed(number)
        failed: list[str] = []
        for objective in self.objectives:
            if objective.needs and not phase.weights.get(objective.needs):
                continue
            steps = [Step(phase, self.position.seen, self.position.steps, generator, memory) for memory in kept]
            if not self._follow(objective, phase, parts, steps, tally):
                failed.append(objective.name)
        self.position.seen += phase.batch
        self.position.total += phase.batch
        self.position.steps += 1
        tally.images += phase.batch
        if failed:
            self._count_skipped(failed)
        else:
            self.position.skipped_in_a_row = 0
            self._average(phase)

    def _noise_seed(self) -> int:
        text = f"{self.config.seed} {self.position.phase} {self.position.seen} {self.rank}"
        return int.from_bytes(hashlib.sha256(text.encode()).digest()[:7], "big")

    def _follow(self, objective: Objective, phase: Phase, parts: list[Batch], steps: list[Step], tally: Tally) -> bool:
        """Follow the gradient of one objective; say whether it was finite."""
        # Networks that this objective does not train run bare: no gradient is computed or exchanged for them.
        nets = {key: self._wrapped[key] if key in objective.trains else net for key, net in self.nets.items()}
        for key, net in self.nets.items():
            net.train()
            for weight in self._trainable[key]:
                weight.requires_grad_(key in objective.trains)
        optimiser = self._stepping[objective.name]
        optimiser.zero_grad(set_to_none=True)
        said: list[tuple[str, Tensor]] = []
        for index, (batch, step) in enumerate(zip(parts, steps, strict=True)):
            with contextlib.ExitStack() as waits:
                if index < len(parts) - 1:
                    for key in objective.trains:
                        waits.enter_context(self.accelerator.no_sync(self._wrapped[key]))
                with self.accelerator.autocast():
                    terms = objective.loss(nets, batch, step)
                said += [(term, value.detach()) for term, value in terms.items()]
                self.accelerator.backward(weigh(phase, terms) / len(parts))
        if self.accelerator.scaler is not None:
            self.accelerator.scaler.unscale_(self.optimisers[objective.name])
        weights = [weight for key in objective.trains for weight in self._trainable[key]]
        norm = torch.nn.utils.clip_grad_norm_(weights, self.config.clip or math.inf)
        finite = bool(norm.isfinite())
        set_learning_rate(self.optimisers[objective.name], objective.lr * learning_rate(phase, self.position.seen))
        if finite or self.accelerator.scaler is not None:
            optimiser.step()  # a loss scaler must see the bad gradient: it leaves the step out and lowers its scale
        if finite:
            for term, value in said:
                tally.add(term, value)
        return finite

    def _count_skipped(self, names: list[str]) -> None:
        self.position.skipped += 1
        self.position.skipped_in_a_row += 1
        if self.accelerator.scaler is None or self.position.skipped_in_a_row > 1:
            self.journal.note(
                f"The gradient of {', '.join(names)} was not finite at image {self.position.total}: step left out "
                f"({self.position.skipped} so far)"
            )
        if self.position.skipped_in_a_row >= self.config.bad_steps:
            saved = self.save()
            raise TrainError(
                f"Training of {self.name[0]} stopped",
                found=f"{self.position.skipped_in_a_row} steps in a row had a gradient that is not finite",
                kept=f"The state before them is in {saved}" if saved else "The state before them was saved",
                todo="Lower lr or the clip, look at the pictures named in the log, or use --set precision=no",
            )

    @torch.no_grad()
    def _average(self, phase: Phase) -> None:
        """Move the averages towards the weights.

        Half of what they hold is younger than `ema` images, or than a twelfth of the run while it is young.
        """
        half_life = min(self.config.ema, self.position.total / 12)
        decay = 0.5 ** (phase.batch / max(half_life, 1e-8))
        for key, average in self.averages.items():
            for slow, fast in zip(average.parameters(), self.nets[key].parameters(), strict=True):
                slow.lerp_(fast, 1 - decay)
            for slow, fast in zip(average.buffers(), self.nets[key].buffers(), strict=True):
                slow.copy_(fast)

    def judged(self) -> dict[str, nn.Module]:
        """Return the networks to validate and export: the averages where they are kept."""
        return {key: self.averages.get(key, net).eval() for key, net in self.nets.items()}

    def save(self) -> Path | None:
        """Write a checkpoint, in the first process; the others go on and wait at their next exchange."""
        if self.accelerator.is_main_process:
            return self.checkpoints.save(self.state(), self.position.total)
        return None


def channels_last(net: nn.Module) -> nn.Module:
    """Lay out convolution weights as the fast kernels want them, and return the network.

    `Module.to` would refuse those of five dimensions.
    """
    for weight in net.parameters():
        if weight.ndim == 4:
            weight.data = weight.data.contiguous(memory_format=torch.channels_last)
    return net


def _accelerator(precision: Precision, cpu: bool) -> Accelerator:
    try:
        accelerator = Accelerator(mixed_precision=precision, cpu=cpu)
    except ValueError as error:  # its word for what this machine, or a process that began otherwise, cannot have
        raise refuse(precision, str(error).splitlines()[0]) from error
    if precision != "no" and not accelerator.native_amp:
        raise refuse(precision, "accelerate would compute in float32 instead")
    return accelerator


def _described(init: Path) -> dict[str, Any]:
    """Return what is known of the weights a run starts from: name, images they had seen, command that made them."""
    if is_checkpoint(init):
        state = read_newest(init)
        earlier = state["started_from"]
        seen = state["position"]["total"] + earlier.get("images_seen", 0)
        return {"name": init.name, "images_seen": seen, "command": chained(earlier, state["command"])}
    card = init.with_suffix(".json")
    known = json.loads(card.read_text("utf-8")) if card.is_file() else {}
    return {"name": init.name, "images_seen": known.get("images_seen", 0), "command": known.get("command", "")}


def chained(started_from: dict[str, Any], command: str) -> str:
    """Return the commands that led to weights, the earliest first."""
    return "; then ".join(filter(None, (started_from.get("command", ""), command)))


def weigh(phase: Phase, terms: dict[str, Tensor]) -> Tensor:
    """Return the weighted sum of an objective's terms.

    Raises:
        SettingsError: the phase gives a term no weight, so that nothing would be learnt from it.
    """
    if missing := sorted(terms.keys() - phase.weights.keys()):
        raise SettingsError(
            f"Phase {phase.name} does not weigh {', '.join(missing)}",
            found=f"it weighs {', '.join(phase.weights) or 'nothing'}; expected a weight for each loss it computes",
            kept="Nothing was learnt from it",
            todo=f"Add the weight: --set phases.{phase.name}.weights.{missing[0]}=1",
        )
    return torch.stack([phase.weights[term] * value.float() for term, value in terms.items()]).sum()
