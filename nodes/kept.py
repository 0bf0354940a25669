"""The two nodes of anything that people keep in files: one saves it to the output folder, one loads it again."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..bfr_core.errors import SettingsError
from ..bfr_core.media.tensors import SUFFIX
from .compat import io, option, schema
from .host import data_files, data_path, new_output
from .types import EDIT

_NONE = "none"
"""Choice of a loader while no file is there: an empty list would say nothing."""


@dataclass(frozen=True, slots=True)
class Kept:
    """One kind of thing that is kept."""

    label: str
    """As the nodes are called, after Save and Load."""
    title: str
    """In words, for descriptions and messages."""
    socket: Any
    name: str
    """Of the input and of the output."""
    folder: str
    """Within the output folder, and within the input folder."""
    method: str
    """Id of the method that it belongs to."""
    contents: str
    """What is inside, after its name; for tooltips."""
    write: Callable[[Path, Any], None]
    read: Callable[[Path], Any]


def save_node(kept: Kept) -> type[io.ComfyNode]:
    """Make the node that saves."""
    usual = f"{kept.folder}/face"

    class Save(io.ComfyNode):
        """Keep something in a file."""

        @classmethod
        def define_schema(cls) -> io.Schema:
            """Describe the node."""
            return schema(
                node_id=_node_id("Save", kept),
                display_name=f"Save {kept.label}",
                category=EDIT,
                description=f"Save {kept.title} to the output folder, for Load {kept.label}.",
                search_aliases=[kept.method, f"export {kept.title}"],
                inputs=[
                    kept.socket.Input(kept.name, tooltip=f"The {kept.name} to save, {kept.contents}"),
                    option(
                        io.String, "filename_prefix", default=usual,
                        tooltip=f"A counter follows; Load {kept.label} lists what is in {kept.folder}/",
                    ),
                ],
                outputs=[],
                is_output_node=True,
            )  # fmt: skip

        @classmethod
        def execute(cls, filename_prefix: str = usual, **given: Any) -> io.NodeOutput:
            """Write the file."""
            path, shown = new_output(filename_prefix, SUFFIX, usual)
            kept.write(path, given[kept.name])
            return io.NodeOutput(ui={kept.folder: [shown]})

    Save.__name__ = Save.__qualname__ = _node_id("Save", kept)
    return Save


def load_node(kept: Kept) -> type[io.ComfyNode]:
    """Make the node that loads."""

    class Load(io.ComfyNode):
        """Read something from a file."""

        @classmethod
        def define_schema(cls) -> io.Schema:
            """Describe the node."""
            folder = kept.folder
            return schema(
                node_id=_node_id("Load", kept),
                display_name=f"Load {kept.label}",
                category=EDIT,
                description=f"Load {kept.title} that Save {kept.label} wrote.",
                search_aliases=[kept.method, f"import {kept.title}"],
                inputs=[
                    option(
                        io.Combo, "file", options=[_NONE, *data_files(folder, SUFFIX)],
                        tooltip=f"A file in the input folder, or in {folder}/ of the output folder; press R to list "
                        "anew",
                    )
                ],
                outputs=[kept.socket.Output(display_name=kept.name, tooltip=f"The {kept.name}, {kept.contents}")],
            )  # fmt: skip

        @classmethod
        def fingerprint_inputs(cls, file: str | None = _NONE) -> float:
            """Run again when the file was replaced."""
            if file in (None, _NONE) or not data_path(file).is_file():
                return 0.0
            return data_path(file).stat().st_mtime

        @classmethod
        def execute(cls, file: str) -> io.NodeOutput:
            """Read the file."""
            if file == _NONE:
                raise SettingsError(
                    f"No {kept.title} to load",
                    found=f"no file is chosen; expected one that Save {kept.label} wrote",
                    kept="Nothing was started",
                    todo="Save some first, press R, and choose them here",
                )
            return io.NodeOutput(kept.read(data_path(file)))

    Load.__name__ = Load.__qualname__ = _node_id("Load", kept)
    return Load


def _node_id(verb: str, kept: Kept) -> str:
    return f"BFR_{verb}{kept.label.replace(' ', '')}"
