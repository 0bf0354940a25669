"""Methods are declared once, each in its own folder under `methods/`; everything else is generated from there."""

from __future__ import annotations

import difflib
import importlib
import pkgutil
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from torch import Tensor, nn

from .errors import SettingsError

Value = float | int | bool | str


@dataclass(frozen=True, slots=True)
class Paper:
    """Where a method was published."""

    title: str
    url: str
    section: str = ""


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
class Config:
    """One size of a method."""

    name: str
    title: str
    size: int
    """Side of the face crop, in pixels."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """Passed to `Method.build`."""
    embedded: str | None = None
    """Name of the weights that come with the package; None where the user brings a file."""


@dataclass(frozen=True, slots=True)
class Method:
    """The declaration of one restoration method."""

    id: str
    title: str
    summary: str
    papers: tuple[Paper, ...]
    configs: tuple[Config, ...]
    """The default first."""
    build: Callable[[Config], nn.Module]
    """Makes the untrained network of a config."""
    restore: Callable[[nn.Module, Tensor, Mapping[str, Value], Collection[int]], Tensor]
    """Restores (B, 3, S, S) crops in [0, 1] with the settings and one seed per face."""
    recognise: Callable[[Collection[str]], str | None]
    """Names the config that a checkpoint's keys belong to, or None."""
    params: tuple[Param, ...] = ()
    stages: Mapping[str, str] = field(default_factory=dict)
    """Training stages: name, and the module under `train.stages` that declares it. Methods may share one."""

    def config(self, name: str = "") -> Config:
        """Return the config called `name`, the default for an empty name.

        Raises:
            SettingsError: the method has no such config.
        """
        for config in self.configs:
            if name in ("", config.name):
                return config
        raise SettingsError(
            f"{self.title} has no config {name!r}",
            found=f"expected one of {', '.join(config.name for config in self.configs)}",
            kept="Nothing was started",
            todo="Choose a config from the list",
        )

    def settings(self, given: Mapping[str, Any]) -> dict[str, Value]:
        """Return every setting, checked, with defaults where none was given.

        Raises:
            SettingsError: a name is unknown or a value does not fit.
        """
        known = {param.name: param for param in self.params}
        for name in given:
            if name not in known:
                near = difflib.get_close_matches(name, known, n=1)
                raise SettingsError(
                    f"{self.title} has no setting {name!r}",
                    found=f"expected one of {', '.join(known) or 'none at all'}",
                    kept="Nothing was started",
                    todo=f"Did you mean {near[0]!r}?" if near else "Leave the setting out",
                )
        return {name: param.check(given.get(name, param.default)) for name, param in known.items()}


@cache
def methods() -> dict[str, Method]:
    """Return every declared method by id: one for each folder under `methods/`, in order of their names."""
    package = importlib.import_module(".methods", __package__)
    found = (
        importlib.import_module(f".{module.name}", package.__name__).METHOD
        for module in pkgutil.iter_modules(package.__path__)
    )
    return {method.id: method for method in found}


def get_method(method_id: str) -> Method:
    """Return the method with that id.

    Raises:
        SettingsError: there is none.
    """
    try:
        return methods()[method_id]
    except KeyError:
        raise SettingsError(
            f"Unknown method {method_id!r}",
            found=f"expected one of {', '.join(methods())}",
            kept="Nothing was started",
            todo="Choose a method from the list; `bfr models list` describes them",
        ) from None


def identify(keys: Collection[str]) -> str | None:
    """Say in words which method and config a checkpoint's keys belong to, or None."""
    for method in methods().values():
        if config := method.recognise(keys):
            return f"{method.title}, config {config}"
    return None
