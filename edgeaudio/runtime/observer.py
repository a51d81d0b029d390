"""What a live stream tells those who watch it: records of events, health, and the protocol that outputs implement."""

from __future__ import annotations

import json
import logging
from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, Protocol

from edgeaudio.runtime.classifier import ScoredWindow
from edgeaudio.runtime.engines.base import Float32

logger = logging.getLogger(__name__)

RecordKind = Literal["start", "end", "gap"]


@dataclass(frozen=True)
class EventRecord:
    """One line of a stream's output.

    event: a sound starts, ends, or audio was lost (`gap`: no label, no score).
    t_start_s, t_end_s: seconds from the first sample of the stream; `t_end_s` is None in a start.
    wall_time: ISO 8601 with offset, when the record was made. bundle: first 12 digits of the bundle's digest.
    exit: which exit answered; None without exits. latency_ms: from the arrival of the last sample that was needed to
    this record; of a gap, from the first sample behind it. dropped_samples: lost in this stream so far, at the rate of
    the input.
    wall_start: ISO 8601 with offset, when `t_start_s` was heard, by the measured clock of a live input; None elsewhere.
    file, file_start_s: of a watched folder, the file that this was heard in, and where in the stream that file began;
    None elsewhere.
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
    file: str | None = None
    file_start_s: float | None = None
    wall_start: str | None = None

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
    ring_high_water: largest share of the ring ever filled, 0 to 1; 1 is usual where the input waits, as a file does.
    dc_offset, level_dbfs, cpu_percent (of one core) and rtf are of the time since the health before; in a stream's
    last one, cpu_percent and rtf are of all of it. dead_input: every sample the same, for seconds.
    reopened: times the input's device was lost and found again. drift_ppm: how much faster than this machine's clock a
    live input counts; None elsewhere and in the first minute. warnings: sentences, each with its likely cause.
    macs_per_hop, catch_up_share: of a stateful stream with early exits: what a hop costs in the mean, and the share of
    it that stages take to catch up on hops which had not needed them. None elsewhere.
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
    reopened: int = 0
    drift_ppm: float | None = None
    macs_per_hop: float | None = None
    catch_up_share: float | None = None

    def to_json(self) -> str:
        """One line."""
        return json.dumps(asdict(self), ensure_ascii=False)


class Observer(Protocol):
    """An output. Called from the thread that classifies, so every method returns at once; slow work has its own thread.

    An output that fails logs it and counts it; only `BrokenPipeError`, when nobody reads any more, ends the stream.
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


class Observers:
    """Several observers as one. One that raises is logged, counted in `failures` by its class, and told again.

    `BrokenPipeError` alone goes through, after all were told: nobody reads standard output any more.
    """

    def __init__(self, observers: Iterable[Observer] = ()) -> None:
        self._observers = tuple(observers)
        self.failures: Counter[str] = Counter()

    def on_audio(self, samples: Float32, position_samples: int) -> None:
        """See `Observer.on_audio`."""
        self._tell("on_audio", samples, position_samples)

    def on_window(self, window: ScoredWindow, new_frames: Float32) -> None:
        """See `Observer.on_window`."""
        self._tell("on_window", window, new_frames)

    def on_event(self, record: EventRecord) -> None:
        """See `Observer.on_event`."""
        self._tell("on_event", record)

    def on_health(self, health: Health) -> None:
        """See `Observer.on_health`."""
        self._tell("on_health", health)

    def close(self) -> None:
        """See `Observer.close`."""
        self._tell("close")

    def _tell(self, method: str, *arguments: Any) -> None:
        unread = None
        for observer in self._observers:
            try:
                getattr(observer, method)(*arguments)
            except BrokenPipeError as error:
                unread = error
            except Exception:
                name = type(observer).__name__
                self.failures[name] += 1
                # Once in full; a fault in every hop must not fill the log.
                if self.failures[name] == 1:
                    logger.exception("output %s failed in %s; the stream goes on", name, method)
        if unread is not None:
            raise unread
