"""Post-training quantisation: what it refuses, and that nothing stays float without a word."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from edgeaudio.compress.ptq import quantise_ptq
from edgeaudio.compress.qdq import WEIGHTED_OPS, check_integer_graph, count_qdq, is_quantise
from edgeaudio.compress.quantize_spec import MIN_CALIBRATION_WINDOWS
from edgeaudio.errors import DataError, ShapeError, UnsupportedError, VerificationError
from tests.tiny_student import CLASSES, logits, tiny_quantised, tiny_student, windows
from tests.tolerances import INT8_MIN_SQNR_DB

ENOUGH = MIN_CALIBRATION_WINDOWS


def refuses(calibration: torch.Tensor, error: type[Exception], saying: str, **options: torch.Tensor) -> None:
    with pytest.raises(error, match=saying):
        quantise_ptq(tiny_student(), calibration, **options)  # type: ignore[arg-type]


def test_one_window_is_no_calibration() -> None:
    refuses(windows(1), DataError, "1 windows, int8 needs at least")


def test_the_same_window_again_and_again_is_no_calibration() -> None:
    refuses(windows(1).repeat(ENOUGH, 1, 1), DataError, "one window")


def test_one_class_is_no_calibration() -> None:
    refuses(windows(ENOUGH), DataError, "one class", targets=torch.full((ENOUGH,), 3))


def test_targets_must_fit_the_windows() -> None:
    refuses(windows(ENOUGH), ShapeError, "targets has 3 entries", targets=torch.arange(3))


@pytest.mark.parametrize("poison", [float("nan"), float("inf")])
def test_calibration_that_is_not_finite_is_refused(poison: float) -> None:
    calibration = windows(ENOUGH)
    calibration[3, 4, 5] = poison
    refuses(calibration, DataError, "NaN or infinity")


@pytest.mark.parametrize("wrong", [windows(2)[0], windows(2).double()])
def test_calibration_of_another_shape_or_dtype_is_refused(wrong: torch.Tensor) -> None:
    refuses(wrong, ShapeError, "wanted float32")


@pytest.mark.slow
def test_every_layer_of_a_student_is_int8() -> None:
    quantised = tiny_quantised()
    layers = [module for module in tiny_student().modules() if isinstance(module, nn.Conv2d | nn.Linear)]
    for graph in (quantised.folded, quantised.unfolded):
        assert len([node for node in graph.graph.nodes if node.target in WEIGHTED_OPS]) == len(layers)
    # Weights are stored as int8 in one graph, and quantised inside the other.
    assert count_qdq(quantised.unfolded).quantise == count_qdq(quantised.folded).quantise + len(layers)


@pytest.mark.slow
def test_int8_logits_follow_the_float_ones() -> None:
    evaluation = windows(64, seed=2)
    reference = logits(tiny_student(), evaluation)
    noise = tiny_quantised().logits(evaluation) - reference
    assert 10 * torch.log10(reference.var() / noise.var()) > INT8_MIN_SQNR_DB


@pytest.mark.slow
def test_quantising_leaves_the_student_as_it_was() -> None:
    student = copy.deepcopy(tiny_student()).train()
    before = copy.deepcopy(student.state_dict())
    quantise_ptq(student, windows(ENOUGH))
    assert student.training
    assert all(torch.equal(value, before[name]) for name, value in student.state_dict().items())


@pytest.mark.slow
def test_the_same_calibration_gives_the_same_graph() -> None:
    evaluation = windows(8, seed=3)
    again = quantise_ptq(tiny_student(), windows(64))
    assert torch.equal(tiny_quantised().logits(evaluation), again.logits(evaluation))


@pytest.mark.slow
@pytest.mark.parametrize("filter_by", ["type", "name"])
def test_a_filter_that_quantises_nothing_is_caught(filter_by: str) -> None:
    from litert_torch.quantize.pt2e_quantizer import PT2EQuantizer, get_symmetric_quantization_config

    config = get_symmetric_quantization_config(is_per_channel=True)
    quantizer = PT2EQuantizer()
    if filter_by == "type":
        quantizer.set_module_type(nn.Conv2d, config)
    else:
        quantizer.set_module_name("stages", config)
    with pytest.raises(VerificationError, match=r"float.*stem\.0\.0"):
        quantise_ptq(tiny_student(), windows(ENOUGH), quantizer=quantizer)


@pytest.mark.slow
def test_the_stock_quantiser_leaves_float_islands_that_are_caught() -> None:
    from litert_torch.quantize.pt2e_quantizer import PT2EQuantizer, get_symmetric_quantization_config

    quantizer = PT2EQuantizer().set_global(get_symmetric_quantization_config(is_per_channel=True))
    with pytest.raises(VerificationError, match=r"stages\.0\.1 \(slice_1\): float output"):
        quantise_ptq(tiny_student(), windows(ENOUGH), quantizer=quantizer)


@pytest.mark.slow
@pytest.mark.parametrize("what", ["weight", "input", "output"])
def test_a_layer_that_lost_its_quantisation_is_named(what: str) -> None:
    graph = copy.deepcopy(tiny_quantised().unfolded)
    head = next(node for node in graph.graph.nodes if node.target is torch.ops.aten.linear.default)
    if what == "output":
        (quantise,) = head.users
        (dequantise,) = quantise.users
        dequantise.replace_all_uses_with(head)
    else:
        position = ("input", "weight").index(what)
        dequantise = head.args[position]
        head.replace_input_with(dequantise, dequantise.args[0].args[0])
    graph.graph.eliminate_dead_code()
    with pytest.raises(VerificationError, match=rf"head \(linear.*float {what}"):
        check_integer_graph(graph)


@pytest.mark.slow
def test_a_quantise_node_too_many_is_caught() -> None:
    graph = copy.deepcopy(tiny_quantised().folded)
    quantise = next(node for node in graph.graph.nodes if is_quantise(node))
    (dequantise, *_) = quantise.users
    with graph.graph.inserting_after(dequantise):
        again = graph.graph.node_copy(quantise)
    with graph.graph.inserting_after(again):
        back = graph.graph.node_copy(dequantise)
    dequantise.replace_all_uses_with(back)
    again.replace_input_with(quantise.args[0], dequantise)
    back.replace_input_with(quantise, again)
    with pytest.raises(VerificationError, match=r"quantise and .* dequantise nodes, wanted"):
        check_integer_graph(graph)


class Unquantisable(nn.Module):
    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind
        self.head = nn.Linear(64, CLASSES)

    def forward(self, log_mel: torch.Tensor) -> torch.Tensor:
        pooled = log_mel.mean(1)
        logits: torch.Tensor = self.head(nn.functional.gelu(pooled) if self.kind == "gelu" else pooled + 0.5)
        return logits


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "op"), [("gelu", "aten.gelu"), ("constant", "aten.add")])
def test_an_op_without_an_int8_form_is_named(kind: str, op: str) -> None:
    with pytest.raises(UnsupportedError, match=op):
        quantise_ptq(Unquantisable(kind), windows(ENOUGH))
