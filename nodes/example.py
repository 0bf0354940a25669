"""Media to try the other nodes with: faces of nobody, painted by weights of this pack, that come with it."""

from __future__ import annotations

from pathlib import Path

import torch

from .compat import InputImpl, io, option, schema, ui
from .host import join_image
from .types import EXAMPLES

_FOLDER = Path(__file__).parent / "examples"
_PICTURES = ("one person", "another person", "two people")
_DEGRADED_HELP = "On gives a poor copy: blurred, small, noisy, compressed; off gives it as good as it is"


def _portrait(picture: str) -> torch.Tensor:
    """Return an example as (3, H, W) RGB [0, 1]."""
    from ..bfr_core.examples import side_by_side
    from ..bfr_core.media.pictures import read_picture, to_float

    first, second = (to_float(read_picture(_FOLDER / name)) for name in ("first.jpg", "second.jpg"))
    return {"one person": first, "another person": second, "two people": side_by_side(first, second)}[picture]


class ExamplePortrait(io.ComfyNode):
    """A photo to begin with."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Describe the node."""
        return schema(
            node_id="BFR_ExamplePortrait",
            display_name="Example Portrait",
            category=EXAMPLES,
            description="A portrait of nobody, painted by this pack's own weights, to try the other nodes with. Put "
            "Load Image in its place for your own photo.",
            search_aliases=["sample image", "test image", "demo photo"],
            inputs=[
                option(io.Combo, "picture", options=list(_PICTURES), tooltip="Who is in it"),
                option(io.Boolean, "degraded", default=True, tooltip=_DEGRADED_HELP),
            ],
            outputs=[io.Image.Output(display_name="image", tooltip="One image")],
        )  # fmt: skip

    @classmethod
    def execute(cls, picture: str = "one person", degraded: bool = True) -> io.NodeOutput:
        """Read it, and spoil it."""
        from ..bfr_core.examples import degraded as poor

        made = _portrait(picture)[None]
        image = join_image(poor(made) if degraded else made)
        return io.NodeOutput(image, ui=ui.PreviewImage(image, cls=cls))


class ExampleClip(io.ComfyNode):
    """A film to begin with."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Describe the node."""
        return schema(
            node_id="BFR_ExampleClip",
            display_name="Example Clip",
            category=EXAMPLES,
            description="A short film of nobody, made of the example portrait, to try the nodes for films with. Put "
            "Load Video in its place for your own video.",
            search_aliases=["sample video", "test video", "demo clip"],
            inputs=[
                option(io.Combo, "picture", options=list(_PICTURES[:2]), tooltip="Who is in it"),
                option(io.Int, "frames", default=30, min=2, max=250, step=1, tooltip="Length, at 25 frames a second"),
                option(io.Boolean, "degraded", default=True, tooltip=_DEGRADED_HELP),
            ],
            outputs=[io.Video.Output(display_name="video", tooltip="384 x 384 pixels, without sound")],
        )  # fmt: skip

    @classmethod
    def execute(cls, picture: str = "one person", frames: int = 30, degraded: bool = True) -> io.NodeOutput:
        """Move it, and spoil every frame."""
        from ..bfr_core.examples import degraded as poor
        from ..bfr_core.examples import film, moving

        made = moving(_portrait(picture), frames)
        made = poor(made) if degraded else made
        shown = join_image(made[:1])
        return io.NodeOutput(InputImpl.VideoFromFile(film(made)), ui=ui.PreviewImage(shown, cls=cls))
