"""What stands beside the pixels of a TIFF: XMP, IPTC and Photoshop's data, byte for byte."""

from __future__ import annotations

from typing import Any

from PIL.TiffImagePlugin import ImageFileDirectory_v2

from .. import metadata
from .beside import Beside, Density
from .jpeg_beside import without_previews


def read_beside(tags: ImageFileDirectory_v2, orientation: int) -> tuple[Beside, list[str]]:
    """Return what a TIFF's directory says beside pixels, profile and EXIF, and notes of what is not kept."""
    packet, iptc, resources = (_bytes(tags, tag) for tag in (metadata.XMP, metadata.IPTC, metadata.PHOTOSHOP))
    notes = []
    if resources:
        resources, previews = without_previews(resources)
        if previews:
            notes.append("a preview among Photoshop's data shows the picture as it was, and is not kept")
    beside = Beside(xmp=packet, iptc=iptc, resources=resources or None, orientation=orientation, density=_density(tags))
    return beside, notes


def _bytes(tags: ImageFileDirectory_v2, tag: int) -> bytes | None:
    value: Any = tags.get(tag)
    if isinstance(value, str):
        return value.encode("latin-1", "replace")
    if isinstance(value, tuple) and value and all(isinstance(each, int) for each in value):
        # IPTC is stored as whole numbers of 32 bits by old programs, in the file's byte order.
        size, order = (4, "little" if tags.prefix == b"II" else "big") if tags.tagtype.get(tag) == 4 else (1, "little")
        return b"".join(each.to_bytes(size, order) for each in value)  # type: ignore[arg-type]
    if isinstance(value, tuple) and value and all(isinstance(each, bytes) for each in value):
        value = b"".join(value)
    return bytes(value) if isinstance(value, bytes) and value else None


def _density(tags: ImageFileDirectory_v2) -> Density | None:
    unit = {2: "inch", 3: "cm"}.get(tags.get(296, 2))
    try:
        across, down = round(float(tags[282])), round(float(tags[283]))
    except (KeyError, TypeError, ValueError, ZeroDivisionError, OverflowError):
        return None
    return Density(across, down, unit) if unit and across > 0 and down > 0 else None
