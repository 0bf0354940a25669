"""Write any readable checkpoint as safetensors, a tensor at a time."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ...errors import SettingsError, WeightsError
from ...media.atomic import make_folder, publish
from .files import KEPT, is_finite, load_state, sha256_of
from .folders import find_method, locate
from .origin import Origin, read_origin
from .parts import find_contents

_TYPES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}
"""How safetensors calls the types of numbers."""


def convert(source: Path, target: Path, *, dtype: torch.dtype | None = None) -> list[dict[str, Any]]:
    """Write a checkpoint as safetensors, under the keys of the network that it belongs to.

    What a file says of itself goes with it; a file made of several says what all of them do, if anything.

    Args:
        source: any readable checkpoint, or a folder with all parts of a network.
        target: a safetensors file; where the source is a folder, a folder that gets one file for each part, or a
            safetensors file that gets them all.
        dtype: casts the floating-point numbers.

    Returns:
        What was written: path, tensors, bytes and sha256 of each file.

    Raises:
        WeightsError: the source cannot be read, the target is the source, or a number does not fit into the dtype.
        SettingsError: the target is no safetensors file.
        OutputMediaError: the target cannot be written.
    """
    apart = source.is_dir() and (target.is_dir() or not target.suffix)
    if not apart and target.suffix != ".safetensors":
        raise SettingsError(
            f"Cannot convert to {target}",
            found=f"its suffix is {target.suffix or 'missing'}, expected .safetensors",
            kept="Nothing was written",
            todo="Name the output something.safetensors",
        )
    if not source.is_dir():
        return [_write(target, _tensors_of(source, target), dtype, read_origin(source))]
    _, located = locate(find_method(source), source)
    located = [(part, contents) for part, contents in located if not contents.is_embedded]
    files = {part.name: target / f"{Path(part.file).stem}.safetensors" if apart else target for part, _ in located}
    for part, contents in located:
        _refuse_same(contents.path, files[part.name])
    origins = [read_origin(contents.path) for _, contents in located]
    if not apart:
        state = {key: tensor for part, contents in located for key, tensor in contents.check(part).items()}
        return [_write(target, state, dtype, origins[0] if len(set(origins)) == 1 else None)]
    make_folder(target)
    return [
        _write(files[part.name], contents.check(part), dtype, origin)
        for (part, contents), origin in zip(located, origins, strict=True)
    ]


def _tensors_of(source: Path, target: Path) -> Mapping[str, Tensor]:
    _refuse_same(source, target)
    if source.is_file() and (contents := find_contents(source)):
        return {key: tensor for part in contents.parts for key, tensor in contents.check(part).items()}
    return load_state(source)


def _refuse_same(source: Path, target: Path) -> None:
    if target.exists() and source.exists() and target.samefile(source):
        raise WeightsError(
            f"Will not convert {source} onto itself",
            found="source and target are the same file; expected two",
            kept=KEPT,
            todo="Give another name with -o",
        )


def _write(
    target: Path, state: Mapping[str, Tensor], dtype: torch.dtype | None, origin: Origin | None
) -> dict[str, Any]:
    """Write the safetensors format, which needs no second copy of the network in memory.

    That is: 8 bytes with the length of a JSON header, the header, then the numbers in the order it names. The widest
    types come first, so that all are aligned.
    """
    cast = {key: dtype if dtype and tensor.is_floating_point() else tensor.dtype for key, tensor in state.items()}
    if odd := next((key for key, kind in cast.items() if kind not in _TYPES), None):
        raise WeightsError(
            f"Cannot write {target}",
            found=f"{odd} holds {cast[odd]}; expected one of {', '.join(_TYPES.values())}",
            kept="Nothing was written",
            todo="Leave this file as it is",
        )
    order = sorted(state, key=lambda key: (-cast[key].itemsize, key))
    header: dict[str, Any] = {"__metadata__": {"format": "pt", **(origin.metadata() if origin else {})}}
    end = 0
    for key in order:
        start, end = end, end + state[key].numel() * cast[key].itemsize
        header[key] = {"dtype": _TYPES[cast[key]], "shape": list(state[key].shape), "data_offsets": [start, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with publish(target) as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.writelines(_bytes(target, ((key, state[key].to(cast[key])) for key in order)))
    return {"path": target, "tensors": len(order), "bytes": target.stat().st_size, "sha256": sha256_of(target)}


def _bytes(target: Path, tensors: Iterable[tuple[str, Tensor]]) -> Iterable[memoryview]:
    for key, tensor in tensors:
        if not is_finite(tensor):
            raise WeightsError(
                f"Cannot write {target}",
                found=f"{key} holds numbers that {tensor.dtype} cannot",
                kept="Nothing was written",
                todo="Convert without --dtype, or to bfloat16",
            )
        yield memoryview(tensor.contiguous().reshape(-1).view(torch.uint8).numpy())
