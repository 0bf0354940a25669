"""Directories of a TIFF: the chain of its pages, and the same pixels under another directory."""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence

from .. import metadata

_CODES = {1: "B", 3: "H", 4: "I", 16: "Q"}
"""How values of a type are packed."""


def page_chain(data: bytes, limit: int = 10_000) -> list[int]:
    """Return where the directories begin that a TIFF chains, at most `limit`; a broken chain ends early.

    Raises:
        ValueError, struct.error: it has none.
    """
    layout = metadata._layout(data)
    offset, found = layout.first, []
    while offset and offset not in found and len(found) < limit:
        try:
            _, end = metadata._entries(data, layout, offset)
            found.append(offset)
            (offset,) = struct.unpack_from(layout.endian + layout.offset, data, end)
        except (ValueError, struct.error):
            if not found:
                raise
            break
    if not found:
        raise ValueError("it has no directory")
    return found


def with_directory(data: bytes, offset: int, changes: Mapping[int, tuple[int, Sequence[int]] | None]) -> bytes:
    """Return a TIFF whose first and only directory is that at `offset` with some tags changed.

    Pixels and values stay where they are, so nothing that points into the file breaks.

    Args:
        data: a TIFF or BigTIFF.
        offset: where the directory begins.
        changes: by tag the type (1, 3 or 4) and the values; None leaves a tag out.

    Raises:
        ValueError, struct.error: the directory is damaged.
    """
    layout = metadata._layout(data)
    places, _ = metadata._entries(data, layout, offset)
    entries = {tag: data[place : place + layout.entry] for tag, place in places.items() if tag not in changes}
    start = len(data) + len(data) % 2
    kept = {tag: change for tag, change in changes.items() if change is not None}
    inline = layout.entry - layout.value
    behind = start + struct.calcsize(f"={layout.count}{layout.offset}") + layout.entry * (len(entries) + len(kept))
    tail = b""
    for tag, (kind, values) in kept.items():
        packed = struct.pack(f"{layout.endian}{len(values)}{_CODES[kind]}", *values)
        head = struct.pack(f"{layout.endian}HH{layout.offset}", tag, kind, len(values))
        if len(packed) > inline:
            place = struct.pack(layout.endian + layout.offset, behind + len(tail))
            tail += packed + bytes(len(packed) % 2)
            packed = place
        entries[tag] = head + packed.ljust(inline, b"\0")
    directory = struct.pack(layout.endian + layout.count, len(entries))
    directory += b"".join(entries[tag] for tag in sorted(entries)) + struct.pack(layout.endian + layout.offset, 0)
    # The offset of the first directory stands behind 'II', 42, and in a BigTIFF behind two more numbers.
    place = 8 if layout.offset == "Q" else 4
    result = bytearray(data)
    struct.pack_into(layout.endian + layout.offset, result, place, start)
    return b"".join([result, bytes(len(data) % 2), directory, tail])
