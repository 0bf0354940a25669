"""Weights that come in several files: telling the files apart and finding those that belong together.

A method declares its parts (`registry.Part`). A file holds a part under the keys of the whole network, as we write it,
or as its authors published it: nested, with constants and noise that the network makes itself, beside optimisers and
an `argparse.Namespace`. Files are mapped, so that what is not needed is never read.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, NoReturn

import torch
from torch import Tensor

from ..errors import WeightsError
from ..registry import Config, Method, Part, identify, methods
from .files import (
    KEPT,
    check_finite,
    check_stored,
    check_sums,
    open_safetensors,
    open_torch,
    outline,
    sniff,
    some,
    strip_prefix,
)

SUFFIXES = (".safetensors", ".pt", ".pth")
"""Of files that can hold a part, in the order in which they are taken where several lie together."""
_HARMLESS = (argparse.Namespace,)
"""What published files hold beside tensors: the options of their training, which are never looked at."""
_FIR = (1, 3, 3, 1)


@dataclass(frozen=True, slots=True)
class Contents:
    """One file, and which parts of a method's network it holds."""

    method: Method
    path: Path
    parts: tuple[Part, ...]
    """None where it belongs to something else."""
    tensors: Mapping[str, Tensor]
    """Of those parts, by the keys of the whole network; mapped from the file."""
    words: str
    """What the file is."""

    def check(self, part: Part) -> dict[str, Tensor]:
        """Return the tensors of a part, still mapped from the file, every number of them seen to be finite.

        Raises:
            WeightsError: the file is damaged, or a number is not finite.
        """
        state = {key: tensor for key, tensor in self.tensors.items() if part.holds(key)}
        check_stored(self.path, state)
        if self.path.suffix != ".safetensors":
            check_sums(self.path)
        check_finite(self.path, state, what=part.title)
        return state

    def read(self, part: Part) -> dict[str, Tensor]:
        """Return a copy of the tensors of a part, so that the file may be replaced.

        Raises:
            WeightsError: the file is damaged, or a number is not finite.
        """
        return {key: tensor.contiguous().clone() for key, tensor in self.check(part).items()}


def inspect(method: Method, path: Path) -> Contents:
    """Tell which parts of a method's network a file holds, by its keys; hardly anything of it is read.

    Raises:
        WeightsError: it cannot be opened, is unsafe, or was trained with FIR kernels or options other than ours.
    """
    sniff(path)
    loaded: Any = open_safetensors(path) if path.suffix == ".safetensors" else open_torch(path, allowed=_HARMLESS)
    if not isinstance(loaded, Mapping):
        return Contents(method, path, (), {}, outline(loaded))
    tensors, found = {}, []
    for part in method.parts:
        for state in (_published(part, loaded), strip_prefix(_tensors(loaded))):
            kept = {key: tensor for key, tensor in state.items() if not _matches(part.ignored, key)}
            own = {key: tensor for key, tensor in kept.items() if part.holds(key)}
            whole = all(any(other.holds(key) for other in method.parts) for key in kept)
            if whole and part.among(own.keys()):
                _check_options(method, part, path, loaded)
                tensors |= _without_kernels(method, part, path, own)
                found.append(part)
                break
    words = " and ".join(_called(part) for part in found) or _stranger(method, loaded)
    return Contents(method, path, tuple(found), tensors, words)


def find_contents(path: Path) -> Contents | None:
    """Return what a file holds of a network that comes in parts, or None where it holds nothing of any.

    Raises:
        WeightsError: it cannot be opened or is unsafe.
    """
    for method in methods().values():
        if method.parts and (contents := inspect(method, path)).parts:
            return contents
    return None


def named_like_parts(method: Method, stems: Iterable[str]) -> bool:
    """Tell whether files of these names, without their suffixes, make up a whole network of a method."""
    sets = [{Path(part.file).stem for part in method.parts}, *(set(config.embedded) for config in method.configs)]
    there = set(stems)
    return bool(method.parts) and any(names and names <= there for names in sets)


def candidates(folder: Path) -> list[Path]:
    """Return the files of a folder that can hold a part, by name."""
    try:
        return sorted(path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES and path.is_file())
    except OSError as error:
        raise WeightsError(
            f"Cannot look for weights in {folder}",
            found=f"{error.strerror or error}; expected a folder that can be read",
            kept="Nothing was changed",
            todo="Check the folder and its permissions",
        ) from error


def locate(method: Method, path: Path) -> list[tuple[Part, Contents]]:
    """Find the files of every part of a network.

    Files that belong together are named alike: beside one with a published name the published names are looked for
    first, with its suffix before others; beside one with a name of its own, the keys of other such files.

    Args:
        method: a method with parts.
        path: a folder that holds the parts, one of the files, or a file that holds them all.

    Raises:
        WeightsError: a part is missing or there are several to choose from, a file is not what its name says, or the
            file that was given belongs to another model.
    """
    if not path.exists():
        raise WeightsError(
            f"Cannot find the weights {path.name}",
            found=f"nothing of that name in {path.parent}; expected a folder, or a file of {method.title}",
            kept="Nothing was changed",
            todo=_get(method) or "Put the files there, or choose a config whose weights are embedded",
        )
    chosen: dict[str, Contents] = {}
    if not path.is_dir():
        contents = inspect(method, path)
        if not contents.parts:
            raise WeightsError(
                f"Cannot use {path} for {method.title}",
                found=f"it holds {contents.words}; expected {' or '.join(_called(part) for part in method.parts)}",
                kept=KEPT,
                todo="Choose one of those files; the others are looked for beside it",
            )
        chosen = {part.name: contents for part in contents.parts}
    folder = _Folder(method, path if path.is_dir() else path.parent)
    by_keys_first = not path.is_dir() and path.stem not in folder.names
    for part in method.parts:
        if part.name not in chosen:
            steps = [lambda part=part: folder.by_name(part, path.suffix), lambda part=part: folder.by_keys(part)]
            if by_keys_first:
                steps.reverse()
            chosen[part.name] = next((there for step in steps if (there := step())), None) or folder.missing(part)
    return [(part, chosen[part.name]) for part in method.parts]


class _Folder:
    """A folder that is searched for parts; each file is opened at most once."""

    def __init__(self, method: Method, folder: Path) -> None:
        self.method, self.folder = method, folder
        self.files = candidates(folder)
        self.names = {Path(part.file).stem for part in method.parts}
        self._opened: dict[Path, Contents | WeightsError] = {}

    def by_name(self, part: Part, suffix: str) -> Contents | None:
        """Return the file with the published name of a part, or None."""
        stem = Path(part.file).stem
        ordered = sorted(SUFFIXES, key=lambda other: other != suffix)
        path = next((file for end in ordered if (file := self.folder / f"{stem}{end}") in self.files), None)
        if path is None:
            return None
        contents = inspect(self.method, path)
        if part not in contents.parts:
            raise WeightsError(
                f"Cannot use {path} as the {part.title} of {self.method.title}",
                found=f"its name says {part.title}, but it holds {contents.words}",
                kept=KEPT,
                todo=f"Give each file its own name back, or fetch {part.file} again"
                if contents.parts
                else _get(self.method, part) or f"Put the right {part.file} there",
            )
        return contents

    def by_keys(self, part: Part) -> Contents | None:
        """Return the only file without a published name that holds a part, or None."""
        fitting = []
        for path in self.files:
            if path.stem not in self.names:
                contents = self.open(path)
                if isinstance(contents, Contents) and part in contents.parts:
                    fitting.append(contents)
        if len(fitting) > 1:
            raise WeightsError(
                f"Cannot tell which {part.title} to use for {self.method.title}",
                found=f"{', '.join(contents.path.name for contents in fitting)} in {self.folder} all hold one; "
                "expected one",
                kept=KEPT,
                todo="Put the files that belong together into a folder of their own",
            )
        return fitting[0] if fitting else None

    def missing(self, part: Part) -> NoReturn:
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
        raise WeightsError(
            f"{self.method.title} lacks its {part.title}",
            found=f"looked in {self.folder} for {names}, and for its keys in files of other names; "
            f"found {'; '.join(seen) or 'no other part'}" + (f", and {others} files of other models" if others else ""),
            kept="Nothing was loaded",
            todo=f"Put the one that belongs to the others beside them. {_get(self.method, part)}",
        )

    def open(self, path: Path) -> Contents | WeightsError:
        """Return what a file holds, or why it cannot be read: another model's file need not be."""
        if path not in self._opened:
            try:
                self._opened[path] = inspect(self.method, path)
            except WeightsError as error:  # said where a part is missing
                self._opened[path] = error
        return self._opened[path]


def find_method(path: Path) -> Method:
    """Return the method that a folder holds parts of.

    Raises:
        WeightsError: it holds parts of none, or of several.
    """
    found = []
    for method in methods().values():
        if method.parts:
            folder = _Folder(method, path)
            if any(isinstance(there := folder.open(file), Contents) and there.parts for file in folder.files):
                found.append(method)
    if len(found) != 1:
        names = ", ".join(method.title for method in found) or "no network that comes in parts"
        raise WeightsError(
            f"Cannot use the folder {path}",
            found=f"its files hold {names}; expected the parts of one network",
            kept=KEPT,
            todo="Give a folder with the parts of one network, or a single file",
        )
    return found[0]


def check_fit(config: Config, part: Part, contents: Contents, own: Mapping[str, Tensor]) -> None:
    """Compare the keys and shapes of a part with those of the network.

    Args:
        config: of the network, for the message.
        part: the part to compare.
        contents: the file that holds it.
        own: the network's tensors by key; other parts' are left aside.

    Raises:
        WeightsError: keys are missing or unexpected, or shapes differ.
    """
    there = {key: tensor for key, tensor in contents.tensors.items() if part.holds(key)}
    wanted = {key: tensor for key, tensor in own.items() if part.holds(key)}
    missing = [key for key in wanted if key not in there]
    unexpected = [key for key in there if key not in wanted]
    differing = [key for key in wanted if key in there and wanted[key].shape != there[key].shape]
    if not (missing or unexpected or differing):
        return
    found = f"{len(missing)} keys missing ({some(missing)}), {len(unexpected)} unexpected ({some(unexpected)})"
    if differing:
        shapes = tuple(there[differing[0]].shape), tuple(wanted[differing[0]].shape)
        found += f", {len(differing)} of another shape ({differing[0]} {shapes[0]}, expected {shapes[1]})"
    if part.describe and (is_now := part.describe(there)) != (should := part.describe(wanted)):
        found = f"it has {is_now}, expected {should}: {found}"
    raise WeightsError(
        f"{contents.path} does not fit {contents.method.title}, config {config.name}",
        found=f"as its {part.title} {found}" if not found.startswith("it") else found,
        kept=KEPT,
        todo="Choose the file or the config that these belong to",
    )


def _published(part: Part, loaded: Mapping[Any, Any]) -> dict[str, Tensor]:
    state: dict[str, Tensor] = {}
    for top, prefix in part.source.items():
        value = loaded.get(top)
        if isinstance(value, Tensor):
            state[prefix] = value
        elif isinstance(value, Mapping):
            state |= {prefix + key: tensor for key, tensor in strip_prefix(_tensors(value)).items()}
    return state


def _check_options(method: Method, part: Part, path: Path, loaded: Mapping[Any, Any]) -> None:
    """Check what a published file says of how it was trained, where that decides how it must be used."""
    said = loaded.get("opts")
    if not isinstance(said, Mapping):
        return
    for name, wanted in part.trained_with.items():
        if name in said and said[name] != wanted:
            raise WeightsError(
                f"Cannot use {path} as the {part.title} of {method.title}",
                found=f"it was trained with {name} = {said[name]!r}; expected {wanted!r}",
                kept=KEPT,
                todo=_get(method, part) or f"Choose a {part.title} that was trained so",
            )


def _tensors(mapping: Mapping[Any, Any]) -> dict[str, Tensor]:
    return {str(key): value.detach() for key, value in mapping.items() if isinstance(value, Tensor)}


def _matches(patterns: Iterable[str], key: str) -> str | None:
    return next((pattern for pattern in patterns if fnmatchcase(key, pattern)), None)


def _without_kernels(method: Method, part: Part, path: Path, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Leave out the FIR kernels, once they are seen to be those that the network computes with."""
    taps = torch.tensor(_FIR, dtype=torch.float64)
    unit = taps.outer(taps) / taps.sum() ** 2
    kept = {}
    for key, tensor in state.items():
        pattern = _matches(part.kernels, key)
        if pattern is None:
            kept[key] = tensor
            continue
        check_stored(path, {key: tensor})
        wanted = unit * part.kernels[pattern]
        if tensor.shape != wanted.shape or not torch.allclose(tensor.double(), wanted, rtol=0, atol=1e-6):
            raise WeightsError(
                f"Will not use {path} as the {part.title} of {method.title}",
                found=f"its filter {key} is another; expected the outer product of 1, 3, 3, 1 with the sum "
                f"{part.kernels[pattern]:g}",
                kept=KEPT,
                todo="Choose the published file; with another filter the network would be another",
            )
    return kept


def _called(part: Part) -> str:
    return f"the {part.title} ({part.file})"


def _stranger(method: Method, loaded: Mapping[Any, Any]) -> str:
    """Say what a file is that holds no part."""
    for part in method.parts:
        for top in part.source:
            plain = top.removesuffix("_ema")
            if plain != top and top not in loaded and isinstance(loaded.get(plain), Mapping):
                return (
                    f"{plain}, a {part.title} as it was trained, but no {top}, its average, which is what restores; "
                    "such a file cannot be used"
                )
    inside = [_tensors(loaded), *(_tensors(value) for value in loaded.values() if isinstance(value, Mapping))]
    states = [strip_prefix(state) for state in inside]
    for title, keys in method.strangers.items():
        if keys and any(all(key in state for key in keys) for state in states):
            return title
    named = next((named for state in states if (named := identify(state.keys()))), None)
    return f"weights of {named}" if named else outline(loaded)


def _get(method: Method, *wanted: Part) -> str:
    """Say where the published files are, all or those wanted; nothing where they are not."""
    files = ", ".join(part.file for part in wanted or method.parts)
    return next((f"Get {files} from {config.published}" for config in method.configs if config.published), "")
