"""Whole images, restored without looking for faces in them (LPIP-Diff)."""

from __future__ import annotations

from typing import Any

import torch

from ..bfr_core.registry import get_method
from .compat import io, option, schema
from .host import join_image, runtime, split_image
from .models import LoadedRestorer, get_restorer
from .restore import SEED, SEED_HELP, batch_seeds, default_config, param_input
from .types import CATEGORY, RestorerSocket

_METHOD = "lpip_diff"


class RestoreImage(io.ComfyNode):
    """Restore images as a whole, patch by patch."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Describe the node."""
        method = get_method(_METHOD)
        return schema(
            node_id=f"BFR_RestoreImage_{method.id}",
            display_name=f"Restore Image ({method.title})",
            category=CATEGORY,
            description="Restore images of any size as a whole: overlapping patches are painted together, so no seam "
            "shows. It was trained on faces, so look at what it makes of the rest; Composite Faces pastes faces alone. "
            "Time grows with the number of pixels.",
            search_aliases=[method.id, method.title, "image restoration", "tiled restore", "denoise", "deblur"],
            inputs=[
                io.Image.Input("image", tooltip="One image or a batch, of any size"),
                option(io.Int, "seed", **SEED, tooltip=SEED_HELP),
                *(param_input(param) for param in method.params_of(default_config(method))),
                RestorerSocket.Input("restorer", optional=True, tooltip=f"Left open: {_choice()}"),
            ],
            outputs=[io.Image.Output(display_name="image", tooltip="The restored images, of the same size")],
        )

    @classmethod
    def execute(
        cls, image: torch.Tensor, seed: int = 0, restorer: LoadedRestorer | None = None, **settings: Any
    ) -> io.NodeOutput:
        """Restore every image."""
        # Here and not at the top: only this node needs it, and the pack must load fast.
        from ..bfr_core.methods.lpip_diff.picture import restore_picture

        frames, alpha = split_image(image)
        loaded = restorer or get_restorer(_choice())
        run = runtime(loaded.managed, len(frames))
        run.batch = 1
        host_progress = run.on_progress
        out = torch.empty_like(frames)
        for index, own_seed in enumerate(batch_seeds(seed, len(frames))):
            run.on_progress = lambda count, _, before=index: host_progress(before + count, len(frames))
            out[index] = restore_picture(
                loaded.restorer, frames[index].clamp(0, 1), seed=own_seed, settings=settings, runtime=run
            )
        return io.NodeOutput(join_image(out, alpha))


def _choice() -> str:
    return f"{_METHOD}/{default_config(get_method(_METHOD)).name}"
