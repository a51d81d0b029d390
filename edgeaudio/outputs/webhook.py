"""`Webhook`: every event as an HTTP POST of its JSON, tried again while the server is away, signed where asked."""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import http.client
import random
import socket
import ssl
import threading
import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from edgeaudio import __version__
from edgeaudio.errors import ConfigError, EdgeAudioError
from edgeaudio.outputs.base import Output
from edgeaudio.outputs.worker import OutputCounts, Worker
from edgeaudio.runtime.observer import EventRecord

_FIRST_DELAY_S = 1.0
_MAX_DELAY_S = 60.0

# Answers of a server that is up but not well. Where there is no answer at all, no event is to blame: no limit.
_MAX_REFUSALS = 8
_TRY_AGAIN = {408, 425, 429}

# More of an answer is not read.
_ANSWER_BYTES = 65_536

SIGNATURE, TIMESTAMP, DELIVERY = "X-EdgeAudio-Signature", "X-EdgeAudio-Timestamp", "X-EdgeAudio-Delivery"


class _RefusedError(EdgeAudioError):
    """An answer that is not 2xx. retry_after_s: what the server asked for, if anything."""

    def __init__(self, status: int, reason: str, retry_after_s: float) -> None:
        super().__init__(f"answered {status} {reason}".rstrip())
        self.is_final = status < 500 and status not in _TRY_AGAIN
        self.retry_after_s = retry_after_s


@dataclass(frozen=True)
class Target:
    """Where to post. secret: of the HMAC, None for no signature. ca: PEM file of the authority of an https server.

    timeout_s: for connecting and for each silence of the server; a whole request may take twice that.
    """

    url: str = field(repr=False)
    secret: str | None = field(default=None, repr=False)
    ca: Path | None = None
    timeout_s: float = 5.0


class Webhook(Output):
    """Posts events one after the other, in order, from a queue that drops the oldest when it is full."""

    name = "webhook"

    def __init__(self, target: Target, *, capacity: int = 1000) -> None:
        """Raises ConfigError where `target.ca` cannot be used."""
        url = urlsplit(target.url)
        self._target, self._host, self._port = target, url.hostname or "", url.port
        self._path = (url.path or "/") + (f"?{url.query}" if url.query else "")
        # Without path and query, which may be secret: this goes to logs.
        self._shown = f"{url.scheme}://{url.netloc}"
        self._context: ssl.SSLContext | None = None
        if url.scheme == "https":
            try:
                self._context = ssl.create_default_context(cafile=target.ca)
            except (OSError, ValueError) as error:
                raise ConfigError(f"--webhook-ca: {target.ca} cannot be used: {error}") from error
        self._worker: Worker[EventRecord] = Worker(self.name, self._deliver, capacity=capacity)

    def on_event(self, record: EventRecord) -> None:
        """See `Observer`."""
        self._worker.put(record)

    def close(self) -> None:
        """See `Observer`. What waits is tried once more, for 3 s in all."""
        self._worker.close()

    @property
    def counts(self) -> OutputCounts:
        """Events; `failed` are those that the server refused."""
        return self._worker.counts

    def _deliver(self, records: Sequence[EventRecord]) -> None:
        for record in records:
            self._deliver_one(record.to_json().encode())

    def _deliver_one(self, body: bytes) -> None:
        delivery, refusals, tries = uuid.uuid4().hex, 0, 0
        while True:
            try:
                self._post(body, delivery)
            except _RefusedError as refusal:
                refusals += 1
                if refusal.is_final or refusals >= _MAX_REFUSALS:
                    raise EdgeAudioError(f"{self._shown} {refusal}; this event is given up") from refusal
                problem, wait_s = str(refusal), max(refusal.retry_after_s, delay_s(tries))
            except (OSError, http.client.HTTPException) as error:
                problem, wait_s = f"{type(error).__name__}: {error}", delay_s(tries)
            else:
                return
            tries += 1
            self._worker.report(f"{self._shown} {problem}; trying again")
            if not self._worker.pause(wait_s):
                raise EdgeAudioError(f"{self._shown} {problem}; the stream has ended")

    def _post(self, body: bytes, delivery: str) -> None:
        connection = self._connection()
        # A server that sends a byte now and then never falls silent.
        limit = threading.Timer(2 * self._target.timeout_s, _abort, [connection])
        limit.daemon = True
        limit.start()
        try:
            connection.request("POST", self._path, body, self._headers(body, delivery))
            response = connection.getresponse()
            response.read(_ANSWER_BYTES)
            if not 200 <= response.status < 300:
                raise _RefusedError(response.status, response.reason, _retry_after_s(response))
        finally:
            limit.cancel()
            connection.close()

    def _connection(self) -> http.client.HTTPConnection:
        timeout_s = self._target.timeout_s
        if self._context is None:
            return http.client.HTTPConnection(self._host, self._port, timeout=timeout_s)
        return http.client.HTTPSConnection(self._host, self._port, timeout=timeout_s, context=self._context)

    def _headers(self, body: bytes, delivery: str) -> dict[str, str]:
        timestamp = str(int(time.time()))
        headers = {
            "Content-Type": "application/json",
            "User-Agent": f"edgeaudio/{__version__}",
            "Connection": "close",
            TIMESTAMP: timestamp,
            # The same for every try: a receiver can tell a repetition from a new event.
            DELIVERY: delivery,
        }
        if self._target.secret is not None:
            headers[SIGNATURE] = f"sha256={signature(self._target.secret, timestamp, body)}"
        return headers


def signature(secret: str, timestamp: str, body: bytes) -> str:
    """HMAC-SHA256 (hex) over `timestamp`, a full stop, and the body; a receiver refuses old timestamps."""
    return hmac.new(secret.encode(), timestamp.encode() + b"." + body, hashlib.sha256).hexdigest()


def delay_s(tries: int) -> float:
    """How long to wait after that many tries: doubling up to a minute, and spread, so that many do not come at once."""
    return random.uniform(0.5, 1.0) * min(_MAX_DELAY_S, _FIRST_DELAY_S * 2.0 ** min(tries, 16))


def _retry_after_s(response: http.client.HTTPResponse) -> float:
    """What the server asks for in seconds, at most a minute; a date is not understood."""
    text = response.getheader("Retry-After", "").strip()
    return min(float(text), _MAX_DELAY_S) if text.isascii() and text.isdigit() else 0.0


def _abort(connection: http.client.HTTPConnection) -> None:
    if connection.sock is not None:
        with contextlib.suppress(OSError):
            connection.sock.shutdown(socket.SHUT_RDWR)
