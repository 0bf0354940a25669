"""A folder that one run works in at a time."""

from __future__ import annotations

import json
import os
import platform
import time
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

from ..errors import OutputMediaError
from .atomic import hold

LOCK = "lock"
"""Name of the file that is held; it says by whom."""


def hold_folder(folder: Path) -> BinaryIO:
    """Hold a folder against every other run until the file is closed, or this process ends.

    The file stays: whoever removed it could take it from a run that has just opened it.

    Raises:
        OutputMediaError: the folder is missing or read-only, or another run holds it.
    """
    held = hold(folder / LOCK)
    if held is None:
        raise OutputMediaError(
            f"Cannot use {folder}",
            found=f"another run is at it: {_holder(folder)}",
            kept="Nothing in it was changed",
            todo="Wait for it to end, or end it",
        )
    try:
        since = time.strftime("%Y-%m-%d %H:%M:%S")
        held.seek(0)
        held.truncate()
        held.write(json.dumps({"pid": os.getpid(), "host": platform.node(), "since": since}).encode())
        held.flush()
    except BaseException:
        held.close()
        raise
    return held


def _holder(folder: Path) -> str:
    with suppress(OSError, ValueError, LookupError, TypeError):
        told = json.loads((folder / LOCK).read_text("utf-8"))
        return f"process {told['pid']} on {told['host']}, since {told['since']}"
    return "it did not say which"
