"""The live page in a real browser: what a person sees, and what a page of another site does not."""

from __future__ import annotations

import http.server
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from edgeaudio import catalog
from edgeaudio.outputs.info import StreamInfo
from edgeaudio.outputs.live import Address, LivePage
from edgeaudio.runtime import Classifier
from edgeaudio.runtime.classifier import ScoredWindow
from tests import stream_driver as driver
from tests import tiny_bundle as tiny
from tests.browser import DESKTOP, PHONE, TABLET, Tab

HOSTILE = "<img src=x onerror=alert(1)>"


@pytest.fixture
def classifier(monkeypatch: pytest.MonkeyPatch) -> Classifier:
    monkeypatch.setitem(catalog.ENGINES, "fake", "tests.tiny_bundle:FakeEngine")
    return Classifier(tiny.tiny_bundle(), engine="fake")


@pytest.fixture
def info(classifier: Classifier) -> StreamInfo:
    return StreamInfo.of(classifier, source="a test")


@pytest.fixture
def live(info: StreamInfo) -> Iterator[LivePage]:
    output = LivePage(info, Address(port=0))
    yield output
    output.close()


def test_a_stream_is_drawn_and_listed(classifier: Classifier, live: LivePage, tab: Callable[..., Tab]) -> None:
    seen = tab()
    seen.open(live.url)
    seen.wait_state("No audio yet")
    assert seen.texts("#cover-title") == ["Waiting for audio"]
    stream = driver.Driver(classifier, [live])
    stream.feed(tiny.scene())
    seen.wait_state("Live")
    seen.wait("document.querySelectorAll('#events tr').length === 3")
    assert seen.texts("#events td:nth-child(2)") == ["mid", "high", "low"]
    assert seen.texts("#scores .name span") == list(tiny.LABELS)
    assert seen.texts("#scores li.on .name") == ["mid"]
    assert seen.texts("#bundle") == ["tiny"]
    assert seen.texts("#source") == ["a test"]
    seen.wait("document.getElementById('uptime').textContent === '0:02'")
    # Many colours where the spectrogram is: something was drawn.
    seen.wait(
        """(() => { const c = document.getElementById("timeline"), d = c.getContext("2d").getImageData(
            c.width * 0.5, 10, c.width * 0.4, c.height * 0.4).data, seen = new Set();
            for (let i = 0; i < d.length; i += 4) seen.add(d[i] << 16 | d[i + 1] << 8 | d[i + 2]);
            return seen.size > 100; })()"""
    )
    assert seen.troubles == []
    assert {url.split("?")[0] for url in seen.requested if not url.startswith("data:")} == {
        live.url, f"{live.url}events",
    }  # fmt: skip


def test_gaps_and_warnings_are_shown(classifier: Classifier, live: LivePage, tab: Callable[..., Tab]) -> None:
    seen = tab()
    seen.open(live.url)
    stream = driver.Driver(classifier, [live])
    stream.feed(tiny.scene())
    stream.gap(1600)
    stream.feed(tiny.scene())
    # This process may well have kept a core busy, which is a warning too.
    health = replace(stream.health, cpu_percent=12.0)
    live.on_health(replace(health, warnings=("No sound at all: is the microphone muted?",), dead_input=True))
    seen.wait("document.querySelectorAll('#warnings li:not(.fine)').length === 1")
    assert seen.texts("#warnings li") == ["No sound at all: is the microphone muted?"]
    assert "Audio lost" in seen.texts("#events td:nth-child(2)")
    assert seen.texts("#health .bad dt") == ["Level"]
    assert seen.texts("#health .warn dt") == ["Gaps", "Samples lost"]
    assert seen.troubles == []


def test_labels_and_warnings_are_text_and_never_markup(
    classifier: Classifier, info: StreamInfo, tab: Callable[..., Tab]
) -> None:
    hostile = replace(info, labels=(HOSTILE, "mid", "high"), source=HOSTILE, bundle_name=HOSTILE)
    live, seen = LivePage(hostile, Address(port=0)), tab()
    seen.open(live.url)
    live.on_event(driver.record(label=HOSTILE))
    live.on_health(replace(driver.HEALTH, warnings=(HOSTILE,)))
    seen.wait("document.querySelectorAll('#warnings li:not(.fine)').length === 1")
    assert seen.texts("#events td:nth-child(2)") == [HOSTILE]
    assert seen.texts("#scores .name span")[0] == HOSTILE
    assert seen.page.locator("img").count() == 0
    assert seen.troubles == []
    live.close()


@pytest.mark.parametrize("size", [DESKTOP, TABLET, PHONE, (320, 640)])
def test_nothing_jumps_and_nothing_sticks_out(
    classifier: Classifier, live: LivePage, tab: Callable[..., Tab], size: tuple[int, int]
) -> None:
    seen = tab(size)
    seen.open(live.url)
    seen.wait_state("No audio yet")
    boxes = (
        "[...document.querySelectorAll('.card, header, footer')].map((e) => JSON.stringify(e.getBoundingClientRect()))"
    )
    before = seen.page.evaluate(boxes)
    stream = driver.Driver(classifier, [live])
    for _ in range(5):
        stream.feed(tiny.scene())
        stream.gap(800)
    long = "Sound is cut off at full scale much of the time: turn the microphone down, or move it further away."
    live.on_health(replace(stream.health, samples_in=10**12, hops=10**10, warnings=(long,) * 5))
    seen.wait("document.querySelectorAll('#warnings li:not(.fine)').length === 5")
    assert seen.page.evaluate(boxes) == before
    assert seen.page.evaluate("document.documentElement.scrollWidth - innerWidth") <= 0
    cut = "[...document.querySelectorAll('#health dd')].filter((e) => e.scrollWidth > e.clientWidth + 1).length"
    assert size[0] < PHONE[0] or seen.page.evaluate(cut) == 0


def test_a_lost_connection_is_said_and_mended(info: StreamInfo, tab: Callable[..., Tab]) -> None:
    first, seen = LivePage(info, Address(port=0)), tab()
    seen.open(first.url)
    seen.wait_state("No audio yet")
    # As if the power went: the connections end, nobody says why.
    first._clients.publish = lambda make: 0  # type: ignore[method-assign]
    first.close()
    seen.wait_state("Reconnecting")
    assert seen.texts("#cover-title") == ["Connection lost"]
    port = int(first.url.rstrip("/").rsplit(":", 1)[1])
    second = LivePage(replace(info, bundle_name="another"), Address(port=port))
    seen.wait_state("No audio yet")
    assert seen.texts("#bundle") == ["another"]
    second.close()
    seen.wait_state("Ended")
    assert seen.texts("#cover-title") == ["The stream has ended"]


def test_of_many_labels_the_loud_ones_are_shown(info: StreamInfo, tab: Callable[..., Tab]) -> None:
    labels = tuple(f"label {number}" for number in range(100))
    live = LivePage(
        replace(info, labels=labels, thresholds_on=(0.5,) * 100, thresholds_off=(0.4,) * 100), Address(port=0)
    )
    seen = tab()
    seen.open(live.url)
    seen.wait_state("No audio yet")
    probs = np.zeros(100, np.float32)
    probs[[77, 88]] = 0.9
    live.on_window(ScoredWindow(0, probs), np.zeros((9, 64), np.float32))
    seen.wait("[...document.querySelectorAll('#scores .name')].some((e) => e.innerText === 'label 77')")
    names = seen.texts("#scores .name span")
    assert len(names) == 14
    assert {"label 77", "label 88"} < set(names)
    # The others keep their places.
    assert names[2:] == list(labels[2:14])
    assert seen.texts("#scores-note") == ["14 of 100 classes"]
    live.close()


def test_colours_follow_the_system_until_told_otherwise(live: LivePage, tab: Callable[..., Tab]) -> None:
    seen = tab(scheme="light")
    seen.open(live.url)
    theme = "document.documentElement.dataset.theme"
    assert seen.page.evaluate(theme) == "light"
    seen.page.emulate_media(color_scheme="dark")
    seen.wait(f"{theme} === 'dark'")
    seen.page.click("#theme")
    assert (seen.texts("#theme"), seen.page.evaluate(theme)) == (["Light"], "light")
    seen.page.reload()
    assert (seen.texts("#theme"), seen.page.evaluate(theme)) == (["Light"], "light")


def test_a_page_of_another_site_learns_nothing(live: LivePage, tab: Callable[..., Tab]) -> None:
    class Evil(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "text/html")
            self.end_headers()
            self.wfile.write(b"<!doctype html><title>evil</title>")

        def log_message(self, format: str, *args: Any) -> None:
            pass

    server = http.server.HTTPServer(("127.0.0.1", 0), Evil)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    seen = tab()
    seen.page.goto(f"http://127.0.0.1:{server.server_port}/")
    for url in (live.url, f"{live.url}events"):
        assert seen.page.evaluate(f"fetch({url!r}).then((r) => r.text(), () => 'refused')") == "refused"
        opaque = seen.page.evaluate(f"fetch({url!r}, {{mode: 'no-cors'}}).then((r) => r.text(), () => 'refused')")
        assert opaque in ("", "refused")
    events = seen.page.evaluate(
        f"""new Promise((done) => {{ const source = new EventSource("{live.url}events");
            source.onerror = () => done("refused"); source.onopen = () => done("open"); }})"""
    )
    assert events == "refused"
    framed = seen.page.evaluate(
        f"""new Promise((done) => {{ const frame = document.createElement("iframe"); frame.src = "{live.url}";
            frame.onload = () => done(frame.contentDocument === null ? "opaque" : "read");
            document.body.append(frame); }})"""
    )
    assert framed == "opaque"
    assert any("frame" in trouble.lower() for trouble in seen.troubles)
    server.shutdown()
    server.server_close()
