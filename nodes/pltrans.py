"""Latents of faces to sample, interpolate, edit by region, save and decode (PLTrans, Sec. 4.6)."""

from __future__ import annotations

import time
from typing import Any

import torch

from ..bfr_core.methods.pltrans.latents import (
    SAMPLING_STEPS,
    PLTransLatents,
    decode,
    encode,
    load_latents,
    mix,
    replaced,
    sample,
    save_latents,
)
from ..bfr_core.registry import Param, get_method
from .compat import io, option, schema
from .host import join_image, mask_layers, runtime, split_image
from .kept import Kept, load_node, save_node
from .models import LoadedRestorer, get_restorer
from .restore import (
    REPORT_HELP,
    SEED,
    SEED_HELP,
    batch_report,
    batch_seeds,
    default_choice,
)
from .settings import default_config, param_input
from .types import EDIT, RestorerSocket

PLTransLatentSocket = io.Custom("BFR_PLTRANS_LATENT")
"""Carries `PLTransLatents`."""

_METHOD = "pltrans"
_DECODING = ("dictionary", "transformer")
"""Settings of the method that decide what is made of latents."""
_NEITHER = "diffusion"
"""The setting that no node here has: without the regulariser the method makes no use of u."""
_ALIASES = [_METHOD, "latent editing", "face editing"]

_KEPT = Kept(
    label="PLTrans Latent",
    title="PLTrans latents",
    socket=PLTransLatentSocket,
    name="latent",
    folder="pltrans_latents",
    method=_METHOD,
    contents="with every face in it",
    write=save_latents,
    read=load_latents,
)


class PLTransLatent(io.ComfyNode):
    """Read the latents of aligned faces."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Describe the node."""
        return schema(
            node_id="BFR_PLTransLatent",
            display_name="PLTrans Latent",
            category=EDIT,
            description="Read the latents that PLTrans restores aligned faces from, freed of their degradation. Mix "
            "them, edit a region, or save them; PLTrans Decode turns them into faces. Unchanged they give what Restore "
            "Aligned Faces (PLTrans) gives with the same seed and settings.",
            search_aliases=[*_ALIASES, "encode face", "gan inversion"],
            inputs=[
                io.Image.Input("faces", tooltip="Aligned faces, from Align Faces"),
                option(io.Int, "seed", **SEED, tooltip=SEED_HELP),
                *(param_input(param) for param in _params() if param.name not in (*_DECODING, _NEITHER)),
                _restorer_input(),
            ],
            outputs=[
                PLTransLatentSocket.Output(display_name="latent", tooltip="Of each face, in the same order"),
                _report_output(),
            ],
        )

    @classmethod
    def execute(
        cls, faces: torch.Tensor, seed: int = 0, restorer: LoadedRestorer | None = None, **settings: Any
    ) -> io.NodeOutput:
        """Encode and regularise."""
        loaded = _restorer(restorer)
        frames, _ = split_image(faces)
        run, seeds, start = runtime(loaded.managed, len(frames)), batch_seeds(seed, len(frames)), time.monotonic()
        latent = encode(loaded.restorer, frames.clamp(0, 1), seeds=seeds, settings=settings, runtime=run)
        return io.NodeOutput(latent, batch_report(loaded, run, time.monotonic() - start, seed=seed))


class PLTransSample(io.ComfyNode):
    """Draw the latents of faces that nobody has."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Describe the node."""
        return schema(
            node_id="BFR_PLTransSample",
            display_name="PLTrans Sample",
            category=EDIT,
            description="Draw latents of faces that nobody has, out of noise. PLTrans Decode turns them into faces, "
            "PLTrans Mix mixes them into others.",
            search_aliases=[*_ALIASES, "generate face", "random face", "synthesise face"],
            inputs=[
                option(io.Int, "seed", **SEED, tooltip="Draws the faces; the same seed gives the same ones"),
                option(io.Int, "count", default=1, min=1, max=64, step=1, tooltip="How many faces"),
                option(
                    io.Int, "steps", default=SAMPLING_STEPS, min=1, max=1000, step=1,
                    tooltip="On the way from noise to latents; time grows with them",
                ),
                _restorer_input(),
            ],
            outputs=[PLTransLatentSocket.Output(display_name="latent", tooltip="Of as many faces"), _report_output()],
        )  # fmt: skip

    @classmethod
    def execute(
        cls, seed: int = 0, count: int = 1, steps: int = SAMPLING_STEPS, restorer: LoadedRestorer | None = None
    ) -> io.NodeOutput:
        """Sample."""
        loaded = _restorer(restorer)
        run, start = runtime(loaded.managed, count), time.monotonic()
        latent = sample(loaded.restorer, seeds=batch_seeds(seed, count), runtime=run, steps=steps)
        return io.NodeOutput(latent, batch_report(loaded, run, time.monotonic() - start, seed=seed))


class PLTransMix(io.ComfyNode):
    """Mix the latents of two faces, everywhere or in a region."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Describe the node."""
        return schema(
            node_id="BFR_PLTransMix",
            display_name="PLTrans Mix",
            category=EDIT,
            description="Mix the latents of two faces. With a mask only its region takes from b, such as the mouth "
            "from Mask of Face Parts, and the rest stays a; with an amount of 1 the region is replaced. Latents of one "
            "face are mixed with each of the others.",
            search_aliases=[*_ALIASES, "interpolate", "blend latents", "replace region", "swap mouth", "masked edit"],
            inputs=[
                PLTransLatentSocket.Input("a", tooltip="Latents of some faces"),
                PLTransLatentSocket.Input("b", tooltip="Latents of as many faces, or of one for all of them"),
                option(
                    io.Float, "amount", default=0.5, min=0.0, max=1.0, step=0.01,
                    tooltip="0 keeps a, 1 takes b; with a mask, inside it",
                ),
                io.Mask.Input(
                    "mask", optional=True,
                    tooltip="1 where b comes in, in the square of the aligned face; one mask, or one for each face. "
                    "Left open: everywhere",
                ),
            ],
            outputs=[PLTransLatentSocket.Output(display_name="latent", tooltip="The mixed latents")],
        )  # fmt: skip

    @classmethod
    def execute(
        cls, a: PLTransLatents, b: PLTransLatents, amount: float = 0.5, mask: torch.Tensor | None = None
    ) -> io.NodeOutput:
        """Mix."""
        if mask is None:
            return io.NodeOutput(mix(a, b, amount))
        layers = mask_layers(mask, max(len(a), len(b)))
        return io.NodeOutput(replaced(a, b, layers[:, None], amount))


class PLTransDecode(io.ComfyNode):
    """Turn latents into faces."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Describe the node."""
        return schema(
            node_id="BFR_PLTransDecode",
            display_name="PLTrans Decode",
            category=EDIT,
            description="Turn latents into faces by PLTrans: they ask the dictionary of clean faces what to paint.",
            search_aliases=[*_ALIASES, "decode face"],
            inputs=[
                PLTransLatentSocket.Input("latent", tooltip="Read, sampled, mixed or loaded"),
                *(param_input(param) for param in _params() if param.name in _DECODING),
                _restorer_input(),
            ],
            outputs=[
                io.Image.Output(display_name="faces", tooltip="In the same order, for Composite Faces"),
                _report_output(),
            ],
        )

    @classmethod
    def execute(cls, latent: PLTransLatents, restorer: LoadedRestorer | None = None, **settings: Any) -> io.NodeOutput:
        """Decode."""
        loaded = _restorer(restorer)
        run, start = runtime(loaded.managed, len(latent)), time.monotonic()
        faces = decode(loaded.restorer, latent, settings=settings, runtime=run)
        return io.NodeOutput(join_image(faces), batch_report(loaded, run, time.monotonic() - start))


SavePLTransLatent, LoadPLTransLatent = save_node(_KEPT), load_node(_KEPT)

NODES = (PLTransLatent, PLTransSample, PLTransMix, PLTransDecode, SavePLTransLatent, LoadPLTransLatent)


def _params() -> tuple[Param, ...]:
    method = get_method(_METHOD)
    return method.params_of(default_config(method))


def _restorer(given: LoadedRestorer | None) -> LoadedRestorer:
    return given or get_restorer(_choice())


def _choice() -> str:
    return default_choice(get_method(_METHOD))


def _restorer_input() -> Any:
    return RestorerSocket.Input("restorer", optional=True, tooltip=f"Left open: {_choice()}")


def _report_output() -> Any:
    return io.String.Output(display_name="report", tooltip=REPORT_HELP)
