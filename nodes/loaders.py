"""Nodes that choose a model of a role, generated: their lists are the models that are declared."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from ..bfr_core.models.registry import specs
from .compat import io, option, schema
from .models import check_file, file_stamp, files_of, get_detector, left_out
from .types import FIND, DetectorSocket


def loader_node(
    role: str,
    get: Callable[[str, str], Any],
    socket: Any,
    *,
    node_id: str,
    display_name: str,
    description: str,
    search_aliases: Sequence[str],
    help_model: str,
    help_file: str,
    help_output: str,
) -> type[io.ComfyNode]:
    """Return the node that chooses a model of a role and its file.

    Args:
        role: also the name of the widget and of the output.
        get: returns the model of two choices, its name and its file.
        socket: of the output.
        node_id: never changes.
        display_name: as shown.
        description: as shown.
        search_aliases: other words it is found by.
        help_model: what the choice of the model means.
        help_file: what the choice of the file means.
        help_output: where the output goes.
    """

    class LoadModel(io.ComfyNode):
        @classmethod
        def define_schema(cls) -> io.Schema:
            """Describe the node."""
            names = [spec.id for spec in specs(role)]
            return schema(
                node_id=node_id,
                display_name=display_name,
                category=FIND,
                description=description,
                search_aliases=list(search_aliases),
                inputs=[
                    option(io.Combo, role, options=names, tooltip=help_model),
                    option(io.Combo, "file", options=files_of(role), tooltip=help_file + left_out(role)),
                ],
                outputs=[socket.Output(display_name=role, tooltip=help_output)],
            )

        @classmethod
        def validate_inputs(cls, file: str | None = None) -> bool | str:
            """Say why a file is of no use before anything runs."""
            return check_file(role, file)

        @classmethod
        def fingerprint_inputs(cls, file: str | None = None, **_: Any) -> float:
            """Run again when the file was replaced."""
            return file_stamp(role, file)

        @classmethod
        def execute(cls, file: str | None = None, **chosen: str) -> io.NodeOutput:
            """Load the model."""
            return io.NodeOutput(get(chosen[role], file or files_of(role)[0]))

    LoadModel.__name__ = LoadModel.__qualname__ = f"Load{role.title()}"
    LoadModel.__doc__ = f"{display_name}."
    return LoadModel


LoadDetector = loader_node(
    "detector",
    get_detector,
    DetectorSocket,
    node_id="BFR_LoadDetector",
    display_name="Load Face Detector",
    description="Choose what finds the faces. 'embedded' comes with the pack and was trained on degraded "
    "faces; the others need an extra package or a file in models/facedetection, and say which.",
    search_aliases=("face detection", "yunet", "retinaface", "scrfd"),
    help_model="What finds the faces; embedded needs no file",
    help_file="automatic: the weights of the pack, or a known file in models/facedetection",
    help_output="For Detect Faces and Face Restoration",
)
