"""What a student's graph reads of time: which steps of each tensor are new with a call, and which must be kept.

Every tensor of the windowed graph has a time axis of steps. In the stateful form it holds only the steps that are new
since the last call, which are the last ones of the window; what an operator reads beyond those is kept, in a FIFO of
the operator's input. So the logits are those of the window that ends with the newest frame, for any history, and no
offset has to be tracked: steps are counted from the end of the window.

A call of `step_frames` frames is a whole number of a tensor's time strides or a whole part of one. In the second case
each call makes one new step and the grid of a window shifts from call to call. So what is kept has as many phases as it
takes calls to come back to a grid, each with a FIFO of its own, which take turns.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from torch.fx import GraphModule, Node

from edgeaudio.compress.qdq import ADD_OPS, CURVE_OPS, RELU_OPS, aten, is_dequantise, is_quantise, layer_name
from edgeaudio.errors import ConfigError, UnsupportedError

#: Ops that give step t from step t of what they read.
_STEPWISE_OPS = (
    ADD_OPS | RELU_OPS | (CURVE_OPS - {aten.softmax.int}) | {aten.alias.default, aten.dropout.default, aten.mul.Tensor}
)
_POOL_OPS = frozenset({aten.avg_pool2d.default, aten.max_pool2d.default})
_IMAGE_TIME_AXIS = 2


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


@dataclass(frozen=True)
class Buffer:
    """A tensor and its entries."""

    timeline: _Timeline
    #: New entries of each call.
    new: int
    #: Calls from one entry of a FIFO to the next: so many FIFOs take turns.
    phases: int

    def reach_back(self, first_step: int) -> int:
        """Entries from a step of the window to the newest, both counted."""
        return self.timeline.steps - first_step


@dataclass(frozen=True)
class Read:
    """The steps `[first, end)` of a window that an operator reads of a buffered tensor, for the new steps it gives."""

    source: Node
    first: int
    end: int


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


class Plan:
    """What each node reads, and so which tensors are buffered."""

    def __init__(self, graph: GraphModule, step_frames: int) -> None:
        self.graph = graph
        self.step_frames = step_frames
        self.reads: dict[Node, Read] = {}
        self.buffers: dict[Node, Buffer] = {}
        self._timelines: dict[Node, _Timeline] = {}
        self._strides: set[int] = set()
        for node in graph.graph.nodes:
            if node.op == "placeholder":
                _, self.window_frames, self.n_mels = tensor_shape(node)
                if step_frames > self.window_frames:
                    raise ConfigError(
                        f"step_frames is {step_frames}, the window has {self.window_frames}: steps that share nothing "
                        "need no states; use the windowed form"
                    )
                self._place(node, _Timeline(1, self.window_frames, 1))
            elif node.op == "call_function":
                self._visit(node)
            elif node.op == "output":
                self._end(node)
        check_step(step_frames, self._strides)

    def _end(self, node: Node) -> None:
        """One answer for the window, or (hidden, answer) of each exit and then the last answer."""
        ends = list(node.all_input_nodes)
        self.answers: list[Node] = [*ends[1:-1:2], ends[-1]]
        self.hidden: list[Node] = ends[:-1:2]
        if any(answer in self._timelines for answer in self.answers):
            raise UnsupportedError("stateful: the student gives steps, not one answer for the window; pool them")

    def stages(self) -> list[list[Node]]:
        """What each answer needs beyond the one before, in the order of the graph, without constants."""
        taken: set[Node] = set()
        stages = []
        for answer in self.answers:
            wanted, open_ends = set(), [answer]
            while open_ends:
                node = open_ends.pop()
                if node not in taken and node not in wanted:
                    wanted.add(node)
                    open_ends += node.all_input_nodes
            taken |= wanted
            stages.append([node for node in self.graph.graph.nodes if node in wanted and node.op == "call_function"])
        return stages

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
        rank = len(tensor_shape(node.args[0]))
        dims = {dim % rank for dim in _ints(node.args[1])}
        if timeline.axis in dims:
            self._read(node, source, 0, timeline.steps)
        elif min(dims) > timeline.axis:
            self._place(node, timeline)
        else:
            raise _unsupported(node, "takes the mean over an axis before time")

    def _slide(self, node: Node, source: Node, timeline: _Timeline, reach: _Reach) -> None:
        steps = int(tensor_shape(node)[timeline.axis])
        placed = self._place(node, _Timeline(timeline.axis, steps, timeline.stride_frames * reach.stride))
        first = reach.first + (steps - placed.new) * reach.stride
        end = reach.first + (steps - 1) * reach.stride + reach.kernel
        self._read(node, source, first, end)

    def _place(self, node: Node, timeline: _Timeline) -> Buffer:
        stride = timeline.stride_frames
        self._strides.add(stride)
        # A call longer than what a window holds of a deep tensor: the steps between are in no window.
        new = min(max(1, self.step_frames // stride), timeline.steps)
        self._timelines[node] = timeline
        placed = Buffer(timeline, new, max(1, stride // self.step_frames))
        self.buffers[node] = placed
        return placed

    def _read(self, node: Node, source: Node, first: int, end: int) -> None:
        self.reads[node] = Read(source, first, end)

    def kept(self, readers: Iterable[Node]) -> dict[Node, int]:
        """Entries before the new ones that the readers want, by tensor; a quantised one is kept as it was quantised."""
        wanted: dict[Node, int] = {}
        for read in (self.reads[reader] for reader in readers if reader in self.reads):
            node = stored(read.source)
            buffer = self.buffers[node]
            entries = buffer.reach_back(read.first) - buffer.new
            if entries > 0:
                wanted[node] = max(wanted.get(node, 0), entries)
        return wanted


def stored(source: Node) -> Node:
    """The tensor that is buffered for those who read `source`: its quantised form, if it has one."""
    kept = source.args[0] if is_dequantise(source) else source
    assert isinstance(kept, Node)
    return kept


def quantisation(node: Any) -> tuple[Any, ...]:
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


def tensor_shape(node: Any) -> tuple[int, ...]:
    # The nodes that convert_pt2e adds carry no shape of their own.
    while is_quantise(node) or is_dequantise(node):
        node = node.args[0]
    return tuple(node.meta["val"].shape)


def _dim(node: Node) -> int:
    """The axis that a slice cuts."""
    (dim,) = _ints([node.args[1] if len(node.args) > 1 else 0])
    return dim % len(tensor_shape(node))


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
