"""A stateful artefact on an engine: one hop of frames in, the logits of the window that ends with it out."""

from __future__ import annotations

import itertools
from typing import NamedTuple

import numpy as np

from edgeaudio.bundle import Stateful, StatefulArtefact
from edgeaudio.errors import ShapeError
from edgeaudio.frontend.choice import FrontendName, make_frontend
from edgeaudio.runtime.engines.base import Engine, Float32
from edgeaudio.runtime.engines.tensors import initial_states
from edgeaudio.spec import FrontendSpec


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
        self._turns = [[at + turn % n for at, n in zip(first, phases, strict=False)] for turn in range(max(phases))]
        self.reset()

    def reset(self) -> None:
        """Forget everything: states are zeros."""
        self._turn = 0
        zeros = zip(self._artefact.states, initial_states(self._artefact), strict=True)
        self._held = [values for state, values in zeros for _ in range(state.phases)]

    def step(self, log_mel: Float32) -> Float32:
        """The next `(step_frames, n_mels)` float32 -> logits `(classes,)` float32."""
        places, held = self._turns[self._turn], self._held
        following, logits = self._engine.run_step(log_mel, [held[place] for place in places])
        for place, values in zip(places, following, strict=True):
            held[place] = values
        self._turn = (self._turn + 1) % len(self._turns)
        return logits

    @property
    def info(self) -> dict[str, str]:
        """As `Engine.info`, with the form."""
        return self._engine.info | {"form": "stateful"}


def stream_logits(runner: StatefulRunner, stateful: Stateful, log_mel: Float32) -> Float32:
    """Logits `(windows, classes)` of the stream `log_mel (frames, n_mels)`; window k starts at `k * step_frames`.

    The runner is reset first.

    Raises:
        ShapeError: the stream is shorter than a window.
    """
    step, lead_in, warm_up = stateful.step_frames, stateful.lead_in_frames, stateful.warm_up_steps
    if len(log_mel) + lead_in < (warm_up + 1) * step:
        raise ShapeError(f"a stream of {len(log_mel)} frames; a window has {(warm_up + 1) * step - lead_in}")
    fed = np.concatenate([np.zeros((lead_in, log_mel.shape[1]), np.float32), log_mel])
    runner.reset()
    logits = [runner.step(fed[end - step : end]) for end in range(step, len(fed) + 1, step)]
    return np.stack(logits[warm_up:])


class SteppedWindow(NamedTuple):
    """A window: its first sample in the stream, logits `(classes,)` float32, and the newest frames of its log-mel.

    log_mel: `(step_frames, n_mels)` float32; in the first window of a stream all of its frames.
    """

    position_samples: int
    logits: Float32
    log_mel: Float32


class StepStream:
    """Chunks of a waveform in, windows out: those of `WindowStream` with a hop of `step_frames`, never copied out."""

    def __init__(
        self,
        runner: StatefulRunner,
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
        frames, step = np.concatenate([self._waiting, self._frontend.feed(chunk)]), self._stateful.step_frames
        stepped = len(frames) - len(frames) % step
        windows = []
        for start in range(0, stepped, step):
            new = frames[start : start + step]
            logits = self._runner.step(new)
            if self._unscored is not None:
                self._unscored.append(new)
                if len(self._unscored) <= self._stateful.warm_up_steps:
                    continue
                new = np.concatenate(self._unscored)[self._stateful.lead_in_frames :]
                self._unscored = None
            windows.append(SteppedWindow(self._position, logits, new))
            self._position += self._hop_samples
        self._waiting = frames[stepped:].copy()
        return windows
