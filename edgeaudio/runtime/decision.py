"""How probabilities become events: moving mean, hysteresis, minimum duration. A pure function of its state.

Positions are Python ints and int64 sample counts; seconds are derived from them at the end. A window
stands for the `hop_samples` that begin at its first sample: n active windows last `n * hop_samples`.
The sound itself lies between `start_sample` and one window length after `end_sample`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from edgeaudio.errors import ShapeError
from edgeaudio.spec import DecisionSpec


@dataclass(frozen=True)
class Event:
    """The start or the end of a sound. A `start` comes as soon as `min_duration_s` is reached.

    start_sample: first sample of the window whose score reached `threshold_on`.
    end_sample: first sample of the window whose score fell below `threshold_off`; None in a `start`.
    score: largest smoothed score so far. exit: with early exits, the one that answered the window which decided
    this event (not for an end that no window but the end of the stream decided).
    """

    kind: Literal["start", "end"]
    label: str
    score: float
    start_sample: int
    end_sample: int | None
    sample_rate: int
    exit: int | None = None

    @property
    def t_start_s(self) -> float:
        """Seconds from sample 0."""
        return self.start_sample / self.sample_rate

    @property
    def t_end_s(self) -> float | None:
        """Seconds from sample 0; None in a `start`."""
        return None if self.end_sample is None else self.end_sample / self.sample_rate


@dataclass(frozen=True)
class DecisionRules:
    """A `DecisionSpec` bound to the labels, rate and hop of one bundle."""

    spec: DecisionSpec
    labels: tuple[str, ...]
    sample_rate: int
    hop_samples: int

    @property
    def min_duration_samples(self) -> int:
        """Fewest samples of an event."""
        return round(self.spec.min_duration_s * self.sample_rate)


@dataclass(frozen=True)
class DecisionState:
    """What `step` hands to the next `step`. Per class: `active` since `start_sample`, `announced` by a start event.

    history: `(up to smoothing_windows - 1, classes)`, oldest first.
    """

    history: NDArray[np.float64]
    active: NDArray[np.bool_]
    announced: NDArray[np.bool_]
    start_sample: NDArray[np.int64]
    peak: NDArray[np.float64]
    next_position: int

    @classmethod
    def initial(cls, n_classes: int) -> DecisionState:
        """Nothing heard yet."""
        return cls(
            history=np.empty((0, n_classes)),
            active=np.zeros(n_classes, np.bool_),
            announced=np.zeros(n_classes, np.bool_),
            start_sample=np.zeros(n_classes, np.int64),
            peak=np.zeros(n_classes),
            next_position=0,
        )


def step(
    probs: ArrayLike, position_samples: int, state: DecisionState, rules: DecisionRules
) -> tuple[list[Event], DecisionState]:
    """Advance by one window.

    Args:
        probs: `(classes,)`, finite, of the window that starts at `position_samples`.
    Returns:
        The events of this window, ends before starts, each in label order; and the next state.
    Raises:
        ShapeError: as many probabilities as labels are wanted.
    """
    row = np.asarray(probs, dtype=np.float64)
    if row.shape != (len(rules.labels),):
        raise ShapeError(f"probs have shape {row.shape}, wanted ({len(rules.labels)},)")
    history = np.concatenate([state.history, row[None]])[-rules.spec.smoothing_windows :]
    score = history.mean(axis=0)
    starting = ~state.active & (score >= rules.spec.threshold_on)
    ending = state.active & (score < rules.spec.threshold_off)
    events = _ends(ending & state.announced, position_samples, state, rules)

    active = (state.active | starting) & ~ending
    start_sample = np.where(starting, np.int64(position_samples), state.start_sample)
    peak = np.where(starting, score, np.maximum(state.peak, score))
    next_position = position_samples + rules.hop_samples
    long_enough = next_position - start_sample >= rules.min_duration_samples
    announcing = active & ~state.announced & long_enough
    for index in np.flatnonzero(announcing):
        events.append(_event("start", int(index), peak, start_sample, None, rules))
    return events, DecisionState(
        history=history[-(rules.spec.smoothing_windows - 1) :] if rules.spec.smoothing_windows > 1 else history[:0],
        active=active,
        announced=(state.announced | announcing) & active,
        start_sample=start_sample,
        peak=peak,
        next_position=next_position,
    )


def flush(state: DecisionState, rules: DecisionRules) -> tuple[list[Event], DecisionState]:
    """End what is still active where the next window would have started; the state is then initial."""
    events = _ends(state.active & state.announced, state.next_position, state, rules)
    return events, DecisionState.initial(len(rules.labels))


def _ends(ending: NDArray[np.bool_], end_sample: int, state: DecisionState, rules: DecisionRules) -> list[Event]:
    return [
        _event("end", int(index), state.peak, state.start_sample, end_sample, rules) for index in np.flatnonzero(ending)
    ]


def _event(
    kind: Literal["start", "end"],
    index: int,
    peak: NDArray[np.float64],
    start_sample: NDArray[np.int64],
    end_sample: int | None,
    rules: DecisionRules,
) -> Event:
    return Event(kind, rules.labels[index], float(peak[index]), int(start_sample[index]), end_sample, rules.sample_rate)
