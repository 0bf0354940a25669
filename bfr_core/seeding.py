"""Noise that depends on a face's seed and on nothing else."""

from __future__ import annotations

import zlib
from collections.abc import Sequence

import torch
from torch import Tensor


class Draws:
    """Draw noise for a batch of faces, one seed each.

    Every name has a stream of its own, so a draw depends on the seed and the name: not on the batch, on what was
    drawn before, or on the device, as all of it is drawn on the CPU.

    Args:
        seeds: one per face.
        device: where the noise is wanted.
    """

    def __init__(self, seeds: Sequence[int], device: torch.device | str = "cpu") -> None:
        self.seeds, self.device = tuple(seeds), torch.device(device)

    def _generator(self, seed: int, name: str) -> torch.Generator:
        return torch.Generator().manual_seed((seed * 1_000_003 + zlib.crc32(name.encode())) % 2**63)

    def normal(self, name: str, *shape: int) -> Tensor:
        """Return standard normal noise, (B, *shape) float32."""
        drawn = [torch.randn(*shape, generator=self._generator(seed, name)) for seed in self.seeds]
        return torch.stack(drawn).to(self.device)

    def uniform(self, name: str) -> list[float]:
        """Return one number in [0, 1) for each face."""
        return [torch.rand((), generator=self._generator(seed, name)).item() for seed in self.seeds]
