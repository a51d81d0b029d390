"""ONNX artefacts on onnxruntime's CPU provider."""

from __future__ import annotations

import importlib
import os
from collections.abc import Sequence
from typing import Any

from edgeaudio.bundle.manifest import ModelFile, TensorInfo
from edgeaudio.errors import BundleError, ConfigError, ShapeError, UnsupportedError, VerificationError
from edgeaudio.runtime.engines.base import Float32, Hidden
from edgeaudio.runtime.engines.onnx_binding import BoundSession
from edgeaudio.runtime.engines.tensors import (
    check_hidden,
    check_log_mel,
    check_logits,
    check_tensor,
    dequantise,
    quantise,
    takes_hidden,
)

PROVIDER = "CPUExecutionProvider"
_DTYPES = {"tensor(float)": "float32", "tensor(int8)": "int8", "tensor(uint8)": "uint8"}
_LOG_ERRORS_ONLY = 3
_NO_TELEMETRY = "ORT_DISABLE_TELEMETRY"
# What onnxruntime's messages say where the model is sound but this build of the library is too small or too old.
_LACKS_AN_OPERATOR = ("NOT_IMPLEMENTED", "is not a registered function/op", "Current official support for domain")


class OnnxEngine:
    """Runs an ONNX artefact; `threads` within an operator, one operator at a time."""

    format = "onnx"
    _name = "onnx"

    def __init__(self, artefact: ModelFile, payload: bytes, *, threads: int = 1) -> None:
        """Build the session from verified bytes.

        Raises:
            UnsupportedError: onnxruntime is not installed, or lacks an operator of the graph.
            BundleError: not an ONNX model, or its tensors are not those of the manifest.
        """
        if threads < 1:
            raise ConfigError(f"threads is {threads}, wanted at least 1")
        self._artefact = artefact
        self._takes_hidden = takes_hidden(artefact)
        self._threads = threads
        self._session = open_session(artefact.path, payload, threads)
        # Unlike a missing provider at construction, a later fall-back is not an error to onnxruntime.
        if self._session.get_providers() != [PROVIDER]:
            raise UnsupportedError(f"onnxruntime runs on {self._session.get_providers()}, wanted {PROVIDER} alone")
        self._check_tensors()
        self._output = artefact.outputs[-1]
        self._bound: BoundSession | None = None

    def run(self, log_mel: Float32) -> Float32:
        """See `Engine.run`."""
        return self._forward(self._window(log_mel))[1]

    def run_stage(self, values: Float32 | Hidden) -> tuple[Hidden | None, Float32]:
        """See `Engine.run_stage`."""
        return self._forward(self._given(values))

    def _window(self, log_mel: Float32) -> Hidden:
        window = check_log_mel(log_mel, self._artefact)
        info = self._artefact.input
        return quantise(window, *_scale(info, self._artefact)) if info.dtype == "int8" else window

    def run_step(self, values: Float32 | Hidden, states: Sequence[Hidden]) -> tuple[list[Hidden], Float32]:
        """See `Engine.run_step`."""
        given = self._given(values)
        if self._bound is None:
            self._bound = BoundSession(self._session, self._artefact)
        try:
            *following, logits = self._bound.run([given, *states])
        except ShapeError:
            raise
        except Exception as error:  # onnxruntime's errors share no base but Exception.
            raise VerificationError(f"{self._artefact.path}: onnxruntime failed to run it: {error!s:.300}") from error
        return following, self._answer(logits)

    def _given(self, values: Float32 | Hidden) -> Hidden:
        return check_hidden(values, self._artefact) if self._takes_hidden else self._window(values)

    def _forward(self, given: Hidden) -> tuple[Hidden | None, Float32]:
        try:
            *hidden, logits = self._session.run(None, {self._artefact.input.name: given})
        except Exception as error:  # onnxruntime's errors share no base but Exception.
            raise VerificationError(f"{self._artefact.path}: onnxruntime failed to run it: {error!s:.300}") from error
        return (hidden[0] if hidden else None), self._answer(logits)

    def _answer(self, logits: Hidden) -> Float32:
        if self._output.dtype == "int8":
            logits = dequantise(logits, *_scale(self._output, self._artefact))
        return check_logits(logits, self._artefact)

    @property
    def info(self) -> dict[str, str]:
        """See `Engine.info`."""
        return {"engine": self._name, **session_info(self._session), "threads": str(self._threads)}

    @staticmethod
    def import_library() -> None:
        """See `Engine.import_library`."""
        onnxruntime_library()

    def _check_tensors(self) -> None:
        artefact = self._artefact
        _check_all("input", self._session.get_inputs(), artefact.inputs, artefact)
        _check_all("output", self._session.get_outputs(), artefact.outputs, artefact)


class TensorRTReference(OnnxEngine):
    """Runs a TensorRT artefact in onnxruntime, on the CPU and without TensorRT: what its parity was measured with."""

    format = "tensorrt"
    _name = "tensorrt-reference"


def onnxruntime_library() -> Any:
    """Microsoft's Python package. Raises UnsupportedError: it is not installed."""
    # Since 1.31 it counts its use for its maker, by default: a device ID and a database in the home folder, a thread,
    # and uploads. Read once, at import; who sets the variable otherwise is not overruled.
    os.environ.setdefault(_NO_TELEMETRY, "1")
    try:
        return importlib.import_module("onnxruntime")
    except ModuleNotFoundError as error:
        raise UnsupportedError(
            "engine 'onnx' needs onnxruntime, which is not installed: pip install 'edgeaudio[runtime-onnx]'"
        ) from error


def open_session(path: str, payload: bytes, threads: int) -> Any:
    """A session on the CPU; `path` is for messages.

    Raises:
        UnsupportedError: onnxruntime is not installed, or lacks an operator of the graph.
        BundleError: not an ONNX model.
    """
    onnxruntime = onnxruntime_library()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    options.log_severity_level = _LOG_ERRORS_ONLY
    try:
        return onnxruntime.InferenceSession(payload, sess_options=options, providers=[PROVIDER])
    except Exception as error:  # onnxruntime's errors share no base but Exception.
        message = " ".join(str(error).split())
        if any(sign in message for sign in _LACKS_AN_OPERATOR):
            raise UnsupportedError(f"{path}: this onnxruntime lacks an operator: {message:.600}") from error
        raise BundleError(f"{path}: onnxruntime refuses the model: {message:.600}") from error


def session_info(session: Any) -> dict[str, str]:
    """Library, version, and the providers that `session` has now: onnxruntime may take others than it was given."""
    version = onnxruntime_library().__version__
    return {"library": "onnxruntime", "version": version, "provider": ", ".join(session.get_providers())}


def _check_all(role: str, given: list[Any], wanted: tuple[TensorInfo, ...], artefact: ModelFile) -> None:
    names, wanted_names = [tensor.name for tensor in given], [info.name for info in wanted]
    if names != wanted_names:
        raise BundleError(f"{artefact.path}: {role}s of the model are {names}, the manifest says {wanted_names}")
    for tensor, info in zip(given, wanted, strict=True):
        check_tensor(role, tuple(tensor.shape), _DTYPES.get(tensor.type, tensor.type), info, artefact)


def _scale(info: TensorInfo, artefact: ModelFile) -> tuple[float, int]:
    # ONNX tensors carry no scale of their own, so the manifest must.
    if info.scale is None or info.zero_point is None:
        raise BundleError(f"{artefact.name}: {info.name!r} is int8 but has no scale and zero_point in the manifest")
    return info.scale, info.zero_point
