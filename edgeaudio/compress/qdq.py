"""What a converted graph really quantises. The quantiser's filters fail silently, so every layer is checked.

A compute op is integer when everything it reads comes from a dequantise node and everything it gives goes
into a quantise node; backends fuse such a group into one int8 kernel. A ReLU may sit between the two.
Layers that a caller declares float are the only others: `float_nodes` says which ops that makes float.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass

import torch
from torch.fx import GraphModule, Node

from edgeaudio.errors import VerificationError

aten = torch.ops.aten
#: Ops with a weight in `args[1]`, quantised per output channel.
WEIGHTED_OPS = frozenset({aten.conv2d.default, aten.linear.default})
ADD_OPS = frozenset({aten.add.Tensor})
#: Ops of two activations; of a sum one may be a constant tensor.
PAIR_OPS = ADD_OPS | {aten.matmul.default, aten.mul.Tensor}
#: Ops that give shares between 0 and 1, for which int8 kernels fix the scale at 1/256.
SHARE_OPS = frozenset({aten.sigmoid.default, aten.softmax.int})
#: Ops of one activation with a scale of their own. onnxruntime has no integer kernel for hard-swish: it looks at
#: int8 values and gives int8 values, and computes in float between them.
CURVE_OPS = SHARE_OPS | {aten.hardswish.default, aten.hardswish_.default}
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
    aten.permute.default,
    aten.reshape.default,
    aten.slice.Tensor,
    aten.transpose.int,
    aten.unsqueeze.default,
}
INTEGER_OPS = WEIGHTED_OPS | PAIR_OPS | CURVE_OPS | PASS_THROUGH_OPS


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


def module_path(node: Node) -> str:
    """Path of the module whose `forward` made `node`; empty where that is the student itself."""
    stack = node.meta.get("nn_module_stack") or {}
    paths = [path for path, _ in stack.values() if path]
    # torch.export numbers the calls of a module that runs more than once: "relu@1".
    return re.sub(r"@\d+", "", paths[-1]) if paths else ""


def layer_name(node: Node) -> str:
    """The module path that made `node`, or the node's own name."""
    path = module_path(node)
    return f"{path} ({node.name})" if path else node.name


def is_within(path: str, modules: Collection[str]) -> bool:
    """Whether the module at `path` is one of `modules` or inside one of them."""
    return any(path == module or path.startswith(f"{module}.") for module in modules)


def float_nodes(graph_module: GraphModule, keep_float: Collection[str]) -> set[Node]:
    """The ops that stay float when the modules `keep_float` do.

    Their own ops, the ReLUs fused into those, and the pass-through ops that feed nothing else: the mean
    before a float head need not round to int8 first. What integer ops read of them is quantised.
    """
    ops = [node for node in graph_module.graph.nodes if node.op == "call_function"]
    relus = {relu: node for node in ops if (relu := fused_relu(node)) is not None}
    kept: set[Node] = set()
    for node in reversed(ops):
        if is_quantise(node) or is_dequantise(node):
            continue
        feeds_float_only = node.target in PASS_THROUGH_OPS and bool(node.users) and all(u in kept for u in node.users)
        if is_within(module_path(relus.get(node, node)), keep_float) or (feeds_float_only and node not in relus):
            kept.add(node)
    return kept


def fused_relu(node: Node) -> Node | None:
    """The ReLU that is computed inside the kernel of `node`, if any."""
    users = list(node.users)
    if node.target in FUSES_RELU and len(users) == 1 and users[0].target in RELU_OPS:
        return users[0]
    return None


def float_weight_sizes(graph_module: GraphModule) -> tuple[int, ...]:
    """Elements of the weight of each layer of a converted graph that stayed float, sorted."""
    weights = [node.args[1] for node in graph_module.graph.nodes if node.target in WEIGHTED_OPS]
    return tuple(sorted(weight.meta["val"].numel() for weight in weights if not is_dequantise(weight)))


def check_integer_graph(graph_module: GraphModule, keep_float: Collection[str] = ()) -> QdqCount:
    """Check that every op of a converted graph runs in int8, but for those of the modules `keep_float`.

    Raises:
        VerificationError: names each layer that stayed float and what is missing around it, and each
            layer that was declared float and did not stay so.
    """
    nodes = list(graph_module.graph.nodes)
    kept = float_nodes(graph_module, keep_float)
    ops = [node for node in nodes if node.op == "call_function" and not (is_quantise(node) or is_dequantise(node))]
    relus = {relu for node in ops if (relu := fused_relu(node)) is not None}
    inputs = [node for node in nodes if node.op == "placeholder"]
    # torch.export adds a shape guard (call_module), which no converter sees.
    read = [user for node in inputs for user in node.users if user.op == "call_function" and user not in kept]
    faults = [f"{layer_name(user)}: float input" for user in read if not is_quantise(user)]
    for node in ops:
        if node in kept:
            faults += _faults_of_float(node)
        elif node not in relus:
            faults += _faults_of(graph_module, node)
    count = count_qdq(graph_module)
    if not faults:
        # One quantise node per activation that int8 reads or gives (an op and its fused ReLU are one) and per
        # weight not yet folded.
        integer = sum(node not in kept and node not in relus for node in ops)
        quantised_floats = sum(any(map(is_quantise, node.users)) for node in [*inputs, *kept])
        weights = sum(is_quantise(node) and node.args[0].op == "get_attr" for node in nodes)
        expected = integer + quantised_floats + weights
        if not integer or count.quantise != expected or count.dequantise < expected:
            faults.append(f"{count.quantise} quantise and {count.dequantise} dequantise nodes, wanted {expected} each")
    if faults:
        shown = "; ".join(faults[:6]) + (f"; and {len(faults) - 6} more" if len(faults) > 6 else "")
        raise VerificationError(
            f"int8 conversion left the graph partly float: {shown}. "
            "Check the quantiser's configuration and that the student uses only supported ops."
        )
    return count


def _faults_of_float(node: Node) -> list[str]:
    if node.target in WEIGHTED_OPS and is_dequantise(node.args[1]):
        return [f"{layer_name(node)}: declared float, its weight is int8"]
    return []


def _faults_of(graph_module: GraphModule, node: Node) -> list[str]:
    name = layer_name(node)
    if node.target not in INTEGER_OPS:
        return [f"{name}: op {node.target} has no int8 form"]
    faults = []
    for position in range(2 if node.target in WEIGHTED_OPS | PAIR_OPS else 1):
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
