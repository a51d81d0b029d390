"""Probabilities to events: smoothing, hysteresis, minimum duration, exact positions."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeaudio.errors import ShapeError
from edgeaudio.runtime.decision import DecisionRules, DecisionState, Event, flush, step
from edgeaudio.spec import DecisionSpec

HOP = 3_200
RATE = 16_000


def _rules(**changes: float) -> DecisionRules:
    fields = {"smoothing_windows": 1, "threshold_on": 0.6, "threshold_off": 0.4, "min_duration_s": 0.0}
    return DecisionRules(DecisionSpec(**(fields | changes)), ("a", "b"), RATE, HOP)


def _run(scores: list[float], rules: DecisionRules, *, start_sample: int = 0, flushed: bool = True) -> list[Event]:
    """Events of class "a"; "b" stays at 0."""
    state, events = DecisionState.initial(2), []
    for index, score in enumerate(scores):
        new, state = step([score, 0.0], start_sample + index * HOP, state, rules)
        events += new
    return events + (flush(state, rules)[0] if flushed else [])


def _spans(events: list[Event]) -> list[tuple[str, int, int | None]]:
    return [
        (event.kind, event.start_sample // HOP, None if event.end_sample is None else event.end_sample // HOP)
        for event in events
    ]


def test_an_event_starts_at_on_and_ends_below_off() -> None:
    events = _run([0.1, 0.59, 0.6, 0.5, 0.4, 0.39, 0.5, 0.1], _rules())
    assert _spans(events) == [("start", 2, None), ("end", 2, 5)]
    assert [event.score for event in events] == [0.6, 0.6]


def test_flush_ends_an_open_event_after_its_last_window() -> None:
    assert _spans(_run([0.9, 0.9], _rules())) == [("start", 0, None), ("end", 0, 2)]


@pytest.mark.parametrize(("n_windows", "heard"), [(1, False), (2, True), (3, True)])
@pytest.mark.parametrize("tail", [[], [0.0]])
def test_events_shorter_than_min_duration_are_dropped(n_windows: int, heard: bool, tail: list[float]) -> None:
    events = _run([0.9] * n_windows + tail, _rules(min_duration_s=0.4))
    assert _spans(events) == ([("start", 0, None), ("end", 0, n_windows)] if heard else [])


def test_the_start_event_comes_as_soon_as_min_duration_is_reached() -> None:
    rules = _rules(min_duration_s=0.4)
    assert _run([0.9], rules, flushed=False) == []
    assert _spans(_run([0.9, 0.9], rules, flushed=False)) == [("start", 0, None)]


def test_scores_are_the_moving_mean_over_what_was_heard() -> None:
    events = _run([0.9, 0.3, 0.9, 0.06, 0.0], _rules(smoothing_windows=3))
    # Means: 0.9, 0.6, 0.7, 0.42, 0.32.
    assert _spans(events) == [("start", 0, None), ("end", 0, 4)]
    assert events[-1].score == 0.9
    assert _run([0.0, 0.0, 0.9, 0.8, 0.0], _rules(smoothing_windows=3)) == []


def test_the_end_carries_the_largest_smoothed_score() -> None:
    events = _run([0.7, 0.95, 0.8, 0.0], _rules())
    assert [(event.kind, event.score) for event in events] == [("start", 0.7), ("end", 0.95)]


def test_a_later_event_does_not_inherit_the_score_of_an_earlier_one() -> None:
    assert [event.score for event in _run([0.95, 0.0, 0.7, 0.0], _rules())] == [0.95, 0.95, 0.7, 0.7]


def test_classes_do_not_touch_each_other() -> None:
    rules, state = _rules(), DecisionState.initial(2)
    first, state = step([0.9, 0.0], 0, state, rules)
    second, state = step([0.0, 0.9], HOP, state, rules)
    third, state = step([0.9, 0.9], 2 * HOP, state, rules)
    assert [(event.kind, event.label) for event in first] == [("start", "a")]
    assert [(event.kind, event.label) for event in second] == [("end", "a"), ("start", "b")]
    assert [(event.kind, event.label, event.start_sample) for event in third] == [("start", "a", 2 * HOP)]
    assert [event.label for event in flush(state, rules)[0]] == ["a", "b"]


def test_step_is_pure() -> None:
    rules = _rules(smoothing_windows=2)
    _, state = step([0.9, 0.1], 0, DecisionState.initial(2), rules)
    before = [array.copy() for array in (state.history, state.active, state.announced, state.start_sample, state.peak)]
    assert step([0.2, 0.9], HOP, state, rules)[0] == step([0.2, 0.9], HOP, state, rules)[0]
    flush(state, rules)
    after = [state.history, state.active, state.announced, state.start_sample, state.peak]
    assert all(np.array_equal(a, b) for a, b in zip(before, after, strict=True))


@pytest.mark.parametrize("start_sample", [2**31 - 1, 2**32 - 1, 2**53 - 1])
def test_positions_survive_the_wrap_points(start_sample: int) -> None:
    scores = [0.1, 0.9, 0.9, 0.1, 0.9]
    shifted = _run(scores, _rules(), start_sample=start_sample)
    for event, expected in zip(shifted, _run(scores, _rules()), strict=True):
        assert event.start_sample == expected.start_sample + start_sample
        assert event.kind == expected.kind
        if expected.end_sample is not None:
            assert event.end_sample == expected.end_sample + start_sample
        assert type(event.start_sample) is int


_scores = st.lists(st.floats(0, 1, width=32), max_size=60)


@given(
    scores=_scores,
    smoothing=st.integers(1, 5),
    on=st.floats(0.5, 1),
    off=st.floats(0, 0.5),
    min_duration_s=st.sampled_from([0.0, 0.1, 0.4, 1.0]),
)
def test_starts_and_ends_pair_up_and_never_overlap(
    scores: list[float], smoothing: int, on: float, off: float, min_duration_s: float
) -> None:
    rules = _rules(smoothing_windows=smoothing, threshold_on=on, threshold_off=off, min_duration_s=min_duration_s)
    events = _run(scores, rules)
    assert [event.kind for event in events] == ["start", "end"] * (len(events) // 2)
    last_end = 0
    for start, end in zip(events[::2], events[1::2], strict=True):
        assert end.end_sample is not None
        assert start.start_sample == end.start_sample >= last_end
        assert end.end_sample - end.start_sample >= rules.min_duration_samples
        assert on <= start.score <= end.score
        last_end = end.end_sample


def test_a_wrong_number_of_probabilities_is_refused() -> None:
    with pytest.raises(ShapeError, match=r"wanted \(2,\)"):
        step([0.1, 0.2, 0.3], 0, DecisionState.initial(2), _rules())
