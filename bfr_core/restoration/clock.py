"""Seconds of the stages of a run, for reports."""

from __future__ import annotations

import time


class Clock:
    """Seconds since the last lap, added up by name."""

    def __init__(self) -> None:
        self.laps: dict[str, float] = {}
        self._last = time.perf_counter()

    def lap(self, name: str = "") -> None:
        """Begin the next lap; the one that ends counts for `name`, or for nothing."""
        now = time.perf_counter()
        if name:
            self.add(name, now - self._last)
        self._last = now

    def add(self, name: str, seconds: float) -> None:
        """Count seconds for a name."""
        self.laps[name] = round(self.laps.get(name, 0.0) + seconds, 4)
