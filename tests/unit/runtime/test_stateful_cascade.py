"""Stages of a stream that catch up: whatever was skipped, an answer is that of a stream which skipped nothing."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeaudio.bundle.manifest import StateInfo
from edgeaudio.runtime.engines.base import Float32, Hidden
from edgeaudio.runtime.stateful import StatefulRunner
from edgeaudio.runtime.stateful_cascade import CascadeRunner

MACS = (1, 10, 100)
#: Steps back that each stage's state holds, and its phases: a window is 1 + 2 + 2 * 2 + 1 steps.
KEPT, PHASES = (2, 2, 1), (1, 2, 1)
MEMORY = 1 + sum(kept * phases for kept, phases in zip(KEPT, PHASES, strict=True))


class Sums:
    """An engine whose answer is the sum of what it hears and of what its state holds, each with its own weight."""

    def __init__(self, kept: int, last: bool) -> None:
        self._weights = 10.0 ** -np.arange(kept + 1)
        self._last = last
        self.steps = 0

    def run_step(self, values: Float32 | Hidden, states: list[Hidden]) -> tuple[list[Hidden], Float32]:
        self.steps += 1
        held = np.concatenate([states[0], np.reshape(values, (1, -1))[:, :1]], axis=1)
        answer = np.float64(held[0, ::-1] @ self._weights)
        hidden = [] if self._last else [np.array([[answer]])]
        return [held[:, 1:], *hidden], np.array([answer, -answer], np.float64)  # type: ignore[return-value]


def cascade(thresholds: tuple[float | None, ...] = (None, None)) -> tuple[CascadeRunner, list[Sums]]:
    engines = [Sums(kept, last=number == 2) for number, kept in enumerate(KEPT)]
    artefacts = [
        SimpleNamespace(states=(StateInfo(name="state0", shape=(1, kept), phases=phases),))
        for kept, phases in zip(KEPT, PHASES, strict=True)
    ]
    runners = [StatefulRunner(*pair) for pair in zip(engines, artefacts, strict=True)]  # type: ignore[arg-type]
    facts: Any = SimpleNamespace(
        thresholds=thresholds, kind="single_label", macs_per_stage=MACS, memory_steps=MEMORY, on_frames=[]
    )
    return CascadeRunner(facts, runners), engines


def frames(number: int) -> Float32:
    return np.full((1, 4), number % 7 + 0.25 * (number % 3), np.float32)


def answers(stops: list[int]) -> list[tuple[float, int | None]]:
    """Of a stream whose window n stops at `stops[n]`."""
    runner, _ = cascade()
    found = []
    for number, stop in enumerate(stops):
        answer = runner.answer_until(frames(number), lambda exit, _, stop=stop: exit == stop)  # type: ignore[misc]
        found.append((float(answer.logits[0]), answer.exit))
    return found


@given(st.lists(st.sampled_from([0, 0, 0, 0, 1, 2]), min_size=MEMORY, max_size=60))
def test_an_answer_does_not_depend_on_what_was_skipped(stops: list[int]) -> None:
    whole = {exit: [answer for answer, _ in answers([exit] * len(stops))] for exit in range(3)}
    for number, (answer, exit) in enumerate(answers(stops)):
        assert exit == stops[number]
        if number >= MEMORY - 1:
            assert answer == pytest.approx(whole[exit][number], abs=0)


def test_a_stage_catches_up_on_a_window_at_most_and_the_cost_is_told() -> None:
    runner, engines = cascade()
    for number in range(3):
        assert runner.answer_until(frames(number), lambda exit, _: exit == 0)[1:] == (0, 1, 0)
    late = runner.answer_until(frames(3), lambda exit, _: exit == 1)
    assert late[1:] == (1, 1 + 4 * 10, 3 * 10)
    for number in range(4, 4 + 3 * MEMORY):
        runner.answer_until(frames(number), lambda exit, _: exit == 0)
    final = runner.answer_until(frames(99), lambda exit, _: False)
    assert final[1:] == (2, 1 + MEMORY * (10 + 100), (MEMORY - 1) * (10 + 100))
    assert [engine.steps for engine in engines] == [5 + 3 * MEMORY, 4 + MEMORY, MEMORY]


def test_steps_without_an_answer_wait_too() -> None:
    runner, engines = cascade()
    runner.hear(frames(0))
    runner.hear(frames(1))
    assert [engine.steps for engine in engines] == [2, 0, 0]
    assert runner.answer(frames(2))[1:] == (2, 3 * sum(MACS), 2 * (10 + 100))


def test_thresholds_stop_and_a_reset_forgets_what_waits() -> None:
    runner, engines = cascade((0.9, None))
    assert runner.answer(np.full((1, 4), 100, np.float32)).exit == 0
    assert runner.answer(np.zeros((1, 4), np.float32)).exit == 0  # The state still holds the loud step.
    runner.reset()
    silent = runner.answer(np.zeros((1, 4), np.float32))
    assert silent[1:] == (2, sum(MACS), 0)
    assert silent.logits.tolist() == [0, 0]
    assert [engine.steps for engine in engines] == [3, 1, 1]
