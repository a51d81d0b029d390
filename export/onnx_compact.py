"""The smallest ONNX form of an int8 student: one integer operator per layer instead of a float one between Q/DQ pairs.

The operators are those that onnxruntime (1.23 and 1.31 tried) makes of the pairs when it loads them, so the answers
are the same bits. Two of them are Microsoft's own, not ONNX's: other engines want the Q/DQ form.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from edgeaudio.errors import VerificationError

from . import onnx_graph

#: Domain of the operators that ONNX itself lacks.
MICROSOFT = "com.microsoft"
_MICROSOFT_VERSION = 1


class _Kind(NamedTuple):
    """An integer operator, and how many of its float form's inputs are quantised activations or weights."""

    op_type: str
    domain: str
    quantised_inputs: int


# QGemm is apart from QLinearConv in one thing alone: its bias comes before the scale of the result.
_KINDS = {
    "Conv": _Kind("QLinearConv", "", 2),
    "Gemm": _Kind("QGemm", MICROSOFT, 2),
    "MatMul": _Kind("QLinearMatMul", "", 2),
    "Add": _Kind("QLinearAdd", MICROSOFT, 2),
    "Mul": _Kind("QLinearMul", MICROSOFT, 2),
    "Sigmoid": _Kind("QLinearSigmoid", MICROSOFT, 1),
}
# What QGemm can be told; of alpha, beta and transA our exporter writes none.
_GEMM_ATTRIBUTES = ("transB",)
_INTEGER_FIELDS = {
    TensorProto.INT64: "int64_data",
    TensorProto.INT32: "int32_data",
    TensorProto.INT16: "int32_data",
}
# The zero point of symmetric weights, which the Q/DQ form leaves out and every integer operator wants.
_NO_SHIFT = "no_shift"


def compact(model: onnx.ModelProto) -> onnx.ModelProto:
    """The same function in fewer bytes; `model` is an exported int8 graph after the clean-up of `onnx_graph`.

    Inputs and outputs keep names, types and shapes. Whatever has no integer operator stays between its Q/DQ pairs.
    Do it last: a graph that is to be cut into stages must not share constants in one tensor.

    Raises:
        VerificationError: a bias does not fit into int32 steps.
    """
    small = onnx.ModelProto()
    small.CopyFrom(model)
    _sink_dequantisers(small.graph)
    _fuse(small.graph)
    _drop_unread(small.graph)
    named = {opset.domain for opset in small.opset_import}
    if any(node.domain == MICROSOFT for node in small.graph.node) and MICROSOFT not in named:
        small.opset_import.append(helper.make_opsetid(MICROSOFT, _MICROSOFT_VERSION))
    small = _shortest(small)
    for pool in (_pool_biases, _pool_scales):
        pooled = onnx.ModelProto()
        pooled.CopyFrom(small)
        pool(pooled.graph)
        # The nodes that take a pool apart pay for themselves from a few layers on.
        small = min(small, _shortest(pooled), key=onnx.ModelProto.ByteSize)
    return small


class _Steps(NamedTuple):
    """Names of a quantised tensor, its scale and its zero point: what a dequantiser reads."""

    values: str
    scale: str
    zero_point: str


class _View:
    """Who makes and who reads what in a graph."""

    def __init__(self, graph: onnx.GraphProto) -> None:
        self.constants = {constant.name: numpy_helper.to_array(constant) for constant in graph.initializer}
        self.makers = {name: node for node in graph.node for name in node.output}
        self.readers: dict[str, list[onnx.NodeProto]] = {}
        for node in graph.node:
            for name in node.input:
                self.readers.setdefault(name, []).append(node)
        self.outputs = {value.name for value in graph.output}

    def steps(self, name: str) -> _Steps | None:
        """What the float tensor `name` was dequantised from, if it was."""
        maker = self.makers.get(name)
        if maker is None or maker.op_type != "DequantizeLinear":
            return None
        values, scale, *zero_point = maker.input
        return _Steps(values, scale, zero_point[0] if zero_point else _NO_SHIFT)

    def quantiser(self, name: str) -> onnx.NodeProto | None:
        """The only reader of the float tensor `name`, if that quantises it."""
        readers = self.readers.get(name, [])
        if name in self.outputs or len(readers) != 1 or readers[0].op_type != "QuantizeLinear":
            return None
        return readers[0] if len(readers[0].input) == 3 else None

    def one_scale(self, steps: _Steps) -> bool:
        """Whether all of a tensor has the same scale."""
        return steps.scale in self.constants and self.constants[steps.scale].ndim == 0


def _sink_dequantisers(graph: onnx.GraphProto) -> None:
    """Let moves (slices, say) move 8-bit values: what was dequantised before them is so behind them."""
    view = _View(graph)
    nodes: list[onnx.NodeProto] = []
    for node in graph.node:
        nodes.append(node)
        steps = view.steps(node.input[0]) if node.op_type in onnx_graph.MOVES else None
        if steps is None or steps.zero_point == _NO_SHIFT or not view.one_scale(steps):
            continue
        moved = node.output[0]
        node.input[0], node.output[0] = steps.values, f"{moved} steps"
        behind = helper.make_node("DequantizeLinear", [node.output[0], *steps[1:]], [moved])
        view.makers[moved] = behind
        nodes.append(behind)
    _replace_nodes(graph, nodes)


def _fuse(graph: onnx.GraphProto) -> None:
    view = _View(graph)
    graph.initializer.append(numpy_helper.from_array(np.asarray(np.int8(0)), _NO_SHIFT))
    nodes: list[onnx.NodeProto] = []
    fused: set[str] = set()
    for node in graph.node:
        quantiser = view.quantiser(node.output[0]) if node.op_type in _KINDS else None
        operator = _integer_operator(view, node, quantiser) if quantiser is not None else None
        if operator is None:
            # A quantiser comes behind what it quantises: `fused` knows already.
            nodes += [node] if node.output[0] not in fused else []
            continue
        if len(node.input) == 3:
            graph.initializer.append(_bias_steps(view, node))
        nodes.append(operator)
        fused.update(operator.output)
    _replace_nodes(graph, nodes)


def _integer_operator(view: _View, node: onnx.NodeProto, quantiser: onnx.NodeProto) -> onnx.NodeProto | None:
    """The operator in place of `node` and its quantiser; None where it must stay float."""
    kind = _KINDS[node.op_type]
    inputs = [view.steps(name) for name in node.input[: kind.quantised_inputs]]
    biases = list(node.input[kind.quantised_inputs :])
    if None in inputs or any(name not in view.constants for name in biases):
        return None
    if node.op_type == "Gemm" and any(item.name not in _GEMM_ATTRIBUTES for item in node.attribute):
        return None
    read = [name for steps in inputs if steps for name in steps]
    result, biases = list(quantiser.input[1:]), [_bias_name(node) for _ in biases]
    read += [*biases, *result] if node.op_type == "Gemm" else [*result, *biases]
    operator = helper.make_node(kind.op_type, read, list(quantiser.output), domain=kind.domain or None)
    operator.attribute.extend(node.attribute)
    return operator


def _bias_name(node: onnx.NodeProto) -> str:
    return f"{node.output[0]} bias"


def _bias_steps(view: _View, node: onnx.NodeProto) -> TensorProto:
    """The bias in int32 steps of the sums: of input scale times weight scale, rounded as onnxruntime does it."""
    activation, weight = (view.steps(name) for name in node.input[:2])
    assert activation is not None
    assert weight is not None
    scale = view.constants[activation.scale] * view.constants[weight.scale]
    steps = np.rint(view.constants[node.input[2]] / scale)
    # 2**31 itself is the first float32 beyond.
    if not np.all(np.abs(steps) < 2.0**31):
        raise VerificationError(
            f"onnx: a bias of {np.abs(steps).max():.3g} steps does not fit into int32, the scale of its layer is "
            f"{scale.min():.3g}; leave compact out, or keep that layer float"
        )
    return numpy_helper.from_array(steps.astype(np.int32), _bias_name(node))


def _drop_unread(graph: onnx.GraphProto) -> None:
    """Remove the nodes that nothing needs any more."""
    wanted = {value.name for value in graph.output}
    kept = []
    for node in reversed(graph.node):  # The order of an ONNX graph is topological.
        if wanted.intersection(node.output):
            wanted.update(node.input)
            kept.append(node)
    _replace_nodes(graph, kept[::-1])


def _pool_biases(graph: onnx.GraphProto) -> None:
    """Store the biases that int16 holds as such, in one tensor; onnxruntime takes it apart when it loads the file."""
    small = np.iinfo(np.int16)
    pooled = [
        constant
        for constant, values in _arrays(graph)
        if values.dtype == np.int32 and values.ndim == 1 and small.min <= values.min() and values.max() <= small.max
    ]
    _pool(graph, pooled, lambda values: values.astype(np.int16), cast_to=TensorProto.INT32)


def _pool_scales(graph: onnx.GraphProto) -> None:
    """Store the scales of convolutions in one tensor. Other operators want scalars: what they read stays."""
    elsewhere = {name for node in graph.node if node.op_type != "QLinearConv" for name in node.input}
    pooled = [
        constant
        for constant, values in _arrays(graph)
        if values.dtype == np.float32 and values.ndim <= 1 and constant.name not in elsewhere
    ]
    _pool(graph, pooled, lambda values: values)


def _pool(
    graph: onnx.GraphProto,
    constants: Sequence[TensorProto],
    stored: Callable[[NDArray[np.generic]], NDArray[np.generic]],
    *,
    cast_to: int | None = None,
) -> None:
    """Replace vectors and scalars by the parts of one constant; a scalar becomes a vector of one."""
    if len(constants) < 2:
        return
    parts = [np.atleast_1d(numpy_helper.to_array(constant)) for constant in constants]
    names = [constant.name for constant in constants]
    pool, sizes = f"pool {names[0]}", f"sizes {names[0]}"
    equal = len({part.size for part in parts}) == 1
    takes_apart = [helper.make_node("Split", [pool] if equal else [pool, sizes], names)]
    if equal:
        takes_apart[0].attribute.append(helper.make_attribute("num_outputs", len(parts)))
    else:
        graph.initializer.append(numpy_helper.from_array(np.array([part.size for part in parts]), sizes))
    if cast_to is not None:
        takes_apart[0].input[0] = f"{pool} cast"
        takes_apart.insert(0, helper.make_node("Cast", [pool], [f"{pool} cast"], to=cast_to))
    kept = [constant for constant in graph.initializer if constant.name not in names]
    del graph.initializer[:]
    graph.initializer.extend([*kept, numpy_helper.from_array(stored(np.concatenate(parts)), pool)])
    _replace_nodes(graph, [*takes_apart, *graph.node])


def _shortest(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model itself, with the shortest names and fields for what it says."""
    onnx_graph.share_constants(model.graph)
    onnx_graph.shorten_names(model.graph)
    model.graph.name = "s"
    for constant in model.graph.initializer:
        _shorten_constant(constant)
    for opset in model.opset_import:
        if not opset.domain:
            opset.ClearField("domain")
    return model


def _shorten_constant(constant: TensorProto) -> None:
    """Small whole numbers take fewer bytes as protobuf's own integers, negative and large ones as raw data."""
    if constant.data_type not in _INTEGER_FIELDS:
        return
    packed = TensorProto(dims=constant.dims, data_type=constant.data_type, name=constant.name)
    getattr(packed, _INTEGER_FIELDS[constant.data_type]).extend(numpy_helper.to_array(constant).ravel().tolist())
    if packed.ByteSize() < constant.ByteSize():
        constant.CopyFrom(packed)


def _arrays(graph: onnx.GraphProto) -> list[tuple[TensorProto, NDArray[np.generic]]]:
    return [(constant, numpy_helper.to_array(constant)) for constant in graph.initializer]


def _replace_nodes(graph: onnx.GraphProto, nodes: Iterable[onnx.NodeProto]) -> None:
    # Copies: emptying the graph first would empty the nodes that come from it.
    nodes = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
    del graph.node[:]
    graph.node.extend(nodes)
