"""The region mask of faces by itself, for people to look at and to change (paper Fig. 6)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor

from ...diffusion.guidance import choose_mask
from ...errors import SettingsError
from ...runtime import Runtime
from .model import DiffuseRestore
from .restore import check_sides, mask_makers

if TYPE_CHECKING:
    from ...restorer import Restorer


def region_mask(
    restorer: Restorer,
    faces: Tensor,
    *,
    seeds: Sequence[int],
    settings: Mapping[str, Any] | None = None,
    runtime: Runtime,
) -> Tensor:
    """Return the mask that restoring aligned faces guides by; given back as the input `mask`, it makes no difference.

    Shapes: faces (B, 3, size, size) float32 RGB [0, 1], B may be 0; returns (B, 1, size, size) in [0, 1], on the CPU.

    Args:
        restorer: of this method.
        faces: aligned in the FFHQ template.
        seeds: one per face, as for restoring; this mask depends on none.
        settings: as for restoring; `masking` and `delta` matter.
        runtime: where to run, and who hears of progress.

    Raises:
        InputMediaError: wrong shape or range.
        SettingsError: a restorer of another method, seeds of another number, or settings that do not fit.
        RestoreError: out of memory with one face, or numbers that are not finite even in float32.
    """
    if not isinstance(restorer.net, DiffuseRestore):
        raise SettingsError(
            "Cannot read a region mask",
            found=f"the restorer is {restorer.method.title}; expected Diffuse-and-Restore",
            kept="Nothing was started",
            todo="Load the restorer diffuse_restore",
        )
    restorer.check(faces, seeds)
    chosen = restorer.method.settings(settings or {}, restorer.config)
    if not len(faces):
        return faces[:, :1].cpu()
    net = cast(DiffuseRestore, runtime.ready(restorer.net))

    def call(part: Tensor) -> Tensor:
        x = part.to(runtime.device) * 2 - 1
        check_sides(net, x)

        def made() -> Tensor:
            makers = mask_makers(net, x, net.recovered(x).to(x), chosen.delta)
            return choose_mask(chosen.masking, x, makers=makers)

        return restorer.run_with_fp32_fallback(made, runtime, what="masks").cpu()

    with torch.inference_mode(False), torch.no_grad():
        return runtime.run_batched(call, faces)
