"""`Worker`: a bounded queue and the thread that empties it. Putting never waits; failures are counted, not raised."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Generic, TypeVar

Item = TypeVar("Item")

_LOG = logging.getLogger(__name__)

# A sink that is down fails once per item; this often is it said again.
_LOG_EVERY_S = 60.0


@dataclass
class OutputCounts:
    """Items delivered, given up after an error, and dropped because the queue was full or the time was up."""

    sent: int = 0
    failed: int = 0
    dropped: int = 0


class FailureLog:
    """Logs a failure, then the same kind of trouble at most once a minute, with how often it came in between."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._silent = 0
        self._next_s = 0.0

    def __call__(self, message: object) -> None:
        now_s = time.monotonic()
        if now_s < self._next_s:
            self._silent += 1
            return
        more = f" ({self._silent} more like this since the last message)" if self._silent else ""
        _LOG.warning("%s: %s%s", self._name, message, more)
        self._silent, self._next_s = 0, now_s + _LOG_EVERY_S


class Worker(Generic[Item]):
    """One thread, one queue.

    When the queue is full the oldest item is dropped and counted, or, with `wait_when_full`, `put` waits:
    for inputs that can wait themselves, such as files.
    """

    def __init__(
        self,
        name: str,
        handle: Callable[[Sequence[Item]], None],
        *,
        capacity: int = 1000,
        max_batch: int = 1,
        wait_when_full: bool = False,
        flush: Callable[[], None] | None = None,
        flush_after_s: float = 1.0,
    ) -> None:
        """Start the thread.

        Args:
            handle: takes 1 to `max_batch` items. What it raises is logged and counts them as failed.
            flush: called at most `flush_after_s` after items were handled, and at the end.
        """
        self.name = name
        self.counts = OutputCounts()
        self.report = FailureLog(name)
        self._handle, self._flush = handle, flush
        self._capacity, self._max_batch = capacity, max_batch
        self._wait_when_full, self._flush_after_s = wait_when_full, flush_after_s
        self._items: deque[Item] = deque()
        self._changed = threading.Condition()
        self._closing = threading.Event()
        self._give_up = False
        self._flush_due_s: float | None = None
        self._thread = threading.Thread(target=self._run, name=f"edgeaudio-{name}", daemon=True)
        self._thread.start()

    def put(self, item: Item) -> None:
        """Queue `item`; after `close` it counts as dropped."""
        with self._changed:
            if self._wait_when_full:
                self._changed.wait_for(lambda: len(self._items) < self._capacity or self._closing.is_set())
            if self._closing.is_set():
                self.counts.dropped += 1
                return
            if len(self._items) >= self._capacity:
                self._items.popleft()
                self.counts.dropped += 1
                if self.counts.dropped == 1:
                    _LOG.warning("%s: the queue of %d is full: the oldest are dropped", self.name, self._capacity)
            self._items.append(item)
            self._changed.notify_all()

    def pause(self, seconds: float) -> bool:
        """For `handle`: wait before another try. False when the stream has ended: try no more."""
        return not self._closing.wait(seconds)

    def close(self, timeout_s: float | None = 3.0) -> None:
        """Handle what waits, for at most `timeout_s` (None: as long as it takes); what is left counts as dropped."""
        with self._changed:
            self._closing.set()
            self._changed.notify_all()
        self._thread.join(timeout_s)
        with self._changed:
            self._give_up = True
            self.counts.dropped += len(self._items)
            self._items.clear()
        if self._thread.is_alive():
            _LOG.warning("%s: not done within %g s; what it was busy with may be lost", self.name, timeout_s)
        if self.counts.failed or self.counts.dropped:
            _LOG.warning(
                "%s: %d sent, %d failed, %d dropped",
                self.name,
                self.counts.sent,
                self.counts.failed,
                self.counts.dropped,
            )

    def _run(self) -> None:
        while True:
            batch = self._take()
            if batch:
                self._guarded(partial(self._handle, batch), len(batch))
                if self._flush is not None and self._flush_due_s is None:
                    self._flush_due_s = time.monotonic() + self._flush_after_s
            if self._flush is not None and self._flush_due_s is not None and self._is_due():
                self._guarded(self._flush, 0)
                self._flush_due_s = None
            if not batch and self._closing.is_set():
                return

    def _is_due(self) -> bool:
        assert self._flush_due_s is not None
        ended = self._closing.is_set() and not self._items
        return ended or time.monotonic() >= self._flush_due_s

    def _take(self) -> list[Item]:
        """The next items; none when a flush is due or the worker is to end."""
        with self._changed:
            wait_s = None if self._flush_due_s is None else max(0.0, self._flush_due_s - time.monotonic())
            self._changed.wait_for(lambda: self._items or self._closing.is_set(), wait_s)
            if self._give_up:
                return []
            batch = [self._items.popleft() for _ in range(min(self._max_batch, len(self._items)))]
            self._changed.notify_all()
            return batch

    def _guarded(self, call: Callable[[], None], n_items: int) -> None:
        try:
            call()
        except Exception as error:  # noqa: BLE001 (an output must not end its thread, whatever its library raises)
            self.counts.failed += max(1, n_items)
            self.report(f"{type(error).__name__}: {error}")
        else:
            self.counts.sent += n_items
