"""Visual style prompts to look at, mix, save and give back to the restorer (VSPBFR)."""

from __future__ import annotations

from typing import Any

import torch

from ..bfr_core.methods.vspbfr.codes import StyleCodes, load_codes, mix_codes, save_codes
from ..bfr_core.methods.vspbfr.prompts import preview, style_codes
from ..bfr_core.registry import get_method
from .compat import io, option, schema
from .host import join_image, runtime, split_image
from .kept import Kept, load_node, save_node
from .models import LoadedRestorer, get_restorer
from .restore import SEED, SEED_HELP, batch_seeds, default_choice
from .types import EDIT, Beside, RestorerSocket

StyleCodesSocket = io.Custom("BFR_STYLE_CODES")
"""Carries `StyleCodes`."""

KINDS = {"style_codes": Beside(StyleCodesSocket, lambda codes, config, count: codes.made_with(config).denoised)}

_METHOD = "vspbfr"
_LAYERS = 18
"""Layers of a face generator of 1024 px, the largest there is."""

_SHOWN = {
    "steps": lambda codes: codes.steps.flatten(0, 1),
    "final": lambda codes: codes.denoised,
    "initial": lambda codes: codes.initial,
}

_KEPT = Kept(
    label="Style Codes",
    title="style codes",
    socket=StyleCodesSocket,
    name="codes",
    folder="style_codes",
    method=_METHOD,
    contents="every step of them",
    write=save_codes,
    read=load_codes,
)


def _restorer(given: LoadedRestorer | None) -> LoadedRestorer:
    return given or get_restorer(_choice())


def _choice() -> str:
    return default_choice(get_method(_METHOD))


def _restorer_input() -> Any:
    return RestorerSocket.Input("restorer", optional=True, tooltip=f"Left open: {_choice()}")


class MakeStyleCodes(io.ComfyNode):
    """Read the style prompts of aligned faces."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Describe the node."""
        return schema(
            node_id="BFR_StyleCodes",
            display_name="VSPBFR Style Codes",
            category=EDIT,
            description="Read the visual style prompts of aligned faces: what the style encoder sees in them, and what "
            "the code diffuser makes of it step by step. Look at them with VSPBFR Style Preview, mix or save them, and "
            "connect them to Restore Aligned Faces (VSPBFR). Unchanged they give what that node gives by itself with "
            "the same seed.",
            search_aliases=[_METHOD, "style prompt", "gan inversion", "latent codes", "w+"],
            inputs=[
                io.Image.Input("faces", tooltip="Aligned faces, from Align Faces"),
                option(io.Int, "seed", **SEED, tooltip=SEED_HELP),
                _restorer_input(),
            ],
            outputs=[StyleCodesSocket.Output(display_name="codes", tooltip="Codes of each face at each step")],
        )

    @classmethod
    def execute(cls, faces: torch.Tensor, seed: int = 0, restorer: LoadedRestorer | None = None) -> io.NodeOutput:
        """Encode and denoise."""
        loaded = _restorer(restorer)
        frames, _ = split_image(faces)
        run = runtime(loaded.managed, len(frames))
        seeds = batch_seeds(seed, len(frames))
        return io.NodeOutput(style_codes(loaded.restorer, frames.clamp(0, 1), seeds=seeds, runtime=run))


class PreviewStyleCodes(io.ComfyNode):
    """Show what the face generator makes of style codes."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Describe the node."""
        return schema(
            node_id="BFR_StylePreview",
            display_name="VSPBFR Style Preview",
            category=EDIT,
            description="Show style codes as pictures: the face that the generator paints from the codes alone, "
            "without the degraded image. With the steps it grows out of noise.",
            search_aliases=[_METHOD, "style prompt", "inverted image", "gan inversion"],
            inputs=[
                StyleCodesSocket.Input("codes", tooltip="From VSPBFR Style Codes"),
                option(
                    io.Combo, "show", options=list(_SHOWN), default="steps",
                    tooltip="steps: each face from noise to the last step; final: the last step, which restores; "
                    "initial: as the style encoder read it",
                ),
                _restorer_input(),
            ],
            outputs=[io.Image.Output(display_name="images", tooltip="The pictures of the first face, then the next")],
        )  # fmt: skip

    @classmethod
    def execute(cls, codes: StyleCodes, show: str = "steps", restorer: LoadedRestorer | None = None) -> io.NodeOutput:
        """Generate."""
        loaded = _restorer(restorer)
        shown = _SHOWN[show](codes.made_with(loaded.restorer.config.name))
        return io.NodeOutput(join_image(preview(loaded.restorer, shown, runtime=runtime(loaded.managed, len(shown)))))


class MixStyleCodes(io.ComfyNode):
    """Mix the style prompts of two faces."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Describe the node."""
        layers: dict[str, Any] = {"max": _LAYERS, "step": 1}
        return schema(
            node_id="BFR_MixStyleCodes",
            display_name="VSPBFR Mix Style Codes",
            category=EDIT,
            description="Mix the style codes of two faces, in all layers or in some: the first layers hold pose and "
            "shape, the middle ones features, the last ones colour and texture.",
            search_aliases=[_METHOD, "style prompt", "style mixing", "blend latents", "interpolate"],
            inputs=[
                StyleCodesSocket.Input("a", tooltip="Codes of some faces"),
                StyleCodesSocket.Input("b", tooltip="Codes of as many faces, or of one for all of them"),
                option(
                    io.Float, "amount", default=0.5, min=0.0, max=1.0, step=0.01,
                    tooltip="0 keeps a, 1 takes b",
                ),
                option(io.Int, "first_layer", default=1, min=1, **layers, tooltip="The first layer to mix"),
                option(
                    io.Int, "last_layer", default=0, min=0, **layers,
                    tooltip="The last layer to mix; 0 takes all that follow",
                ),
            ],
            outputs=[StyleCodesSocket.Output(display_name="codes", tooltip="The mixed codes")],
        )  # fmt: skip

    @classmethod
    def execute(
        cls, a: StyleCodes, b: StyleCodes, amount: float = 0.5, first_layer: int = 1, last_layer: int = 0
    ) -> io.NodeOutput:
        """Mix."""
        return io.NodeOutput(mix_codes(a, b, share=amount, first=first_layer, last=last_layer))


SaveStyleCodes, LoadStyleCodes = save_node(_KEPT), load_node(_KEPT)

NODES = (MakeStyleCodes, PreviewStyleCodes, MixStyleCodes, SaveStyleCodes, LoadStyleCodes)
