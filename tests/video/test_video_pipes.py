"""The pipe between decoder, work and encoder: order, bounds, errors and cancel from each of its threads."""

from __future__ import annotations

import threading
import time
import traceback

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bfr_core.errors import InputMediaError
from bfr_core.video.pipes import run


class Interrupt(BaseException):
    """As a host's interrupt is: not an Exception."""


def same(items):
    yield from items


def threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("bfr-")]


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(), max_size=30), st.integers(1, 5))
def test_everything_arrives_in_order(values, ahead):
    arrived: list[int] = []
    run(iter(values), lambda items: (value * 2 for value in items), arrived.append, ahead=ahead)
    assert arrived == [value * 2 for value in values]


def test_work_may_give_more_or_fewer_than_it_takes():
    arrived: list[int] = []

    def work(items):
        for value in items:
            yield from range(value)

    run([0, 3, 0, 2], work, arrived.append)
    assert arrived == [0, 1, 2, 0, 1]


def test_row53_nothing_is_made_ahead_of_its_place():
    made = []
    worked = []
    release = threading.Event()

    def source():
        for value in range(100):
            made.append(value)
            yield value

    def work(items):
        for value in items:
            worked.append(value)
            yield value

    def sink(value):
        assert release.wait(5)
        assert len(made) - value <= 3 + 1 + 3 + 1, "frames pile up before a slow encoder"

    def let_go():
        deadline = time.monotonic() + 4
        while len(made) < 7 and time.monotonic() < deadline:
            time.sleep(0.02)
        time.sleep(0.2)  # in which more would be made if it could
        stalled.extend([len(made), len(worked)])
        release.set()

    stalled: list[int] = []
    opener = threading.Thread(target=let_go)
    opener.start()
    run(source(), work, sink, ahead=3)
    opener.join()
    # The sink holds one; three wait for it; nothing more is worked on; three wait for the work.
    assert stalled == [1 + 3 + 3, 1 + 3]
    assert made == list(range(100)) == worked


def test_row53_an_error_of_the_source_comes_after_what_was_read_before_it():
    arrived: list[int] = []
    closed = []

    def source():
        try:
            yield from range(7)
            raise InputMediaError("Cannot read frame 7", found="x", kept="y", todo="z") from OSError("bad sector")
        finally:
            closed.append(threading.current_thread().name)

    def work(items):
        for value in items:
            arrived.append(value)
            yield value

    with pytest.raises(InputMediaError, match="frame 7") as caught:
        run(source(), work, lambda value: None, ahead=2)
    assert arrived == list(range(7))
    assert isinstance(caught.value.__cause__, OSError)
    frames = [frame.name for frame in traceback.extract_tb(caught.value.__traceback__)]
    assert "source" in frames, "the traceback must lead to where it was raised"
    assert closed and not threads()


@pytest.mark.parametrize("kind", [ValueError, Interrupt, KeyboardInterrupt])
def test_row53_an_error_of_the_sink_stops_an_endless_source_at_once(kind):
    def source():
        value = 0
        while True:
            yield value
            value += 1

    def sink(value):
        if value == 5:
            raise kind("disk full")

    start = time.monotonic()
    with pytest.raises(kind, match="disk full") as caught:
        run(source(), same, sink)
    assert time.monotonic() - start < 1
    assert "sink" in [frame.name for frame in traceback.extract_tb(caught.value.__traceback__)]
    assert not threads()


@pytest.mark.parametrize("kind", [ValueError, Interrupt])
def test_row53_an_error_of_the_work_stops_both_threads(kind):
    arrived: list[int] = []

    def work(items):
        for value in items:
            if value == 4:
                raise kind("out of memory")
            yield value

    with pytest.raises(kind, match="out of memory"):
        run(iter(int, 1), work_of(work), arrived.append)
    assert not threads()


def work_of(work):
    """Number an endless source."""
    return lambda items: work(number for number, _ in enumerate(items))


@pytest.mark.parametrize("slow", ["source", "sink"])
def test_row43_cancel_while_another_thread_is_slow(slow):
    """The decoder or the encoder stands still; the caller wants to stop."""
    gate = threading.Event()
    start = time.monotonic()

    def check():
        if time.monotonic() - start > 0.2:
            gate.set()  # the call into the codec ends at some time, as every call does
            raise Interrupt

    def source():
        for value in range(50):
            if slow == "source" and value == 3:
                gate.wait(5)
            yield value

    def sink(value):
        if slow == "sink" and value == 3:
            gate.wait(5)

    with pytest.raises(Interrupt):
        run(source(), same, sink, check_cancel=check)
    assert time.monotonic() - start < 1.2
    assert not threads()


def test_a_sink_is_not_called_again_after_anything_failed():
    calls = []

    def work(items):
        yield next(items)
        raise ValueError

    def sink(value):
        time.sleep(0.05)
        calls.append(value)

    with pytest.raises(ValueError):
        run(iter(int, 1), work, sink)
    count = len(calls)
    time.sleep(0.1)
    assert len(calls) == count <= 1


def test_a_source_that_is_not_used_up_is_closed():
    closed = threading.Event()

    def source():
        try:
            while True:
                yield 1
        finally:
            closed.set()

    def work(items):
        yield next(items)

    arrived: list[int] = []
    run(source(), work, arrived.append)
    assert arrived == [1]
    assert closed.is_set()
