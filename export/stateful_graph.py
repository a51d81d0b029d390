"""The stateful form of a student's graph: new frames and states in, new states and logits out.

Every tensor holds only the steps that are new since the last call; what an operator reads beyond them comes from a
state, a FIFO of the operator's input (`stateful_plan` says which and how long). A state with phases is one of several
that take turns: whoever runs the graph gives call n, and takes back, number `n % phases`. The graph itself knows one.

The walk knows float graphs and those of PT2E alike, so a quantised stateful graph has the weights, scales and zero
points of the windowed one. A state holds int8 values as they are. A student with exits is written stage by stage: each
takes the new steps of what the stage before left, and has states of its own.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch.fx import Graph, GraphModule, Node

from edgeaudio.bundle.manifest import StateInfo, TensorInfo
from edgeaudio.compress.qdq import aten, is_dequantise, is_quantise
from edgeaudio.errors import ConfigError, VerificationError
from edgeaudio.students.cost import count_macs

from .artefact import INPUT_NAME
from .stateful_plan import Plan, Read, quantisation, stored, tensor_shape

_IMAGE_RANK = 4
# States of images lie channels last, time before frequency: as the kernels of TFLite, and of int8 ONNX, want them.
_TO_CHANNELS_LAST = (0, 2, 3, 1)
_TO_CHANNELS_FIRST = (0, 3, 1, 2)


@dataclass(frozen=True)
class StatefulGraph:
    """A graph `(input, *states) -> (*new states, logits)`, or with the hidden steps of a stage before its logits.

    The input is `(1, step_frames, n_mels)`, or the hidden steps that the stage before gives.
    """

    module: GraphModule
    step_frames: int
    window_frames: int
    input: TensorInfo
    #: In the order of inputs and outputs; `dtype` is that of the values which a state holds.
    states: tuple[StateInfo, ...]
    #: What the next stage takes; None from the last stage, and where there are no stages.
    hidden: TensorInfo | None
    #: Scale of the int8 logits; None where they are float.
    logit_step: float | None
    #: Whether quantised inputs and outputs are int8; else they are float.
    integer_states: bool
    #: None where there are no stages.
    stage: int | None

    @property
    def macs_per_step(self) -> int:
        """Multiply-accumulates of one call."""
        return count_macs(self.module, *self.example())

    def example(self) -> tuple[torch.Tensor, ...]:
        """Inputs of the right shapes: zeros, and states as they begin."""
        return (self._zeros(self.input), *self.initial())

    def initial(self) -> tuple[torch.Tensor, ...]:
        """States that stand for zeros."""
        return tuple(map(self._zeros, self.states))

    def _zeros(self, info: TensorInfo) -> torch.Tensor:
        if info.dtype == "float32" or not self.integer_states:
            return torch.zeros(info.shape)
        return torch.full(info.shape, info.zero_point or 0, dtype=torch.int8)


def stateful_graph(graph: GraphModule, step_frames: int, *, integer_states: bool = True) -> StatefulGraph:
    """The stateful form of a windowed student's graph, which is left as it is; parameters are shared.

    Args:
        graph: `(1, frames, n_mels)` -> logits; `torch.export(...).module()` in eval mode with batch norms folded,
            or what `convert_pt2e` made of one.
        step_frames: new frames per call.
        integer_states: states of quantised tensors are int8 inputs and outputs, and are moved as such; off, they are
            float between quantise and dequantise nodes, which the TFLite converter makes int8.
    Raises:
        UnsupportedError: an op that looks at a window in a way that cannot be carried from call to call.
        ConfigError: a step that does not fit the student's time strides or is longer than what it sees.
    """
    (whole,) = stateful_stages(graph, step_frames, integer_states=integer_states)
    return whole


def stateful_stages(graph: GraphModule, step_frames: int, *, integer_states: bool = True) -> list[StatefulGraph]:
    """As `stateful_graph`, of a graph `-> (hidden 0, logits 0, hidden 1, ..., final logits)`: one for each answer.

    Raises:
        VerificationError: a stage reads more than what the stage before leaves. Others as `stateful_graph`.
    """
    if step_frames < 1:
        raise ConfigError(f"step_frames is {step_frames}, wanted at least 1")
    plan = Plan(graph, step_frames)
    (frames,) = (node for node in graph.graph.nodes if node.op == "placeholder")
    borders = [frames, *map(stored, plan.hidden)]
    written = []
    for number, nodes in enumerate(plan.stages()):
        gives = borders[number + 1] if number + 1 < len(borders) else None
        writer = _Writer(plan, nodes, borders[number], gives, plan.answers[number], number, integer_states)
        written.append(writer.write())
    return written


@dataclass
class _Writer:
    """Writes one stage of a plan, node by node."""

    plan: Plan
    nodes: list[Node]
    #: The tensor whose new steps come in, and that whose new steps go to the next stage.
    takes: Node
    gives: Node | None
    answer: Node
    number: int
    integer_states: bool
    _graph: Graph = field(default_factory=Graph)
    _kept: dict[Node, int] = field(default_factory=dict)
    _new: dict[Node, Node] = field(default_factory=dict)
    _held: dict[Node, Node] = field(default_factory=dict)
    _extended: dict[Node, Node] = field(default_factory=dict)

    def write(self) -> StatefulGraph:
        plan = self.plan
        self._kept = plan.kept(self.nodes)
        buffered = [node for node in plan.graph.graph.nodes if node in self._kept]
        first = INPUT_NAME if self.takes.op == "placeholder" else f"hidden{self.number - 1}"
        given = [self._graph.placeholder(name) for name in (first, *(f"state{n}" for n in range(len(buffered))))]
        self._new[self.takes] = given[0] if self.takes.op == "placeholder" else self._taken(self.takes, given[0])
        for node, state in zip(buffered, given[1:], strict=True):
            self._held[node] = self._taken(node, state)
        for node in self.nodes:
            self._copy(node)
        ends = [self._left(node, self._entries(node, *self._next(node))) for node in buffered]
        if self.gives is not None:
            ends.append(self._left(self.gives, self._new[self.gives]))
        self._graph.output((*ends, self._new[self.answer]))
        module = GraphModule(plan.graph, self._graph)
        module.training = False
        states = (
            StateInfo(phases=plan.buffers[node].phases, **self._info(node, f"state{n}", self._kept[node]))
            for n, node in enumerate(buffered)
        )
        hidden = None if self.gives is None else TensorInfo(**self._info(self.gives, f"hidden{self.number}"))
        return StatefulGraph(
            module=module,
            step_frames=plan.step_frames,
            window_frames=plan.window_frames,
            input=TensorInfo(**self._info(self.takes, first)),
            states=tuple(states),
            hidden=hidden,
            logit_step=float(quantisation(self.answer.args[0])[0]) if is_dequantise(self.answer) else None,
            integer_states=self.integer_states,
            stage=self.number if plan.hidden else None,
        )

    def _info(self, node: Node, name: str, entries: int | None = None) -> dict[str, object]:
        """Fields of a `TensorInfo` of so many entries; without a number the new ones."""
        buffer = self.plan.buffers[node]
        shape = list(tensor_shape(node))
        shape[buffer.timeline.axis] = buffer.new if entries is None else entries
        if len(shape) == _IMAGE_RANK:
            shape = [shape[axis] for axis in _TO_CHANNELS_LAST]
        info: dict[str, object] = {"name": name, "shape": tuple(shape)}
        if is_quantise(node):
            scale, zero_point, *_ = quantisation(node)
            info |= {"dtype": "int8", "scale": float(scale), "zero_point": int(zero_point)}
        return info

    def _taken(self, node: Node, given: Node) -> Node:
        """An input laid out, and quantised, as the tensor is."""
        if is_quantise(node) and not self.integer_states:
            given = self._quantise(node, given)
        return self._permuted(node, given, _TO_CHANNELS_FIRST)

    def _left(self, node: Node, values: Node) -> Node:
        """An output: `_taken` the other way."""
        left = self._permuted(node, values, _TO_CHANNELS_LAST)
        return self._dequantise(node, left) if is_quantise(node) and not self.integer_states else left

    def _copy(self, node: Node) -> None:
        read = self.plan.reads.get(node)
        if read is not None and node.target is aten.slice.Tensor:
            self._new[node] = self._window(read)
        else:
            taken = {} if read is None else {read.source: self._window(read)}
            self._new[node] = self._graph.node_copy(node, lambda old: taken.get(old) or self._value(old))

    def _value(self, old: Node) -> Node:
        if old not in self._new:
            if old.op == "get_attr":
                self._new[old] = self._graph.node_copy(old)
            elif is_dequantise(old) and old.args[0] is self.takes:
                self._new[old] = self._dequantise(self.takes, self._new[self.takes])
            else:
                raise VerificationError(
                    f"stateful: stage {self.number} reads {old.name}, which the stage before does not leave; "
                    "an exit must follow a section that all later ones depend on alone"
                )
        return self._new[old]

    def _next(self, node: Node) -> tuple[int, int]:
        """The newest of its entries: the state of the next call."""
        new = self.plan.buffers[node].new
        return new, new + self._kept[node]

    def _window(self, read: Read) -> Node:
        """The steps of the window that `read` wants, dequantised where its source is."""
        node = stored(read.source)
        buffer = self.plan.buffers[node]
        length = self._kept.get(node, 0) + buffer.new
        cut = self._entries(node, length - buffer.reach_back(read.first), length - buffer.reach_back(read.end - 1) + 1)
        return cut if node is read.source else self._dequantise(node, cut)

    def _entries(self, node: Node, first: int, end: int) -> Node:
        """Entries `[first, end)` of those held and the new ones behind them."""
        buffer = self.plan.buffers[node]
        kept, new = self._kept.get(node, 0), buffer.new
        if end <= kept:
            return self._cut(node, self._held[node], first, end, length=kept)
        if first >= kept:
            return self._cut(node, self._value(node), first - kept, end - kept, length=new)
        if node not in self._extended:
            self._extended[node] = self._moved(
                node,
                lambda *parts: self._graph.call_function(aten.cat.default, (list(parts), buffer.timeline.axis)),
                self._held[node],
                self._value(node),
            )
        return self._cut(node, self._extended[node], first, end, length=kept + new)

    def _cut(self, node: Node, values: Node, first: int, end: int, *, length: int) -> Node:
        if (first, end) == (0, length):
            return values
        arguments = (self.plan.buffers[node].timeline.axis, first, end)
        return self._moved(node, lambda part: self._graph.call_function(aten.slice.Tensor, (part, *arguments)), values)

    def _permuted(self, node: Node, values: Node, axes: tuple[int, ...]) -> Node:
        if len(tensor_shape(node)) != _IMAGE_RANK:
            return values
        return self._moved(node, lambda part: self._graph.call_function(aten.permute.default, (part, axes)), values)

    def _moved(self, node: Node, move: Callable[..., Node], *values: Node) -> Node:
        """Values of a tensor moved as they are; without integer states in float, between nodes of its own scale."""
        if not is_quantise(node) or self.integer_states:
            return move(*values)
        return self._quantise(node, move(*(self._dequantise(node, part) for part in values)))

    def _quantise(self, node: Node, values: Node) -> Node:
        return self._graph.call_function(node.target, (values, *quantisation(node)))  # type: ignore[arg-type]

    def _dequantise(self, node: Node, values: Node) -> Node:
        operator = torch.ops.quantized_decomposed.dequantize_per_tensor.default
        return self._graph.call_function(operator, (values, *quantisation(node)))
