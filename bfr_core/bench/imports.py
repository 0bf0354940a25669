"""What importing the package costs beyond torch, and that it writes nothing and calls nobody."""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable
from multiprocessing import get_context
from pathlib import Path
from typing import Any

_MODULES = ("bfr_core.restoration.photo", "bfr_core.faces.detect", "bfr_core.registry", "bfr_core.media.pictures")


def _seconds(connection: Any) -> None:
    import torch  # noqa: F401 - its own import is not ours to count

    opened: list[str] = []

    def watch(event: str, arguments: tuple[Any, ...]) -> None:
        if event == "open" and isinstance(arguments[1], str) and set(arguments[1]) & set("wax+"):
            opened.append(f"wrote {arguments[0]}")
        elif event == "socket.connect":
            opened.append(f"connected to {arguments[1]}")

    sys.addaudithook(watch)
    start = time.perf_counter()
    for name in _MODULES:
        __import__(name)
    connection.send((time.perf_counter() - start, opened))


def measure(data: Path | None, say: Callable[[str], None], sheets: Path | None = None) -> dict[str, Any]:
    """Import in fresh processes and take the median of five."""
    times: list[float] = []
    effects: list[str] = []
    for _ in range(5):
        context = get_context("spawn")
        ours, theirs = context.Pipe()
        process = context.Process(target=_seconds, args=(theirs,))
        process.start()
        seconds, opened = ours.recv()
        process.join()
        times.append(seconds)
        effects += opened
    figures = {"seconds_beyond_torch": round(statistics.median(times), 3), "effects": sorted(set(effects))}
    say(f"{figures['seconds_beyond_torch']:.3f} s beyond torch's own import (promised: 0.4)")
    say(f"files written or connections made: {', '.join(figures['effects']) or 'none'}")
    return figures
