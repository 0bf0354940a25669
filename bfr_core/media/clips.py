"""Which files are clips, and what FFmpeg may open when it is given one."""

from __future__ import annotations

from pathlib import Path

CLIP_SUFFIXES = (".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".ts", ".mpg", ".mpeg")
"""Suffixes of files that are read as a clip."""

READABLE = "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpegts,mpeg,h264,hevc,gif"
"""FFmpeg's names of the containers that are read. A playlist or script named like a clip would make it open other
files, or call the network."""

OPEN_OPTIONS = {"format_whitelist": READABLE, "protocol_whitelist": "file"}
"""For `av.open` of every clip that comes from outside."""


def is_clip(path: Path) -> bool:
    """Return whether `path` is named like a clip and is no folder."""
    return path.suffix.lower() in CLIP_SUFFIXES and not path.is_dir()
