"""Patience, refractory time, per-class rules, allow, deny, top-k: held against a decision written out by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeaudio.errors import ConfigError
from edgeaudio.runtime.decision import DecisionRules, DecisionState, Event, flush, step
from edgeaudio.spec import ClassDecision, DecisionSpec

HOP = 3_200
RATE = 16_000
LABELS = ("a", "b", "c")


def rules(**fields: Any) -> DecisionRules:
    plain = {"smoothing_windows": 1, "threshold_on": 0.6, "threshold_off": 0.4, "min_duration_s": 0.0}
    return DecisionRules(DecisionSpec(**(plain | fields)), LABELS, RATE, HOP)


def run(rows: Any, bound: DecisionRules, start_sample: int = 0) -> list[Event]:
    state, events = DecisionState.initial(3), []
    for index, row in enumerate(rows):
        new, state = step(row, start_sample + index * HOP, state, bound)
        events += new
    return events + flush(state, bound)[0]


def only_a(scores: list[float], bound: DecisionRules) -> list[tuple[str, int, int | None]]:
    events = run([[score, 0.0, 0.0] for score in scores], bound)
    assert {event.label for event in events} <= {"a"}
    ends = [None if event.end_sample is None else event.end_sample // HOP for event in events]
    return [(event.kind, event.start_sample // HOP, end) for event, end in zip(events, ends, strict=True)]


class Oracle:
    """One class, one window at a time, as the words of `DecisionSpec` have it."""

    def __init__(self, label: str, spec: DecisionSpec) -> None:
        self.label, self.spec, self.rule = label, spec, spec.rule(label)
        self.run: list[int] = []
        self.run_scores: list[float] = []
        self.since: int | None = None
        self.peak = 0.0
        self.announced = False
        self.quiet_until = -(2**62)

    def step(self, score: float, among_best: bool, position: int) -> list[tuple[Any, ...]]:
        told: list[tuple[Any, ...]] = []
        if self.since is not None:
            if score < self.rule.threshold_off:
                told += self.end(position)
                return told
            self.peak = max(self.peak, score)
        elif (
            score >= self.rule.threshold_on
            and among_best
            and self.spec.may_start(self.label)
            and position >= self.quiet_until
        ):
            self.run.append(position)
            self.run_scores.append(score)
            if len(self.run) >= self.spec.patience_windows:
                self.since, self.peak = self.run[0], max(self.run_scores)
        if self.since is not None or not self.run or self.run[-1] != position:
            self.run, self.run_scores = [], []
        if self.since is not None and not self.announced:
            self.announced = position + HOP - self.since >= round(self.rule.min_duration_s * RATE)
            if self.announced:
                told.append(("start", self.label, self.since, None, self.peak))
        return told

    def end(self, position: int) -> list[tuple[Any, ...]]:
        told = [("end", self.label, self.since, position, self.peak)] if self.announced else []
        if self.announced:
            self.quiet_until = position + round(self.spec.refractory_s * RATE)
        self.since, self.announced = None, False
        return told


def by_hand(rows: Any, spec: DecisionSpec) -> list[tuple[Any, ...]]:
    oracles, history, told = [Oracle(label, spec) for label in LABELS], [], []
    for index, row in enumerate(rows):
        history = [*history, np.asarray(row, np.float64)][-spec.smoothing_windows :]
        scores = sum(history[1:], history[0]) / len(history)
        allowed = [i for i, label in enumerate(LABELS) if spec.may_start(label)]
        best = sorted(allowed, key=lambda i: (-scores[i], i))[: spec.top_k]
        new = [oracle.step(float(scores[i]), i in best, index * HOP) for i, oracle in enumerate(oracles)]
        flat = [event for events in new for event in events]
        told += [event for event in flat if event[0] == "end"] + [event for event in flat if event[0] == "start"]
    return told + [event for oracle in oracles for event in oracle.end(len(rows) * HOP)]


levels = st.sampled_from([0.0, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.9, 1.0])
thresholds = st.one_of(st.none(), levels)


@st.composite
def specs(draw: st.DrawFn) -> DecisionSpec:
    on = draw(st.sampled_from([0.3, 0.5, 0.7]))
    own_on = draw(thresholds)
    own_off = draw(st.one_of(st.none(), st.just(0.0), st.just(on if own_on is None else own_on)))
    listed = draw(st.sampled_from([{}, {"allow": ("a", "c")}, {"deny": ("b",)}, {"allow": ("a", "b"), "deny": ("c",)}]))
    return DecisionSpec(
        smoothing_windows=draw(st.integers(1, 4)),
        threshold_on=on,
        threshold_off=draw(st.sampled_from([0.0, 0.2, on])),
        min_duration_s=draw(st.sampled_from([0.0, 0.3, 0.7])),
        classes={"b": ClassDecision(threshold_on=own_on, threshold_off=own_off, min_duration_s=draw(thresholds))},
        patience_windows=draw(st.integers(1, 4)),
        refractory_s=draw(st.sampled_from([0.0, 0.2, 0.5, 1.1])),
        top_k=draw(st.sampled_from([None, 1, 2, 3, 9])),
        **listed,
    )


@given(spec=specs(), rows=st.lists(st.tuples(levels, levels, levels), max_size=40))
def test_events_are_those_of_the_decision_written_out(spec: DecisionSpec, rows: list[tuple[float, ...]]) -> None:
    events = run(rows, DecisionRules(spec, LABELS, RATE, HOP))
    got = [(event.kind, event.label, event.start_sample, event.end_sample, event.score) for event in events]
    assert got == by_hand(rows, spec)


def test_patience_waits_for_windows_in_a_row_and_starts_at_the_first() -> None:
    scores = [0.9, 0.0, 0.7, 0.9, 0.8, 0.5, 0.0, 0.9]
    assert only_a(scores, rules(patience_windows=3)) == [("start", 2, None), ("end", 2, 6)]
    (start, _) = run([[score, 0, 0] for score in scores], rules(patience_windows=3))
    assert start.score == 0.9


def test_refractory_time_is_a_pause_of_one_class_after_an_event() -> None:
    scores = [0.9, 0.0, 0.9, 0.9, 0.9, 0.0, 0.9]
    assert only_a(scores, rules()) == [
        ("start", 0, None), ("end", 0, 1), ("start", 2, None), ("end", 2, 5), ("start", 6, None), ("end", 6, 7),
    ]  # fmt: skip
    assert only_a(scores, rules(refractory_s=0.6)) == [
        ("start", 0, None),
        ("end", 0, 1),
        ("start", 4, None),
        ("end", 4, 5),
    ]
    events = run([[0.9, 0.0, 0], [0.0, 0.9, 0], [0.9, 0.9, 0]], rules(refractory_s=60))
    assert [event.label for event in events if event.kind == "start"] == ["a", "b"]


def test_an_event_that_was_too_short_to_be_told_imposes_no_pause() -> None:
    scores = [0.9, 0.0, 0.9, 0.9, 0.0]
    assert only_a(scores, rules(refractory_s=60, min_duration_s=0.4)) == [("start", 2, None), ("end", 2, 4)]


def test_a_class_may_have_thresholds_and_a_duration_of_its_own() -> None:
    own = rules(classes={"b": ClassDecision(threshold_on=0.3, threshold_off=0.1, min_duration_s=0.4)})
    events = run([[0.5, 0.35, 0], [0.5, 0.2, 0], [0.5, 0.05, 0]], own)
    assert [(event.kind, event.label, event.start_sample // HOP) for event in events] == [
        ("start", "b", 0),
        ("end", "b", 0),
    ]


def test_a_lower_threshold_of_a_class_takes_its_end_down_with_it() -> None:
    spec = DecisionSpec(classes={"b": ClassDecision(threshold_on=0.3)})
    assert spec.rule("b") == (0.3, 0.3, 0.4)
    assert spec.rule("a") == (0.6, 0.4, 0.4)


def test_only_allowed_classes_start() -> None:
    rows = [[0.9, 0.9, 0.9]] * 2
    assert {event.label for event in run(rows, rules(allow=("a", "c")))} == {"a", "c"}
    assert {event.label for event in run(rows, rules(deny=("a",)))} == {"b", "c"}
    assert run([[1.0, 1.0, 1.0]], rules(threshold_on=1.0, deny=LABELS)) == []


def test_top_k_keeps_weaker_classes_from_starting_not_from_going_on() -> None:
    events = run([[0.9, 0.7, 0.0], [0.7, 0.9, 0.0], [0.7, 0.0, 0.0]], rules(top_k=1))
    assert [(event.kind, event.label, event.start_sample // HOP) for event in events] == [
        ("start", "a", 0), ("start", "b", 1), ("end", "b", 1), ("end", "a", 0),
    ]  # fmt: skip
    # A class that may not start takes no place.
    assert {event.label for event in run([[0.9, 0.7, 0.8]], rules(top_k=1, deny=("a",)))} == {"c"}


def test_state_is_never_written_to() -> None:
    bound = rules(smoothing_windows=3, patience_windows=2, refractory_s=0.4)
    rng, state = np.random.default_rng(0), DecisionState.initial(3)
    for index in range(50):
        before = [np.array(value).tobytes() for value in state]
        _, after = step(rng.random(3), index * HOP, state, bound)
        assert [np.array(value).tobytes() for value in state] == before
        state = after


def test_quiet_windows_are_left_quickly_with_the_same_state() -> None:
    # The way out for quiet windows must not be seen from outside: with `busy` forced, the long way gives the same.
    bound = rules(smoothing_windows=3, patience_windows=2)
    rng, short, long = np.random.default_rng(1), DecisionState.initial(3), DecisionState.initial(3)
    for index in range(200):
        row = rng.random(3) * rng.choice([0.3, 1.0])
        first, short = step(row, index * HOP, short, bound)
        second, long = step(row, index * HOP, long._replace(busy=True), bound)
        assert first == second
    assert flush(short, bound)[0] == flush(long, bound)[0]


def test_a_label_that_the_bundle_has_not_is_refused_with_the_nearest() -> None:
    for fields in ({"allow": ("aa",)}, {"deny": ("aa",)}, {"classes": {"aa": ClassDecision()}}):
        with pytest.raises(ConfigError, match=r"no label 'aa'\. Did you mean 'a'"):
            rules(**fields)
