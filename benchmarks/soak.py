"""Days of live sound in minutes: is a sample lost or doubled, does memory grow, does the clock stay right?

    python benchmarks/soak.py x.eab --hours 100 --out benchmarks/results/soak.json
    python benchmarks/soak.py x.eab --hours 24 --drift-ppm 200 --out benchmarks/results/soak_drift.json

A live microphone that is as fast as its listener brings numbered samples: each says its own position, modulo a prime.
They go the whole way, ring, worker, front-end, engine, decision, and an output holds each against its number. Every
ten minutes of sound the device says that it lost 160 samples, so that gaps are soaked too. With --drift-ppm time is
simulated: the device counts too fast or too slowly, blocks come late at random, and the host time of every gap is held
against the truth. Exit code 1 when a promise is broken.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import time
from array import array
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np

from edgeaudio import Classifier, EventRecord, Stream, __version__
from edgeaudio.audio.source import AudioFormat, Sink, SourceStats
from edgeaudio.runtime.observer import Health
from edgeaudio.runtime.watchdog import StreamOptions

# The largest prime below 2**15: the numbers never fall in step with blocks, hops or buffers.
MODULUS = 32_749
LOSS_EVERY_S, LOST_FRAMES = 600, 160
RSS_BOUND_MIB_PER_100_H = 1.0
HOST_TIME_BOUND_MS, DRIFT_BOUND_PPM, DRIFT_KNOWN_AFTER_H = 50.0, 5.0, 1 / 6


def numbers(first: int, n: int) -> Any:
    """int16 `(n,)`: the positions from `first` on, modulo the prime, around zero."""
    return ((np.arange(first, first + n) % MODULUS) - MODULUS // 2).astype(np.int16)


class NumberedMicrophone:
    """A live source (see `AudioSource`). It waits for its listener, so that whatever is lost, the listener has lost."""

    name, live, reopens = "numbered microphone", True, True

    def __init__(self, sample_rate: int, hours: float, drift_ppm: float | None) -> None:
        self.scrubbed = SourceStats()
        #: Simulated host time, and how much of the sound is said to be lost.
        self.clock_s, self.lost = 0.0, 0
        self._rate, self._drift_ppm, self._end = sample_rate, drift_ppm, round(hours * 3600 * sample_rate)
        self._rng = np.random.default_rng(0)

    def true_s(self, position: int) -> float:
        """Host time at which the device has counted so far."""
        return position / (self._rate * (1 + (self._drift_ppm or 0.0) * 1e-6))

    def open(self) -> AudioFormat:
        """See `AudioSource`."""
        return AudioFormat(self._rate, 1, np.int16)

    def capture(self, sink: Sink) -> None:
        """See `AudioSource`."""
        position, next_loss = 0, LOSS_EVERY_S * self._rate
        block = self._rate // 10 if self._drift_ppm is not None else self._rate
        while position < self._end and not sink.stopped():
            if position >= next_loss:
                next_loss += LOSS_EVERY_S * self._rate
                sink.lost(LOST_FRAMES, overrun=True)
                position, self.lost = position + LOST_FRAMES, self.lost + LOST_FRAMES
            if self._drift_ppm is not None:
                self._let_time_pass(sink, position + block)
            sink.ring.offer(numbers(position, block)[:, None], sink.stopped)
            position += block

    def _let_time_pass(self, sink: Sink, position: int) -> None:
        # Time must stand still while a block is classified, or classifying would seem to take hours.
        while not (sink.ring.handled or sink.stopped()):
            time.sleep(1e-5)
        late_s = min(0.05, self._rng.exponential(0.005))
        self.clock_s = max(self.clock_s, self.true_s(position) + late_s)

    def close(self) -> None:
        """See `AudioSource`."""


@dataclass
class Checker:
    """Holds all audio against its numbers, and gaps against the truth (see `Observer`)."""

    rate: int
    microphone: NumberedMicrophone
    position: int = 0
    wrong_samples: int = 0
    missing_samples: int = 0
    doubled_samples: int = 0
    host_time_errors_ms: list[float] = field(default_factory=list)
    #: Hours of sound, and bytes or ppm then, in pairs: machine numbers, for this must not be what grows.
    rss: array[float] = field(default_factory=lambda: array("d"))
    drift: array[float] = field(default_factory=lambda: array("d"))

    def on_audio(self, samples: Any, position_samples: int) -> None:
        """Compare."""
        self.missing_samples += max(0, position_samples - self.position)
        self.doubled_samples += max(0, self.position - position_samples)
        self.position = position_samples + len(samples)
        wanted = numbers(position_samples, len(samples)).astype(np.float32) / np.float32(32_768)
        self.wrong_samples += int((samples != wanted).sum())

    def on_window(self, window: object, new_frames: object) -> None:
        """Nothing to do."""

    def on_event(self, record: EventRecord) -> None:
        """Where a gap began is known exactly."""
        if record.event == "gap" and record.wall_start is not None and self.microphone.clock_s:
            age = datetime.fromisoformat(record.wall_time) - datetime.fromisoformat(record.wall_start)
            true_s = self.microphone.true_s(round(record.t_start_s * self.rate))
            self.host_time_errors_ms.append(1e3 * (self.microphone.clock_s - age.total_seconds() - true_s))

    def on_health(self, health: Health) -> None:
        """Note memory and drift."""
        hours = (health.samples_in + health.dropped_samples) / self.rate / 3600
        self.rss.extend((hours, health.rss_bytes))
        if health.drift_ppm is not None:
            self.drift.extend((hours, health.drift_ppm))

    def close(self) -> None:
        """Nothing to do."""


def soak(classifier: Classifier, hours: float, drift_ppm: float | None) -> dict[str, Any]:
    """Run it; the figures, and under `broken` the promises that were not kept."""
    rate = classifier.sample_rate
    microphone = NumberedMicrophone(rate, hours, drift_ppm)
    checker = Checker(rate, microphone)
    simulated = drift_ppm is not None
    # Simulated: every minute; else so that a long run has some hundred looks at its memory.
    options = StreamOptions(health_s=60.0 if simulated else max(0.2, hours / 10), stall_s=60.0)
    clock = (lambda: microphone.clock_s) if simulated else time.monotonic
    stream = Stream(classifier, microphone, observers=[checker], options=options, clock=clock)
    started_s = time.monotonic()
    n_records = sum(1 for _ in stream)
    wall_s, health = time.monotonic() - started_s, stream.health
    figures: dict[str, Any] = {
        "hours": hours,
        "drift_ppm": drift_ppm,
        "wall_s": round(wall_s, 1),
        "times_real_time": round(hours * 3600 / wall_s, 1),
        "samples_in": health.samples_in,
        "windows": health.hops,
        "records": n_records,
        "gaps": health.gaps,
        "said_lost_by_device": microphone.lost,
        "dropped_samples": health.dropped_samples,
        "missing_samples": checker.missing_samples,
        "doubled_samples": checker.doubled_samples,
        "wrong_samples": checker.wrong_samples,
        "engine_restarts": health.engine_restarts,
        "rss_mib": [round(n_bytes / 2**20, 2) for n_bytes in (checker.rss[1], checker.rss[-1])],
        "rss_slope_mib_per_100_h": _slope_mib_per_100_h(checker.rss),
        "ring_high_water": round(health.ring_high_water, 4),
    }
    if simulated:
        late = [ppm for at_h, ppm in _pairs(checker.drift) if at_h >= DRIFT_KNOWN_AFTER_H]
        figures |= {
            # None where the run was too short to see any.
            "drift_error_ppm_after_10_min": max((round(abs(ppm - drift_ppm), 3) for ppm in late), default=None),
            "host_time_error_ms": max((round(abs(error), 2) for error in checker.host_time_errors_ms), default=None),
            "host_times_checked": len(checker.host_time_errors_ms),
        }
    return figures | {"broken": _broken(figures, hours * 3600 * rate)}


def _pairs(flat: Sequence[float]) -> list[tuple[float, float]]:
    return list(zip(flat[::2], flat[1::2], strict=True))


def _slope_mib_per_100_h(rss: Sequence[float]) -> float | None:
    """Least squares, without the first tenth; None where too little was seen."""
    settled = [(at_h, n_bytes) for at_h, n_bytes in _pairs(rss) if at_h >= rss[-2] / 10]
    if len(settled) < 10:
        return None
    hours, mib = np.array(settled).T / [[1], [2**20]]
    return round(float(np.polyfit(hours, mib, 1)[0]) * 100, 3)


def _broken(figures: dict[str, Any], wanted_samples: float) -> list[str]:
    lost = figures["said_lost_by_device"]
    slope = figures["rss_slope_mib_per_100_h"]
    promises = {
        "no sample is wrong": figures["wrong_samples"] == 0,
        "none is lost but those that the device lost": figures["dropped_samples"] == figures["missing_samples"] == lost,
        "none is doubled": figures["doubled_samples"] == 0,
        "all came": figures["samples_in"] + lost >= wanted_samples,
        "the engine held": figures["engine_restarts"] == 0,
        # Over less it is the slope of a page more or less.
        "memory does not grow": figures["hours"] < 10 or (slope is not None and slope < RSS_BOUND_MIB_PER_100_H),
    }
    if figures["drift_ppm"] is not None:
        drift, host_time = figures["drift_error_ppm_after_10_min"], figures["host_time_error_ms"]
        promises["drift is known"] = drift is not None and drift <= DRIFT_BOUND_PPM
        promises["host times are right"] = host_time is not None and host_time <= HOST_TIME_BOUND_MS
        promises["nothing piles up"] = figures["ring_high_water"] <= 0.05
    return [promise for promise, kept in promises.items() if not kept]


def main(arguments: list[str] | None = None) -> int:
    """See the module docstring."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--hours", type=float, default=100.0)
    parser.add_argument("--drift-ppm", type=float)
    parser.add_argument("--engine", default="onnx")
    parser.add_argument("--precision", default="int8")
    parser.add_argument("--out", type=Path)
    given = parser.parse_args(arguments)
    classifier = Classifier.load(given.bundle, engine=given.engine, precision=given.precision)
    bundle = classifier.bundle.manifest
    result = {
        "edgeaudio": __version__,
        "machine": f"{platform.machine()}, Python {platform.python_version()}",
        "bundle": f"{bundle.name}, {bundle.lineage.student}, {given.engine} {given.precision}",
        "engine": classifier.engine_info,
    } | soak(classifier, given.hours, given.drift_ppm)
    text = json.dumps(result, indent=2)
    print(text)
    if given.out:
        given.out.write_text(text + "\n")
    return 1 if result["broken"] else 0


if __name__ == "__main__":
    sys.exit(main())
