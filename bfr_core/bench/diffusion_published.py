"""The diffusion methods in their published sizes, end to end with random weights: memory and time of one face.

Nobody publishes weights for them; neither figure depends on the weights.
"""

from __future__ import annotations

import itertools
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from multiprocessing import get_context
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import nn

from ..registry import GUIDANCE, Config, get_method, methods
from ..restoration.faces import FaceBatch, restore_crops
from ..restorer import Restorer
from ..runtime import Runtime
from .memory import kilobytes

PART = "diffusion"
"""By which methods ask to be measured here."""
_LIMIT = 24e9
"""Bytes that a face may take."""

Net = TypeVar("Net", bound=nn.Module)


def measured_configs() -> list[tuple[str, str]]:
    """Return method and config of the published sizes, the smaller ones of a method first."""
    found = []
    for method in methods().values():
        if PART in method.published_benches:
            sizes = sorted((config for config in method.configs if not config.embedded), key=lambda config: config.size)
            found += [(method.id, config.name) for config in sizes]
    return found


def measure(data: Path | None, say: Callable[[str], None], sheets: Path | None = None) -> dict[str, Any]:
    """Restore a face in each published size, in a process of its own, with as few steps as tell the time of one."""
    del data, sheets
    return {
        f"{method}/{name}": measure_one(method, get_method(method).config(name), say)
        for method, name in measured_configs()
    }


def measure_one(method: str, config: Config, say: Callable[[str], None]) -> dict[str, Any]:
    """Measure one config with its own settings but for the steps, guided where it is, and say what all would take."""
    declared = get_method(method)
    chosen = asdict(declared.settings({}, config))
    taken = 1 if declared.patch_batch else 2  # a step over patches is one over each of them
    found = alone(method, config, {"steps": taken})
    title = f"{method}/{config.name}, random weights"
    if "exit" in found:
        say(f"{title}: broke off, its process ended with {found['exit']}; -9 tells that memory ran out")
        return found
    planned = evaluations(str(chosen["sampler"]), int(chosen["steps"]))
    each, rest = found["evaluation_seconds"], found["before_seconds"] + found["after_seconds"]
    figures = {**found, "planned_evaluations": planned, "extrapolated_seconds": round(planned * each + rest, 1)}
    guided = " guided" if chosen.get(GUIDANCE) else ""
    if chosen.get(GUIDANCE) and "gradient" in chosen:
        guided += f" by the gradient through the {chosen['gradient']}"
    say(f"{title}: {found['parameters'] / 1e6:.1f} M parameters, a face of {config.size} px")
    if found["peak_bytes"] is None:
        say("  peak memory: can be read on Linux only")
    else:
        figures["within_limit"] = found["peak_bytes"] <= _LIMIT
        limit = f"{'within' if figures['within_limit'] else 'BEYOND'} the {_LIMIT / 1e9:.0f} GB promised"
        say(f"  peak memory of the process {found['peak_bytes'] / 1e9:.2f} GB, {limit}")
    say(
        f"  measured: {each:.1f} s for each of {found['evaluations']}{guided} evaluations ({taken} steps, "
        f"{chosen['sampler']}), {found['before_seconds']:.1f} s before them, {found['after_seconds']:.1f} s after, "
        f"{found['seconds']:.1f} s in all"
    )
    say(
        f"  extrapolated, not measured: {figures['extrapolated_seconds']:.0f} s for the published {chosen['steps']} "
        f"steps, {planned} evaluations"
    )
    return figures


def evaluations(sampler: str, steps: int) -> int:
    """Return how often a sampler evaluates the network."""
    return max(2 * steps - 1, 0) if sampler == "heun" else steps


def memory(method: str, config: Config, given: Mapping[str, Any], say: Callable[[str], None]) -> dict[str, Any] | None:
    """Restore a face with random weights in a process of its own; say what memory that took beside its libraries."""
    found = alone(method, config, given)
    if "exit" in found:
        say(f"  peak memory: not known, the process ended with {found['exit']}")
        return found
    if found["peak_bytes"] is None:
        say("  peak memory: can be read on Linux only")
        return None
    weights, peak = found["parameter_bytes"], found["peak_bytes"]
    grown = peak - found["start_bytes"]
    say(
        f"  peak memory of the process {peak / 1e9:.2f} GB, {found['start_bytes'] / 1e9:.2f} GB of it before the "
        f"network was made; the face took {grown / weights:.1f} x the {weights / 1e6:.0f} MB of parameters"
    )
    return {"peak_bytes": peak, "grown_bytes": grown, "over_parameters": round(grown / weights, 2)}


def filled(net: Net) -> Net:
    """Give weights that begin at zero some: zero convolutions would let the network say nothing."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weight in net.parameters():
            if not weight.any():
                weight.normal_(0, 0.05, generator=generator)
    return net.eval().requires_grad_(False)


# A process of its own -------------------------------------------------------------------------------------------------


def alone(method: str, config: Config, given: Mapping[str, Any]) -> dict[str, Any]:
    """Restore a face with random weights in a new process; return its figures, or {"exit": code} where it died."""
    context = get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_restore, args=(theirs, method, config, dict(given), torch.get_num_threads()))
    process.start()
    theirs.close()
    try:
        found = ours.recv()
    except EOFError:
        found = None
    process.join()
    return {"exit": process.exitcode} if found is None else found


def _restore(connection: Any, method: str, config: Config, given: Mapping[str, Any], threads: int) -> None:
    torch.set_num_threads(threads)
    declared = get_method(method)
    start = _memory("VmRSS")
    net = filled(declared.build(config))
    restorer = Restorer(declared, config, net, "random")
    marks: dict[int, float] = {}

    def mark(index: int, total: int) -> None:
        marks.setdefault(index, time.perf_counter())  # patches report within an evaluation, too

    runtime = Runtime(on_step=mark)
    face = torch.rand(1, 3, config.size, config.size, generator=torch.Generator().manual_seed(1))
    begun = time.perf_counter()
    restore_crops(FaceBatch(face, [0], given, colours="method"), restorer, runtime)
    laps = [b - a for a, b in itertools.pairwise([begun, *marks.values(), time.perf_counter()])]
    each = statistics.median(laps[1:-1] or laps[-1:])  # of a single evaluation the end is part
    connection.send(
        {
            "parameters": sum(p.numel() for p in net.parameters()),
            "parameter_bytes": sum(p.numel() * p.element_size() for p in net.parameters()),
            "start_bytes": start,
            "peak_bytes": _memory("VmHWM"),
            "seconds": round(sum(laps), 3),
            "evaluations": len(marks),
            "evaluation_seconds": round(each, 4),
            "before_seconds": round(laps[0], 3),
            "after_seconds": round(max(laps[-1] - each, 0), 3),
        }
    )


def _memory(field: str) -> int | None:
    status = Path("/proc/self/status")
    return kilobytes(status, field) * 1024 if status.exists() else None
