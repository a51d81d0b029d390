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
        self._states = initial_states(self._artefact)

    def step(self, log_mel: Float32) -> Float32:
        """The next `(step_frames, n_mels)` float32 -> logits `(classes,)` float32."""
        self._states, logits = self._engine.run_step(log_mel, self._states)
        return logits

    @property
    def info(self) -> dict[str, str]:
        """As `Engine.info`, with the form."""
        return self._engine.info | {"form": "stateful"}
