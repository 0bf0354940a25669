"""How pixels are converted and enlarged."""

from __future__ import annotations

import math

import numpy as np
from PIL import Image

ACCURATE = 4 | 0x2000 | 0x4000 | 0x40000
"""swscale's bicubic with full chroma and accurate rounding; its default darkens by about a level at each conversion."""


def enlarge_plane(
    plane: np.ndarray,
    factor: int,
    span: tuple[float, float],
    *,
    shape: tuple[int, int] | None = None,
    left: float = 0.0,
) -> np.ndarray:
    """Enlarge one plane of samples by Lanczos' kernel of three lobes, which beyond the border takes what is inside.

    Convention: sample (i, j) of the result lies at ((i + 0.5) / factor, left + (j + 0.5) / factor) of the plane, whose
    samples lie at halves. Where the kernel overshoots it is cut off at `span`, and where the plane leaves that, at the
    least and the most of the plane: white stays white, and light brighter than white stays as bright.

    Shapes: plane (h, w) uint8, uint16 or float32; returns the same type.

    Args:
        plane: the samples.
        factor: how many times as wide and as high.
        span: black and white.
        shape: rows and columns of the result; those of the plane by the factor where not given.
        left: where the left edge of the result lies in the plane; above 0 where samples are not sited amid their cells.
    """
    height, width = plane.shape
    rows, columns = shape or (height * factor, width * factor)
    low, high = min(span[0], float(plane.min())), max(span[1], float(plane.max()))
    if plane.dtype != np.float32:
        most = np.iinfo(plane.dtype).max
        low, high = max(math.floor(low), 0), min(math.ceil(high), most)
    right = left + columns / factor
    if right > width:
        plane = np.pad(plane, ((0, 0), (0, 1)), mode="edge")
    # Pillow rounds bytes by itself; deeper samples would be cut to bytes.
    source = Image.fromarray(plane if plane.dtype == np.uint8 else plane.astype(np.float32))
    box = (left, 0.0, right, rows / factor)
    made = np.asarray(source.resize((columns, rows), Image.Resampling.LANCZOS, box=box))
    if plane.dtype == np.uint16:
        made = np.rint(made)
    return made.clip(low, high).astype(plane.dtype, copy=False)
