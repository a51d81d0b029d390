"""Cuts one exported ONNX graph into stages. What each computes, bit for bit, is what the whole graph computes."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import onnx
from onnx import numpy_helper

from edgeaudio.bundle.manifest import TensorInfo
from edgeaudio.errors import VerificationError

from . import onnx_graph
from .artefact import INPUT_NAME, OUTPUT_NAME

_ONNX_DTYPES = {
    "float32": onnx.TensorProto.FLOAT,
    "int8": onnx.TensorProto.INT8,
    "uint8": onnx.TensorProto.UINT8,
}


@dataclass(frozen=True)
class _Border:
    """A tensor of the whole graph, and what it becomes between two stages."""

    tensor: str
    info: TensorInfo


def cut_onnx(payload: bytes) -> list[tuple[bytes, TensorInfo, tuple[TensorInfo, ...]]]:
    """Stages of a graph whose outputs are (hidden 0, logits 0, hidden 1, ..., final logits).

    A quantised hidden tensor is handed on as it is, without a way through float.

    Returns:
        For each stage its bytes, its input and its outputs.
    Raises:
        VerificationError: a stage reads more than what the stage before leaves.
    """
    model = onnx.load_from_string(payload)
    graph = model.graph
    outputs = list(graph.output)
    borders = [_Border(graph.input[0].name, TensorInfo(name=INPUT_NAME, shape=onnx_graph.tensor_shape(graph.input[0])))]
    borders += [_border(graph, value, number) for number, value in enumerate(outputs[:-1:2])]
    logits = [value.name for value in (*outputs[1:-1:2], outputs[-1])]
    shape = onnx_graph.tensor_shape(outputs[-1])
    stages = []
    for number, name in enumerate(logits):
        gives = [_Border(name, TensorInfo(name=OUTPUT_NAME, shape=shape))]
        if number + 1 < len(borders):
            gives.insert(0, borders[number + 1])
        stage = _stage(model, borders[number], gives)
        stages.append((stage, borders[number].info, tuple(border.info for border in gives)))
    return stages


def _border(graph: onnx.GraphProto, value: onnx.ValueInfoProto, number: int) -> _Border:
    """The tensor behind a declared hidden output: the quantised one where there is one."""
    shape, name = onnx_graph.tensor_shape(value), f"hidden{number}"
    constants = {constant.name: numpy_helper.to_array(constant) for constant in graph.initializer}
    maker = next(node for node in graph.node if value.name in node.output)
    if maker.op_type != "DequantizeLinear":
        return _Border(value.name, TensorInfo(name=name, shape=shape))
    quantised, scale, zero_point = maker.input
    info = TensorInfo(
        name=name,
        shape=shape,
        dtype=constants[zero_point].dtype.name,
        scale=float(constants[scale]),
        zero_point=int(constants[zero_point]),
    )
    return _Border(quantised, info)


def _stage(model: onnx.ModelProto, takes: _Border, gives: list[_Border]) -> bytes:
    nodes, read = _between(model.graph, takes.tensor, [border.tensor for border in gives])
    constants = [constant for constant in model.graph.initializer if constant.name in read]
    missing = read - {constant.name for constant in constants} - {name for node in nodes for name in node.output}
    if missing - {takes.tensor}:
        raise VerificationError(
            f"onnx: stage for {[border.info.name for border in gives]} also reads {sorted(missing - {takes.tensor})}; "
            "an exit must follow a section that all later ones depend on alone"
        )
    stage = onnx.ModelProto()
    stage.CopyFrom(model)
    graph = stage.graph
    for field in ("node", "initializer", "input", "output"):
        graph.ClearField(field)
    new_names = {"": ""} | {border.tensor: border.info.name for border in (takes, *gives)}

    def renamed(names: Iterable[str]) -> list[str]:
        # Whatever lies inside must not be called as one of the ends is called from now on.
        return [new_names.get(name, f"inner {name}") for name in names]

    for node in nodes:
        copy = graph.node.add()
        copy.CopyFrom(node)
        copy.input[:], copy.output[:] = renamed(copy.input), renamed(copy.output)
    graph.initializer.extend(constants)
    for constant in graph.initializer:
        (constant.name,) = renamed([constant.name])
    graph.input.append(_value(takes.info))
    graph.output.extend(_value(border.info) for border in gives)
    onnx_graph.shorten_names(graph)
    onnx.checker.check_model(stage, full_check=True)
    serialised: bytes = stage.SerializeToString(deterministic=True)
    return serialised


def _between(graph: onnx.GraphProto, start: str, ends: list[str]) -> tuple[list[onnx.NodeProto], set[str]]:
    """The nodes that make `ends` out of `start`, in order, and all tensors that they read."""
    nodes: list[onnx.NodeProto] = []
    wanted = set(ends)
    for node in reversed(graph.node):  # The order of an ONNX graph is topological.
        if wanted.intersection(node.output) and start not in node.output:
            nodes.append(node)
            wanted.update(name for name in node.input if name)
    return nodes[::-1], {name for node in nodes for name in node.input if name}


def _value(info: TensorInfo) -> onnx.ValueInfoProto:
    return onnx.helper.make_tensor_value_info(info.name, _ONNX_DTYPES[info.dtype], info.shape)
