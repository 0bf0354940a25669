"""Whole pictures of any size: patches know no borders, so neither does the method."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor

from ...diffusion.patches import positions
from ...errors import InputMediaError, SettingsError
from ...runtime import Runtime
from ...seeding import Draws
from .model import LPIPDiff
from .restore import patch_size, quarter, sample

if TYPE_CHECKING:
    from ...restorer import Restorer

_IRN_MULTIPLE = 64
"""What identity recovery networks want the sides to be multiples of: the compact one 32, SwinIR 64."""


def restore_picture(
    restorer: Restorer, picture: Tensor, *, seed: int = 0, settings: Mapping[str, Any] | None = None, runtime: Runtime
) -> Tensor:
    """Restore a picture as a whole, faces and all.

    The patches are those of a face crop, a quarter of `restorer.size`, whatever the picture's size. Beside a few
    copies of the picture, memory holds one group of patches. A picture that is smaller than a crop is continued by its
    mirror image until the networks can halve it, and cut back.

    Shapes: picture (3, H, W) float32 RGB [0, 1] of any H and W; returns the same, on the device it came from.

    Args:
        restorer: of this method.
        picture: the picture, upright; not changed.
        seed: of its noise.
        settings: the method's, as for faces.
        runtime: where to run, and who hears of progress.

    Raises:
        InputMediaError: wrong shape or range.
        SettingsError: a restorer of another method, or settings that do not fit.
        RestoreError: out of memory with a single patch, or numbers that are not finite even in float32.
    """
    if not isinstance(restorer.net, LPIPDiff):
        raise SettingsError(
            "Cannot restore a whole picture",
            found=f"the restorer is {restorer.method.title}; expected LPIP-Diff",
            kept="The picture is unchanged",
            todo="Load the restorer lpip_diff",
        )
    _check(picture)
    chosen = restorer.settings(settings or {}, runtime)
    net, context = cast(LPIPDiff, runtime.ready(restorer.net)), restorer.context(runtime)
    tile = restorer.size
    height, width = (_side(length, tile, math.lcm(net.multiple, _IRN_MULTIPLE)) for length in picture.shape[1:])
    side = min(height, width)
    patch = patch_size(net, chosen.patch or min(quarter(net, restorer.size), side), side)
    draws = Draws((seed,), runtime.device)

    def whole() -> Tensor:
        x = mirrored(picture[None].to(runtime.device), height, width) * 2 - 1
        x_irn = tiled(lambda part: net.recovered(part).to(part), x, tile, check_cancel=runtime.check_cancel)
        return (sample(net, x, x_irn, chosen, draws, context, patch=patch) + 1) / 2

    def call(item: Tensor) -> Tensor:
        return restorer.run_with_fp32_fallback(whole, runtime, what="pictures").to(item.device)

    with torch.inference_mode(False), torch.no_grad():
        made = runtime.run_batched(call, picture[None])[0]
    return made[:, : picture.shape[1], : picture.shape[2]].clamp(0, 1).contiguous()


def mirrored(x: Tensor, height: int, width: int) -> Tensor:
    """Continue pictures (B, C, H, W) to the right and downwards by their mirror image, as often as it takes."""
    for dim, length in ((2, height), (3, width)):
        own = x.shape[dim]
        at = torch.arange(length, device=x.device) % max(2 * own - 2, 1)  # the edge itself is not repeated
        x = x.index_select(dim, torch.where(at < own, at, 2 * own - 2 - at))
    return x


def tiled(
    call: Callable[[Tensor], Tensor], x: Tensor, tile: int, *, check_cancel: Callable[[], None] = lambda: None
) -> Tensor:
    """Return what a network makes of a large picture, tile by tile, each fading into the next.

    A plain mean would show where tiles end, as a network that sees a whole tile says something else in each; weights
    that fall to the edges do not.

    Shapes: x (B, C, H, W); tiles (B, C, at most tile, at most tile); returns the shape of x.

    Args:
        call: the network, which keeps shapes.
        x: the picture.
        tile: side of the tiles; a side of the picture that is no longer is taken whole.
        check_cancel: called before each tile.
    """
    high, wide = (min(tile, side) for side in x.shape[2:])
    if (high, wide) == tuple(x.shape[2:]):
        return call(x)
    rows = positions(x.shape[2], high, max(3 * high // 4, 1))
    columns = positions(x.shape[3], wide, max(3 * wide // 4, 1))
    weight = _fading(high, x)[:, None] * _fading(wide, x)
    result, total = torch.zeros_like(x), x.new_zeros(1, 1, *x.shape[2:])
    for top in rows:
        for left in columns:
            check_cancel()
            here = (..., slice(top, top + high), slice(left, left + wide))
            result[here] += call(x[here]) * weight
            total[here] += weight
    return result / total


def _fading(length: int, like: Tensor) -> Tensor:
    """Return weights (length,) above 0 that fall to both ends over a quarter of the length."""
    at = torch.arange(length, dtype=like.dtype, device=like.device) + 0.5
    return (torch.minimum(at, length - at) / (length / 4)).clamp(max=1)


def _side(length: int, tile: int, multiple: int) -> int:
    """Return the length itself where it takes several tiles, else the next multiple."""
    return length if length > tile else math.ceil(length / multiple) * multiple


def _check(picture: Tensor) -> None:
    found = None
    if picture.ndim != 3 or picture.shape[0] != 3 or 0 in picture.shape or not picture.is_floating_point():
        found = f"found shape {tuple(picture.shape)} of {picture.dtype}"
    elif not bool(((picture >= 0) & (picture <= 1)).all()):
        low, high = picture.min().item(), picture.max().item()
        found = f"found values from {low:.3g} to {high:.3g}" if low == low else "found NaN"
    if found:
        raise InputMediaError(
            "LPIP-Diff cannot take this picture",
            found=f"{found}; expected (3, height, width) float in [0, 1]",
            kept="Nothing was changed",
            todo="Give a colour picture in the range 0 to 1",
        )
