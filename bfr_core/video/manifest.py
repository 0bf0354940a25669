"""The folder of a job: what a run has finished, so that the next one goes on there, and nothing is taken on trust.

    job.json          version of the form, the job's number, settings of each stage
    scan_000000.*     frames that were looked through: arrays (safetensors) and their record (json)
    scan.json         how many such parts there are, once all are
    tracks.json       which faces are restored; may be edited between two runs
    drift.json        how far restoring moves each face's identity, where a limit was given
    segment_000000.*  encoded frames and their record
    faces/            restored faces, where they are to be kept for another run
    report/           pictures of the faces, and the report
    lock              held while a run is at it

Each record holds the size and the SHA-256 of its file, the number of the job, the settings it was made with, and a
seal over itself: a file that is missing, short, damaged or of another job is made again.
"""

from __future__ import annotations

import hashlib
import json
import secrets
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from ..errors import OutputMediaError, SettingsError
from ..media.atomic import make_folder, publish, require_writable, sweep
from ..media.lock import LOCK, hold_folder
from .segments import PREFIX, Segment, measure
from .types import Scan

VERSION = 1
"""Of the form of a job's folder."""

STAGES = ("analysis", "render")
"""In order: each goes on from what the one before found."""

_JOB, _SCAN = "job.json", "scan.json"
_SCAN_PART = "scan_"


class JobFolder:
    """A job's folder, as a context that holds it against every other run.

    Args:
        path: the folder; made where it is missing.
        check_cancel: raises where the run is to stop; asked while files are read to be verified.

    Raises:
        OutputMediaError: on entering: the place cannot be written, is another kind of folder, or is held.
    """

    def __init__(self, path: Path, check_cancel: Callable[[], None] = lambda: None) -> None:
        self.path, self._check_cancel = Path(path), check_cancel
        self._held: BinaryIO | None = None
        self._job: dict[str, Any] = {}
        self._broken = ""
        self._parts: int | None = None
        """Of the scan, that are whole; None before they were counted."""

    def __fspath__(self) -> str:
        return str(self.path)

    @property
    def report(self) -> Path:
        """Folder of the pictures and the report; there while the context is."""
        return self.path / "report"

    @property
    def token(self) -> str:
        """Name of this job, which its unfinished files bear."""
        return self._job["id"]

    def __enter__(self) -> JobFolder:
        job = self.path / _JOB
        if self.path.is_dir() and not job.exists():
            # Of a killed run there may be a lock and an unfinished file; anything else is somebody's.
            strange = [entry.name for entry in self.path.iterdir() if entry.name not in (LOCK, "report")]
            strange = [name for name in strange if not name.startswith(".bfr-")]
            if strange:
                raise self._error(
                    f"it holds {strange[0]} and no {_JOB}, so it is no folder of a job", "Choose another folder"
                )
        make_folder(self.path)
        self._held = hold_folder(self.path)
        try:
            require_writable(self.path)
            sweep(self.path)
            make_folder(self.report)
            sweep(self.report)
            self._job, self._broken = self._read_job()
        except BaseException:
            self._release()
            raise
        return self

    def __exit__(self, *error: Any) -> None:
        self._release()

    def _release(self) -> None:
        held, self._held = self._held, None
        if held is not None:
            held.close()

    def _error(self, found: str, todo: str) -> OutputMediaError:
        return OutputMediaError(f"Cannot use {self.path}", found=found, kept="Nothing in it was changed", todo=todo)

    # Settings -------------------------------------------------------------------------------------------------------

    def begin(self, settings: Mapping[str, Any], stage: str, restart: bool = False) -> None:
        """Begin or continue a stage with these settings.

        Args:
            settings: everything that its results depend on, as JSON types.
            stage: one of STAGES.
            restart: where the settings differ, throw away what this stage and those after it made.

        Raises:
            SettingsError: results of other settings are there, and `restart` is off; the message names what differs.
        """
        told = json.loads(json.dumps(settings, sort_keys=True))
        if self._broken and not restart:
            raise self._refusal(self._broken)
        stages: dict[str, Any] = self._job.get("stages", {})
        before = stages.get(stage)
        if before == told and not self._broken:
            return
        if before is not None and not restart and not self._broken and self._holds_results(stage):
            raise self._refusal(f"it was begun with other settings: {'; '.join(self._differences(before, told))}")
        later = STAGES[STAGES.index(stage) :]
        if before is not None or self._broken:
            self._discard(later)
        stages = {} if self._broken else {name: kept for name, kept in stages.items() if name not in later}
        self._job = {
            "version": VERSION,
            "id": self._job.get("id") if not self._broken else secrets.token_hex(8),
            "stages": stages | {stage: told},
        }
        self._broken = ""
        self.write_json(_JOB, self._job)

    def _holds_results(self, stage: str) -> bool:
        """Tell whether anything was finished with a stage's settings; a run that failed before leaves nothing."""
        patterns = [f"{PREFIX}*.json", *([f"{_SCAN_PART}*.json", _SCAN] if stage == "analysis" else [])]
        return any(next(self.path.glob(pattern), None) for pattern in patterns)

    def settings(self, stage: str) -> dict[str, Any]:
        """Return the settings that a stage was begun with; none where it was not."""
        return dict(self._job.get("stages", {}).get(stage, {}))

    def _refusal(self, found: str) -> SettingsError:
        return SettingsError(
            f"Cannot continue the job in {self.path}",
            found=found,
            kept="What it has finished is kept",
            todo="Use the same settings, or begin anew with --restart, or in another folder",
        )

    @staticmethod
    def _differences(before: Mapping[str, Any], now: Mapping[str, Any], above: str = "") -> list[str]:
        told: list[str] = []
        for key in sorted({*before, *now}):
            old, new = before.get(key), now.get(key)
            if old == new:
                continue
            if isinstance(old, dict) and isinstance(new, dict):
                told += JobFolder._differences(old, new, f"{above}{key}.")
            else:
                told.append(f"{above}{key} was {_short(old)}, now {_short(new)}")
        return told

    def _read_job(self) -> tuple[dict[str, Any], str]:
        """Return the job's settings, and why they cannot be used where they cannot."""
        path = self.path / _JOB
        fresh = {"version": VERSION, "id": secrets.token_hex(8), "stages": {}}
        if not path.exists():
            return fresh, ""
        try:
            job = json.loads(path.read_bytes())
            version, number, stages = job["version"], job["id"], job["stages"]
            whole = isinstance(version, int) and isinstance(number, str) and number.isalnum() and len(number) == 16
            whole &= isinstance(stages, dict) and all(isinstance(stages.get(name, {}), dict) for name in STAGES)
        except (OSError, ValueError, LookupError, TypeError):
            return fresh, f"{_JOB} is damaged"
        if whole and version != VERSION:
            return fresh, f"{_JOB} is of version {version}, expected {VERSION}: another version of this program made it"
        return (job, "") if whole else (fresh, f"{_JOB} is damaged")

    def _discard(self, stages: tuple[str, ...]) -> None:
        self.clear_segments()
        if "analysis" in stages:
            self._parts = None
            for path in (
                self.path / _SCAN,
                self.path / "tracks.json",
                self.path / "drift.json",
                *self.path.glob(f"{_SCAN_PART}*"),
            ):
                path.unlink(missing_ok=True)
            for path in self.report.glob("track_*.png"):
                path.unlink(missing_ok=True)

    # Records --------------------------------------------------------------------------------------------------------

    def _key(self, stage: str) -> str:
        """Return what a record of a stage must bear: the job, and the settings of the stage and those before it."""
        told = [self._job["id"], *(self._job["stages"].get(name) for name in STAGES[: STAGES.index(stage) + 1])]
        return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()

    def _write_record(self, path: Path, stage: str, facts: Mapping[str, Any]) -> None:
        record = {**facts, "file": path.name, "key": self._key(stage)}
        self.write_json(f"{path.stem}.json", {"record": record, "seal": _seal(record)})

    def _read_record(self, path: Path, stage: str) -> dict[str, Any] | None:
        """Return a record that is whole and of this job, None otherwise."""
        try:
            told = json.loads(path.read_bytes())
            record = told["record"]
            whole = told["seal"] == _seal(record) and record["key"] == self._key(stage)
            return record if whole and Path(record["file"]).stem == path.stem else None
        except (OSError, ValueError, LookupError, TypeError):
            return None

    def _is_whole(self, record: Mapping[str, Any]) -> bool:
        path = self.path / record["file"]
        try:
            if not path.is_file() or path.stat().st_size != record["bytes"]:
                return False
            return measure(path, self._check_cancel) == (record["bytes"], record["sha256"])
        except (OSError, OutputMediaError):
            return False

    # Segments -------------------------------------------------------------------------------------------------------

    def record(self, segment: Segment) -> None:
        """Note that a segment is finished."""
        self._write_record(
            segment.path, "render", {
                "number": segment.number, "first": segment.first, "frames": segment.frames, "bytes": segment.bytes,
                "sha256": segment.sha256,
            },
        )  # fmt: skip

    def segments(self, verify: bool = False) -> list[Segment]:
        """Return the finished segments in order.

        Args:
            verify: read each file, and leave out those that are not what was recorded.
        """
        found: list[Segment] = []
        for path in sorted(self.path.glob(f"{PREFIX}*.json")):
            record = self._read_record(path, "render")
            if record is None or path.stem != f"{PREFIX}{record['number']:06}":
                continue
            file = self.path / record["file"]
            if not file.is_file() or (verify and not self._is_whole(record)):
                continue
            found.append(
                Segment(record["number"], record["first"], record["frames"], file, record["bytes"], record["sha256"])
            )
        return found

    def clear_segments(self) -> None:
        """Remove all segments, once they are joined or no longer wanted."""
        # Records first: a segment without one is made again.
        for path in sorted(self.path.glob(f"{PREFIX}*"), key=lambda path: path.suffix != ".json"):
            path.unlink(missing_ok=True)

    # Scan -----------------------------------------------------------------------------------------------------------

    def add_scan(self, part: Scan) -> None:
        """Keep the next part of the scan."""
        number = self._count_parts()
        path = self.path / f"{_SCAN_PART}{number:06}.safetensors"
        size, digest = self.save_arrays(path.name, part.arrays())
        self._write_record(path, "analysis", {"number": number, "bytes": size, "sha256": digest})
        self._parts = number + 1

    def _count_parts(self) -> int:
        # Once: counting reads every part, which for each part anew would take a long film minutes.
        if self._parts is None:
            self._parts = len(self._scan_records())
        return self._parts

    def scan_parts(self) -> list[Scan]:
        """Return the parts of the scan from the first on, up to one that is missing or damaged."""
        parts: list[Scan] = []
        for record in self._scan_records():
            arrays = self.load_arrays(record["file"])
            parts.append(Scan(**arrays))
        return parts

    def _scan_records(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = []
        while True:
            record = self._read_record(self.path / f"{_SCAN_PART}{len(found):06}.json", "analysis")
            if record is None or record["number"] != len(found) or not self._is_whole(record):
                return found
            found.append(record)

    def finish_scan(self, facts: Mapping[str, Any]) -> None:
        """Note that the scan is complete, and what its reader had to say ('lost' and 'notes')."""
        self._write_record(
            self.path / _SCAN, "analysis", {"parts": self._count_parts(), "facts": json.loads(json.dumps(facts))}
        )

    @property
    def scan_done(self) -> bool:
        """Whether all parts of the scan are there."""
        record = self._read_record(self.path / _SCAN, "analysis")
        return record is not None and record["parts"] == len(self._scan_records())

    @property
    def scan_notes(self) -> list[str]:
        """What the reader had to say of the clip: its notes, then each frame that was lost."""
        record = self._read_record(self.path / _SCAN, "analysis")
        facts = record["facts"] if record else {}
        return [*facts.get("notes", ()), *(f"lost: {reason}" for reason in facts.get("lost", ()))]

    @property
    def scan_fields(self) -> str:
        """Which field comes first, once a frame of two was seen in the clip."""
        record = self._read_record(self.path / _SCAN, "analysis")
        return record["facts"].get("fields", "") if record else ""

    # Files ----------------------------------------------------------------------------------------------------------

    def save_arrays(self, name: str, arrays: Mapping[str, np.ndarray]) -> tuple[int, str]:
        """Write named arrays, and return the file's size and SHA-256."""
        from safetensors.numpy import save

        data = save({key: np.ascontiguousarray(array) for key, array in arrays.items()})
        with publish(self.path / name) as file:
            file.write(data)
        return len(data), hashlib.sha256(data).hexdigest()

    def load_arrays(self, name: str) -> dict[str, np.ndarray]:
        """Read arrays that `save_arrays` wrote.

        Raises:
            OutputMediaError: the file is missing or damaged.
        """
        from safetensors import SafetensorError
        from safetensors.numpy import load

        path = self.path / name
        try:
            return load(path.read_bytes())
        except (OSError, SafetensorError, ValueError) as error:
            raise self._error(f"{name} cannot be read: {error}", f"Delete {name}, and run the same command") from error

    def write_json(self, name: str, data: Any) -> None:
        """Write a JSON file into the folder, whole or not at all."""
        with publish(self.path / name) as file:
            file.write((json.dumps(data, indent=1, ensure_ascii=False) + "\n").encode())

    def read_json(self, name: str) -> Any | None:
        """Read a JSON file of the folder; None where there is none.

        Raises:
            SettingsError: a person, or a bad disk, left something in it that is no JSON.
        """
        path = self.path / name
        try:
            return json.loads(path.read_bytes())
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            raise SettingsError(
                f"Cannot read {path}",
                found=f"it is no JSON: {error}",
                kept="What the job has finished is kept",
                todo="Correct it, or delete it to have it written anew",
            ) from error


def _seal(record: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(record, sort_keys=True).encode()).hexdigest()


def _short(value: Any) -> str:
    text = "not set" if value is None else json.dumps(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
