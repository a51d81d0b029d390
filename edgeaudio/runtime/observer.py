"""What a live stream tells those who watch it: records of events, health, and the protocol that outputs implement."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from typing import Literal, Protocol

from edgeaudio.runtime.classifier import ScoredWindow
from edgeaudio.runtime.engines.base import Float32

RecordKind = Literal["start", "end", "gap"]


@dataclass(frozen=True)
class EventRecord:
    """One line of a stream's output.

    event: a sound starts, ends, or audio was lost (`gap`: no label, no score).
    t_start_s, t_end_s: seconds from the first sample of the stream; `t_end_s` is None in a start.
    wall_time: ISO 8601 with offset, when the record was made. bundle: first 12 digits of the bundle's digest.
    exit: which exit answered; None without exits. latency_ms: from the arrival of the last sample that was needed to
    this record. dropped_samples: lost so far in this stream, at the input's rate.
    """

    event: RecordKind
    t_start_s: float
    t_end_s: float | None
    wall_time: str
    label: str | None
    score: float | None
    exit: int | None
    latency_ms: float
    bundle: str
    dropped_samples: int

    def to_json(self) -> str:
        """One line; every field is there, null where it does not apply."""
        fields = asdict(self)
        for name, digits in (("score", 6), ("latency_ms", 3)):
            if fields[name] is not None:
                fields[name] = round(fields[name], digits)
        return json.dumps(fields, ensure_ascii=False)


@dataclass(frozen=True)
class Health:
    """Counters of a stream since its start, taken about once a second and at its end. Samples are at the input's rate.

    overruns: times the input reported lost audio itself (ALSA, PortAudio). rtf: processing time per second of audio.
    ring_high_water: largest share of the ring ever filled, 0 to 1. warnings: sentences, each with its likely cause.
    """

    samples_in: int
    hops: int
    events: int
    gaps: int
    dropped_samples: int
    overruns: int
    nan_samples: int
    clipped_fraction: float
    dc_offset: float
    level_dbfs: float
    dead_input: bool
    engine_restarts: int
    cpu_percent: float
    rss_bytes: int
    rtf: float
    ring_high_water: float
    uptime_s: float
    exit_counts: tuple[int, ...] = ()
    warnings: tuple[str, ...] = field(default=())

    def to_json(self) -> str:
        """One line."""
        return json.dumps(asdict(self), ensure_ascii=False)


class Observer(Protocol):
    """An output. Called from the thread that classifies, so every method returns at once; slow work has its own thread.

    An output that fails logs it and counts it; it never stops the stream.
    """

    def on_audio(self, samples: Float32, position_samples: int) -> None:
        """Clean mono `(samples,)` at the bundle's rate, in order; `position_samples` is the first one's."""

    def on_window(self, window: ScoredWindow, new_frames: Float32) -> None:
        """A scored window, and the log-mel frames `(frames, n_mels)` that came with it (all of them in the first)."""

    def on_event(self, record: EventRecord) -> None:
        """Something was decided, or audio was lost."""

    def on_health(self, health: Health) -> None:
        """About once a second, and at the end."""

    def close(self) -> None:
        """The stream has ended: send what waits, within a few seconds."""
