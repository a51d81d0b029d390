"""A stateful artefact on an engine: one hop of frames in, the logits of the window that ends with it out."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import NamedTuple, Protocol, TypeVar

import numpy as np

from edgeaudio.bundle import Stateful, StatefulArtefact
from edgeaudio.errors import ShapeError
from edgeaudio.frontend.choice import FrontendName, make_frontend
from edgeaudio.runtime.engines.base import Engine, Float32, Hidden
from edgeaudio.runtime.engines.tensors import initial_states
from edgeaudio.spec import FrontendSpec


class Answer(NamedTuple):
    """Logits `(classes,)` float32; with early exits the one that gave them (the last is final), and what it took.

    macs: since the answer before, warming up included. catch_up_macs: of these, for steps that were put off before.
    """

    logits: Float32
    exit: int | None = None
    macs: int | None = None
    catch_up_macs: int = 0


class Stepper(Protocol):
    """What hears a stream step by step."""

    def reset(self) -> None:
        """Forget everything."""

    def hear(self, log_mel: Float32) -> None:
        """The next `(step_frames, n_mels)`, to which no answer is wanted."""

    def answer(self, log_mel: Float32) -> Answer:
        """The next `(step_frames, n_mels)`, and the answer for the window that ends with it."""
        ...


class StatefulRunner:
    """Frames in, logits out, step by step. One instance per stream and thread.

    Logits stand for the window that ends with the newest frame, once a whole window was heard.
    """

    def __init__(self, engine: Engine, artefact: StatefulArtefact) -> None:
        """`engine` has `artefact` loaded; several runners may share it, one after the other."""
        self._engine = engine
        self._artefact = artefact
        phases = [state.phases for state in artefact.states]
        first = list(itertools.accumulate(phases, initial=0))
        # In `_held`: where each state's value of a turn lies. The manifest has seen to it that all phases fit into one.
        turns = range(max(phases, default=1))
        self._turns = [[at + turn % n for at, n in zip(first, phases, strict=False)] for turn in turns]
        self.reset()

    def reset(self) -> None:
        """Forget everything: states are zeros."""
        self._turn = 0
        zeros = zip(self._artefact.states, initial_states(self._artefact), strict=True)
        self._held = [values for state, values in zeros for _ in range(state.phases)]

    def step(self, log_mel: Float32) -> Float32:
        """The next `(step_frames, n_mels)` float32 -> logits `(classes,)` float32."""
        logits = self.advance(log_mel, self._turn)[1]
        self._turn += 1
        return logits

    def advance(self, values: Float32 | Hidden, turn: int) -> tuple[Hidden | None, Float32]:
        """Step number `turn` of the stream: (what the next stage takes, None where none follows; logits).

        Args:
            values: new frames, or what the stage before gave in that step.
        """
        places, held = self._turns[turn % len(self._turns)], self._held
        following, logits = self._engine.run_step(values, [held[place] for place in places])
        for place, state in zip(places, following, strict=False):
            held[place] = state
        return (following[-1] if len(following) > len(places) else None), logits

    def hear(self, log_mel: Float32) -> None:
        """As `step`, where no answer is wanted."""
        self.step(log_mel)

    def answer(self, log_mel: Float32) -> Answer:
        """As `step`."""
        return Answer(self.step(log_mel))


T = TypeVar("T")


def stream_answers(runner: Stepper, stateful: Stateful, log_mel: Float32, answer: Callable[[Float32], T]) -> list[T]:
    """What `answer(new frames)` gives for each window of the stream `log_mel (frames, n_mels)`.

    Window k starts at `k * step_frames`. The runner is reset first, and hears the rest.

    Raises:
        ShapeError: the stream is shorter than a window.
    """
    step, lead_in, warm_up = stateful.step_frames, stateful.lead_in_frames, stateful.warm_up_steps
    if len(log_mel) + lead_in < (warm_up + 1) * step:
        raise ShapeError(f"a stream of {len(log_mel)} frames; a window has {(warm_up + 1) * step - lead_in}")
    fed = np.concatenate([np.zeros((lead_in, log_mel.shape[1]), np.float32), log_mel])
    runner.reset()
    steps = [fed[end - step : end] for end in range(step, len(fed) + 1, step)]
    for new in steps[:warm_up]:
        runner.hear(new)
    return [answer(new) for new in steps[warm_up:]]


def stream_logits(runner: StatefulRunner, stateful: Stateful, log_mel: Float32) -> Float32:
    """Logits `(windows, classes)` of a stream; see `stream_answers`."""
    return np.stack(stream_answers(runner, stateful, log_mel, runner.step))


class SteppedWindow(NamedTuple):
    """A window: its first sample in the stream, the answer to it, and the newest frames of its log-mel.

    log_mel: `(step_frames, n_mels)` float32; in the first window of a stream all of its frames.
    """

    position_samples: int
    answer: Answer
    log_mel: Float32


class StepStream:
    """Chunks of a waveform in, windows out: those of `WindowStream` with a hop of `step_frames`, never copied out."""

    def __init__(
        self,
        runner: Stepper,
        frontend: FrontendSpec,
        stateful: Stateful,
        *,
        start_sample: int = 0,
        computed_by: FrontendName = "numpy",
    ) -> None:
        """`start_sample` is the position of the first sample; `computed_by` what computes log-mel."""
        self._runner = runner
        self._frontend = make_frontend(frontend, computed_by)
        self._stateful = stateful
        self._hop_samples = stateful.step_frames * frontend.hop_length
        self._n_mels = frontend.n_mels
        self.reset(start_sample=start_sample)

    def reset(self, *, start_sample: int = 0) -> None:
        """Forget all audio: the next sample is `start_sample`."""
        self._frontend.reset()
        self._runner.reset()
        self._position = start_sample  # First sample of the next window.
        # Frames that wait for the rest of their step. What leads in is in no window.
        self._waiting = np.zeros((self._stateful.lead_in_frames, self._n_mels), np.float32)
        # Frames of the first window so far; None behind it.
        self._unscored: list[Float32] | None = []

    def feed(self, chunk: Float32) -> list[SteppedWindow]:
        """Take `(samples,)` float32 of any length and return the windows it completes."""
        frames, step = self._frontend.feed(chunk), self._stateful.step_frames
        if len(self._waiting):
            frames = np.concatenate([self._waiting, frames])
        stepped = len(frames) - len(frames) % step
        windows = []
        for start in range(0, stepped, step):
            new = heard = frames[start : start + step]
            if self._unscored is not None:
                self._unscored.append(new)
                if len(self._unscored) <= self._stateful.warm_up_steps:
                    self._runner.hear(new)
                    continue
                heard = np.concatenate(self._unscored)[self._stateful.lead_in_frames :]
                self._unscored = None
            windows.append(SteppedWindow(self._position, self._runner.answer(new), heard))
            self._position += self._hop_samples
        self._waiting = frames[stepped:].copy()
        return windows
