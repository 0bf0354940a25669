"""Making poor faces of good ones, to test restoration on."""

from __future__ import annotations

import json
from dataclasses import replace

import torch

from ..bfr_core.degrade.chain import degrade_batch
from ..bfr_core.degrade.drawing import draw
from ..bfr_core.degrade.presets import PRESETS, SEVERITIES, get_preset
from .compat import io, option, schema
from .host import check_cancel, join_image, split_image
from .types import TRAIN_AIDS


class DegradeFaces(io.ComfyNode):
    """Degrade images the way restoration methods are trained and tested."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Describe the node."""
        return schema(
            node_id="BFR_DegradeFaces",
            display_name="Degrade Faces",
            category=TRAIN_AIDS,
            description="Blur, shrink, add noise, compress and enlarge images by the published ranges of a paper, or "
            "by a fixed factor (x4 to x64), to test restoration on. Image n of a batch is drawn with seed + n.",
            search_aliases=["degradation", "blur noise jpeg", "low quality", "test restoration"],
            inputs=[
                io.Image.Input("image", tooltip="Good images; the ranges are meant for faces of 512 px"),
                option(
                    io.Combo, "preset", options=[*PRESETS, *SEVERITIES],
                    tooltip="A paper's ranges, mild for photos that are nearly good, or a fixed factor",
                ),
                option(
                    io.Int, "seed", default=0, min=0, max=2**32 - 1, control_after_generate=True,
                    tooltip="Draws the degradation; the same seed gives the same image everywhere",
                ),
                option(io.Boolean, "jpeg", default=True, tooltip="Off leaves JPEG compression out", advanced=True),
                option(
                    io.Boolean, "colour", default=True, advanced=True,
                    tooltip="Off leaves colour shifts, gray and haze out; blur, noise and JPEG stay as drawn",
                ),
            ],
            outputs=[
                io.Image.Output(display_name="image", tooltip="The degraded images"),
                io.Image.Output(
                    display_name="truth",
                    tooltip="What they should be restored to: the input, gray or moved where the preset says so",
                ),
                io.String.Output(display_name="parameters", tooltip="What was drawn for each image, as JSON"),
            ],
        )  # fmt: skip

    @classmethod
    def execute(
        cls, image: torch.Tensor, preset: str, seed: int = 0, jpeg: bool = True, colour: bool = True
    ) -> io.NodeOutput:
        """Degrade every image."""
        frames, alpha = split_image(image)
        ranges = get_preset(preset)
        ranges = ranges if colour else ranges.without_colour()
        degraded, truth, drawn = torch.empty_like(frames), frames.clone(), []
        for index, frame in enumerate(frames):
            check_cancel()
            params = draw(ranges, seed + index)
            params = params if jpeg else replace(params, jpeg_quality=0)
            result = degrade_batch(frame.clamp(0, 1)[None], [params])
            degraded[index] = result.degraded[0]
            if params.changes_truth:
                truth[index] = result.truth[0]
            drawn.append({"preset": preset, "seed": seed + index, **params.to_dict()})
        return io.NodeOutput(join_image(degraded, alpha), join_image(truth, alpha), json.dumps(drawn, indent=1))
