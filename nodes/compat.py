"""The one place that imports ComfyUI's node API, and evens out the versions we support (0.8 and later)."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from comfy_api.latest import ComfyExtension, InputImpl, io, ui

try:
    from comfy.model_management import intermediate_dtype
except ImportError:

    def intermediate_dtype() -> torch.dtype:
        """Return the type of images between nodes: older hosts have them in one only."""
        return torch.float32


__all__ = [
    "ComfyExtension",
    "InputImpl",
    "boxes_input",
    "boxes_output",
    "dynamic_combo",
    "intermediate_dtype",
    "io",
    "option",
    "schema",
    "ui",
]

_NEWER = {"search_aliases"}
"""Fields of Schema that 0.8 lacks. Named one by one, so that a misspelt field is an error and not left out."""

_UNKNOWN_HERE = _NEWER - {field.name for field in dataclasses.fields(io.Schema)}


def schema(**fields: Any) -> io.Schema:
    """Build a schema, without the newer fields that this host does not know."""
    return io.Schema(**{name: value for name, value in fields.items() if name not in _UNKNOWN_HERE})


def option(kind: Any, name: str, *, advanced: bool = False, **fields: Any) -> Any:
    """Build an input, marked advanced where this host knows the mark."""
    if advanced and "advanced" in inspect.signature(kind.Input.__init__).parameters:
        fields["advanced"] = True
    return kind.Input(name, **fields)


def dynamic_combo(name: str, choices: Mapping[str, Sequence[Any]], *, labels: Mapping[str, str], tooltip: str) -> Any:
    """Build an optional combo whose choice decides which further widgets there are.

    Its value comes as a dictionary: the choice under `name`, and each widget under its own name. `labels` are what
    pages show in place of the choices (`web/labels.js`).
    """
    options = [io.DynamicCombo.Option(key, list(inputs)) for key, inputs in choices.items()]
    extra = {"labels": dict(labels)}
    return io.DynamicCombo.Input(name, options=options, optional=True, tooltip=tooltip, extra_dict=extra)


_BoundingBox = io.Custom("BOUNDING_BOX")


def boxes_input(name: str, tooltip: str) -> Any:
    """Build an optional socket for the core type BOUNDING_BOX.

    Without forceInput newer pages draw it as a widget, whose value shifts those of the widgets after it.
    """
    return _BoundingBox.Input(name, optional=True, tooltip=tooltip, extra_dict={"forceInput": True})


def boxes_output(name: str, tooltip: str) -> Any:
    """Build an output of the core type BOUNDING_BOX: a list for each frame of dictionaries."""
    return _BoundingBox.Output(display_name=name, tooltip=tooltip)
