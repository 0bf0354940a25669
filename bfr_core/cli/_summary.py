"""What `bfr restore` says at its end: what was done, what was left, and what a person should know of the files."""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..media.formats import becomes_film
from ..media.outputs import OUTPUT_FOLDER
from ._output import FAILED, say, show
from ._people import summary as people_lines
from ._video import film_line

if TYPE_CHECKING:
    from ..media.outputs import PassedOver
    from ..restoration.options import RestoreOptions

_NAMED = 3
"""Files that are named where a line is about many."""


def summarise(
    entries: Sequence[dict[str, Any]],
    over: Sequence[PassedOver],
    args: argparse.Namespace,
    options: RestoreOptions,
) -> int:
    """Say what was done, and return the exit status."""
    failed = [entry for entry in entries if entry["status"] == "failed"]
    pictures = [entry for entry in entries if not _film(entry)]
    films = [entry for entry in entries if _film(entry)]
    if pictures:
        show(_pictures_line(pictures, args))
    for entry in films:
        if entry["status"] == "done" and "report" in entry:
            show(film_line(entry))
    if count := sum(entry["status"] == "finished before" for entry in films):
        show(f"{count} of {len(films)} films finished before")
    for line in people_lines(pictures, options.people, options.drift_limit):
        show(line)
    for line in note_lines(entry for entry in pictures if entry["status"] == "done"):
        show(line)
    if strange := [each for each in over if each.why != OUTPUT_FOLDER]:
        say(passed_over_line(strange))
    if failed:
        say(f"{len(failed)} failed and have no output: {', '.join(entry['source'] for entry in failed)}")
    return FAILED if failed else 0


def _film(entry: dict[str, Any]) -> bool:
    return becomes_film(Path(entry["source"]), Path(entry["target"]))


def _pictures_line(pictures: Sequence[dict[str, Any]], args: argparse.Namespace) -> str:
    from ..faces.quality import SHARP_ALREADY, WOULD_SOFTEN

    made = [entry for entry in pictures if entry["status"] == "done"]
    faces = [face for entry in made for face in entry.get("report", {}).get("faces", [])]
    restored = sum(face["action"] == "restored" for face in faces)
    fine = sum(face["reason"].startswith((SHARP_ALREADY, WOULD_SOFTEN)) for face in faces)
    left = f", {fine} left alone as sharp already (--all-faces restores them too)" if fine else ""
    count = sum(entry["status"] == "finished before" for entry in pictures)
    before = f", {count} finished before" if count else ""
    return f"{len(made)} of {len(pictures)} pictures done{before}, {restored} faces restored{left}, in {args.out}"


def note_lines(entries: Iterable[dict[str, Any]]) -> list[str]:
    """Return what is noted of pictures and of what was done to them, each note once, with whom it is about."""
    about: dict[str, list[str]] = {}
    for entry in entries:
        for note in dict.fromkeys([*entry.get("notes", ()), *entry.get("report", {}).get("notes", ())]):
            about.setdefault(note, []).append(entry["source"])
    return [f"  {_names(sources)}: {note}" for note, sources in about.items()]


def passed_over_line(over: Sequence[PassedOver]) -> str:
    """Return what was passed over in folders, by reason, with some of the names."""
    counts = Counter(each.why for each in over)
    parts = [
        f"{count} {why} ({_names([each.path.name for each in over if each.why == why])})"
        for why, count in counts.most_common()
    ]
    return f"Passed over: {', '.join(parts)}"


def _names(names: Sequence[str]) -> str:
    more = len(names) - _NAMED
    return ", ".join(names[:_NAMED]) + (f" and {more} more" if more > 0 else "")
