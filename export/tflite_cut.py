"""Cuts one exported TFLite graph into stages. What each computes, bit for bit, is what the whole graph computes."""

from __future__ import annotations

import copy
from typing import Any

import flatbuffers  # type: ignore[import-untyped]
import numpy as np
from ai_edge_litert import schema_py_generated as schema

from edgeaudio.bundle.manifest import TensorInfo
from edgeaudio.errors import VerificationError

from . import tflite_graph
from .artefact import INPUT_NAME, OUTPUT_NAME

_DTYPES = {
    schema.TensorType.FLOAT32: "float32",
    schema.TensorType.INT8: "int8",
    schema.TensorType.UINT8: "uint8",
}
# What the converter puts between a hidden tensor and the output that shows it.
_DRESSING = (schema.BuiltinOperator.TRANSPOSE, schema.BuiltinOperator.DEQUANTIZE)


def cut_tflite(payload: bytes) -> list[tuple[bytes, TensorInfo, tuple[TensorInfo, ...]]]:
    """Stages of a graph whose outputs are (hidden 0, logits 0, hidden 1, ..., final logits).

    A hidden tensor is handed on as the kernels lay it out, quantised where it is, so its axes need not be those
    of the student.

    Returns:
        For each stage its bytes, its input and its outputs.
    Raises:
        VerificationError: a stage reads more than what the stage before leaves.
    """
    model = schema.ModelT.InitFromPackedBuf(payload, 0)
    (graph,) = model.subgraphs
    outputs = [int(number) for number in graph.outputs]
    _cancel_transposes(model)
    borders = [int(graph.inputs[0]), *(_undressed(model, number) for number in outputs[:-1:2])]
    stages = []
    for number, logits in enumerate([*outputs[1:-1:2], outputs[-1]]):
        gives = [*borders[number + 1 : number + 2], logits]
        input_name = f"hidden{number - 1}" if number else INPUT_NAME
        output_names = [f"hidden{number}", OUTPUT_NAME][-len(gives) :]
        stage = tflite_graph.compact(
            _pack(_stage(model, borders[number], gives)), input_names=[input_name], output_names=output_names
        )
        infos = [_info(graph.tensors[at], name) for at, name in zip(gives, output_names, strict=True)]
        stages.append((stage, _info(graph.tensors[borders[number]], input_name), tuple(infos)))
    return stages


def tidy_steps(payload: bytes) -> bytes:
    """A converted stateful graph with its ends in the order of its module, without transposes to and fro."""
    model = schema.ModelT.InitFromPackedBuf(payload, 0)
    (graph,) = model.subgraphs
    (signature,) = model.signatureDefs
    takes = [int(end.tensorIndex) for end in _numbered(signature.inputs)]
    same = _cancel_transposes(model)
    gives = [same.get(at, at) for at in (int(end.tensorIndex) for end in _numbered(signature.outputs))]
    needed, kept = set(gives), []
    for operator in reversed(graph.operators):  # The order of a TFLite graph is topological.
        if needed.intersection(map(int, operator.outputs)):
            needed.update(map(int, operator.inputs))
            kept.append(operator)
    return _pack(_extract(model, kept[::-1], takes, gives))


def _numbered(ends: list[Any]) -> list[Any]:
    """`args_0`, `args_1`, ... in the order of their numbers."""
    return sorted(ends, key=lambda end: int(end.name.rpartition(b"_")[2]))


def tensor_infos(payload: bytes) -> tuple[tuple[TensorInfo, ...], tuple[TensorInfo, ...]]:
    """Inputs and outputs of a file, by their names in it."""
    model = schema.ModelT.InitFromPackedBuf(payload, 0)
    (graph,) = model.subgraphs
    inputs, outputs = (
        tuple(_info(graph.tensors[at], graph.tensors[at].name.decode()) for at in ends)
        for ends in (graph.inputs, graph.outputs)
    )
    return inputs, outputs


def _cancel_transposes(model: Any) -> dict[int, int]:
    """Let whatever reads a tensor that was transposed to and fro read the tensor itself; from copy to tensor."""
    (graph,) = model.subgraphs
    same = {}
    for second in graph.operators:
        if not _is(model, second, schema.BuiltinOperator.TRANSPOSE):
            continue
        first = _maker(graph, second.inputs[0])
        if first is None or not _is(model, first, schema.BuiltinOperator.TRANSPOSE):
            continue
        there, back = (_constant(model, operator.inputs[1]) for operator in (first, second))
        if [there[axis] for axis in back] == list(range(len(there))):
            for operator in graph.operators:
                operator.inputs = [first.inputs[0] if at == second.outputs[0] else at for at in operator.inputs]
            same[int(second.outputs[0])] = int(first.inputs[0])
    return same


def _undressed(model: Any, number: int) -> int:
    """The hidden tensor behind a declared output."""
    (graph,) = model.subgraphs
    while (maker := _maker(graph, number)) is not None and any(_is(model, maker, kind) for kind in _DRESSING):
        number = int(maker.inputs[0])
    return number


def _stage(model: Any, takes: int, gives: list[int]) -> Any:
    (graph,) = model.subgraphs
    operators: list[Any] = []
    wanted = set(gives)
    for operator in reversed(graph.operators):  # The order of a TFLite graph is topological.
        if wanted.intersection(map(int, operator.outputs)) and takes not in operator.outputs:
            operators.insert(0, operator)
            wanted.update(int(at) for at in operator.inputs if at >= 0)
    made = {int(at) for operator in operators for at in operator.outputs}
    missing = [at for at in wanted - made - {takes} if model.buffers[graph.tensors[at].buffer].data is None]
    if missing:
        raise VerificationError(
            f"tflite: the stage that gives tensors {gives} also reads tensors {sorted(missing)}; "
            "an exit must follow a section that all later ones depend on alone"
        )
    return _extract(model, operators, [takes], gives)


def _extract(model: Any, operators: list[Any], takes: list[int], gives: list[int]) -> Any:
    """A model of those operators alone, with the tensors, buffers and operator codes that they use."""
    (graph,) = model.subgraphs
    used = [{*takes, *gives}, *({int(at) for at in (*op.inputs, *op.outputs) if at >= 0} for op in operators)]
    tensors = {at: number for number, at in enumerate(sorted(set.union(*used)))}
    codes = {code: number for number, code in enumerate(sorted({op.opcodeIndex for op in operators}))}
    # Buffer 0 stands for "no data" in every model.
    held = sorted({graph.tensors[at].buffer for at in tensors} - {0})
    buffers = {0: 0} | {buffer: number for number, buffer in enumerate(held, start=1)}

    stage, part = schema.ModelT(), schema.SubGraphT()
    part.tensors = [copy.copy(graph.tensors[at]) for at in tensors]
    for tensor in part.tensors:
        tensor.buffer = buffers[tensor.buffer]
    part.operators = [copy.copy(operator) for operator in operators]
    for operator in part.operators:
        operator.opcodeIndex = codes[operator.opcodeIndex]
        operator.inputs = [tensors.get(int(at), -1) for at in operator.inputs]
        operator.outputs = [tensors[int(at)] for at in operator.outputs]
    part.inputs, part.outputs = [tensors[at] for at in takes], [tensors[at] for at in gives]
    stage.version = model.version
    stage.operatorCodes = [model.operatorCodes[code] for code in codes]
    stage.buffers = [model.buffers[buffer] for buffer in buffers]
    stage.subgraphs = [part]
    return stage


def _pack(model: Any) -> bytes:
    builder = flatbuffers.Builder(0)
    builder.Finish(model.Pack(builder), file_identifier=b"TFL3")
    return bytes(builder.Output())


def _maker(graph: Any, number: int) -> Any:
    return next((operator for operator in graph.operators if number in operator.outputs), None)


def _is(model: Any, operator: Any, kind: int) -> bool:
    code = model.operatorCodes[operator.opcodeIndex]
    # Old readers look at the deprecated field; the newer one holds what does not fit a byte.
    return bool(max(code.builtinCode, code.deprecatedBuiltinCode) == kind)


def _constant(model: Any, number: int) -> list[int]:
    (graph,) = model.subgraphs
    data = model.buffers[graph.tensors[number].buffer].data
    if data is None:
        return []
    return [int(value) for value in np.asarray(data, np.uint8).view(np.int32)]


def _info(tensor: Any, name: str) -> TensorInfo:
    dtype = _DTYPES.get(tensor.type)
    if dtype is None:
        raise VerificationError(f"tflite: {name} has tensor type {tensor.type}, wanted float32, int8 or uint8")
    shape = tuple(int(length) for length in tensor.shape)
    if dtype == "float32":
        return TensorInfo(name=name, shape=shape)
    scale, zero_point = float(tensor.quantization.scale[0]), int(tensor.quantization.zeroPoint[0])
    return TensorInfo(name=name, shape=shape, dtype=dtype, scale=scale, zero_point=zero_point)
