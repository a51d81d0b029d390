"""Where quantise and dequantise nodes stand in a graph for TensorRT, which fuses by their places alone.

Sources of each rule: docs/decisions/0008-tensorrt.md.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx
from onnx import helper, numpy_helper

from edgeaudio.bundle.manifest import TensorInfo

#: Operators with a weight, or of two matrices: TensorRT fuses what follows into their kernels.
WEIGHTED = ("Conv", "ConvTranspose", "Gemm", "MatMul")
#: Operators that move values and change none; TensorRT lets quantisation pass through them.
MOVES = ("Flatten", "Reshape", "Slice", "Squeeze", "Transpose", "Unsqueeze")
#: Operators of two activations.
PAIRWISE = ("Add", "Div", "Mul", "Sub")
QUANTISE, DEQUANTISE = "QuantizeLinear", "DequantizeLinear"


class Wiring:
    """Who makes and who reads each tensor of a graph, as it was when this was made."""

    def __init__(self, graph: onnx.GraphProto) -> None:
        self.outputs = {value.name for value in graph.output}
        self.makers = {name: node for node in graph.node for name in node.output if name}
        self.readers: dict[str, list[onnx.NodeProto]] = {}
        for node in graph.node:
            for name in node.input:
                self.readers.setdefault(name, []).append(node)

    def maker(self, name: str) -> onnx.NodeProto | None:
        """The node that gives `name`; None for inputs and constants."""
        return self.makers.get(name)

    def is_private(self, name: str) -> bool:
        """Whether one node alone reads `name`, and no output is it."""
        return name not in self.outputs and len(self.readers.get(name, ())) == 1

    def idle_pair(self, name: str) -> tuple[onnx.NodeProto, onnx.NodeProto] | None:
        """(quantise, dequantise) that make `name` out of an int8 weighted operator's own output, for no one else."""
        dequantise = self.maker(name)
        if dequantise is None or dequantise.op_type != DEQUANTISE or not self.is_private(dequantise.input[0]):
            return None
        quantise = self.maker(dequantise.input[0])
        if quantise is None or quantise.op_type != QUANTISE or not self.is_private(quantise.input[0]):
            return None
        maker = self.maker(quantise.input[0])
        return (quantise, dequantise) if maker is not None and self.is_integer(maker) else None

    def is_integer(self, node: onnx.NodeProto) -> bool:
        """Whether a weighted operator computes in int8: what it is given was dequantised, moved since or not."""
        return node.op_type in WEIGHTED and self.is_quantised(node.input[0])

    def is_quantised(self, name: str) -> bool:
        """Whether `name` was dequantised, and moved at most since."""
        source = self.maker(name)
        while source is not None and source.op_type in MOVES:
            source = self.maker(source.input[0])
        return source is not None and source.op_type == DEQUANTISE


def idle_output_pairs(graph: onnx.GraphProto) -> Iterator[tuple[onnx.NodeProto, onnx.NodeProto]]:
    """Pairs on outputs of the graph that a weighted operator gives: they round what could leave as it is."""
    wiring = Wiring(graph)
    for value in graph.output:
        pair = wiring.idle_pair(value.name)
        if pair is not None and not wiring.readers.get(value.name):
            yield pair


def idle_sum_pairs(graph: onnx.GraphProto) -> Iterator[tuple[onnx.NodeProto, onnx.NodeProto]]:
    """Pairs between a weighted operator and a sum whose other side stays quantised: they keep the two apart."""
    wiring = Wiring(graph)
    for node in graph.node:
        if node.op_type != "Add" or node.input[0] == node.input[1]:
            continue
        for own, other in ((1, 0), (0, 1)):
            pair = wiring.idle_pair(node.input[own]) if wiring.is_private(node.input[own]) else None
            if pair is not None and wiring.is_quantised(node.input[other]):
                yield pair
                break


def drop_idle_pairs(graph: onnx.GraphProto) -> None:
    """Remove the pairs that TensorRT advises against: on outputs, and before sums (one side of each keeps its own)."""
    for quantise, dequantise in list(idle_output_pairs(graph)):
        _bypass(graph, quantise, dequantise, keep_name=True)
    for quantise, dequantise in list(idle_sum_pairs(graph)):
        _bypass(graph, quantise, dequantise, keep_name=False)


def _bypass(graph: onnx.GraphProto, quantise: onnx.NodeProto, dequantise: onnx.NodeProto, *, keep_name: bool) -> None:
    before, after = quantise.input[0], dequantise.output[0]
    graph.node.remove(quantise)
    graph.node.remove(dequantise)
    for node in graph.node:
        if keep_name:
            node.output[:] = [after if name == before else name for name in node.output]
        else:
            node.input[:] = [before if name == after else name for name in node.input]


def with_float_border(
    model: onnx.ModelProto, given: TensorInfo, outputs: tuple[TensorInfo, ...]
) -> tuple[TensorInfo, tuple[TensorInfo, ...]]:
    """Make int8 inputs and outputs of a stage float, in place: int8 may not cross the border of a network.

    The next stage quantises again with the same scale, which gives the same int8 values.

    Returns:
        What input and outputs have become.
    """
    graph = model.graph
    if given.dtype == "int8":
        inner = f"quantised {given.name}"
        for node in graph.node:
            node.input[:] = [inner if name == given.name else name for name in node.input]
        graph.node.insert(0, helper.make_node(QUANTISE, [given.name, *_constants(graph, given)], [inner]))
        graph.input[0].CopyFrom(_float_value(given))
    for value, info in zip(graph.output, outputs, strict=True):
        if info.dtype == "int8":
            inner = f"quantised {info.name}"
            for node in graph.node:
                node.output[:] = [inner if name == info.name else name for name in node.output]
                node.input[:] = [inner if name == info.name else name for name in node.input]
            graph.node.append(helper.make_node(DEQUANTISE, [inner, *_constants(graph, info)], [info.name]))
            value.CopyFrom(_float_value(info))
    return _as_float(given), tuple(map(_as_float, outputs))


def _constants(graph: onnx.GraphProto, info: TensorInfo) -> list[str]:
    names = [f"scale of {info.name}", f"zero point of {info.name}"]
    assert info.scale is not None
    for name, value in zip(names, (np.float32(info.scale), np.int8(0)), strict=True):
        graph.initializer.append(numpy_helper.from_array(np.asarray(value), name))
    return names


def _float_value(info: TensorInfo) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(info.name, onnx.TensorProto.FLOAT, info.shape)


def _as_float(info: TensorInfo) -> TensorInfo:
    return TensorInfo(name=info.name, shape=info.shape) if info.dtype == "int8" else info
