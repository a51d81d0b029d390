"""`StreamClassifier`: live audio in, events out."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Protocol

from numpy.typing import NDArray

from edgeaudio.audio.resample import StreamResampler
from edgeaudio.audio.source import SourceStats
from edgeaudio.errors import EdgeAudioError
from edgeaudio.runtime import decision
from edgeaudio.runtime.classifier import Classifier, ProbsStream, ScoredWindow, clean_chunk
from edgeaudio.runtime.decision import DecisionRules, DecisionState, Event
from edgeaudio.runtime.engines.base import Float32
from edgeaudio.spec import DecisionSpec


@dataclass(frozen=True)
class StreamStats:
    """Health counters since `reset()`. Samples are counted as they come in, before resampling.

    exit_counts: windows that stopped at each exit, the final one last; empty without exits.
    macs, catch_up_macs: of a stateful stream with exits: multiply-accumulates so far, and those of them that stages
    took to catch up on hops which had not needed them. None and 0 elsewhere.
    """

    samples_in: int
    hops: int
    nan_samples: int
    clipped_samples: int
    gaps: int
    dropped_samples: int
    exit_counts: tuple[int, ...] = ()
    macs: int | None = None
    catch_up_macs: int = 0

    @property
    def clipped_fraction(self) -> float:
        """Share of samples at full scale or beyond."""
        return self.clipped_samples / self.samples_in if self.samples_in else 0.0


class Tap(Protocol):
    """Sees what a `StreamClassifier` does while it does it. Its methods are called in this order, for each window."""

    def on_audio(self, samples: Float32, position_samples: int) -> None:
        """Clean mono `(samples,)` at the bundle's rate; `position_samples` is the first one's."""

    def on_window(self, window: ScoredWindow, new_frames: Float32) -> None:
        """A scored window, and the log-mel frames `(frames, n_mels)` that came with it (all of them in the first)."""

    def on_events(self, events: list[Event], needed_samples: int) -> None:
        """What was decided, never empty; by then `needed_samples` of the stream were heard, at the bundle's rate."""


class StreamClassifier:
    """Feeds any number of chunks of any length through a `Classifier` and a decision.

    However the audio is cut, the windows, their probabilities and the events are the same, bit for
    bit, as those of the whole clip at once. One instance per stream and thread.
    """

    def __init__(
        self,
        classifier: Classifier,
        decision: DecisionSpec | None = None,
        *,
        sample_rate: int | None = None,
        start_sample: int = 0,
        tap: Tap | None = None,
    ) -> None:
        """Set up a stream.

        Args:
            decision: instead of the artefact's or the bundle's own.
            sample_rate: of the chunks; they are resampled where it is not the bundle's. None: the bundle's.
            start_sample: position of the first sample, at the bundle's rate, like all positions in events.
            tap: is told of audio, windows and events as they come.
        Raises:
            SampleRateError: a rate outside the limits.
        """
        self._rules = DecisionRules(
            spec=decision or classifier.decision,
            labels=classifier.labels.names,
            sample_rate=classifier.sample_rate,
            hop_samples=classifier.hop_samples,
        )
        self._resampler = StreamResampler(sample_rate or classifier.sample_rate, classifier.sample_rate)
        self._probs = ProbsStream(classifier)
        self._n_exits = classifier.n_exits
        self._start_sample = start_sample
        #: Told of what happens; may be set between two calls.
        self.tap = tap
        self._state = DecisionState.initial(len(self._rules.labels))
        self._flushed = False
        self.reset()

    def reset(self) -> None:
        """Start anew: no audio, no events, counters at 0, position at `start_sample`."""
        self._resampler.reset()
        self._samples_in = self._hops = self._gaps = self._dropped_samples = 0
        self._begin(self._start_sample)
        self._source = SourceStats()
        self._exit_counts = [0] * self._n_exits
        self._macs: int | None = None
        self._catch_up_macs = 0

    def feed(self, chunk: NDArray[Any]) -> list[Event]:
        """Take the next `(samples,)` float32 or float64 in [-1, 1], of any length, and return what happened.

        Raises:
            ShapeError: another rank or dtype.
            EdgeAudioError: the stream has been flushed.
        """
        if self._flushed:
            raise EdgeAudioError("feed() after flush(): the stream has ended. Call reset() first.")
        clean = clean_chunk(chunk, self._source)
        self._samples_in += len(clean)
        return self._score(self._resampler.feed(clean))

    def flush(self) -> list[Event]:
        """End the stream: ends every event. A stream shorter than one window is padded with zeros and scored."""
        if self._flushed:
            return []
        events = self._score(self._resampler.flush())
        events += self._decide(self._probs.padding())
        ends, self._state = decision.flush(self._state, self._rules)
        self._flushed = True
        return events + self._told(ends)

    def gap(self, dropped_samples: int) -> list[Event]:
        """Say that `dropped_samples` were lost here (input rate): ends every event and starts anew behind the gap.

        No window is scored across a gap; positions go on as if the samples had come.
        """
        if dropped_samples < 0:
            raise EdgeAudioError(f"gap of {dropped_samples} samples: wanted at least 0")
        events, _ = decision.flush(self._state, self._rules)
        self._told(events)
        self._resampler.reset()
        self._gaps += 1
        self._dropped_samples += dropped_samples
        self._begin(self.position_samples)
        return events

    def next_file(self) -> list[Event]:
        """As `flush`, but positions and counters go on: the next sample begins another recording."""
        events = self.flush()
        self._begin(self.position_samples)
        return events

    def continued(self, classifier: Classifier, lost_samples: int) -> tuple[list[Event], StreamClassifier]:
        """This stream gone on with another classifier of the same bundle, after its own failed or hangs.

        Args:
            lost_samples: of those fed last (input rate), they count as a gap.
        Returns:
            The ends of running events, of which the tap is not told, and a stream whose counters and positions go on.
        """
        ends, _ = decision.flush(self._state, self._rules)
        other = StreamClassifier(
            classifier,
            self._rules.spec,
            sample_rate=self._resampler.from_hz,
            start_sample=self._start_sample,
        )
        other._samples_in = self._samples_in - lost_samples
        other._hops, other._gaps = self._hops, self._gaps + 1
        other._dropped_samples = self._dropped_samples + lost_samples
        other._source, other._exit_counts = replace(self._source), list(self._exit_counts)
        other._macs, other._catch_up_macs = self._macs, self._catch_up_macs
        other._begin(other.position_samples)
        return ends, other

    @property
    def position_samples(self) -> int:
        """Of the next sample that comes in, at the bundle's rate, gaps included."""
        heard = self._samples_in + self._dropped_samples
        return self._start_sample + heard * self._resampler.to_hz // self._resampler.from_hz

    @property
    def missing_samples(self) -> int:
        """How many at least complete the next window, at the input's rate; 1 where only the resampler holds it back."""
        needed = -(-self._probs.next_end_samples * self._resampler.from_hz // self._resampler.to_hz)
        return max(1, needed - (self._samples_in - self._begun_at))

    @property
    def stats(self) -> StreamStats:
        """The counters so far."""
        return StreamStats(
            samples_in=self._samples_in,
            hops=self._hops,
            nan_samples=self._source.nan_samples,
            clipped_samples=self._source.clipped_samples,
            gaps=self._gaps,
            dropped_samples=self._dropped_samples,
            exit_counts=tuple(self._exit_counts),
            macs=self._macs,
            catch_up_macs=self._catch_up_macs,
        )

    def _begin(self, start_sample: int) -> None:
        self._begun_at = self._samples_in
        self._probs.reset(start_sample=start_sample)
        self._state = DecisionState.initial(len(self._rules.labels))
        self._flushed = False

    def _score(self, samples: Float32) -> list[Event]:
        if self.tap is not None and len(samples):
            self.tap.on_audio(samples, self._probs.position_samples)
        return self._decide(samples)

    def _decide(self, samples: Float32) -> list[Event]:
        events: list[Event] = []
        for window, new_frames in self._probs.each(samples):
            new, self._state = decision.step(window.probs, window.position_samples, self._state, self._rules)
            self._hops += 1
            if window.exit is not None:
                self._exit_counts[window.exit] += 1
                new = [replace(event, exit=window.exit) for event in new]
            if window.macs is not None:
                self._macs = (self._macs or 0) + window.macs
                self._catch_up_macs += window.catch_up_macs
            if self.tap is not None:
                self.tap.on_window(window, new_frames)
            events += self._told(new, window.position_samples + self._probs.window_samples)
        return events

    def _told(self, events: list[Event], needed_samples: int | None = None) -> list[Event]:
        if events and self.tap is not None:
            self.tap.on_events(events, self._probs.position_samples if needed_samples is None else needed_samples)
        return events
