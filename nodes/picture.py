"""Whole images, restored without looking for faces in them (LPIP-Diff)."""

from __future__ import annotations

import json
from typing import Any

import torch

from ..bfr_core.registry import get_method
from ..bfr_core.restoration.options import Colours, RestoreOptions
from ..bfr_core.restoration.photo import restore_whole
from .compat import io, option, schema
from .host import join_image, runtime, split_image
from .models import LoadedRestorer, get_restorer
from .restore import REPORT_HELP, SEED, SEED_HELP, colours_input, default_config, param_input
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
                colours_input(),
            ],
            outputs=[
                io.Image.Output(display_name="image", tooltip="The restored images, of the same size"),
                io.String.Output(display_name="report", tooltip=REPORT_HELP),
            ],
        )

    @classmethod
    def execute(
        cls,
        image: torch.Tensor,
        seed: int = 0,
        restorer: LoadedRestorer | None = None,
        colours: Colours = "auto",
        **settings: Any,
    ) -> io.NodeOutput:
        """Restore every image."""
        frames, alpha = split_image(image)
        loaded = restorer or get_restorer(_choice())
        options = RestoreOptions(seed=seed, colours=colours, settings=settings)
        run = runtime(loaded.managed, len(frames))
        out, reports = torch.empty_like(frames), []
        for index, frame in enumerate(frames):
            part = run.scaled(index, len(frames))
            result = restore_whole(frame, loaded.restorer, options=options, runtime=part, frame_index=index)
            out[index] = result.image
            reports.append(result.report.to_dict())
        return io.NodeOutput(join_image(out, alpha), json.dumps(reports, indent=1))


def _choice() -> str:
    return f"{_METHOD}/{default_config(get_method(_METHOD)).name}"
