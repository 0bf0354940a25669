"""Methods are declared once, each in its own folder under `methods/`; everything else is generated from there."""

from __future__ import annotations

import difflib
import importlib
import pkgutil
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from typing import TYPE_CHECKING, Any, Generic, Literal, TypeVar

import torch
from torch import Tensor, nn

from .dial import Dial
from .errors import InputMediaError, SettingsError
from .runtime import Numbers
from .settings import NoSettings, Param, Value, declared_params

if TYPE_CHECKING:
    from .diffusion.guidance import IdentityGuide

S = TypeVar("S")

MASK = "mask"
"""The kind of input that says where in a face: (B, 1, H, W) in [0, 1], of any size; the method brings it to its own."""
GUIDANCE = "guidance"
"""The setting by which methods that guide switch it off."""


@dataclass(frozen=True, slots=True)
class Paper:
    """Where a method was published."""

    title: str
    url: str
    section: str = ""


@dataclass(frozen=True, slots=True)
class Input:
    """A tensor that a method can be given beside the faces, one row for each; it can always be left out."""

    name: str
    kind: str
    """What it holds, as sockets are called: two methods that take the same kind can share it."""
    help: str


@dataclass(frozen=True, slots=True)
class Part:
    """One of several files that the weights of a method come in."""

    name: str
    title: str
    """In words, for messages."""
    file: str
    """Published name."""
    prefixes: tuple[str, ...]
    """The keys of the whole network that this part holds, and no other part."""
    source: Mapping[str, str]
    """Where the published file keeps them: its top-level keys, and the prefix that makes them keys of the network."""
    keys: tuple[str, ...] = ()
    """Keys that each file of this part has, in every config: they tell it from other models with the same prefixes."""
    ignored: tuple[str, ...] = ()
    """Shell patterns of published keys, prefix included, that the network has no use for."""
    kernels: Mapping[str, float] = field(default_factory=dict)
    """Shell patterns of published FIR buffers with their gain, the first that matches decides: dropped once seen to
    hold what the network computes with, the outer product of 1, 3, 3, 1."""
    trained_with: Mapping[str, Any] = field(default_factory=dict)
    """What the `opts` of a published file must say where it says anything of it."""
    describe: Callable[[Mapping[str, Tensor]], str] | None = None
    """Says in words what a part's tensors are for, such as the size they were trained at; for messages."""
    alone: str = ""
    """Id of the method whose own files serve as this part too: under their own keys, without the prefix."""

    def holds(self, key: str) -> bool:
        """Tell whether a key of the whole network belongs to this part."""
        return key.startswith(self.prefixes)

    def among(self, keys: Collection[str]) -> bool:
        """Tell whether keys of the whole network, or of some of its parts, include this part."""
        return any(map(self.holds, keys)) and all(key in keys for key in self.keys)


@dataclass(frozen=True, slots=True)
class Config:
    """One size of a method."""

    name: str
    title: str
    size: int
    """Side of the face crop, in pixels."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """Passed to `Method.build`."""
    embedded: tuple[str, ...] = ()
    """Names of the weights that come with the package, which with `shared` fill the network; none where the user
    brings files."""
    published: str = ""
    """Address of the page where the weights are published, for people to get them by hand."""
    shared: Mapping[str, str] = field(default_factory=dict)
    """Weights of other methods that come with the package and fill a child of this network, by the child's prefix."""
    defaults: Mapping[str, Value] = field(default_factory=dict)
    """Settings that this config starts from, where they are not the method's."""
    variants: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """Other layouts of the same size: a key that only their files have, and the options that differ."""
    colours: Literal["input", "method"] = "input"
    """Whose colours restored faces have where nobody says. Small weights drift in colour, so theirs are the input's;
    `official` and `paper` weights show what their authors' code shows."""

    def for_keys(self, keys: Collection[str]) -> Config:
        """Return the config with the layout that a file with `keys` has."""
        found = {}
        for key, options in self.variants.items():
            found |= options if key in keys else {}
        return replace(self, options={**self.options, **found}) if found else self


@dataclass(frozen=True, slots=True)
class Context:
    """What a method is given of the run around it, beside the faces; a method that needs none of it ignores it."""

    guide: IdentityGuide | None = None
    """Whose face to steer to and by which recogniser, on the device of the faces; None: the method's own choice."""
    report: Callable[[int, int], None] = lambda index, total: None
    """Called with the index of a step before it, and their number; raises where the run is to stop."""
    note: Callable[[str], None] = lambda text: None
    """Puts what was not done as asked into the report."""
    patch_batch: int | None = None
    """`Method.patch_batch`."""
    tell: Callable[[str, Numbers], None] = lambda heading, numbers: None
    """Puts what was read in the faces into the report, summed up over the run: see `Runtime.tell`."""


@dataclass(frozen=True, slots=True)
class LearntMask:
    """Where a method that guides has learnt to let its guidance act, as a picture to look at and to change."""

    name: str
    """In words."""
    make: Callable[..., Tensor]
    """(restorer, (B, 3, S, S) aligned faces in [0, 1], *, seeds, settings, runtime) to (B, 1, S, S) in [0, 1]."""
    default: bool = False
    """Whether it is the one to look at where nobody chose a method; lists begin with it."""


@dataclass(frozen=True, slots=True)
class Method(Generic[S]):
    """The declaration of one restoration method; `S` is the dataclass of its settings.

    What only this method has, it names here, and no file that methods share does: modules are named as in an import,
    relative to the package that shows them where they begin with a dot.
    """

    id: str
    title: str
    summary: str
    papers: tuple[Paper, ...]
    configs: tuple[Config, ...]
    """The default first."""
    build: Callable[[Config], nn.Module]
    """Makes the untrained network of a config."""
    restore: Callable[[Any, Tensor, S, Collection[int], Mapping[str, Tensor], Context], Tensor]
    """Restores (B, 3, S, S) crops in [0, 1] by the network, with the settings, one seed per face, the inputs that were
    given and what there is of the run around it."""
    recognise: Callable[[Collection[str]], str | None]
    """Names the config that a checkpoint's keys belong to, or None."""
    settings_type: type[S] = NoSettings  # type: ignore[assignment]
    """Its settings: a frozen dataclass, see `bfr_core.settings`."""
    inputs: tuple[Input, ...] = ()
    dials: tuple[Dial, ...] = ()
    """What follows the setting `fidelity`, and how far."""
    parts: tuple[Part, ...] = ()
    """The files its weights come in; none where one file holds the whole network."""
    foreign_checkpoints: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Files that are taken for one of the parts by mistake: what they are, in words, and keys that tell them."""
    stages: Mapping[str, str] = field(default_factory=dict)
    """Training stages: name, and the module under `train.stages` that declares it. Methods may share one."""
    traits: str = ""
    """What to expect of the weights that come with it, in a few words that lists have behind its title."""
    default: bool = False
    """Whether it is the one that restores where nobody chose a method; lists begin with it."""
    draws: bool = True
    """Whether a face's seed changes the result; where not, faces are kept for all seeds."""
    guides: bool = False
    """Whether it can be steered to an identity, through `Context.guide`."""
    mask: LearntMask | None = None
    """Where it lets guidance act by itself, where it has learnt that."""
    patch_batch: int | None = None
    """Patches in one call of a network that works on patches; it takes fewer where memory runs out."""
    picture: Callable[..., Tensor] | None = None
    """Restores a picture of any size as a whole: (restorer, (3, H, W) in [0, 1], *, seed, settings, runtime), the
    result of its shape; None where the method restores faces only."""
    picture_help: str = ""
    """What people need to know of that, in sentences that follow "Restore images of any size as a whole: "."""
    nodes: tuple[str, ...] = ()
    """Modules of the pack's `nodes` that show what only this method has; see `nodes/own.py`."""
    benches: Mapping[str, str] = field(default_factory=dict)
    """Parts of `bfr bench` that measure it: name, and the module, of `bench` or its own. Methods may share one."""
    published_benches: Mapping[str, str] = field(default_factory=dict)
    """The same of the published sizes, which take long and have no weights."""
    commands: Mapping[str, str] = field(default_factory=dict)
    """Commands of `bfr` that only this method has: name, and the module, which declares it with `add`."""

    @property
    def params(self) -> tuple[Param, ...]:
        """Its settings, as surfaces show them."""
        return declared_params(self.settings_type)

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

    def params_of(self, config: Config) -> tuple[Param, ...]:
        """Return the settings with the defaults of a config."""
        return tuple(
            replace(param, default=param.check(config.defaults[param.name])) if param.name in config.defaults else param
            for param in self.params
        )

    def settings(self, given: Mapping[str, Any], config: Config | None = None) -> S:
        """Return the settings, checked, with the defaults of a config, the first by itself, where none was given.

        Raises:
            SettingsError: a name is unknown or a value does not fit.
        """
        known = {param.name: param for param in self.params_of(config or self.configs[0])}
        for name in given:
            if name not in known:
                near = difflib.get_close_matches(name, known, n=1)
                raise SettingsError(
                    f"{self.title} has no setting {name!r}",
                    found=f"expected one of {', '.join(known) or 'none at all'}",
                    kept="Nothing was started",
                    todo=f"Did you mean {near[0]!r}?" if near else "Leave the setting out",
                )
        return self.settings_type(**{name: one.check(given.get(name, one.default)) for name, one in known.items()})

    def check_inputs(self, given: Mapping[str, Tensor], rows: int) -> dict[str, Tensor]:
        """Return the inputs that were given, checked, as float32.

        Shapes: each (rows, ...).

        Raises:
            SettingsError: the method takes no such input.
            InputMediaError: an input is no tensor of numbers, has not one row for each face, or is not finite.
        """
        known = {declared.name: declared for declared in self.inputs}
        for name, value in given.items():
            if name not in known:
                raise SettingsError(
                    f"{self.title} has no input {name!r}",
                    found=f"expected one of {', '.join(known) or 'none at all'}",
                    kept="Nothing was started",
                    todo="Leave the input out, or choose a method that takes it",
                )
            found = None
            if not isinstance(value, Tensor) or not value.is_floating_point():
                found = f"found {value.dtype if isinstance(value, Tensor) else type(value).__name__}"
            elif value.ndim < 2 or len(value) != rows:
                found = f"found shape {tuple(value.shape)}"
            elif broken := int((~torch.isfinite(value.float())).sum()):  # as float32, which is what they will be
                found = f"found NaN or infinity in {broken} of {value.numel()} values"
            elif known[name].kind == MASK:
                found = _unfit_mask(value)
            if found:
                raise InputMediaError(
                    f"{self.title} cannot take the {name.replace('_', ' ')} it was given",
                    found=f"{found}; expected finite numbers in {rows} rows, one for each face",
                    kept="Nothing was changed",
                    todo="Give what belongs to these faces, in their order",
                )
        return {name: value.float() for name, value in given.items()}


def _unfit_mask(mask: Tensor) -> str | None:
    if mask.ndim != 4 or mask.shape[1] != 1 or 0 in mask.shape[2:]:
        return f"found shape {tuple(mask.shape)}, a mask is (faces, 1, height, width)"
    if mask.numel() and not bool(((mask >= -1e-3) & (mask <= 1 + 1e-3)).all()):  # what resampling rounds
        return f"found values from {mask.min().item():.3g} to {mask.max().item():.3g}, a mask is from 0 to 1"
    return None


@cache
def methods() -> dict[str, Method]:
    """Return every declared method by id: one for each folder under `methods/`, in order of their names."""
    package = importlib.import_module(".methods", __package__)
    names = sorted(module.name for module in pkgutil.iter_modules(package.__path__))
    found = (importlib.import_module(f".{name}", package.__name__).METHOD for name in names)
    return {method.id: method for method in found}


def default_method() -> Method:
    """Return the method that restores where nobody chose one: that which is declared so, else the first."""
    known = methods().values()
    return next((method for method in known if method.default), next(iter(known)))


def guiding_methods() -> list[Method]:
    """Return the methods that can be steered to an identity, in the order of lists."""
    able = [method for method in methods().values() if method.guides]
    return sorted(able, key=lambda method: not (method.mask and method.mask.default))


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
    """Say in words which method and config, or which part of a method, a checkpoint's keys belong to, or None.

    Methods that have a part of the same layout are all named.
    """
    claims: dict[bool, list[str]] = {True: [], False: []}
    for method in methods().values():
        titles = [part.title for part in method.parts if part.among(keys)]
        whole = not method.parts or all(any(part.holds(key) for part in method.parts) for key in keys)
        if 0 < len(titles) < len(method.parts):
            claims[whole].append(f"{method.title}, {' and '.join(titles)}")
        elif config := method.recognise(keys):
            claims[whole].append(f"{method.title}, config {config}")
    return " or ".join(claims[True] or claims[False][:1]) or None
