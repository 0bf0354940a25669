"""Which files are clips."""

from __future__ import annotations

from pathlib import Path

CLIP_SUFFIXES = (".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".ts", ".mpg", ".mpeg")
"""Suffixes of files that are read as a clip."""


def is_clip(path: Path) -> bool:
    """Return whether `path` is named like a clip and is no folder."""
    return path.suffix.lower() in CLIP_SUFFIXES and not path.is_dir()
