"""The QOperator form: the same bits as the Q/DQ form, the same kernels, fewer bytes, and only where asked for."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from edgeaudio_export import export
from edgeaudio_export.artefact import ExportedArtefact
from edgeaudio_export.onnx_compact import MICROSOFT, compact
from edgeaudio_export.onnx_export import MAX_IR_VERSION, OPSET, export_onnx
from edgeaudio_export.parity import engine_for, run_windows
from onnx import helper, numpy_helper
from torch import nn

from edgeaudio.compress.ptq import quantise_ptq
from edgeaudio.errors import ConfigError, VerificationError
from edgeaudio.students.dscnn import DSCNN
from edgeaudio.students.mn import MN
from edgeaudio.students.spec import MNSpec
from tests.tiny_student import CLASSES, FRAMES, N_MELS, tiny_quantised, tiny_student, windows, with_statistics
from tests.unit.export.test_onnx_graph import convolution_model, kinds, model_of, slim

EXAMPLE = torch.zeros(1, FRAMES, N_MELS)
Rng = np.random.default_rng


def run(model: onnx.ModelProto, *, optimised: bool = True) -> np.ndarray:
    """The answer to values that saturate at both ends."""
    level = onnxruntime.GraphOptimizationLevel
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = level.ORT_ENABLE_ALL if optimised else level.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    shape = session.get_inputs()[0].shape
    x = Rng(0).uniform(-3, 3, shape).astype(np.float32)
    return np.asarray(session.run(None, {"x": x})[0])


def chain_model(nodes: list[onnx.NodeProto], constants: dict[str, Any], x: tuple[int, ...]) -> onnx.ModelProto:
    """Float `x` -> pair -> `nodes` (from `xd` to `sums`) -> pair -> `y` of the shape that comes out."""
    ends = [
        helper.make_node("QuantizeLinear", ["x", "xs", "xz"], ["xq"]),
        helper.make_node("DequantizeLinear", ["xq", "xs", "xz"], ["xd"]),
        *nodes,
        helper.make_node("QuantizeLinear", ["sums", "ys", "yz"], ["yq"]),
        helper.make_node("DequantizeLinear", ["yq", "ys", "yz"], ["y"]),
    ]
    scales = {"xs": np.float32(0.02), "xz": np.int8(3), "ys": np.float32(0.05), "yz": np.int8(-7)}
    model = model_of(ends, scales | constants, x, x)
    return slim(model)


WEIGHT = Rng(1).integers(-127, 128, (6, 6), dtype=np.int8)
KERNEL = {"w": WEIGHT, "ws": np.float32(0.01), "wz": np.int8(0), "bias": np.linspace(-1, 1, 6, dtype=np.float32)}
DEQUANTISED = helper.make_node("DequantizeLinear", ["w", "ws", "wz"], ["wd"])
MOVED = helper.make_node("Transpose", ["xd"], ["moved"], perm=[1, 0])
OPERATORS = {
    "QGemm": ([DEQUANTISED, helper.make_node("Gemm", ["xd", "wd", "bias"], ["sums"], transB=1)], KERNEL),
    "QLinearMatMul": ([DEQUANTISED, helper.make_node("MatMul", ["xd", "wd"], ["sums"])], KERNEL),
    "QLinearAdd": ([MOVED, helper.make_node("Add", ["xd", "moved"], ["sums"])], {}),
    "QLinearMul": ([MOVED, helper.make_node("Mul", ["xd", "moved"], ["sums"])], {}),
    "QLinearSigmoid": ([helper.make_node("Sigmoid", ["xd"], ["sums"])], {}),
}


@pytest.mark.parametrize("wanted", sorted(OPERATORS))
def test_each_operator_takes_the_place_of_its_float_form_and_its_pairs(wanted: str) -> None:
    model = chain_model(*OPERATORS[wanted], (6, 6))
    small = compact(model)
    onnx.checker.check_model(small, full_check=True)
    moves = {"Transpose": 1} if wanted in ("QLinearAdd", "QLinearMul") else {}
    assert kinds(small) == {wanted: 1, "QuantizeLinear": 1, "DequantizeLinear": 1} | moves
    assert np.unique(run(model)).size > 10
    assert np.array_equal(run(small), run(model))
    assert small.ByteSize() < model.ByteSize()


@pytest.mark.parametrize("optimised", [True, False])
def test_a_convolution_per_channel_gives_the_same_bits_as_onnxruntime_fuses(optimised: bool) -> None:
    model = slim(convolution_model())
    small = compact(model)
    assert kinds(small) == {"QuantizeLinear": 1, "Slice": 1, "QLinearConv": 1, "DequantizeLinear": 1}
    assert np.array_equal(run(small, optimised=optimised), run(model))


def test_the_given_model_is_left_as_it_is() -> None:
    model = slim(convolution_model())
    before = model.SerializeToString()
    small = compact(model)
    assert model.SerializeToString() == before
    assert compact(small).SerializeToString() == small.SerializeToString()


def test_what_has_no_integer_operator_stays_between_its_pairs() -> None:
    # The ReLU's zero is not the lowest step, so the quantiser behind it does not clamp for it.
    model = slim(convolution_model(output_zero_point=-100))
    small = compact(model)
    assert (kinds(small)["Conv"], kinds(small)["Relu"], kinds(small)["QLinearConv"]) == (1, 1, 0)
    assert [opset.domain for opset in small.opset_import] == [""]
    assert np.array_equal(run(small), run(model))


def test_a_gemm_that_scales_its_sums_stays_float() -> None:
    nodes = [DEQUANTISED, helper.make_node("Gemm", ["xd", "wd", "bias"], ["sums"], transB=1, alpha=0.5)]
    model = chain_model(nodes, KERNEL, (6, 6))
    small = compact(model)
    assert kinds(small)["Gemm"] == 1
    assert np.array_equal(run(small), run(model))


def test_values_that_are_read_as_float_too_keep_their_dequantiser() -> None:
    nodes = [
        helper.make_node("Sigmoid", ["xd"], ["gate"]),
        helper.make_node("Mul", ["xd", "gate"], ["sums"]),
    ]
    model = chain_model(nodes, {}, (6, 6))
    small = compact(model)
    # Without a quantiser between them neither has a form for integers.
    assert kinds(small) == kinds(model)
    assert np.array_equal(run(small), run(model))


def many_layers(bias: float) -> onnx.ModelProto:
    """Six Gemms in a row, with biases of up to `bias` steps."""
    constants: dict[str, Any] = {"wz": np.int8(0)}
    nodes: list[onnx.NodeProto] = []
    for layer in range(6):
        shares = Rng(layer).uniform(-1, 1, 4)
        constants |= {
            f"w{layer}": Rng(layer).integers(-127, 128, (6, 6), dtype=np.int8),
            f"ws{layer}": np.float32(0.01 + 0.001 * layer),
            f"bias{layer}": (np.array([-1, 1, *shares]) * bias * 0.02 * (0.01 + 0.001 * layer)).astype(np.float32),
        }
        given, gives = ("xd" if not layer else f"d{layer - 1}"), ("sums" if layer == 5 else f"s{layer}")
        nodes += [
            helper.make_node("DequantizeLinear", [f"w{layer}", f"ws{layer}", "wz"], [f"wd{layer}"]),
            helper.make_node("Gemm", [given, f"wd{layer}", f"bias{layer}"], [gives], transB=1),
        ]
        if layer < 5:
            nodes += [
                helper.make_node("QuantizeLinear", [gives, "xs", "xz"], [f"q{layer}"]),
                helper.make_node("DequantizeLinear", [f"q{layer}", "xs", "xz"], [f"d{layer}"]),
            ]
    return chain_model(nodes, constants, (6, 6))


@pytest.mark.parametrize(("bias", "stored"), [(9_000, np.int16), (90_000, np.int32)])
def test_biases_are_stored_in_16_bits_where_all_of_a_layer_fits(bias: float, stored: type) -> None:
    model = many_layers(bias)
    small = compact(model)
    types = {numpy_helper.to_array(constant).dtype for constant in small.graph.initializer}
    assert types & {np.dtype(np.int16), np.dtype(np.int32)} == {np.dtype(stored)}
    assert kinds(small)["Cast"] == (stored is np.int16)
    assert np.array_equal(run(small), run(model))


def test_a_bias_beyond_int32_is_refused_with_a_mend() -> None:
    nodes, constants = OPERATORS["QGemm"]
    model = chain_model(nodes, constants | {"bias": np.full(6, 1e6, dtype=np.float32)}, (6, 6))
    with pytest.raises(VerificationError, match=r"does not fit into int32.*leave compact out"):
        compact(model)


def test_compact_is_refused_where_there_is_no_onnx_int8() -> None:
    for choice in ({"formats": ["tflite"]}, {"precisions": ["fp32"]}):
        with pytest.raises(ConfigError, match="compact is a form of onnx int8"):
            export.export_student(tiny_student(), None, FRAMES, N_MELS, compact=True, **choice)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="compact with precision 'fp32'"):
        export_onnx(tiny_student(), EXAMPLE, "fp32", compact=True)


STUDENTS: dict[str, Callable[[], nn.Module]] = {
    "dscnn 4": lambda: DSCNN(CLASSES, n_mels=N_MELS, width=4),
    "dscnn 6": lambda: DSCNN(CLASSES, n_mels=N_MELS, width=6),
    "mn": lambda: MN.build(MNSpec(blocks=4, embedding=16), CLASSES, n_mels=N_MELS, frames=FRAMES),
}
CASES = [("dscnn 4", False), ("dscnn 6", True), ("mn", True)]
every_case = pytest.mark.parametrize(("name", "per_channel"), CASES)


@functools.cache
def both_forms(name: str, per_channel: bool) -> tuple[ExportedArtefact, bytes]:
    """The artefact in Q/DQ form, and its bytes in compact form."""
    torch.manual_seed(0)
    student: nn.Module = with_statistics(STUDENTS[name]())
    quantised = quantise_ptq(student, windows(32), per_channel=per_channel)
    artefact = export_onnx(quantised, EXAMPLE, "int8")
    model = compact(onnx.load_from_string(artefact.payload))
    return artefact, bytes(model.SerializeToString(deterministic=True))


def kernels(payload: bytes, folder: Path) -> Any:
    """What onnxruntime makes of a file, counted."""
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(folder / "optimised.onnx")
    options.log_severity_level = 3
    onnxruntime.InferenceSession(payload, options, providers=["CPUExecutionProvider"])
    return kinds(onnx.load(folder / "optimised.onnx"))


def every_activation(payload: bytes, log_mel: np.ndarray) -> list[np.ndarray]:
    """The 8-bit activations of all layers, in their order: `(windows, ...)` each."""
    model = onnx.load_from_string(payload)
    names = [
        node.output[0]
        for node in model.graph.node
        if node.op_type == "QuantizeLinear" or node.op_type.startswith(("QLinear", "QGemm"))
    ]
    for name in names:
        model.graph.output.append(helper.make_tensor_value_info(name, onnx.TensorProto.UINT8, None))
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    answers = [session.run(names, {"log_mel": window[None]}) for window in log_mel]
    return [np.concatenate(layer) for layer in zip(*answers, strict=True)]


@pytest.mark.slow
@every_case
def test_students_answer_bit_by_bit_as_in_the_default_form(name: str, per_channel: bool) -> None:
    artefact, small = both_forms(name, per_channel)
    log_mel = windows(50, seed=5).numpy()
    entry = artefact.manifest_entry()
    before = run_windows(engine_for(entry, artefact.payload), log_mel)
    assert np.array_equal(run_windows(engine_for(entry, small), log_mel), before)


@pytest.mark.slow
@every_case
def test_every_layer_gives_the_same_bits(name: str, per_channel: bool) -> None:
    # Logits of a random student are few values: equal ones alone would prove little.
    artefact, small = both_forms(name, per_channel)
    log_mel = windows(10, seed=5).numpy()
    before, after = (every_activation(payload, log_mel) for payload in (artefact.payload, small))
    assert len(before) == len(after) > 15
    assert min(np.unique(layer).size for layer in before[:4]) > 20
    for layer, small_layer in zip(before, after, strict=True):
        assert np.array_equal(layer, small_layer)


@pytest.mark.slow
@every_case
def test_onnxruntime_runs_the_same_kernels_for_fewer_bytes(name: str, per_channel: bool, tmp_path: Path) -> None:
    artefact, small = both_forms(name, per_channel)
    assert kernels(small, tmp_path) == kernels(artefact.payload, tmp_path)
    nodes = kinds(onnx.load_from_string(small))
    assert nodes["Conv"] == nodes["Add"] == nodes["Gemm"] == 0
    assert len(artefact.payload) - len(small) > 1_500


@pytest.mark.slow
def test_a_width_4_student_fits_the_smallest_rung() -> None:
    _, small = both_forms("dscnn 4", False)
    assert len(small) < 8_192


@pytest.mark.slow
def test_the_file_is_compact_only_where_it_was_asked_for() -> None:
    quantised = tiny_quantised()
    asked, default = (
        export.export_student(tiny_student(), quantised, FRAMES, N_MELS, formats=["onnx"], compact=compact)
        for compact in (True, False)
    )
    (floating, small), (same_floating, usual) = asked, default
    assert floating == same_floating
    assert (small.name, small.path, small.input, small.outputs) == (usual.name, usual.path, usual.input, usual.outputs)
    assert len(small.payload) < len(usual.payload)
    model, usual_model = (onnx.load_from_string(artefact.payload) for artefact in (small, usual))
    assert [(opset.domain, opset.version) for opset in model.opset_import] == [("", OPSET), (MICROSOFT, 1)]
    assert model.ir_version <= MAX_IR_VERSION
    assert (kinds(model)["QLinearConv"], kinds(usual_model)["QLinearConv"]) == (17, 0)
    assert list(model.graph.input) == list(usual_model.graph.input)
    assert list(model.graph.output) == list(usual_model.graph.output)
