"""`StatefulRunner`: a stateful artefact on an engine, with its states from step to step."""

from __future__ import annotations

from edgeaudio.bundle.manifest import StatefulArtefact
from edgeaudio.runtime.engines.base import Engine, Float32
from edgeaudio.runtime.engines.tensors import initial_states


class StatefulRunner:
    """Frames in, logits out, step by step. One instance per stream and thread.

    Logits stand for the window that ends with the newest frame, once a whole window was heard.
    """

    def __init__(self, engine: Engine, artefact: StatefulArtefact) -> None:
        """`engine` has `artefact` loaded."""
        self._engine = engine
        self._artefact = artefact
        self.reset()

    def reset(self) -> None:
        """Forget everything: states are zeros."""
        self._step = 0
        artefact = self._artefact
        zeros = zip(artefact.states, initial_states(artefact), strict=True)
        self._states = [[values] * state.phases for state, values in zeros]

    def step(self, log_mel: Float32) -> Float32:
        """The next `(step_frames, n_mels)` float32 -> logits `(classes,)` float32."""
        turn, self._step = self._step, self._step + 1
        given = [phases[turn % len(phases)] for phases in self._states]
        following, logits = self._engine.run_step(log_mel, given)
        for phases, values in zip(self._states, following, strict=True):
            phases[turn % len(phases)] = values
        return logits

    @property
    def info(self) -> dict[str, str]:
        """As `Engine.info`, with the form."""
        return self._engine.info | {"form": "stateful"}
