"""Where the work runs: device, dtype, batch size, progress and cancel, as one object the caller passes in.

The command line passes a plain one; the ComfyUI nodes pass one that asks the host.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from .errors import RestoreError, SettingsError

logger = logging.getLogger("bfr")

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}

Numbers = Mapping[str, Sequence[float]]
"""What was read in faces: by name, a number for each face."""


def pick_device(name: str = "auto") -> torch.device:
    """Return the device called `name`; `auto` is the first of CUDA, MPS and CPU that is there.

    Raises:
        SettingsError: the name is unknown or the device is not there.
    """
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise SettingsError(
            f"Cannot use the device {name!r}",
            found=f"{str(error).splitlines()[0]}; expected auto, cpu, cuda, cuda:N or mps",
            kept="Nothing was started",
            todo="Choose --device auto, or install a torch build for that device",
        ) from error
    return device


class _Summary:
    """Range and mean of what was read in faces so far, and the line that says so."""

    def __init__(self, heading: str, numbers: Numbers, before: _Summary | None) -> None:
        spans = {name: (min(values), max(values), sum(values)) for name, values in numbers.items()}
        self.count = max(map(len, numbers.values())) + (before.count if before else 0)
        if before:
            for name, (low, high, total) in before.spans.items():
                spans[name] = min(spans[name][0], low), max(spans[name][1], high), spans[name][2] + total
        self.spans = spans
        said = ", ".join(f"{name} {_span(low, high, total / self.count)}" for name, (low, high, total) in spans.items())
        self.line = f"{heading}. {self.count} {'face' if self.count == 1 else 'faces'}: {said}"


def _span(low: float, high: float, mean: float) -> str:
    least, most, middle = (f"{round(value, 2):g}" for value in (low, high, mean))
    return least if least == most else f"{least} to {most} (mean {middle})"


@dataclass(slots=True)
class Runtime:
    """One run's resources and its line to the host."""

    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    dtype: torch.dtype = torch.float32
    batch: int = 4
    """Most items in one call of a network."""
    on_progress: Callable[[int, int], None] = lambda done, total: None
    on_step: Callable[[int, int], None] = lambda index, total: None
    """Hears of each step of the faces at work, before it, from methods that take steps."""
    check_cancel: Callable[[], None] = lambda: None
    """Raises when the host wants the run to stop; whatever it raises passes through untouched."""
    prepare: Callable[[nn.Module], nn.Module] | None = None
    """Brings a network to the device; None moves it with `.to`. A host puts its memory management here."""
    notes: list[str] = field(default_factory=list)
    """What was not done as asked, and what methods read in the faces; goes into the report."""
    _told: dict[str, _Summary] = field(default_factory=dict, init=False, repr=False)
    _pending: list[tuple[str, Numbers]] = field(default_factory=list, init=False, repr=False)

    def ready(self, net: nn.Module) -> nn.Module:
        """Return `net` on the device, ready to run."""
        return self.prepare(net) if self.prepare else net.to(self.device)

    def note(self, text: str) -> None:
        """Record something that was not done as asked, once."""
        if text not in self.notes:
            self.notes.append(text)
            logger.warning(text)

    def tell(self, heading: str, numbers: Numbers) -> None:
        """Record what a method read in the faces at work: not a fault, but good to know.

        Of each heading the notes have one line, with the range and the mean of every number over the run: a film has
        faces by the hundred thousand. It counts once the batch is done, as a second try reads the same faces again.

        Args:
            heading: what was read and why, as the line begins.
            numbers: what was read.
        """
        self._pending.append((heading, numbers))

    def forget(self) -> None:
        """Drop what was told of the batch at work, which is run again."""
        self._pending.clear()

    def _settle(self) -> None:
        for heading, numbers in self._pending:
            before = self._told.get(heading)
            if before and before.line not in self.notes:  # the caller began another report
                before = None
            now = self._told[heading] = _Summary(heading, numbers, before)
            if before:
                self.notes[self.notes.index(before.line)] = now.line
            else:
                self.notes.append(now.line)
            # As often as the count doubles: a log has no room for each batch of a film either.
            if not before or now.count.bit_length() > before.count.bit_length():
                logger.info(now.line)
        self._pending.clear()

    def run_batched(self, call: Callable[[Tensor], Tensor], items: Tensor, *, first: int = 0, total: int = 0) -> Tensor:
        """Call a network on `items`, a batch at a time, with smaller batches where memory runs out.

        Only `torch.OutOfMemoryError` from the call itself counts as out of memory: decoders have errors of that
        name which a smaller batch would never cure.

        Args:
            call: maps (n, ...) to (n, ...), each item on its own.
            items: (B, ...), B may be 0.
            first: items done before, for the progress.
            total: items of the whole run, for the progress; 0 for B.

        Raises:
            RestoreError: memory ran out with a single item.
        """
        results: list[Tensor] = []
        done, batch = 0, max(self.batch, 1)
        while done < len(items):
            self.check_cancel()
            part = items[done : done + batch]
            self.forget()
            result = self._try(call, part)
            if result is None:  # outside the except block, so that no traceback keeps the tensors alive
                if batch == 1:
                    raise RestoreError(
                        "Out of memory",
                        found=f"a single item of shape {tuple(part.shape[1:])} does not fit on {self.device}",
                        kept=f"{first + done} items were finished; no file was changed",
                        todo="Close other programs, choose a smaller config, or run with --device cpu",
                    )
                batch //= 2
                self.batch = batch
                self.note(f"Memory ran out; the batch was reduced to {batch}")
                continue
            results.append(result)
            self._settle()
            done += len(part)
            self.on_progress(first + done, total or len(items))
        return torch.cat(results) if results else items[:0]

    def _try(self, call: Callable[[Tensor], Tensor], part: Tensor) -> Tensor | None:
        try:
            return call(part)
        except torch.OutOfMemoryError:
            if self.device.type == "cuda":
                torch.cuda.empty_cache()
            return None


def worker_start_method() -> str:
    """Choose how worker processes begin.

    A forked one can inherit a lock of OpenCV's or OpenMP's pool that no thread of its own will release, and hang. A
    spawned one ends by way of the destructors of every library, where some abort. One that a fork server began, which
    never computed anything, does neither; Windows has no fork server.
    """
    return "forkserver" if "forkserver" in torch.multiprocessing.get_all_start_methods() else "spawn"
