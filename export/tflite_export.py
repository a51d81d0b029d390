"""Student -> TFLite bytes through litert_torch (imported on first use, it takes seconds)."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

from edgeaudio.bundle.manifest import Precision, StateInfo, TensorInfo
from edgeaudio.compress.ptq import QuantisedStudent
from edgeaudio.compress.qdq import float_weight_sizes
from edgeaudio.compress.quiet import quiet_libraries
from edgeaudio.errors import VerificationError
from edgeaudio.runtime.engines.tensors import quantise

from .artefact import OUTPUT_NAME, ExportedArtefact, ExportedStateful, next_state
from .operators import Model, float_model, naming_operators, quantised_model
from .stateful_graph import StatefulGraph


def export_tflite(model: Model, example: torch.Tensor, precision: Precision) -> ExportedArtefact:
    """Export to TFLite; int8 files are int8 from input to output, with scales in `input` and `outputs`.

    Where layers were declared float, so are input and output, and just those layers between them.

    Args and errors as `export_onnx`.
    """
    options: dict[str, Any] = {}
    quantised: QuantisedStudent | None = None
    with contextlib.ExitStack() as stack, quiet_libraries("litert_torch"), naming_operators("tflite"):
        import litert_torch
        from litert_torch.quantize.quant_config import QuantConfig

        from . import tflite_graph

        if precision == "int8":
            quantised = quantised_model(model, precision, example)
            module: torch.nn.Module = quantised.unfolded
            options["quant_config"] = QuantConfig(pt2e_quantizer=quantised.quantizer)
            if quantised.keep_float:
                stack.enter_context(_float_layers_stay_float())
        else:
            module = float_model(model, precision, example)
        converted: bytes = litert_torch.convert(module, (example,), **options).model_content()
        payload = tflite_graph.compact(converted)
        interpreted = _Interpreted(payload)
        _check_same(_Interpreted(converted), interpreted)
    left_float = tflite_graph.float_activations(payload) if quantised is not None else ()
    if quantised is not None:
        _check_float_layers(payload, quantised, left_float)
    return ExportedArtefact("tflite", precision, payload, interpreted.input, interpreted.outputs, left_float)


def export_stateful_tflite(
    graph: StatefulGraph, precision: Precision, quantised: QuantisedStudent | None = None
) -> ExportedStateful:
    """The stateful form in TFLite: int8 files take and give int8 states, laid out as the kernels want them.

    Args:
        graph: of the student, or of `quantised.unfolded` without integer states.
    Raises:
        UnsupportedError: names the operator that TFLite lacks.
        VerificationError: an int8 file computes in float where no layer was declared so.
    """
    given = [state.name for state in graph.states]
    options: dict[str, Any] = {}
    with contextlib.ExitStack() as stack, quiet_libraries("litert_torch"), naming_operators("tflite"):
        import litert_torch
        from litert_torch.quantize.quant_config import QuantConfig

        from . import tflite_cut, tflite_graph

        if quantised is not None:
            options["quant_config"] = QuantConfig(pt2e_quantizer=quantised.quantizer)
            if quantised.keep_float:
                stack.enter_context(_float_layers_stay_float())
        converted: bytes = litert_torch.convert(graph.module, graph.example(), **options).model_content()
    payload = tflite_graph.compact(
        tflite_cut.tidy_steps(converted),
        input_names=[graph.input.name, *given],
        output_names=[*map(next_state, given), *([graph.hidden.name] if graph.hidden else []), OUTPUT_NAME],
    )
    if quantised is not None:
        _check_float_layers(payload, quantised, tflite_graph.float_activations(payload))
    inputs, outputs = tflite_cut.tensor_infos(payload)
    states = tuple(
        StateInfo(**info.model_dump(), phases=state.phases)
        for info, state in zip(inputs[1:], graph.states, strict=True)
    )
    return ExportedStateful(
        format="tflite",
        precision=precision,
        payload=payload,
        input=inputs[0],
        outputs=outputs,
        states=states,
        logit_step=graph.logit_step,
        macs_per_step=graph.macs_per_step,
        stage=graph.stage,
    )


@contextlib.contextmanager
def _float_layers_stay_float() -> Iterator[None]:
    """Make the converter believe the graph: it would quantise, unasked, a float layer between two int8 ones.

    Its setting for that is not reachable through litert_torch's interface, hence the patch. Input and output
    of the file become float. Should another version ignore the setting, `_check_float_layers` says so.
    """
    from litert_torch._convert import litert_converter

    library = litert_converter.converter_api_ext
    config_type = library.ConvertToTFLConfig

    def strict_config() -> Any:
        config = config_type()
        config.strict_qdq_mode = True
        return config

    library.ConvertToTFLConfig = strict_config
    try:
        yield
    finally:
        library.ConvertToTFLConfig = config_type


def _check_float_layers(payload: bytes, quantised: QuantisedStudent, left_float: tuple[str, ...]) -> None:
    """Exactly the declared layers compute in float: as many as declared, of their sizes, and nothing apart from them.

    Raises:
        VerificationError: says what the file does instead.
    """
    from . import tflite_graph

    declared = float_weight_sizes(quantised.folded)
    found, stray = tflite_graph.float_weights(payload)
    if not declared and left_float:
        raise VerificationError(f"tflite: {len(left_float)} activations of the int8 file are float: {left_float[:6]}")
    if found != declared or stray:
        raise VerificationError(
            f"tflite: layers {', '.join(quantised.keep_float)} were declared float (weights of {list(declared)} "
            f"elements); in the file those of {list(found)} elements are, and {len(stray)} activations besides. "
            "Leave tflite out of the formats, or declare a whole submodule"
        )


class _Interpreted:
    """A TFLite file in LiteRT, for what only the interpreter can say about it."""

    def __init__(self, payload: bytes) -> None:
        from ai_edge_litert.interpreter import Interpreter

        self._interpreter = Interpreter(model_content=payload, num_threads=1)
        self._interpreter.allocate_tensors()
        (self._input,) = self._interpreter.get_input_details()
        self._outputs = self._interpreter.get_output_details()
        self.input = _tensor_info(self._input)
        self.outputs = tuple(map(_tensor_info, self._outputs))

    def run(self, window: Any) -> Any:
        self._interpreter.set_tensor(self._input["index"], window)
        self._interpreter.invoke()
        return self._interpreter.get_tensor(self._outputs[-1]["index"])


def _check_same(converted: _Interpreted, compacted: _Interpreted) -> None:
    window: Any = np.random.default_rng(0).standard_normal(converted.input.shape).astype(np.float32)
    if converted.input.scale is not None and converted.input.zero_point is not None:
        window = quantise(window, converted.input.scale, converted.input.zero_point)
    if not np.array_equal(converted.run(window), compacted.run(window)):
        raise VerificationError("tflite: the compacted file computes something else than the converter's")


def _tensor_info(details: dict[str, Any]) -> TensorInfo:
    name, shape = details["name"], tuple(int(length) for length in details["shape"])
    if details["dtype"] is not np.int8:
        return TensorInfo(name=name, shape=shape, dtype=np.dtype(details["dtype"]).name)
    scale, zero_point = details["quantization"]
    return TensorInfo(name=name, shape=shape, dtype="int8", scale=scale, zero_point=zero_point)
