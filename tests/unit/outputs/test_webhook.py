"""Webhooks against a real server: one that works, and ones that fail in every way a server can."""

from __future__ import annotations

import http.server
import json
import logging
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeaudio.errors import ConfigError
from edgeaudio.outputs import webhook
from edgeaudio.outputs.webhook import DELIVERY, SIGNATURE, TIMESTAMP, Target, Webhook, delay_s, signature
from edgeaudio.runtime import Classifier
from tests import stream_driver as driver
from tests import tiny_bundle as tiny
from tests.certificates import certificates

Answer = Callable[[http.server.BaseHTTPRequestHandler], None]


def status(code: int, **headers: str) -> Answer:
    """An answer with this status and no body."""

    def answer(handler: http.server.BaseHTTPRequestHandler) -> None:
        handler.send_response(code)
        for name, value in headers.items():
            handler.send_header(name.replace("_", "-"), value)
        handler.send_header("Content-Length", "0")
        handler.end_headers()

    return answer


def hang_up(handler: http.server.BaseHTTPRequestHandler) -> None:
    handler.connection.close()


class Server:
    """Answers as `answers` say, one after the other, then always with 200; keeps what was posted."""

    def __init__(self, port: int = 0, tls: ssl.SSLContext | None = None) -> None:
        self.answers: list[Answer] = []
        self.posts: list[tuple[dict[str, str], bytes, str]] = []
        self.gate = threading.Event()
        self.gate.set()
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                outer.posts.append((dict(self.headers), body, self.path))
                (outer.answers.pop(0) if outer.answers else status(200))(self)

            def do_GET(self) -> None:
                outer.posts.append(({}, b"a redirect was followed", self.path))

            def log_message(self, format: str, *args: Any) -> None:
                pass

        class Quiet(http.server.ThreadingHTTPServer):
            daemon_threads, block_on_close = True, False

            def handle_error(self, request: Any, client_address: Any) -> None:
                pass

        self._server = Quiet(("127.0.0.1", port), Handler)
        if tls is not None:
            self._server.socket = tls.wrap_socket(self._server.socket, server_side=True)
        self.port = self._server.server_port
        self.url = f"http{'s' if tls else ''}://127.0.0.1:{self.port}"
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()

    @property
    def labels(self) -> list[str]:
        return [json.loads(body)["label"] for _, body, _ in self.posts]

    def hold(self, handler: http.server.BaseHTTPRequestHandler) -> None:
        """Say nothing until the gate opens."""
        self.gate.wait(60)

    def close(self) -> None:
        self.gate.set()
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def server() -> Iterator[Server]:
    running = Server()
    yield running
    running.close()


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(webhook, "_FIRST_DELAY_S", 0.01)


def test_every_event_is_posted_in_order_and_signed(classifier: Classifier, server: Server) -> None:
    output = Webhook(Target(f"{server.url}/hooks/ears?key=1", secret="s3cret"))
    stream = driver.Driver(classifier, [output])
    stream.feed(tiny.scene())
    stream.end()
    assert [body.decode() for _, body, _ in server.posts] == [record.to_json() for record in stream.records]
    assert output.counts.sent == len(stream.records) == 6
    for headers, body, path in server.posts:
        assert path == "/hooks/ears?key=1"
        assert headers["Content-Type"] == "application/json"
        assert headers["User-Agent"].startswith("edgeaudio/")
        assert headers[SIGNATURE] == f"sha256={signature('s3cret', headers[TIMESTAMP], body)}"
        assert "s3cret" not in str(headers)
    assert len({headers[DELIVERY] for headers, _, _ in server.posts}) == 6


def test_the_signature_is_hmac_sha256_of_time_and_body() -> None:
    # echo -n '1700000000.{"a": 1}' | openssl dgst -sha256 -hmac secret
    wanted = "942c6f7e34ef5c448cbbbf79276da392036d59f0bd9fb74ba14eb8e83e2bb6cd"
    assert signature("secret", "1700000000", b'{"a": 1}') == wanted


def test_without_a_secret_there_is_no_signature(server: Server) -> None:
    output = Webhook(Target(server.url))
    output.on_event(driver.record())
    output.close()
    ((headers, _, path),) = server.posts
    assert SIGNATURE not in headers
    assert path == "/"


@pytest.mark.parametrize("trouble", [status(500), status(503), status(408), status(425), status(429), hang_up])
def test_a_server_that_is_not_well_is_asked_again(server: Server, trouble: Answer) -> None:
    server.answers = [trouble, trouble]
    output = Webhook(Target(server.url))
    output.on_event(driver.record(label="first"))
    output.on_event(driver.record(label="second"))
    driver.eventually(lambda: output.counts.sent == 2)
    output.close()
    assert server.labels == ["first", "first", "first", "second"]
    deliveries = [headers[DELIVERY] for headers, _, _ in server.posts]
    assert deliveries[0] == deliveries[1] == deliveries[2] != deliveries[3]
    assert output.counts.failed == 0


def test_a_server_that_stays_unwell_costs_the_event_and_not_the_next(server: Server) -> None:
    server.answers = [status(500)] * webhook._MAX_REFUSALS
    output = Webhook(Target(server.url))
    output.on_event(driver.record(label="poison"))
    output.on_event(driver.record(label="next"))
    driver.eventually(lambda: output.counts.sent == 1)
    output.close()
    assert server.labels == ["poison"] * webhook._MAX_REFUSALS + ["next"]
    assert output.counts.failed == 1


@pytest.mark.parametrize("code", [301, 302, 307, 308, 400, 401, 403, 404, 410, 413])
def test_a_refusal_is_final_and_a_redirect_is_not_followed(
    server: Server, code: int, caplog: pytest.LogCaptureFixture
) -> None:
    server.answers = [status(code, Location=f"{server.url}/elsewhere")]
    output = Webhook(Target(f"{server.url}/hooks/s3cret-path"))
    output.on_event(driver.record(label="refused"))
    output.on_event(driver.record(label="next"))
    output.close()
    assert server.labels == ["refused", "next"]
    assert (output.counts.sent, output.counts.failed) == (1, 1)
    assert f"{server.url} answered {code}" in caplog.text
    assert "s3cret" not in caplog.text


def test_the_server_s_wish_for_a_pause_is_heard(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    server.answers = [
        status(429, Retry_After="7"), status(503, Retry_After="9999"), status(503, Retry_After="Fri, 01 Jan 2027"),
        status(503, Retry_After="-1"),
    ]  # fmt: skip
    output, pauses = Webhook(Target(server.url)), []

    def pause(seconds: float) -> bool:
        pauses.append(seconds)
        return True

    monkeypatch.setattr(output._worker, "pause", pause)
    output.on_event(driver.record())
    driver.eventually(lambda: output.counts.sent == 1)
    output.close()
    assert pauses[:2] == [7, 60]
    assert all(seconds < 1 for seconds in pauses[2:])


def test_events_wait_for_a_server_that_is_not_there(caplog: pytest.LogCaptureFixture) -> None:
    probe = Server()
    port = probe.port
    probe.close()
    output = Webhook(Target(f"http://127.0.0.1:{port}"))
    for number in range(3):
        output.on_event(driver.record(label=str(number)))
    driver.eventually(lambda: "ConnectionRefusedError" in caplog.text)
    server = Server(port)
    driver.eventually(lambda: output.counts.sent == 3)
    output.close()
    server.close()
    assert server.labels == ["0", "1", "2"]


def test_a_slow_server_is_given_up_on_and_asked_again_and_nobody_waits_for_it(server: Server) -> None:
    server.gate.clear()
    server.answers = [server.hold]
    output = Webhook(Target(server.url, timeout_s=0.2), capacity=100)
    for number in range(500):  # Would never return if one of them waited: the server says nothing.
        output.on_event(driver.record(label=str(number)))
    driver.eventually(lambda: output.counts.sent == 100 or output.counts.sent + output.counts.dropped == 500)
    output.close()
    assert output.counts.dropped in (399, 400)
    assert server.labels[-1] == "499"


def test_a_server_that_drips_is_cut_off() -> None:
    stop = threading.Event()

    def drip(listener: socket.socket) -> None:
        connection, _ = listener.accept()
        connection.sendall(b"HTTP/1.1 200 OK\r\nX: ")
        while not stop.wait(0.02):
            try:
                connection.sendall(b"x")
            except OSError:
                break
        connection.close()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=drip, args=(listener,))
        thread.start()
        output = Webhook(Target(f"http://127.0.0.1:{listener.getsockname()[1]}", timeout_s=0.2))
        output.on_event(driver.record())
        thread.join(60)
        assert not thread.is_alive()
        stop.set()
    output.close()


def test_an_endless_answer_is_not_read_to_its_end(server: Server) -> None:
    def endless(handler: http.server.BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.end_headers()
        while True:
            handler.wfile.write(bytes(65_536))

    server.answers = [endless]
    output = Webhook(Target(server.url))
    output.on_event(driver.record())
    driver.eventually(lambda: output.counts.sent == 1)
    output.close()
    assert len(server.posts) == 1


def test_the_end_of_the_stream_does_not_wait_for_a_server_that_hangs(
    server: Server, caplog: pytest.LogCaptureFixture
) -> None:
    server.gate.clear()
    server.answers = [server.hold]
    output = Webhook(Target(server.url, timeout_s=60))
    for _ in range(4):
        output.on_event(driver.record())
    driver.eventually(lambda: len(server.posts) == 1)
    output._worker.close(0.1)
    assert output.counts.dropped == 3
    assert "webhook: not done within 0.1 s" in caplog.text


def test_at_the_end_each_event_is_tried_once_more(server: Server) -> None:
    server.answers = [status(503)] * 2
    output = Webhook(Target(server.url))
    output._worker._closing.set()  # As if the stream had ended just then.
    with output._worker._changed:
        output._worker._items.extend(driver.record(label=label) for label in ("a", "b", "c"))
    output.close()
    assert server.labels == ["a", "b", "c"]
    assert (output.counts.sent, output.counts.failed) == (1, 2)


def test_https_needs_a_certificate_that_can_be_trusted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    files = certificates(tmp_path, "hooks")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(files["server"], files["server_key"])
    server = Server(tls=context)
    stranger = Webhook(Target(server.url))
    with caplog.at_level(logging.WARNING, "edgeaudio"):
        stranger.on_event(driver.record())
        driver.eventually(lambda: "CERTIFICATE_VERIFY_FAILED" in caplog.text)
        stranger.close()
    assert server.posts == []
    friend = Webhook(Target(server.url, ca=files["ca"]))
    friend.on_event(driver.record())
    friend.close()
    assert (friend.counts.sent, len(server.posts)) == (1, 1)
    server.close()
    with pytest.raises(ConfigError, match="--webhook-ca"):
        Webhook(Target(server.url, ca=tmp_path / "absent"))


@given(tries=st.integers(0, 10_000))
def test_pauses_grow_up_to_a_minute(tries: int) -> None:
    longest = min(60.0, webhook._FIRST_DELAY_S * 2 ** min(tries, 100))
    assert 0.5 * longest <= delay_s(tries) <= longest


def test_secrets_are_not_in_the_text_of_a_target() -> None:
    assert repr(Target("http://host/s3cret", secret="s3cret")) == "Target(ca=None, timeout_s=5.0)"
