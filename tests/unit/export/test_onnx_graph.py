"""Trimming an ONNX graph: smaller, same numbers, and nothing removed or shifted that must not be."""

from __future__ import annotations

import collections
import re
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from edgeaudio_export import onnx_graph
from onnx import TensorProto, helper, numpy_helper

from edgeaudio.errors import VerificationError

N = 6
OPSET = 20


def quantised_model(*, zero_point_dtype: type = np.int8) -> onnx.ModelProto:
    """x -> quantise -> dequantise -> matmul with an int8 weight -> quantise -> dequantise -> y."""
    weight = np.arange(N * N, dtype=np.int8).reshape(N, N) - 17
    constants = {
        "input_scale": np.float32(0.02),
        "input_zero_point": zero_point_dtype(3),
        "weight": weight,
        "weight_scale": np.full(N, 0.01, dtype=np.float32),
        "weight_zero_point": np.zeros(N, dtype=np.int8),
        "output_scale": np.float32(0.05),
        "output_zero_point": zero_point_dtype(-20 if zero_point_dtype is np.int8 else 20),
    }
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "input_scale", "input_zero_point"], ["xq"], "q1"),
        helper.make_node("DequantizeLinear", ["xq", "input_scale", "input_zero_point"], ["xd"], "d1"),
        helper.make_node("DequantizeLinear", ["weight", "weight_scale", "weight_zero_point"], ["wd"], "d2", axis=1),
        helper.make_node("MatMul", ["xd", "wd"], ["product"], "a_long_name_for_a_node"),
        helper.make_node("QuantizeLinear", ["product", "output_scale", "output_zero_point"], ["yq"], "q2"),
        helper.make_node("DequantizeLinear", ["yq", "output_scale", "output_zero_point"], ["y"], "d3"),
    ]
    for node in nodes:
        node.doc_string = "a stack trace"
        node.metadata_props.add(key="module", value="student.head")
    graph = helper.make_graph(
        nodes,
        "main_graph",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, (1, N))],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, (1, N))],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
        value_info=[helper.make_tensor_value_info("xq", TensorProto.INT8, (1, N))],
    )
    return helper.make_model(graph, producer_version="2.13", opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def model_of(
    nodes: list[onnx.NodeProto], constants: dict[str, Any], x: tuple[int, ...], y: tuple[int, ...]
) -> onnx.ModelProto:
    """Float `x` -> float `y` through `nodes`, which read `constants` by name."""
    graph = helper.make_graph(
        nodes,
        "graph",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, x)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, y)],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=10)


def convolution_model(*, output_zero_point: int = -128, kernel_zero_point: int = 0) -> onnx.ModelProto:
    """x -> pair -> slice -> pair -> convolution -> ReLU -> pair -> y, everything spelt out as by the exporter."""
    kernel = np.random.default_rng(0).integers(-127, 128, (4, 2, 3, 1), dtype=np.int8)
    constants = {
        "s": np.float32(0.02),
        "z": np.int8(3),
        "starts": np.array([1]),
        "ends": np.array([9]),
        "axes": np.array([2]),
        "w": kernel,
        "ws": np.linspace(0.01, 0.02, 4, dtype=np.float32),
        "wz": np.full(4, kernel_zero_point, dtype=np.int8),
        "bias": np.linspace(-1, 1, 4, dtype=np.float32),
        "os": np.float32(0.05),
        "oz": np.int8(output_zero_point),
    }
    spelt_out = {"group": 1, "dilations": [1, 1], "auto_pad": "NOTSET", "kernel_shape": [3, 1]}
    nodes = [
        helper.make_node("DequantizeLinear", ["w", "ws", "wz"], ["wd"], axis=0),
        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["xq"], axis=1),
        helper.make_node("DequantizeLinear", ["xq", "s", "z"], ["xd"], axis=1),
        helper.make_node("Slice", ["xd", "starts", "ends", "axes"], ["cut"]),
        helper.make_node("QuantizeLinear", ["cut", "s", "z"], ["cut_q"], axis=1),
        helper.make_node("DequantizeLinear", ["cut_q", "s", "z"], ["cut_d"], axis=1),
        helper.make_node("Conv", ["cut_d", "wd", "bias"], ["sums"], pads=[0, 0, 0, 0], strides=[2, 1], **spelt_out),
        helper.make_node("Relu", ["sums"], ["clamped"]),
        helper.make_node("QuantizeLinear", ["clamped", "os", "oz"], ["yq"], axis=1),
        helper.make_node("DequantizeLinear", ["yq", "os", "oz"], ["y"], axis=1),
    ]
    return model_of(nodes, constants, (1, 2, 10, 3), (1, 4, 3, 3))


def slim(model: onnx.ModelProto) -> onnx.ModelProto:
    """All of it, in the exporter's order."""
    graph = model.graph
    onnx_graph.strip(model)
    onnx_graph.activations_to_uint8(graph)
    onnx_graph.drop_kernel_zero_points(graph)
    onnx_graph.share_constants(graph)
    onnx_graph.drop_idle_relus(graph)
    onnx_graph.drop_repeated_quantisation(graph)
    onnx_graph.drop_defaults(graph, OPSET)
    onnx_graph.shorten_names(graph)
    onnx.checker.check_model(model, full_check=True)
    return model


def kinds(model: onnx.ModelProto) -> collections.Counter[str]:
    return collections.Counter(node.op_type for node in model.graph.node)


def attributes(model: onnx.ModelProto, op_type: str) -> set[str]:
    return {item.name for node in model.graph.node if node.op_type == op_type for item in node.attribute}


def run(model: onnx.ModelProto) -> np.ndarray:
    """The output for values that saturate at both ends, computed node by node."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    shape = session.get_inputs()[0].shape
    x = np.linspace(-3, 3, np.prod(shape), dtype=np.float32).reshape(shape)
    return np.asarray(session.run(None, {"x": x})[0])


@pytest.mark.parametrize("make", [quantised_model, convolution_model])
def test_trimming_changes_no_result(make: Any) -> None:
    before = run(make())
    assert np.unique(before).size > 1
    assert np.array_equal(run(slim(make())), before)


def test_nothing_about_the_maker_is_left() -> None:
    payload = slim(quantised_model()).SerializeToString()
    for trace in (b"stack trace", b"student.head", b"2.13", b"main_graph", b"a_long_name", b"weight_scale"):
        assert trace not in payload


def test_activations_become_uint8_and_weights_stay_int8() -> None:
    model = quantised_model()
    onnx_graph.activations_to_uint8(model.graph)
    onnx_graph.share_constants(model.graph)
    constants = {constant.name: numpy_helper.to_array(constant) for constant in model.graph.initializer}
    for node, value in ((0, 131), (1, 131), (4, 108), (5, 108)):
        zero_point = constants[model.graph.node[node].input[2]]
        assert (zero_point, zero_point.dtype) == (value, np.uint8)
    assert constants["weight_zero_point"].dtype == constants["weight"].dtype == np.int8
    assert "input_zero_point" not in constants


def test_a_zero_point_that_is_not_int8_is_refused() -> None:
    with pytest.raises(VerificationError, match="uint8, wanted int8"):
        onnx_graph.activations_to_uint8(quantised_model(zero_point_dtype=np.uint8).graph)


def test_a_zero_point_shared_with_a_weight_is_shifted_for_the_activation_alone() -> None:
    model = quantised_model()
    weight, activation = model.graph.node[2], model.graph.node[0]
    weight.input[1], weight.input[2] = "input_scale", "input_zero_point"  # One scale for the whole weight.
    weight.ClearField("attribute")
    before = run(model)
    onnx_graph.strip(model)
    onnx_graph.activations_to_uint8(model.graph)
    assert weight.input[2] == "input_zero_point" != activation.input[2]
    assert np.array_equal(run(model), before)


def test_zero_points_of_kernels_go_and_those_of_other_weights_stay() -> None:
    for make, wanted in ((convolution_model, 2), (quantised_model, 3)):
        graph = make().graph
        onnx_graph.drop_kernel_zero_points(graph)
        (weight,) = (node for node in graph.node if node.output[0] == "wd")
        assert len(weight.input) == wanted


def test_a_kernel_that_is_not_symmetric_is_refused() -> None:
    with pytest.raises(VerificationError, match="weight w has a zero point other than 0"):
        onnx_graph.drop_kernel_zero_points(convolution_model(kernel_zero_point=1).graph)


def test_a_relu_goes_where_quantisation_clamps_at_zero_too() -> None:
    assert kinds(slim(convolution_model()))["Relu"] == 0
    model = convolution_model(output_zero_point=-100)
    before = run(model)
    assert kinds(slim(model))["Relu"] == 1
    assert np.array_equal(run(model), before)


def test_a_relu_that_is_read_as_float_too_stays() -> None:
    model = convolution_model()
    model.graph.node[-1].output[0] = "steps"
    model.graph.node.append(helper.make_node("Add", ["clamped", "steps"], ["y"]))
    before = run(model)
    assert kinds(slim(model))["Relu"] == 1
    assert np.array_equal(run(model), before)


def test_values_that_lie_on_their_steps_are_not_quantised_again() -> None:
    assert kinds(convolution_model()) - kinds(slim(convolution_model())) == collections.Counter(
        {"QuantizeLinear": 1, "DequantizeLinear": 1, "Relu": 1}
    )


def test_values_that_change_their_steps_are_quantised_again() -> None:
    model = convolution_model()
    model.graph.initializer.append(numpy_helper.from_array(np.asarray(np.float32(0.03)), "wider"))
    for node in model.graph.node[4:6]:
        node.input[1] = "wider"
    before = run(model)
    assert kinds(slim(model))["QuantizeLinear"] == 3
    assert np.array_equal(run(model), before)


def test_only_what_differs_from_the_default_is_spelt_out() -> None:
    model = slim(convolution_model())
    assert attributes(model, "Conv") == {"strides"}
    assert attributes(model, "QuantizeLinear") == set()
    (weight,) = (node for node in model.graph.node if len(node.attribute) and node.op_type == "DequantizeLinear")
    assert (weight.attribute[0].name, weight.attribute[0].i) == ("axis", 0)


def test_padding_is_no_default() -> None:
    model = convolution_model()
    (convolution,) = (node for node in model.graph.node if node.op_type == "Conv")
    (pads,) = (item for item in convolution.attribute if item.name == "pads")
    pads.ints[:] = [1, 0, 1, 0]
    model.graph.output[0].type.tensor_type.shape.dim[2].dim_value = 4
    before = run(model)
    assert attributes(slim(model), "Conv") == {"pads", "strides"}
    assert np.array_equal(run(model), before)


def test_equal_constants_are_stored_once_and_unread_ones_never() -> None:
    model = model_of(
        [
            helper.make_node("Add", ["x", "one"], ["a"]),
            helper.make_node("Add", ["a", "also_one"], ["b"]),
            helper.make_node("Reshape", ["b", "shape"], ["y"]),
        ],
        # The same 8 bytes in three types or shapes are three constants.
        {
            "one": np.zeros(2, np.float32),
            "also_one": np.zeros(2, np.float32),
            "shape": np.zeros(1, np.int64),
            "unread": np.zeros((1, 2), np.float32),
        },
        (2,),
        (2,),
    )
    onnx_graph.share_constants(model.graph)
    assert [constant.name for constant in model.graph.initializer] == ["one", "shape"]
    assert list(model.graph.node[1].input) == ["a", "one"]


def test_inputs_and_outputs_keep_their_names() -> None:
    model = quantised_model()
    onnx_graph.shorten_names(model.graph)
    assert ([value.name for value in model.graph.input], [value.name for value in model.graph.output]) == (["x"], ["y"])
    names = [name for node in model.graph.node for name in node.output]
    assert len(set(names)) == len(names)


def test_names_are_short_c_identifiers_and_none_is_given_twice() -> None:
    length = 3000
    constants = {f"constant_{i}": np.float32(i) for i in range(length)}
    values = ["x", *(f"value_{i}" for i in range(length - 1)), "y"]
    nodes = [helper.make_node("Add", [values[i], f"constant_{i}"], [values[i + 1]]) for i in range(length)]
    model = model_of(nodes, constants, (1,), (1,))
    onnx_graph.shorten_names(model.graph)
    onnx.checker.check_model(model, full_check=True)
    names = {node.output[0] for node in model.graph.node} | {constant.name for constant in model.graph.initializer}
    assert len(names) == 2 * length
    assert all(re.fullmatch(r"[A-Za-z_]\w{0,2}", name) for name in names)
    assert "x" not in names
