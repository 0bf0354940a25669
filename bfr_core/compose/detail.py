"""The fine detail of faces that are larger than the restorer's square: what its pixels cannot hold, the frame has.

Such a face is shrunk for the restorer, and what comes back is enlarged; alone it would be softer than the frame around
it. So the frame is given the change, what was restored less what went in, both at the restorer's size, and what
shrinking took away stays the frame's own. Of a blurred face it holds nothing but noise and the blocks of a codec: there
it goes, as it does with all that is restored.
"""

from __future__ import annotations

from torch import Tensor

from ..faces.quality import face_sharpness
from ..types import FaceCrop

FULL, NONE = 0.8, 1.0
"""Crop pixels per frame pixel up to which all detail stays, and from which none does: a face that comes nearer in a
film must not jump where it outgrows the square."""
BLURRED, SHARP = 0.36, 0.45
"""Sharpness of a face up to which none stays, and from which all does. Of 84 clean portraits the least has 0.49; of 19
degraded photos the most has 0.40, and half of them have less than 0.28."""


def share_kept(sharpness: float, scale: float) -> float:
    """Return how much of its fine detail a face keeps, 0 to 1.

    Args:
        sharpness: of the face, see `faces.quality.sharpness`.
        scale: pixels of the restored face per pixel of the frame.
    """
    if scale >= NONE:
        return 0.0
    larger, sharper = (NONE - scale) / (NONE - FULL), (sharpness - BLURRED) / (SHARP - BLURRED)
    return min(larger, 1.0) * min(max(sharper, 0.0), 1.0)


def own_detail(frame: Tensor, crop: FaceCrop, side: int, sharpness: float | None = None) -> float:
    """Return how much of its fine detail a face of a frame keeps, 0 to 1.

    Shapes: frame (3, H, W).

    Args:
        frame: the picture.
        crop: where in it the face is.
        side: of the restored face, in pixels.
        sharpness: of the face, where somebody measured it.
    """
    scale = crop.scale * side / crop.size
    if scale >= NONE:
        return 0.0
    return share_kept(face_sharpness(frame, crop.matrix, crop.size) if sharpness is None else sharpness, scale)
