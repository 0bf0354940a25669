"""What a JPEG decoder keeps to itself: processes that it cannot read, and pixels that are not in the file.

libjpeg paints what is missing in gray, says so in a warning that Pillow does not pass on, and reports success where the
end marker is there. So the file is asked itself.
"""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from PIL import Image

from .jpeg import Frame, Jpeg, count_restarts, read_frame, read_head, scans
from .refuse import unreadable

_PROBE = bytes(np.random.default_rng(0).integers(1, 255, 4096, dtype=np.uint8))
"""Coded data of no picture; without 0xFF, so that no marker is among them."""

_GRAY = (127, 128)
"""What a sample is whose block holds nothing; the first where Pillow turns ink into light."""


def require_process(path: Path, data: bytes) -> None:
    """Refuse by its name what libjpeg does not decode; a damaged header is left to the decoder's own words.

    Raises:
        InputMediaError: more or fewer than 8 bits a sample, lossless, hierarchical, or JPEG-LS.
    """
    try:
        frame = read_frame(read_head(data)[0])
    except ValueError:
        return
    names = {3: "a lossless JPEG", 11: "a lossless JPEG, arithmetic-coded", 0x37: "a JPEG-LS"}
    names |= dict.fromkeys((5, 6, 7, 13, 14, 15), "a hierarchical JPEG")
    if frame.process in names:
        found = f"it is {names[frame.process]} of {frame.bits} bits a sample, for which there is no decoder here"
    elif frame.bits != 8:
        found = f"it is a JPEG of {frame.bits} bits a sample; expected 8"
    else:
        return
    raise unreadable(path, found, "Save it as a PNG or TIFF of 16 bits with the program it comes from")


def first_missing_row(jpeg: Jpeg, last: tuple[int, ...]) -> int | None:
    """Return the row of pixels from which on a JPEG that ends properly lacks blocks; None where it is whole.

    What follows the last block of a scan is passed over by a decoder. So bytes are put in at the end of every scan:
    where they change the picture, a block was missing. Restart markers are counted besides, as a decoder that waits for
    one takes no other byte. Where a baseline file's last block holds anything, nothing can be missing.

    Args:
        jpeg: the file.
        last: its last pixel, as Pillow decodes it.

    Raises:
        ValueError, OSError: the file is damaged.
    """
    frame, body = jpeg.frame, jpeg.body
    if frame.process >= 9:
        # Arithmetic coding leaves out its last zeros, so that any byte in their place changes a whole picture.
        return None
    parts = list(scans(body, 0))
    if jpeg.restart_interval and not frame.progressive and len(parts) == 1:
        unit = (8, 8) if len(frame.components) == 1 else (8 * frame.across, 8 * frame.down)
        across, down = -(-frame.width // unit[0]), -(-frame.height // unit[1])
        count = count_restarts(body[parts[0][1] : parts[0][2]])
        if count < -(-across * down // jpeg.restart_interval) - 1:
            return min(frame.height - 1, (count + 1) * jpeg.restart_interval // across * unit[1])
    if frame.progressive and not _all_bits(frame, [header for header, *_ in parts]):
        return 0
    if not frame.progressive and len(parts) == 1 and not all(value in _GRAY for value in last):
        return None
    probed, place = [], 0
    for *_, end in parts:
        probed += [body[place:end], _PROBE]
        place = end
    longer = Jpeg(jpeg.head, b"".join([*probed, body[place:]]), b"").bare()
    differing = np.flatnonzero((_decoded(jpeg.bare()) != _decoded(longer)).reshape(frame.height, -1).any(1))
    return int(differing[0]) if differing.size else None


def _decoded(data: bytes) -> np.ndarray:
    with Image.open(io.BytesIO(data), formats=["jpeg"]) as image:
        image.load()
        return np.asarray(image)


def _all_bits(frame: Frame, headers: list[bytes]) -> bool:
    """Tell whether a progressive file's scans bring every coefficient of every channel to its last bit."""
    missing = {component.name: set(range(64)) for component in frame.components}
    for header in headers:
        count = header[0]
        first, last, bits = header[1 + 2 * count : 4 + 2 * count]
        for number in range(count):
            if bits & 15 == 0:
                missing[header[1 + 2 * number]] -= set(range(first, last + 1))
    return not any(missing.values())
