"""Weights that come in several files: finding those that belong together, and what comes along for those that lack."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from ...errors import WeightsError
from ...registry import Config, Method, Part, methods
from .cards import embedded, load_embedded
from .files import KEPT
from .parts import SUFFIXES, Contents, called, candidates, download_hint, inspect, misfit
from .unfilled import unfilled


def locate(method: Method, path: Path, config: str = "") -> tuple[Config, list[tuple[Part, Contents]]]:
    """Find the files of every part that a network has.

    Files that belong together are named alike: beside one with a published name the published names are looked for
    first, with its suffix before others; beside one with a name of its own, the keys of other such files. A part that
    is not there is taken from the weights that come with the package, where the config has any.

    Args:
        method: a method with parts.
        path: a folder that holds the parts, one of the files, or a file that holds them all.
        config: which network; empty for the one that the keys tell.

    Raises:
        SettingsError: the method has no such config.
        WeightsError: a part is missing or there are several to choose from, a file is not what its name says, or the
            file that was given belongs to another model.
    """
    wanted = method.config(config) if config else None
    found = _search(method, path)
    keys = {key for there in found.values() for contents in there.fitting[:1] for key in contents.tensors}
    chosen = wanted or _told(method, found, keys)
    own = unfilled(method, chosen).state_dict()
    if not keys:  # nothing of this network is there: what comes along is no answer to that
        raise next(there.error for there in found.values() if there.error)
    located = []
    for part in method.parts:
        if any(map(part.holds, own)):
            there = found[part.name]
            contents = there.one(chosen, part, own)
            if contents is None and not there.fitting and there.missing:
                contents = _embedded_part(method, chosen, part)
            if contents is None:
                raise there.error or AssertionError(f"no reason why the {part.title} is missing")
            located.append((part, contents))
    return chosen, located


def _told(method: Method, found: Mapping[str, _Found], keys: Collection[str]) -> Config:
    """Return the config that keys belong to; shapes tell where several have the same keys."""
    first = method.config(method.recognise(keys) or "")
    for config in (first, *(config for config in method.configs if config is not first)):
        own = unfilled(method, config).state_dict()
        parts = [part for part in method.parts if any(map(part.holds, own))]
        if all(not misfit(part, contents, own) for part in parts for contents in found[part.name].fitting[:1]):
            return config
    return first


def _embedded_part(method: Method, config: Config, part: Part) -> Contents | None:
    """Return a part from the weights that come with the package, None where they do not hold it."""
    for prefix, name in (*(("", name) for name in config.embedded), *config.shared.items()):
        state = {prefix + key: tensor for key, tensor in load_embedded(name).items()}
        own = {key: tensor for key, tensor in state.items() if part.holds(key)}
        if own:
            return Contents(method, embedded(name), (part,), own, called(part), is_embedded=True)
    return None


@dataclass(frozen=True, slots=True)
class _Found:
    """What was found for one part: the files that hold it, and the error where not exactly one does."""

    fitting: tuple[Contents, ...] = ()
    error: WeightsError | None = None
    missing: bool = False
    """Whether the error is that there is none."""

    def one(self, config: Config, part: Part, own: Mapping[str, Tensor]) -> Contents | None:
        """Return the only file, or the only one of several that fits the network."""
        if len(self.fitting) < 2:
            return next(iter(self.fitting), None)
        fits = [contents for contents in self.fitting if not misfit(part, contents, own)]
        return fits[0] if len(fits) == 1 else None


def _search(method: Method, path: Path) -> dict[str, _Found]:
    """Look for each part of a network.

    Raises:
        WeightsError: nothing is at `path`, or the file there belongs to another model.
    """
    if not path.exists():
        raise WeightsError(
            f"Cannot find the weights {path.name}",
            found=f"nothing of that name in {path.parent}; expected a folder, or a file of {method.title}",
            kept="Nothing was changed",
            todo=download_hint(method) or "Put the files there, or choose a config whose weights are embedded",
        )
    found: dict[str, _Found] = {}
    if not path.is_dir():
        contents = inspect(method, path)
        if not contents.parts:
            raise WeightsError(
                f"Cannot use {path} for {method.title}",
                found=f"it holds {contents.words}; expected {' or '.join(called(part) for part in method.parts)}",
                kept=KEPT,
                todo="Choose one of those files; the others are looked for beside it",
            )
        found = {part.name: _Found((contents,)) for part in contents.parts}
    folder = _Folder(method, path if path.is_dir() else path.parent)
    by_keys_first = not path.is_dir() and path.stem not in folder.names
    for part in method.parts:
        if part.name not in found:
            steps = [lambda part=part: folder.by_name(part, path.suffix), lambda part=part: folder.by_keys(part)]
            if by_keys_first:
                steps.reverse()
            found[part.name] = next((there for step in steps if (there := step())), None) or folder.missing(part)
    return found


class _Folder:
    """A folder that is searched for parts; each file is opened at most once."""

    def __init__(self, method: Method, folder: Path, *, alone: bool = True) -> None:
        self.method, self.folder, self.alone = method, folder, alone
        self.files = candidates(folder)
        self.names = {Path(part.file).stem for part in method.parts}
        self._opened: dict[Path, Contents | WeightsError] = {}

    def by_name(self, part: Part, suffix: str) -> _Found | None:
        """Return the file with the published name of a part, or why it cannot be that; None where there is none."""
        stem = Path(part.file).stem
        ordered = sorted(SUFFIXES, key=lambda other: other != suffix)
        path = next((file for end in ordered if (file := self.folder / f"{stem}{end}") in self.files), None)
        if path is None:
            return None
        contents = inspect(self.method, path)
        if part not in contents.parts:
            error = WeightsError(
                f"Cannot use {path} as the {part.title} of {self.method.title}",
                found=f"its name says {part.title}, but it holds {contents.words}",
                kept=KEPT,
                todo=f"Give each file its own name back, or fetch {part.file} again"
                if contents.parts
                else download_hint(self.method, part) or f"Put the right {part.file} there",
            )
            return _Found(error=error)
        return _Found((contents,))

    def by_keys(self, part: Part) -> _Found | None:
        """Return the files without a published name that hold a part, or None."""
        fitting = []
        for path in self.files:
            if path.stem not in self.names:
                contents = self.open(path)
                if isinstance(contents, Contents) and part in contents.parts:
                    fitting.append(contents)
        error = None
        if len(fitting) > 1:
            error = WeightsError(
                f"Cannot tell which {part.title} to use for {self.method.title}",
                found=f"{', '.join(contents.path.name for contents in fitting)} in {self.folder} all hold one; "
                "expected one",
                kept=KEPT,
                todo="Put the files that belong together into a folder of their own",
            )
        return _Found(tuple(fitting), error) if fitting else None

    def missing(self, part: Part) -> _Found:
        """Say that a part is nowhere, and what is there."""
        seen = []
        for path in self.files:
            contents = self.open(path)
            if isinstance(contents, WeightsError):
                seen.append(f"{path.name}, which cannot be read ({contents.found})")
            elif contents.parts:
                seen.append(f"the {' and the '.join(held.title for held in contents.parts)} in {path.name}")
        others = len(self.files) - len(seen)
        names = " or ".join(f"{Path(part.file).stem}{end}" for end in SUFFIXES)
        error = WeightsError(
            f"{self.method.title} lacks its {part.title}",
            found=f"looked in {self.folder} for {names}, and for its keys in files of other names; "
            f"found {'; '.join(seen) or 'no other part'}" + (f", and {others} files of other models" if others else ""),
            kept="Nothing was loaded",
            todo=f"Put the one that belongs to the others beside them. {download_hint(self.method, part)}",
        )
        return _Found(error=error, missing=True)

    def open(self, path: Path) -> Contents | WeightsError:
        """Return what a file holds, or why it cannot be read: another model's file need not be."""
        if path not in self._opened:
            try:
                self._opened[path] = inspect(self.method, path, alone=self.alone)
            except WeightsError as error:  # said where a part is missing
                self._opened[path] = error
        return self._opened[path]


def find_method(path: Path) -> Method:
    """Return the method that a folder holds parts of.

    Raises:
        WeightsError: it holds parts of none, or of several.
    """
    held: dict[str, int] = {}
    for method in methods().values():
        if method.parts:
            folder = _Folder(method, path, alone=False)
            opened = [there for file in folder.files if isinstance(there := folder.open(file), Contents)]
            if count := sum(bool(there.parts) for there in opened):
                held[method.id] = count
    # Networks with parts of the same layout claim each other's files: it is that which all of them are parts of.
    most = max(held.values(), default=0)
    found = [methods()[name] for name, count in held.items() if count == most]
    if len(found) > 1:
        found = [method for method in found if _complete(method, path)] or found
    if len(found) != 1:
        names = ", ".join(method.title for method in found) or "no network that comes in parts"
        raise WeightsError(
            f"Cannot use the folder {path}",
            found=f"its files hold {names}; expected the parts of one network",
            kept=KEPT,
            todo="Give a folder with the parts of one network, or a single file",
        )
    return found[0]


def _complete(method: Method, path: Path) -> bool:
    """Tell whether a folder holds the parts of one network of a method, as they must be in keys and shapes."""
    try:
        config, located = locate(method, path)
    except WeightsError:
        return False
    own = unfilled(method, config).state_dict()
    return not any(misfit(part, contents, own) for part, contents in located)
