"""The checker of TensorRT's rules: silent on a sound graph, and each rule sees what is planted for it."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import onnxruntime
import pytest
from edgeaudio_export import tensorrt_rules
from edgeaudio_export.tensorrt_rules import RULES, Finding, findings, require_rules

from edgeaudio.errors import VerificationError
from tests import tiny_qdq
from tests.test_project import ROOT
from tests.tiny_qdq import PLANTED, sound_model

Plant = Callable[[onnx.ModelProto], None]
every_fault = pytest.mark.parametrize(
    ("rule", "what", "node", "plant"), PLANTED, ids=[f"{rule}: {what}" for rule, what, *_ in PLANTED]
)


def test_a_sound_graph_has_no_findings() -> None:
    model = sound_model()
    onnx.checker.check_model(model, full_check=True)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    (logits,) = session.run(None, {"log_mel": np.ones(tiny_qdq.INPUT_SHAPE, np.float32)})
    assert np.isfinite(logits).all()
    assert findings(model) == []
    require_rules(model, "artefacts/int8.tensorrt")


def test_every_rule_has_a_planted_fault_and_a_line_in_the_decision() -> None:
    assert {rule for rule, *_ in PLANTED} == set(RULES)
    page = (ROOT / "docs" / "decisions" / "0008-tensorrt.md").read_text()
    assert [line.split("`")[1] for line in page.splitlines() if line.startswith("| `")] == list(RULES)


@every_fault
def test_a_planted_fault_is_found_by_its_rule_and_named(rule: str, what: str, node: str, plant: Plant) -> None:
    model = sound_model()
    plant(model)
    found = [item for item in findings(model) if item.rule == rule]
    assert any(node in item.node for item in found), findings(model)
    assert all(item.problem and item.mend for item in found)
    with pytest.raises(VerificationError, match=r"int8\.tensorrt breaks rules of TensorRT") as error:
        require_rules(model, "artefacts/int8.tensorrt")
    assert str(found[0]) in str(error.value)


@pytest.mark.parametrize("rule", RULES)
def test_no_rule_can_be_left_out(rule: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Some planted fault of each rule is seen by that rule alone."""
    monkeypatch.delitem(RULES, rule)
    left = []
    for planted, _, _, plant in PLANTED:
        model = sound_model()
        plant(model)
        left += [findings(model)] if planted == rule else []
    assert [] in left


@pytest.mark.parametrize(
    ("op_type", "attributes", "axis"), [("Gemm", {}, 1), ("Gemm", {"transB": 1}, 0), ("MatMul", {}, 1)]
)
def test_the_axis_of_a_matrix_follows_its_operator(op_type: str, attributes: dict[str, int], axis: int) -> None:
    for given in (0, 1):
        model = sound_model()
        head = tiny_qdq.node(model, "head")
        size = tiny_qdq.CHANNELS
        tiny_qdq.put(model, "head", np.ones((size, size), np.int8))
        tiny_qdq.put(model, "head_scale", np.ones(size, np.float32))
        tiny_qdq.put(model, "head_zeros", np.zeros(size, np.int8))
        tiny_qdq.put(model, "head_bias", np.zeros(size, np.float32))
        model.graph.output[0].type.tensor_type.shape.dim[1].dim_value = size
        head.op_type = op_type
        del head.attribute[:]
        if op_type == "MatMul":
            del head.input[2]
        for name, value in attributes.items():
            tiny_qdq.set_attribute(model, "head", name, value)
        tiny_qdq.set_attribute(model, "dequantise_head", "axis", given)
        assert [item.rule for item in findings(model)] == ([] if given == axis else ["axis"])


def test_a_long_list_is_shortened() -> None:
    model = sound_model()
    for item in model.graph.node:
        item.domain = "com.microsoft"
    with pytest.raises(VerificationError, match=r"; and \d+ more\. Leave tensorrt out"):
        require_rules(model, "x")


def test_nodes_without_a_name_are_called_by_what_they_give() -> None:
    model = sound_model()
    model.graph.node[-1].ClearField("name")
    assert tensorrt_rules.node_name(model.graph.node[-1]) == "Gemm -> 'logits'"


def test_a_finding_reads_as_one_line() -> None:
    assert str(Finding("bias", "Conv 'stem'", "has x", "do y")) == "bias: Conv 'stem' has x; do y"
