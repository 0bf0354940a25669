"""Under which licence training pictures may be used, as their folders state it.

A folder, or the one above it, holds `LICENCE.txt` (one statement for all) or `licences.tsv` (two columns: file,
licence). A card has to say what weights were trained on, so `export` asks for what nobody stated.
"""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from bfr_core.errors import InputMediaError

from .pictures import Source

STATEMENTS = ("LICENCE.txt", "LICENSE.txt", "LICENCE", "LICENSE")
LISTS = ("licences.tsv", "licenses.tsv")


def stated_licences(sources: Sequence[Source], root: Path) -> str:
    """Return the licences of the pictures below `root`, the most frequent first; empty where none is stated.

    Raises:
        InputMediaError: a list exists but leaves pictures out; the first are named.
    """
    home = root if root.is_dir() else root.parent
    for folder in (home, home.parent):
        for name in LISTS:
            if (folder / name).is_file():
                return _from_list(folder / name, sources)
        for name in STATEMENTS:
            if (folder / name).is_file():
                lines = (folder / name).read_text("utf-8").strip().splitlines()
                return lines[0].strip() if lines else ""
    return ""


def _from_list(path: Path, sources: Sequence[Source]) -> str:
    with path.open(encoding="utf-8", newline="") as file:
        rows = [row for row in csv.reader(file, delimiter="\t") if len(row) >= 2]
    known = {row[0]: row[1].strip() for row in rows}
    counts: Counter[str] = Counter()
    missing: list[str] = []
    for source in sources:
        shown = Path(source.member or source.path.name)
        below = source.path.relative_to(path.parent).as_posix() if source.path.is_relative_to(path.parent) else ""
        licence = known.get(below) or known.get(str(shown)) or known.get(shown.name)
        if licence:
            counts[licence] += 1
        else:
            missing.append(source.name)
    if missing:
        raise InputMediaError(
            f"{path} leaves {len(missing)} of {len(sources)} pictures out",
            found=f"no licence for {', '.join(missing[:3])}{' and more' if len(missing) > 3 else ''}; "
            "expected a line for each: file name, tab, licence",
            kept="Nothing was started",
            todo="Add the lines, or move those pictures to a folder of their own",
        )
    return ", ".join(f"{licence} ({count})" for licence, count in counts.most_common())
