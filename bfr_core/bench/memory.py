"""How much memory this process holds, by the kernel's own counters; Linux only."""

from __future__ import annotations

import ctypes
import gc
from collections.abc import Callable
from pathlib import Path
from typing import Any

_STATUS, _REFS = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def reset_peak() -> bool:
    """Begin to measure a new peak; False where that cannot be done here."""
    # Freed memory that the allocator keeps would hide the next call's need for it.
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if _REFS.exists() else None
    if trim is None:
        return False
    gc.collect()
    trim(0)
    with _REFS.open("w") as file:
        file.write("5")  # resets the high-water mark
    return True


def peak_bytes() -> int:
    """Return the largest resident memory since `reset_peak`."""
    return kilobytes(_STATUS, "VmHWM") * 1024


def peak_growth(call: Callable[[], Any]) -> int | None:
    """Return by how many bytes the resident memory rises above its start while `call` runs; None where unknown."""
    if not _REFS.exists():
        return None
    call()  # the first run also pays for lazily loaded code
    if not reset_peak():
        return None
    before = kilobytes(_STATUS, "VmRSS") * 1024
    call()
    return max(peak_bytes() - before, 0)


def kilobytes(status: Path, field: str) -> int:
    """Read a field of `/proc/self/status`."""
    line = next(line for line in status.read_text().splitlines() if line.startswith(field))
    return int(line.split()[1])
