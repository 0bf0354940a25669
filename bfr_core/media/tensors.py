"""Files of tensors that people keep and exchange, style codes and latents: safetensors that say what they hold."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
from torch import Tensor

from ..errors import InputMediaError
from ..registry import identify
from .atomic import publish

SUFFIX = ".safetensors"
_HEADER = 1 << 20
"""Bytes of the longest header we read: that of two tensors takes a few hundred."""


@dataclass(frozen=True, slots=True)
class TensorFile:
    """One kind of file."""

    format: str
    """As the file says it."""
    version: int
    title: str
    """What is inside, in words, for messages."""
    writer: str
    """The node that writes such files, for messages."""

    def save(self, path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
        """Write tensors to a file, whole or not at all.

        Raises:
            OutputMediaError: it cannot be written there.
        """
        said = {"format": self.format, "version": str(self.version), **metadata}
        contents = safetensors.torch.save({name: tensor.contiguous() for name, tensor in tensors.items()}, said)
        with publish(path) as file:
            file.write(contents)

    def load(self, path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
        """Return the tensors and the metadata of a file that `save` wrote.

        Raises:
            InputMediaError: the file is missing, damaged, of another kind or of a newer version.
        """
        header = self._header(path)
        metadata = header.pop("__metadata__", None)
        if not isinstance(metadata, dict) or metadata.get("format") != self.format:
            known = identify(header)
            names = ", ".join(list(header)[:3]) or "none"
            inside = f"weights of {known}" if known else f"{len(header)} tensors ({names})"
            raise self.unreadable(path, f"found {inside}; expected {self.title}", self._choose)
        version = metadata.get("version", "")
        if version != str(self.version):
            found = f"its format is version {version}; expected {self.version}"
            raise self.unreadable(path, found, "Update the package")
        try:
            # Copied, so that nothing holds the file; and load() of safetensors 0.4.3 takes no empty tensors.
            with safetensors.safe_open(path, "pt") as file:
                return {name: file.get_tensor(name).clone() for name in file.keys()}, metadata  # noqa: SIM118 - not a dict
        except (safetensors.SafetensorError, OSError) as error:
            raise self.damaged(path, str(error)) from error

    def damaged(self, path: Path, reason: str) -> InputMediaError:
        """Return the error of a file that is not whole."""
        return self.unreadable(path, f"the file is damaged ({reason}); expected whole {self.title}")

    def unreadable(self, path: Path, found: str, todo: str = "") -> InputMediaError:
        """Return the error of a file that cannot be read."""
        return InputMediaError(
            f"Cannot read the {self.title} {path}",
            found=found,
            kept="The file is unchanged and nothing was loaded",
            todo=todo or f"Copy the file again, or make the {self.title.split()[-1]} anew",
        )

    @property
    def _choose(self) -> str:
        return f"Choose a file that {self.writer} wrote"

    def _header(self, path: Path) -> dict[str, Any]:
        """Return what a safetensors file says of its tensors, before one of them is read: it may be of any size."""
        if not path.is_file():
            raise InputMediaError(
                f"Cannot find the {self.title} {path.name}",
                found=f"{'it is a folder' if path.is_dir() else f'no such file in {path.parent}'}; expected a file",
                kept="Nothing was changed",
                todo="Put the file there, or choose another",
            )
        try:
            with path.open("rb") as file:
                length = int.from_bytes(file.read(8), "little")
                header = json.loads(file.read(length)) if length <= _HEADER else None
        except OSError as error:
            raise self.unreadable(path, f"the system refused: {error.strerror or error}") from error
        except (ValueError, RecursionError):
            header = None
        if not isinstance(header, dict):
            inside = f"a safetensors file of {self.title.split()[-1]}"
            found = f"the {path.stat().st_size} bytes do not begin as {inside} does; expected {self.title}"
            raise self.unreadable(path, found, self._choose)
        return header
