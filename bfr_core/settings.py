"""Settings of a method: the fields of a frozen dataclass, each declared once with its help and its range.

    @dataclass(frozen=True, slots=True)
    class ExampleSettings:
        steps: int = param(8, "Steps of the sampler", low=1, high=1000)
        sampler: Literal["dpm++", "ddim"] = param("dpm++", "Which sampler takes them")

Widget, command option and check of every surface follow from the field, by way of its `Param`.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields, replace
from functools import cache
from typing import Any, Literal, TypeVar, cast, get_args, get_origin, get_type_hints

from .errors import SettingsError

Value = float | int | bool | str
T = TypeVar("T", bound=Value)

_DECLARED = "param"


@dataclass(frozen=True, slots=True)
class Param:
    """One setting of a method, as every surface shows it."""

    name: str
    default: Value
    help: str
    low: float | None = None
    high: float | None = None
    step: float | None = None
    choices: tuple[str, ...] = ()

    def check(self, value: Any) -> Value:
        """Return `value` in this setting's type.

        Raises:
            SettingsError: the value is of another type, out of range, not finite, or not a choice.
        """
        kind = type(self.default)
        expected = f"one of {', '.join(self.choices)}" if self.choices else kind.__name__
        if self.low is not None:
            expected += f" from {self.low:g} to {self.high:g}"
        fits = isinstance(value, kind) or (kind is float and isinstance(value, int) and not isinstance(value, bool))
        if kind is int and isinstance(value, bool):
            fits = False
        if fits and self.low is not None and self.high is not None:
            fits = self.low <= float(value) <= self.high  # NaN fails both
        if fits and self.choices:
            fits = value in self.choices
        if not fits:
            raise SettingsError(
                f"Cannot use {value!r} for {self.name}",
                found=f"expected {expected}",
                kept="Nothing was started",
                todo=f"Give a value in range, or leave {self.name} out for {self.default!r}",
            )
        return kind(value)


@dataclass(frozen=True, slots=True)
class NoSettings:
    """Of a method that has none."""


def param(
    default: T,
    help: str,
    *,
    low: float | None = None,
    high: float | None = None,
    step: float | None = None,
    choices: tuple[str, ...] = (),
) -> T:
    """Declare a field of a dataclass of settings.

    Args:
        default: its value where nobody chose; a whole number, a number, a switch or a choice, by its type.
        help: one line for people.
        low: least value, of numbers.
        high: largest value, of numbers.
        step: by which a widget moves; 1 for whole numbers.
        choices: what can be chosen; a field that is a Literal has those of its type.
    """
    if step is None and type(default) is int and low is not None:
        step = 1
    declared = Param("", default, help, low, high, step, choices)
    return cast(T, field(default=default, metadata={_DECLARED: declared}))


@cache
def declared_params(settings: type) -> tuple[Param, ...]:
    """Return the settings that a dataclass declares, in order.

    Raises:
        TypeError: a field is declared without `param`.
    """
    types = get_type_hints(settings)
    found = []
    for one in fields(settings):
        if _DECLARED not in one.metadata:
            raise TypeError(f"{settings.__name__}.{one.name} is no setting: declare it with param(default, help)")
        declared = replace(one.metadata[_DECLARED], name=one.name)
        if get_origin(types[one.name]) is Literal:
            declared = replace(declared, choices=get_args(types[one.name]))
        found.append(declared)
    return tuple(found)
