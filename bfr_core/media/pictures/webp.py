"""The chunks of a WebP beside its pixels, and how it was coded. After RFC 9649 (WebP) and RFC 6386 (VP8)."""

from __future__ import annotations

import struct
from collections.abc import Iterator

from .beside import Beside, Chunk, Coding


def chunks(data: bytes) -> Iterator[Chunk]:
    """Yield the chunks of a WebP, as far as they are whole."""
    place = 12
    while place + 8 <= len(data):
        (size,) = struct.unpack_from("<I", data, place + 4)
        if place + 8 + size > len(data):
            return
        yield Chunk(data[place : place + 4], data[place + 8 : place + 8 + size])
        place += 8 + size + size % 2


def read_beside(data: bytes, orientation: int) -> tuple[Beside, Coding, list[str]]:
    """Return what the chunks say beside pixels, profile and EXIF, how the picture was coded, and notes."""
    packet, coding, notes = None, Coding(), []
    for name, body in chunks(data):
        if name == b"XMP ":
            packet = body
        elif name == b"VP8L":
            coding = Coding(lossless=True)
        elif name == b"VP8 ":
            coding = Coding(quality=estimated_quality(body))
        elif name == b"C2PA":
            notes.append("content credentials (C2PA) vouch for the picture as it was, and are not kept")
        elif name not in (b"VP8X", b"ALPH", b"ICCP", b"EXIF", b"ANIM", b"ANMF"):
            notes.append(f"the chunk {name.decode('latin-1').strip()} is not kept")
    return Beside(xmp=packet, orientation=orientation), coding, notes


class _Bits:
    """The arithmetic decoder of RFC 6386 Section 7, of bits that are as likely 0 as 1."""

    def __init__(self, data: bytes) -> None:
        self.data, self.place, self.range, self.left = data, 2, 255, 8
        self.value = int.from_bytes(data[:2], "big")

    def bit(self) -> int:
        split = 1 + ((self.range - 1) * 128 >> 8)
        large = self.value >= split << 8
        if large:
            self.range -= split
            self.value -= split << 8
        else:
            self.range = split
        while self.range < 128:
            self.value, self.range, self.left = self.value << 1, self.range << 1, self.left - 1
            if not self.left:
                self.left = 8
                if self.place < len(self.data):
                    self.value |= self.data[self.place]
                self.place += 1
        return int(large)

    def number(self, bits: int) -> int:
        value = 0
        for _ in range(bits):
            value = value << 1 | self.bit()
        return value

    def signed(self, bits: int) -> int:
        value = self.number(bits)
        return -value if self.bit() else value


def quantisers(frame: bytes) -> list[int] | None:
    """Return the quantiser index (0 to 127) of each segment of a VP8 key frame; one without segments has one.

    After RFC 6386 Section 9. None where it is no key frame.
    """
    if len(frame) < 12 or frame[0] & 1 or frame[3:6] != b"\x9d\x01\x2a":
        return None
    bits = _Bits(frame[10:])
    bits.number(2)  # colour space, clamping
    segments, absolute = [0], False
    if bits.bit():
        moves, data = bits.bit(), bits.bit()
        if data:
            absolute = bool(bits.bit())
            segments = [bits.signed(7) if bits.bit() else 0 for _ in range(4)]
            for _ in range(4):
                if bits.bit():
                    bits.signed(6)
        if moves:
            for _ in range(3):
                if bits.bit():
                    bits.number(8)
    bits.number(10)  # kind, level and sharpness of the loop filter
    if bits.bit() and bits.bit():
        for _ in range(8):
            if bits.bit():
                bits.signed(6)
    bits.number(2)  # partitions
    base = bits.number(7)
    return [min(127, max(0, each if absolute and len(segments) > 1 else base + each)) for each in segments]


def estimated_quality(frame: bytes) -> int | None:
    """Return the quality, 1 to 99, at which libwebp gives such quantisers; None where it is no key frame."""
    found = quantisers(frame)
    if not found:
        return None
    # libwebp's curve: compression is the cube root of the quality, which is bent at three quarters. Of several segments
    # the plainest has the largest quantiser: its compression is that of the quality to a power that only the strength
    # of noise shaping moves, here the usual one (50 of 100).
    compression = (1 - max(found) / 127) ** (1 if len(set(found)) == 1 else 1 / (1 + 0.9 * 0.5 / 128 * 127))
    linear = compression**3
    quality = linear * 1.5 if linear < 0.5 else (linear + 1) / 2
    return min(99, max(1, round(100 * quality)))
