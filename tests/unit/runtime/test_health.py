"""Health says what is wrong with the sound and why, and counts everything once."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from edgeaudio.audio.source import Sink
from edgeaudio.runtime import Classifier
from edgeaudio.runtime.health import HealthMeter, Vitals, diagnose
from edgeaudio.runtime.live import Stream
from edgeaudio.runtime.observer import Health
from edgeaudio.runtime.watchdog import StreamOptions
from tests import tiny_bundle as tiny
from tests.fake_microphone import ScriptedSource

RATE = 16_000
NOISE = (0.1 * np.random.default_rng(0).standard_normal(RATE)).astype(np.float32)
WELL = Vitals(dc_offset=0.0, level_dbfs=-30.0, dead_s=0.0, stuck_at=0.0, cpu_percent=1.0, rtf=0.1)


def measured(*chunks: Any) -> Vitals:
    meter = HealthMeter(RATE)
    for chunk in chunks:
        meter.heard(np.asarray(chunk, np.float32))
    return meter.take()


def final(classifier: Classifier, waveform: Any, **options: Any) -> Health:
    """The health at the end, all of it taken in one period."""
    source = ScriptedSource([np.asarray(waveform, np.float32)], live=False, **options)
    stream = Stream(classifier, source, options=StreamOptions(health_s=1e9))
    list(stream)
    return stream.health


def test_level_and_offset_are_those_of_the_signal() -> None:
    sine = np.sin(2 * np.pi * 1_000 * np.arange(RATE) / RATE)
    assert measured(sine).level_dbfs == pytest.approx(-3.01, abs=0.01)
    assert measured(0.1 + 0 * sine, 0.3 + 0 * sine).dc_offset == pytest.approx(0.2)
    assert measured(np.zeros(10)).level_dbfs == -150
    bad = sine.copy()
    bad[::7] = np.nan
    assert measured(bad).level_dbfs == pytest.approx(-3.7, abs=0.1)


def test_each_period_stands_alone_and_an_empty_one_repeats_the_last() -> None:
    clock = [0.0]
    meter = HealthMeter(RATE, clock=lambda: clock[0])
    meter.heard(np.full(RATE, 0.5, np.float32))
    meter.worked(0.25)
    clock[0] = 1.0
    assert meter.take().rtf == 0.25
    assert meter.take().dc_offset == 0.5
    meter.heard(np.full(RATE, 0.1, np.float32))
    meter.worked(0.75)
    assert meter.take().dc_offset == pytest.approx(0.1)
    # The last one is of all of it.
    assert meter.take(last=True).rtf == 0.5
    assert meter.uptime_s == 1.0


@pytest.mark.parametrize("value", [0.0, 0.25, -1.0])
def test_an_input_that_never_changes_is_dead_after_five_seconds(value: float) -> None:
    stuck = np.full(RATE, value, np.float32)
    assert not measured(*[stuck] * 4, stuck[:-1]).dead
    dead = measured(*[stuck] * 5)
    assert dead.dead
    assert dead.stuck_at == value
    assert not measured(*[stuck] * 5, NOISE, *[stuck] * 4).dead
    assert not measured(*[stuck, -stuck - 1] * 5).dead


@pytest.mark.parametrize(
    ("changes", "facts", "cause"),
    [
        ({}, {}, None),
        ({"dead_s": 6.0}, {}, "nothing but zeros for 6 s: the microphone is muted or broken"),
        ({"dead_s": 6.0, "stuck_at": 0.5, "dc_offset": 0.5}, {}, "stuck at +0.5000 for 6 s"),
        ({"dc_offset": -0.06}, {}, "DC offset of -0.060"),
        ({"dc_offset": 0.05}, {}, None),
        ({}, {"clipped_fraction": 0.02}, "2% of the samples clip: lower the capture gain"),
        ({}, {"nan_samples": 3}, "3 samples were not finite"),
        ({"rtf": 0.9}, {"live": True}, "classifying takes 90% of real time: use int8"),
        ({"rtf": 0.9}, {"live": True, "lost": 2}, "classifying takes 90% of real time: use int8"),
        ({"rtf": 0.9}, {"live": False}, None),
        ({}, {"lost": 2}, "audio was lost 2 times although there is time"),
    ],
)
def test_every_fault_is_said_with_its_likely_cause(
    changes: dict[str, float], facts: dict[str, Any], cause: str | None
) -> None:
    given: dict[str, Any] = {"clipped_fraction": 0.0, "nan_samples": 0, "lost": 0, "live": True}
    found = diagnose(replace(WELL, **changes), **(given | facts))
    assert len(found) == (cause is not None)
    assert cause is None or found[0].startswith(cause)


def test_a_stream_reports_clipping_offset_and_bad_samples(classifier: Classifier) -> None:
    loud = final(classifier, np.where(np.arange(RATE) % 4 == 0, 1.0, 0.1))
    assert loud.clipped_fraction == 0.25
    assert loud.dc_offset == pytest.approx(0.325)
    assert any("clip" in warning for warning in loud.warnings)
    assert any("DC offset" in warning for warning in loud.warnings)
    bad = final(classifier, np.where(np.arange(RATE) % 1_000 == 0, np.nan, NOISE))
    assert bad.nan_samples == 16
    assert bad.warnings[0].startswith("16 samples were not finite")
    well = final(classifier, tiny.scene())
    assert well.warnings == ()
    assert not well.dead_input


def test_what_the_mixer_scrubbed_is_counted_once(classifier: Classifier) -> None:
    stereo = np.stack([NOISE, NOISE], axis=1)
    stereo[:100, 0] = np.nan
    stereo[200:300] = 1.0
    health = final(classifier, stereo.ravel(), channels=2)
    assert health.samples_in == RATE
    assert health.nan_samples == 100
    assert health.clipped_fraction == 200 / (2 * RATE)


def test_a_dead_microphone_is_said_to_be_dead(classifier: Classifier) -> None:
    health = final(classifier, np.zeros(6 * RATE))
    assert health.dead_input
    assert "muted or broken" in health.warnings[0]


def test_an_input_that_brings_nothing_is_noticed_while_it_lasts(classifier: Classifier) -> None:
    clock = [0.0]
    seen: list[Health] = []

    class Watch:
        def __getattr__(self, name: str) -> Any:
            return seen.append if name == "on_health" else lambda *_: None

    def quiet(sink: Sink) -> None:
        while not any(health.warnings for health in seen):
            clock[0] += 1
            sink.wait(0.01)

    source = ScriptedSource([NOISE, quiet])
    stream = Stream(
        classifier, source, observers=[Watch()], options=StreamOptions(health_s=0.01), clock=lambda: clock[0]
    )
    list(stream)
    assert any("no audio from scripted microphone for" in w for health in seen for w in health.warnings)


def test_health_is_one_json_line(classifier: Classifier) -> None:
    health = final(classifier, tiny.scene())
    line = health.to_json()
    assert "\n" not in line
    fields = json.loads(line)
    assert fields["samples_in"] == 32_000
    assert fields["rss_bytes"] > 2**20
    assert fields["drift_ppm"] is None
    assert fields["rtf"] > 0
