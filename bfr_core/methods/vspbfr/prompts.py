"""The style prompts of faces by themselves, and the picture that the face generator makes of them (paper Fig. 7)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor

from ...errors import SettingsError
from ...runtime import Runtime
from ...seeding import Draws
from .codes import StyleCodes
from .model import VSPBFR
from .restore import check_codes, prompts

if TYPE_CHECKING:
    from ...restorer import Restorer


def style_codes(restorer: Restorer, faces: Tensor, *, seeds: Sequence[int], runtime: Runtime) -> StyleCodes:
    """Return the codes of aligned faces at each step.

    With the same seeds and batches they are what `Restorer.restore` uses: given back as its input `codes`, the
    denoised ones make no difference.

    Shapes: faces (B, 3, size, size) float32 RGB [0, 1], B may be 0.

    Args:
        restorer: of this method.
        faces: aligned in the FFHQ template.
        seeds: one per face.
        runtime: where to run, and who hears of progress.

    Raises:
        InputMediaError: wrong shape or range.
        SettingsError: a restorer of another method, or seeds of another number.
        RestoreError: out of memory with one face, or numbers that are not finite even in float32.
    """
    net = _network(restorer)
    restorer.check(faces, seeds)
    if not len(faces):
        steps = torch.zeros(0, net.diffusion.steps + 1, *net.latent_avg.shape)
        return StyleCodes(steps[:, 0], steps, restorer.config.name)
    ready = cast(VSPBFR, runtime.ready(net))
    numbered, done = list(seeds), 0

    def call(part: Tensor) -> Tensor:
        nonlocal done
        draws = Draws(numbered[done : done + len(part)], runtime.device)
        degraded = part.to(runtime.device) * 2 - 1

        def both() -> Tensor:
            initial, steps = prompts(ready, degraded, draws)
            return torch.stack([initial, *steps], 1)

        made = restorer.run_with_fp32_fallback(both, runtime, what="codes")
        done += len(part)
        return made.cpu()

    with torch.inference_mode():
        made = runtime.run_batched(call, faces)
    made = made.clone()  # outside inference mode, so that callers may use it anywhere
    return StyleCodes(made[:, 0], made[:, 1:], restorer.config.name)


def preview(restorer: Restorer, codes: Tensor, *, runtime: Runtime) -> Tensor:
    """Return the inverted image of codes: the picture of the facial feature bank, without noise.

    Shapes: codes (B, N, D), B may be 0; returns (B, 3, H, H) RGB [0, 1] on the CPU, H of the bank.

    Raises:
        InputMediaError: codes of another shape, or not finite.
        SettingsError: a restorer of another method.
        RestoreError: out of memory with one face, or numbers that are not finite even in float32.
    """
    net = _network(restorer)
    check_codes(net, codes)
    codes = restorer.method.check_inputs({"codes": codes}, len(codes))["codes"]
    if not len(codes):
        return torch.zeros(0, 3, net.decoder.size, net.decoder.size)
    bank = cast(VSPBFR, runtime.ready(net)).decoder

    def call(part: Tensor) -> Tensor:
        there = part.to(runtime.device)
        return ((restorer.run_with_fp32_fallback(lambda: bank(there), runtime, what="codes") + 1) / 2).clamp(0, 1).cpu()

    with torch.inference_mode():
        pictures = runtime.run_batched(call, codes)
    return pictures.clone()


def _network(restorer: Restorer) -> VSPBFR:
    if not isinstance(restorer.net, VSPBFR):
        raise SettingsError(
            f"{restorer.method.title} has no style codes",
            found="found a restorer of that method; expected one of VSPBFR",
            kept="Nothing was started",
            todo="Load a restorer of VSPBFR",
        )
    return restorer.net
