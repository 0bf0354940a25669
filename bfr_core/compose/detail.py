"""The fine detail of faces as large as the restorer's square and larger: what its pixels cannot hold, the frame has.

Such a face is shrunk for the restorer, and what comes back is enlarged; alone it would be softer than the frame around
it. So the frame is given the change, what was restored less what went in, both at the restorer's size, and what
shrinking took away stays the frame's own. Of a blurred face it holds nothing but noise and the blocks of a codec: there
it goes, as it does with all that is restored.
"""

from __future__ import annotations

from torch import Tensor

from ..faces.quality import sharpness_at
from ..types import FaceCrop

FULL, NONE = 1.1, 1.5
"""Crop pixels per frame pixel up to which all detail stays, and from which none does: a face that comes nearer in a
film must not jump where it outgrows the square. Somewhat above 1 a crop holds what the frame does, but for what
sampling there and back takes: of a sharp portrait at 1.04 half of the finest detail."""
LARGER = 0.8
"""Crop pixels per frame pixel up to which that is worth a word to who restores."""
_OVERALL = (0.36, 0.45)
"""Sharpness of a face up to which none of its detail stays, and from which all does. Of 84 clean portraits the least
has 0.49; of 19 degraded photos the most has 0.40, and half of them have less than 0.28."""
_CLOSE = (0.25, 0.33)
"""The same of its sharpness pixel by pixel. Twenty sharp photos with faces of 460 to 1460 px have 0.34 or more; blurred
by 4 px and stored as JPEG of quality 15, 0.20 to 0.27: there the blocks would come back."""
_CLOSEST = 1024
"""Largest side of the crop in which that is measured."""


def worth(sharpness: float, close: float | None = None) -> float:
    """Return how much of a face's fine detail is worth keeping, 0 to 1.

    Args:
        sharpness: of the face as a whole, see `faces.quality.sharpness`.
        close: the same, measured pixel by pixel.
    """
    overall = _ramp(sharpness, *_OVERALL)
    return overall if close is None else overall * _ramp(close, *_CLOSE)


def worth_in(frame: Tensor, crop: FaceCrop, sharpness: float | None = None) -> float:
    """Return how much of the fine detail of a frame's face is worth keeping, 0 to 1.

    Shapes: frame (3, H, W).

    Args:
        frame: the picture.
        crop: where in it the face is.
        sharpness: of the face, where somebody measured it.
    """
    overall = worth(sharpness_at(frame, crop.matrix, crop.size) if sharpness is None else sharpness)
    if not overall:
        return 0.0
    side = min(round(crop.size / crop.scale), _CLOSEST)
    return overall * worth(1.0, sharpness_at(frame, crop.matrix, crop.size, side))


def share_kept(worth: float, scale: float) -> float:
    """Return how much of its fine detail a face keeps, 0 to 1.

    Args:
        worth: how much of it is worth keeping.
        scale: pixels of the restored face per pixel of the frame.
    """
    return worth * _ramp(-scale, -NONE, -FULL)


def _ramp(value: float, low: float, high: float) -> float:
    return min(max((value - low) / (high - low), 0.0), 1.0)
