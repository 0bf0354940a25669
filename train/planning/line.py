"""What a plan says while it works: one line that is always about now, and the lines worth keeping."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import TextIO

from ..journal import Journal


class StatusLine:
    """One line, written over in place at a terminal, and a line each time in a file or a pipe."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = stream or sys.stdout
        self._over = self._stream.isatty()
        self._shown = 0
        self.prefix = ""
        """Where in the plan: written before every line."""

    def show(self, text: str) -> None:
        """Say what goes on now."""
        text = f"{self.prefix}{text}"
        if not self._over:
            self._write(text + "\n")
            return
        text = text[: shutil.get_terminal_size().columns - 1]
        self._write("\r" + text.ljust(self._shown))
        self._shown = len(text)

    def keep(self, text: str) -> None:
        """Say something that stays in sight."""
        self.clear()
        self._write(f"{self.prefix}{text}\n")

    def clear(self) -> None:
        """Leave an empty line to go on with."""
        if self._over and self._shown:
            self._write("\r" + " " * self._shown + "\r")
            self._shown = 0

    def _write(self, text: str) -> None:
        self._stream.write(text)
        self._stream.flush()


class StageJournal(Journal):
    """The journal of one stage's run, whose progress is the plan's line."""

    def __init__(self, out: Path, line: StatusLine) -> None:
        super().__init__(out)
        self._line = line

    def say(self, text: str) -> None:
        self._line.show(text)

    def note(self, text: str) -> None:
        self._line.keep(text)
        self.write({"note": text})
