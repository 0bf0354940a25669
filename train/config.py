"""What a training run is told: dataclasses, presets by name, files and single overrides.

An unknown key is refused with the nearest known name, and a value of the wrong kind with the kind that was expected,
before anything is read or written.
"""

from __future__ import annotations

import dataclasses
import difflib
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from bfr_core.errors import SettingsError

STRICT = ConfigDict(extra="forbid")
"""Every config dataclass is declared with this, so that a misspelt key is an error and not a default."""

Count = Annotated[int, Field(ge=1)]
Share = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Amount = Annotated[float, Field(ge=0, allow_inf_nan=False)]


@dataclass(frozen=True, config=STRICT)
class Phase:
    """One stretch of training. A run goes through its phases in order."""

    name: str
    images: Count
    """How many images it sees."""
    batch: Count
    """Images of one optimiser step, over all processes and accumulated parts."""
    lr: tuple[Positive, Positive]
    """Learning rate at its start and, along a cosine, at its end."""
    size: Count = 512
    """Side of the training pictures."""
    warmup: int = 0
    """Images over which the learning rate rises from zero."""
    weights: dict[str, Amount] = dataclasses.field(default_factory=dict)
    """Weight of each term of the losses, by name. A term of weight 0, or not named, is not computed."""


@dataclass(frozen=True, config=STRICT)
class TrainConfig:
    """What every stage has. A stage adds its own fields in a subclass."""

    phases: tuple[Phase, ...]
    network: str = "compact"
    """The method's config that the weights are for."""
    seed: int = 0
    optimiser: Literal["adamw", "muon"] = "adamw"
    betas: tuple[Share, Share] = (0.9, 0.99)
    weight_decay: Amount = 0.0
    clip: Amount = 1.0
    """Largest norm of the gradient; 0 leaves it alone."""
    ema: Amount = 2_000.0
    """Half-life of the averaged weights, in images; shorter at first. 0 keeps no average."""
    precision: Literal["auto", "no", "bf16", "fp16"] = "no"
    """`auto` is bf16 where the processor has instructions for it, and `no`, which is float32, elsewhere. A run may be
    continued on another processor."""
    accumulate: Count = 1
    """Parts in which each process works through its share of a batch, where memory is short."""
    compile: bool = False
    bad_steps: Count = 10
    """Steps in a row whose gradient is not finite before the run ends. Each is left out and counted."""
    bad_images: Share = 0.01
    """Share of the pictures that may be unreadable. Each is named and counted."""
    save_minutes: Positive = 5.0
    validate_images: Count = 1_000
    """Images between two validations, each with a sheet of pictures."""
    validate_limit: Count = 24
    """Most held-out pictures a validation uses."""


RUNTIME_FIELDS = ("compile", "bad_steps", "bad_images", "save_minutes", "validate_images", "validate_limit")
"""May differ when a run is continued: they do not change what is learnt."""

C = TypeVar("C", bound=TrainConfig)


def load_config(choice: str, presets: Mapping[str, C], overrides: list[str] | None = None) -> C:
    """Return the config called `choice`, or the one in that TOML or JSON file, with overrides applied.

    A file names the preset it starts from as `base` (the first preset where it does not) and gives only what
    differs; phases are given whole.

    Args:
        choice: name of a preset, or path of a file.
        presets: the stage's configs, the default first.
        overrides: `key=value`, a phase's field as `phases.NAME.field=value`; values are JSON, else text.

    Raises:
        SettingsError: a key is unknown, a value does not fit, or the file cannot be read.
    """
    if choice in presets:
        config, where = presets[choice], f"config {choice}"
    elif Path(choice).suffix in (".toml", ".json"):
        config, where = _from_file(Path(choice), presets), choice
    else:
        raise SettingsError(
            f"There is no config {choice!r}",
            found=f"expected {', '.join(presets)}, or the path of a .toml or .json file{_nearest(choice, presets)}",
            kept="Nothing was started",
            todo="Choose one of them",
        )
    for override in overrides or ():
        key, sign, text = override.partition("=")
        if not sign:
            raise SettingsError(
                f"Cannot use --set {override}",
                found="it has no '='; expected key=value",
                kept="Nothing was started",
                todo="Write for example --set seed=1 or --set phases.faces.images=100",
            )
        config = _override(config, key.split("."), _value(text), where)
    return config


def to_dict(config: TrainConfig) -> dict[str, Any]:
    """Return the config as plain JSON types."""
    return json.loads(json.dumps(dataclasses.asdict(config)))


def from_dict(kind: type[C], fields: Mapping[str, Any], where: str) -> C:
    """Check `fields` and make a config of them.

    Raises:
        SettingsError: the first thing that does not fit, named by its path.
    """
    try:
        return TypeAdapter(kind).validate_python(dict(fields))
    except ValidationError as error:
        first = error.errors()[0]
        path = ".".join(map(str, first["loc"]))
        if first["type"] == "unexpected_keyword_argument":
            known = _fields_at(kind, first["loc"][:-1])
            raise unknown_key(path, str(first["loc"][-1]), known, where) from None
        raise SettingsError(
            f"Cannot use {where}",
            found=f"{path or 'the config'} is {first['input']!r}; {first['msg'][:1].lower()}{first['msg'][1:]}",
            kept="Nothing was started",
            todo="Give a value that fits, or leave it out for the default",
        ) from None


def read_fields(path: Path) -> dict[str, Any]:
    """Return the keys and values of a TOML or JSON file.

    Raises:
        SettingsError: it cannot be read, or holds something else.
    """
    try:
        text = path.read_text("utf-8")
        if path.suffix == ".json":
            fields = json.loads(text)
        else:
            if sys.version_info >= (3, 11):
                import tomllib
            else:
                import tomli as tomllib
            fields = tomllib.loads(text)
        if not isinstance(fields, dict):
            raise ValueError(f"it holds {type(fields).__name__}, not keys with values")
    except (OSError, ValueError) as error:
        raise SettingsError(
            f"Cannot read the config {path}",
            found=f"{error}; expected a TOML or JSON file with keys of a config",
            kept="Nothing was started",
            todo="Mend the file; `--dry-run` shows what a config comes to",
        ) from error
    return fields


def _from_file(path: Path, presets: Mapping[str, C]) -> C:
    fields = read_fields(path)
    base = fields.pop("base", next(iter(presets)))
    if base not in presets:
        raise unknown_key("base", str(base), list(presets), str(path))
    kind = type(presets[base])
    return from_dict(kind, {**to_dict(presets[base]), **fields}, str(path))


def _override(config: C, path: list[str], value: Any, where: str) -> C:
    fields = to_dict(config)
    if path[0] == "phases" and len(path) == 3:
        names = [phase.name for phase in config.phases]
        if path[1] not in names:
            raise unknown_key("phases." + path[1], path[1], names, where)
        fields["phases"][names.index(path[1])][path[2]] = value
    elif path[0] == "phases" and len(path) == 4 and path[2] == "weights":
        names = [phase.name for phase in config.phases]
        if path[1] not in names:
            raise unknown_key("phases." + path[1], path[1], names, where)
        fields["phases"][names.index(path[1])]["weights"][path[3]] = value
    elif len(path) == 1:
        fields[path[0]] = value
    else:
        known = [field.name for field in dataclasses.fields(config)]
        raise unknown_key(".".join(path), path[0], known, where)
    return from_dict(type(config), fields, f"{where} with {'.'.join(path)}={value}")


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text


def scaled(config: C, images: int) -> C:
    """Return a config whose phases see `images` in all, each its share of them in whole batches.

    A warm-up stays as long as it is, up to a quarter of its phase.
    """
    total = sum(phase.images for phase in config.phases)

    def fitted(phase: Phase) -> Phase:
        count = max(round(phase.images * images / total / phase.batch), 1) * phase.batch
        return dataclasses.replace(phase, images=count, warmup=min(phase.warmup, count // 4))

    return dataclasses.replace(config, phases=tuple(fitted(phase) for phase in config.phases))


def _fields_at(kind: type, location: tuple[int | str, ...]) -> list[str]:
    """Return the field names of the dataclass that a validation error lies in."""
    if location and location[0] == "phases":
        hints = {field.name: field.type for field in dataclasses.fields(kind)}
        inner = Phase
        for candidate in _subclasses(Phase):
            if candidate.__name__ in str(hints["phases"]):
                inner = candidate
        kind = inner
    return [field.name for field in dataclasses.fields(kind)]


def _subclasses(kind: type) -> list[type]:
    return [kind, *(deeper for child in kind.__subclasses__() for deeper in _subclasses(child))]


def _nearest(name: str, known: Mapping[str, Any] | list[str]) -> str:
    near = difflib.get_close_matches(name, list(known), n=1)
    return f"; did you mean {near[0]!r}" if near else ""


def unknown_key(path: str, name: str, known: Sequence[str], where: str) -> SettingsError:
    """Return the error of a key that nobody reads, with the nearest one that somebody does."""
    near = difflib.get_close_matches(name, known, n=1)
    return SettingsError(
        f"Unknown key {path!r} in {where}",
        found=f"expected one of {', '.join(known)}",
        kept="Nothing was started",
        todo=f"Did you mean {near[0]!r}?" if near else "Leave it out",
    )
