"""`MqttPublisher`: events, sounds and health on an MQTT broker, announced to Home Assistant.

What has a state (sounds, health, availability, discovery) is retained: only the newest of each is kept while the
broker is away, and all of it is sent again after every reconnect, since a broker may forget. Events are queued.
"""

from __future__ import annotations

import json
import logging
import math
import threading
import time
from collections import deque
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from edgeaudio.errors import ConfigError, UnsupportedError
from edgeaudio.outputs.base import Output
from edgeaudio.outputs.homeassistant import OFF, OFFLINE, ON, ONLINE, Topics, device_config, label_ids, without_stale
from edgeaudio.outputs.info import StreamInfo
from edgeaudio.outputs.worker import FailureLog, OutputCounts
from edgeaudio.runtime.observer import EventRecord, Health

if TYPE_CHECKING:
    from paho.mqtt.client import Client

_LOG = logging.getLogger(__name__)

_KEEPALIVE_S = 30
_MAX_DELAY_S = 60

# Handed to the library and not acknowledged yet; the rest waits here, where it is bounded.
_IN_FLIGHT = 20

_HEALTH_EVERY_S = 10.0


@dataclass(frozen=True)
class Broker:
    """Where and as whom to connect. `ca`, `cert`, `key`: PEM files; with `tls` and no `ca` the system's are used."""

    host: str
    port: int
    tls: bool = False
    username: str | None = None
    password: str | None = field(default=None, repr=False)
    ca: Path | None = None
    cert: Path | None = None
    key: Path | None = None


class _Message(NamedTuple):
    topic: str
    payload: str
    retain: bool


class MqttPublisher(Output):
    """Publishes at QoS 1. The network is the library's thread, the queue a thread of ours."""

    name = "mqtt"

    def __init__(
        self, broker: Broker, info: StreamInfo, topics: Topics, *, capacity: int = 1000, min_delay_s: int = 1
    ) -> None:
        """Start to connect, and go on trying for as long as the stream lasts.

        Args:
            capacity: events that wait while the broker is away; then the oldest are dropped and counted.
            min_delay_s: before the first new attempt; it doubles up to a minute.
        Raises:
            ConfigError: a certificate or key cannot be used.
            UnsupportedError: the library is not installed.
        """
        self._broker, self._topics = broker, topics
        self._ids = dict(zip(info.labels, label_ids(info.labels), strict=True))
        self._config = device_config(topics, info)
        self._events: deque[_Message] = deque(maxlen=capacity)
        self._first: deque[_Message] = deque(maxlen=2 * capacity)
        self._retained: dict[str, str] = {}
        self._unsent: dict[str, None] = {}
        self._changed = threading.Condition()
        self._connected = self._closing = False
        self._in_flight = 0
        self._counts = OutputCounts()
        self._report = FailureLog(self.name)
        self._next_health_s = 0.0
        self._last_warnings: tuple[str, ...] = ()
        if topics.discovery:
            self._retain(topics.device_config, json.dumps(self._config, ensure_ascii=False))
        self._retain(topics.status, ONLINE)
        for label_id in self._ids.values():
            self._retain(topics.sound(label_id), OFF)
        self._client = self._new_client(min_delay_s)
        self._client.connect_async(broker.host, broker.port, _KEEPALIVE_S)
        self._client.loop_start()
        self._thread = threading.Thread(target=self._run, name="edgeaudio-mqtt", daemon=True)
        self._thread.start()

    def on_event(self, record: EventRecord) -> None:
        """See `Observer`."""
        with self._changed:
            if len(self._events) == self._events.maxlen:
                self._counts.dropped += 1
                self._report(f"{self._counts.dropped} events dropped: the queue is full and the broker away")
            self._events.append(_Message(self._topics.event, record.to_json(), False))
            label_id = self._ids.get(record.label or "")
            if label_id is not None:
                self._retain(self._topics.sound(label_id), ON if record.event == "start" else OFF)
                self._retain(self._topics.attributes(label_id), record.to_json())
            self._changed.notify()

    def on_health(self, health: Health) -> None:
        """See `Observer`. Sent every ten seconds, and at once when the warnings change."""
        now_s = time.monotonic()
        if now_s < self._next_health_s and health.warnings == self._last_warnings:
            return
        self._next_health_s, self._last_warnings = now_s + _HEALTH_EVERY_S, health.warnings
        fields = {
            name: None if isinstance(value, float) and not math.isfinite(value) else value
            for name, value in (asdict(health) | {"mqtt_dropped": self._counts.dropped}).items()
        }
        with self._changed:
            self._retain(self._topics.health, json.dumps(fields, ensure_ascii=False))
            self._changed.notify()

    def close(self) -> None:
        """See `Observer`. The sounds are off and the stream is offline then; this waits 3 s for the broker to know."""
        with self._changed:
            for label_id in self._ids.values():
                if self._retained[self._topics.sound(label_id)] != OFF:
                    self._retain(self._topics.sound(label_id), OFF)
            self._retain(self._topics.status, OFFLINE)
            self._closing = True
            self._changed.notify_all()
            self._changed.wait_for(lambda: not self._connected or self._is_done(), 3.0)
            self._counts.dropped += len(self._events)
            self._counts.failed += self._in_flight
            self._events.clear()
        self._client.disconnect()
        # It may be inside a connection attempt that takes seconds; its thread ends with it.
        stopper = threading.Thread(target=self._client.loop_stop, daemon=True)
        stopper.start()
        stopper.join(1.0)
        with self._changed:
            self._connected = False
            self._changed.notify_all()
        if self._counts.failed or self._counts.dropped:
            _LOG.warning("mqtt: %d sent, %d failed, %d dropped", *asdict(self._counts).values())

    @property
    def counts(self) -> OutputCounts:
        """Messages; `sent` are those that the broker acknowledged."""
        return self._counts

    def _new_client(self, min_delay_s: int) -> Client:
        try:
            from paho.mqtt.client import Client, MQTTv311
            from paho.mqtt.enums import CallbackAPIVersion
        except ModuleNotFoundError as error:
            raise UnsupportedError("--mqtt needs paho-mqtt: pip install 'edgeaudio[mqtt]'") from error
        broker, client_id = self._broker, f"edgeaudio-{self._topics.node}"
        client = Client(CallbackAPIVersion.VERSION2, client_id=client_id, protocol=MQTTv311)
        client.will_set(self._topics.status, OFFLINE, qos=1, retain=True)
        client.reconnect_delay_set(min_delay_s, max(min_delay_s, _MAX_DELAY_S))
        client.max_inflight_messages_set(_IN_FLIGHT)
        if broker.username is not None:
            client.username_pw_set(broker.username, broker.password)
        if broker.tls:
            ca, cert, key = (None if path is None else str(path) for path in (broker.ca, broker.cert, broker.key))
            try:
                # A password, or OpenSSL would ask the terminal for that of an encrypted key.
                client.tls_set(ca, cert, key, keyfile_password="")
            except (OSError, ValueError) as error:
                files = ", ".join(path for path in (ca, cert, key) if path) or "the system's certificates"
                raise ConfigError(f"--mqtt: TLS cannot be set up with {files}: {error}") from error
        client.on_connect, client.on_connect_fail = self._on_connect, self._on_connect_fail
        client.on_disconnect, client.on_publish = self._on_disconnect, self._on_publish
        client.on_message = self._on_message
        return client

    # --- the library's thread

    def _on_connect(self, client: Client, userdata: Any, flags: Any, reason: Any, properties: Any) -> None:
        if reason.is_failure:
            self._report(f"the broker at {self._address} refuses this client: {reason}; trying again")
            return
        _LOG.info("mqtt: connected to %s, topics below %s", self._address, self._topics.base)
        if self._topics.discovery:
            client.subscribe([(self._topics.birth, 1), (self._topics.device_config, 1)])
        self._send_all_again()

    def _on_connect_fail(self, client: Client, userdata: Any) -> None:
        self._report(f"no connection to {self._address}; trying again")

    def _on_disconnect(self, client: Client, userdata: Any, flags: Any, reason: Any, properties: Any) -> None:
        with self._changed:
            was_connected, self._connected = self._connected, False
            self._changed.notify_all()
        if was_connected and not self._closing:
            self._report(f"the connection to {self._address} is lost ({reason}); trying again")

    def _on_publish(self, client: Client, userdata: Any, mid: int, reason: Any, properties: Any) -> None:
        with self._changed:
            self._in_flight -= 1
            self._counts.sent += 1
            self._changed.notify_all()

    def _on_message(self, client: Client, userdata: Any, message: Any) -> None:
        if message.topic == self._topics.birth and message.payload == ONLINE.encode() and not message.retain:
            self._send_all_again()
        elif message.topic == self._topics.device_config and message.retain:
            self._take_back(message.payload)

    def _take_back(self, payload: bytes) -> None:
        """Remove entities that an earlier stream of this node announced and this one does not have."""
        try:
            found = without_stale(self._config, json.loads(payload))
        except ValueError:
            return
        if found is None:
            return
        config, topics = found
        with self._changed:
            self._first.append(_Message(self._topics.device_config, json.dumps(config, ensure_ascii=False), True))
            self._first.extend(_Message(topic, "", True) for topic in topics)
            self._unsent[self._topics.device_config] = None
            self._changed.notify_all()

    def _send_all_again(self) -> None:
        with self._changed:
            self._connected = True
            self._unsent = dict.fromkeys(self._retained)
            self._changed.notify_all()

    # --- our own

    @property
    def _address(self) -> str:
        return f"{self._broker.host}:{self._broker.port}"

    def _retain(self, topic: str, payload: str) -> None:
        """The newest payload of a retained topic; behind those that already wait to be sent."""
        self._retained[topic] = payload
        self._unsent.pop(topic, None)
        self._unsent[topic] = None

    def _is_done(self) -> bool:
        return not (self._first or self._events or self._unsent or self._in_flight)

    def _can_send(self) -> bool:
        return self._connected and self._in_flight < _IN_FLIGHT and bool(self._first or self._events or self._unsent)

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._can_send() or (self._closing and not self._connected))
                if not self._can_send():
                    return
                message = self._next()
                self._in_flight += 1
            try:
                self._client.publish(*message[:2], qos=1, retain=message.retain)
            except Exception as error:  # noqa: BLE001 (a message that cannot be published must not end the thread)
                with self._changed:
                    self._in_flight -= 1
                    self._counts.failed += 1
                self._report(f"{message.topic}: {type(error).__name__}: {error}")

    def _next(self) -> _Message:
        if self._first:
            return self._first.popleft()
        # The newest states before old events: after hours away nobody waits for the backlog.
        if self._unsent:
            topic = next(iter(self._unsent))
            del self._unsent[topic]
            return _Message(topic, self._retained[topic], True)
        return self._events.popleft()
