"""Runs inside the emulated machine: one model file, warm-up, then inferences between markers.

    python3.11 guest_inference.py REQUEST.json ANSWER.json

Needs one of onnxruntime and ai-edge-litert, and of edgeaudio the markers only: engines are set up by hand, so that
nothing of the runtime is counted.
"""

from __future__ import annotations

import functools
import hashlib
import json
import platform
import sys
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeaudio.bench.emulation.marks import marked

Array = NDArray[Any]
#: Pairs of markers before those of the inferences: nothing, and the conversion of the input.
EMPTY_PAIR, CONVERSION_PAIR, FIRST_INFERENCE_PAIR = 0, 1, 2


class Onnx:
    """onnxruntime as edgeaudio's engine sets it up: CPU provider, one thread, all optimisations."""

    def __init__(self, request: dict[str, Any]) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
        options.log_severity_level = 3
        options.optimized_model_filepath = request["optimised"]
        self._session = onnxruntime.InferenceSession(
            Path(request["model"]).read_bytes(), sess_options=options, providers=["CPUExecutionProvider"]
        )
        self._input = self._session.get_inputs()[0].name
        self.packages = {"onnxruntime": onnxruntime.__version__}
        #: The host reads the optimised graph.
        self.operators: list[str] = []
        self.whole_delegate = None

    def run(self, window: Array) -> Array:
        logits: Array = self._session.run(None, {self._input: window})[-1]
        return logits


class LiteRT:
    """ai-edge-litert as edgeaudio's engine sets it up: its default delegate, one thread."""

    def __init__(self, request: dict[str, Any]) -> None:
        from ai_edge_litert.interpreter import Interpreter

        self._interpreter = Interpreter(model_content=Path(request["model"]).read_bytes(), num_threads=1)
        self._interpreter.allocate_tensors()
        self._input = self._interpreter.get_input_details()[0]["index"]
        self._output = self._interpreter.get_output_details()[-1]["index"]
        self.packages = {"ai-edge-litert": version("ai-edge-litert")}
        # The nodes of the file, then those that a delegate put in their place.
        nodes = self._interpreter._get_ops_details()
        delegates = [node for node in nodes if node["op_name"] == "DELEGATE"]
        self.operators = [node["op_name"] for node in nodes if node["op_name"] != "DELEGATE"]
        self.whole_delegate = (
            len(delegates) == 1 and self._input in delegates[0]["inputs"] and self._output in delegates[0]["outputs"]
        )

    def run(self, window: Array) -> Array:
        self._interpreter.set_tensor(self._input, window)
        self._interpreter.invoke()
        logits: Array = self._interpreter.get_tensor(self._output)
        return logits


ENGINES: dict[str, Callable[[dict[str, Any]], Any]] = {"onnx": Onnx, "tflite": LiteRT}


def nothing(given: Array) -> Array:
    """What is counted around any work."""
    return given


def quantise(log_mel: Array, scale: float, zero_point: int) -> Array:
    """float32 -> int8 as edgeaudio's runtime does; the host checks that it is still so."""
    steps = np.rint(log_mel / np.float32(scale)) + np.float32(zero_point)
    return steps.clip(-128, 127).astype(np.int8)


def main() -> None:
    """See the module docstring."""
    request = json.loads(Path(sys.argv[1]).read_text())
    engine = ENGINES[request["format"]](request)
    # (n, 1, frames, n_mels) float32; an engine takes one window, in int8 where its input is.
    log_mel = np.load(request["log_mel"], allow_pickle=False)
    convert: Callable[[Array], Array] = nothing
    if request["scale"] is not None:
        convert = functools.partial(quantise, scale=request["scale"], zero_point=request["zero_point"])
    windows = convert(log_mel)
    outputs = [engine.run(window) for window in windows]
    for _ in range(request["warm_up"]):
        engine.run(windows[0])
    marked(EMPTY_PAIR, nothing, windows[0])
    marked(CONVERSION_PAIR, convert, log_mel[0])
    for index in range(request["inferences"]):
        marked(FIRST_INFERENCE_PAIR + index, engine.run, windows[index % len(windows)])
    answer = {
        "outputs": [output[0].tolist() for output in outputs],
        "windows_sha256": hashlib.sha256(windows.tobytes()).hexdigest(),
        "operators": engine.operators,
        "whole_delegate": engine.whole_delegate,
        "packages": {"numpy": np.__version__, "python": platform.python_version(), **engine.packages},
        "machine": platform.machine(),
    }
    Path(sys.argv[2]).write_text(json.dumps(answer))


if __name__ == "__main__":
    main()
