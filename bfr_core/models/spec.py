"""One declaration for everything with weights; lists, options and messages are made from it."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from .checkpoints.cards import load_embedded
from .checkpoints.files import fill, load_state

TORCH_SUFFIXES = (".safetensors", ".pth", ".pt")
"""Of files that hold a state dict, whose keys tell what it is."""


@dataclass(frozen=True, slots=True)
class KnownFile:
    """A weight file that a model is known to work with."""

    name: str
    """As it is published; other names are accepted wherever a file is chosen by hand."""
    sha256: str = ""
    """Where some are known, no other file is opened unless it is trusted: for formats without keys that tell."""
    source: str = ""
    """Where it is published, in words."""
    url: str = ""
    """Where `bfr models fetch` gets it; empty where its licence wants the user to go there. Needs the hash."""


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """One model that can be asked for by name, or by giving its file."""

    id: str
    """Its name in options and saved graphs; never changes."""
    role: str
    """One of `roles.ROLES`."""
    title: str
    licence: str
    """Of the weights."""
    load: Callable[[Checkpoint], Any]
    """Makes what plays the role. Its networks and packages are imported in there, not with the declaration."""
    files: tuple[KnownFile, ...] = ()
    """The preferred first."""
    embedded: tuple[str, ...] = ()
    """Names of the weights that come with the package, used where no file is given."""
    needs: tuple[str, ...] = ()
    """Modules to import."""
    install: str = ""
    """The command that brings them."""
    suffixes: tuple[str, ...] = TORCH_SUFFIXES
    """Of the files it reads."""
    detect: Callable[[Collection[str]], bool] | None = None
    """Tells by the keys of a state dict whether it is this model's."""
    beside: Callable[[Path], Sequence[Path]] = lambda path: (path,)
    """All files that are read where one is given."""
    order: int = 100
    """Place in lists, the least first; what comes with the package has 0 and is the default."""

    @property
    def words(self) -> str:
        """What its files are called, for messages; its title where none is known."""
        return " or ".join(known.name for known in self.files) or f"a file of {self.title}"


class Checkpoint:
    """What a model is made from: a file, or the weights that come with the package, and where it is to compute."""

    def __init__(self, spec: ModelSpec, path: Path | None, device: torch.device, config: str = "") -> None:
        self.spec, self.device, self.config = spec, device, config
        self._path = path

    @property
    def given(self) -> Path | None:
        """The file or folder that was given; None for the weights that come with the package."""
        return self._path

    @property
    def path(self) -> Path:
        """The file of a model that needs one."""
        if self._path is None:
            raise AssertionError(f"{self.spec.id} was opened without a file")
        return self._path

    @cached_property
    def state(self) -> dict[str, Tensor]:
        """The tensors by key, read when first asked for.

        Raises:
            WeightsError: they cannot be read.
        """
        if self._path is None:
            return {key: tensor for name in self.spec.embedded for key, tensor in load_embedded(name).items()}
        return load_state(self._path)

    def fill(self, build: Callable[[], nn.Module]) -> Any:
        """Return the network that `build` makes, with the state in it, frozen, in evaluation mode, on the device.

        Files from before torch counted batches lack `num_batches_tracked`, which evaluation never reads; they load.

        Raises:
            WeightsError: keys or shapes are not those of the network.
        """
        with torch.device("meta"):
            net = build()
        counters = (key for key in net.state_dict() if key.endswith(".num_batches_tracked"))
        state = {**{key: torch.zeros((), dtype=torch.long) for key in counters}, **self.state}
        fill(net, state, what=self.spec.title + (f" ({self._path})" if self._path else ""))
        return net.eval().requires_grad_(False).to(self.device)


def has_all(*keys: str) -> Callable[[Collection[str]], bool]:
    """Return a `ModelSpec.detect` that wants all of these keys."""
    return lambda present: all(key in present for key in keys)
