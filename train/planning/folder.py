"""The folder of a plan: what has begun, what came of it, and which weights are kept.

plan.json          stages that have begun: what they were told, and the images their budget comes to
runs/NAME/         the run of a stage: checkpoints, log, sheets
exports/NAME.*     its averaged weights, with their card
results/NAME.json  figures before and after, and the decision
weights/*          what is kept, named as what it takes the place of
lock               held while a command is at it
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

from bfr_core.errors import SettingsError
from bfr_core.media.atomic import TEMPORARY_PREFIX, make_folder, publish, require_writable, sweep
from bfr_core.media.lock import LOCK, hold_folder

_PLAN = "plan.json"


class PlanFolder:
    """A plan's folder; as a context it is held against every other run. Without, it can only be looked at."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._held: BinaryIO | None = None

    def __enter__(self) -> PlanFolder:
        record = self.path / _PLAN
        if self.path.is_dir() and not record.exists():
            # Of a command that was killed there may be a lock and an unfinished file; anything else is somebody's.
            names = [entry.name for entry in self.path.iterdir() if entry.name != LOCK]
            if strange := [name for name in names if not name.startswith(TEMPORARY_PREFIX)]:
                raise SettingsError(
                    f"Cannot use {self.path}",
                    found=f"it holds {strange[0]} and no {_PLAN}, so it is no folder of a plan",
                    kept="Nothing in it was changed",
                    todo="Name another --out",
                )
        make_folder(self.path)
        self._held = hold_folder(self.path)
        try:
            require_writable(self.path)
            sweep(self.path)
            if not record.exists():
                self._write(record, {})
            for name in ("exports", "results", "weights"):
                make_folder(self.path / name)
                sweep(self.path / name)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *error: object) -> None:
        held, self._held = self._held, None
        if held is not None:
            held.close()

    def run(self, name: str) -> Path:
        """Return the folder of a stage's run."""
        return self.path / "runs" / name

    def export(self, name: str) -> Path:
        """Return the file of a stage's exported weights."""
        return self.path / "exports" / f"{name}.safetensors"

    def kept(self, name: str) -> Path:
        """Return the file of weights that are kept."""
        return self.path / "weights" / f"{name}.safetensors"

    def begun(self, name: str) -> dict[str, Any] | None:
        """Return what a stage was told when it began, None where it has not.

        Raises:
            SettingsError: the record is damaged.
        """
        return self._read(self.path / _PLAN, {}).get(name)

    def begin(self, name: str, told: Mapping[str, Any]) -> None:
        """Note what a stage is told, or check that it is what it was told when it began.

        Raises:
            SettingsError: it began otherwise; the message says what differs.
        """
        every = self._read(self.path / _PLAN, {})
        now, then = json.loads(json.dumps(dict(told))), every.get(name)
        if then is None:
            self._write(self.path / _PLAN, every | {name: now})
            return
        changed = [f"{key} was {then.get(key)!r} and is {now.get(key)!r}" for key in now if then.get(key) != now[key]]
        if changed:
            raise SettingsError(
                f"Cannot continue stage {name} in {self.path}",
                found="; ".join(changed),
                kept="What it has is unchanged",
                todo="Use the plan it was begun with, or name another --out; to train it anew, remove its run, its "
                f"result and its entry in {_PLAN}",
            )

    def result(self, name: str) -> dict[str, Any] | None:
        """Return what came of a stage, None where it is not decided.

        Raises:
            SettingsError: the record is damaged.
        """
        return self._read(self._result(name), None)

    def decide(self, name: str, result: Mapping[str, Any]) -> None:
        """Write what came of a stage."""
        self._write(self._result(name), result)

    def _result(self, name: str) -> Path:
        return self.path / "results" / f"{name}.json"

    @staticmethod
    def _write(path: Path, content: Mapping[str, Any]) -> None:
        with publish(path) as file:
            file.write(json.dumps(content, indent=2).encode() + b"\n")

    @staticmethod
    def _read(path: Path, missing: Any) -> Any:
        try:
            return json.loads(path.read_text("utf-8")) if path.exists() else missing
        except (OSError, ValueError) as error:
            raise SettingsError(
                f"Cannot read {path}",
                found=f"{error}; expected a record of the plan",
                kept="Nothing was changed",
                todo="Remove the file: its stage is then begun or decided anew from the run that is there",
            ) from error
