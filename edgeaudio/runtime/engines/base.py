"""The engine protocol: what runs one artefact on one device."""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from edgeaudio.bundle.manifest import Artefact

Float32 = NDArray[np.float32]


class Engine(Protocol):
    """Runs one windowed artefact. Built from verified bytes, never from a path."""

    #: Artefact format that this engine runs ("onnx", "tflite").
    format: str

    def __init__(self, artefact: Artefact, payload: bytes, *, threads: int = 1) -> None: ...

    def run(self, log_mel: Float32) -> Float32:
        """`(frames, n_mels)` float32 -> `(classes,)` float32 logits, freshly allocated.

        Quantised inputs and outputs are converted here; the caller never sees int8.
        """
        ...

    @property
    def info(self) -> dict[str, str]:
        """Library, version, provider or delegate in use: recorded with every measurement."""
        ...
