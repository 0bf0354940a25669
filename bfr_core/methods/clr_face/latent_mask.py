"""The latent mask of CLR-Face as a picture, for people to look at and to change (paper Sec. 3.3)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor
from torch.nn import functional as F

from ...errors import SettingsError
from ...runtime import Runtime
from ...seeding import Draws
from .model import CLRFace
from .restore import begin, noise_levels, recover

if TYPE_CHECKING:
    from ...restorer import Restorer


def latent_mask(
    restorer: Restorer,
    faces: Tensor,
    *,
    seeds: Sequence[int],
    settings: Mapping[str, Any] | None = None,
    runtime: Runtime,
) -> Tensor:
    """Return M_l of aligned faces at the first step of their refinement, its channels averaged.

    Restoring asks f_M again at each step; given back as the input `mask`, this picture stands still.

    Shapes: faces (B, 3, size, size) float32 RGB [0, 1], B may be 0; returns (B, 1, size, size) in [0, 1], on the CPU.

    Args:
        restorer: of this method.
        faces: aligned in the FFHQ template.
        seeds: one per face.
        settings: as for restoring; those that decide where the refinement starts matter.
        runtime: where to run, and who hears of progress.

    Raises:
        InputMediaError: wrong shape or range.
        SettingsError: a restorer of another method, seeds of another number, or settings that do not fit.
        RestoreError: out of memory with one face, or numbers that are not finite even in float32.
    """
    if not isinstance(restorer.net, CLRFace):
        raise SettingsError(
            "Cannot read a latent mask",
            found=f"the restorer is {restorer.method.title}; expected CLR-Face",
            kept="Nothing was started",
            todo="Load the restorer clr_face",
        )
    restorer.check(faces, seeds)
    chosen = restorer.method.settings(settings or {}, restorer.config)
    levels = noise_levels(chosen)
    if not levels:
        raise SettingsError(
            "Cannot read a latent mask at 0 steps",
            found="nothing is guided where nothing is refined; expected at least 1 step",
            kept="Nothing was started",
            todo="Take more steps",
        )
    net = cast(CLRFace, runtime.ready(restorer.net))
    numbered, done = list(seeds), 0

    def call(part: Tensor) -> Tensor:
        nonlocal done
        draws = Draws(numbered[done : done + len(part)], runtime.device)
        there = part.to(runtime.device)

        def first() -> Tensor:
            known = recover(net, there)
            z = begin(known, levels, chosen.start, draws)
            return net.mask(net.denoise(z, known.condition, levels[0].sigma), known.zid)

        made = restorer.run_with_fp32_fallback(first, runtime, what="masks")
        done += len(part)
        made = F.interpolate(made.mean(1, keepdim=True), part.shape[-2:], mode="bilinear", align_corners=False)
        return made.cpu()

    if not len(faces):
        return faces[:, :1].cpu()
    with torch.no_grad():
        return runtime.run_batched(call, faces)
