"""Batches made ahead of the network by worker processes, the n-th image of a run the same every time.

An image of the run is drawn from (seed, its number) alone. So neither the number of workers nor where a run was
interrupted changes what is seen, and with several processes each takes its own numbers of every batch.
"""

from __future__ import annotations

import contextlib
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Generic, TypeVar

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from bfr_core.errors import BfrError, InputMediaError
from bfr_core.runtime import worker_start_method

from .pictures import Pictures

Batch = dict[str, Tensor]
_REDRAWS = 50
P = TypeVar("P", bound=Pictures)
T = TypeVar("T")


class Examples(Dataset, ABC, Generic[P]):
    """Training examples by number; a stage says in `example` what one is."""

    def __init__(self, pictures: P, seed: int) -> None:
        self.pictures, self.seed = pictures, seed

    @abstractmethod
    def example(self, index: int, rng: np.random.Generator, bad: dict[str, str]) -> dict[str, Any]:
        """Make one example: arrays by name; (H, W, 3) uint8 ones arrive as (B, 3, H, W) in [0, 1].

        Args:
            index: its number.
            rng: decides everything random about it.
            bad: takes pictures that could not be used, with the reason; `drawn` fills it.
        """

    def __getitem__(self, index: int) -> tuple[dict[str, Any], dict[str, str]]:
        """Return example `index`, and for each picture that could not be used why."""
        bad: dict[str, str] = {}
        return self.example(index, np.random.Generator(np.random.PCG64([self.seed, index])), bad), bad

    def drawn(self, rng: np.random.Generator, bad: dict[str, str], read: Callable[[int], T]) -> T:
        """Draw a picture and return what `read` makes of its number; one that cannot be used is named, the next drawn.

        Raises:
            InputMediaError: none of many drawn in a row could be used.
        """
        for _ in range(_REDRAWS):
            which = self.pictures.pick(rng)
            try:
                return read(which)
            except InputMediaError as error:
                bad[self.pictures.sources[which].name] = str(error)
        raise InputMediaError(
            f"None of {_REDRAWS} pictures drawn in a row could be used",
            found=next(iter(bad.values())),
            kept="The last checkpoint is kept",
            todo="Look at the pictures named in the log",
        )


class _Careful(Dataset):
    """Hand an error of ours over as data: across processes torch would rebuild it as a RuntimeError full of traces."""

    def __init__(self, examples: Examples) -> None:
        self.examples = examples

    def __getitem__(self, index: int) -> Any:
        try:
            return self.examples[index]
        except BfrError as error:
            return error


class _Order(Sampler[int]):
    """The numbers one process takes, from where a run stands until it is stopped."""

    def __init__(self, start: int, batch: int, rank: int, world: int) -> None:
        self.start, self.batch, self.rank, self.world = start, batch, rank, world

    def __iter__(self) -> Iterator[int]:
        share = self.batch // self.world
        first = self.start
        while True:
            yield from range(first + self.rank * share, first + (self.rank + 1) * share)
            first += self.batch


def collate(items: Sequence[Any]) -> tuple[Batch, dict[str, str]] | BfrError:
    """Stack examples and merge what could not be used; an error among them stands for the batch."""
    if error := next((item for item in items if isinstance(item, BfrError)), None):
        return error
    bad = {name: reason for _, reasons in items for name, reason in reasons.items()}
    columns = {key: np.stack([item[key] for item, _ in items]) for key in items[0][0]}
    return {key: torch.from_numpy(np.ascontiguousarray(value)) for key, value in columns.items()}, bad


def prepare(batch: Batch, device: torch.device) -> Batch:
    """Bring a batch to the device; pictures become (B, 3, H, W) float32 [0, 1], channels last in memory."""
    out: Batch = {}
    for key, value in batch.items():
        moved = value.to(device, non_blocking=True)
        if moved.dtype == torch.uint8 and moved.ndim == 4:
            moved = moved.permute(0, 3, 1, 2).float().div_(255.0)
            moved = moved.contiguous(memory_format=torch.channels_last)
        out[key] = moved
    return out


def _start_worker(worker: int) -> None:
    torch.set_num_threads(1)
    cv2.setNumThreads(1)


class Feed:
    """Hands out the batches of one phase and keeps count of the time spent waiting for them.

    Args:
        examples: what to draw from.
        start: number of the first image.
        batch: images of a step, over all processes.
        parts: parts a process works through its share in.
        rank: number of this process.
        world: number of processes.
        workers: processes that make batches; 0 makes them when they are asked for.
        device: where batches go.
    """

    def __init__(
        self,
        examples: Examples,
        *,
        start: int,
        batch: int,
        parts: int = 1,
        rank: int = 0,
        world: int = 1,
        workers: int = 1,
        device: torch.device | None = None,
    ) -> None:
        self.device = device or torch.device("cpu")
        self.waited = 0.0
        self.bad: dict[str, str] = {}
        loader = DataLoader(
            _Careful(examples),
            batch_size=batch // world // parts,
            sampler=_Order(start, batch, rank, world),
            num_workers=workers,
            collate_fn=collate,
            worker_init_fn=_start_worker,
            pin_memory=self.device.type == "cuda",
            prefetch_factor=4 if workers else None,
            multiprocessing_context=worker_start_method() if workers else None,
        )
        self._batches = iter(loader)

    def next(self) -> Batch:
        """Return the next part of a batch.

        Raises:
            BfrError: an example could not be made.
        """
        began = time.monotonic()
        made = next(self._batches)
        self.waited += time.monotonic() - began
        if isinstance(made, BfrError):
            raise made
        batch, bad = made
        self.bad |= bad
        return prepare(batch, self.device)

    def close(self) -> None:
        """Stop the workers."""
        if hasattr(self._batches, "_shutdown_workers"):
            with contextlib.suppress(RuntimeError):  # one that dies while it ends had nothing left to give
                self._batches._shutdown_workers()  # type: ignore[attr-defined]
