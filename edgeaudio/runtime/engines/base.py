"""The engine protocol: what runs one artefact on one device."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from edgeaudio.bundle.manifest import ModelFile

Float32 = NDArray[np.float32]
#: What one stage leaves for the next, in the model file's own dtype.
Hidden = NDArray[Any]


class GpuTimes(NamedTuple):
    """Microseconds of one window on a GPU: of its kernels, and of the copies there and back."""

    kernels: float = 0.0
    copies: float = 0.0


class Engine(Protocol):
    """Runs one artefact, or one stage of an early-exit chain. Built from verified bytes, never from a path."""

    #: Artefact format that this engine runs ("onnx", "tflite").
    format: str

    def __init__(self, artefact: ModelFile, payload: bytes, *, threads: int = 1) -> None: ...

    def run(self, log_mel: Float32) -> Float32:
        """`(frames, n_mels)` float32 -> `(classes,)` float32 logits, freshly allocated.

        Quantised inputs and outputs are converted here; the caller never sees int8.
        """
        ...

    def run_stage(self, values: Float32 | Hidden) -> tuple[Hidden | None, Float32]:
        """One stage: (what the next one takes, None from the last; logits `(classes,)` float32).

        Args:
            values: for stage 0 a log-mel as for `run`, else what the stage before gave, untouched: a quantised
                hidden tensor stays quantised.
        """
        ...

    def run_step(self, values: Float32 | Hidden, states: Sequence[Hidden]) -> tuple[list[Hidden], Float32]:
        """One step of a stateful artefact, where the format has one: (states of the next step, logits `(classes,)`).

        From a stage that another one follows, what that takes comes behind the states.

        Args:
            values: the new frames `(step_frames, n_mels)` float32, or what the stage before gave, untouched.
            states: what the last step gave, untouched, or `initial_states`.
        """
        ...

    @property
    def info(self) -> dict[str, str]:
        """Library, version, `provider` or `delegate` that is in use now: recorded with every measurement."""
        ...

    @staticmethod
    def import_library() -> None:
        """Import what it runs on, for whoever wants to know how long that takes.

        Raises:
            UnsupportedError: it is not installed.
        """
