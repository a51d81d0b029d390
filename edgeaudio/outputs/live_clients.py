"""`Clients`: who looks at the live page. Each has its own short queue; whoever is slow loses pictures, nobody waits."""

from __future__ import annotations

import json
import threading
from collections import deque
from collections.abc import Callable
from typing import Any, NamedTuple

# About 5 s of ticks.
_CAPACITY = 64


class Message(NamedTuple):
    """One event of the stream that a browser's EventSource reads. Only `tick` may be dropped."""

    kind: str
    data: bytes

    @classmethod
    def of(cls, kind: str, value: Any) -> Message:
        """`value` as JSON."""
        text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
        return cls(kind, f"event: {kind}\ndata: {text}\n\n".encode())


class Client:
    """A queue of messages for one browser."""

    def __init__(self, capacity: int = _CAPACITY) -> None:
        self._capacity = capacity
        self._messages: deque[Message] = deque()
        self._changed = threading.Condition()
        self._ended = False
        #: Messages that found the queue full.
        self.dropped = 0

    def put(self, message: Message) -> None:
        """Queue it; where there is no room the oldest tick goes, else the oldest of all."""
        with self._changed:
            if len(self._messages) >= self._capacity:
                ticks = (i for i, waiting in enumerate(self._messages) if waiting.kind == "tick")
                del self._messages[next(ticks, 0)]
                self.dropped += 1
            self._messages.append(message)
            self._changed.notify()

    def take(self, timeout_s: float) -> bytes | None:
        """All that waits, joined; empty after `timeout_s` without any, None when the stream has ended."""
        with self._changed:
            self._changed.wait_for(lambda: self._messages or self._ended, timeout_s)
            if self._ended and not self._messages:
                return None
            data = b"".join(message.data for message in self._messages)
            self._messages.clear()
            return data

    def end(self) -> None:
        """No more will come."""
        with self._changed:
            self._ended = True
            self._changed.notify()


class Clients:
    """All of them. Whoever joins gets a greeting first and then every message after it."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._clients: set[Client] = set()
        self._lock = threading.Condition()
        self._dropped_by_leavers = 0

    def join(self, greeting: Callable[[], Message]) -> Client | None:
        """A new client, or None when there are as many as may be."""
        with self._lock:
            if len(self._clients) >= self._limit:
                return None
            client = Client()
            client.put(greeting())
            self._clients.add(client)
            return client

    def leave(self, client: Client) -> None:
        """It has gone."""
        with self._lock:
            self._clients.discard(client)
            self._dropped_by_leavers += client.dropped
            self._lock.notify_all()

    def publish(self, make: Callable[[], list[Message]]) -> int:
        """Send what `make` returns to all; no one joins meanwhile, so a greeting never misses or repeats it."""
        with self._lock:
            messages = make()
            for client in self._clients:
                for message in messages:
                    client.put(message)
            return len(messages) * len(self._clients)

    def end(self, timeout_s: float) -> None:
        """Say that the stream has ended, and wait until all have been sent what waits and have left."""
        self.publish(lambda: [Message.of("end", {})])
        with self._lock:
            for client in self._clients:
                client.end()
            # Queues that are empty are not enough: the process may end before their last bytes are sent.
            self._lock.wait_for(lambda: not self._clients, timeout_s)

    def __len__(self) -> int:
        return len(self._clients)

    @property
    def dropped(self) -> int:
        """Messages that any of them lost."""
        with self._lock:
            return self._dropped_by_leavers + sum(client.dropped for client in self._clients)
