"""The parity gate: does an exported file, run by the runtime, answer as the student did?"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgeaudio import catalog
from edgeaudio.bundle.manifest import Parity, Precision
from edgeaudio.errors import ConfigError, ParityError, ShapeError
from edgeaudio.runtime.engines.base import Engine

from .artefact import ExportedArtefact

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


#: Float kernels differ in the order of sums only: measured 4e-6 on logits of size 5.
FP32_GATE = ParityGate(tolerance=1e-3, min_argmax_agreement=1.0, tie_margin=2e-3)
#: Single windows near a class boundary flip under int8 (measured 1 to 2 %), so this gate is for windows;
#: what a bundle promises about clips is checked where clips are known.
INT8_GATE = ParityGate(tolerance=None, min_argmax_agreement=0.97)
#: Two engines on the same quantised graph: they differ by single output steps.
INT8_PAIR_GATE = ParityGate(tolerance=None, min_argmax_agreement=0.99)
GATES: dict[Precision, ParityGate] = {"fp32": FP32_GATE, "int8": INT8_GATE}


def engine_for(artefact: ExportedArtefact, *, threads: int = 1) -> Engine:
    """The catalogue's engine for the artefact's format, loaded with it.

    Raises:
        ConfigError: no engine of the catalogue runs this format.
    """
    for name in catalog.ENGINES:
        engine = catalog.resolve("engines", name)
        if engine.format == artefact.format:
            built: Engine = engine(artefact.manifest_entry(), artefact.payload, threads=threads)
            return built
    raise ConfigError(f"no engine of {sorted(catalog.ENGINES)} runs format {artefact.format!r}")


def run_windows(engine: Engine, windows: Float32) -> Float32:
    """`(n, frames, n_mels)` -> logits `(n, classes)`, one window at a time as on a device."""
    return np.stack([engine.run(window) for window in windows])


def measure_parity(logits: Float32, reference_logits: Float32, *, reference: str, gate: ParityGate) -> Parity:
    """Compare logits `(n, classes)` of the same windows; `reference` says what the other side is.

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
    )


def check_parity(
    artefact: ExportedArtefact,
    windows: Float32,
    reference_logits: Float32,
    *,
    reference: str = "torch-fp32",
    gate: ParityGate | None = None,
    engine: Engine | None = None,
) -> Parity:
    """Run `artefact` on `windows` `(n, frames, n_mels)` and hold it against the student's logits.

    Args:
        reference_logits: `(n, classes)` of the float student.
        gate: default by precision, see `GATES`.
        engine: one that has the artefact loaded; default `engine_for(artefact)`.
    Raises:
        ParityError: names the artefact and the figure outside the gate.
    """
    gate = gate or GATES[artefact.precision]
    logits = run_windows(engine or engine_for(artefact), windows)
    parity = measure_parity(logits, reference_logits, reference=reference, gate=gate)
    require_parity(artefact.name, parity)
    return parity


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
