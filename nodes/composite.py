"""Putting restored faces back."""

from __future__ import annotations

import torch

from ..bfr_core.compose.paste import composite
from ..bfr_core.errors import InputMediaError
from ..bfr_core.restorer import face_seed
from .compat import io, option, schema
from .host import check_cancel, join_image, mask_layers, split_image, to_host
from .restore import grain_input
from .types import RESTORE, Crops, CropsSocket


class CompositeFaces(io.ComfyNode):
    """Paste restored faces back into the images they were cut from."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Describe the node."""
        return schema(
            node_id="BFR_CompositeFaces",
            display_name="Composite Faces",
            category=RESTORE,
            description="Paste restored faces back into the images they were cut from, in the shape of the head and "
            "with the grain of the image. Everything outside the mask stays exactly as it was; where faces overlap, "
            "each pixel goes to the nearest one.",
            search_aliases=["paste face", "uncrop", "face blend"],
            inputs=[
                io.Image.Input("image", tooltip="The image the faces were cut from"),
                io.Image.Input("faces", tooltip="Restored faces, in the order of the crops; any size"),
                CropsSocket.Input("crops", tooltip="From the Align Faces that cut them out"),
                option(
                    io.Float, "strength", default=1.0, min=0.0, max=1.0, step=0.01,
                    tooltip="0 keeps the image, 1 shows the restored face in full",
                ),
                option(
                    io.Float, "feather", default=0.12, min=0.0, max=0.5, step=0.01, advanced=True,
                    tooltip="Soft edge inside the crop, as a share of its side",
                ),
                io.Mask.Input(
                    "mask", optional=True,
                    tooltip="Limits what is pasted, in the square of the crop; one mask, or one for each face",
                ),
                grain_input(),
            ],
            outputs=[
                io.Image.Output(display_name="image", tooltip="The images with their faces restored"),
                io.Mask.Output(display_name="mask", tooltip="How much of each pixel was replaced"),
            ],
        )  # fmt: skip

    @classmethod
    def execute(
        cls,
        image: torch.Tensor,
        faces: torch.Tensor,
        crops: Crops,
        strength: float = 1.0,
        feather: float = 0.12,
        mask: torch.Tensor | None = None,
        grain: float = 1.0,
    ) -> io.NodeOutput:
        """Composite every frame."""
        frames, alpha = split_image(image)
        restored, _ = split_image(faces)
        # With no crop Align Faces puts out one black square, which belongs nowhere.
        restored = restored if crops.crops else restored[:0]
        masks = _masks(mask, len(crops.crops))
        if len(restored) != len(crops.crops) or len(frames) != crops.frames:
            raise InputMediaError(
                "Cannot put these faces back",
                found=f"found {len(restored)} faces for {len(crops.crops)} crops, and {len(frames)} images where the "
                f"crops were cut from {crops.frames}; expected equal numbers",
                kept="The images are unchanged",
                todo="Connect the image and crops that the faces came from",
            )
        if tuple(frames.shape[-2:]) != crops.size and crops.crops:
            raise InputMediaError(
                "Cannot put these faces back",
                found=f"the images are {frames.shape[-1]} x {frames.shape[-2]} pixels, but the faces were cut from "
                f"{crops.size[1]} x {crops.size[0]}; expected the same size",
                kept="The images are unchanged",
                todo="Connect the image that went into Align Faces; resize it before, or resize the result",
            )
        out, blended = frames.clone(), torch.zeros(len(frames), *frames.shape[-2:])
        for index, frame in enumerate(frames):
            check_cancel()
            here = [number for number, crop in enumerate(crops.crops) if crop.frame_index == index]
            out[index], blended[index] = composite(
                frame,
                [crops.crops[number] for number in here],
                [restored[number] for number in here],
                masks=[masks[number] for number in here],
                strength=strength,
                feather=feather,
                grain=grain,
                seeds=[face_seed(0, index, crops.crops[number].face.index or 0) for number in here],
            )
        return io.NodeOutput(join_image(out, alpha), to_host(blended))


def _masks(mask: torch.Tensor | None, count: int) -> list[torch.Tensor | None]:
    return [None] * count if mask is None or not count else list(mask_layers(mask, count))
