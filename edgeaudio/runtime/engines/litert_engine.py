"""TFLite artefacts on LiteRT (`ai_edge_litert`), or on `tflite_runtime` where only that is installed."""

from __future__ import annotations

import importlib
import importlib.metadata
from typing import Any

import numpy as np

from edgeaudio.bundle.manifest import Artefact, TensorInfo
from edgeaudio.errors import BundleError, ConfigError, UnsupportedError, VerificationError
from edgeaudio.runtime.engines.base import Float32
from edgeaudio.runtime.engines.tensors import check_log_mel, check_logits, check_tensor, dequantise, quantise

# Same interpreter, two packages; the first that is installed runs and is named in `info`.
_PACKAGES = {"ai-edge-litert": "ai_edge_litert.interpreter", "tflite-runtime": "tflite_runtime.interpreter"}
# What LiteRT's messages say where the model is sound but this build of the library is too small or too old.
_LACKS_AN_OPERATOR = ("unresolved custom op", "Didn't find op for builtin opcode", "builtin_code out of range")


class LiteRTEngine:
    """Runs a TFLite artefact with the library's default delegate. One instance per thread."""

    format = "tflite"

    def __init__(self, artefact: Artefact, payload: bytes, *, threads: int = 1) -> None:
        """Build the interpreter from verified bytes.

        Raises:
            UnsupportedError: neither package is installed, or an operator is unknown to it.
            BundleError: not a TFLite model, or its tensors are not those of the manifest.
        """
        if threads < 1:
            raise ConfigError(f"threads is {threads}, wanted at least 1")
        self._artefact = artefact
        self._threads = threads
        self._package, library = _library(artefact)
        self._interpreter = _interpreter(library, artefact, payload, threads)
        inputs, outputs = self._interpreter.get_input_details(), self._interpreter.get_output_details()
        _check_all("input", inputs, (artefact.input,), artefact)
        _check_all("output", outputs, artefact.outputs, artefact)
        self._input, self._output = inputs[0], outputs[-1]

    def run(self, log_mel: Float32) -> Float32:
        """See `Engine.run`."""
        window: np.ndarray[Any, Any] = check_log_mel(log_mel, self._artefact)
        if self._input["dtype"] == np.int8:
            window = quantise(window, *self._input["quantization"])
        self._interpreter.set_tensor(self._input["index"], window)
        try:
            self._interpreter.invoke()
        except RuntimeError as error:
            raise VerificationError(f"{self._artefact.path}: LiteRT failed to run it: {error!s:.300}") from error
        logits = self._interpreter.get_tensor(self._output["index"])  # A copy, not a view of the arena.
        if self._output["dtype"] == np.int8:
            logits = dequantise(logits, *self._output["quantization"])
        return check_logits(logits, self._artefact)

    @property
    def info(self) -> dict[str, str]:
        """See `Engine.info`."""
        return {
            "engine": "litert",
            "library": self._package,
            "version": importlib.metadata.version(self._package),
            "delegate": "library default",
            "threads": str(self._threads),
        }


def _library(artefact: Artefact) -> tuple[str, Any]:
    for package, module in _PACKAGES.items():
        try:
            return package, importlib.import_module(module)
        except ModuleNotFoundError as error:
            # Only a missing package is "not installed"; a broken one must not be passed over.
            if error.name not in (module, module.partition(".")[0]):
                raise UnsupportedError(f"engine 'litert': {package} is installed but cannot load: {error}") from error
    raise UnsupportedError(
        f"engine 'litert' needs ai-edge-litert to run {artefact.name}: pip install 'edgeaudio[runtime-litert]'"
    )


def _interpreter(library: Any, artefact: Artefact, payload: bytes, threads: int) -> Any:
    try:
        interpreter = library.Interpreter(model_content=payload, num_threads=threads)
        interpreter.allocate_tensors()
    except (ValueError, RuntimeError) as error:
        message = " ".join(str(error).split())[:300]
        if any(sign in message for sign in _LACKS_AN_OPERATOR):
            raise UnsupportedError(f"{artefact.path}: this LiteRT lacks an operator: {message}") from error
        raise BundleError(f"{artefact.path}: LiteRT refuses the model: {message}") from error
    return interpreter


def _check_all(role: str, given: list[dict[str, Any]], wanted: tuple[TensorInfo, ...], artefact: Artefact) -> None:
    # Names are the converter's own ("serving_default_args_0:0") and say nothing: position counts.
    if len(given) != len(wanted):
        raise BundleError(f"{artefact.path}: the model has {len(given)} {role}s, the manifest says {len(wanted)}")
    for details, info in zip(given, wanted, strict=True):
        shape = tuple(int(size) for size in details["shape"])
        check_tensor(role, shape, np.dtype(details["dtype"]).name, info, artefact)
        if info.dtype == "int8":
            _check_scale(role, details["quantization"], info, artefact)


def _check_scale(role: str, given: tuple[float, int], info: TensorInfo, artefact: Artefact) -> None:
    scale, zero_point = given
    # The model's float32 scale and the manifest's JSON number need not print alike.
    same_scale = info.scale is None or np.isclose(scale, info.scale, rtol=1e-6, atol=0)
    if scale <= 0 or not same_scale or info.zero_point not in (None, zero_point):
        raise BundleError(
            f"{artefact.path}: {role} {info.name!r} has scale {scale} and zero point {zero_point}, "
            f"the manifest says {info.scale} and {info.zero_point}"
        )
