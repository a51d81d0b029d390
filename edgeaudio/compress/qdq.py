"""What a converted graph really quantises. The quantiser's filters fail silently, so every layer is checked.

A compute op is integer when everything it reads comes from a dequantise node and everything it gives goes
into a quantise node; backends fuse such a group into one int8 kernel. A ReLU may sit between the two.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch.fx import GraphModule, Node

from edgeaudio.errors import VerificationError

aten = torch.ops.aten
#: Ops with a weight in `args[1]`, quantised per output channel.
WEIGHTED_OPS = frozenset({aten.conv2d.default, aten.linear.default})
ADD_OPS = frozenset({aten.add.Tensor})
RELU_OPS = frozenset({aten.relu.default, aten.relu_.default})
#: Ops after which a ReLU costs nothing: both backends fold it into the kernel's clamp.
FUSES_RELU = frozenset({aten.conv2d.default, *ADD_OPS})
#: Ops that keep the scale of their input.
PASS_THROUGH_OPS = RELU_OPS | {
    aten.adaptive_avg_pool2d.default,
    aten.avg_pool2d.default,
    aten.dropout.default,
    aten.flatten.using_ints,
    aten.mean.dim,
    aten.slice.Tensor,
    aten.unsqueeze.default,
}
INTEGER_OPS = WEIGHTED_OPS | ADD_OPS | PASS_THROUGH_OPS


@dataclass(frozen=True)
class QdqCount:
    """Quantise and dequantise nodes of a converted graph."""

    quantise: int
    dequantise: int

    @property
    def total(self) -> int:
        """Both kinds together."""
        return self.quantise + self.dequantise


def is_quantise(node: object) -> bool:
    """Whether `node` is a per-tensor or per-channel quantise call."""
    return _quantised_decomposed_op(node).startswith("quantize_per")


def is_dequantise(node: object) -> bool:
    """Whether `node` is a per-tensor or per-channel dequantise call."""
    return _quantised_decomposed_op(node).startswith("dequantize_per")


def _quantised_decomposed_op(node: object) -> str:
    target = node.target if isinstance(node, Node) and node.op == "call_function" else None
    if not isinstance(target, torch._ops.OpOverload) or target.namespace != "quantized_decomposed":
        return ""
    return str(target).partition(".")[2]


def count_qdq(graph_module: GraphModule) -> QdqCount:
    """Count the nodes."""
    nodes = list(graph_module.graph.nodes)
    return QdqCount(sum(map(is_quantise, nodes)), sum(map(is_dequantise, nodes)))


def layer_name(node: Node) -> str:
    """The module path that made `node`, or the node's own name."""
    stack = node.meta.get("nn_module_stack") or {}
    paths = [path for path, _ in stack.values() if path]
    return f"{paths[-1]} ({node.name})" if paths else node.name


def fused_relu(node: Node) -> Node | None:
    """The ReLU that is computed inside the kernel of `node`, if any."""
    users = list(node.users)
    if node.target in FUSES_RELU and len(users) == 1 and users[0].target in RELU_OPS:
        return users[0]
    return None


def check_integer_graph(graph_module: GraphModule) -> QdqCount:
    """Check that every op of a converted graph runs in int8.

    Raises:
        VerificationError: names each layer that stayed float and what is missing around it.
    """
    nodes = list(graph_module.graph.nodes)
    ops = [node for node in nodes if node.op == "call_function" and not (is_quantise(node) or is_dequantise(node))]
    relus = {relu for node in ops if (relu := fused_relu(node)) is not None}
    inputs = [node for node in nodes if node.op == "placeholder"]
    # torch.export adds a shape guard (call_module), which no converter sees.
    read = [user for node in inputs for user in node.users if user.op == "call_function"]
    faults = [f"{layer_name(user)}: float input" for user in read if not is_quantise(user)]
    for node in ops:
        if node not in relus:
            faults += _faults_of(graph_module, node)
    count = count_qdq(graph_module)
    if not faults:
        # One quantise node per activation (inputs, and each op with its fused ReLU) and per weight not yet folded.
        weights = sum(is_quantise(node) and node.args[0].op == "get_attr" for node in nodes)
        expected = len(inputs) + len(ops) - len(relus) + weights
        if not ops or count.quantise != expected or count.dequantise < expected:
            faults.append(f"{count.quantise} quantise and {count.dequantise} dequantise nodes, wanted {expected} each")
    if faults:
        shown = "; ".join(faults[:6]) + (f"; and {len(faults) - 6} more" if len(faults) > 6 else "")
        raise VerificationError(
            f"int8 conversion left the graph partly float: {shown}. "
            "Check the quantiser's configuration and that the student uses only supported ops."
        )
    return count


def _faults_of(graph_module: GraphModule, node: Node) -> list[str]:
    name = layer_name(node)
    if node.target not in INTEGER_OPS:
        return [f"{name}: op {node.target} has no int8 form"]
    faults = []
    for position in range(2 if node.target in WEIGHTED_OPS | ADD_OPS else 1):
        if not is_dequantise(node.args[position]):
            role = "weight" if position and node.target in WEIGHTED_OPS else "input"
            faults.append(f"{name}: float {role}")
    if not faults and node.target in WEIGHTED_OPS and not _weight_is_int8(graph_module, node):
        faults.append(f"{name}: weight is not int8")
    if not all(map(is_quantise, (fused_relu(node) or node).users)):
        faults.append(f"{name}: float output")
    return faults


def _weight_is_int8(graph_module: GraphModule, node: Node) -> bool:
    dequantise = node.args[1]
    assert isinstance(dequantise, Node)
    stored = dequantise.args[0]
    if is_quantise(stored):
        return True
    assert isinstance(stored, Node)
    return stored.op == "get_attr" and getattr(graph_module, str(stored.target)).dtype == torch.int8
