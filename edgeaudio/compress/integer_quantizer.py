"""The quantiser: PT2E annotations that leave no float op. Imports litert_torch, which takes seconds.

litert_torch's own annotator misses slices, shared ReLU modules and residual adds between them, which costs
float islands in both formats; its module filters select nothing without a word. This one marks every op or refuses.
"""

from __future__ import annotations

import operator
from collections.abc import Collection, Mapping, Sequence

from litert_torch.quantize.pt2e_quantizer import PT2EQuantizer, get_symmetric_quantization_config
from torch.fx import GraphModule, Node
from torchao.quantization.pt2e.quantizer import QuantizationAnnotation, SharedQuantizationSpec

from edgeaudio.compress.qdq import (
    ADD_OPS,
    CURVE_OPS,
    PAIR_OPS,
    PASS_THROUGH_OPS,
    SHARE_OPS,
    WEIGHTED_OPS,
    float_nodes,
    fused_relu,
    layer_name,
)
from edgeaudio.errors import UnsupportedError

_KEY = "quantization_annotation"


class IntegerQuantizer(PT2EQuantizer):  # type: ignore[misc]
    """Static int8: weights symmetric, activations affine per tensor.

    Args:
        keep_float: paths of modules that stay float; int8 layers around them quantise what they read.
        is_qat: fake quantisation with moving ranges, for training, instead of observers.
        per_channel: a scale for each output channel of a weight; off, one for the whole weight: a smaller file
            (4 bytes per channel in ONNX, 8 and a zero point in TFLite) that follows the float student less closely.
    """

    def __init__(self, *, keep_float: Collection[str] = (), is_qat: bool = False, per_channel: bool = True) -> None:
        super().__init__()
        self.keep_float = tuple(keep_float)
        self.set_global(get_symmetric_quantization_config(is_per_channel=per_channel, is_qat=is_qat, is_dynamic=False))

    def annotate(self, model: GraphModule) -> GraphModule:
        """Annotate every op of `model`.

        Raises:
            UnsupportedError: names the op and the layer that int8 does not cover.
        """
        kept = float_nodes(model, self.keep_float)
        for node in model.graph.nodes:
            if node.op != "call_function" or node in kept or _KEY in node.meta:
                continue
            if node.target in WEIGHTED_OPS:
                source, weight, *_bias = node.all_input_nodes
                self._annotate_compute(node, [source], {weight: self.global_config.weight})
            elif node.target in PAIR_OPS | CURVE_OPS and _constants_have_int8_form(model, node):
                self._annotate_compute(node, node.all_input_nodes)
            elif node.target in PASS_THROUGH_OPS:
                self._annotate_pass_through(node)
            else:
                raise UnsupportedError(
                    f"int8: op {node.target} in layer {layer_name(node)} has no int8 form in both formats. "
                    "Use Conv2d, Linear, ReLU, hard-swish, sigmoid, softmax, sums and products of activations, "
                    "mean, slices and reshapes, or export fp32 only."
                )
        return model

    @property
    def _activation(self) -> object:
        return self.global_config.output_activation

    def _annotate_compute(
        self, node: Node, activations: Sequence[Node], weights: Mapping[Node, object] | None = None
    ) -> None:
        # Read as it was written, or a second pair of nodes would requantise it: softmax has a scale of its own.
        inputs: dict[Node, object] = {
            source: SharedQuantizationSpec(source) if _KEY in source.meta else self._activation
            for source in activations
        }
        relu = fused_relu(node)
        output = self.global_config.fixed_qparams if node.target in SHARE_OPS else self._activation
        node.meta[_KEY] = QuantizationAnnotation(
            input_qspec_map={**inputs, **(weights or {})}, output_qspec=None if relu else output, _annotated=True
        )
        if relu:
            relu.meta[_KEY] = QuantizationAnnotation(output_qspec=output, _annotated=True)

    def _annotate_pass_through(self, node: Node) -> None:
        source = node.args[0]
        assert isinstance(source, Node)
        if _KEY not in source.meta:  # The input of the graph, or what a float layer gives.
            inputs, output = {source: self._activation}, SharedQuantizationSpec((source, node))
        else:
            output = SharedQuantizationSpec(source)
            inputs = {source: output}
        node.meta[_KEY] = QuantizationAnnotation(input_qspec_map=inputs, output_qspec=output, _annotated=True)


def _constants_have_int8_form(model: GraphModule, node: Node) -> bool:
    """A tensor may be added (learned positions); numbers, and products with constants, are not exported as int8."""
    constants = [
        operator.attrgetter(str(source.target))(model) for source in node.all_input_nodes if source.op == "get_attr"
    ]
    return not constants or (node.target in ADD_OPS and all(constant.ndim for constant in constants))
