"""A queue that never waits, and counts what it could not keep."""

from __future__ import annotations

import logging
import threading
from collections.abc import Sequence

import pytest

from edgeaudio.outputs.base import Output
from edgeaudio.outputs.worker import Worker
from edgeaudio.runtime.observer import EventRecord, Observers
from tests import stream_driver as driver


class Sink:
    """Keeps what it is given; holds still while `gate` is closed."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.busy, self.gate = threading.Event(), threading.Event()
        self.gate.set()

    def __call__(self, items: Sequence[int]) -> None:
        self.busy.set()
        self.gate.wait(30)
        self.batches.append(list(items))

    @property
    def items(self) -> list[int]:
        return [item for batch in self.batches for item in batch]


def hold(sink: Sink, worker: Worker[int]) -> None:
    """The worker is inside `handle`, with item 0."""
    sink.gate.clear()
    worker.put(0)
    assert sink.busy.wait(30)


def test_all_items_arrive_in_order_and_are_counted() -> None:
    sink = Sink()
    worker = Worker("test", sink, max_batch=7)
    for item in range(500):
        worker.put(item)
    worker.close()
    assert sink.items == list(range(500))
    assert (worker.counts.sent, worker.counts.failed, worker.counts.dropped) == (500, 0, 0)
    assert max(len(batch) for batch in sink.batches) <= 7


def test_a_full_queue_drops_the_oldest_and_put_never_waits() -> None:
    sink = Sink()
    worker = Worker("test", sink, capacity=10)
    hold(sink, worker)
    for item in range(1, 101):  # Would never return if one of them waited: the sink holds still.
        worker.put(item)
    assert worker.counts.dropped == 90
    sink.gate.set()
    worker.close()
    assert sink.items == [0, *range(91, 101)]


def test_a_lossless_queue_makes_the_input_wait() -> None:
    sink = Sink()
    worker = Worker("test", sink, capacity=2, wait_when_full=True)
    hold(sink, worker)

    def put_many() -> None:
        for item in range(1, 21):
            worker.put(item)

    producer = threading.Thread(target=put_many)
    producer.start()
    producer.join(0.2)
    assert producer.is_alive()
    sink.gate.set()
    producer.join(30)
    worker.close(None)
    assert sink.items == list(range(21))
    assert worker.counts.dropped == 0


def test_what_handle_raises_is_counted_and_the_next_item_is_tried(caplog: pytest.LogCaptureFixture) -> None:
    handled = []

    def odd_ones_fail(items: Sequence[int]) -> None:
        if items[0] % 2:
            raise ZeroDivisionError("no odd ones")
        handled.append(items[0])

    with caplog.at_level(logging.WARNING, "edgeaudio"):
        worker = Worker("test", odd_ones_fail)
        for item in range(10):
            worker.put(item)
        worker.close()
    assert handled == [0, 2, 4, 6, 8]
    assert (worker.counts.sent, worker.counts.failed) == (5, 5)
    # Once, not five times; then the sum.
    assert [record.getMessage() for record in caplog.records] == [
        "test: ZeroDivisionError: no odd ones",
        "test: 5 sent, 5 failed, 0 dropped",
    ]


def test_close_gives_up_on_a_sink_that_holds_still(caplog: pytest.LogCaptureFixture) -> None:
    sink = Sink()
    worker = Worker("test", sink)
    hold(sink, worker)
    worker.put(1)
    worker.put(2)
    with caplog.at_level(logging.WARNING, "edgeaudio"):
        worker.close(0.05)
    assert worker.counts.dropped == 2
    assert "not done within 0.05 s" in caplog.text
    worker.put(3)
    assert worker.counts.dropped == 3
    sink.gate.set()


def test_flush_comes_after_items_and_at_the_end_but_not_for_nothing() -> None:
    calls: list[str] = []
    flushed = threading.Event()

    def flush() -> None:
        calls.append("flush")
        flushed.set()

    worker: Worker[int] = Worker("test", lambda items: calls.append("items"), flush=flush, flush_after_s=0.01)
    worker.put(1)
    assert flushed.wait(30)
    worker.close()
    assert calls == ["items", "flush"]

    calls.clear()
    worker = Worker("test", lambda items: calls.append("items"), flush=flush, flush_after_s=3600)
    worker.put(1)
    worker.put(2)
    worker.close()
    assert calls == ["items", "items", "flush"]


def test_pause_ends_at_once_when_the_stream_does() -> None:
    answers = []
    inside = threading.Event()

    def slow(items: Sequence[int]) -> None:
        inside.set()
        answers.append(worker.pause(3600))

    worker = Worker("test", slow)
    worker.put(1)
    assert inside.wait(30)
    worker.close(30)
    assert answers == [False]


class Broken(Output):
    name = "broken"

    def on_event(self, record: EventRecord) -> None:
        raise ValueError("a mistake")

    def close(self) -> None:
        raise BrokenPipeError


def test_a_broken_output_cannot_stop_the_stream(caplog: pytest.LogCaptureFixture) -> None:
    heard: list[EventRecord] = []

    class Listening(Output):
        def on_event(self, record: EventRecord) -> None:
            heard.append(record)

    observers = Observers([Broken(), Listening()])
    with caplog.at_level(logging.WARNING, "edgeaudio"):
        for _ in range(3):
            observers.on_event(driver.record())
    assert observers.failures == {"Broken": 3}
    assert len(heard) == 3
    (logged,) = caplog.records
    assert "Broken failed in on_event" in logged.getMessage()
    assert "a mistake" in (logged.exc_text or "")
    with pytest.raises(BrokenPipeError):
        observers.close()
