"""A hand-made graph that keeps every rule of TensorRT: convolutions, a residual sum, a mean, a Gemm, in int8."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

OPSET = 20
INPUT_SHAPE, CHANNELS, CLASSES = (1, 6, 8), 4, 3


def sound_model() -> onnx.ModelProto:
    """A fresh copy, with readable names; `plant` changes it."""
    rng = np.random.default_rng(0)

    def weight(*shape: int) -> Any:
        return rng.integers(-127, 128, shape).astype(np.int8)

    constants = {
        "zero": np.int8(0),
        "zeros": np.zeros(CHANNELS, np.int8),
        "head_zeros": np.zeros(CLASSES, np.int8),
        "scale": np.float32(0.05),
        "stem": weight(CHANNELS, 1, 3, 3),
        "stem_scale": rng.uniform(0.01, 0.02, CHANNELS).astype(np.float32),
        "stem_bias": rng.standard_normal(CHANNELS).astype(np.float32),
        "block": weight(CHANNELS, CHANNELS, 1, 1),
        "block_scale": rng.uniform(0.01, 0.02, CHANNELS).astype(np.float32),
        "block_bias": rng.standard_normal(CHANNELS).astype(np.float32),
        "head": weight(CLASSES, CHANNELS),
        "head_scale": rng.uniform(0.01, 0.02, CLASSES).astype(np.float32),
        "head_bias": rng.standard_normal(CLASSES).astype(np.float32),
        "channel": np.array([1]),
        "space": np.array([2, 3]),
    }
    nodes = [
        *_weight("stem", "zeros"),
        *_weight("block", "zeros"),
        *_weight("head", "head_zeros"),
        *_pair("log_mel", "window"),
        helper.make_node("Unsqueeze", ["window", "channel"], ["image"], name="image"),
        helper.make_node("Conv", ["image", "stem_float", "stem_bias"], ["stem_out"], name="stem"),
        helper.make_node("Relu", ["stem_out"], ["stem_relu"], name="stem_relu"),
        *_pair("stem_relu", "skip"),
        helper.make_node("Conv", ["skip", "block_float", "block_bias"], ["block_out"], name="block"),
        helper.make_node("Add", ["block_out", "skip"], ["sum"], name="sum"),
        helper.make_node("Relu", ["sum"], ["sum_relu"], name="sum_relu"),
        *_pair("sum_relu", "hidden"),
        helper.make_node("ReduceMean", ["hidden", "space"], ["mean"], name="mean", keepdims=0),
        *_pair("mean", "embedding"),
        helper.make_node("Gemm", ["embedding", "head_float", "head_bias"], ["logits"], name="head", transB=1),
    ]
    graph = helper.make_graph(
        nodes,
        "sound",
        [helper.make_tensor_value_info("log_mel", TensorProto.FLOAT, INPUT_SHAPE)],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, (1, CLASSES))],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=10)


def _weight(name: str, zeros: str) -> list[onnx.NodeProto]:
    inputs = [name, f"{name}_scale", zeros]
    return [helper.make_node("DequantizeLinear", inputs, [f"{name}_float"], name=f"dequantise_{name}", axis=0)]


def _pair(before: str, after: str) -> list[onnx.NodeProto]:
    return [
        helper.make_node("QuantizeLinear", [before, "scale", "zero"], [f"{after}_int8"], name=f"quantise_{after}"),
        helper.make_node("DequantizeLinear", [f"{after}_int8", "scale", "zero"], [after], name=f"dequantise_{after}"),
    ]


def node(model: onnx.ModelProto, name: str) -> onnx.NodeProto:
    return next(item for item in model.graph.node if item.name == name)


def constant(model: onnx.ModelProto, name: str) -> onnx.TensorProto:
    return next(item for item in model.graph.initializer if item.name == name)


def put(model: onnx.ModelProto, name: str, value: Any) -> None:
    """Set a constant, or add it."""
    for item in list(model.graph.initializer):
        if item.name == name:
            model.graph.initializer.remove(item)
    model.graph.initializer.append(numpy_helper.from_array(np.asarray(value), name))


def set_attribute(model: onnx.ModelProto, name: str, attribute: str, value: Any) -> None:
    target = node(model, name)
    kept = [item for item in target.attribute if item.name != attribute]
    del target.attribute[:]
    target.attribute.extend([*kept, helper.make_attribute(attribute, value)])


def _remove_pair(model: onnx.ModelProto, after: str) -> None:
    before = node(model, f"quantise_{after}").input[0]
    for kind in ("quantise", "dequantise"):
        model.graph.node.remove(node(model, f"{kind}_{after}"))
    for item in model.graph.node:
        item.input[:] = [before if name == after else name for name in item.input]


def _add_pair(model: onnx.ModelProto, before: str, reader: str | None) -> None:
    """A pair on `before`, for one reader or, without one, for the output of the graph of that name."""
    added = _pair(before, f"{before}_again")
    if reader is not None:
        target = node(model, reader)
        target.input[:] = [f"{before}_again" if name == before else name for name in target.input]
        position = list(model.graph.node).index(target)
    else:
        for item in model.graph.node:
            item.output[:] = ["bare" if name == before else name for name in item.output]
        added[0].input[0], added[1].output[0] = "bare", before
        position = len(model.graph.node)
    for item in reversed(added):
        model.graph.node.insert(position, item)


def _another_opset(model: onnx.ModelProto) -> None:
    model.opset_import[0].version = 21


def _another_domain(model: onnx.ModelProto) -> None:
    model.opset_import.append(helper.make_opsetid("com.microsoft", 1))


def _outside_data(model: onnx.ModelProto) -> None:
    tensor = constant(model, "stem")
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="weights.bin")


def _symbolic_batch(model: onnx.ModelProto) -> None:
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_param = "batch"


def _int8_input(model: onnx.ModelProto) -> None:
    model.graph.node.remove(node(model, "quantise_window"))
    node(model, "dequantise_window").input[0] = "log_mel"
    model.graph.input[0].type.tensor_type.elem_type = TensorProto.INT8


def _half_floats(model: onnx.ModelProto) -> None:
    put(model, "half", np.zeros((1, CLASSES), np.float16))
    model.graph.node.append(helper.make_node("Identity", ["half"], ["unread"], name="half"))


def _integer_operator(model: onnx.ModelProto) -> None:
    node(model, "stem").op_type = "ConvInteger"


def _foreign_operator(model: onnx.ModelProto) -> None:
    node(model, "sum_relu").domain = "com.microsoft"


def _one_dimensional(model: onnx.ModelProto) -> None:
    put(model, "stem", np.ones((CHANNELS, 1, 3), np.int8))


def _computed_axes(model: onnx.ModelProto) -> None:
    model.graph.node.insert(0, helper.make_node("Identity", ["space"], ["axes"], name="axes"))
    node(model, "mean").input[1] = "axes"


def _dilated_pool(model: onnx.ModelProto) -> None:
    node(model, "sum_relu").op_type = "MaxPool"
    set_attribute(model, "sum_relu", "kernel_shape", [1, 1])
    set_attribute(model, "sum_relu", "dilations", [2, 1])


def _unsigned_activation(model: onnx.ModelProto) -> None:
    put(model, "zero_uint8", np.uint8(0))
    for kind in ("quantise", "dequantise"):
        node(model, f"{kind}_hidden").input[2] = "zero_uint8"


def _no_zero_point(model: onnx.ModelProto) -> None:
    for kind in ("quantise", "dequantise"):
        del node(model, f"{kind}_hidden").input[2]


def _int32_bias(model: onnx.ModelProto) -> None:
    put(model, "stem_bias", np.zeros(CHANNELS, np.int32))
    inputs = ["stem_bias", "stem_scale"]
    dequantise = helper.make_node("DequantizeLinear", inputs, ["bias_float"], name="dequantise_bias", axis=0)
    model.graph.node.insert(0, dequantise)
    node(model, "stem").input[2] = "bias_float"


def _shifted_activation(model: onnx.ModelProto) -> None:
    put(model, "shift", np.int8(-128))
    for kind in ("quantise", "dequantise"):
        node(model, f"{kind}_hidden").input[2] = "shift"


def _fewer_zero_points(model: onnx.ModelProto) -> None:
    node(model, "dequantise_stem").input[2] = "zero"


def _computed_scale(model: onnx.ModelProto) -> None:
    model.graph.node.insert(0, helper.make_node("Identity", ["scale"], ["made_scale"], name="made_scale"))
    node(model, "quantise_hidden").input[1] = "made_scale"


def _zero_scale(model: onnx.ModelProto) -> None:
    put(model, "stem_scale", np.zeros(CHANNELS, np.float32))


def _scales_of_an_activation(model: onnx.ModelProto) -> None:
    for kind in ("quantise", "dequantise"):
        node(model, f"{kind}_skip").input[1:] = ["stem_scale", "zeros"]


def _scales_of_inputs(model: onnx.ModelProto) -> None:
    set_attribute(model, "dequantise_block", "axis", 1)


def _scales_of_a_summand(model: onnx.ModelProto) -> None:
    put(model, "offset", np.ones((CHANNELS, 1, 1), np.int8))
    dequantise = helper.make_node("DequantizeLinear", ["offset", "stem_scale", "zeros"], ["offset_float"], axis=0)
    model.graph.node.insert(0, dequantise)
    node(model, "sum").input[1] = "offset_float"


def _lowest_weight(model: onnx.ModelProto) -> None:
    put(model, "block", np.full((CHANNELS, CHANNELS, 1, 1), -128, np.int8))


def _computes_on_int8(model: onnx.ModelProto) -> None:
    node(model, "dequantise_window").input[0] = "moved"
    position = list(model.graph.node).index(node(model, "dequantise_window"))
    model.graph.node.insert(position, helper.make_node("Identity", ["window_int8"], ["moved"], name="moved"))


def _float_weight(model: onnx.ModelProto) -> None:
    put(model, "block_plain", np.ones((CHANNELS, CHANNELS, 1, 1), np.float32))
    node(model, "block").input[1] = "block_plain"


def _float_input(model: onnx.ModelProto) -> None:
    _remove_pair(model, "embedding")


def _computed_bias(model: onnx.ModelProto) -> None:
    model.graph.node.insert(0, helper.make_node("Identity", ["stem_bias"], ["made_bias"], name="made_bias"))
    node(model, "stem").input[2] = "made_bias"


def _float_skip(model: onnx.ModelProto) -> None:
    node(model, "sum").input[1] = "stem_relu"


def _rounded_logits(model: onnx.ModelProto) -> None:
    _add_pair(model, "logits", None)


def _rounded_summand(model: onnx.ModelProto) -> None:
    _add_pair(model, "block_out", "sum")


#: (rule, what is planted, the node or tensor that the finding names, the change).
PLANTED: list[tuple[str, str, str, Callable[[onnx.ModelProto], None]]] = [
    ("opset", "a newer opset", "the file", _another_opset),
    ("opset", "another domain", "the file", _another_domain),
    ("embedded", "data in another file", "'stem'", _outside_data),
    ("static-shape", "a symbolic batch", "'log_mel'", _symbolic_batch),
    ("boundary", "an int8 input", "'log_mel'", _int8_input),
    ("type", "half floats", "'half'", _half_floats),
    ("operator", "an integer operator", "'stem'", _integer_operator),
    ("operator", "an operator of another domain", "'sum_relu'", _foreign_operator),
    ("restriction", "a 1-D convolution", "'stem'", _one_dimensional),
    ("restriction", "computed axes", "'mean'", _computed_axes),
    ("restriction", "a dilated pool", "'sum_relu'", _dilated_pool),
    ("signed", "a uint8 activation", "'quantise_hidden'", _unsigned_activation),
    ("signed", "no zero point", "'quantise_hidden'", _no_zero_point),
    ("signed", "an int32 bias", "'dequantise_bias'", _int32_bias),
    ("zero-point", "a shifted activation", "'quantise_hidden'", _shifted_activation),
    ("zero-point", "fewer zero points than scales", "'dequantise_stem'", _fewer_zero_points),
    ("scale", "a computed scale", "'quantise_hidden'", _computed_scale),
    ("scale", "a scale of zero", "'dequantise_stem'", _zero_scale),
    ("per-tensor", "scales of an activation", "'quantise_skip'", _scales_of_an_activation),
    ("axis", "scales along the inputs", "'dequantise_block'", _scales_of_inputs),
    ("axis", "scales of what is no weight", "offset_float", _scales_of_a_summand),
    ("weight-range", "a weight of -128", "'dequantise_block'", _lowest_weight),
    ("explicit-pair", "an operator on int8", "'moved'", _computes_on_int8),
    ("inputs", "a float weight", "'block'", _float_weight),
    ("inputs", "a float input", "'head'", _float_input),
    ("bias", "a computed bias", "'stem'", _computed_bias),
    ("bias", "a dequantised bias", "'stem'", _int32_bias),
    ("residual", "a float side of a sum", "'sum'", _float_skip),
    ("output", "a rounded output", "'quantise_logits_again'", _rounded_logits),
    ("output", "a rounded side of a sum", "'quantise_block_out_again'", _rounded_summand),
]
