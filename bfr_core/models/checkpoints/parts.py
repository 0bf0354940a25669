"""Weights that come in several files: telling the files apart. `folders` finds those that belong together.

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
from typing import Any

import torch
from torch import Tensor

from ...errors import WeightsError
from ...registry import Config, Method, Part, identify, methods
from .files import (
    KEPT,
    check_finite,
    check_stored,
    check_sums,
    is_archive,
    open_safetensors,
    open_torch,
    outline,
    sniff,
    some,
    strip_prefix,
    unwrap,
)
from .origin import read_origin

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
    is_embedded: bool = False
    """Whether it is of the weights that come with the package."""

    @property
    def source(self) -> str:
        """Where the tensors are from, for reports."""
        return f"embedded {self.path.stem}" if self.is_embedded else str(self.path)

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


def open_mapped(path: Path) -> Any:
    """Return what a file holds, its tensors mapped from it; None where it would have to be read as a whole.

    Raises:
        WeightsError: it cannot be opened or is unsafe.
    """
    sniff(path)
    if path.suffix == ".safetensors":
        return open_safetensors(path)
    return open_torch(path, allowed=_HARMLESS) if is_archive(path) else None


def state_of(loaded: Any) -> dict[str, Tensor]:
    """Return the tensors of a file by key, known wrappers and prefixes removed."""
    return strip_prefix(unwrap(loaded))


def inspect(method: Method, path: Path, *, alone: bool = True, loaded: Any = None) -> Contents:
    """Tell which parts of a method's network a file holds, by its keys; hardly anything of it is read.

    A file that says what it was trained as is believed: the keys of another method may be the same.

    Args:
        method: a method with parts.
        path: the file.
        alone: count a file of another method that serves as a part.
        loaded: from `open_mapped`, where it is open already.

    Raises:
        WeightsError: it cannot be opened, is unsafe, or was trained with FIR kernels or options other than ours.
    """
    if loaded is None:
        sniff(path)
        loaded = open_safetensors(path) if path.suffix == ".safetensors" else open_torch(path, allowed=_HARMLESS)
    if not isinstance(loaded, Mapping):
        return Contents(method, path, (), {}, outline(loaded))
    origin = read_origin(path)
    if origin and origin.method not in (method.id, *(part.alone for part in method.parts if alone)):
        return Contents(method, path, (), {}, f"weights of {origin.words}")
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
    if alone and not found:
        state = strip_prefix(_tensors(loaded))
        for part in method.parts:
            if part.alone and methods()[part.alone].recognise(state.keys()):
                tensors, found = {part.prefixes[0] + key: tensor for key, tensor in state.items()}, [part]
                break
    words = " and ".join(called(part) for part in found) or _stranger(method, loaded)
    return Contents(method, path, tuple(found), tensors, words)


def find_contents(path: Path, loaded: Any = None) -> Contents | None:
    """Return what a file holds of a network that comes in parts, or None where it holds nothing of any.

    Args:
        path: the file.
        loaded: from `open_mapped`, where it is open already.

    Raises:
        WeightsError: it cannot be opened or is unsafe.
    """
    for method in methods().values():
        if method.parts and (contents := inspect(method, path, alone=False, loaded=loaded)).parts:
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
    found = misfit(part, contents, own)
    if not found:
        return
    raise WeightsError(
        f"{contents.path} does not fit {contents.method.title}, config {config.name}",
        found=f"as its {part.title} {found}" if not found.startswith("it") else found,
        kept=KEPT,
        todo="Choose the file or the config that these belong to",
    )


def misfit(part: Part, contents: Contents, own: Mapping[str, Tensor]) -> str:
    """Say how a part differs from the network in keys and shapes; nothing where it fits."""
    there = {key: tensor for key, tensor in contents.tensors.items() if part.holds(key)}
    wanted = {key: tensor for key, tensor in own.items() if part.holds(key)}
    missing = [key for key in wanted if key not in there]
    unexpected = [key for key in there if key not in wanted]
    differing = [key for key in wanted if key in there and wanted[key].shape != there[key].shape]
    if not (missing or unexpected or differing):
        return ""
    found = f"{len(missing)} keys missing ({some(missing)}), {len(unexpected)} unexpected ({some(unexpected)})"
    if differing:
        shapes = tuple(there[differing[0]].shape), tuple(wanted[differing[0]].shape)
        found += f", {len(differing)} of another shape ({differing[0]} {shapes[0]}, expected {shapes[1]})"
    if part.describe and (is_now := part.describe(there)) != (should := part.describe(wanted)):
        found = f"it has {is_now}, expected {should}: {found}"
    return found


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
                todo=download_hint(method, part) or f"Choose a {part.title} that was trained so",
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


def called(part: Part) -> str:
    """Name a part and its published file."""
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
    for title, keys in method.foreign_checkpoints.items():
        if keys and any(all(key in state for key in keys) for state in states):
            return title
    named = next((named for state in states if (named := identify(state.keys()))), None)
    return f"weights of {named}" if named else outline(loaded)


def download_hint(method: Method, *wanted: Part) -> str:
    """Say where the published files are, all or those wanted; nothing where nobody publishes them."""
    files = ", ".join(part.file for part in wanted or method.parts)
    return next((f"Get {files} from {config.published}" for config in method.configs if config.published), "")
