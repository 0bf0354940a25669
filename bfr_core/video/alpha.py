"""Whether the transparency that a clip's format has is in use."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction

from .pixels import Pixels
from .reader import Reader
from .types import VideoInfo


def is_transparent(
    info: VideoInfo,
    *,
    rate: Fraction | None = None,
    window: tuple[float, float] | None = None,
    check_cancel: Callable[[], None] = lambda: None,
) -> bool:
    """Return whether a pixel of a clip lets through what is behind it.

    GIF and ProRes 4444 have an alpha channel by their format, in most films one that is opaque throughout: that is
    known at their end alone. Where one is transparent, it is in most cases known at the first frame.

    Args:
        info: of a clip whose pixels have alpha.
        rate: frames a second of a clip without time stamps.
        window: the part that is looked at, as for `Reader`.
        check_cancel: called for every packet; raises to stop.

    Raises:
        InputMediaError: no frame of it can be used.
    """
    opaque = Pixels(info).span(3)[1]
    # Damage is told by the first pass over the film, which knows what to do with it.
    reader = Reader(info, on_damage="skip", rate=rate, window=window, check_cancel=check_cancel)
    return any(int(reader.pixels.planes(moment.picture)[3].min()) < opaque for moment in reader)
