"""The live page's server: what it sends, whom it refuses, and that no browser ever slows the stream."""

from __future__ import annotations

import base64
import hashlib
import http.client
import json
import logging
import re
import socket
import threading
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeaudio.errors import ConfigError
from edgeaudio.outputs import live_server
from edgeaudio.outputs.info import StreamInfo
from edgeaudio.outputs.live import Address, LivePage
from edgeaudio.outputs.live_clients import Client, Clients, Message
from edgeaudio.outputs.live_server import LiveServer, Page
from edgeaudio.runtime import Classifier
from edgeaudio.runtime.classifier import ScoredWindow
from tests import stream_driver as driver
from tests import tiny_bundle as tiny

ANYWHERE = Address(port=0)


@pytest.fixture
def page(info: StreamInfo) -> Iterator[LivePage]:
    output = LivePage(info, ANYWHERE)
    yield output
    output.close()


def connection(page: LivePage) -> http.client.HTTPConnection:
    host, port = page.url.removeprefix("http://").rstrip("/").rsplit(":", 1)
    return http.client.HTTPConnection(host, int(port), timeout=30)


def get(page: LivePage, path: str = "/", **headers: str) -> tuple[http.client.HTTPResponse, bytes]:
    http_connection = connection(page)
    http_connection.request("GET", path, headers={name.replace("_", "-"): value for name, value in headers.items()})
    response = http_connection.getresponse()
    body = b"" if "event-stream" in response.getheader("Content-Type", "") else response.read()
    http_connection.close()
    return response, body


class Reader:
    """Reads server-sent events as a browser does."""

    def __init__(self, page: LivePage) -> None:
        self._connection = connection(page)
        self._connection.request("GET", "/events")
        self.response = self._connection.getresponse()

    def next(self, kind: str) -> Any:
        """The data of the next event of this kind."""
        found = ""
        while line := self.response.readline():
            if line.startswith(b"event: "):
                found = line[7:].decode().strip()
            elif line.startswith(b"data: ") and found == kind:
                return json.loads(line[6:])
        return None

    def close(self) -> None:
        self.response.close()
        self._connection.close()


# --- queues


@given(kinds=st.lists(st.sampled_from(["tick", "event"]), max_size=60), capacity=st.integers(1, 10))
def test_a_slow_client_loses_ticks_before_anything_else(kinds: list[str], capacity: int) -> None:
    client = Client(capacity)
    messages = [Message(kind, b"%d " % number) for number, kind in enumerate(kinds)]
    for message in messages:
        client.put(message)
    taken = [int(number) for number in (client.take(0.0) or b"").split()]
    assert taken == sorted(taken)
    assert len(taken) == min(len(kinds), capacity)
    assert client.dropped == len(kinds) - len(taken)
    lost_events = kinds.count("event") - sum(kinds[number] == "event" for number in taken)
    assert lost_events == 0 or kinds.count("event") > capacity or kinds[-1] == "tick"


def test_who_joins_gets_the_greeting_and_then_everything_after_it() -> None:
    clients, state = Clients(limit=2), [0]

    def step() -> list[Message]:
        state[0] += 1
        return [Message("tick", b"%d " % state[0])]

    clients.publish(step)
    first = clients.join(lambda: Message("hello", b"hello %d " % state[0]))
    clients.publish(step)
    second = clients.join(lambda: Message("hello", b"hello %d " % state[0]))
    clients.publish(step)
    assert first is not None
    assert second is not None
    assert first.take(0) == b"hello 1 2 3 "
    assert second.take(0) == b"hello 2 3 "
    assert clients.join(lambda: Message("hello", b"")) is None
    clients.leave(first)
    assert clients.join(lambda: Message("hello", b"")) is not None


# --- the server


def test_a_stream_is_seen_from_hello_to_end(classifier: Classifier, info: StreamInfo) -> None:
    page = LivePage(info, ANYWHERE)
    reader = Reader(page)
    assert reader.response.getheader("Content-Type") == "text/event-stream; charset=utf-8"
    hello = reader.next("hello")
    assert hello["labels"] == list(tiny.LABELS)
    stream = driver.Driver(classifier, [page])
    stream.feed(tiny.scene())
    assert reader.next("tick")["frames"]
    assert reader.next("event")["label"] == "low"
    assert reader.next("health")["hops"] > 0
    stream.end()
    assert reader.next("end") == {}
    assert reader.response.read() == b"\n"
    reader.close()
    assert page.counts.failed == 0
    with pytest.raises(OSError, match="refused"):
        get(page)


def test_the_end_waits_until_viewers_have_been_sent_it() -> None:
    clients = Clients(limit=1)
    client = clients.join(lambda: Message("hello", b"hello "))
    assert client is not None
    taken, write = threading.Event(), threading.Event()

    def send() -> None:
        while client.take(60) is not None:
            taken.set()
            write.wait(60)  # Taken from the queue, not written yet.
        clients.leave(client)

    sender, ender = threading.Thread(target=send), threading.Thread(target=clients.end, args=(60,))
    sender.start()
    assert taken.wait(60)
    ender.start()
    ender.join(0.2)
    assert ender.is_alive()
    write.set()
    ender.join(60)
    sender.join(60)
    assert len(clients) == 0


def test_who_comes_late_sees_the_last_seconds(classifier: Classifier, page: LivePage) -> None:
    driver.Driver(classifier, [page]).feed(tiny.scene())
    driver.eventually(lambda: not page._windows and not page._events)
    reader = Reader(page)
    hello = reader.next("hello")
    reader.close()
    assert hello["tick"]["frames"]
    assert [event["label"] for event in hello["events"] if event["event"] == "start"] == ["low", "high", "mid"]


def test_the_page_is_one_document_that_loads_nothing_else(page: LivePage) -> None:
    response, body = get(page)
    assert response.status == 200
    text = body.decode()
    assert not re.search(r"(?:src|href|url\(|import|fetch\(|@import)\s*=?\s*[\"'(]?(?:https?:)?//", text)
    assert re.findall(r'EventSource\("([^"]*)"', text) == ["events"]
    policy = response.getheader("Content-Security-Policy") or ""
    assert "default-src 'none'" in policy
    for tag in ("style", "script"):
        (inside,) = re.findall(rf"<{tag}>(.*?)</{tag}>", text, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(inside.encode()).digest()).decode()
        assert f"{tag}-src 'sha256-{digest}'" in policy
    assert response.getheader("Access-Control-Allow-Origin") is None
    assert len(Page().data) < 60_000


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("127.0.0.1", 200),
        ("127.0.0.1:9000", 200),
        ("localhost:80", 200),
        ("LOCALHOST", 200),
        ("[::1]:8765", 200),
        ("127.0.0.1.evil.example", 421),
        ("evil.example", 421),
        ("192.168.1.7", 421),
        ("localhost.evil.example", 421),
        ("evil@localhost:x@evil.example", 421),
        ("[::1", 421),
        ("", 421),
    ],
)
@pytest.mark.parametrize("path", ["/", "/events", "/else"])
def test_a_page_whose_name_was_pointed_at_us_is_refused(page: LivePage, host: str, status: int, path: str) -> None:
    wanted = 404 if (status, path) == (200, "/else") else status
    assert get(page, path, Host=host)[0].status == wanted


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 200),
        ({"Origin": "http://localhost:1"}, 200),
        ({"Sec_Fetch_Site": "same-origin"}, 200),
        ({"Origin": "http://evil.example"}, 403),
        ({"Origin": "http://localhost:2"}, 403),
        ({"Origin": "null"}, 403),
        ({"Sec_Fetch_Site": "cross-site"}, 403),
        ({"Sec_Fetch_Site": "same-site"}, 403),
    ],
)
def test_other_sites_cannot_read_the_events(page: LivePage, headers: dict[str, str], status: int) -> None:
    response, _ = get(page, "/events", Host="localhost:1", **headers)
    assert response.status == status
    assert response.getheader("Access-Control-Allow-Origin") is None
    # A link to the page itself works from anywhere.
    assert get(page, "/", Host="localhost:1", **headers)[0].status == 200


def test_a_name_can_be_allowed(info: StreamInfo) -> None:
    page = LivePage(info, Address(port=0, names=("kitchen.example",)))
    assert get(page, Host="Kitchen.example")[0].status == 200
    page.close()


def test_every_interface_is_an_informed_choice(info: StreamInfo, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "edgeaudio"):
        LivePage(info, ANYWHERE).close()
        assert "for this machine only" in caplog.text
        wide = LivePage(info, Address(host="0.0.0.0", port=0))
    assert "for anyone who can reach this machine" in caplog.text
    port = wide.url.rstrip("/").rsplit(":", 1)[1]
    for host, status in (("192.168.1.7", 200), (socket.gethostname(), 200), ("evil.example", 421)):
        local = http.client.HTTPConnection("127.0.0.1", int(port), timeout=30)
        local.request("GET", "/", headers={"Host": host})
        assert local.getresponse().status == status
        local.close()
    wide.close()


def test_only_reading_is_possible(page: LivePage) -> None:
    for method in ("POST", "PUT", "DELETE", "OPTIONS"):
        http_connection = connection(page)
        http_connection.request(method, "/events")
        assert http_connection.getresponse().status == 501
        http_connection.close()


def test_a_taken_port_is_refused_with_the_way_out(page: LivePage, info: StreamInfo) -> None:
    port = int(page.url.rstrip("/").rsplit(":", 1)[1])
    with pytest.raises(ConfigError, match=rf"127\.0\.0\.1:{port} cannot be listened on: Address already in use"):
        LivePage(info, Address(port=port))
    with pytest.raises(ConfigError, match="cannot be listened on"):
        LivePage(info, Address(host="no.such.host.invalid"))


def test_more_viewers_than_there_is_room_for_are_told_so(page: LivePage) -> None:
    readers = [Reader(page) for _ in range(live_server.MAX_VIEWERS)]
    response, body = get(page, "/events")
    assert (response.status, body) == (503, b"16 pages are open already. Close one.\n")
    for reader in readers:
        reader.close()
    # Who left is noticed at the next beat.
    driver.eventually(lambda: len(page._clients) == 0)
    assert get(page, "/events")[0].status == 200


def test_a_viewer_that_does_not_read_loses_pictures_and_slows_nobody(info: StreamInfo) -> None:
    page = LivePage(replace(info, labels=("a",) * 4096, smoothing_windows=1), ANYWHERE)
    host, port = page.url.removeprefix("http://").rstrip("/").rsplit(":", 1)
    stuck = socket.create_connection((host, int(port)))
    stuck.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    stuck.sendall(b"GET /events HTTP/1.1\r\nHost: localhost\r\n\r\n")
    reader = Reader(page)
    reader.next("hello")
    driver.eventually(lambda: len(page._clients) == 2)
    frames, probs, number = np.zeros((4, 64), np.float32), np.zeros(4096, np.float32), 0
    while not page._clients.dropped:
        page.on_window(ScoredWindow(number * 640, probs), frames)
        # The one that reads gets every tick, in step with the stream.
        assert reader.next("tick")["frames"][0][0] == 4 * number + 5
        number += 1
    page.on_event(driver.record(label="a"))
    assert reader.next("event")["label"] == "a"
    assert page.counts.dropped > 0
    stuck.close()
    reader.close()
    page.close()


def test_windows_that_come_faster_than_they_can_be_drawn_are_counted(page: LivePage) -> None:
    window, frames = ScoredWindow(0, np.zeros(3, np.float32)), np.zeros((4, 64), np.float32)
    with page._clients._lock:  # The page's own thread waits here: nothing is taken away.
        for _ in range(1000):
            page.on_window(window, frames)
    assert page.counts.dropped >= 1000 - 2 * 256


def test_connections_are_bounded(info: StreamInfo, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live_server, "_MAX_CONNECTIONS", 3)
    page = LivePage(info, ANYWHERE)
    host, port = page.url.removeprefix("http://").rstrip("/").rsplit(":", 1)
    idle = [socket.create_connection((host, int(port))) for _ in range(3)]
    driver.eventually(lambda: page._server._slots._value == 0)  # type: ignore[attr-defined]
    with pytest.raises((OSError, http.client.HTTPException)):
        get(page)
    for one in idle:
        one.close()
    driver.eventually(lambda: page._server._slots._value == 3)  # type: ignore[attr-defined]
    assert get(page)[0].status == 200
    page.close()


def test_a_message_that_cannot_be_made_does_not_end_the_page(
    page: LivePage, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    reader = Reader(page)
    page.on_event(replace(driver.record(), score=float("nan")))
    driver.eventually(lambda: page.counts.failed == 1)
    page.on_event(driver.record(label="next"))
    assert reader.next("event")["label"] == "next"
    assert "ui: ValueError" in caplog.text
    reader.close()


def test_the_server_does_not_ask_the_name_service_who_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(name: str = "") -> str:
        raise AssertionError("getfqdn may take seconds")

    monkeypatch.setattr(socket, "getfqdn", refuse)
    LiveServer("127.0.0.1", 0, Clients(1), lambda: Message("hello", b"")).server_close()
