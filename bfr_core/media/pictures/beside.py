"""What a file says beside pixels, colour profile and EXIF, and how it was coded."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple


class Density(NamedTuple):
    """Pixels per length, as the file has it."""

    across: int
    down: int
    unit: str
    """'inch', 'cm', 'metre', or '' where only the shape of a pixel is told."""

    def per(self, unit: str) -> Density | None:
        """Return it in another unit, rounded; None where it has no unit.

        Args:
            unit: 'inch' or 'metre'.
        """
        if not self.unit or self.unit == unit:
            return self if self.unit == unit else None
        metre = {"inch": 100 / 2.54, "cm": 100.0, "metre": 1.0}
        scale = metre[self.unit] / metre[unit]
        return Density(round(self.across * scale), round(self.down * scale), unit)


class Chunk(NamedTuple):
    """A chunk of a PNG, as it is stored."""

    name: bytes
    body: bytes


@dataclass(frozen=True, slots=True)
class Beside:
    """What stands beside the pixels of a file, byte for byte.

    Where a picture is written in another format, what that has a place for is carried over.
    """

    xmp: bytes | None = None
    """The XMP packet, of the picture as it was stored: before it was turned upright and enlarged."""
    extended_xmp: bytes | None = None
    """What of XMP had no room in a JPEG's first packet: the 32 letters that it calls it by, then the text."""
    orientation: int = 1
    """EXIF orientation that the picture was stored in: `Picture.rgb` is upright."""
    factor: int = 1
    """How many times the picture was enlarged since."""
    resources: bytes | None = None
    """Photoshop's image resources ('8BIM...'), IPTC among them."""
    iptc: bytes | None = None
    """IPTC that stands by itself, as in a TIFF."""
    comments: tuple[bytes, ...] = ()
    """Comments of a JPEG."""
    texts: tuple[Chunk, ...] = ()
    """Text chunks of a PNG (tEXt, zTXt, iTXt): prompts of image generators among them."""
    chunks: tuple[Chunk, ...] = ()
    """A PNG's chunks about colour (gAMA, cHRM, sRGB, cICP and more), and those that may be copied unknown."""
    density: Density | None = None


@dataclass(frozen=True, slots=True)
class Coding:
    """How a file was coded, for a writer that follows it."""

    jpeg: bytes | None = None
    """The whole file, where it is a JPEG: blocks that nobody changed are taken from it."""
    quality: int | None = None
    """Quality of a lossy WebP, estimated from its quantiser."""
    lossless: bool = False
    """A WebP without loss."""
