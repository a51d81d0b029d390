"""What every engine shares at its two ends: shape checks and int8 conversion."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from edgeaudio.bundle.manifest import Link, ModelFile, StatefulArtefact, TensorInfo
from edgeaudio.errors import BundleError, ShapeError, VerificationError
from edgeaudio.runtime.engines.base import Float32, Hidden

Int8 = NDArray[np.int8]


def check_log_mel(log_mel: Float32, artefact: ModelFile) -> Float32:
    """`(frames, n_mels)` float32 -> contiguous `(1, frames, n_mels)`; ShapeError for anything else."""
    wanted = artefact.input.shape[1:]
    if log_mel.shape != wanted or log_mel.dtype != np.float32:
        raise ShapeError(f"log_mel is {log_mel.dtype} {log_mel.shape}, {artefact.name} wants float32 {wanted}")
    return np.ascontiguousarray(log_mel)[None]


def takes_hidden(artefact: ModelFile) -> bool:
    """Whether its input is what another stage left, not a log-mel."""
    return isinstance(artefact, Link) and not artefact.takes_window


def initial_states(artefact: StatefulArtefact) -> list[Hidden]:
    """States that stand for zeros, in the artefact's own dtypes."""
    return [np.full(state.shape, state.zero_point or 0, state.dtype) for state in artefact.states]


def check_states(states: Sequence[Hidden], artefact: ModelFile) -> None:
    """Raise `ShapeError` unless these are the states of the artefact; asked once a step has failed."""
    wanted = [(info.dtype, info.shape) for info in artefact.inputs[1:]]
    given = [(state.dtype.name, state.shape) for state in states]
    if given != wanted:
        raise ShapeError(f"states are {given!r:.200}, {artefact.name} wants {wanted!r:.200}")


def check_hidden(hidden: Hidden, artefact: ModelFile) -> Hidden:
    """What the stage before left, as it is; ShapeError for anything else."""
    wanted = artefact.input
    if hidden.shape != wanted.shape or hidden.dtype != wanted.dtype:
        raise ShapeError(
            f"hidden is {hidden.dtype} {hidden.shape}, {artefact.name} wants {wanted.dtype} {wanted.shape}"
        )
    return hidden


def check_logits(logits: Float32, artefact: ModelFile) -> Float32:
    """`(1, classes)` -> `(classes,)`, freshly allocated; VerificationError when not finite or of another shape."""
    if logits.shape != artefact.outputs[-1].shape:
        raise VerificationError(f"{artefact.name}: output is {logits.shape}, manifest: {artefact.outputs[-1].shape}")
    if not np.logical_and.reduce(np.isfinite(logits), axis=None):
        raise VerificationError(f"{artefact.name}: logits are not finite on finite input; the artefact is unusable")
    fresh: Float32 = logits[0].astype(np.float32)
    return fresh


def check_tensor(role: str, shape: tuple[object, ...], dtype: str, info: TensorInfo, artefact: ModelFile) -> None:
    """Raise `BundleError` where the model's own tensor is not what the manifest promises.

    Args:
        shape: symbolic dimensions, which are not int, fit anything.
    """
    fits = len(shape) == len(info.shape) and all(
        not isinstance(size, int) or size == wanted for size, wanted in zip(shape, info.shape, strict=True)
    )
    if not fits or dtype != info.dtype:
        raise BundleError(
            f"{artefact.path}: {role} {info.name!r} of the model is {dtype} {shape}, "
            f"the manifest says {info.dtype} {info.shape}"
        )


def quantise(values: Float32, scale: float, zero_point: int) -> Int8:
    """float32 -> int8, halves to even as the C runtimes do, clipped to [-128, 127]."""
    steps = values / np.float32(scale)
    # In place, and not by `clip`: a step of a stream is so short that NumPy's calls are what it costs.
    np.rint(steps, out=steps)
    steps += np.float32(zero_point)
    np.minimum(steps, np.float32(127), out=steps)
    np.maximum(steps, np.float32(-128), out=steps)
    return steps.astype(np.int8)


def dequantise(values: Int8, scale: float, zero_point: int) -> Float32:
    """int8 -> float32."""
    return (values.astype(np.float32) - np.float32(zero_point)) * np.float32(scale)
