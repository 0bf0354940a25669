"""`--dry-run`: what a run would cost, from a few real steps that leave nothing behind."""

from __future__ import annotations

import dataclasses
import time

import torch
from torch.autograd.graph import saved_tensors_hooks
from torch.utils.flop_counter import FlopCounterMode

from .config import Phase
from .data import Batch, Feed
from .journal import Journal
from .loop import open_data
from .precision import called
from .run import Run, Tally, TrainOptions, weigh
from .stage import Stage, Step

_STEPS = 4


def estimate(name: tuple[str, str], stage: Stage, options: TrainOptions) -> None:
    """Print parameters, arithmetic, memory and speed of every phase."""
    journal = Journal(options.out, keep=False)
    run = Run(name, stage, options, journal)
    pictures, _ = open_data(run)
    run.prepare()
    place = f"{run.world} x {run.device} in {called(run.precision)}"
    journal.say(f"{name[0]} {name[1]} on {place}, {len(pictures)} pictures")
    weights = 0
    for key, net in run.nets.items():
        count = sum(weight.numel() for weight in net.parameters())
        weights += sum(weight.numel() * weight.element_size() for weight in net.parameters())
        journal.say(f"  {key}: {count / 1e6:.2f} M parameters")
    total = 0.0
    for phase in run.config.phases:
        feed = Feed(
            stage.examples(pictures, phase),
            start=0,
            batch=phase.batch,
            parts=run.config.accumulate,
            world=run.world,
            workers=options.workers,
            device=run.device,
        )
        try:
            batch = feed.next()
            flops, activations = _arithmetic(run, phase, batch)
            _rate(run, phase, feed, steps=1)  # the first step allocates and compiles
            before, began = feed.waited, time.monotonic()
            rate = _rate(run, phase, feed)
            waiting = (feed.waited - before) / (time.monotonic() - began)
            data_rate = _data_rate(feed, phase, run)
        finally:
            feed.close()
        total += phase.images / rate
        # Weights, gradients, average and two moments (AdamW) or one (Muon).
        copies = 3 + (1 if run.config.optimiser == "muon" else 2)
        memory = weights * copies + activations
        journal.say(
            f"  {phase.name}: {phase.images} images of {phase.size} px, batch {phase.batch}; "
            f"{flops / 1e9:.1f} GFLOP an image forward and backward; about {memory / 2**20:.0f} MiB "
            f"({activations / 2**20:.0f} of it activations); {rate:.2f} images/s, {100 * waiting:.0f} % of the time "
            f"waiting for data; data alone {data_rate:.1f} images/s with {options.workers} workers; "
            f"{phase.images / rate / 60:.0f} min"
        )
        if run.device.type == "cuda":
            journal.say(f"  {phase.name}: {torch.cuda.max_memory_allocated(run.device) / 2**20:.0f} MiB measured")
    journal.say(f"  in all {total / 3600:.1f} hours, validation not counted. Nothing was written.")


def rates(name: tuple[str, str], stage: Stage, options: TrainOptions) -> list[float]:
    """Return the images a second of every phase, by a few real steps that leave nothing behind; in silence.

    Raises:
        BfrError: what it was given cannot be used.
    """
    run = Run(name, stage, options, Journal(options.out, main=False, keep=False))
    pictures, _ = open_data(run)
    run.prepare()
    found = []
    for phase in run.config.phases:
        feed = Feed(
            stage.examples(pictures, phase), start=0, batch=phase.batch, parts=run.config.accumulate, world=run.world,
            workers=options.workers, device=run.device,
        )  # fmt: skip
        try:
            _rate(run, phase, feed, steps=1)  # the first step allocates and compiles
            found.append(_rate(run, phase, feed))
        finally:
            feed.close()
    return found


def _data_rate(feed: Feed, phase: Phase, run: Run) -> float:
    """Images a second that the workers make while the network rests; what they had made ahead is not counted."""
    for _ in range(4 * max(run.options.workers, 1)):
        feed.next()
    began, seconds, images = time.monotonic(), 0.0, 0
    while seconds < 3.0:
        images += phase.batch // run.config.accumulate
        feed.next()
        seconds = time.monotonic() - began
    return images / seconds


def _arithmetic(run: Run, phase: Phase, batch: Batch) -> tuple[float, float]:
    """Return floating-point operations of one image, forward and backward, and bytes kept for the backward pass."""
    known = {weight.untyped_storage().data_ptr() for net in run.nets.values() for weight in net.parameters()}
    kept: dict[int, int] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in known:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    generator, memory = torch.Generator(run.device).manual_seed(0), {}
    counter, largest = FlopCounterMode(display=False), 0
    with counter:
        for objective in run.objectives:
            if objective.needs and not phase.weights.get(objective.needs):
                continue
            kept.clear()
            for key, net in run.nets.items():
                net.requires_grad_(key in objective.trains)
            with saved_tensors_hooks(pack, lambda tensor: tensor), run.accelerator.autocast():
                terms = objective.loss(run.nets, batch, Step(phase, 0, 0, generator, memory))
                loss = weigh(phase, terms)
            largest = max(largest, sum(kept.values()))
            loss.backward()
    for net in run.nets.values():
        net.zero_grad(set_to_none=True)
    images = next(iter(batch.values())).shape[0]
    return counter.get_total_flops() / images, float(largest)


def _rate(run: Run, phase: Phase, feed: Feed, steps: int = _STEPS) -> float:
    """Images a second over a few real steps that hardly move the weights."""
    still = dataclasses.replace(phase, lr=(1e-12, 1e-12))
    laps = []
    for _ in range(steps):
        began = time.monotonic()
        run.step(feed, still, Tally())
        if run.device.type == "cuda":
            torch.cuda.synchronize(run.device)
        laps.append(time.monotonic() - began)
    return phase.batch * len(laps) / sum(laps)
