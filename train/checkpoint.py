"""Checkpoints that survive whatever ends a run.

Each is a file of its own, written whole or not at all; `LAST.json`, replaced in one move, lists those kept with
their hashes. One that was damaged since is noticed by its hash, said so, and the one before it is used.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bfr_core.errors import SettingsError, WeightsError
from bfr_core.media.atomic import make_folder, publish
from bfr_core.models.checkpoints.files import sha256_of

FORMAT = 1
_KEEP = 2
_INDEX = "LAST.json"


class Checkpoints:
    """The checkpoints in a run's folder."""

    def __init__(self, out: Path) -> None:
        self.folder = out / "checkpoints"

    def save(self, state: dict[str, Any], total: int) -> Path:
        """Write a checkpoint after `total` images and forget all but the last two.

        Raises:
            OutputMediaError: the disk is full or read-only; earlier checkpoints are untouched.
        """
        make_folder(self.folder)
        path = self.folder / f"{total:010d}.pt"
        with publish(path) as file:
            torch.save({"format": FORMAT, **state}, file)
        kept = [entry for entry in self._index() if entry["file"] != path.name]
        kept.append({"file": path.name, "images": total, "sha256": sha256_of(path)})
        with publish(self.folder / _INDEX) as file:
            file.write(json.dumps(kept[-_KEEP:], indent=2).encode() + b"\n")
        names = {entry["file"] for entry in kept[-_KEEP:]}
        for old in self.folder.glob("*.pt"):
            if old.name not in names:
                old.unlink()
        return path

    def load(self, say: Callable[[str], None]) -> dict[str, Any] | None:
        """Return the newest checkpoint that is whole, None where there is none; `say` hears of damaged ones.

        Raises:
            WeightsError: there are checkpoints but none is whole.
        """
        entries = self._index()
        problems: list[str] = []
        for entry in reversed(entries):
            path = self.folder / entry["file"]
            try:
                state = read_checkpoint(path, sha256=entry["sha256"])
            except WeightsError as error:
                problems.append(str(error))
                continue
            for problem in problems:
                say(f"{problem} Going on from {path.name}, after {entry['images']} images.")
            return state
        if problems:
            raise WeightsError(
                f"Cannot continue the run in {self.folder.parent}",
                found=" ".join(problems),
                kept="Nothing was changed",
                todo="Name another --out to start anew, or move the checkpoints folder away",
            )
        return None

    def _index(self) -> list[dict[str, Any]]:
        path = self.folder / _INDEX
        if not path.exists():
            return []
        try:
            return list(json.loads(path.read_text("utf-8")))
        except (OSError, ValueError) as error:
            raise WeightsError(
                f"Cannot read {path}",
                found=f"{error}; expected the list of checkpoints",
                kept="Nothing was changed",
                todo="Move the checkpoints folder away to start anew; its .pt files can still be exported",
            ) from error


def read_newest(place: Path, stage: str = "") -> dict[str, Any]:
    """Read a checkpoint, or the newest whole one of the run in a folder.

    Raises:
        WeightsError: there is none, or it is damaged.
        SettingsError: it is of another stage than `stage`, where one is named.
    """
    state = Checkpoints(place).load(lambda text: None) if place.is_dir() else read_checkpoint(place)
    if state is None:
        raise WeightsError(
            f"Cannot use the run in {place}",
            found="it holds no checkpoints; expected the --out folder of a run",
            kept="Nothing was changed",
            todo="Name the run's folder or one of its .pt files",
        )
    if stage and state["stage"] != stage:
        raise SettingsError(
            f"Cannot use {place}",
            found=f"it holds a run of {state['stage']}, expected {stage}",
            kept="Nothing was started or written",
            todo=f"Name the folder of a run of {stage}, or one of its .pt files",
        )
    return state


def averaged(state: dict[str, Any], network: str) -> dict[str, Tensor]:
    """Return a network's averaged weights, or its last ones where the run kept no average of it."""
    return state["averages"].get(network) or state["networks"].get(network, {})


def read_checkpoint(path: Path, *, sha256: str | None = None) -> dict[str, Any]:
    """Read one checkpoint onto the CPU.

    Raises:
        WeightsError: it is missing, damaged, or not a checkpoint of this harness.
    """

    def refuse(found: str, cause: Exception | None = None) -> WeightsError:
        error = WeightsError(
            f"Cannot use the checkpoint {path}", found=found, kept="The file is unchanged", todo="Use an older one"
        )
        error.__cause__ = cause
        return error

    try:
        if sha256 is not None and (actual := sha256_of(path)) != sha256:
            raise refuse(f"its sha256 is {actual}, expected {sha256}: it was damaged or replaced")
        state = torch.load(path, map_location="cpu", weights_only=True)
    except WeightsError:
        raise
    except Exception as error:  # torch.load raises whatever its pickle, zip and storage code raise
        raise refuse(f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}", error) from error
    if not isinstance(state, dict) or state.get("format") != FORMAT:
        raise refuse(f"it is not a checkpoint of format {FORMAT} of this harness")
    return state
