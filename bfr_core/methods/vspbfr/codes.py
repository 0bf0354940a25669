"""Style codes by themselves: kept, saved, loaded and mixed (the visual style prompts of paper Sec. III-B)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from ...errors import InputMediaError, SettingsError
from ...media.tensors import TensorFile

_FILE = TensorFile("vspbfr style codes", 1, "style codes", "Save Style Codes")


@dataclass(frozen=True, slots=True, eq=False)
class StyleCodes:
    """The codes of some faces at each step of the diffusion, float32 on the CPU.

    Raises:
        InputMediaError: the tensors do not fit each other, or are not finite.
    """

    initial: Tensor
    """w_hat, as the style encoder read them, (B, N, D)."""
    steps: Tensor
    """w^T ... w^0, (B, T + 1, N, D)."""
    config: str
    """Config of the method they were made with; those of another belong to another generator."""

    def __post_init__(self) -> None:
        if found := _misfit(self.initial, self.steps):
            raise InputMediaError(
                "Cannot use these style codes",
                found=f"{found}; expected finite float32 numbers, (faces, layers, features) and those of each step",
                kept="Nothing was changed",
                todo="Make them with style_codes, or with the node VSPBFR Style Codes",
            )

    def __len__(self) -> int:
        return len(self.initial)

    @property
    def denoised(self) -> Tensor:
        """w^0, (B, N, D): what the restoration takes."""
        return self.steps[:, -1]

    def made_with(self, config: str) -> StyleCodes:
        """Return these codes where they were made with that config.

        Raises:
            InputMediaError: they were made with another.
        """
        if self.config != config:
            raise InputMediaError(
                "Cannot use these style codes",
                found=f"they were made with the config {self.config}, and {config} is to use them; expected one, as "
                "each has a face generator of its own",
                kept="Nothing was changed",
                todo="Make the codes with the restorer that uses them",
            )
        return self


def _misfit(initial: Tensor, steps: Tensor) -> str | None:
    shapes = f"found {tuple(initial.shape)} and {tuple(steps.shape)}"
    if {initial.dtype, steps.dtype} != {torch.float32}:
        return f"found {initial.dtype} and {steps.dtype}"
    if initial.ndim != 3 or steps.ndim != 4 or not steps.shape[1]:
        return shapes
    if initial.shape != (steps.shape[0], *steps.shape[2:]):
        return shapes
    bad = sum(int((~values.isfinite()).sum()) for values in (initial, steps))
    return f"found NaN or infinity in {bad} values" if bad else None


def mix_codes(a: StyleCodes, b: StyleCodes, *, share: float, first: int = 1, last: int = 0) -> StyleCodes:
    """Return `a` with a share of `b` in some layers, at every step alike.

    Args:
        a: codes of some faces.
        b: codes of as many; or one of the two holds a single face, which is mixed with each of the other.
        share: 0 for `a`, 1 for `b`, between them a straight line.
        first: first layer to mix, counted from 1.
        last: last layer to mix; 0 for the last there is.

    Raises:
        InputMediaError: they are of different configs, or of different numbers of faces.
        SettingsError: the share or the layers are out of range.
    """
    b.made_with(a.config)
    layers = a.initial.shape[1]
    last = last or layers
    if not 0 <= share <= 1 or not 1 <= first <= last <= layers:
        raise SettingsError(
            "Cannot mix style codes in this way",
            found=f"found a share of {share:g} and layers {first} to {last}; expected 0 to 1, and layers from 1 to "
            f"{layers}, the first not after the last",
            kept="Nothing was changed",
            todo=f"Give a layer from 1 to {layers}; 0 for the last one takes all that follow",
        )
    counts = {len(a), len(b)}
    if a.steps.shape[1:] != b.steps.shape[1:] or (len(counts) == 2 and 1 not in counts):
        raise InputMediaError(
            "Cannot mix these style codes",
            found=f"found {tuple(a.steps.shape)} and {tuple(b.steps.shape)} (faces, steps, layers, features); expected "
            "as many faces, or a single one, and the rest equal",
            kept="Nothing was changed",
            todo="Make both with the same restorer, from as many faces",
        )
    weight = torch.zeros(layers, 1)
    weight[first - 1 : last] = share
    return replace(a, initial=torch.lerp(a.initial, b.initial, weight), steps=torch.lerp(a.steps, b.steps, weight))


def save_codes(path: Path, codes: StyleCodes) -> None:
    """Write codes to a safetensors file, whole or not at all.

    Raises:
        OutputMediaError: it cannot be written there.
    """
    _FILE.save(path, {"initial": codes.initial, "steps": codes.steps}, {"config": codes.config})


def load_codes(path: Path) -> StyleCodes:
    """Read codes that `save_codes` wrote.

    Raises:
        InputMediaError: the file is missing, damaged, of another kind or of a newer version, or its codes do not fit.
    """
    tensors, metadata = _FILE.load(path)
    try:
        return StyleCodes(tensors["initial"], tensors["steps"], metadata["config"])
    except KeyError as error:
        raise _FILE.damaged(path, f"{error} is missing") from error
    except InputMediaError as error:
        raise _FILE.unreadable(path, error.found) from error
