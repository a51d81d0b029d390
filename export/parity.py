"""The parity gate: does an exported file, run by the runtime, answer as the student did?"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgeaudio import catalog
from edgeaudio.bundle.manifest import ModelFile, Parity
from edgeaudio.errors import ConfigError, ParityError, ShapeError
from edgeaudio.runtime.engines.base import Engine

Float32 = NDArray[np.float32]


@dataclass(frozen=True)
class ParityGate:
    """What is allowed between an artefact and its reference, over the same windows.

    `tolerance` bounds the largest logit difference. Where the reference's own top class leads by no more than
    `tie_margin`, the top class says nothing and any class within the margin counts as agreement.
    """

    tolerance: float | None
    min_argmax_agreement: float
    tie_margin: float = 0.0


#: Formats that are checked with another engine than a device's own: what makes them has no such device.
REFERENCE_ENGINES = {"tensorrt": "tensorrt-reference"}


def engine_name(format: str) -> str:
    """The catalogue's engine that runs files of `format` where they are made.

    Raises:
        ConfigError: none does.
    """
    if format in REFERENCE_ENGINES:
        return REFERENCE_ENGINES[format]
    for name in catalog.ENGINES:
        if catalog.resolve("engines", name).format == format:
            return name
    raise ConfigError(f"no engine of {sorted(catalog.ENGINES)} runs format {format!r}")


def executor(format: str) -> str | None:
    """What `Parity.executor` says of files of `format`: None where their own engine runs them."""
    return "onnxruntime" if format in REFERENCE_ENGINES else None


def engine_for(entry: ModelFile, payload: bytes) -> Engine:
    """The engine of the artefact's format with the artefact loaded, one thread."""
    engine: Engine = catalog.resolve("engines", engine_name(entry.format))(entry, payload, threads=1)
    return engine


def run_windows(engine: Engine, windows: Float32) -> Float32:
    """`(n, frames, n_mels)` -> logits `(n, classes)`, one window at a time as on a device."""
    return np.stack([engine.run(window) for window in windows])


def measure_parity(
    logits: Float32, reference_logits: Float32, *, reference: str, gate: ParityGate, executor: str | None = None
) -> Parity:
    """Compare logits `(n, classes)` of the same windows.

    Args:
        reference: what the other side is.
        executor: what gave `logits`, where that is not the engine of the artefact's format.
    Raises:
        ShapeError: the two are not of one shape, or hold no window.
    """
    if logits.shape != reference_logits.shape or logits.ndim != 2 or not len(logits):
        raise ShapeError(f"logits are {logits.shape}, {reference} has {reference_logits.shape}; wanted (n, classes)")
    chosen = reference_logits[np.arange(len(logits)), logits.argmax(axis=1)]
    agreement = float(np.mean(chosen >= reference_logits.max(axis=1) - gate.tie_margin))
    return Parity(
        reference=reference,
        n_windows=len(logits),
        max_abs_logit_diff=float(np.abs(logits.astype(np.float64) - reference_logits).max()),
        tolerance=gate.tolerance,
        argmax_agreement=agreement,
        min_argmax_agreement=gate.min_argmax_agreement,
        executor=executor,
    )


def require_parity(name: str, parity: Parity) -> None:
    """Raise `ParityError` when `parity`, measured on `name`, is outside its gate."""
    if parity.passed:
        return
    bound = "" if parity.tolerance is None else f" (at most {parity.tolerance:g})"
    # Only int8 has no bound on logits; float kernels that differ are a fault of the export.
    mend = "Calibrate on more windows or train longer." if parity.tolerance is None else "Leave this format out."
    raise ParityError(
        f"{name} against {parity.reference} on {parity.n_windows} windows: largest logit difference "
        f"{parity.max_abs_logit_diff:.3g}{bound}, same top class on {parity.argmax_agreement:.2%} "
        f"(at least {parity.min_argmax_agreement:.2%}). {mend}"
    )
