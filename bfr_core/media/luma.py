"""Brightness as films and pictures store it: which share each colour has in it."""

from __future__ import annotations

from torch import Tensor

BT601 = (0.299, 0.587, 0.114)
"""Of red, green and blue in the luma of ITU-R BT.601, which JPEG, and most programs that turn a picture gray, use."""

RED_AND_BLUE = {
    1: (0.2126, 0.0722),
    4: (0.30, 0.11),
    5: (BT601[0], BT601[2]),
    6: (BT601[0], BT601[2]),
    7: (0.212, 0.087),
    9: (0.2627, 0.0593),
    10: (0.2627, 0.0593),
}
"""Shares of red and blue in the luma of films (ITU-T H.273), by FFmpeg's AVCOL_SPC. 10 is not linear, and near enough
to 9."""


def assumed_matrix(height: int) -> int:
    """Return the AVCOL_SPC that players assume of a film that does not say: BT.709 from 720 lines on, else BT.601."""
    return 1 if height >= 720 else 5


def luma(image: Tensor) -> Tensor:
    """Return the BT.601 luma of (..., 3, H, W) as (..., 1, H, W)."""
    red, green, blue = image.split(1, dim=-3)
    return BT601[0] * red + BT601[1] * green + BT601[2] * blue
