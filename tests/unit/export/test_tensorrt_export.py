"""TensorRT artefacts: the ONNX file in float, the same int8 weights without zero points, pairs where it fuses them."""

from __future__ import annotations

import collections
import functools
from collections.abc import Iterator

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from edgeaudio_export.artefact import ExportedArtefact
from edgeaudio_export.onnx_export import export_onnx
from edgeaudio_export.parity import ParityGate, engine_for, engine_name, executor, measure_parity, run_windows
from edgeaudio_export.tensorrt_export import cut_tensorrt, export_tensorrt
from edgeaudio_export.tensorrt_rules import RULES, Subject, findings
from onnx import TensorProto, numpy_helper
from torch import nn

from edgeaudio.bundle.manifest import Parity, Precision
from edgeaudio.compress.ptq import quantise_ptq
from edgeaudio.errors import ConfigError, VerificationError
from tests.tiny_gated import FRAMES, N_MELS, gated, quantised, windows

pytestmark = pytest.mark.slow

EXAMPLE = torch.zeros(1, FRAMES, N_MELS)


@functools.cache
def exported(precision: Precision) -> ExportedArtefact:
    return export_tensorrt(gated() if precision == "fp32" else quantised(), EXAMPLE, precision)


def graph() -> onnx.GraphProto:
    return onnx.load_from_string(exported("int8").payload).graph


def int8_weights(payload: bytes) -> list[bytes]:
    constants = onnx.load_from_string(payload).graph.initializer
    return sorted(item.raw_data for item in constants if item.data_type == TensorProto.INT8 and len(item.dims) > 1)


def test_float_files_are_those_of_onnx() -> None:
    assert exported("fp32").payload == export_onnx(gated(), EXAMPLE, "fp32").payload
    assert (exported("fp32").name, exported("fp32").path) == ("tensorrt-fp32", "artefacts/fp32.tensorrt")


def test_int8_weights_are_those_of_onnx() -> None:
    assert int8_weights(exported("int8").payload) == int8_weights(export_onnx(quantised(), EXAMPLE, "int8").payload)
    assert len(int8_weights(exported("int8").payload)) == 4


def test_zero_points_are_there_and_zero() -> None:
    constants = {item.name: numpy_helper.to_array(item) for item in graph().initializer}
    zero_points = [constants[node.input[2]] for node in graph().node if node.op_type == "DequantizeLinear"]
    zero_points += [constants[node.input[2]] for node in graph().node if node.op_type == "QuantizeLinear"]
    assert len(zero_points) > 8
    assert all(value.dtype == np.int8 and not value.any() for value in zero_points)


def test_pairs_stand_where_tensorrt_fuses() -> None:
    model = graph()
    makers = {name: node for node in model.node for name in node.output}
    (total,) = (node for node in model.node if node.op_type == "Add")
    assert collections.Counter(makers[name].op_type for name in total.input) == {"Conv": 1, "DequantizeLinear": 1}
    assert makers["logits"].op_type == "Gemm"
    kinds = collections.Counter(node.op_type for node in model.node)
    # The window, the stem, the sum, the gate before and behind its sigmoid, the product, the mean: each once.
    assert (kinds["QuantizeLinear"], kinds["Conv"], kinds["Gemm"]) == (7, 3, 1)


def test_int8_follows_the_student_as_onnx_does() -> None:
    log_mel = windows(200, seed=3)
    with torch.no_grad():
        wanted = gated()(log_mel).numpy()
    noise = {}
    for artefact in (exported("int8"), export_onnx(quantised(), EXAMPLE, "int8")):
        logits = run_windows(engine_for(artefact.manifest_entry(), artefact.payload), log_mel.numpy())
        noise[artefact.format] = 10 * np.log10(wanted.var() / (logits - wanted).var())
    assert noise["tensorrt"] > 25
    assert noise["tensorrt"] > noise["onnx"] - 6  # Half the steps for what is never negative.


def test_parity_says_what_ran_the_artefact() -> None:
    assert engine_name("tensorrt") == "tensorrt-reference"
    engine = engine_for(exported("int8").manifest_entry(), exported("int8").payload)
    assert engine.info["engine"] == "tensorrt-reference"
    assert engine.info["library"] == "onnxruntime"
    logits = np.zeros((3, 2), np.float32)
    gate = ParityGate(None, 0.9)
    parity = measure_parity(logits, logits, reference="x", gate=gate, executor=executor("tensorrt"))
    assert parity.model_dump()["executor"] == "onnxruntime"
    assert Parity.model_validate(parity.model_dump()) == parity
    plain = measure_parity(logits, logits, reference="x", gate=gate, executor=executor("onnx"))
    assert "executor" not in plain.model_dump(mode="json")


def test_a_student_quantised_without_the_symmetric_form_is_refused() -> None:
    with pytest.raises(ConfigError, match="symmetric=True"):
        export_tensorrt(quantise_ptq(gated(), windows(32)), EXAMPLE, "int8")


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_a_file_that_breaks_a_rule_is_not_exported(precision: Precision, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = staged().payload

    def refuse(subject: Subject) -> Iterator[tuple[str, str, str]]:
        yield "the file", "is not liked", "do better"

    monkeypatch.setitem(RULES, "bias", refuse)
    with pytest.raises(VerificationError, match=rf"tensorrt-{precision} breaks rules .* bias: the file is not liked"):
        export_tensorrt(gated() if precision == "fp32" else quantised(), EXAMPLE, precision)
    with pytest.raises(VerificationError, match="stage 0 of tensorrt breaks rules"):
        cut_tensorrt(whole)


def test_the_uint8_file_of_onnx_would_be_refused() -> None:
    found = findings(onnx.load_from_string(export_onnx(quantised(), EXAMPLE, "int8").payload))
    assert {"signed", "zero-point"} <= {item.rule for item in found}


class Staged(nn.Module):
    """Hidden, logits of an exit, final logits: what `StagedGraph` gives."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = gated()
        self.exit = nn.Linear(8, 3)

    def forward(self, log_mel: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        inner = self.inner
        first = inner.stem(log_mel.unsqueeze(1)).relu()  # type: ignore[operator]
        second = (inner.block(first) + first).relu()  # type: ignore[operator]
        return first, self.exit(first.mean((2, 3))), inner.head(second.mean((2, 3)))  # type: ignore[operator]


@functools.cache
def staged() -> ExportedArtefact:
    torch.manual_seed(1)
    return export_tensorrt(quantise_ptq(Staged().eval(), windows(48), symmetric=True), EXAMPLE, "int8")


def test_stages_hand_on_floats_and_answer_bit_for_bit_as_the_whole() -> None:
    whole = staged()
    stages = cut_tensorrt(whole.payload)
    assert [given.dtype for _, given, _ in stages] == ["float32", "float32"]
    assert stages[0][2][0] == stages[1][1]
    sessions = [
        onnxruntime.InferenceSession(payload, providers=["CPUExecutionProvider"])
        for payload in (whole.payload, *(stage for stage, _, _ in stages))
    ]
    for window in windows(20, seed=4).numpy()[:, None]:
        _, exit_logits, logits = sessions[0].run(None, {"log_mel": window})
        hidden, first = sessions[1].run(None, {"log_mel": window})
        (last,) = sessions[2].run(None, {"hidden0": hidden})
        assert np.array_equal(first, exit_logits)
        assert np.array_equal(last, logits)
