"""Open a checkpoint without running code from it, and without believing it.

Facts this rests on: safetensors has no checksum, so damage inside the numbers loads without a word (hence the hash
and the finite check); torch.load(weights_only=True) was exploitable before torch 2.10 (CVE-2026-24747), so older
versions read safetensors only; torch.load compares no checksum, though the archive has one for each tensor; a tensor
may claim more elements than its storage holds (expanded strides), a bomb that goes off at the first copy.
"""

from __future__ import annotations

import hashlib
import json
import pickle
import zipfile
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

import safetensors
import torch
from safetensors import safe_open
from torch import Tensor, nn

from ...errors import WeightsError

_SAFE_TORCH = (2, 10)
_WRAPPERS = ("params_ema", "params-ema", "params", "g_ema", "ema", "state_dict", "model", "net")
"""Keys under which trainers nest the weights, the best copy first."""
_PREFIXES = ("module.", "params_ema.", "params.", "model.", "_orig_mod.", "net.")
"""Prefixes that wrappers of a module leave on every key."""
KEPT = "Nothing was loaded and the file is unchanged"


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file, lower-case hex."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def load_state(
    path: Path, *, sha256: str | None = None, searched: Collection[Path] = (), strip: bool = True
) -> dict[str, Tensor]:
    """Read the tensors of a checkpoint, on the CPU, whatever trainer wrote it.

    Args:
        path: `.safetensors`, or `.pth`, `.pt`, `.ckpt` written by torch.save.
        sha256: the hash the file must have; not checked when None.
        searched: folders that were searched for the file, for the message when it is missing.
        strip: remove prefixes that all keys share. Off where the keys go to a program that tells models by them.

    Returns:
        Tensors by key, known wrappers and prefixes removed.

    Raises:
        WeightsError: missing, truncated, of another kind, unsafe, of another hash, or not finite.
    """
    if not path.is_file():
        looked = ", ".join(str(folder) for folder in searched) or str(path.parent)
        wanted = f" with sha256 {sha256}" if sha256 else ""
        raise WeightsError(
            f"Cannot find the weights {path.name}",
            found=f"{'it is a folder' if path.is_dir() else f'no such file in {looked}'}; expected {path.name}{wanted}",
            kept="Nothing was changed",
            todo="Put the file there, or choose a config whose weights are embedded",
        )
    sniff(path)
    if sha256 is not None and (actual := sha256_of(path)) != sha256:
        raise WeightsError(
            f"The weights {path} are not the expected file",
            found=f"sha256 is {actual}, expected {sha256}",
            kept=KEPT,
            todo="Fetch the file again; it may be damaged or another version",
        )
    state = _read_safetensors(path) if path.suffix == ".safetensors" else _read_torch(path)
    if strip:
        state = strip_prefix(state)
    check_finite(path, state)
    return state


def sniff(path: Path) -> None:
    """Recognise what people save by mistake under a weight file's name.

    Raises:
        WeightsError: it is empty, a web page or a Git LFS pointer.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        head = file.read(512)
    text = head.lstrip().lower()
    found = None
    if size == 0:
        found = "the file is empty (0 bytes)"
    elif head.startswith(b"version https://git-lfs"):
        found = "the file is a Git LFS pointer, not the weights it points to"
    elif text.startswith((b"<!doctype", b"<html", b"<?xml", b"<head")):
        found = "the file is a web page, not weights"
    if found:
        raise WeightsError(
            f"Cannot read the weights {path}",
            found=f"{found}; expected a checkpoint",
            kept=KEPT,
            todo="Download the file itself (on a model page: the download button, or git lfs pull)",
        )


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    # A copy, so that the file is no longer mapped when this returns and may be replaced.
    return {key: tensor.clone() for key, tensor in open_safetensors(path).items()}


def open_safetensors(path: Path) -> dict[str, Tensor]:
    """Return the tensors of a file, mapped from it: their numbers are not read yet.

    Raises:
        WeightsError: damaged or of another kind.
    """
    size = path.stat().st_size
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            return {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - not a dict
    except (safetensors.SafetensorError, OSError, ValueError, KeyError, TypeError, RuntimeError) as error:
        raise WeightsError(
            f"Cannot read the weights {path}",
            found=_describe_safetensors(path, size) or f"the file is damaged ({error}); expected whole safetensors",
            kept=KEPT,
            todo="Fetch the file again and compare its size and sha256 with the source",
        ) from error


def _describe_safetensors(path: Path, size: int) -> str | None:
    """Say how many bytes are missing where the header is intact enough to tell."""
    try:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if size < 8 or length > 100_000_000 or length + 8 > size:
                return (
                    f"incomplete: {size} bytes, the header alone claims {length + 8}"
                    if size >= 8
                    else (f"incomplete: {size} bytes; expected at least a header of 8")
                )
            header = json.loads(file.read(length))
        ends = [entry["data_offsets"][1] for key, entry in header.items() if key != "__metadata__"]
        total = 8 + length + max(ends, default=0)
    except (ValueError, KeyError, TypeError, IndexError, AttributeError):
        return None
    return f"incomplete: {size} of {total} bytes" if size < total else None


def require_safe_torch(path: Path) -> None:
    """Check that this torch can open a pickle without being attacked through it.

    Raises:
        WeightsError: it is older than the first safe version.
    """
    version = tuple(int("".join(c for c in part if c.isdigit()) or 0) for part in torch.__version__.split(".")[:2])
    if version < _SAFE_TORCH:
        raise WeightsError(
            f"Will not open {path} with torch {torch.__version__}",
            found="torch before 2.10 can be attacked through such files (CVE-2026-24747); expected 2.10 or later",
            kept=KEPT,
            todo="Update torch, or convert the file elsewhere with `bfr models convert`",
        )


def is_archive(path: Path) -> bool:
    """Tell whether torch.save wrote an archive, which can be mapped; before 1.6 it wrote none."""
    with path.open("rb") as file:
        return file.read(4) == b"PK\x03\x04"


def open_torch(path: Path, *, allowed: Collection[type] = ()) -> Any:
    """Return what torch.save wrote, its tensors mapped from the file where its format allows: nothing is read yet.

    Args:
        path: written by torch.save.
        allowed: classes that the file may hold beside tensors and plain values, because they are known to be harmless.

    Raises:
        WeightsError: damaged, unsafe or of another kind.
    """
    require_safe_torch(path)
    try:
        archive = is_archive(path)
        with torch.serialization.safe_globals(list(allowed)):
            return torch.load(path, map_location="cpu", weights_only=True, mmap=archive)
    except pickle.UnpicklingError as error:
        # The unpickler names the first class it would have had to run.
        reason = next(
            (line.strip() for line in str(error).splitlines() if "GLOBAL" in line), "it holds more than tensors"
        )
        raise WeightsError(
            f"Will not open {path}",
            found=f"loading it could run code ({reason}); expected plain tensors",
            kept=KEPT,
            todo="Ask its author for safetensors, or save only the state_dict where you trust the file",
        ) from error
    except Exception as error:  # torch raises many kinds for damaged archives; all mean the same to the reader
        raise _damaged(path, error) from error


def _damaged(path: Path, error: Exception) -> WeightsError:
    reason = str(error).splitlines()[0] if str(error) else type(error).__name__
    return WeightsError(
        f"Cannot read the weights {path}",
        found=f"the file is damaged or no checkpoint ({reason}); {path.stat().st_size} bytes",
        kept=KEPT,
        todo="Fetch the file again and compare its size and sha256 with the source",
    )


def check_sums(path: Path) -> None:
    """Compare the checksums that torch.save writes with what the file holds; a file without any passes.

    Raises:
        WeightsError: some bytes are not what was written.
    """
    if not zipfile.is_zipfile(path):
        return
    try:
        with zipfile.ZipFile(path) as archive:
            for record in archive.infolist():
                if record.CRC:  # 0 where torch was told not to compute them
                    with archive.open(record) as stream:
                        while stream.read(1 << 20):
                            pass
    except Exception as error:  # as many kinds as there are ways to damage an archive
        raise _damaged(path, error) from error


def check_stored(path: Path, state: Mapping[str, Tensor]) -> None:
    """Refuse tensors that claim more numbers than the file stores.

    Raises:
        WeightsError: naming the first one.
    """
    for key, tensor in state.items():
        stored = tensor.untyped_storage().nbytes() if tensor.layout == torch.strided else 0
        if tensor.numel() * tensor.element_size() > stored:
            raise WeightsError(
                f"Will not open {path}",
                found=f"{key} claims {tuple(tensor.shape)} but stores {stored} bytes; expected as many as its shape",
                kept=KEPT,
                todo="Fetch the file from a source you trust",
            )


def _read_torch(path: Path) -> dict[str, Tensor]:
    loaded = open_torch(path)
    state = unwrap(loaded)
    if not state:
        raise WeightsError(
            f"No weights in {path}",
            found=f"found {outline(loaded)}, expected a dictionary of tensors",
            kept=KEPT,
            todo="Choose the file that holds a state_dict",
        )
    check_stored(path, state)
    check_sums(path)
    # A copy, so that the file is no longer mapped when this returns and may be replaced.
    return {key: tensor.detach().contiguous().clone() for key, tensor in state.items()}


def unwrap(loaded: Any) -> dict[str, Tensor]:
    """Return the tensors of what a file holds, from within what trainers put around them."""
    if not isinstance(loaded, Mapping):
        return {}
    for wrapper in _WRAPPERS:
        inner = loaded.get(wrapper)
        if isinstance(inner, Mapping) and any(isinstance(value, Tensor) for value in inner.values()):
            return unwrap(inner) or {}
    return {str(key): value for key, value in loaded.items() if isinstance(value, Tensor)}


def outline(loaded: Any) -> str:
    """Say in words what a file holds."""
    if isinstance(loaded, Mapping):
        keys = ", ".join(map(str, list(loaded)[:5]))
        return f"a dictionary with keys {keys}"
    return f"a {type(loaded).__name__}"


def strip_prefix(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Remove what wrappers of a module left in front of every key."""
    for prefix in _PREFIXES:
        if state and all(key.startswith(prefix) for key in state):
            return strip_prefix({key.removeprefix(prefix): value for key, value in state.items()})
    return state


def check_finite(path: Path, state: Mapping[str, Tensor], *, what: str = "") -> None:
    """Refuse NaN and infinity.

    Args:
        path: the file, for the message.
        state: its tensors.
        what: the part of a network they make up, in words, where they are one.

    Raises:
        WeightsError: naming the first tensor that holds some.
    """
    where = f" of the {what}" if what else ""
    for key, tensor in state.items():
        if not is_finite(tensor):
            bad = int((~torch.isfinite(tensor.double())).sum())
            raise WeightsError(
                f"Will not use the weights {path}",
                found=f"{key}{where} holds {bad} NaN or infinite values of {tensor.numel()}; expected finite numbers",
                kept=KEPT,
                todo="Fetch the file again, or train from an earlier checkpoint",
            )


def is_finite(tensor: Tensor) -> bool:
    """Tell whether no number is NaN or infinite, by the extremes: a twentieth of the time of looking at each."""
    if not tensor.is_floating_point() or not tensor.numel():
        return True
    if tensor.itemsize == 1:  # torch compares no 8-bit floats
        tensor = tensor.half()
    return all(bool(extreme.isfinite()) for extreme in tensor.aminmax())


def fill(
    module: nn.Module,
    state: Mapping[str, Tensor],
    *,
    what: str,
    guess: Callable[[Collection[str]], str | None] | None = None,
    within: Callable[[str], bool] = lambda key: True,
) -> None:
    """Copy `state` into `module`, every key and shape accounted for; the module may live on the meta device.

    Args:
        module: the network to fill, cast to its own dtype.
        state: tensors by key, as `load_state` gives them.
        what: the network in words, for messages.
        guess: names the model that a set of keys belongs to, for the message when it is not this one.
        within: tells the keys of the module that this state is for, where it comes in parts.

    Raises:
        WeightsError: keys are missing or unexpected, or shapes differ; the module is unchanged.
    """
    own = {key: tensor for key, tensor in module.state_dict().items() if within(key)}
    missing = [key for key in own if key not in state]
    unexpected = [key for key in state if key not in own]
    if missing or unexpected:
        belongs = guess(state.keys()) if guess else None
        hint = f"These look like weights of {belongs}" if belongs else "They belong to another model"
        raise WeightsError(
            f"The weights do not fit {what}",
            found=f"{len(missing)} keys missing ({some(missing)}), {len(unexpected)} unexpected "
            f"({some(unexpected)}). {hint}",
            kept=KEPT,
            todo="Choose the file that belongs to this method and config",
        )
    for key, tensor in own.items():
        if tensor.shape != state[key].shape:
            raise WeightsError(
                f"The weights do not fit {what}",
                found=f"{key} has shape {tuple(state[key].shape)}, expected {tuple(tensor.shape)}",
                kept=KEPT,
                todo="Choose the config these weights were trained with",
            )
    cast = {key: state[key].to(own[key].dtype) for key in own}
    module.load_state_dict(cast, strict=False, assign=True)
    if lost := [name for name, buffer in module.named_buffers() if buffer.is_meta and within(name)]:
        raise AssertionError(f"{what} builds {some(lost)} outside its checkpoint: compute it in forward")


def some(keys: list[str]) -> str:
    """Name the first few of many keys."""
    return ", ".join(keys[:3]) or "none"
