"""What `--status` shows: a table of the plan's stages, and why results were not kept."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..journal import JOURNAL
from .folder import PlanFolder
from .judging import in_words
from .kept import targets
from .plan import Plan, Planned

_HEAD = ("stage", "state", "images", "hours", "figures", "weights")
_MOST = 3
"""Figures shown of a stage, those with rules first; its record has them all."""


@dataclass(slots=True)
class Progress:
    """What a run's log tells."""

    images: int = 0
    seconds: float = 0.0
    """Of training and validation, whatever became of them: what was lost when a run was killed counts."""
    validated_at: int = 0
    figures: dict[str, float] = field(default_factory=dict)
    """Of the last validation."""


def progress(run: Path) -> Progress:
    """Read a run's log; one that is being written may end in the middle of a line."""
    found = Progress()
    path = run / JOURNAL
    if not path.is_file():
        return found
    for line in path.read_text("utf-8").splitlines():
        try:
            entry: dict[str, Any] = json.loads(line)
        except ValueError:
            continue
        found.seconds += entry.get("seconds", 0.0)
        found.images = entry.get("total", found.images)
        if "validation" in entry:
            found.validated_at, found.figures = entry["total"], entry["validation"]
    return found


def table(plan: Plan, folder: PlanFolder) -> list[str]:
    """Return the status as lines: the table, then a line for each result that was not kept and why."""
    rows: list[tuple[str, ...]] = [_HEAD]
    reasons: list[str] = []
    hours = 0.0
    decided = 0
    for planned in plan.stages:
        result, begun = folder.result(planned.name), folder.begun(planned.name)
        done = progress(folder.run(planned.name))
        hours += done.seconds / 3600
        decided += result is not None
        rows.append(
            (
                planned.name,
                _state(planned, result, begun, done),
                _images(planned, begun, done),
                f"{done.seconds / 3600:.1f}" if done.seconds else "-",
                _figures(planned, result, done),
                _weights(plan, planned, folder, result),
            )
        )
        if result is not None and not result["kept"]:
            faults = [in_words(check) for check in result["checks"] if not check["holds"]]
            reasons.append(f"{planned.name}: {result.get('withdrawn') or '; '.join(faults)}")
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    head = f"{plan.path.name} in {folder.path}: {decided} of {len(plan.stages)} stages decided, {hours:.1f} hours"
    return [head, "", *lines, *(["", "Not kept:", *reasons] if reasons else [])]


def _state(planned: Planned, result: Mapping[str, Any] | None, begun: Mapping[str, Any] | None, done: Progress) -> str:
    if result is not None and result["kept"]:
        return "kept" if planned.rivals else "handed on"
    if result is not None:
        return "withdrawn" if "withdrawn" in result else "not kept"
    if begun is None:
        return "waiting"
    return "measuring" if done.images >= begun["images"] else "training"


def _images(planned: Planned, begun: Mapping[str, Any] | None, done: Progress) -> str:
    if begun is not None:
        return f"{done.images:,} of {begun['images']:,}"
    entry = planned.entry
    if entry.hours is not None:
        return f"those of {entry.hours:g} hours"
    return f"0 of {entry.images or sum(phase.images for phase in planned.config.phases):,}"


def _figures(planned: Planned, result: Mapping[str, Any] | None, done: Progress) -> str:
    after = done.figures if result is None else result["after"]
    before = {} if result is None else result.get("before", {})
    names = dict.fromkeys([*(figure for _, figure, _ in planned.entry.keep.rules()), *after])
    shown = [
        f"{name} {f'{before[name]:.4g} -> ' if name in before else ''}{after[name]:.4g}"
        for name in names
        if name in after
    ]
    at = f" after {done.validated_at:,}" if result is None and shown else ""
    return ", ".join(shown[:_MOST]) + at or "-"


def _weights(plan: Plan, planned: Planned, folder: PlanFolder, result: Mapping[str, Any] | None) -> str:
    if result is None:
        return "-"
    if not result["kept"]:
        return "as before: " + ", ".join(targets(plan, planned))
    names = [name for name in targets(plan, planned) if folder.kept(name).is_file()]
    return ", ".join(f"weights/{name}.safetensors" for name in names) or result["product"]
