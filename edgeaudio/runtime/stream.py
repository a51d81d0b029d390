"""`StreamClassifier`: live audio in, events out."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

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
    """

    samples_in: int
    hops: int
    nan_samples: int
    clipped_samples: int
    gaps: int
    dropped_samples: int
    exit_counts: tuple[int, ...] = ()

    @property
    def clipped_fraction(self) -> float:
        """Share of samples at full scale or beyond."""
        return self.clipped_samples / self.samples_in if self.samples_in else 0.0


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
    ) -> None:
        """Set up a stream.

        Args:
            decision: instead of the artefact's or the bundle's own.
            sample_rate: of the chunks; they are resampled where it is not the bundle's. None: the bundle's.
            start_sample: position of the first sample, at the bundle's rate, like all positions in events.
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
        self._state = DecisionState.initial(len(self._rules.labels))
        self._flushed = False
        self.reset()

    def reset(self) -> None:
        """Start anew: no audio, no events, counters at 0, position at `start_sample`."""
        self._resampler.reset()
        self._begin(self._start_sample)
        self._source = SourceStats()
        self._samples_in = self._hops = self._gaps = self._dropped_samples = 0
        self._exit_counts = [0] * self._n_exits

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
        events += self._decide(self._probs.flush())
        ends, self._state = decision.flush(self._state, self._rules)
        self._flushed = True
        return events + ends

    def gap(self, dropped_samples: int) -> list[Event]:
        """Say that `dropped_samples` were lost here (input rate): ends every event and starts anew behind the gap.

        No window is scored across a gap; positions go on as if the samples had come.
        """
        if dropped_samples < 0:
            raise EdgeAudioError(f"gap of {dropped_samples} samples: wanted at least 0")
        events, _ = decision.flush(self._state, self._rules)
        self._resampler.reset()
        self._gaps += 1
        self._dropped_samples += dropped_samples
        heard = self._samples_in + self._dropped_samples
        self._begin(self._start_sample + heard * self._resampler.to_hz // self._resampler.from_hz)
        return events

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
        )

    def _begin(self, start_sample: int) -> None:
        self._probs.reset(start_sample=start_sample)
        self._state = DecisionState.initial(len(self._rules.labels))
        self._flushed = False

    def _score(self, samples: Float32) -> list[Event]:
        return self._decide(self._probs.feed(samples))

    def _decide(self, scored: list[ScoredWindow]) -> list[Event]:
        events: list[Event] = []
        for position_samples, probs, exit_taken in scored:
            new, self._state = decision.step(probs, position_samples, self._state, self._rules)
            if exit_taken is not None:
                self._exit_counts[exit_taken] += 1
                new = [replace(event, exit=exit_taken) for event in new]
            events += new
        self._hops += len(scored)
        return events
