"""How probabilities become events: moving mean, patience, hysteresis, durations. A pure function of its state.

Positions are Python ints and int64 sample counts; seconds are derived from them at the end. A window
stands for the `hop_samples` that begin at its first sample: n active windows last `n * hop_samples`.
The sound itself lies between `start_sample` and one window length after `end_sample`.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from edgeaudio.errors import ConfigError, ShapeError, closest_match_hint
from edgeaudio.spec import DecisionSpec


@dataclass(frozen=True)
class Event:
    """The start or the end of a sound. A `start` comes as soon as patience and `min_duration_s` allow.

    start_sample: first sample of the first window in a row whose score reached `threshold_on`.
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
    """A `DecisionSpec` bound to the labels, rate and hop of one bundle.

    Raises:
        ConfigError: the spec names a label that the bundle has not.
    """

    spec: DecisionSpec
    labels: tuple[str, ...]
    sample_rate: int
    hop_samples: int

    def __post_init__(self) -> None:
        for name in sorted(self.spec.named_labels - set(self.labels)):
            raise ConfigError(f"decision: the bundle has no label {name!r}. {closest_match_hint(name, self.labels)}")

    @property
    def min_duration_samples(self) -> int:
        """Fewest samples of an event, where its class has no rule of its own."""
        return round(self.spec.min_duration_s * self.sample_rate)

    @cached_property
    def limits(self) -> Limits:
        """The rules of every class, as arrays."""
        rules = [self.spec.rule(label) for label in self.labels]
        on = [
            # Above every score: such a class never starts.
            rule.threshold_on if self.spec.may_start(label) else np.inf
            for rule, label in zip(rules, self.labels, strict=True)
        ]
        return Limits(
            on=np.array(on),
            off=np.array([rule.threshold_off for rule in rules]),
            min_samples=np.array([round(rule.min_duration_s * self.sample_rate) for rule in rules], np.int64),
            lowest_on=min(on),
            smoothing_windows=self.spec.smoothing_windows,
            patience_windows=self.spec.patience_windows,
            refractory_samples=round(self.spec.refractory_s * self.sample_rate),
            top_k=self.spec.top_k if self.spec.top_k is not None and self.spec.top_k < len(self.labels) else None,
        )


class Limits(NamedTuple):
    """Per class `(classes,)`: thresholds and shortest duration; and what holds for all."""

    on: NDArray[np.float64]
    off: NDArray[np.float64]
    min_samples: NDArray[np.int64]
    lowest_on: float
    smoothing_windows: int
    patience_windows: int
    refractory_samples: int
    top_k: int | None


class DecisionState(NamedTuple):
    """What `step` hands to the next `step`; nobody writes to its arrays.

    history: `(up to smoothing_windows - 1, classes)`, oldest first. Per class: `active` since `start_sample`,
    `announced` by a start event; `run` windows in a row at or above the threshold, the first at `run_start_sample`;
    `peak` score of that run and event; nothing starts before `quiet_until_sample`. busy: some class is active or runs.
    """

    history: NDArray[np.float64]
    active: NDArray[np.bool_]
    announced: NDArray[np.bool_]
    start_sample: NDArray[np.int64]
    peak: NDArray[np.float64]
    run: NDArray[np.int64]
    run_start_sample: NDArray[np.int64]
    quiet_until_sample: NDArray[np.int64]
    busy: bool
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
            run=np.zeros(n_classes, np.int64),
            run_start_sample=np.zeros(n_classes, np.int64),
            quiet_until_sample=np.full(n_classes, np.iinfo(np.int64).min),
            busy=False,
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
    limits = rules.limits
    score, history = _smoothed(row, state.history, limits.smoothing_windows)
    next_position = position_samples + rules.hop_samples
    # Nearly always: nothing sounds and nothing begins.
    if not state.busy and score.max() < limits.lowest_on:
        return [], state._replace(history=history, next_position=next_position)

    ending = state.active & (score < limits.off)
    events = _ends(ending & state.announced, position_samples, state, rules)
    above = _candidates(score, limits) & ~state.active & (state.quiet_until_sample <= position_samples)
    run = np.where(above, state.run + 1, 0)
    run_start_sample = np.where(run == 1, np.int64(position_samples), state.run_start_sample)
    peak = np.where(run == 1, score, np.maximum(state.peak, score))
    starting = run >= limits.patience_windows
    start_sample = np.where(starting, run_start_sample, state.start_sample)
    active = (state.active | starting) & ~ending
    announcing = active & ~state.announced & (next_position - start_sample >= limits.min_samples)
    for index in np.flatnonzero(announcing):
        events.append(_event("start", int(index), peak, start_sample, None, rules))
    rested = np.int64(position_samples + limits.refractory_samples)
    return events, DecisionState(
        history=history,
        active=active,
        announced=(state.announced | announcing) & active,
        start_sample=start_sample,
        peak=peak,
        run=np.where(starting, 0, run),
        run_start_sample=run_start_sample,
        quiet_until_sample=np.where(ending & state.announced, rested, state.quiet_until_sample),
        busy=bool(active.any() or run.any()),
        next_position=next_position,
    )


def _smoothed(
    row: NDArray[np.float64], history: NDArray[np.float64], windows: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The mean over up to `windows` rows, and the rows that the next one needs."""
    if windows == 1:
        return row, history
    rows = np.concatenate((history, row[None]))
    score: NDArray[np.float64] = np.add.reduce(rows) / len(rows)
    return score, rows[1:] if len(rows) == windows else rows


def _candidates(score: NDArray[np.float64], limits: Limits) -> NDArray[np.bool_]:
    """Which classes are at or above their threshold and, of those, among the best; of equals the first."""
    above: NDArray[np.bool_] = score >= limits.on
    if limits.top_k is not None:
        best = np.argsort(np.where(np.isfinite(limits.on), -score, np.inf), kind="stable")[: limits.top_k]
        among = np.zeros(len(score), np.bool_)
        among[best] = True
        above = above & among
    return above


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
