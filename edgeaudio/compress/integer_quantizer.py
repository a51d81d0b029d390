"""The quantiser: PT2E annotations that leave no float op. Imports litert_torch, which takes seconds.

litert_torch's own annotator misses slices, shared ReLU modules and residual adds between them, which costs
float islands in both formats; its module filters select nothing without a word. This one marks every op or refuses.
"""

from __future__ import annotations

from litert_torch.quantize.pt2e_quantizer import PT2EQuantizer, get_symmetric_quantization_config
from torch.fx import GraphModule, Node
from torchao.quantization.pt2e.quantizer import QuantizationAnnotation, SharedQuantizationSpec

from edgeaudio.compress.qdq import ADD_OPS, PASS_THROUGH_OPS, WEIGHTED_OPS, fused_relu, layer_name
from edgeaudio.errors import UnsupportedError

_KEY = "quantization_annotation"


class IntegerQuantizer(PT2EQuantizer):  # type: ignore[misc]
    """Static int8: weights symmetric per output channel, activations affine per tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.set_global(get_symmetric_quantization_config(is_per_channel=True, is_dynamic=False))

    def annotate(self, model: GraphModule) -> GraphModule:
        """Annotate every op of `model`.

        Raises:
            UnsupportedError: names the op and the layer that int8 does not cover.
        """
        for node in model.graph.nodes:
            if node.op != "call_function" or _KEY in node.meta:
                continue
            if node.target in WEIGHTED_OPS:
                self._annotate_compute(node, {node.args[0]: self._activation, node.args[1]: self.global_config.weight})
            elif node.target in ADD_OPS and all(source.op != "get_attr" for source in node.args[:2]):
                self._annotate_compute(node, dict.fromkeys(node.args[:2], self._activation))
            elif node.target in PASS_THROUGH_OPS:
                self._annotate_pass_through(node)
            else:
                raise UnsupportedError(
                    f"int8: op {node.target} in layer {layer_name(node)} has no int8 form in both formats. "
                    "Use Conv2d, Linear, ReLU, sums of activations, mean and slices, or export fp32 only."
                )
        return model

    @property
    def _activation(self) -> object:
        return self.global_config.output_activation

    def _annotate_compute(self, node: Node, inputs: dict[Node, object]) -> None:
        relu = fused_relu(node)
        output = None if relu else self._activation
        node.meta[_KEY] = QuantizationAnnotation(input_qspec_map=inputs, output_qspec=output, _annotated=True)
        if relu:
            relu.meta[_KEY] = QuantizationAnnotation(output_qspec=self._activation, _annotated=True)

    def _annotate_pass_through(self, node: Node) -> None:
        source = node.args[0]
        assert isinstance(source, Node)
        if source.op == "placeholder":
            inputs, output = {source: self._activation}, SharedQuantizationSpec((source, node))
        else:
            output = SharedQuantizationSpec(source)
            inputs = {source: output}
        node.meta[_KEY] = QuantizationAnnotation(input_qspec_map=inputs, output_qspec=output, _annotated=True)
