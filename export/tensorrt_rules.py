"""What TensorRT 10 and 11 document of graphs they take, as checks with names. *Not run on hardware*.

Each rule, its source and what it is for: docs/decisions/0008-tensorrt.md. `RULES` is the table; `findings` applies it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from edgeaudio.errors import VerificationError

from .tensorrt_graph import DEQUANTISE, PAIRWISE, QUANTISE, WEIGHTED, Wiring, idle_output_pairs, idle_sum_pairs

MIN_OPSET, MAX_OPSET = 13, 20
_SHOWN = 6
_OTHER_FLOATS = (TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.DOUBLE)
_POOLS = ("AveragePool", "MaxPool")
_INT8_WEIGHT_MIN = -127
# Of onnx-tensorrt's table those that 8.5 and 10.15 both support, but for control flow and random numbers.
_LISTED = """
    Abs Acos Acosh Add And ArgMax ArgMin Asin Asinh Atan Atanh AveragePool BatchNormalization Cast Ceil Celu Clip
    Concat Constant ConstantOfShape Conv ConvTranspose Cos Cosh CumSum DepthToSpace DequantizeLinear Div Dropout
    Einsum Elu Equal Erf Exp Expand EyeLike Flatten Floor GRU Gather GatherElements GatherND Gemm
    GlobalAveragePool GlobalLpPool GlobalMaxPool Greater GreaterOrEqual GridSample HardSigmoid HardSwish
    Identity InstanceNormalization IsNaN LRN LSTM LeakyRelu Less LessOrEqual Log LogSoftmax LpNormalization
    LpPool MatMul Max MaxPool Mean MeanVarianceNormalization Min Mod Mul Neg NonMaxSuppression NonZero Not
    OneHot Or PRelu Pad Pow QuantizeLinear RNN Range Reciprocal ReduceL1 ReduceL2 ReduceLogSum ReduceLogSumExp
    ReduceMax ReduceMean ReduceMin ReduceProd ReduceSum ReduceSumSquare Relu Reshape Resize ReverseSequence
    RoiAlign Round ScatterElements ScatterND Selu Shape Shrink Sigmoid Sign Sin Sinh Size Slice Softmax Softplus
    Softsign SpaceToDepth Split Sqrt Squeeze Sub Sum Tan Tanh ThresholdedRelu Tile TopK Transpose Trilu
    Unsqueeze Where Xor
"""
OPERATORS = frozenset(_LISTED.split())


@dataclass(frozen=True)
class Finding:
    """One broken rule: its name in `RULES`, the node (or tensor) that breaks it, how, and what mends it."""

    rule: str
    node: str
    problem: str
    mend: str

    def __str__(self) -> str:
        return f"{self.rule}: {self.node} {self.problem}; {self.mend}"


class Subject:
    """A model with what the rules ask of it."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self.model, self.graph = model, model.graph
        self.wiring = Wiring(model.graph)
        self.constants = {constant.name: constant for constant in model.graph.initializer}
        self.types = _element_types(model)

    def nodes(self, *op_types: str) -> Iterator[onnx.NodeProto]:
        """The nodes of those kinds, in order."""
        return (node for node in self.graph.node if node.op_type in op_types)

    def array(self, name: str) -> NDArray[Any] | None:
        """The value of a constant with its data inside the file; None for anything else."""
        constant = self.constants.get(name)
        if constant is None or constant.data_location == TensorProto.EXTERNAL:
            return None
        value: NDArray[Any] = numpy_helper.to_array(constant)
        return value

    def weight_readers(self, node: onnx.NodeProto) -> list[onnx.NodeProto]:
        """The weighted operators whose weight `node` gives."""
        readers = self.wiring.readers.get(node.output[0], [])
        return [reader for reader in readers if reader.op_type in WEIGHTED and reader.input[1] == node.output[0]]


Check = Callable[[Subject], Iterator[tuple[str, str, str]]]


def findings(model: onnx.ModelProto) -> list[Finding]:
    """All broken rules of a model, in the order of `RULES`."""
    subject = Subject(model)
    return [Finding(rule, *found) for rule, check in RULES.items() for found in check(subject)]


def require_rules(model: onnx.ModelProto, what: str) -> None:
    """Raise `VerificationError` that names `what` (an artefact) and each broken rule, unless all hold."""
    found = findings(model)
    if found:
        more = f"; and {len(found) - _SHOWN} more" if len(found) > _SHOWN else ""
        raise VerificationError(
            f"{what} breaks rules of TensorRT: {'; '.join(map(str, found[:_SHOWN]))}{more}. "
            "Leave tensorrt out of the formats if the student cannot be changed."
        )


def node_name(node: onnx.NodeProto) -> str:
    """How messages call a node, with a name of its own or without: as TensorRT's parser does."""
    return f"{node.op_type} {node.name!r}" if node.name else f"{node.op_type} -> {', '.join(node.output)!r}"


def _element_types(model: onnx.ModelProto) -> dict[str, int]:
    try:
        graph = onnx.shape_inference.infer_shapes(model).graph
    except onnx.shape_inference.InferenceError:
        graph = model.graph
    types = {constant.name: int(constant.data_type) for constant in model.graph.initializer}
    for values in (graph.input, graph.value_info, graph.output):
        types |= {value.name: int(value.type.tensor_type.elem_type) for value in values}
    return types


def _type_name(element_type: int) -> str:
    name: str = TensorProto.DataType.Name(element_type)
    return name.lower()


def _opset(subject: Subject) -> Iterator[tuple[str, str, str]]:
    for entry in subject.model.opset_import:
        if entry.domain not in ("", "ai.onnx"):
            yield "the file", f"uses operators of the domain {entry.domain!r}", "use those of ONNX alone"
        elif not MIN_OPSET <= entry.version <= MAX_OPSET:
            yield "the file", f"is of opset {entry.version}", f"export with opset {MIN_OPSET} to {MAX_OPSET}"


def _embedded(subject: Subject) -> Iterator[tuple[str, str, str]]:
    for constant in subject.graph.initializer:
        if constant.data_location == TensorProto.EXTERNAL or constant.external_data:
            yield f"constant {constant.name!r}", "lies in another file", "save the model with its data inside"


def _static_shape(subject: Subject) -> Iterator[tuple[str, str, str]]:
    for role, values in (("input", subject.graph.input), ("output", subject.graph.output)):
        for value in values:
            shape = value.type.tensor_type.shape
            fixed = all(dimension.HasField("dim_value") and dimension.dim_value > 0 for dimension in shape.dim)
            if not fixed or not value.type.tensor_type.HasField("shape"):
                yield f"{role} {value.name!r}", "has no fixed shape", "export for one window, batch 1"


def _boundary(subject: Subject) -> Iterator[tuple[str, str, str]]:
    for role, values in (("input", subject.graph.input), ("output", subject.graph.output)):
        for value in values:
            given = value.type.tensor_type.elem_type
            if given != TensorProto.FLOAT:
                yield f"{role} {value.name!r}", f"is {_type_name(given)}", "make it float and quantise it inside"


def _type(subject: Subject) -> Iterator[tuple[str, str, str]]:
    for name, element_type in subject.types.items():
        if element_type in _OTHER_FLOATS:
            maker = subject.wiring.maker(name)
            who = node_name(maker) if maker is not None else f"constant {name!r}"
            yield who, f"is {_type_name(element_type)}", "keep all floats float32: types are not cast for you"


def _operator(subject: Subject) -> Iterator[tuple[str, str, str]]:
    for node in subject.graph.node:
        if node.domain not in ("", "ai.onnx") or node.op_type not in OPERATORS:
            yield node_name(node), "is an operator that TensorRT 10 does not list", "replace it in the student"


def _restriction(subject: Subject) -> Iterator[tuple[str, str, str]]:
    for node in subject.graph.node:
        attributes = {item.name: helper.get_attribute_value(item) for item in node.attribute}
        if node.op_type in ("Conv", "ConvTranspose") and _rank(subject, node.input[1]) not in (4, 5, None):
            yield node_name(node), "is not 2-D or 3-D", "use Conv2d"
        if node.op_type in _POOLS and len(attributes.get("kernel_shape", ())) not in (2, 3):
            yield node_name(node), "is not 2-D or 3-D", "use a 2-D pool"
        if node.op_type in _POOLS and any(step != 1 for step in attributes.get("dilations", ())):
            yield node_name(node), "is dilated", "use a pool without dilation"
        if node.op_type.startswith("Reduce") and len(node.input) > 1 and node.input[1] not in subject.constants:
            yield node_name(node), "computes its axes", "reduce over constant axes"


def _rank(subject: Subject, name: str) -> int | None:
    """Of a weight: a constant, or one that is dequantised; None where neither says."""
    if name not in subject.constants:
        maker = subject.wiring.maker(name)
        name = maker.input[0] if maker is not None and maker.op_type == DEQUANTISE else name
    return len(subject.constants[name].dims) if name in subject.constants else None


def _signed(subject: Subject) -> Iterator[tuple[str, str, str]]:
    for node in subject.nodes(QUANTISE, DEQUANTISE):
        mend = "quantise to signed int8; keep biases float"
        if len(node.input) > 2 and node.input[2]:
            given = subject.types.get(node.input[2])
            if given != TensorProto.INT8:
                yield node_name(node), f"has a zero point of {_type_name(given or 0)}", mend
        elif node.op_type == QUANTISE:
            yield node_name(node), "has no zero point, which makes it uint8", mend
        given = subject.types.get(node.input[0])
        if node.op_type == DEQUANTISE and given is not None and given != TensorProto.INT8:
            yield node_name(node), f"takes {_type_name(given)}", mend


def _zero_point(subject: Subject) -> Iterator[tuple[str, str, str]]:
    for node in subject.nodes(QUANTISE, DEQUANTISE):
        if len(node.input) < 3 or not node.input[2]:
            continue
        value, scale = subject.array(node.input[2]), subject.array(node.input[1])
        if value is None or value.any():
            shown = "that is computed" if value is None else f"{value.reshape(-1)[value.reshape(-1).nonzero()][0]}"
            yield node_name(node), f"has a zero point {shown}", "quantise symmetrically"
        elif scale is not None and value.size != scale.size:
            yield node_name(node), f"has {value.size} zero points and {scale.size} scales", "give one each"


def _scale(subject: Subject) -> Iterator[tuple[str, str, str]]:
    for node in subject.nodes(QUANTISE, DEQUANTISE):
        scale = subject.array(node.input[1])
        if scale is None:
            yield node_name(node), "computes its scale", "make the scale a constant"
        elif scale.dtype != np.float32 or scale.ndim > 1 or not np.isfinite(scale).all() or (scale <= 0).any():
            yield (
                node_name(node),
                f"has a scale of {scale.dtype} {scale.shape}",
                "use finite float32 above 0, 1-D at most",
            )


def _per_tensor(subject: Subject) -> Iterator[tuple[str, str, str]]:
    for node in subject.nodes(QUANTISE, DEQUANTISE):
        scale = subject.array(node.input[1])
        if scale is not None and scale.size > 1 and node.input[0] not in subject.constants:
            yield node_name(node), f"has {scale.size} scales for an activation", "use one: many are for weights"


def _axis(subject: Subject) -> Iterator[tuple[str, str, str]]:
    for node in subject.nodes(DEQUANTISE):
        scale, weight = subject.array(node.input[1]), subject.array(node.input[0])
        if scale is None or weight is None or scale.size == 1:
            continue
        axis = _attribute(node, "axis", 1) % max(weight.ndim, 1)
        readers = subject.weight_readers(node)
        if not readers:
            yield node_name(node), "has a scale per channel but is no weight", "use one scale"
        for reader in readers:
            wanted = _channel_axis(reader, weight.ndim)
            if axis != wanted or scale.size != weight.shape[axis]:
                given = f"{scale.size} scales along axis {axis} of {weight.shape}"
                yield node_name(node), f"has {given}", f"{reader.op_type} wants one per channel of axis {wanted}"


def _channel_axis(reader: onnx.NodeProto, rank: int) -> int:
    if reader.op_type == "Gemm":
        return 0 if _attribute(reader, "transB", 0) else 1
    return {"Conv": 0, "ConvTranspose": 1}.get(reader.op_type, rank - 1)


def _attribute(node: onnx.NodeProto, name: str, default: int) -> int:
    return next((int(item.i) for item in node.attribute if item.name == name), default)


def _weight_range(subject: Subject) -> Iterator[tuple[str, str, str]]:
    for node in subject.nodes(DEQUANTISE):
        weight = subject.array(node.input[0])
        is_int8 = weight is not None and weight.dtype == np.int8
        if is_int8 and subject.weight_readers(node) and int(weight.min()) < _INT8_WEIGHT_MIN:  # type: ignore[union-attr]
            yield node_name(node), "has a weight of -128", "scale weights so that 127 steps reach the largest"


def _explicit_pair(subject: Subject) -> Iterator[tuple[str, str, str]]:
    # What comes in from outside is the rule boundary's.
    quantised = {node.output[0] for node in subject.nodes(QUANTISE)} | {value.name for value in subject.graph.input}
    quantised |= {name for name, constant in subject.constants.items() if constant.data_type == TensorProto.INT8}
    for node in subject.graph.node:
        for position, name in enumerate(node.input):
            is_zero_point = position == 2 and node.op_type in (QUANTISE, DEQUANTISE)
            is_int8 = subject.types.get(name) == TensorProto.INT8 and name in quantised
            if is_int8 and not is_zero_point and node.op_type != DEQUANTISE:
                yield node_name(node), f"reads int8 {name!r}", "dequantise before every operator"
        if node.op_type == DEQUANTISE and node.input[0] not in quantised | subject.constants.keys():
            yield node_name(node), f"reads {node.input[0]!r}, which no quantiser gives", "put pairs around operators"


def _inputs(subject: Subject) -> Iterator[tuple[str, str, str]]:
    wiring = subject.wiring
    for node in subject.nodes(*WEIGHTED):
        given = wiring.is_quantised(node.input[0])
        source = wiring.maker(node.input[1])
        of_constant = source is not None and source.op_type == DEQUANTISE and source.input[0] in subject.constants
        is_activation = node.op_type == "MatMul" and wiring.is_quantised(node.input[1])
        if given and not of_constant and not is_activation:
            yield node_name(node), "has an int8 input and a float weight", "dequantise an int8 weight right before it"
        if not given and (of_constant or is_activation):
            yield node_name(node), "has an int8 weight and a float input", "quantise its input, or keep all of it float"


def _bias(subject: Subject) -> Iterator[tuple[str, str, str]]:
    for node in subject.nodes("Conv", "ConvTranspose", "Gemm"):
        if len(node.input) > 2 and node.input[2]:
            constant = subject.constants.get(node.input[2])
            if constant is None or constant.data_type != TensorProto.FLOAT:
                yield node_name(node), "has a bias that is no float constant", "leave biases float32"


def _residual(subject: Subject) -> Iterator[tuple[str, str, str]]:
    wiring = subject.wiring
    for node in subject.nodes(*PAIRWISE):
        makers = [wiring.maker(name) for name in node.input]
        bare = [maker is not None and wiring.is_integer(maker) for maker in makers]
        for is_bare, name in zip(bare, reversed(node.input), strict=True):
            if is_bare and name not in subject.constants and not wiring.is_quantised(name):
                yield node_name(node), f"adds float {name!r} to an int8 kernel's output", "quantise that side too"


def _output(subject: Subject) -> Iterator[tuple[str, str, str]]:
    for quantise, _ in idle_output_pairs(subject.graph):
        yield node_name(quantise), "rounds an output that could leave as float", "leave the pair out"
    for quantise, _ in idle_sum_pairs(subject.graph):
        yield node_name(quantise), "keeps a sum out of the kernel before it", "leave the pair out on that side"


#: Name -> check, as in docs/decisions/0008-tensorrt.md.
RULES: dict[str, Check] = {
    "opset": _opset,
    "embedded": _embedded,
    "static-shape": _static_shape,
    "boundary": _boundary,
    "type": _type,
    "operator": _operator,
    "restriction": _restriction,
    "signed": _signed,
    "zero-point": _zero_point,
    "scale": _scale,
    "per-tensor": _per_tensor,
    "axis": _axis,
    "weight-range": _weight_range,
    "explicit-pair": _explicit_pair,
    "inputs": _inputs,
    "bias": _bias,
    "residual": _residual,
    "output": _output,
}
