"""int8 without zero points: the same weights, the same ranges, nothing left float."""

from __future__ import annotations

import pytest
import torch
from torch.fx import GraphModule, Node

from edgeaudio.compress.ptq import equalised_graph, observed_graph, quantise_ptq
from edgeaudio.compress.qdq import check_integer_graph, count_qdq
from edgeaudio.compress.quiet import quiet_libraries
from edgeaudio.compress.symmetric import symmetric_graph
from tests.tiny_gated import gated, quantised, windows

pytestmark = pytest.mark.slow


def activations(graph: GraphModule) -> list[tuple[float, int]]:
    """(scale, zero point) of each quantise node, in order."""
    return [(node.args[1], node.args[2]) for node in graph.graph.nodes if name_of(node) == "quantize_per_tensor"]


def name_of(node: Node) -> str:
    return getattr(node.target, "_opname", "")


def weights(graph: GraphModule) -> list[torch.Tensor]:
    tensors = [tensor for _, tensor in sorted(graph.state_dict().items())]
    return [tensor for tensor in tensors if tensor.dtype == torch.int8]


def symmetric() -> GraphModule:
    graph = quantised().symmetric
    assert graph is not None
    return graph


def test_no_activation_has_a_zero_point_and_none_has_become_float() -> None:
    assert {zero_point for _, zero_point in activations(symmetric())} == {0}
    assert any(zero_point for _, zero_point in activations(quantised().folded))
    assert check_integer_graph(symmetric()) == count_qdq(quantised().folded)


def test_weights_are_the_same_bits() -> None:
    own, other = weights(symmetric()), weights(quantised().folded)
    assert len(own) == 4
    assert all(torch.equal(one, two) for one, two in zip(own, other, strict=True))


def test_scales_reach_as_far_as_with_zero_points_on_the_side_that_reaches_farther() -> None:
    seen = 0
    pairs = zip(activations(symmetric()), activations(quantised().folded), strict=True)
    for (scale, _), (affine_scale, zero_point) in pairs:
        if affine_scale == 1 / 256:
            assert scale == pytest.approx(1 / 127)
            seen += 1
            continue
        reach = max(127 - zero_point, 128 + zero_point) * affine_scale
        assert 127.5 * scale == pytest.approx(reach, rel=0.02)
    assert seen == 1  # The gate.


def test_it_follows_the_float_student() -> None:
    log_mel = windows(64, seed=2)
    with torch.no_grad():
        wanted = gated()(log_mel)
        given = torch.cat([symmetric()(window[None]) for window in log_mel])
    assert 10 * torch.log10(wanted.var() / (given - wanted).var()) > 25


def test_it_is_made_only_where_asked_for_and_leaves_the_other_forms_alone() -> None:
    plain = quantise_ptq(gated(), windows(48))
    assert plain.symmetric is None
    assert activations(plain.folded) == activations(quantised().folded)


def test_ranges_of_training_become_symmetric_too() -> None:
    with quiet_libraries("test"):
        from torchao.quantization.pt2e.quantize_pt2e import prepare_qat_pt2e

        from edgeaudio.compress.integer_quantizer import IntegerQuantizer

        prepared = prepare_qat_pt2e(
            equalised_graph(gated_copy(), windows(48), any_batch=True), IntegerQuantizer(is_qat=True)
        )
        prepared(windows(48))
        graph = symmetric_graph(prepared)
    assert {zero_point for _, zero_point in activations(graph)} == {0}
    check_integer_graph(graph)


def test_the_observed_graph_is_left_as_it_was() -> None:
    with quiet_libraries("test"):
        from edgeaudio.compress.integer_quantizer import IntegerQuantizer

        prepared = observed_graph(equalised_graph(gated_copy(), windows(48)), windows(48), IntegerQuantizer())
        before = {name: repr(module) for name, module in prepared.named_modules()}
        symmetric_graph(prepared)
    assert {name: repr(module) for name, module in prepared.named_modules()} == before
    schemes = {getattr(module, "qscheme", None) for module in prepared.modules()}
    assert torch.per_tensor_affine in schemes
    assert torch.per_tensor_symmetric not in schemes


def gated_copy() -> torch.nn.Module:
    from edgeaudio.compress.layers import fold_batch_norms

    return fold_batch_norms(gated())
