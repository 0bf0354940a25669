"""What a training run says: one JSON object a line, to the terminal and to the run's log."""

from __future__ import annotations

import json
import sys
from pathlib import Path


class Log:
    """Append to `log.jsonl` in the run's folder."""

    def __init__(self, out: Path) -> None:
        self._file = (out / "log.jsonl").open("a")

    def write(self, entry: dict[str, object]) -> None:
        """Write one entry, at once."""
        line = json.dumps(entry)
        for stream in (self._file, sys.stdout):
            stream.write(line + "\n")
            stream.flush()
