"""Decoder, work and encoder side by side, with bounded queues between them.

The source and the sink have a thread each; the work stays in the thread of the caller, where a host may interrupt it
and where networks were made. Whatever is raised anywhere reaches the caller as it is, and stops the other two.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Generic, TypeVar

from ..errors import RestoreError

_In = TypeVar("_In")
_Out = TypeVar("_Out")
_T = TypeVar("_T")

_POLL_S = 0.1
"""How often a thread that waits looks whether the run was stopped; the caller asks for cancel as often."""

_JOIN_S = 5.0
"""How long a thread may take to end after it was told to; a call into a codec cannot be interrupted."""


class _Stopped(BaseException):
    """Ends a thread whose run is over. No handler for ordinary errors in a sink or a source may swallow it."""


class _Queue(Generic[_T]):
    """A bounded queue whose ends can be closed; all waiting ends when `stop` is set.

    Args:
        room: most items held.
        stop: set when the run is over.
    """

    def __init__(self, room: int, stop: threading.Event) -> None:
        self._items: deque[_T] = deque()
        self._room, self._stop = room, stop
        self._changed = threading.Condition()
        self._closed = False
        self._error: BaseException | None = None

    def await_room(self, check: Callable[[], None] = lambda: None) -> None:
        """Wait until an item may be put: asked before it is made, so that no item is made ahead of its place."""
        self._wait(lambda: len(self._items) < self._room, check)

    def put(self, item: _T) -> None:
        """Add an item. There is one thread that puts, so room that it awaited is still there."""
        with self._changed:
            self._items.append(item)
            self._changed.notify_all()

    def close(self, error: BaseException | None = None) -> None:
        """Say that no item follows, or what was raised in place of the next."""
        with self._changed:
            self._closed, self._error = True, error
            self._changed.notify_all()

    def items(self, check: Callable[[], None] = lambda: None) -> Iterator[_T]:
        """Yield the items in order; then end, or raise what was raised where they come from."""
        while True:
            self._wait(lambda: bool(self._items) or self._closed, check)
            with self._changed:
                if not self._items:
                    if self._error is not None:
                        raise self._error
                    return
                item = self._items.popleft()
                self._changed.notify_all()
            yield item

    def _wait(self, ready: Callable[[], bool], check: Callable[[], None]) -> None:
        while True:
            check()
            if self._stop.is_set():
                raise _Stopped
            with self._changed:
                if ready() or self._changed.wait_for(ready, _POLL_S):
                    return


def run(
    source: Iterable[_In],
    work: Callable[[Iterator[_In]], Iterable[_Out]],
    sink: Callable[[_Out], Any],
    *,
    ahead: int = 4,
    check_cancel: Callable[[], None] = lambda: None,
) -> None:
    """Pass everything from `source` through `work` to `sink`.

    Args:
        source: is iterated in a thread of its own, and closed there where it is a generator.
        work: takes the iterator of what comes from the source and gives the results; runs in the calling thread.
        sink: called with each result, in order, in a thread of its own. It is not called again once anything failed.
        ahead: most items that wait on either side of the work; nothing is taken from the source, nor asked of the
            work, before there is room for it.
        check_cancel: asked in the calling thread ten times a second while it waits; what it raises passes through.

    Raises:
        BaseException: the first that was raised in the source, the work, the sink or `check_cancel`, the same object
            with its own traceback. What the source gave before it failed goes through the work first; results
            that the sink has not taken by then are dropped. When this returns or raises, no thread of it touches
            the source or the sink any more, unless one hangs in a single call for longer than 5 s.
    """
    stop = threading.Event()
    before: _Queue[_In] = _Queue(ahead, stop)
    after: _Queue[_Out] = _Queue(ahead, stop)
    failed: list[BaseException] = []

    def produce() -> None:
        items = iter(source)
        try:
            while True:
                before.await_room()
                try:
                    item = next(items)
                except StopIteration:
                    break
                before.put(item)
            before.close()
        except _Stopped:
            pass
        except BaseException as error:  # of any kind: it is the caller's to handle
            before.close(error)
        finally:
            _close(items)

    def consume() -> None:
        try:
            for item in after.items():
                sink(item)
        except _Stopped:
            pass
        except BaseException as error:
            failed.append(error)
            stop.set()

    threads = [
        threading.Thread(target=target, name=f"bfr-{target.__name__}", daemon=True) for target in (produce, consume)
    ]
    for thread in threads:
        thread.start()
    results = iter(())
    try:
        results = iter(work(before.items(check_cancel)))
        while True:
            after.await_room(check_cancel)
            try:
                result = next(results)
            except StopIteration:
                break
            after.put(result)
        after.close()
        while threads[1].is_alive():
            check_cancel()
            threads[1].join(_POLL_S)
    except _Stopped:
        pass  # the sink failed, which is raised below
    finally:
        stop.set()
        _close(results)
        for thread in threads:
            thread.join(_JOIN_S)
    if failed:
        raise failed[0]
    if late := [thread.name for thread in threads if thread.is_alive()]:
        raise RestoreError(
            "A thread did not end with the run",
            found=f"{', '.join(late)} is still in one call after {_JOIN_S:g} s",
            kept="Everything that was passed on is kept",
            todo="Check whether the disk or the network folder answers, then run the same command again",
        )


def _close(items: Iterator[Any]) -> None:
    close = getattr(items, "close", None)
    if close is not None:
        close()


class _Over(BaseException):
    """Ends the decoder's thread after the work; nobody hears of it."""


class Halt:
    """Tells the decoder's thread that the work is over; a context around the work.

    A host may tell of a cancel once only, which must be in the thread that can end at once; the decoder learns of it,
    as of any other end, from here.
    """

    def __init__(self, check_cancel: Callable[[], None]) -> None:
        self._check, self._over = check_cancel, threading.Event()

    def __enter__(self) -> None:
        return None

    def __exit__(self, *error: Any) -> None:
        self._over.set()

    def check_decoder(self) -> None:
        """Raise in the decoder's thread where the work is over."""
        if self._over.is_set():
            raise _Over

    def check_cancel(self) -> None:
        """Ask for cancel where the work waits; before it has begun it has nothing to end the decoder with."""
        try:
            self._check()
        except BaseException:
            self._over.set()
            raise
