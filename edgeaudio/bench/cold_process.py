"""One cold start, in a process made for it: `python -m edgeaudio.bench.cold_process REQUEST`, both ways in JSON."""

from __future__ import annotations

import importlib
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any


def main() -> None:
    """Answer one window as soon as can be, then say what took how long."""
    request = json.loads(sys.argv[1])
    begun_ns = time.monotonic_ns()
    imported_ns, loaded_ns = (_foreign if "foreign" in request else _bundle)(request)
    answered_ns = time.monotonic_ns()
    answer = {
        "answered_ns": answered_ns,
        "import_ms": (imported_ns - begun_ns) / 1e6,
        "load_ms": (loaded_ns - imported_ns) / 1e6,
        "first_inference_ms": (answered_ns - loaded_ns) / 1e6,
        **_memory(),
    }
    sys.stdout.write(json.dumps(answer) + "\n")


def _bundle(request: dict[str, Any]) -> tuple[int, int]:
    """As `edgeaudio stream` comes up: package, library, verified bundle, classifier, one window of samples."""
    from edgeaudio.bundle import Bundle
    from edgeaudio.catalog import resolve
    from edgeaudio.runtime.classifier import Classifier, ProbsStream

    resolve("engines", request["classifier"]["engine"]).import_library()
    imported_ns = time.monotonic_ns()
    bundle = Bundle.read(Path(request["bundle"]))
    classifier = Classifier(bundle, **request["classifier"])
    loaded_ns = time.monotonic_ns()
    (window,) = ProbsStream(classifier).feed(bundle.golden.waveform[0])
    assert len(window.probs) == len(classifier.labels.names)
    return imported_ns, loaded_ns


def _foreign(request: dict[str, Any]) -> tuple[int, int]:
    """A foreign file as its own users would start it: its library and nothing of edgeaudio."""
    import numpy as np

    given = [np.zeros(shape, dtype) for shape, dtype in request["inputs"]]
    library = importlib.import_module(request["library"])
    imported_ns = time.monotonic_ns()
    answer = (_onnx if request["format"] == "onnx" else _tflite)(library, request, given)
    loaded_ns = time.monotonic_ns()
    answer()
    return imported_ns, loaded_ns


def _onnx(library: Any, request: dict[str, Any], given: list[Any]) -> Callable[[], object]:
    options = library.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = request["threads"], 1
    options.log_severity_level = 3
    session = library.InferenceSession(request["foreign"], options, providers=["CPUExecutionProvider"])
    inputs = {one.name: values for one, values in zip(session.get_inputs(), given, strict=True)}
    return lambda: session.run(None, inputs)


def _tflite(library: Any, request: dict[str, Any], given: list[Any]) -> Callable[[], object]:
    interpreter = library.Interpreter(request["foreign"], num_threads=request["threads"])
    numbers = [one["index"] for one in interpreter.get_input_details()]
    for number, values in zip(numbers, given, strict=True):
        interpreter.resize_tensor_input(number, values.shape)
    interpreter.allocate_tensors()

    def answer() -> None:
        for number, values in zip(numbers, given, strict=True):
            interpreter.set_tensor(number, values)
        interpreter.invoke()

    return answer


def _memory() -> dict[str, int | None]:
    """Bytes: the most that was resident, and this process's share of what is resident now."""
    from edgeaudio.bench.memory import peak_rss_bytes, pss_bytes

    return {"peak_rss_bytes": peak_rss_bytes(), "pss_bytes": pss_bytes()}


if __name__ == "__main__":
    main()
