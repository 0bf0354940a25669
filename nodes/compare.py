"""Comparing restored faces with what they should be."""

from __future__ import annotations

import json

import torch

from .compat import io, option, schema
from .host import check_cancel, device, join_image, split_image
from .models import get_detector
from .types import MEASURE


class CompareFaces(io.ComfyNode):
    """Measure images against their truth, pair by pair."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Describe the node."""
        return schema(
            node_id="BFR_CompareFaces",
            display_name="Compare Faces",
            category=MEASURE,
            description="Measure images against their truth, pair by pair: PSNR, SSIM, sharpness, and how far eyes, "
            "nose and mouth are off. The sheet shows them side by side with the figures below. Metrics that need a "
            "file, such as LPIPS, are in the command `bfr eval`.",
            search_aliases=["psnr", "ssim", "metrics", "evaluate", "image difference"],
            inputs=[
                io.Image.Input("image", tooltip="The restored images"),
                io.Image.Input("truth", tooltip="What they should look like: as many, of the same size"),
                option(
                    io.Int, "rows", default=16, min=1, max=64,
                    tooltip="Pairs on the sheet, from the first; the figures hold all",
                ),
                io.Image.Input(
                    "input", optional=True, tooltip="What they were restored from, to see what was gained"
                ),
            ],
            outputs=[
                io.Image.Output(display_name="sheet", tooltip="Input, image and truth, with the figures of each pair"),
                io.String.Output(display_name="figures", tooltip="Every value and the means, as JSON"),
            ],
        )  # fmt: skip

    @classmethod
    def execute(
        cls, image: torch.Tensor, truth: torch.Tensor, rows: int = 16, input: torch.Tensor | None = None
    ) -> io.NodeOutput:
        """Compare every pair."""
        # Here and not at the top: the metrics are many modules, and the pack must load fast.
        from ..bfr_core.evaluate.compare import compare_faces
        from ..bfr_core.evaluate.tools import MetricModels

        given = {"restored": image, "truth": truth, "input": input}
        images = {side: split_image(batch)[0].clamp(0, 1) for side, batch in given.items() if batch is not None}
        tools = MetricModels(device=device(), detector=get_detector())
        sheet, figures = compare_faces(images, tools, rows=rows, check=check_cancel)
        picture = torch.from_numpy(sheet).permute(2, 0, 1)[None].float() / 255
        return io.NodeOutput(join_image(picture), json.dumps(figures, indent=1))
