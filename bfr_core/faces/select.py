"""Choosing which of the detected faces to work on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from ..types import Face


def select_faces(
    faces: Sequence[Face], *, max_faces: int = 0, min_size: float = 0.0, left: Mapping[int, str] | None = None
) -> tuple[list[Face], dict[int, str]]:
    """Split faces into those to restore and those to leave, with the reason.

    Args:
        faces: in the order the detector gave them.
        max_faces: keep this many of the largest; 0 for all.
        min_size: leave faces whose box is smaller than this, in pixels (geometric mean of its sides).
        left: indices that are left out already, and why; they take no place among the largest.

    Returns:
        The chosen faces in their order, and for each index left out why.
    """
    reasons = dict(left or {})
    for index, face in enumerate(faces):
        if index not in reasons and face.size < min_size:
            reasons[index] = f"{face.size:.0f} px is below the minimum of {min_size:g} px"
    rest = sorted((index for index in range(len(faces)) if index not in reasons), key=lambda i: -faces[i].size)
    if max_faces:
        reasons.update(dict.fromkeys(rest[max_faces:], f"only the {max_faces} largest faces were asked for"))
    return [face for index, face in enumerate(faces) if index not in reasons], reasons


def numbered(faces: Sequence[Face]) -> list[Face]:
    """Return faces that know their place among all that were found in their frame; those that know it keep it."""
    return [face if face.index is not None else replace(face, index=place) for place, face in enumerate(faces)]
