"""Trimming an ONNX graph: smaller, same numbers, and nothing shifted that must not be."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest
from edgeaudio_export import onnx_graph
from onnx import TensorProto, helper, numpy_helper

from edgeaudio.errors import VerificationError

N = 6


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


def run(model: onnx.ModelProto) -> np.ndarray:
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    x = np.linspace(-3, 3, N, dtype=np.float32)[None]  # Saturates at both ends.
    return np.asarray(session.run(None, {"x": x})[0])


def test_trimming_changes_no_result() -> None:
    model = quantised_model()
    before = run(model)
    onnx_graph.strip(model)
    onnx_graph.activations_to_uint8(model.graph)
    onnx_graph.shorten_names(model.graph)
    onnx.checker.check_model(model, full_check=True)
    assert np.array_equal(run(model), before)


def test_nothing_about_the_maker_is_left() -> None:
    model = quantised_model()
    onnx_graph.strip(model)
    onnx_graph.shorten_names(model.graph)
    payload = model.SerializeToString()
    for trace in (b"stack trace", b"student.head", b"2.13", b"main_graph", b"a_long_name", b"weight_scale"):
        assert trace not in payload


def test_activations_become_uint8_and_weights_stay_int8() -> None:
    model = quantised_model()
    onnx_graph.strip(model)
    onnx_graph.activations_to_uint8(model.graph)
    constants = {constant.name: numpy_helper.to_array(constant) for constant in model.graph.initializer}
    assert constants["input_zero_point"] == np.uint8(131)
    assert constants["output_zero_point"] == np.uint8(108)
    assert constants["input_zero_point"].dtype == constants["output_zero_point"].dtype == np.uint8
    assert constants["weight_zero_point"].dtype == constants["weight"].dtype == np.int8


def test_a_zero_point_that_is_not_int8_is_refused() -> None:
    with pytest.raises(VerificationError, match="uint8, wanted int8"):
        onnx_graph.activations_to_uint8(quantised_model(zero_point_dtype=np.uint8).graph)


def test_a_zero_point_shared_with_a_weight_is_refused() -> None:
    model = quantised_model()
    model.graph.node[2].input[2] = "input_zero_point"
    with pytest.raises(VerificationError, match="of its own"):
        onnx_graph.activations_to_uint8(model.graph)


def test_inputs_and_outputs_keep_their_names() -> None:
    model = quantised_model()
    onnx_graph.shorten_names(model.graph)
    assert ([value.name for value in model.graph.input], [value.name for value in model.graph.output]) == (["x"], ["y"])
    names = [name for node in model.graph.node for name in node.output]
    assert len(set(names)) == len(names)
