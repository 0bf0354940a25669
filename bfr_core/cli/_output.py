"""What every command says and writes, and how it ends."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

FAILED, INTERRUPTED = 1, 130
"""Exit statuses; 0 is success."""


def say(text: str) -> None:
    """Tell the person at the terminal, on standard error."""
    sys.stderr.write(text + "\n")


def show(text: str) -> None:
    """Print a result, on standard output."""
    sys.stdout.write(text + "\n")


def write_json(path: Path, content: Any) -> None:
    """Write a report, whole or not at all, making its folder where needed."""
    from ..media.atomic import make_folder, publish

    make_folder(path.parent)
    with publish(path) as file:
        file.write(json.dumps(content, indent=2).encode() + b"\n")
