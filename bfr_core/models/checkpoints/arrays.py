"""Read NumPy arrays out of files that hold measurements rather than networks: features and their statistics."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from safetensors.numpy import load as load_safetensors
from torch import Tensor

from ...errors import WeightsError
from .files import KEPT, require_safe_torch, sniff

SUFFIXES = (".npy", ".npz", ".safetensors", ".pth", ".pt")


def load_arrays(path: Path) -> dict[str, np.ndarray]:
    """Return the arrays of a file by name, without running code from it; what is neither array nor tensor is left out.

    A `.npy` file, or a lone tensor, has one array under the empty name. A dictionary saved by torch.save may hold
    NumPy arrays, as the published Inception statistics do.

    Raises:
        WeightsError: the file is missing, damaged, unsafe, of another kind, or holds no arrays.
    """
    if not path.is_file():
        raise WeightsError(
            f"Cannot find {path.name}",
            found=f"no such file in {path.parent}; expected an array file ({', '.join(SUFFIXES)})",
            kept="Nothing was changed",
            todo="Put the file there, or give another path",
        )
    if path.suffix not in SUFFIXES:
        raise WeightsError(
            f"Cannot read arrays from {path}",
            found=f"the suffix is {path.suffix or 'missing'}; expected {', '.join(SUFFIXES)}",
            kept=KEPT,
            todo="Save the arrays with numpy.save, numpy.savez, safetensors or torch.save",
        )
    sniff(path)
    try:
        if path.suffix == ".safetensors":
            arrays = load_safetensors(path.read_bytes())
        elif path.suffix in (".pth", ".pt"):
            arrays = _read_torch(path)
        else:
            loaded = np.load(path, allow_pickle=False)
            if isinstance(loaded, np.ndarray):
                arrays = {"": loaded}
            else:
                with loaded:
                    arrays = {name: loaded[name] for name in loaded.files}
    except Exception as error:  # NumPy and torch raise many kinds for damaged files; all mean the same to the reader
        if isinstance(error, WeightsError):
            raise
        raise _unreadable(path, error) from error
    if not arrays:
        raise WeightsError(
            f"No arrays in {path}",
            found="neither arrays nor tensors; expected at least one",
            kept=KEPT,
            todo="Give the file that holds the features or their mean and covariance",
        )
    return arrays


def _read_torch(path: Path) -> dict[str, np.ndarray]:
    require_safe_torch(path)
    # What rebuilds a plain numeric array, under the names of both NumPy 1 and 2; none of it can run other code.
    rebuild = np.empty(0).__reduce__()[0]
    allowed = [(rebuild, f"{module}.multiarray._reconstruct") for module in ("numpy.core", "numpy._core")]
    kinds = [type(np.dtype(kind)) for kind in ("f2", "f4", "f8", "i4", "i8")]
    with torch.serialization.safe_globals([*allowed, np.ndarray, np.dtype, *kinds]):
        loaded = torch.load(path, map_location="cpu", weights_only=True)
    entries = loaded if isinstance(loaded, Mapping) else {"": loaded}
    return {
        str(name): value.detach().numpy() if isinstance(value, Tensor) else value
        for name, value in entries.items()
        if isinstance(value, (Tensor, np.ndarray))
    }


def _unreadable(path: Path, error: Exception) -> WeightsError:
    reason = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
    return WeightsError(
        f"Cannot read arrays from {path}",
        found=f"the file is damaged, unsafe or of another kind ({reason}); expected plain numeric arrays",
        kept=KEPT,
        todo="Fetch the file again, or save the arrays with numpy.savez where you trust it",
    )
