"""`LivePage`: a web page that shows what the stream hears, as it hears it."""

from __future__ import annotations

import logging
import secrets
import threading
from collections import deque
from dataclasses import dataclass

from edgeaudio.outputs.base import Output
from edgeaudio.outputs.info import StreamInfo
from edgeaudio.outputs.live_clients import Clients, Message
from edgeaudio.outputs.live_feed import Feed
from edgeaudio.outputs.live_server import MAX_VIEWERS, LiveServer
from edgeaudio.outputs.worker import FailureLog, OutputCounts
from edgeaudio.runtime.classifier import ScoredWindow
from edgeaudio.runtime.engines.base import Float32
from edgeaudio.runtime.observer import EventRecord, Health

_LOG = logging.getLogger(__name__)

_TICK_S = 0.08

# Windows and events between two ticks. A file that is read faster than it sounds has more; then the oldest go.
_PENDING_WINDOWS = 256
_PENDING_EVENTS = 256


@dataclass(frozen=True)
class Address:
    """Where to listen, and the names besides addresses that browsers may use for this machine."""

    host: str = "127.0.0.1"
    port: int = 8765
    names: tuple[str, ...] = ()


class LivePage(Output):
    """Keeps what the stream tells; a thread of its own makes it small and hands it to whoever looks."""

    name = "ui"

    def __init__(self, info: StreamInfo, address: Address = Address()) -> None:
        """Start to serve the page; errors are those of `LiveServer`."""
        self._feed = Feed(info, session=secrets.token_hex(8))
        self._clients = Clients(MAX_VIEWERS)
        self._server = LiveServer(
            address.host, address.port, self._clients, lambda: Message.of("hello", self._feed.hello()), address.names
        )
        self._windows: deque[tuple[ScoredWindow, Float32]] = deque(maxlen=_PENDING_WINDOWS)
        self._events: deque[EventRecord] = deque(maxlen=_PENDING_EVENTS)
        self._health: Health | None = None
        self._counts = OutputCounts()
        self._closing = threading.Event()
        self._server.start()
        self._thread = threading.Thread(target=self._run, name="edgeaudio-ui", daemon=True)
        self._thread.start()
        reach = "this machine only" if self._server.is_local else "anyone who can reach this machine"
        _LOG.info("ui: the live page is at %s, for %s", self._server.url, reach)

    def on_window(self, window: ScoredWindow, new_frames: Float32) -> None:
        """See `Observer`."""
        if len(self._windows) == _PENDING_WINDOWS:
            self._counts.dropped += 1
        # Copies: the stream may use its arrays again.
        self._windows.append((window._replace(probs=window.probs.copy()), new_frames.copy()))

    def on_event(self, record: EventRecord) -> None:
        """See `Observer`."""
        if len(self._events) == _PENDING_EVENTS:
            self._counts.dropped += 1
        self._events.append(record)

    def on_health(self, health: Health) -> None:
        """See `Observer`."""
        self._health = health

    def close(self) -> None:
        """See `Observer`."""
        self._closing.set()
        self._thread.join(2.0)
        self._clients.end(timeout_s=2.0)
        self._server.shutdown()
        self._server.server_close()

    @property
    def url(self) -> str:
        """Where the page is."""
        return self._server.url

    @property
    def counts(self) -> OutputCounts:
        """Messages to browsers; `dropped` are those that slow ones lost, and windows that came faster than ticks."""
        return OutputCounts(self._counts.sent, self._counts.failed, self._counts.dropped + self._clients.dropped)

    def _run(self) -> None:
        report, last = FailureLog(self.name), False
        while not last:
            last = self._closing.wait(_TICK_S)
            try:
                self._counts.sent += self._clients.publish(self._messages)
            except Exception as error:  # noqa: BLE001 (one message that cannot be made must not end the page)
                self._counts.failed += 1
                report(f"{type(error).__name__}: {error}")

    def _messages(self) -> list[Message]:
        messages = []
        windows = [self._windows.popleft() for _ in range(len(self._windows))]
        if windows:
            heard = self._feed.add_windows(windows)
            # Whoever comes later gets it from the feed.
            if len(self._clients):
                messages.append(Message.of("tick", heard.tick()))
        for _ in range(len(self._events)):
            messages.append(Message.of("event", self._feed.add_event(self._events.popleft())))
        health, self._health = self._health, None
        if health is not None:
            messages.append(Message.of("health", self._feed.add_health(health)))
        return messages
