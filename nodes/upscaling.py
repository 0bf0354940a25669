"""Larger results in nodes: the inputs that ask for them, and the host's models that make them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..bfr_core.restoration.options import UPSCALES
from ..bfr_core.restoration.upscale import Lanczos, ModelUpscaler
from ..bfr_core.runtime import Runtime
from ..bfr_core.types import Upscaler
from .compat import io, option
from .host import Managed, check_cancel, device

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ..bfr_core.types import Upscaler

UpscaleModelSocket = io.Custom("UPSCALE_MODEL")
"""The host's own type: what Load Upscale Model gives, a model as spandrel describes it."""

_TILE = 512
_BYTES = 512 * 512 * 3 * 4 * 384
"""Memory that a tile takes beside the weights, by the factor of the model, as the host's own node estimates it."""


def upscale_inputs() -> list[Any]:
    """Return the widget and the socket, to be put behind all others; graphs saved without them run as before."""
    return [
        option(
            io.Combo, "upscale", options=[str(factor) for factor in UPSCALES], default="1", optional=True,
            tooltip="Times as wide and as high as the input. Faces come from the restorer as large as they are then; "
            "better than to enlarge first",
        ),
        UpscaleModelSocket.Input(
            "upscale_model", optional=True,
            tooltip="From Load Upscale Model: enlarges all but the faces, where upscale is above 1. Left open: Lanczos",
        ),
    ]  # fmt: skip


def host_upscaler(model: Any) -> Upscaler | None:
    """Return an upscaler that runs a model of the host under its memory management; None for no model.

    Raises:
        ModelError: the model is not for RGB pictures.
    """
    if model is None:
        return None
    from ..bfr_core.restoration.fingerprint import digest_of

    managed = Managed(model.model)
    needed = int(_BYTES * max(float(model.scale), 1.0))
    run = Runtime(device=device(), check_cancel=check_cancel, prepare=lambda net: managed.ready(needed))
    name = f"{getattr(model.architecture, 'name', type(model.model).__name__)} x{model.scale}"
    return ModelUpscaler(model, run, name=name, key=digest_of(model.model), tile=_TILE)


def larger_shape(frames: Tensor, factor: int) -> Sequence[int]:
    """Return the shape of enlarged frames (B, 3, H, W)."""
    return (*frames.shape[:2], frames.shape[2] * factor, frames.shape[3] * factor)


def larger_alpha(alpha: Tensor | None, factor: int) -> Tensor | None:
    """Return the alpha of images, (B, H, W, 1), at the size of the result; None where there is none."""
    if alpha is None or factor == 1:
        return alpha
    resampler = Lanczos()
    layers = [resampler(layer[None].movedim(-1, 1).float(), factor).movedim(1, -1) for layer in alpha]
    return torch.cat(layers).to(alpha.dtype)
