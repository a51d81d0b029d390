"""TFLite artefacts on LiteRT (`ai_edge_litert`), or on `tflite_runtime` where only that is installed."""

from __future__ import annotations

import importlib
import importlib.metadata
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from edgeaudio.bundle.manifest import ModelFile, TensorInfo
from edgeaudio.errors import BundleError, ConfigError, UnsupportedError, VerificationError
from edgeaudio.runtime.engines.base import Float32, Hidden
from edgeaudio.runtime.engines.tensors import (
    check_hidden,
    check_log_mel,
    check_logits,
    check_states,
    check_tensor,
    dequantise,
    quantise,
    takes_hidden,
)

# Same interpreter, two packages; the first that is installed runs and is named in `info`.
_PACKAGES = {"ai-edge-litert": "ai_edge_litert.interpreter", "tflite-runtime": "tflite_runtime.interpreter"}
_DELEGATE = "DELEGATE"
_LITERT = ("ai-edge-litert", "'edgeaudio[runtime-litert]'")
# What LiteRT's messages say where the model is sound but this build of the library is too small or too old.
_LACKS_AN_OPERATOR = ("unresolved custom op", "Didn't find op for builtin opcode", "builtin_code out of range")


class LiteRTEngine:
    """Runs a TFLite artefact with the library's default delegate. One instance per thread."""

    format = "tflite"

    def __init__(self, artefact: ModelFile, payload: bytes, *, threads: int = 1) -> None:
        """Build the interpreter from verified bytes.

        Raises:
            UnsupportedError: neither package is installed, or an operator is unknown to it.
            BundleError: not a TFLite model, or its tensors are not those of the manifest.
        """
        if threads < 1:
            raise ConfigError(f"threads is {threads}, wanted at least 1")
        self._artefact = artefact
        self._takes_hidden = takes_hidden(artefact)
        self._threads = threads
        self._interpreter = open_interpreter(artefact.path, payload, threads)
        self._inputs, self._outputs = self._interpreter.get_input_details(), self._interpreter.get_output_details()
        _check_all("input", self._inputs, artefact.inputs, artefact)
        _check_all("output", self._outputs, artefact.outputs, artefact)
        self._input_numbers = [details["index"] for details in self._inputs]
        self._output_numbers = [details["index"] for details in self._outputs]

    def run(self, log_mel: Float32) -> Float32:
        """See `Engine.run`."""
        return self._forward(self._window(log_mel))[1]

    def run_stage(self, values: Float32 | Hidden) -> tuple[Hidden | None, Float32]:
        """See `Engine.run_stage`."""
        return self._forward(self._given(values))

    def _window(self, log_mel: Float32) -> Hidden:
        window = check_log_mel(log_mel, self._artefact)
        given = self._inputs[0]
        return quantise(window, *given["quantization"]) if given["dtype"] == np.int8 else window

    def run_step(self, values: Float32 | Hidden, states: Sequence[Hidden]) -> tuple[list[Hidden], Float32]:
        """See `Engine.run_step`."""
        given = self._given(values)
        try:
            return self._run(given, *states)
        except (ValueError, VerificationError):
            check_states(states, self._artefact)
            raise

    def _given(self, values: Float32 | Hidden) -> Hidden:
        return check_hidden(values, self._artefact) if self._takes_hidden else self._window(values)

    def _forward(self, given: Hidden) -> tuple[Hidden | None, Float32]:
        hidden, logits = self._run(given)
        return (hidden[0] if hidden else None), logits

    def _run(self, *given: Hidden) -> tuple[list[Hidden], Float32]:
        interpreter = self._interpreter
        for number, values in zip(self._input_numbers, given, strict=True):
            interpreter.set_tensor(number, values)
        try:
            interpreter.invoke()
        except RuntimeError as error:
            raise VerificationError(f"{self._artefact.path}: LiteRT failed to run it: {error!s:.300}") from error
        # get_tensor gives a copy, not a view of the arena.
        *hidden, logits = [interpreter.get_tensor(number) for number in self._output_numbers]
        output = self._outputs[-1]
        if output["dtype"] == np.int8:
            logits = dequantise(logits, *output["quantization"])
        return hidden, check_logits(logits, self._artefact)

    @property
    def info(self) -> dict[str, str]:
        """See `Engine.info`."""
        return {"engine": "litert", **interpreter_info(self._interpreter), "threads": str(self._threads)}

    @staticmethod
    def import_library() -> None:
        """See `Engine.import_library`."""
        litert_library()


def litert_library() -> tuple[str, Any]:
    """Name and module of the package that is installed. Raises UnsupportedError: none is, or it cannot load."""
    for package, module in _PACKAGES.items():
        try:
            return package, importlib.import_module(module)
        except ModuleNotFoundError as error:
            # Only a missing package is "not installed"; a broken one must not be passed over.
            if error.name not in (module, module.partition(".")[0]):
                raise UnsupportedError(f"engine 'litert': {package} is installed but cannot load: {error}") from error
    # LiteRT has no wheel for Python of 32 bits; its forerunner has, built against NumPy 1.
    wanted = ("tflite-runtime", "'edgeaudio[runtime-tflite]' 'numpy<2'") if sys.maxsize < 2**32 else _LITERT
    raise UnsupportedError(f"engine 'litert' needs {wanted[0]}, which is not installed: pip install {wanted[1]}")


def open_interpreter(path: str, payload: bytes, threads: int) -> Any:
    """An interpreter with the library's default delegate and its tensors allocated; `path` is for messages.

    Raises:
        UnsupportedError: no package is installed, or it lacks an operator.
        BundleError: not a TFLite model.
    """
    _, library = litert_library()
    try:
        interpreter = library.Interpreter(model_content=payload, num_threads=threads)
        interpreter.allocate_tensors()
    except (ValueError, RuntimeError) as error:
        message = " ".join(str(error).split())[:300]
        if any(sign in message for sign in _LACKS_AN_OPERATOR):
            raise UnsupportedError(f"{path}: this LiteRT lacks an operator: {message}") from error
        raise BundleError(f"{path}: LiteRT refuses the model: {message}") from error
    return interpreter


def interpreter_info(interpreter: Any) -> dict[str, str]:
    """Library, version, and what the default delegate, XNNPACK, took of the graph.

    It is silent where it does not start, as on a machine whose processor it cannot tell: then `delegate` is "none".
    """
    package, _ = litert_library()
    n_taken, n_operators = delegated_operators(interpreter._get_ops_details())
    return {
        "library": package,
        "version": importlib.metadata.version(package),
        "delegate": "XNNPACK" if n_taken else "none",
        "delegated": f"{n_taken} of {n_operators} operators",
    }


def delegated_operators(nodes: Sequence[Mapping[str, Any]]) -> tuple[int, int]:
    """(operators that a delegate took, operators of the file), from the interpreter's own list of nodes.

    The list holds the file's operators, then a DELEGATE for each stretch that was taken: whatever leads from its inputs
    to its outputs.
    """
    operators = [node for node in nodes if node["op_name"] != _DELEGATE]
    made_by = {int(tensor): index for index, node in enumerate(operators) for tensor in node["outputs"]}
    taken: set[int] = set()
    for delegate in (node for node in nodes if node["op_name"] == _DELEGATE):
        given = {int(tensor) for tensor in delegate["inputs"]}
        wanted = [int(tensor) for tensor in delegate["outputs"]]
        while wanted:
            tensor = wanted.pop()
            if tensor in made_by and tensor not in given and made_by[tensor] not in taken:
                taken.add(made_by[tensor])
                wanted += [int(source) for source in operators[made_by[tensor]]["inputs"]]
    return len(taken), len(operators)


def _check_all(role: str, given: list[dict[str, Any]], wanted: tuple[TensorInfo, ...], artefact: ModelFile) -> None:
    # Names are the converter's own ("serving_default_args_0:0") and say nothing: position counts.
    if len(given) != len(wanted):
        raise BundleError(f"{artefact.path}: the model has {len(given)} {role}s, the manifest says {len(wanted)}")
    for details, info in zip(given, wanted, strict=True):
        shape = tuple(int(size) for size in details["shape"])
        check_tensor(role, shape, np.dtype(details["dtype"]).name, info, artefact)
        if info.dtype == "int8":
            _check_scale(role, details["quantization"], info, artefact)


def _check_scale(role: str, given: tuple[float, int], info: TensorInfo, artefact: ModelFile) -> None:
    scale, zero_point = given
    # The model's float32 scale and the manifest's JSON number need not print alike.
    same_scale = info.scale is None or np.isclose(scale, info.scale, rtol=1e-6, atol=0)
    if scale <= 0 or not same_scale or info.zero_point not in (None, zero_point):
        raise BundleError(
            f"{artefact.path}: {role} {info.name!r} has scale {scale} and zero point {zero_point}, "
            f"the manifest says {info.scale} and {info.zero_point}"
        )
