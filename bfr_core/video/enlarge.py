"""Larger frames of a film, in its own pixel format."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ..errors import InputMediaError, SettingsError
from ..media.luma import RED_AND_BLUE, assumed_matrix
from ..media.scaling import enlarge_plane
from ..restoration.upscale import Lanczos, check_upscale, upscaled
from .pixels import Filter, Pixels
from .types import VideoFrame, VideoInfo

if TYPE_CHECKING:
    from ..types import Upscaler

Enlarge = Callable[[VideoFrame], VideoFrame]
"""Makes a frame larger."""


def enlarged_info(info: VideoInfo, factor: int) -> VideoInfo:
    """Return what a clip is once its frames are enlarged: of another size, and else the same.

    Where a clip does not tell its colour matrix, players go by its height. The one that holds for the small frames is
    said of the large ones.

    Raises:
        SettingsError: the clip is interlaced.
        InputMediaError: frames would have more pixels than a picture may have.
    """
    if factor == 1:
        return info
    if info.fields:
        raise SettingsError(
            f"Cannot enlarge {info.path}",
            found="it is interlaced, and enlarging would mix the two fields of a frame; expected whole frames",
            kept="Nothing was started and no file was changed",
            todo="Deinterlace it (--deinterlace field), or leave upscale at 1",
        )
    check_upscale((info.height, info.width), factor)
    colour = not info.pix_fmt.startswith(("gbr", "gray"))
    matrix = assumed_matrix(info.height) if colour and info.matrix not in RED_AND_BLUE else info.matrix
    return replace(info, width=info.width * factor, height=info.height * factor, matrix=matrix)


class Enlarger:
    """Enlarges the frames of one clip.

    Every plane is enlarged by itself by Lanczos, chroma as it is sited: no conversion takes part, so depth, range and
    HDR are those of the clip. A model works on RGB, and its difference from that is written into it.

    Args:
        info: of the clip.
        factor: how many times as wide and as high.
        upscaler: a model; None for the planes alone.
    """

    def __init__(self, info: VideoInfo, factor: int, upscaler: Upscaler | None = None) -> None:
        self.factor, self.upscaler = factor, None if isinstance(upscaler, Lanczos) else upscaler
        self.info = enlarged_info(info, factor)
        self.pixels = Pixels(self.info)
        self._shell: Filter | None = None

    def __call__(self, moment: VideoFrame) -> VideoFrame:
        """Return a frame enlarged, with its time stamp, tags and side data."""
        picture = self._enlarged(moment.picture)
        if self.upscaler is not None:
            before = self.pixels.rgb(picture)
            after = upscaled(moment.rgb(), self.factor, self.upscaler).clamp(0, 1)
            picture = self.pixels.write(picture, before, after, (0, 0, self.info.width, self.info.height))
        return replace(moment, picture=picture, rgb=lambda: self.pixels.rgb(picture))

    def told(self) -> list[Any]:
        """Return what a job is told by: the factor and who enlarges."""
        return [self.factor, (self.upscaler or Lanczos()).key]

    def _enlarged(self, picture: Any) -> Any:
        if picture.interlaced_frame:
            raise InputMediaError(
                f"Cannot enlarge {self.info.path}",
                found="a frame of it is interlaced, and enlarging would mix its two fields; expected whole frames",
                kept="The part that was finished before it is kept",
                todo="Deinterlace it (--deinterlace field), or leave upscale at 1",
            )
        if self._shell is None:
            size = f"{self.info.width}:{self.info.height}"
            # For what stands around the samples, which are written anew: a filter is the one way that keeps it.
            self._shell = Filter(picture, ("scale", f"{size}:flags=neighbor"), time_base=self.info.time_base)
        made = self._shell(picture)
        made.pict_type = 0
        sources, targets = self.pixels.planes(picture), self.pixels.planes(made)
        for number, (source, target) in enumerate(zip(sources, targets, strict=True)):
            # Chroma lies on the left column of its cell, as `Pixels` reads it: about the middle, it would move.
            shift = 0.5 - 0.5 / self.pixels.cell[0] if number in (1, 2) else 0.0
            target[:] = enlarge_plane(
                source,
                self.factor,
                self.pixels.span(number),
                shape=(target.shape[0], target.shape[1]),
                left=shift * (1 - 1 / self.factor),
            )
        return made
