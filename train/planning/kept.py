"""The weights that a plan keeps, in a folder by themselves and named as what they take the place of."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from bfr_core.media.atomic import publish
from bfr_core.models.checkpoints.files import load_state

from ..export import write_weights
from .folder import PlanFolder
from .plan import Plan, Planned


def targets(plan: Plan, planned: Planned) -> dict[str, Path]:
    """Return what the result of a stage takes the place of: names, and the files that are there now."""
    found: dict[str, Path] = {}
    for place in planned.rivals:
        if place.kind == "stage":
            found |= targets(plan, plan[place.name])
        else:
            (path,) = plan.paths(place)
            found[path.stem] = path
    return found


def publish_kept(plan: Plan, folder: PlanFolder) -> dict[str, list[str]]:
    """Bring the folder of kept weights to what is decided, and return the names that each stage's weights have there.

    Of two stages that write the same file, such as one that refines a part of what another trained, the later one's
    stays.
    """
    written: dict[str, str] = {}
    for planned in plan.stages:
        result = folder.result(planned.name)
        export = folder.export(planned.name)
        if result is None or not result["kept"] or not export.is_file():
            continue
        places = targets(plan, planned)
        for name, state in _divided(load_state(export), places).items() if len(places) > 1 else ():
            _write_part(export, folder.kept(name), state)
            written[name] = planned.name
        if len(places) == 1:
            (name,) = places
            _copy(export, folder.kept(name))
            written[name] = planned.name
    for name in {name for planned in plan.stages for name in targets(plan, planned)} - written.keys():
        for suffix in (".safetensors", ".json"):
            folder.kept(name).with_suffix(suffix).unlink(missing_ok=True)
    return {stage: [name for name, by in written.items() if by == stage] for stage in set(written.values())}


def _divided(state: Mapping[str, Tensor], places: Mapping[str, Path]) -> dict[str, dict[str, Tensor]]:
    """Divide weights as the files that they take the place of divide them; keys that are new go to the first."""
    parts: dict[str, dict[str, Tensor]] = {name: {} for name in places}
    homes = {key: name for name, path in places.items() for key in load_state(path)}
    first = next(iter(places))
    for key, tensor in state.items():
        parts[homes.get(key, first)][key] = tensor
    return {name: part for name, part in parts.items() if part}


def _write_part(export: Path, target: Path, state: Mapping[str, Tensor]) -> None:
    fields: dict[str, Any] = json.loads(export.with_suffix(".json").read_text("utf-8"))
    for own in ("parameters", "sha256", "licence"):
        del fields[own]
    dtype = next(iter(state.values())).dtype
    write_weights(target, state, dtype=str(dtype).removeprefix("torch."), **fields)


def _copy(export: Path, target: Path) -> None:
    # The card first: weights that are there have theirs.
    for suffix in (".json", ".safetensors"):
        with publish(target.with_suffix(suffix)) as file:
            file.write(export.with_suffix(suffix).read_bytes())
