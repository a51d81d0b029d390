"""A real broker on this machine, to be stopped and started, and a client that listens to it."""

from __future__ import annotations

import shutil
import socket
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from tests.stream_driver import eventually

MOSQUITTO = shutil.which("mosquitto") or shutil.which("mosquitto", path="/usr/sbin")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class Broker:
    """mosquitto with nothing but what `lines` of its configuration say; it forgets all when it stops."""

    def __init__(self, folder: Path, *lines: str) -> None:
        if MOSQUITTO is None:
            pytest.skip("no mosquitto here: apt-get install mosquitto")
        self.port = free_port()
        self._config = folder / "mosquitto.conf"
        # As root it would become another user, who cannot read the test's files.
        general = ["persistence false", "user root", f"listener {self.port} 127.0.0.1"]
        self._config.write_text("\n".join([*general, *(lines or ["allow_anonymous true"])]) + "\n")
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        log = self._config.with_suffix(".log").open("ab")
        self._process = subprocess.Popen([MOSQUITTO, "-c", str(self._config)], stdout=log, stderr=log)

        def listens() -> bool:
            assert self._process is not None
            assert self._process.poll() is None, self._config.with_suffix(".log").read_text()
            with socket.socket() as probe:
                return probe.connect_ex(("127.0.0.1", self.port)) == 0

        eventually(listens)

    def stop(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None


class Listener:
    """Hears everything below some topics, retained messages included."""

    def __init__(self, broker: Broker, *topics: str, tls: Path | None = None, **credentials: str) -> None:
        from paho.mqtt.client import Client
        from paho.mqtt.enums import CallbackAPIVersion

        self.messages: list[tuple[str, str]] = []
        self.retained: dict[str, str] = {}
        self.client = Client(CallbackAPIVersion.VERSION2)
        if credentials:
            self.client.username_pw_set(**credentials)
        if tls is not None:
            self.client.tls_set(str(tls))
        self.client.on_message = self._hear
        self.client.connect("127.0.0.1", broker.port)
        self._subscribed = False
        self.client.on_subscribe = lambda *_: setattr(self, "_subscribed", True)
        self.client.subscribe([(topic, 1) for topic in topics or ("#",)])
        self.client.loop_start()
        eventually(lambda: self._subscribed)

    def _hear(self, client: Any, userdata: Any, message: Any) -> None:
        self.messages.append((message.topic, message.payload.decode()))
        if message.retain:
            self.retained[message.topic] = message.payload.decode()

    def heard(self, topic: str) -> list[str]:
        return [payload for heard, payload in self.messages if heard == topic]

    def close(self) -> None:
        self.client.disconnect()
        self.client.loop_stop()


def retained_on(broker: Broker, *topics: str) -> dict[str, str]:
    """What a newcomer is told at once."""
    listener = Listener(broker, *topics)
    time.sleep(0.2)  # Nothing says that all retained messages have come.
    listener.close()
    return listener.retained
