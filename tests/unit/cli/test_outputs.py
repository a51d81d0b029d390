"""The options of a stream's outputs, on a verb that does nothing but open and close them."""

from __future__ import annotations

import http.server
import json
import subprocess
import threading
from pathlib import Path
from typing import Annotated

import pytest
import typer

from edgeaudio import catalog
from edgeaudio.cli.groups import takes_groups
from edgeaudio.cli.outputs import MQTT_PASSWORD, OutputOptions, open_outputs, read_secret, redacted
from edgeaudio.errors import ConfigError
from edgeaudio.outputs.info import StreamInfo
from edgeaudio.runtime import Classifier
from tests import stream_driver as driver
from tests import tiny_bundle as tiny
from tests.mosquitto import Broker, Listener


@pytest.fixture
def classifier(monkeypatch: pytest.MonkeyPatch) -> Classifier:
    monkeypatch.setitem(catalog.ENGINES, "fake", "tests.tiny_bundle:FakeEngine")
    return Classifier(tiny.tiny_bundle(), engine="fake")


def run(classifier: Classifier, *arguments: str) -> None:
    """A stream of the tiny scene with the outputs that `arguments` name."""
    app = typer.Typer(rich_markup_mode=None)

    def listen(bundle: Annotated[str, typer.Argument()], outputs: OutputOptions, threads: int = 1) -> None:
        assert (bundle, threads) == ("x.eab", 3)
        observers = open_outputs(StreamInfo.of(classifier, source="a test"), outputs, live=False)
        stream = driver.Driver(classifier, observers)
        stream.feed(tiny.scene())
        stream.end()

    app.command()(takes_groups(listen))
    app(["x.eab", "--threads", "3", *arguments], standalone_mode=False)


def test_events_go_to_standard_output(classifier: Classifier, capsys: pytest.CaptureFixture[str]) -> None:
    run(classifier)
    events = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [event["label"] for event in events if event["event"] == "start"] == ["low", "high", "mid"]
    assert events[0]["bundle"] == classifier.bundle.sha256[:12]


def test_events_go_to_a_file_as_well(
    classifier: Classifier, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    path = tmp_path / "events.jsonl"
    run(classifier, "--events", str(path), "--events-max-mb", "0.001", "--events-keep", "1")
    printed = capsys.readouterr().out
    kept = Path(f"{path}.1").read_text() + path.read_text()
    assert kept
    assert printed.endswith(kept)


def test_an_output_that_cannot_be_opened_closes_the_others(
    classifier: Classifier, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(ConfigError, match="absent"):
        run(classifier, "--events", str(tmp_path / "absent" / "events.jsonl"))
    assert capsys.readouterr().out == ""


def test_clips_are_saved(classifier: Classifier, tmp_path: Path) -> None:
    run(classifier, "--save-clips", str(tmp_path / "clips"), "--clips-format", "wav", "--clips-max-s", "3")
    names = sorted(path.name for path in (tmp_path / "clips").iterdir())
    assert len(names) == 6
    assert all(name.endswith(("low.wav", "mid.wav", "high.wav", ".json")) for name in names)


def test_the_live_page_is_served_while_the_stream_runs(
    classifier: Classifier, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level("INFO", "edgeaudio"):
        run(classifier, "--ui-listen", "[::1]:0")
    assert "the live page is at http://[::1]:" in caplog.text
    assert "for this machine only" in caplog.text


@pytest.mark.parametrize(
    "address", ["8765", "localhost", "host:", ":8765", "host:port", "host:70000", "a@b:1", "host:1/x", "[::1", "::1:8"]
)
def test_an_address_that_is_none_is_refused(classifier: Classifier, address: str) -> None:
    with pytest.raises(ConfigError, match="--ui-listen"):
        run(classifier, "--ui-listen", address)


def test_a_name_for_no_page_is_refused(classifier: Classifier) -> None:
    with pytest.raises(ConfigError, match="add --ui"):
        run(classifier, "--ui-name", "kitchen.example")


def test_events_are_published(
    classifier: Classifier, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    passwords = tmp_path / "passwords"
    broker = Broker(tmp_path, "allow_anonymous false", f"password_file {passwords}")
    subprocess.run(["mosquitto_passwd", "-b", "-c", str(passwords), "ears", "s3cret"], check=True)
    broker.start()
    listener = Listener(broker, username="ears", password="s3cret")
    monkeypatch.setenv(MQTT_PASSWORD, "s3cret")
    run(classifier, "--mqtt", f"mqtt://ears@127.0.0.1:{broker.port}", "--mqtt-node", "kitchen", "--mqtt-prefix", "home")
    driver.eventually(lambda: listener.heard("home/kitchen/status")[-1:] == ["offline"])
    listener.close()
    broker.stop()
    assert len(listener.heard("home/kitchen/event")) == 6
    assert "homeassistant/device/edgeaudio_kitchen/config" in dict(listener.messages)
    assert "s3cret" not in caplog.text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--mqtt", "localhost"], "wanted mqtt://HOST or mqtts://HOST"),
        (["--mqtt", "http://localhost"], "wanted mqtt://HOST"),
        (["--mqtt", "mqtt://"], "wanted mqtt://HOST"),
        (["--mqtt", "mqtt://host:port"], "wanted mqtt://HOST"),
        (["--mqtt", "mqtt://a..b"], "wanted mqtt://HOST"),
        (["--mqtt", "mqtt://host/topic"], "--mqtt-prefix"),
        (["--mqtt", "mqtt://ears:s3cret@host"], "the URL holds a password"),
        (["--mqtt", "mqtt://host", "--mqtt-ca", "ca.pem"], "mqtts://HOST"),
        (["--mqtt", "mqtt://host", "--mqtt-node", "a b"], "--mqtt-node"),
    ],
)
def test_brokers_that_cannot_be_are_refused(classifier: Classifier, arguments: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        run(classifier, *arguments)
    assert "s3cret" not in str(caught.value)


def test_a_password_without_a_user_is_refused(classifier: Classifier, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(MQTT_PASSWORD, "s3cret")
    with pytest.raises(ConfigError, match="a password and no user"):
        run(classifier, "--mqtt", "mqtt://host")


def test_messages_do_not_repeat_passwords() -> None:
    assert redacted("ftp://ears:s3cret@host/x") == "ftp://ears:...@host/x"
    assert redacted("ftp://ears:s3/cr@t@host") == "ftp://ears:...@host"
    assert redacted("mqtt://ears@host:1") == "mqtt://ears@host:1"


def test_secrets_come_from_files_and_variables(tmp_path: Path) -> None:
    path = tmp_path / "secret"
    path.write_bytes(b"from the file\r\nmore\n")
    path.chmod(0o640)
    assert read_secret(path, "X", {"X": "from the variable"}) == "from the file"
    assert read_secret(None, "X", {"X": "from the variable"}) == "from the variable"
    assert read_secret(None, "X", {"X": ""}) is None
    path.chmod(0o644)
    with pytest.raises(ConfigError, match="0644, so everyone can use this secret"):
        read_secret(path, "X")
    for content in (b"", b"\nsecond", b"\xff"):
        path.write_bytes(content)
        path.chmod(0o600)
        with pytest.raises(ConfigError, match=str(path)):
            read_secret(path, "X")
    with pytest.raises(ConfigError, match="No such file"):
        read_secret(tmp_path / "absent", "X")


def test_events_are_posted(
    classifier: Classifier, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    posts = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            posts.append((self.path, self.headers["X-EdgeAudio-Signature"]))
            self.rfile.read(int(self.headers["Content-Length"]))
            self.send_response(204)
            self.end_headers()

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    secret = tmp_path / "secret"
    secret.write_text("s3cret")
    secret.chmod(0o600)
    # The URL from the environment, where it is a secret itself.
    monkeypatch.setenv("EDGEAUDIO_WEBHOOK", f"http://127.0.0.1:{server.server_port}/private")
    run(classifier, "--webhook-secret-file", str(secret))
    server.shutdown()
    server.server_close()
    assert len(posts) == 6
    assert all(path == "/private" and sign.startswith("sha256=") for path, sign in posts)
    assert "private" not in caplog.text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--webhook", "host/path"], "wanted http://HOST or https://HOST"),
        (["--webhook", "ftp://u:s3cret@host"], "wanted http://HOST"),
        (["--webhook", "file:///etc/passwd"], "wanted http://HOST"),
        (["--webhook", "http://host/a b"], "wanted http://HOST"),
        (["--webhook", "http://host/\r\nX: y"], "wanted http://HOST"),
        (["--webhook", "http://user@host"], "a user in the URL"),
        (["--webhook", "http://host/hö"], "percent-encoded"),
        (["--webhook", "http://u:s3cret@host"], "the URL holds a password"),
        (["--webhook", "http://host", "--webhook-ca", "ca.pem"], "https://HOST"),
    ],
)
def test_urls_that_cannot_be_are_refused(classifier: Classifier, arguments: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        run(classifier, *arguments)
    assert "s3cret" not in str(caught.value)
