"""What of a folder of results is finished, so that the same command goes on where it was stopped.

Beside the results lies a record, one line of JSON for each file that was begun and for each that was finished. Lines
are only ever added, so a run that is killed loses none of those before.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import BfrError
from ..media.atomic import append_line
from ._output import say

if TYPE_CHECKING:
    from ..media.outputs import FilePair

RECORD = ".bfr-finished.jsonl"
"""Name of the record, in the folder of the results."""

_NO_MATTER = {
    "inputs", "out", "report", "overwrite", "restart", "job", "keep_faces", "dry_run", "analyse_only", "device",
    "command", "run", "params",
}  # fmt: skip
"""Options under which a result is the same."""


def asked_of(args: argparse.Namespace) -> dict[str, Any]:
    """Return the options that a result depends on, as plain JSON types."""
    options = {name: value for name, value in vars(args).items() if name not in _NO_MATTER}
    return json.loads(json.dumps(options, default=str))


class Finished:
    """The record of one folder of results.

    Args:
        folder: of the results; it need not be there yet.
        asked: the options of this run, from `asked_of`.
    """

    def __init__(self, folder: Path, asked: Mapping[str, Any]) -> None:
        self.path, self.asked = folder / RECORD, dict(asked)
        self._begun: dict[str, dict[str, Any]] = {}
        self._entries: dict[str, dict[str, Any]] = {}
        self._broken = False
        try:
            lines = self.path.read_text(encoding="utf-8").splitlines()
        except OSError:
            lines = []
        for line in lines:
            try:
                told = json.loads(line)
                (self._begun if told["what"] == "begun" else self._entries)[told["target"]] = told
            except (ValueError, KeyError, TypeError):
                continue  # the last line of a run that was killed: its result counts by the line of its beginning

    def standing(self, job: FilePair) -> str | None:
        """Tell of a result that is there: empty if finished as asked, None if unknown, else what is otherwise.

        Results appear whole or not at all. So one that was begun, and stands where none or another stood then, is
        finished.
        """
        begun = self._begun.get(self._name(job))
        if begun is None or begun["stood"] == _state(job.target):
            return None
        if begun["source"] != _content(job.source):
            return f"it was made of another {job.source.name}, which has changed since"
        changed = [
            f"--{name.removeprefix('param_').replace('_', '-')} was {was} and is {self.asked[name]} now"
            for name, was in begun["asked"].items()
            if name in self.asked and self.asked[name] != was
        ]
        return f"it was made with other options: {', '.join(changed)}" if changed else ""

    def entry(self, job: FilePair) -> dict[str, Any]:
        """Return what the report said of a result when it was made; nothing where that run was killed right then."""
        told = self._entries.get(self._name(job), {}).get("entry", {})
        return told if isinstance(told, dict) else {}

    def begin(self, job: FilePair) -> None:
        """Record that a result is being made."""
        self._add(job, {"what": "begun", "source": _content(job.source), "stood": _state(job.target)})

    def finish(self, job: FilePair, entry: Mapping[str, Any]) -> None:
        """Record what the report says of a result that is made."""
        self._add(job, {"what": "finished", "entry": dict(entry)})

    def _name(self, job: FilePair) -> str:
        return job.target.relative_to(self.path.parent).as_posix()

    def _add(self, job: FilePair, told: dict[str, Any]) -> None:
        told |= {"target": self._name(job), "asked": self.asked}
        try:
            append_line(self.path, json.dumps(told).encode())
        except OSError as error:
            # Results matter more than their record.
            if not self._broken:
                say(
                    f"Cannot record in {self.path} what is finished ({error.strerror}): the same command will not go on"
                )
            self._broken = True


def _state(target: Path) -> list[int] | None:
    """Return what tells one state of a file from another; None where there is none."""
    try:
        status = target.stat()
    except OSError:
        return None
    return [status.st_size, status.st_mtime_ns, status.st_ino]


def _content(source: Path) -> dict[str, Any] | None:
    """Return what tells the content of a file, so that its copy counts as the same."""
    from ..video.reader import file_fingerprint

    try:
        told = file_fingerprint(source)
    except BfrError:
        return None
    return {"bytes": told["bytes"], "sha256": told["sha256"]}
