"""XMP packets: the few words in them that the geometry of the picture makes untrue. All else stays byte for byte.

Face regions are those of the Metadata Working Group (`mwg-rs`, which Apple, Adobe and digiKam write) and Microsoft's
(`MPReg`); both are fractions of the picture as it is stored, so turning the pixels moves them.
"""

from __future__ import annotations

import re
from collections.abc import Callable

_NUMBER = rb"-?\d+(?:\.\d+)?(?:[eE][-+]?\d+)?"


def _value(name: bytes) -> re.Pattern[bytes]:
    """Match a property as an attribute or as an element: what stands before the number, the number, what follows."""
    return re.compile(rb"(" + name + rb"\s*(?:=\s*[\"']|>\s*))(" + _NUMBER + rb")(\s*[\"'<])")


_ORIENTATION = _value(rb"tiff:Orientation")
_AREA = re.compile(rb"<mwg-rs:Area\b.*?(?:/>|</mwg-rs:Area\s*>)", re.DOTALL)
_DIMENSIONS = re.compile(rb"<mwg-rs:AppliedToDimensions\b.*?(?:/>|</mwg-rs:AppliedToDimensions\s*>)", re.DOTALL)
_RECTANGLE = re.compile(
    rb"(MPReg:Rectangle\s*(?:=\s*[\"']|>\s*))" + rb"\s*,\s*".join([rb"(" + _NUMBER + rb")"] * 4) + rb"(\s*[\"'<])"
)
_SIZES = {
    name: _value(name)
    for name in (b"tiff:ImageWidth", b"tiff:ImageLength", b"exif:PixelXDimension", b"exif:PixelYDimension")
}
_SWAPPED = {
    b"tiff:ImageWidth": b"tiff:ImageLength",
    b"tiff:ImageLength": b"tiff:ImageWidth",
    b"exif:PixelXDimension": b"exif:PixelYDimension",
    b"exif:PixelYDimension": b"exif:PixelXDimension",
}


def without_turn(packet: bytes) -> bytes:
    """Put the orientation in a packet to 1, and nothing else."""
    return _ORIENTATION.sub(lambda found: found[1] + b"1" + found[3], packet)


def fitted(packet: bytes, orientation: int, factor: int = 1) -> bytes:
    """Make a packet true of the picture turned upright out of `orientation`, and enlarged `factor` times.

    The orientation becomes 1, face regions move along with the faces, and sizes in pixels become those of the result.
    """
    if orientation != 1:
        packet = _ORIENTATION.sub(lambda found: found[1] + b"1" + found[3], packet)
        packet = _AREA.sub(lambda found: _turned_area(found[0], orientation), packet)
        packet = _RECTANGLE.sub(lambda found: _turned_rectangle(found, orientation), packet)
    if orientation >= 5 or factor != 1:
        packet = _DIMENSIONS.sub(lambda found: _resized(found[0], orientation, factor), packet)
        swap = _SWAPPED if orientation >= 5 else {}
        numbers = {name: found[2] for name, pattern in _SIZES.items() if (found := pattern.search(packet))}
        for name, pattern in _SIZES.items():
            other = numbers.get(swap.get(name, name))
            if other is not None and name in numbers:
                packet = pattern.sub(_put(_scaled(other, factor)), packet)
    return packet


def _put(number: bytes) -> Callable[[re.Match[bytes]], bytes]:
    return lambda found: found[1] + number + found[3]


def _scaled(number: bytes, factor: int) -> bytes:
    return number if factor == 1 else f"{float(number) * factor:.12g}".encode()


def _turned(x: float, y: float, orientation: int) -> tuple[float, float]:
    """Return where a point of the stored picture lies in the upright one, both as fractions."""
    if orientation >= 5:
        x, y = y, x
    if orientation in (2, 3, 6, 7):
        x = 1 - x
    if orientation in (3, 4, 7, 8):
        y = 1 - y
    return x, y


def _shown(value: float) -> bytes:
    return f"{value:.9g}".encode()


def _turned_area(area: bytes, orientation: int) -> bytes:
    """Turn an area given by its centre and size, as fractions."""
    patterns = {name: _value(rb"stArea:" + name) for name in (b"x", b"y", b"w", b"h")}
    found = {name: match[2] for name, pattern in patterns.items() if (match := pattern.search(area))}
    if b"pixel" in area or not {b"x", b"y"} <= found.keys():
        return area
    x, y = _turned(float(found[b"x"]), float(found[b"y"]), orientation)
    new = {b"x": _shown(x), b"y": _shown(y)}
    if orientation >= 5 and {b"w", b"h"} <= found.keys():
        new |= {b"w": found[b"h"], b"h": found[b"w"]}
    for name, number in new.items():
        area = patterns[name].sub(_put(number), area)
    return area


def _turned_rectangle(found: re.Match[bytes], orientation: int) -> bytes:
    """Turn a rectangle given by its upper left corner and size, as fractions."""
    left, top, width, height = (float(found[number]) for number in range(2, 6))
    corners = [_turned(left, top, orientation), _turned(left + width, top + height, orientation)]
    (x, right), (y, bottom) = (sorted(values) for values in zip(*corners, strict=True))
    return found[1] + b", ".join(map(_shown, (x, y, right - x, bottom - y))) + found[6]


def _resized(dimensions: bytes, orientation: int, factor: int) -> bytes:
    width, height = _value(rb"stDim:w"), _value(rb"stDim:h")
    across, down = width.search(dimensions), height.search(dimensions)
    if not across or not down:
        return dimensions
    sizes = [_scaled(across[2], factor), _scaled(down[2], factor)]
    if orientation >= 5:
        sizes.reverse()
    return height.sub(_put(sizes[1]), width.sub(_put(sizes[0]), dimensions))
