"""From a sound to the line of its event, through the live stream itself: `Stream` on a source that keeps real time.

The same audio is first classified without a clock. A stream decides the same however it is cut, so that says which
event each sound makes, and which sample that decision needs; the source knows when that sample was due.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from edgeaudio.audio.resample import resample
from edgeaudio.audio.source import AudioFormat, Sink, SourceStats
from edgeaudio.bench import stats
from edgeaudio.bench.accuracy import AccuracyClips
from edgeaudio.bench.candidate import Candidate, Tell, noted
from edgeaudio.bench.schema import SoundToEvent
from edgeaudio.bundle import Bundle
from edgeaudio.runtime.classifier import Classifier, ScoredWindow
from edgeaudio.runtime.decision import Event
from edgeaudio.runtime.engines.base import Float32
from edgeaudio.runtime.live import Stream
from edgeaudio.runtime.stream import StreamClassifier

_BLOCK_S = 0.01
# Below one step of 16 bit: no model hears a class in the pauses.
_NOISE_DB = -100.0
_PAUSE_S = 0.5
_SEED = 2026
#: Sounds in one stream: a minute or so of audio.
LOT = 20


@dataclass(frozen=True)
class MarkedAudio:
    """`waveform (samples,)` at `sample_rate`, and where each sound in it begins; all are `sound_samples` long."""

    waveform: Float32
    sample_rate: int
    starts: tuple[int, ...]
    sound_samples: int


class Expected(NamedTuple):
    """The event that a sound makes: its label and start, and after which second of the audio it can be told."""

    label: str
    t_start_s: float
    needed_s: float


class MarkedSounds:
    """Sounds of one window each: windows of `clips` at their loudest, else the golden audio, in turn."""

    def __init__(self, bundle: Bundle, sample_rate: int, clips: AccuracyClips | None = None) -> None:
        """`sample_rate`: at which they are played."""
        manifest, self.sample_rate = bundle.manifest, sample_rate
        window_samples, model_rate = manifest.window.n_samples(manifest.frontend), manifest.frontend.sample_rate
        if clips is None:
            self.what, sounds = "windows of the golden audio", list(bundle.golden.waveform)
        else:
            self.what, sounds = (
                f"the loudest window of clips of {clips.source}",
                clips.loudest(window_samples, model_rate),
            )
        played = [resample(np.ascontiguousarray(sound), model_rate, sample_rate) for sound in sounds]
        self.sound_samples = min(map(len, played))
        self._played = [sound[: self.sound_samples] for sound in played]
        self._hop_s = manifest.window.hop_s(manifest.frontend)
        # Every window with the sound in it, the mean over several, and one more that is quiet.
        quiet_s = (manifest.decision.smoothing_windows + 2) * self._hop_s
        self._pause_s = manifest.window.duration_s(manifest.frontend) + quiet_s + _PAUSE_S

    def lots(self, n_sounds: int) -> Iterator[MarkedAudio]:
        """`n_sounds` in all, so many at a time that they are no burden to a small board."""
        for first in range(0, n_sounds, LOT):
            yield self._audio(range(first, min(first + LOT, n_sounds)))

    def _audio(self, numbers: range) -> MarkedAudio:
        """Those sounds in faint noise, with pauses as long as events need to end, and a random share of a hop longer:
        where in a hop a sound ends is chance."""
        rng, parts = np.random.default_rng([_SEED, numbers.start]), []
        starts, position = [], 0
        for number in numbers:
            pause = round((self._pause_s + rng.uniform(0, self._hop_s)) * self.sample_rate)
            starts.append(position + pause)
            position = starts[-1] + self.sound_samples
            parts += [np.zeros(pause, np.float32), self._played[number % len(self._played)]]
        waveform = np.concatenate([*parts, np.zeros(round(self._pause_s * self.sample_rate), np.float32)])
        waveform += np.float32(10 ** (_NOISE_DB / 20)) * rng.standard_normal(len(waveform), np.float32)
        return MarkedAudio(waveform, self.sample_rate, tuple(starts), self.sound_samples)


class MarkedSource:
    """A live source (see `AudioSource`) of made-up sound: each block comes when its last sample is due."""

    live = True
    reopens = False

    def __init__(self, audio: MarkedAudio) -> None:
        self.name, self.scrubbed = "marked sounds", SourceStats()
        self._audio = audio
        #: When sample 0 began, on the monotonic clock.
        self.origin_s = 0.0

    def open(self) -> AudioFormat:
        """See `AudioSource.open`."""
        return AudioFormat(self._audio.sample_rate)

    def capture(self, sink: Sink) -> None:
        """See `AudioSource.capture`."""
        waveform, rate = self._audio.waveform[:, None], self._audio.sample_rate
        block = max(1, round(_BLOCK_S * rate))
        self.origin_s = time.monotonic()
        for start in range(0, len(waveform), block):
            frames = waveform[start : start + block]
            if sink.wait(self.origin_s + (start + len(frames)) / rate - time.monotonic()):
                return
            sink.write(frames)

    def close(self) -> None:
        """See `AudioSource.close`."""


class _Noted:
    """A `Tap` that keeps the starts of events."""

    def __init__(self, sample_rate: int) -> None:
        self.starts: list[Expected] = []
        self._rate = sample_rate

    def on_audio(self, samples: Float32, position_samples: int) -> None:
        """See `Tap.on_audio`."""

    def on_window(self, window: ScoredWindow, new_frames: Float32) -> None:
        """See `Tap.on_window`."""

    def on_events(self, events: list[Event], needed_samples: int) -> None:
        """See `Tap.on_events`."""
        needed_s = needed_samples / self._rate
        self.starts += [Expected(event.label, event.t_start_s, needed_s) for event in events if event.kind == "start"]


def expected_events(classifier: Classifier, audio: MarkedAudio) -> list[Expected | None]:
    """For each sound the first event that needs some of it and nothing of the next; None where it makes none."""
    noted = _Noted(classifier.sample_rate)
    stream = StreamClassifier(classifier, sample_rate=audio.sample_rate, tap=noted)
    stream.feed(audio.waveform)
    stream.flush()
    edges_s = [start / audio.sample_rate for start in (*audio.starts, len(audio.waveform))]
    return [
        next((event for event in noted.starts if begin_s < event.needed_s <= end_s), None)
        for begin_s, end_s in itertools.pairwise(edges_s)
    ]


def run_marked_sounds(
    candidates: Sequence[Candidate],
    bundle: Bundle,
    n_sounds: int,
    sample_rate: int,
    clips: AccuracyClips | None,
    tell: Tell,
) -> None:
    """Let each candidate that is a classifier hear the same sounds, one stream after the other; one that fails is
    noted."""
    sounds: MarkedSounds | None = None
    for number, candidate in enumerate(candidates):
        tell("marked-sounds", candidate.name, number, len(candidates))
        if candidate.loaded is not None and candidate.loaded.classifier is not None:
            with noted(candidate, "sound_to_event"):
                sounds = sounds or MarkedSounds(bundle, sample_rate, clips)
                candidate.sound_to_event = hear(candidate.loaded.classifier, sounds, n_sounds)
    if candidates:
        tell("marked-sounds", None, len(candidates), len(candidates))


def hear(classifier: Classifier, sounds: MarkedSounds, n_sounds: int) -> SoundToEvent:
    """Play `n_sounds` to a live stream of `classifier` in real time."""
    needed_us: list[int] = []
    onset_us: list[int] = []
    able = 0
    for audio in sounds.lots(n_sounds):
        expected = expected_events(classifier, audio)
        able += sum(event is not None for event in expected)
        source = MarkedSource(audio)
        lines = dict(_lines(Stream(classifier, source)))
        for start, event in zip(audio.starts, expected, strict=True):
            line_s = lines.get((event.label, event.t_start_s)) if event is not None else None
            if event is not None and line_s is not None:
                heard_s = line_s - source.origin_s
                needed_us.append(round(1e6 * (heard_s - event.needed_s)))
                onset_us.append(round(1e6 * (heard_s - start / audio.sample_rate)))
    sound_ms = 1e3 * sounds.sound_samples / sounds.sample_rate
    detail = f"{sounds.what}, {sound_ms:.0f} ms each, in noise of {_NOISE_DB:g} dBFS; {able} of them make an event"
    return SoundToEvent(
        n_sounds=n_sounds,
        n_heard=len(needed_us),
        n_able=able,
        summary=stats.summarise(needed_us) if needed_us else None,
        samples_us=tuple(needed_us),
        sound_ms=sound_ms,
        onset_summary=stats.summarise(onset_us) if onset_us else None,
        onset_us=tuple(onset_us),
        detail=detail,
    )


def _lines(stream: Stream) -> Iterator[tuple[tuple[str | None, float], float]]:
    """(label and start of each event, when its line was there)."""
    for record in stream:
        line = record.to_json()
        if record.event == "start" and line:
            yield (record.label, record.t_start_s), time.monotonic()
