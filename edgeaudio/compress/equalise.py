"""Cross-layer equalisation: channels of one tensor are scaled to like ranges, so that one int8 scale suits them all.

A positive factor per channel passes through ReLU, cropping, means and sums; taken out of the layer that writes the
channel and put into the layers that read it, it changes nothing in float. Depthwise weights have a scale for each
channel and take any factor for free; dense weights share a row's scale among the channels they read, so there the
factor is the geometric mean of what suits the activations and what suits the weights.

Source: Nagel et al., arXiv 1906.04721, section 4.1, with ranges of real activations in place of those of weights.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch.fx import GraphModule, Interpreter, Node

from edgeaudio.compress.qdq import ADD_OPS, RELU_OPS, WEIGHTED_OPS, aten, fused_relu
from edgeaudio.compress.weights import calibration_batches, parameters

#: Ops through which a factor per channel passes unchanged, if they do not mix or move channels.
_SCALE_FREE_OPS = RELU_OPS | {
    aten.adaptive_avg_pool2d.default,
    aten.avg_pool2d.default,
    aten.dropout.default,
    aten.mean.dim,
    aten.slice.Tensor,
}
_CHANNEL_DIM = 1
# A channel that calibration hardly wakes is not blown up more than this against the loudest.
_LARGEST_FACTOR = 1e3
_TINY = torch.finfo(torch.float32).tiny


@dataclass
class _Group:
    """Tensors that must share their factors: all that sums, ReLUs and means tie together."""

    nodes: list[Node] = field(default_factory=list)
    writers: list[Node] = field(default_factory=list)
    readers: list[Node] = field(default_factory=list)
    fixed: bool = False


def equalise(graph: GraphModule, calibration: torch.Tensor) -> int:
    """Equalise the channels of an exported graph in place, batch norms folded before; returns how many tensors gained.

    Args:
        graph: `torch.export(...).module()` of a student in eval mode.
        calibration: `(n, frames, n_mels)` windows; batched where the graph takes batches.
    """
    groups = [group for group in _groups(graph) if group.writers and group.readers and not group.fixed]
    ranges = _ranges(graph, calibration, {node for group in groups for node in group.nodes})
    for group in groups:
        factors = _factors(graph, group, ranges)
        for node in group.writers:
            weight, *bias = parameters(graph, node)
            weight.div_(_along(factors, weight, 0))
            for values in bias:
                values.div_(factors)
        for node in group.readers:
            weight = parameters(graph, node)[0]
            weight.mul_(_along(factors, weight, 0 if _is_depthwise(node) else 1))
    return len(groups)


def _groups(graph: GraphModule) -> list[_Group]:
    """The tensors of the graph by which must share factors; a group is fixed where anything else sees a channel."""
    found: dict[Node, _Group] = {}
    for node in graph.graph.nodes:
        if node.op == "output":
            for source in node.all_input_nodes:
                # Images leave only for the next stage, which is cut from the same graph.
                _group_of(found, source).fixed |= len(_shape(source)) < 4
        elif node.op == "placeholder":
            _group_of(found, node).fixed = True
        elif node.op == "call_function":
            _place(graph, found, node)
    return list({id(group): group for group in found.values()}.values())


def _place(graph: GraphModule, found: dict[Node, _Group], node: Node) -> None:
    sources = [source for source in node.all_input_nodes if source.op != "get_attr"]
    group = _group_of(found, node)
    if node.target in WEIGHTED_OPS and _is_plain(node):
        _group_of(found, sources[0]).readers.append(node)
        group.writers.append(node)
        return
    ties = node.target in _SCALE_FREE_OPS and _keeps_channels(node)
    if ties or (node.target in ADD_OPS and len(sources) == 2 and _same_channels(sources)):
        for source in sources:
            _merge(found, source, node)
        return
    # Anything else may mix channels or bend them.
    group.fixed = True
    for source in sources:
        _group_of(found, source).fixed = True


def _group_of(found: dict[Node, _Group], node: Node) -> _Group:
    if node not in found:
        found[node] = _Group(nodes=[node])
    return found[node]


def _merge(found: dict[Node, _Group], first: Node, second: Node) -> None:
    kept, gone = _group_of(found, first), _group_of(found, second)
    if kept is gone:
        return
    kept.nodes += gone.nodes
    kept.writers += gone.writers
    kept.readers += gone.readers
    kept.fixed |= gone.fixed
    for node in gone.nodes:
        found[node] = kept


def _shape(node: Any) -> Sequence[int]:
    return node.meta["val"].shape  # type: ignore[no-any-return]


def _is_depthwise(node: Node) -> bool:
    return node.target is aten.conv2d.default and _shape(node.args[1])[1] == 1 and _reads(node) == _writes(node)


def _reads(node: Node) -> int:
    return int(_shape(node.args[0])[_CHANNEL_DIM])


def _writes(node: Node) -> int:
    return int(_shape(node.args[1])[0])


def _is_plain(node: Node) -> bool:
    """Whether factors can move through a layer's own weights: dense or depthwise, its weights used by it alone."""
    weight = node.args[1]
    if not isinstance(weight, Node) or len(weight.users) != 1 or len(_shape(node)) not in (2, 4):
        return False
    if node.target is aten.linear.default:
        return len(_shape(node)) == 2
    return _is_depthwise(node) or _shape(weight)[1] == _reads(node)


def _keeps_channels(node: Node) -> bool:
    arguments: tuple[Any, ...] = node.args
    if node.target is aten.mean.dim:
        rank = len(_shape(node.args[0]))
        return all(dim % rank > _CHANNEL_DIM for dim in arguments[1])
    if node.target is aten.slice.Tensor:
        # Without a dim argument the batch is cut.
        return len(arguments) > 1 and arguments[1] != _CHANNEL_DIM
    return True


def _same_channels(sources: Sequence[Node]) -> bool:
    shapes = [_shape(source) for source in sources]
    return all(len(shape) == 4 for shape in shapes) and len({int(shape[_CHANNEL_DIM]) for shape in shapes}) == 1


def _along(factors: torch.Tensor, weight: torch.Tensor, dim: int) -> torch.Tensor:
    return factors.reshape([-1 if axis == dim else 1 for axis in range(weight.ndim)])


class _Ranges(Interpreter):  # type: ignore[misc,unused-ignore]
    """Runs a graph and keeps the largest magnitude of each channel of some of its tensors."""

    def __init__(self, graph: GraphModule, wanted: set[Node]) -> None:
        super().__init__(graph)
        self._wanted = wanted
        self.largest: dict[Node, torch.Tensor] = {}

    def run_node(self, n: Node) -> Any:
        value = super().run_node(n)
        if n in self._wanted:
            seen = value.abs().transpose(0, _CHANNEL_DIM).flatten(1).amax(dim=1)
            self.largest[n] = torch.maximum(self.largest[n], seen) if n in self.largest else seen
        return value


def _ranges(graph: GraphModule, calibration: torch.Tensor, wanted: set[Node]) -> dict[Node, torch.Tensor]:
    # What a fused ReLU cuts off is never stored, so it needs no range.
    interpreter = _Ranges(graph, {node for node in wanted if fused_relu(node) is None})
    with torch.no_grad():
        for batch in calibration_batches(graph, calibration):
            interpreter.run(batch)
    return interpreter.largest


def _factors(graph: GraphModule, group: _Group, ranges: dict[Node, torch.Tensor]) -> torch.Tensor:
    """What each channel is divided by: 1 on average, so that the whole keeps its size."""
    shares = [seen / seen.amax().clamp(min=_TINY) for node in group.nodes if (seen := ranges.get(node)) is not None]
    wanted = torch.stack(shares).amax(dim=0)
    dense = [node for node in group.readers if not _is_depthwise(node)]
    if dense:
        wanted = (wanted / torch.stack([_column_sizes(graph, node) for node in dense]).amax(dim=0)).sqrt()
    wanted = wanted / wanted.amax()
    factors = wanted.clamp(min=1 / _LARGEST_FACTOR)
    # A channel that is silent on all windows stays as it is.
    factors = torch.where(wanted > 0, factors, torch.ones_like(factors))
    return factors / factors.log().mean().exp()


def _column_sizes(graph: GraphModule, node: Node) -> torch.Tensor:
    """Largest weight on each channel that a dense layer reads, each row measured in its own scale."""
    weight = parameters(graph, node)[0].abs()
    rows = weight.reshape(*weight.shape[:2], -1).amax(dim=2)
    scales = rows.amax(dim=1, keepdim=True).clamp(min=_TINY)
    return (rows / scales).amax(dim=0).clamp(min=1 / _LARGEST_FACTOR)
