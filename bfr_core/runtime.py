"""Where the work runs: device, dtype, batch size, progress and cancel, as one object the caller passes in.

The command line passes a plain one; the ComfyUI nodes pass one that asks the host.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from .errors import RestoreError, SettingsError
from .types import Heard, Numbers

if TYPE_CHECKING:
    from .restoration.kept import KeptFaces

logger = logging.getLogger("bfr")

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


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


def _no_progress(done: int, total: int) -> None:
    """Hear of nothing."""


def _no_faces(before: Tensor, after: Tensor) -> None:
    """Look at nothing."""


def _no_cancel() -> None:
    """Never stop."""


class _Record:
    """What a run learns on its way, shared by the run and the copies that are derived from it."""

    def __init__(self, batch: int, notes: list[str] | None = None) -> None:
        self.batch = batch
        """Most items in one call of a network, as far as memory allowed."""
        self.notes: list[str] = [] if notes is None else notes
        self.told: dict[str, _Summary] = {}
        self.pending: list[tuple[str, Numbers]] = []
        self.said: dict[str, str] = {}
        """Notes that are said anew as they change, by their subject."""
        self.heard: Heard | None = None


@dataclass(frozen=True, slots=True, eq=False)
class _Machine:
    """Where a run computes."""

    device: torch.device
    dtype: torch.dtype
    prepare: Callable[[nn.Module], nn.Module] | None
    kept: KeptFaces | None


class Runtime:
    """One run's resources and its line to the host.

    It is made once and never written to: who needs other callbacks derives a copy (`derived`, `scaled`, `silent`), who
    begins another report a copy with notes of its own (`renewed`). What memory allows is learnt once for all of them.

    Args:
        device: where networks compute.
        dtype: their precision; below float32 under autocast.
        batch: most items in one call of a network; less where memory runs out.
        on_progress: hears of items done and items in all.
        on_step: hears of each step of the faces at work, before it, from methods that take steps.
        on_faces: sees the crops of a batch before and after it was restored, (n, 3, S, S), before progress is told.
        check_cancel: raises when the host wants the run to stop; whatever it raises passes through untouched.
        prepare: brings a network to the device; None moves it with `.to`. A host puts its memory management here.
        kept: restored faces of earlier runs, which are not restored again; None keeps none.
    """

    __slots__ = ("_machine", "_record", "check_cancel", "on_faces", "on_progress", "on_step")

    def __init__(
        self,
        device: torch.device | None = None,
        dtype: torch.dtype = torch.float32,
        batch: int = 4,
        on_progress: Callable[[int, int], None] = _no_progress,
        on_step: Callable[[int, int], None] = _no_progress,
        check_cancel: Callable[[], None] = _no_cancel,
        prepare: Callable[[nn.Module], nn.Module] | None = None,
        kept: KeptFaces | None = None,
        on_faces: Callable[[Tensor, Tensor], None] = _no_faces,
    ) -> None:
        self._fill(
            _machine=_Machine(device or torch.device("cpu"), dtype, prepare, kept),
            _record=_Record(max(batch, 1)),
            on_progress=on_progress,
            on_step=on_step,
            on_faces=on_faces,
            check_cancel=check_cancel,
        )

    def _fill(self, **values: object) -> None:
        for name, value in values.items():
            object.__setattr__(self, name, value)

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"a Runtime is not written to: {name} is given to derived(), scaled() or renewed()")

    @property
    def device(self) -> torch.device:
        """Where networks compute."""
        return self._machine.device

    @property
    def dtype(self) -> torch.dtype:
        """Precision of networks."""
        return self._machine.dtype

    @property
    def batch(self) -> int:
        """Most items in one call of a network, as far as memory allowed."""
        return self._record.batch

    @property
    def kept(self) -> KeptFaces | None:
        """Restored faces of earlier runs."""
        return self._machine.kept

    @property
    def notes(self) -> list[str]:
        """What was not done as asked, and what methods read in the faces; goes into the report."""
        return self._record.notes

    def derived(
        self,
        *,
        on_progress: Callable[[int, int], None] | None = None,
        on_step: Callable[[int, int], None] | None = None,
        on_faces: Callable[[Tensor, Tensor], None] | None = None,
        check_cancel: Callable[[], None] | None = None,
        kept: KeptFaces | None = None,
    ) -> Runtime:
        """Return a copy with other callbacks, or other kept faces; notes and memory are shared."""
        made = object.__new__(type(self))
        made._fill(
            _machine=replace(self._machine, kept=kept or self.kept),
            _record=self._record,
            on_progress=on_progress or self.on_progress,
            on_step=on_step or self.on_step,
            on_faces=on_faces or self.on_faces,
            check_cancel=check_cancel or self.check_cancel,
        )
        return made

    def scaled(self, first: int, total: int) -> Runtime:
        """Return a copy for a part of a run: its progress counts from `first` of `total` items."""
        return self.derived(on_progress=lambda done, _: self.on_progress(first + done, total))

    def silent(self) -> Runtime:
        """Return a copy whose progress nobody hears of; it can still be cancelled."""
        return self.derived(on_progress=_no_progress, on_step=_no_progress, on_faces=_no_faces)

    def renewed(self) -> Runtime:
        """Return a copy with notes of its own, for another report."""
        made = self.derived()
        made._fill(_record=_Record(self.batch))
        return made

    def ready(self, net: nn.Module) -> nn.Module:
        """Return `net` on the device, ready to run."""
        return self._machine.prepare(net) if self._machine.prepare else net.to(self.device)

    def note(self, text: str) -> None:
        """Record something that was not done as asked, once."""
        if self._record.heard is not None:
            self._record.heard.notes.append(text)
        if text not in self.notes:
            self.notes.append(text)
            logger.warning(text)

    def say(self, subject: str, text: str) -> None:
        """Put a line into the notes that takes the place of what was said of the same subject before."""
        before = self._record.said.get(subject)
        if before in self.notes:
            self.notes[self.notes.index(before)] = text
        else:
            self.notes.append(text)
            logger.info(text)
        self._record.said[subject] = text

    def tell(self, heading: str, numbers: Numbers) -> None:
        """Record what a method read in the faces at work: not a fault, but good to know.

        Of each heading the notes have one line, with the range and the mean of every number over the run: a film has
        faces by the hundred thousand. It counts once the batch is done, as a second try reads the same faces again.

        Args:
            heading: what was read and why, as the line begins.
            numbers: what was read.
        """
        self._record.pending.append((heading, numbers))

    def repeat(self, heard: Heard) -> None:
        """Record what was said when a face was restored, which is shown again and not restored anew."""
        for text in heard.notes:
            self.note(text)
        for heading, numbers in heard.numbers:
            self.tell(heading, numbers)
        self._settle()

    @contextmanager
    def hearing(self) -> Iterator[Heard]:
        """Give what is said while the block runs."""
        heard = self._record.heard = Heard()
        try:
            yield heard
        finally:
            self._record.heard = None

    def forget(self) -> None:
        """Drop what was told of the batch at work, which is run again."""
        self._record.pending.clear()

    def _settle(self) -> None:
        if self._record.heard is not None:
            self._record.heard.numbers += self._record.pending
        for heading, numbers in self._record.pending:
            before = self._record.told.get(heading)
            now = self._record.told[heading] = _Summary(heading, numbers, before)
            if before:
                self.notes[self.notes.index(before.line)] = now.line
            else:
                self.notes.append(now.line)
            # As often as the count doubles: a log has no room for each batch of a film either.
            if not before or now.count.bit_length() > before.count.bit_length():
                logger.info(now.line)
        self._record.pending.clear()

    def run_batched(self, call: Callable[[Tensor], Tensor], items: Tensor) -> Tensor:
        """Call a network on `items`, a batch at a time, with smaller batches where memory runs out.

        Only `torch.OutOfMemoryError` from the call itself counts as out of memory: decoders have errors of that
        name which a smaller batch would never cure.

        Args:
            call: maps (n, ...) to (n, ...), each item on its own.
            items: (B, ...), B may be 0.

        Raises:
            RestoreError: memory ran out with a single item.
        """
        results: list[Tensor] = []
        done = 0
        while done < len(items):
            self.check_cancel()
            batch = self.batch
            part = items[done : done + batch]
            self.forget()
            result = self._try(call, part)
            if result is None:  # outside the except block, so that no traceback keeps the tensors alive
                if batch == 1:
                    raise RestoreError(
                        "Out of memory",
                        found=f"a single item of shape {tuple(part.shape[1:])} does not fit on {self.device}",
                        kept=f"{done} items were finished; no file was changed",
                        todo="Close other programs, choose a smaller config, or run with --device cpu",
                    )
                self._record.batch = batch // 2
                self.note(f"Memory ran out; the batch was reduced to {self.batch}")
                continue
            results.append(result)
            self._settle()
            done += len(part)
            self.on_progress(done, len(items))
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
