"""The stateful form of a student's graph: new frames and states in, new states and logits out.

Every tensor of the windowed graph has a time axis of steps. In the stateful graph it holds only the steps that are
new since the last call, which are the last ones of the window; what an operator reads beyond those is kept in a
state, a FIFO of the operator's input. So the logits are those of the window that ends with the newest frame, for any
history, and no offset has to be tracked: steps are counted from the end of the window.

A step of `step_frames` frames is a whole number of a tensor's time strides or a whole part of one. In the second
case each call makes one new step and the grid of a window shifts from call to call. So a state has as many phases as
it takes calls to come back to a grid, each with a FIFO of its own, and whoever runs the graph lets them take turns:
call n is given, and gives back, number `n % phases`. The graph itself knows one.

The walk knows float graphs and those of PT2E alike, so a quantised stateful graph has the weights, scales and zero
points of the windowed one. A state holds int8 values as they are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch.fx import Graph, GraphModule, Node

from edgeaudio.bundle.manifest import StateInfo
from edgeaudio.compress.qdq import ADD_OPS, CURVE_OPS, RELU_OPS, aten, is_dequantise, is_quantise, layer_name
from edgeaudio.errors import ConfigError, UnsupportedError
from edgeaudio.students.cost import count_macs

#: Ops that give step t from step t of what they read.
_STEPWISE_OPS = (
    ADD_OPS | RELU_OPS | (CURVE_OPS - {aten.softmax.int}) | {aten.alias.default, aten.dropout.default, aten.mul.Tensor}
)
_POOL_OPS = frozenset({aten.avg_pool2d.default, aten.max_pool2d.default})
_IMAGE_TIME_AXIS = 2
_IMAGE_RANK = 4
# States of images lie channels last, time before frequency: as the kernels of TFLite, and of int8 ONNX, want them.
_TO_CHANNELS_LAST = (0, 2, 3, 1)
_TO_CHANNELS_FIRST = (0, 3, 1, 2)


class _Timeline(NamedTuple):
    """Steps of a tensor within a window: on which axis, how many, and frames from one to the next."""

    axis: int
    steps: int
    stride_frames: int


class _Reach(NamedTuple):
    """What an operator reads of its input's steps for all of its output's: a sliding kernel."""

    first: int
    kernel: int
    stride: int


@dataclass
class _Buffer:
    """A tensor and how many of its entries before the new ones are kept."""

    timeline: _Timeline
    #: New entries of each call.
    new: int
    #: Calls from one entry of a FIFO to the next: so many FIFOs take turns.
    phases: int
    kept: int = 0

    def reach_back(self, first_step: int) -> int:
        """Entries from a step of the window to the newest, both counted."""
        return self.timeline.steps - first_step


@dataclass(frozen=True)
class _Read:
    """The steps `[first, end)` of a window that an operator reads of a buffered tensor, for the new steps it gives."""

    source: Node
    first: int
    end: int


@dataclass(frozen=True)
class StatefulGraph:
    """A graph `(new frames (1, step_frames, n_mels), *states) -> (*new states, logits)`."""

    module: GraphModule
    step_frames: int
    window_frames: int
    n_mels: int
    #: In the order of inputs and outputs; `dtype` is that of the values which a state holds.
    states: tuple[StateInfo, ...]
    #: Scale of the int8 logits; None where they are float.
    logit_step: float | None

    @property
    def macs_per_step(self) -> int:
        """Multiply-accumulates of one call."""
        return count_macs(self.module, *self.example())

    def example(self) -> tuple[torch.Tensor, ...]:
        """Inputs of the right shapes: silence, and states as they begin."""
        return (torch.zeros(1, self.step_frames, self.n_mels), *self.initial())

    def initial(self) -> tuple[torch.Tensor, ...]:
        """States that stand for zeros."""
        placeholders = [node for node in self.module.graph.nodes if node.op == "placeholder"][1:]
        return tuple(
            torch.full(state.shape, (state.zero_point or 0) if node.meta["integer"] else 0).to(
                torch.int8 if node.meta["integer"] else torch.float32
            )
            for state, node in zip(self.states, placeholders, strict=True)
        )


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
    if step_frames < 1:
        raise ConfigError(f"step_frames is {step_frames}, wanted at least 1")
    plan = _Plan(graph, step_frames)
    return _Writer(plan, integer_states=integer_states).write()


def check_step(step_frames: int, strides: Iterable[int]) -> None:
    """Raise ConfigError unless each stride (frames between two time steps of a layer) fits the step, or the step it."""
    strides = set(strides)

    def fits(step: int) -> bool:
        return all(step % stride == 0 or stride % step == 0 for stride in strides)

    if not fits(step_frames):
        largest = max(strides)
        smaller = ", ".join(str(step) for step in range(1, largest) if fits(step))
        raise ConfigError(
            f"step_frames is {step_frames}, but the student gives one time step for {largest} frames; "
            f"use {smaller} or a multiple of {largest}"
        )


class _Plan:
    """What each node reads, and so which tensors are buffered."""

    def __init__(self, graph: GraphModule, step_frames: int) -> None:
        self.graph = graph
        self.step_frames = step_frames
        self.reads: dict[Node, _Read] = {}
        self.buffers: dict[Node, _Buffer] = {}
        self._timelines: dict[Node, _Timeline] = {}
        self._strides: set[int] = set()
        for node in graph.graph.nodes:
            if node.op == "placeholder":
                _, self.window_frames, self.n_mels = _shape(node)
                if step_frames > self.window_frames:
                    raise ConfigError(
                        f"step_frames is {step_frames}, the window has {self.window_frames}: steps that share nothing "
                        "need no states; use the windowed form"
                    )
                self._place(node, _Timeline(1, self.window_frames, 1))
            elif node.op == "call_function":
                self._visit(node)
            elif node.op == "output" and any(source in self._timelines for source in node.all_input_nodes):
                raise UnsupportedError("stateful: the student gives steps, not one answer for the window; pool them")
        check_step(step_frames, self._strides)

    def _visit(self, node: Node) -> None:
        sources = [source for source in node.all_input_nodes if source in self._timelines]
        if not sources:
            return
        source = sources[0]
        timeline = self._timelines[source]
        if node.target in _STEPWISE_OPS or is_quantise(node) or is_dequantise(node):
            if any(self._timelines[other] != timeline for other in sources):
                found = [self._timelines[other].steps for other in sources]
                raise _unsupported(node, f"joins tensors of {found} time steps")
            self._place(node, timeline)
        elif node.target is aten.unsqueeze.default and node.args[1] in range(timeline.axis + 1):
            self._place(node, timeline._replace(axis=timeline.axis + 1))
        elif node.target is aten.mean.dim:
            self._visit_mean(node, source, timeline)
        elif node.target is aten.slice.Tensor and _dim(node) != timeline.axis:
            self._place(node, timeline)
        else:
            self._slide(node, source, timeline, _reach(node, timeline))

    def _visit_mean(self, node: Node, source: Node, timeline: _Timeline) -> None:
        rank = len(_shape(node.args[0]))
        dims = {dim % rank for dim in _ints(node.args[1])}
        if timeline.axis in dims:
            self._read(node, source, 0, timeline.steps)
        elif min(dims) > timeline.axis:
            self._place(node, timeline)
        else:
            raise _unsupported(node, "takes the mean over an axis before time")

    def _slide(self, node: Node, source: Node, timeline: _Timeline, reach: _Reach) -> None:
        steps = int(_shape(node)[timeline.axis])
        placed = self._place(node, _Timeline(timeline.axis, steps, timeline.stride_frames * reach.stride))
        first = reach.first + (steps - placed.new) * reach.stride
        end = reach.first + (steps - 1) * reach.stride + reach.kernel
        self._read(node, source, first, end)

    def _place(self, node: Node, timeline: _Timeline) -> _Buffer:
        stride = timeline.stride_frames
        self._strides.add(stride)
        # A call longer than what a window holds of a deep tensor: the steps between are in no window.
        new = min(max(1, self.step_frames // stride), timeline.steps)
        self._timelines[node] = timeline
        placed = _Buffer(timeline, new, max(1, stride // self.step_frames))
        self.buffers[node] = placed
        return placed

    def _read(self, node: Node, source: Node, first: int, end: int) -> None:
        # A quantised tensor is kept as it was quantised; who reads it dequantises what it reads.
        kept = _stored(source)
        buffer = self.buffers[kept]
        buffer.kept = max(buffer.kept, buffer.reach_back(first) - buffer.new)
        self.reads[node] = _Read(source, first, end)


@dataclass
class _Writer:
    """Writes the new graph of a plan, node by node."""

    plan: _Plan
    integer_states: bool
    _graph: Graph = field(default_factory=Graph)
    _new: dict[Node, Node] = field(default_factory=dict)
    _given: dict[Node, Node] = field(default_factory=dict)
    _held: dict[Node, Node] = field(default_factory=dict)
    _extended: dict[Node, Node] = field(default_factory=dict)

    def write(self) -> StatefulGraph:
        plan = self.plan
        old_nodes = list(plan.graph.graph.nodes)
        for node in old_nodes:
            if node.op == "placeholder":
                self._new[node] = self._graph.placeholder("log_mel")
        buffered = [node for node in old_nodes if node in plan.buffers and plan.buffers[node].kept]
        states = tuple(self._state(node, f"state{number}") for number, node in enumerate(buffered))
        for node in buffered:
            self._held[node] = self._taken(node)
        logits = None
        for node in old_nodes:
            if node.op in ("get_attr", "call_function"):
                self._copy(node)
            elif node.op == "output":
                (logits,) = node.all_input_nodes
        assert logits is not None
        self._graph.output((*(self._kept(node) for node in buffered), self._new[logits]))
        module = GraphModule(plan.graph, self._graph)
        module.training = False
        step = float(_quantisation(logits.args[0])[0]) if is_dequantise(logits) else None
        return StatefulGraph(module, plan.step_frames, plan.window_frames, plan.n_mels, states, step)

    def _state(self, node: Node, name: str) -> StateInfo:
        buffer = self.plan.buffers[node]
        shape = list(_shape(node))
        shape[buffer.timeline.axis] = buffer.kept
        if len(shape) == _IMAGE_RANK:
            shape = [shape[axis] for axis in _TO_CHANNELS_LAST]
        quantised = is_quantise(node)
        self._given[node] = self._graph.placeholder(name)
        self._given[node].meta["integer"] = quantised and self.integer_states
        info = StateInfo(name=name, shape=tuple(shape), phases=buffer.phases)
        if not quantised:
            return info
        scale, zero_point, *_ = _quantisation(node)
        return info.model_copy(update={"dtype": "int8", "scale": float(scale), "zero_point": int(zero_point)})

    def _taken(self, node: Node) -> Node:
        """A state laid out, and quantised, as the tensor is."""
        given = self._given[node]
        if is_quantise(node) and not self.integer_states:
            given = self._quantise(node, given)
        return self._permuted(node, given, _TO_CHANNELS_FIRST)

    def _copy(self, node: Node) -> None:
        read = self.plan.reads.get(node)
        if read is not None and node.target is aten.slice.Tensor:
            self._new[node] = self._window(read)
        else:
            taken = {} if read is None else {read.source: self._window(read)}
            self._new[node] = self._graph.node_copy(node, lambda old: taken.get(old, self._new[old]))

    def _kept(self, node: Node) -> Node:
        """The newest entries: the state of the next call."""
        buffer = self.plan.buffers[node]
        kept = self._permuted(node, self._entries(node, buffer.new, buffer.new + buffer.kept), _TO_CHANNELS_LAST)
        return self._dequantise(node, kept) if is_quantise(node) and not self.integer_states else kept

    def _window(self, read: _Read) -> Node:
        """The steps of the window that `read` wants, dequantised where its source is."""
        node = _stored(read.source)
        buffer = self.plan.buffers[node]
        length = buffer.kept + buffer.new
        cut = self._entries(node, length - buffer.reach_back(read.first), length - buffer.reach_back(read.end - 1) + 1)
        return cut if node is read.source else self._dequantise(node, cut)

    def _entries(self, node: Node, first: int, end: int) -> Node:
        """Entries `[first, end)` of those held and the new ones behind them."""
        buffer = self.plan.buffers[node]
        kept, new = buffer.kept, buffer.new
        if end <= kept:
            return self._cut(node, self._held[node], first, end, length=kept)
        if first >= kept:
            return self._cut(node, self._new[node], first - kept, end - kept, length=new)
        if node not in self._extended:
            self._extended[node] = self._moved(
                node,
                lambda *parts: self._graph.call_function(aten.cat.default, (list(parts), buffer.timeline.axis)),
                self._held[node],
                self._new[node],
            )
        return self._cut(node, self._extended[node], first, end, length=kept + new)

    def _cut(self, node: Node, values: Node, first: int, end: int, *, length: int) -> Node:
        if (first, end) == (0, length):
            return values
        arguments = (self.plan.buffers[node].timeline.axis, first, end)
        return self._moved(node, lambda part: self._graph.call_function(aten.slice.Tensor, (part, *arguments)), values)

    def _permuted(self, node: Node, values: Node, axes: tuple[int, ...]) -> Node:
        if len(_shape(node)) != _IMAGE_RANK:
            return values
        return self._moved(node, lambda part: self._graph.call_function(aten.permute.default, (part, axes)), values)

    def _moved(self, node: Node, move: Callable[..., Node], *values: Node) -> Node:
        """Values of a tensor moved as they are; without integer states in float, between nodes of its own scale."""
        if not is_quantise(node) or self.integer_states:
            return move(*values)
        return self._quantise(node, move(*(self._dequantise(node, part) for part in values)))

    def _quantise(self, node: Node, values: Node) -> Node:
        return self._graph.call_function(node.target, (values, *_quantisation(node)))  # type: ignore[arg-type]

    def _dequantise(self, node: Node, values: Node) -> Node:
        operator = torch.ops.quantized_decomposed.dequantize_per_tensor.default
        return self._graph.call_function(operator, (values, *_quantisation(node)))


def _stored(source: Node) -> Node:
    """The tensor that is buffered for those who read `source`: its quantised form, if it has one."""
    kept = source.args[0] if is_dequantise(source) else source
    assert isinstance(kept, Node)
    return kept


def _quantisation(node: Any) -> tuple[Any, ...]:
    """Scale, zero point, range and dtype of a quantise node."""
    arguments: tuple[Any, ...] = node.args[1:]
    return arguments


def _reach(node: Node, timeline: _Timeline) -> _Reach:
    if node.target is aten.slice.Tensor:
        first, _, step = _defaults(node.args[2:], [0, None, 1])
        if step != 1:
            raise _unsupported(node, f"takes every {step}. time step")
        return _Reach(range(timeline.steps)[first:].start, 1, 1)
    if timeline.axis == _IMAGE_TIME_AXIS and node.target is aten.conv2d.default:
        stride, padding, dilation = map(_ints, _defaults(node.args[3:6], [[1, 1], [0, 0], [1, 1]]))
        if padding[0] or dilation[0] != 1:
            raise _unsupported(node, f"pads time by {padding[0]} and dilates it by {dilation[0]}, wanted 0 and 1")
        return _Reach(0, int(_weight_shape(node)[2]), stride[0])
    if timeline.axis == _IMAGE_TIME_AXIS and node.target in _POOL_OPS:
        kernel = _ints(node.args[1])
        stride = _ints(node.args[2]) if len(node.args) > 2 and node.args[2] else kernel
        if len(node.args) > 3 and _ints(node.args[3])[0]:
            raise _unsupported(node, "pads time")
        return _Reach(0, kernel[0], stride[0])
    raise _unsupported(node, "has no streaming form")


def _weight_shape(node: Node) -> tuple[int, ...]:
    """Of a convolution, whose weight may be behind quantise and dequantise nodes or folded."""
    weight = node.args[1]
    while isinstance(weight, Node) and weight.op == "call_function":
        weight = weight.args[0]
    assert isinstance(weight, Node)
    owner: Any = weight.graph.owning_module
    for part in str(weight.target).split("."):
        owner = getattr(owner, part)
    return tuple(owner.shape)


def _shape(node: Any) -> tuple[int, ...]:
    # The nodes that convert_pt2e adds carry no shape of their own.
    while is_quantise(node) or is_dequantise(node):
        node = node.args[0]
    return tuple(node.meta["val"].shape)


def _dim(node: Node) -> int:
    """The axis that a slice cuts."""
    (dim,) = _ints([node.args[1] if len(node.args) > 1 else 0])
    return dim % len(_shape(node))


def _defaults(given: Sequence[Any], usual: list[Any]) -> list[Any]:
    """Arguments as given, the others as usual."""
    return [*given, *usual[len(given) :]]


def _ints(values: Any) -> list[int]:
    return [int(value) for value in values]


def _unsupported(node: Node, what: str) -> UnsupportedError:
    return UnsupportedError(
        f"stateful: op {node.target} in layer {layer_name(node)} {what}. Streaming wants students that are valid in "
        "time (dscnn, mn); leave the stateful form out for this one."
    )
