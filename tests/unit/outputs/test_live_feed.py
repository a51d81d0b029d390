"""What the live page is told: the right pictures, in the right place, and never too many."""

from __future__ import annotations

import base64
import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from edgeaudio.frontend.reference import reference_log_mel
from edgeaudio.frontend.tables import hz_to_mel
from edgeaudio.outputs.base import Output
from edgeaudio.outputs.info import StreamInfo
from edgeaudio.outputs.live_clients import Message
from edgeaudio.outputs.live_feed import Feed, mel_centres_hz
from edgeaudio.runtime import Classifier
from edgeaudio.runtime.classifier import ScoredWindow
from tests import stream_driver as driver
from tests import tiny_bundle as tiny


def feed_of(classifier: Classifier, info: StreamInfo) -> tuple[Feed, list[tuple[ScoredWindow, Any]], driver.Driver]:
    """A feed that has heard the scene, the windows, and the driver."""
    heard: list[tuple[ScoredWindow, Any]] = []

    class Ear(Output):
        def on_window(self, window: ScoredWindow, new_frames: Any) -> None:
            heard.append((window, new_frames))

    stream = driver.Driver(classifier, [Ear()])
    return Feed(info, "s"), heard, stream


def unpack(text: str, *shape: int) -> Any:
    return np.frombuffer(base64.b64decode(text), np.uint8).reshape(shape)


def test_frames_arrive_where_they_belong_and_in_decibels(classifier: Classifier, info: StreamInfo) -> None:
    feed, heard, stream = feed_of(classifier, info)
    scene = tiny.scene()
    stream.feed(scene)
    (first, packed), *others = feed.add_windows(heard).tick()["frames"]
    assert (first, others) == (0, [])
    frames = unpack(packed, -1, 64)
    hello = feed.hello()
    assert hello["tick"]["frames"] == [[first, packed]]
    log_mel = reference_log_mel(scene, tiny.FRONTEND)[: len(frames)]
    wanted_db = 10 * np.log10(np.exp(log_mel / tiny.FRONTEND.scale - tiny.FRONTEND.offset)) - 20 * np.log10(99.75)
    step_db = (hello["high_db"] - hello["low_db"]) / 255
    got_db = hello["low_db"] + frames * step_db
    np.testing.assert_allclose(got_db, wanted_db.clip(hello["low_db"], 0), atol=step_db)


def test_a_sine_at_full_scale_is_near_zero_decibel(info: StreamInfo) -> None:
    sine = np.sin(2 * np.pi * 1000 * np.arange(8000) / 16_000)
    log_mel = reference_log_mel(sine, tiny.FRONTEND).astype(np.float32)
    feed = Feed(info, "s")
    ((_, packed),) = feed.add_windows([(ScoredWindow(0, np.zeros(3, np.float32)), log_mel)]).tick()["frames"]
    loudest = unpack(packed, -1, 64).max() / 255
    low_db = feed.hello()["low_db"]
    assert -3 <= low_db + loudest * -low_db <= 0


def test_a_gap_is_a_gap_in_the_picture(classifier: Classifier, info: StreamInfo) -> None:
    feed, heard, stream = feed_of(classifier, info)
    stream.feed(tiny.noise_band("low", 16_000))
    before = len(heard)
    stream.gap(32_000)
    stream.feed(tiny.noise_band("low", 16_000))
    frames = feed.add_windows(heard).tick()["frames"]
    assert [first for first, _ in frames] == [0, (16_000 + 32_000) // 160]
    assert len(unpack(frames[0][1], -1, 64)) == 9 + 4 * (before - 1)


def test_scores_are_smoothed_as_the_decision_smooths_them(classifier: Classifier, info: StreamInfo) -> None:
    feed, heard, stream = feed_of(classifier, info)
    stream.feed(tiny.scene())
    rows = [feed.add_windows([one]).tick()["scores"][0] for one in heard]
    probs = np.stack([window.probs for window, _ in heard])
    for number, (time_s, packed) in enumerate(rows):
        mean = probs[max(0, number - 1) : number + 1].mean(axis=0)  # tiny.DECISION smooths over 2.
        np.testing.assert_allclose(unpack(packed, 3) / 255, mean, atol=0.51 / 255)
        assert time_s == pytest.approx(heard[number][0].position_samples / 16_000 + info.window_s / 2, abs=1e-4)


def test_several_windows_in_one_tick_show_the_largest_scores(info: StreamInfo) -> None:
    feed = Feed(replace(info, smoothing_windows=1), "s")
    frames = np.zeros((1, 64), np.float32)
    windows = [
        (ScoredWindow(at * 640, np.array(probs, np.float32)), frames)
        for at, probs in enumerate([[0, 1, 0.2], [0.6, 0, 0.4], [0.2, 0, 0.2]])
    ]
    ((_, packed),) = feed.add_windows(windows).tick()["scores"]
    assert unpack(packed, 3).tolist() == [153, 255, 102]


@pytest.mark.parametrize("n_labels", [3, 4096])
def test_newcomers_are_sent_a_bounded_history(info: StreamInfo, n_labels: int) -> None:
    labels = tuple(f"label {number}" for number in range(n_labels))
    feed = Feed(replace(info, labels=labels, thresholds_on=(0.5,) * n_labels, thresholds_off=(0.4,) * n_labels), "s")
    frames, probs = np.zeros((4, 64), np.float32), np.zeros(n_labels, np.float32)
    for number in range(3000):  # 120 s
        feed.add_windows([(ScoredWindow(number * 640, probs), frames)])
    for _ in range(300):
        feed.add_event(driver.record())
    hello = feed.hello()
    ((first, packed),) = hello["tick"]["frames"]
    assert len(unpack(packed, -1, 64)) == pytest.approx(3000, abs=8)
    assert first == 3000 * 4 + 5 - len(unpack(packed, -1, 64))
    assert len(hello["events"]) == 100
    assert len(json.dumps(hello)) < 2_000_000


def test_silence_is_not_minus_infinity_in_json(info: StreamInfo) -> None:
    message = Message.of("health", Feed(info, "s").add_health(replace(driver.HEALTH, level_dbfs=-np.inf)))
    assert b'"level_dbfs":null' in message.data


def test_bands_are_where_the_front_end_has_them() -> None:
    centres = mel_centres_hz(tiny.FRONTEND)
    assert len(centres) == 64
    steps = np.diff(hz_to_mel([60.0, *centres, 7800.0]))
    np.testing.assert_allclose(steps, steps[0])
