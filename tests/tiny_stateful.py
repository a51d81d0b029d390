"""The tiny bundle with a stateful form in all four model forms, made by hand in milliseconds. No torch.

The state is what a step keeps of the last window: its newest frames. A `slip` makes a wrong twin, whose state is that
many frames too old.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

import numpy as np

from edgeaudio.bundle import Bundle, Golden, Stateful, StatefulArtefact, bundle_bytes, file_entry
from edgeaudio.bundle.manifest import StateInfo, TensorInfo
from tests import tiny_bundle as tiny

STEP_FRAMES = tiny.WINDOW.hop_frames
MACS_PER_STEP = 1728


def _kept(step: int) -> int:
    return tiny.WINDOW.frames - step


def _onnx_step(step: int, slip: int, *, int8: bool) -> bytes:
    from onnx import TensorProto, helper, numpy_helper

    matrix, bias = tiny.weights()
    constants: dict[str, Any] = {
        "w": matrix,
        "b": bias,
        "first": np.array([step - slip], np.int64),
        "end": np.array([tiny.WINDOW.frames - slip], np.int64),
        "axis": np.array([1], np.int64),
    }
    nodes = [
        helper.make_node("Concat", ["state0", "log_mel"], ["held"], axis=1),
        helper.make_node("Slice", ["held", "first", "end", "axis"], ["state0_next"]),
        helper.make_node("Flatten", ["float_held" if int8 else "held"], ["flat"], axis=1),
        helper.make_node("Gemm", ["flat", "w", "b"], ["float_out" if int8 else "logits"], transB=1),
    ]
    if int8:
        constants |= {"s": np.float32(tiny.INPUT_SCALE), "z": np.int8(tiny.INPUT_ZERO_POINT)}
        constants |= {"os": np.float32(tiny.OUTPUT_SCALE), "oz": np.int8(tiny.OUTPUT_ZERO_POINT)}
        nodes.insert(2, helper.make_node("DequantizeLinear", ["held", "s", "z"], ["float_held"]))
        nodes.append(helper.make_node("QuantizeLinear", ["float_out", "os", "oz"], ["logits"]))
    dtype = TensorProto.INT8 if int8 else TensorProto.FLOAT
    shapes = {"log_mel": (1, step, 64), "state0": (1, _kept(step), 64), "state0_next": (1, _kept(step), 64)}
    value = {name: helper.make_tensor_value_info(name, dtype, shape) for name, shape in shapes.items()}
    value["logits"] = helper.make_tensor_value_info("logits", dtype, (1, len(tiny.LABELS)))
    graph = helper.make_graph(
        nodes,
        "tiny",
        [value["log_mel"], value["state0"]],
        [value["state0_next"], value["logits"]],
        [numpy_helper.from_array(np.asarray(constant), name) for name, constant in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return model.SerializeToString()


def _tflite_step(step: int, slip: int, *, int8: bool) -> bytes:
    """The whole model behind a concatenation; the slice of it is the next state."""
    import copy

    import flatbuffers
    from ai_edge_litert import schema_py_generated as schema

    model = schema.ModelT.InitFromPackedBuf(tiny.tflite_model(int8=int8), 0)
    (graph,) = model.subgraphs
    (given,), (reshape, _) = graph.inputs, graph.operators

    def like_input(name: str, frames: int) -> int:
        tensor = copy.deepcopy(graph.tensors[given])
        tensor.name, tensor.shape = name.encode(), [1, frames, 64]
        graph.tensors.append(tensor)
        return len(graph.tensors) - 1

    def constant(values: list[int]) -> int:
        buffer, tensor = schema.BufferT(), schema.TensorT()
        buffer.data = np.frombuffer(np.array(values, np.int32).tobytes(), np.uint8)
        model.buffers.append(buffer)
        tensor.name, tensor.shape, tensor.type = b"", [len(values)], schema.TensorType.INT32
        tensor.buffer = len(model.buffers) - 1
        graph.tensors.append(tensor)
        return len(graph.tensors) - 1

    def operator(builtin: int, inputs: list[int], output: int) -> Any:
        code, made = schema.OperatorCodeT(), schema.OperatorT()
        code.builtinCode = code.deprecatedBuiltinCode = builtin
        code.version = 2 if int8 else 1
        model.operatorCodes.append(code)
        made.opcodeIndex, made.inputs, made.outputs = len(model.operatorCodes) - 1, inputs, [output]
        return made

    graph.tensors[given].shape = [1, step, 64]
    state, held, following = (
        like_input(name, frames)
        for name, frames in (("state0", _kept(step)), ("held", tiny.WINDOW.frames), ("state0_next", _kept(step)))
    )
    join = operator(schema.BuiltinOperator.CONCATENATION, [state, given], held)
    join.builtinOptionsType = schema.BuiltinOptions.ConcatenationOptions
    join.builtinOptions = schema.ConcatenationOptionsT()
    join.builtinOptions.axis = 1
    begin, size = constant([0, step - slip, 0]), constant([1, _kept(step), 64])
    cut = operator(schema.BuiltinOperator.SLICE, [held, begin, size], following)
    reshape.inputs = [held]
    graph.operators = [join, cut, *graph.operators]
    graph.inputs, graph.outputs = [given, state], [following, *graph.outputs]
    builder = flatbuffers.Builder(4096)
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())


@functools.cache
def step_payload(format: str, precision: str, step: int = STEP_FRAMES, slip: int = 0) -> bytes:
    make = _onnx_step if format == "onnx" else _tflite_step
    return make(step, slip, int8=precision == "int8")


def stateful_artefact(format: str, precision: str, step: int = STEP_FRAMES, slip: int = 0) -> StatefulArtefact:
    """The manifest's record of one of them."""
    whole = tiny.artefact(format, precision, b"")
    payload = step_payload(format, precision, step, slip)
    quantised = whole.input.model_dump(include={"dtype", "scale", "zero_point"})
    state = StateInfo(name="state0", shape=(1, _kept(step), 64), **quantised)
    return StatefulArtefact(
        **file_entry(f"stateful/{precision}.{format}", payload).model_dump(),
        format=whole.format,
        precision=whole.precision,
        input=TensorInfo(name="log_mel", shape=(1, step, 64), **quantised),
        outputs=(state.as_output("state0_next"), *whole.outputs),
        states=(state,),
        logit_step=whole.outputs[-1].scale,
    )


def stateful(step: int = STEP_FRAMES, slip: int = 0) -> Stateful:
    """All four."""
    artefacts = [stateful_artefact(*key, step, slip) for key in tiny.payloads()]
    return Stateful.of(tiny.WINDOW, step, MACS_PER_STEP, artefacts)


def payloads(step: int = STEP_FRAMES, slip: int = 0) -> Mapping[str, bytes]:
    """Entry path -> bytes."""
    return {f"stateful/{key[1]}.{key[0]}": step_payload(*key, step, slip) for key in tiny.payloads()}


@functools.cache
def stateful_bytes(step: int = STEP_FRAMES, slip: int = 0) -> bytes:
    """`tiny.tiny_bytes()` with its stateful form."""
    whole = tiny.tiny_bundle()
    logits = dict(whole.golden.logits)
    logits |= {f"{name}-stateful": values for name, values in whole.golden.logits.items()}
    golden = Golden(whole.golden.waveform, whole.golden.log_mel, logits)
    manifest = tiny.manifest(whole.manifest.artefacts, golden, stateful=stateful(step, slip))
    files = {artefact.path: whole.payload(artefact) for artefact in whole.manifest.artefacts}
    return bundle_bytes(manifest, {**files, **payloads(step, slip)}, golden)


def stateful_bundle(step: int = STEP_FRAMES, slip: int = 0) -> Bundle:
    """`stateful_bytes`, read."""
    return Bundle.read(stateful_bytes(step, slip))
