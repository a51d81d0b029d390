"""`Feed`: what the live page draws, made small: frames and scores as bytes, and the last half minute for newcomers."""

from __future__ import annotations

import base64
import math
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from edgeaudio import __version__
from edgeaudio.frontend.tables import frontend_tables, hz_to_mel
from edgeaudio.outputs.info import StreamInfo
from edgeaudio.runtime.classifier import ScoredWindow
from edgeaudio.runtime.engines.base import Float32
from edgeaudio.runtime.observer import EventRecord, Health
from edgeaudio.spec import FrontendSpec

HISTORY_S = 30.0
_EVENTS = 100

# However many bands or labels: no newcomer is sent more than this of either.
_HISTORY_BYTES = 1 << 19

Bytes = NDArray[np.uint8]
Json = dict[str, Any]


class Heard(NamedTuple):
    """Frames in blocks with the number of each one's first, and rows of scores with their time."""

    frames: Iterable[tuple[int, Bytes]]
    scores: Iterable[tuple[float, Bytes]]

    def tick(self) -> Json:
        """As the page takes it: frames that follow each other joined, all in base64."""
        return {
            "frames": _segments(self.frames),
            "scores": [[round(time_s, 4), _base64(row)] for time_s, row in self.scores],
        }


class Feed:
    """Makes the messages of the page, and remembers what a newcomer must know. Not thread-safe."""

    def __init__(self, info: StreamInfo, session: str) -> None:
        """`session`: names this stream, so that a page knows when it is told of another."""
        self._info, self._session = info, session
        spec = info.frontend
        self._decibel = _Decibel(spec)
        self._hop_samples = round(info.hop_s * spec.sample_rate)
        self._window_frames = spec.n_frames(round(info.window_s * spec.sample_rate))
        self._frames: deque[tuple[int, Bytes]] = deque()
        self._frames_kept = min(round(HISTORY_S / spec.hop_s), _HISTORY_BYTES // spec.n_mels)
        self._scores: deque[tuple[float, Bytes]] = deque()
        self._rows_kept = max(1, _HISTORY_BYTES // len(info.labels))
        self._smoothing: deque[Float32] = deque(maxlen=info.smoothing_windows)
        self._next_position = -1
        self._events: deque[Json] = deque(maxlen=_EVENTS)
        self._health: Json | None = None

    def hello(self) -> Json:
        """All that a newcomer needs, the last seconds included."""
        info, spec = self._info, self._info.frontend
        return {
            "session": self._session,
            "version": __version__,
            "bundle_name": info.bundle_name,
            "bundle": info.bundle,
            "engine": f"{info.engine} {info.precision}",
            "source": info.source,
            "labels": info.labels,
            "thresholds_on": info.thresholds_on,
            "thresholds_off": info.thresholds_off,
            "hop_s": spec.hop_s,
            "window_s": info.window_s,
            "mel_hz": [round(float(hz), 1) for hz in mel_centres_hz(spec)],
            "low_db": self._decibel.low_db,
            "high_db": self._decibel.high_db,
            "tick": Heard(self._frames, self._scores).tick(),
            "events": list(self._events),
            "health": self._health,
        }

    def add_windows(self, windows: Sequence[tuple[ScoredWindow, Float32]]) -> Heard:
        """Remember new windows with their new frames."""
        frames = [self._frames_of(window, new_frames) for window, new_frames in windows if len(new_frames)]
        self._frames.extend(frames)
        held = sum(len(block) for _, block in self._frames)
        while self._frames and held - len(self._frames[0][1]) >= self._frames_kept:
            held -= len(self._frames.popleft()[1])
        scores = [self._smoothed(window) for window, _ in windows]
        rows: list[tuple[float, Bytes]] = []
        if scores:
            # The largest of each: what crosses a threshold must be seen to.
            row = np.rint(255 * np.max(scores, axis=0).clip(0, 1)).astype(np.uint8)
            rows.append((self._middle_s(windows[-1][0]), row))
            self._scores.extend(rows)
        while len(self._scores) > self._rows_kept or self._scores[-1][0] - self._scores[0][0] > HISTORY_S:
            self._scores.popleft()
        return Heard(frames, rows)

    def add_event(self, record: EventRecord) -> Json:
        """An event, as the page lists it."""
        event = asdict(record)
        self._events.append(event)
        return event

    def add_health(self, health: Health) -> Json:
        """The newest health."""
        # JSON has no infinity, and the level of silence is one.
        self._health = {
            name: None if isinstance(value, float) and not math.isfinite(value) else value
            for name, value in asdict(health).items()
        }
        return self._health

    def _frames_of(self, window: ScoredWindow, frames: Float32) -> tuple[int, Bytes]:
        """Number of the first of the new frames since the start of the stream, and all as bytes."""
        last = window.position_samples // self._info.frontend.hop_length + self._window_frames
        return last - len(frames), self._decibel.as_bytes(frames)

    def _middle_s(self, window: ScoredWindow) -> float:
        return window.position_samples / self._info.frontend.sample_rate + self._info.window_s / 2

    def _smoothed(self, window: ScoredWindow) -> Float32:
        if window.position_samples != self._next_position:
            self._smoothing.clear()
        self._next_position = window.position_samples + self._hop_samples
        self._smoothing.append(window.probs)
        mean: Float32 = np.mean(self._smoothing, axis=0, dtype=np.float32)
        return mean


class _Decibel:
    """Log-mel to decibels below a sine at full scale, in 256 steps from what the front-end's floor allows to 0."""

    def __init__(self, spec: FrontendSpec) -> None:
        self._scale, self._offset = spec.scale, spec.offset
        full_scale = 20 * math.log10(frontend_tables(spec).window.sum() / 2)
        self._shift_db = -full_scale
        self.low_db = round(10 * math.log10(spec.log_floor) - full_scale, 1)
        self.high_db = 0.0

    def as_bytes(self, log_mel: Float32) -> Bytes:
        """`(frames, n_mels)` -> the same shape."""
        decibel = (log_mel / self._scale - self._offset) * (10 / math.log(10)) + self._shift_db
        share = (decibel - self.low_db) / (self.high_db - self.low_db)
        steps: Bytes = np.rint(255 * share.clip(0, 1)).astype(np.uint8)
        return steps


def mel_centres_hz(spec: FrontendSpec) -> NDArray[np.float64]:
    """Where each band peaks, `(n_mels,)`: the inverse of `hz_to_mel`."""
    edges = np.linspace(hz_to_mel(spec.f_min), hz_to_mel(spec.f_max), spec.n_mels + 2)
    return 700.0 * np.expm1(edges[1:-1] / 1127.0)


def _segments(frames: Iterable[tuple[int, Bytes]]) -> list[list[Any]]:
    """Frames that follow each other joined: `[first frame, base64]` each."""
    joined: list[tuple[int, list[Bytes]]] = []
    expected = None
    for first, block in frames:
        if first == expected:
            joined[-1][1].append(block)
        else:
            joined.append((first, [block]))
        expected = first + len(block)
    return [[first, _base64(np.concatenate(blocks))] for first, blocks in joined]


def _base64(values: Bytes) -> str:
    return base64.b64encode(values.tobytes()).decode()
