"""What a plan file says: stages in order, what each is given, how long it may take, and what its result must be.

Everything in it is checked before anything is read or written; a key that nobody reads is refused with the nearest
one that somebody does.
"""

from __future__ import annotations

import dataclasses
import difflib
import json
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from bfr_core.errors import SettingsError
from bfr_core.models.checkpoints.cards import embedded, embedded_cards

from ..config import STRICT, Amount, Count, Positive, TrainConfig, load_config, read_fields, unknown_key
from ..stage import Stage, find_stage, stage_names

PLACES = ("data", "val")
"""Given by the options of these names, and so by `$data` and `$val` in a plan."""
_NAME = re.compile(r"[a-z0-9][a-z0-9-]*")
_EMBEDDED = "embedded:"


@dataclass(frozen=True, config=STRICT)
class Keep:
    """What the figures of a result must be beside those it is compared with. Amounts are in units of the figure."""

    must_rise: dict[str, Amount] = dataclasses.field(default_factory=dict)
    """By at least so much."""
    must_fall: dict[str, Amount] = dataclasses.field(default_factory=dict)
    must_not_fall: dict[str, Amount] = dataclasses.field(default_factory=dict)
    """By more than so much."""
    must_not_rise: dict[str, Amount] = dataclasses.field(default_factory=dict)

    def rules(self) -> Iterator[tuple[str, str, float]]:
        """Yield every rule: its name, the figure and the amount."""
        for field in dataclasses.fields(self):
            for figure, amount in getattr(self, field.name).items():
                yield field.name, figure, amount


@dataclass(frozen=True, config=STRICT)
class Entry:
    """One stage of a plan.

    A place is `@name` for what an earlier stage of the plan gives, `$name` for a file that the command is given,
    `embedded:name` for weights that come with the package, or a path, seen from the plan file.
    """

    name: str
    stage: str
    """METHOD.STAGE."""
    config: str = ""
    """A preset, the first by itself, or a file, seen from the plan file."""
    overrides: dict[str, Any] = dataclasses.field(default_factory=dict)
    """As --set: values by key, such as `seed` or `phases.faces.batch`."""
    init: str = ""
    """Place of the weights to start from."""
    files: dict[str, str] = dataclasses.field(default_factory=dict)
    """Places of what the stage needs."""
    data: tuple[str, ...] = ("$data",)
    val: tuple[str, ...] = ("$val",)
    images: Count | None = None
    """To see in all, over phases in the proportions of the config; the config's own number by itself."""
    hours: Positive | None = None
    """To train for: the images seen in that time, by the speed measured when it begins."""
    against: tuple[str, ...] = ()
    """What the result must beat and takes the place of: names of embedded weights or paths, which together hold what
    the stage exports; or `@name` for what an earlier stage gave. Nothing: the result is handed on in any case."""
    keep: Keep = dataclasses.field(default_factory=Keep)
    judge_limit: Count = 64
    """Most held-out pictures that both are measured on."""


@dataclass(frozen=True, config=STRICT)
class PlanFile:
    """A plan file."""

    stages: tuple[Entry, ...]
    files: dict[str, str] = dataclasses.field(default_factory=dict)
    """Files that the command must be given: name, and what it is."""


@dataclasses.dataclass(frozen=True, slots=True)
class Place:
    """Where something comes from."""

    kind: Literal["stage", "given", "embedded", "path"]
    name: str

    def __str__(self) -> str:
        return {"stage": "@", "given": "$", "embedded": _EMBEDDED, "path": ""}[self.kind] + self.name


def place_of(text: str) -> Place:
    """Read a place as plans write it."""
    if text.startswith("@"):
        return Place("stage", text[1:])
    if text.startswith("$"):
        return Place("given", text[1:])
    if text.startswith(_EMBEDDED):
        return Place("embedded", text.removeprefix(_EMBEDDED))
    return Place("path", text)


def rival_of(text: str) -> Place:
    """Read what a result is compared with: a bare name is one of embedded weights."""
    place = place_of(text)
    return Place("embedded", text) if place.kind == "path" and not Path(text).suffix else place


@dataclasses.dataclass(frozen=True, slots=True)
class Planned:
    """One stage of a plan, checked."""

    entry: Entry
    stage: type[Stage]
    config: TrainConfig
    """Before its budget."""
    config_name: str

    @property
    def name(self) -> str:
        """What the plan calls it."""
        return self.entry.name

    @property
    def files(self) -> dict[str, Place]:
        """Places of what the stage needs."""
        return {need: place_of(text) for need, text in self.entry.files.items()}

    @property
    def rivals(self) -> list[Place]:
        """What the result is compared with."""
        return [rival_of(text) for text in self.entry.against]

    def needed(self) -> list[Place]:
        """Return every place that is read to train it."""
        entry = self.entry
        texts = [*entry.files.values(), *entry.data, *entry.val, *([entry.init] if entry.init else [])]
        return [place_of(text) for text in texts]


class Plan:
    """A plan, checked, and what it was given.

    Args:
        path: the plan file.
        stages: in order.
        files: what the command must be given: name, and what it is.
    """

    def __init__(self, path: Path, stages: Sequence[Planned], files: Mapping[str, str]) -> None:
        self.path, self.stages, self.files = path, tuple(stages), dict(files)
        self.given: dict[str, tuple[Path, ...]] = {}

    def __getitem__(self, name: str) -> Planned:
        return next(planned for planned in self.stages if planned.name == name)

    def give(self, given: Mapping[str, Sequence[Path]], skipped: Collection[str] = ()) -> None:
        """Take what the command was given, and check that the stages that are not skipped have what they need.

        Raises:
            SettingsError: a name is unknown, something is missing or was not given, or a stage needs a skipped one
                that nothing stands in for.
        """
        for name in skipped:
            if name not in (names := [planned.name for planned in self.stages]):
                raise unknown_key(name, name, names, f"--skip of {self.path.name}")
        for name in given:
            if name not in (known := [*PLACES, *self.files]):
                raise unknown_key(name, name, known, f"--file of {self.path.name}")
        self.given = {name: tuple(places) for name, places in given.items()}
        for planned in self.stages:
            if planned.name in skipped:
                continue
            for place in (*planned.needed(), *planned.rivals):
                if place.kind == "given" and not self.given.get(place.name):
                    about = self.files.get(place.name, "pictures")
                    raise self._lacks(planned, f"{place.name}: {about}", f"Give it with --file {place.name}=PATH")
                for path in self.paths(place) if place.kind in ("given", "path") else ():
                    if not path.exists():
                        raise self._lacks(planned, str(path), "Check the path")
                if place.kind == "stage" and place.name in skipped and not self[place.name].entry.against:
                    raise self._lacks(
                        planned, f"the result of {place.name}, which is skipped", f"Skip {planned.name} as well"
                    )

    def _lacks(self, planned: Planned, what: str, todo: str) -> SettingsError:
        return SettingsError(
            f"Stage {planned.name} of {self.path.name} cannot be trained",
            found=f"it lacks {what}",
            kept="Nothing was started",
            todo=f"{todo}, or leave the stage out with --skip {planned.name}",
        )

    def paths(self, place: Place) -> tuple[Path, ...]:
        """Return the paths behind a place that is not a stage's."""
        if place.kind == "given":
            return self.given[place.name]
        if place.kind == "embedded":
            return (embedded(place.name),)
        return (self.path.parent / place.name,)


def load_plan(path: Path) -> Plan:
    """Read and check a plan.

    Raises:
        SettingsError: the file cannot be read, or something in it does not fit; the message says what.
    """
    told = _checked(read_fields(path), path)
    if not told.stages:
        raise _unfit(path, "", "it has no stages", "Add [[stages]]")
    stages: list[Planned] = []
    for entry in told.stages:
        stages.append(_planned(entry, path, told.files, stages))
    return Plan(path, stages, told.files)


_LEVELS = {"stages": Entry, "keep": Keep}
"""What lies below a key."""


def _checked(fields: Mapping[str, Any], path: Path) -> PlanFile:
    try:
        return TypeAdapter(PlanFile).validate_python(dict(fields))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        if first["type"] == "unexpected_keyword_argument":
            above = [part for part in first["loc"][:-1] if isinstance(part, str)]
            kind = _LEVELS[above[-1]] if above else PlanFile
            known = [field.name for field in dataclasses.fields(kind)]
            raise unknown_key(where, str(first["loc"][-1]), known, str(path)) from None
        raise _unfit(
            path, "", f"{where or 'the plan'} is {first['input']!r}; {first['msg'][:1].lower()}{first['msg'][1:]}",
            "Give a value that fits",
        ) from None  # fmt: skip


def _planned(entry: Entry, path: Path, given: Mapping[str, str], before: Sequence[Planned]) -> Planned:
    def refuse(found: str, todo: str) -> SettingsError:
        return _unfit(path, f"stage {entry.name}: ", found, todo)

    names = [planned.name for planned in before]
    if not _NAME.fullmatch(entry.name) or entry.name in names:
        raise refuse("its name is taken, or is not of small letters, digits and '-'", "Choose another")
    if entry.stage not in stage_names():
        raise refuse(f"there is no {entry.stage}{_near(entry.stage, stage_names())}", "`python -m train list` has all")
    stage = find_stage(entry.stage)
    choice = entry.config or next(iter(stage.configs))
    choice = str(path.parent / choice) if Path(choice).suffix in (".toml", ".json") else choice
    overrides = [f"{key}={json.dumps(value)}" for key, value in entry.overrides.items()]
    config = load_config(choice, stage.configs, overrides)
    if entry.images is not None and entry.hours is not None:
        raise refuse("it has a budget of images and one of hours", "Give one of them")
    for need in entry.files:
        if need not in stage.needs:
            raise unknown_key(f"{entry.name}.files.{need}", need, list(stage.needs), str(path))
    if lacking := [need for need, about in stage.needs.items() if about.required and need not in entry.files]:
        raise refuse(f"its files lack {lacking[0]}: {stage.needs[lacking[0]].help}", "Add it under files")
    planned = Planned(entry, stage, config, Path(choice).name)
    for place in (*planned.needed(), *planned.rivals):
        _check_place(place, refuse, given, names)
    if given_rivals := [str(place) for place in planned.rivals if place.kind == "given"]:
        raise refuse(f"it is compared with {given_rivals[0]}", "Name embedded weights, a path or an earlier stage")
    if entry.init and stage.folded and place_of(entry.init).kind == "embedded":
        raise refuse(
            "it cannot start from embedded weights, whose batch norms are folded", "Leave init out, or name a run"
        )
    rules = list(entry.keep.rules())
    for rule, figure, _ in rules:
        if figure not in stage.figures:
            raise unknown_key(f"{entry.name}.keep.{rule}.{figure}", figure, stage.figures, str(path))
    if bool(rules) != bool(entry.against):
        lacking = "what it is compared with" if rules else "rules for its figures"
        raise refuse(f"it lacks {lacking}", "Give both `against` and `keep`, or neither")
    return planned


def _check_place(place: Place, refuse: Any, given: Mapping[str, str], names: Sequence[str]) -> None:
    if place.kind == "stage" and place.name not in names:
        raise refuse(
            f"{place} is no earlier stage{_near(place.name, names)}", f"Name one of {', '.join(names) or 'them'}"
        )
    if place.kind == "given" and place.name not in (known := [*PLACES, *given]):
        raise refuse(f"{place} is not among [files]{_near(place.name, known)}", "Add it there, with what it is")
    if place.kind == "embedded" and not embedded(place.name).is_file():
        known = [card.name for card in embedded_cards()]
        raise refuse(
            f"no embedded weights are called {place.name}{_near(place.name, known)}", f"Name {', '.join(known)}"
        )


def _near(name: str, known: Collection[str]) -> str:
    near = difflib.get_close_matches(name, list(known), n=1)
    return f"; did you mean {near[0]!r}" if near else ""


def _unfit(path: Path, where: str, found: str, todo: str) -> SettingsError:
    return SettingsError(f"Cannot use the plan {path}", found=f"{where}{found}", kept="Nothing was started", todo=todo)
