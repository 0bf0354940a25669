"""Whole images, restored without looking for faces in them: a node for each method that can."""

from __future__ import annotations

import json
from typing import Any, ClassVar

import torch

from ..bfr_core.errors import SettingsError
from ..bfr_core.registry import Method
from ..bfr_core.restoration.options import Colours, RestoreOptions
from ..bfr_core.restoration.photo import restore_whole
from .compat import io, option, schema
from .host import join_image, runtime, split_image
from .models import LoadedRestorer, get_restorer
from .restore import REPORT_HELP, SEED, SEED_HELP, colours_input, default_choice
from .settings import default_config, param_input
from .types import RESTORE, RestorerSocket


class RestoreImage(io.ComfyNode):
    """Restore images as a whole; `picture_node` makes it the node of a method."""

    METHOD: ClassVar[Method]

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Describe the node."""
        method = cls.METHOD
        return schema(
            node_id=f"BFR_RestoreImage_{method.id}",
            display_name=f"Restore Image ({method.title})",
            category=RESTORE,
            description=f"Restore images of any size as a whole: {method.picture_help}",
            search_aliases=[method.id, method.title, "image restoration", "tiled restore", "denoise", "deblur"],
            inputs=[
                io.Image.Input("image", tooltip="One image or a batch, of any size"),
                option(io.Int, "seed", **SEED, tooltip=SEED_HELP),
                *(param_input(param) for param in method.params_of(default_config(method))),
                RestorerSocket.Input("restorer", optional=True, tooltip=f"Left open: {default_choice(method)}"),
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
        loaded = restorer or get_restorer(default_choice(cls.METHOD))
        if loaded.restorer.method.id != cls.METHOD.id:
            raise SettingsError(
                "Cannot restore a whole picture",
                found=f"the restorer is {loaded.restorer.method.title}; expected {cls.METHOD.title}",
                kept="The picture is unchanged",
                todo=f"Load the restorer {cls.METHOD.id}",
            )
        options = RestoreOptions(seed=seed, colours=colours, settings=settings)
        run = runtime(loaded.managed, len(frames))
        out, reports = torch.empty_like(frames), []
        for index, frame in enumerate(frames):
            part = run.scaled(index, len(frames))
            result = restore_whole(frame, loaded.restorer, options=options, runtime=part, frame_index=index)
            out[index] = result.image
            reports.append(result.report.to_dict())
        return io.NodeOutput(join_image(out, alpha), json.dumps(reports, indent=1))


def picture_node(method: Method) -> type[io.ComfyNode]:
    """Make the node of a method that restores whole pictures: images in, restored ones out, its settings as widgets."""
    name = f"BFR_RestoreImage_{method.id}"
    return type(name, (RestoreImage,), {"METHOD": method, "__doc__": RestoreImage.__doc__})
