"""`HealthMeter`: what comes in and what it costs, and what is probably wrong with it."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import psutil

from edgeaudio.audio.capture import Capture
from edgeaudio.audio.ring import Ring
from edgeaudio.audio.source import AudioSource, Mixer
from edgeaudio.runtime.clock import DeviceClock
from edgeaudio.runtime.engines.base import Float32
from edgeaudio.runtime.observer import Health, Observers
from edgeaudio.runtime.stream import StreamStats

#: An input whose samples are all the same for so long is dead.
DEAD_S = 5.0
#: A live input that brings nothing for so long is worth a word.
QUIET_S = 2.0
#: Above these something is said.
DC_OFFSET, CLIPPED_FRACTION, BUSY_RTF, DRIFT_PPM = 0.05, 0.01, 0.8, 2000.0
# Of silence: what 24 bits cannot hold any more.
_FLOOR_DBFS = -150.0


@dataclass(frozen=True)
class Vitals:
    """What the meter found over one period: see `Health` for the names."""

    dc_offset: float
    level_dbfs: float
    dead_s: float
    stuck_at: float
    cpu_percent: float
    rtf: float

    @property
    def dead(self) -> bool:
        """Whether nothing real comes in."""
        return self.dead_s >= DEAD_S


class HealthMeter:
    """Adds up over a period; `take` closes it. Used by one thread."""

    def __init__(self, sample_rate: int, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._sample_rate, self._clock = sample_rate, clock
        self._started_s, self._started_cpu_s = clock(), time.process_time()
        self._since_s, self._since_cpu_s = self._started_s, self._started_cpu_s
        self._busy_s = self._all_busy_s = 0.0
        self._samples = self._all_samples = 0
        self._sum = self._power = 0.0
        self._same_samples, self._same_value = 0, math.nan
        self._last = Vitals(0.0, _FLOOR_DBFS, 0.0, 0.0, 0.0, 0.0)

    @property
    def uptime_s(self) -> float:
        """Seconds since the start."""
        return self._clock() - self._started_s

    def heard(self, samples: Float32) -> None:
        """Take `(samples,)` mono at the input's rate; not finite ones are left out."""
        n = len(samples)
        if not n:
            return
        power = float(np.dot(samples, samples))
        if not math.isfinite(power):
            samples = np.where(np.isfinite(samples), samples, np.float32(0))
            power = float(np.dot(samples.astype(np.float64), samples))
        self._samples += n
        self._sum += float(samples.sum())
        self._power += power
        first = float(samples[0])
        # Nearly always decided by the first comparison.
        if first == float(samples[-1]) and bool((samples == samples[0]).all()):
            self._same_samples = self._same_samples + n if first == self._same_value else n
            self._same_value = first
        else:
            self._same_samples = 0

    def worked(self, seconds: float) -> None:
        """So long was spent on audio."""
        self._busy_s += seconds

    def take(self, *, last: bool = False) -> Vitals:
        """Close the period; `last` gives CPU and real-time factor of the whole time."""
        now_s, cpu_s = self._clock(), time.process_time()
        self._all_busy_s += self._busy_s
        self._all_samples += self._samples
        if last:
            busy_s, samples = self._all_busy_s, self._all_samples
            wall_s, used_s = now_s - self._started_s, cpu_s - self._started_cpu_s
        else:
            busy_s, samples = self._busy_s, self._samples
            wall_s, used_s = now_s - self._since_s, cpu_s - self._since_cpu_s
        mean_power = self._power / self._samples if self._samples else 0.0
        self._last = Vitals(
            dc_offset=self._sum / self._samples if self._samples else self._last.dc_offset,
            level_dbfs=_dbfs(mean_power) if self._samples else self._last.level_dbfs,
            dead_s=self._same_samples / self._sample_rate,
            stuck_at=self._same_value,
            cpu_percent=100 * used_s / wall_s if wall_s > 0 else self._last.cpu_percent,
            rtf=busy_s * self._sample_rate / samples if samples else self._last.rtf,
        )
        self._since_s, self._since_cpu_s = now_s, cpu_s
        self._busy_s = self._sum = self._power = 0.0
        self._samples = 0
        return self._last


def _dbfs(mean_power: float) -> float:
    return max(_FLOOR_DBFS, 10 * math.log10(mean_power)) if mean_power > 0 else _FLOOR_DBFS


def diagnose(vitals: Vitals, *, clipped_fraction: float, nan_samples: int, lost: int, live: bool) -> list[str]:
    """What is wrong with a period, each as a sentence with its likely cause.

    Args:
        clipped_fraction, nan_samples, lost: of this period. lost: times that audio was lost.
        live: whether the input goes on while nobody listens.
    """
    found = []
    if vitals.dead:
        found.append(_dead(vitals))
    if abs(vitals.dc_offset) > DC_OFFSET and not vitals.dead:
        found.append(f"DC offset of {vitals.dc_offset:+.3f}: a failing microphone, or one without a high-pass filter")
    if clipped_fraction > CLIPPED_FRACTION:
        found.append(f"{clipped_fraction:.0%} of the samples clip: lower the capture gain (alsamixer, F4)")
    if nan_samples:
        found.append(f"{nan_samples} samples were not finite and taken as 0: float PCM of another --format, or damaged")
    if live and vitals.rtf > BUSY_RTF:
        found.append(f"classifying takes {vitals.rtf:.0%} of real time: use int8, exits, or a longer hop")
    elif lost:
        found.append(f"audio was lost {lost} times although there is time: a busy USB bus, or other load here")
    return found


def _dead(vitals: Vitals) -> str:
    if vitals.stuck_at == 0:
        return (
            f"nothing but zeros for {vitals.dead_s:.0f} s: the microphone is muted or broken, "
            "or this is another device or channel than meant"
        )
    return f"stuck at {vitals.stuck_at:+.4f} for {vitals.dead_s:.0f} s: the microphone or its converter is broken"


class HealthBook:
    """Keeps the counters of a stream that no single thread or engine outlives, and makes each `Health`."""

    def __init__(
        self,
        meter: HealthMeter,
        mixer: Mixer,
        ring: Ring,
        capture: Capture,
        source: AudioSource,
        outputs: Observers,
        device_clock: DeviceClock | None,
    ) -> None:
        self.meter, self._device_clock = meter, device_clock
        self.events = self.overruns = self.engine_restarts = 0
        self.latest: Health | None = None
        self._mixer, self._ring, self._capture, self._source, self._outputs = mixer, ring, capture, source, outputs
        self._clipped = self._raw = 0
        self._process = psutil.Process()

    def take(self, stats: StreamStats, *, last: bool = False) -> Health:
        """The health of now; `last`: of a stream that has ended."""
        before, vitals, mixed = self.latest, self.meter.take(last=last), self._mixer.stats
        # What the mixer has scrubbed the stream finds clean, so that it is counted once.
        nan_samples = stats.nan_samples + mixed.nan_samples + self._source.scrubbed.nan_samples
        clipped, raw = stats.clipped_samples, stats.samples_in
        for earlier in (mixed, self._source.scrubbed):
            if earlier.raw_samples:
                clipped, raw = earlier.clipped_samples, earlier.raw_samples
        warnings = diagnose(
            vitals,
            clipped_fraction=(clipped - self._clipped) / max(1, raw - self._raw),
            nan_samples=nan_samples - (before.nan_samples if before else 0),
            lost=stats.gaps - (before.gaps if before else 0),
            live=self._source.live,
        )
        self._clipped, self._raw = clipped, raw
        self.latest = Health(
            samples_in=stats.samples_in,
            hops=stats.hops,
            events=self.events,
            gaps=stats.gaps,
            dropped_samples=stats.dropped_samples,
            overruns=self.overruns,
            nan_samples=nan_samples,
            clipped_fraction=clipped / raw if raw else 0.0,
            dc_offset=vitals.dc_offset,
            level_dbfs=vitals.level_dbfs,
            dead_input=vitals.dead,
            engine_restarts=self.engine_restarts,
            cpu_percent=vitals.cpu_percent,
            rss_bytes=self._process.memory_info().rss,
            rtf=vitals.rtf,
            ring_high_water=self._ring.high_water,
            uptime_s=self.meter.uptime_s,
            exit_counts=stats.exit_counts,
            warnings=(
                *([] if last else self._about_input()),
                *self._about_clock(),
                *warnings,
                *self._about_outputs(),
            ),
            reopened=self._capture.reopened,
            drift_ppm=self._drift_ppm,
            macs_per_hop=None if stats.macs is None else stats.macs / stats.hops,
            catch_up_share=stats.catch_up_macs / stats.macs if stats.macs else None,
        )
        return self.latest

    @property
    def _drift_ppm(self) -> float | None:
        return None if self._device_clock is None else self._device_clock.drift_ppm

    def _about_clock(self) -> list[str]:
        drift_ppm = self._drift_ppm
        if drift_ppm is None or abs(drift_ppm) < DRIFT_PPM:
            return []
        return [f"the input counts {drift_ppm / 1e4:+.2f} % too fast: it has another sample rate than it says"]

    def _about_input(self) -> list[str]:
        quiet_s = self._ring.clock() - self._ring.last_arrival_s
        if self._capture.lost_device:
            return [f"{self._source.name} has been gone for {quiet_s:.0f} s: unplugged, or taken by another program"]
        if quiet_s > QUIET_S and not self._ring.ended and not self._ring.waiting:
            return [f"no audio from {self._source.name} for {quiet_s:.0f} s: it hangs, or nobody sends any"]
        return []

    def _about_outputs(self) -> list[str]:
        return [f"output {name} failed {n} times; see the log" for name, n in self._outputs.failures.items()]
