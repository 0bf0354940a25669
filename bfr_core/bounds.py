"""Options with their bounds where they are declared, and the one check of them.

A field made by `bounded`, or with `choices` in its metadata, says what it may be; `check_bounds` refuses everything
else, for photos, films and frames alike. `Param` does the same for the settings of methods, which surfaces turn into
widgets and command options.
"""

from __future__ import annotations

import dataclasses
from typing import Any

from .errors import SettingsError


def bounded(default: Any, low: float, high: float) -> Any:
    """Declare a dataclass field of a number from `low` to `high`; None is allowed where it is the default."""
    return dataclasses.field(default=default, metadata={"bounds": (low, high), "optional": default is None})


def check_bounds(options: Any, doing: str) -> None:
    """Check every declared field of a dataclass.

    Args:
        options: an instance.
        doing: what would be done with it, for the message, such as "restore".

    Raises:
        SettingsError: a value is out of range, not a number, or none of the choices.
    """
    for field in dataclasses.fields(options):
        value, expected = getattr(options, field.name), ""
        if "bounds" in field.metadata:
            low, high = field.metadata["bounds"]
            if value is None and field.metadata["optional"]:
                continue
            number = isinstance(value, (int, float)) and not isinstance(value, bool)
            if not (number and low <= value <= high):  # NaN fails both comparisons
                expected = f"{low:g} to {high:g}"
        elif "choices" in field.metadata and value not in field.metadata["choices"]:
            expected = f"one of {', '.join(map(str, field.metadata['choices']))}"
        if expected:
            name = field.name
            raise SettingsError(
                f"Cannot {doing} with a {name} of {value}",
                found=f"expected {expected}",
                kept="Nothing was started",
                todo=f"Give a {name} in that range" if "bounds" in field.metadata else "Choose one of them",
            )
