"""Structured pruning: whole channels leave, importance asked of data, until a budget is met. Dense, only smaller.

torch-pruning (Fang et al., "DepGraph", arXiv 2301.12900) finds which layers must lose the same channel; which
channel goes, and how its tensors shrink, is decided here, so that every pruned network is one that
`reshape.fit_to_state` builds from its weights alone.
"""

from __future__ import annotations

import copy
import itertools
import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, TypeVar, cast

import torch
from torch import nn

from edgeaudio.compress.prune_spec import PruneSpec, PruneTarget
from edgeaudio.compress.reshape import (
    HEAD,
    Layer,
    check_example,
    check_prunable,
    fit_to_state,
    is_depthwise,
    layers_of,
)
from edgeaudio.errors import ConfigError, DataError, UnsupportedError, VerificationError

logger = logging.getLogger(__name__)

Batch = TypeVar("Batch")
Loss = Callable[[nn.Module, Batch], torch.Tensor]
#: `recover(network, step)` trains what step 1, 2, ... left and returns it.
Recover = Callable[[nn.Module, int], nn.Module]

# What an int8 file holds per output channel besides weights: an int32 bias (batch norms are folded) and a float scale.
_INT8_BYTES_PER_CHANNEL = 8


class Size(NamedTuple):
    """What a student costs: parameters, multiply-accumulates of one window, estimated bytes of int8 weights."""

    params: int
    macs: int
    bytes: int


class PruneStep(NamedTuple):
    """The student after a step; step 0 is before the first."""

    step: int
    params: int
    macs: int
    bytes: int


@dataclass(frozen=True)
class PrunedStudent:
    """The smaller network and how it became so."""

    network: nn.Module
    history: tuple[PruneStep, ...]


@dataclass(frozen=True)
class Importance:
    """How much each weight matters: tensor name -> non-negative values of the tensor's shape.

    A channel matters as much as the weights that make and take it together. `relative` divides by the mean of the
    channels it competes with in its own layers, for values that compare within a layer only.
    """

    values: dict[str, torch.Tensor]
    relative: bool


@dataclass(frozen=True)
class ChannelGroup:
    """Channels that several layers share: the nth leaves all of them or none."""

    width: int
    #: Names of layers, and whether they make these channels (first dimension) or take them (second).
    members: tuple[tuple[str, Literal["makes", "takes"]], ...]


@dataclass(frozen=True)
class LayerCost:
    """What a layer costs in one target, as a function of the widths of all groups; `makes`, `takes` index them."""

    outputs: int
    inputs: int
    makes: int | None
    takes: int | None
    per_weight: int
    per_output: int

    def at(self, widths: Sequence[int]) -> int:
        """The cost when each group has so many channels."""
        outputs = self.outputs if self.makes is None else widths[self.makes]
        inputs = self.inputs if self.takes is None else widths[self.takes]
        return outputs * (inputs * self.per_weight + self.per_output)


def prune(
    student: nn.Module,
    spec: PruneSpec,
    *,
    example: torch.Tensor,
    batches: Sequence[Batch],
    loss: Loss[Batch],
    recover: Recover,
) -> PrunedStudent:
    """Cut `student` down to the budget of `spec`, step by step. The student itself is not changed.

    Args:
        example: `(1, frames, n_mels)`, the window that multiply-accumulates are counted for.
        batches: what importance is asked of; magnitude needs none.
        loss: scalar loss of a network on one batch; the network comes in eval mode.
        recover: see `Recover`; called after every step unless `spec.recover_windows` is 0.
    Raises:
        ConfigError: a budget that the student already meets, or cannot; the message says how small it could get.
        DataError: no batches, or a loss that is no number.
        UnsupportedError, ShapeError: see `reshape.fit_to_state`.
        VerificationError: `recover` gave back another network.
    """
    start, goal = _budget(student, spec, example)
    network = copy.deepcopy(student)
    history = [PruneStep(0, *size_of(network, example))]
    for step in itertools.count(1):
        aim = max(goal, round(start * (goal / start) ** (step / spec.steps)))
        network = prune_step(network, _importance(network, spec, batches, loss), spec, aim=aim, example=example)
        if spec.recover_windows:
            network = _recovered(network, recover, step)
        size = size_of(network, example)
        history.append(PruneStep(step, *size))
        logger.info("prune step %d: %d params, %d macs, %d bytes in int8", step, *size)
        if getattr(size, spec.target) <= goal:
            break
    return PrunedStudent(network, tuple(history))


def prune_step(
    student: nn.Module, importance: Importance, spec: PruneSpec, *, aim: int, example: torch.Tensor
) -> nn.Module:
    """A copy of `student` without its least important channels: at most `aim` of `spec.target`.

    It stays above `aim` where `spec.max_layer_share` or `spec.min_channels` forbid more for now.
    """
    groups = channel_groups(student, example)
    costs = layer_costs(student, groups, spec.target, example)
    scores = group_scores(student, groups, importance)
    removals = _channels_to_remove(groups, scores, costs, spec, aim)
    state = student.state_dict()
    modules = dict(layers_of(student))
    for group, count, score in zip(groups, removals, scores, strict=True):
        if count:
            kept = score.argsort(stable=True)[count:].sort().values
            _keep_channels(state, group, kept, modules)
    smaller = copy.deepcopy(student)
    fit_to_state(smaller, state, example=example)
    smaller.load_state_dict(state, strict=True)
    return smaller


def taylor_importance(student: nn.Module, batches: Sequence[Batch], loss: Loss[Batch]) -> Importance:
    """First-order change of the loss without a weight, |weight * gradient|, mean over batches.

    Raises:
        DataError: no batches, or a loss or gradient that is not finite.
    """
    if not batches:
        raise DataError("prune.importance is taylor, which needs batches of training data; give some, or use magnitude")
    network = copy.deepcopy(student).eval().requires_grad_(True)
    named = dict(network.named_parameters())
    totals = {name: torch.zeros_like(value) for name, value in named.items()}
    for number, batch in enumerate(batches):
        with torch.enable_grad():
            value = loss(network, batch)
            gradients = torch.autograd.grad(value, list(named.values()), allow_unused=True)
        for (name, weight), gradient in zip(named.items(), gradients, strict=True):
            if gradient is not None:
                totals[name] += (weight.detach() * gradient).abs() / len(batches)
        if not all(total.isfinite().all() for total in totals.values()):
            raise DataError(f"prune: batch {number} gives a loss of {value.item()} or gradients that are not finite")
    return Importance(totals, relative=False)


@torch.no_grad()
def magnitude_importance(student: nn.Module) -> Importance:
    """Squared weights, those of a convolution as the batch norm after it scales them; norms themselves count nothing.

    A filter's own scale means nothing before a batch norm, so it is measured after.
    """
    values = {
        f"{name}.weight": layer.weight.square()
        for name, layer in layers_of(student)
        if not isinstance(layer, nn.BatchNorm2d)
    }
    for name, module in student.named_modules():
        if isinstance(module, nn.Sequential):
            for (index, first), (_index, second) in itertools.pairwise(module.named_children()):
                if isinstance(first, nn.Conv2d) and isinstance(second, nn.BatchNorm2d):
                    scale = second.weight.square() / (cast(torch.Tensor, second.running_var) + second.eps)
                    values[f"{name}.{index}.weight"] *= scale[:, None, None, None]
    return Importance(values, relative=True)


def size_of(student: nn.Module, example: torch.Tensor) -> Size:
    """What `student` costs; `example` is `(1, frames, n_mels)`."""
    return Size(
        params=_total(layer_costs(student, (), "params", example)),
        macs=_total(layer_costs(student, (), "macs", example)),
        bytes=_total(layer_costs(student, (), "bytes", example)),
    )


def channel_groups(student: nn.Module, example: torch.Tensor) -> list[ChannelGroup]:
    """All channels that may leave: neither those of the input nor the head's classes.

    Raises:
        UnsupportedError: layers that share channels in another way than one to one, such as concatenation.
    """
    import torch_pruning

    check_prunable(student)
    check_example(student, example)
    # The dependency graph is read off autograd's, for which every parameter must ask for gradients.
    network = copy.deepcopy(student).eval().requires_grad_(True)
    # torch-pruning calls eval() again, at which a student with frozen blocks would freeze them again.
    network.__dict__["train"] = lambda _mode=True: network
    names: dict[nn.Module, str] = {layer: name for name, layer in layers_of(network)}
    with torch.enable_grad():
        graph = torch_pruning.DependencyGraph().build_dependency(
            network, (example.to(next(network.parameters())),), verbose=False
        )
    order = {name: number for number, name in enumerate(names.values())}
    groups = []
    for found in graph.get_all_groups([network.get_submodule(HEAD)], [nn.Conv2d, nn.Linear]):
        width = len(found[0].idxs)
        members: dict[tuple[str, Literal["makes", "takes"]], None] = {}
        for dependency, channels in found:
            if dependency.target.module not in names:
                continue
            name = names[dependency.target.module]
            if list(channels) != list(range(width)):
                raise UnsupportedError(f"prune: {name} takes channels of more than one layer; only sums can be cut")
            makes = graph.is_out_channel_pruning_fn(dependency.handler)
            members[(name, "makes" if makes else "takes")] = None
        groups.append(ChannelGroup(width, tuple(sorted(members, key=lambda member: order[member[0]]))))
    return sorted(groups, key=lambda group: order[group.members[0][0]])


def group_scores(student: nn.Module, groups: Sequence[ChannelGroup], importance: Importance) -> list[torch.Tensor]:
    """`(width,)` float64 per group: what its channels matter."""
    modules = dict(layers_of(student))
    scores = []
    for group in groups:
        score = torch.zeros(group.width, dtype=torch.float64)
        for name, side in group.members:
            for key, _parameter in modules[name].named_parameters(recurse=False):
                values = importance.values.get(f"{name}.{key}")
                if values is not None and (side == "makes" or key == "weight"):
                    by_channel = values if side == "makes" else values.transpose(0, 1)
                    score += (
                        by_channel.flatten(1).sum(1).double().cpu() if values.ndim > 1 else by_channel.double().cpu()
                    )
        if importance.relative:
            score /= score.mean().clamp_min(torch.finfo(score.dtype).tiny)
        scores.append(score)
    return scores


def layer_costs(
    student: nn.Module, groups: Sequence[ChannelGroup], target: PruneTarget, example: torch.Tensor
) -> list[LayerCost]:
    """The cost of each layer; their sum at the groups' widths is the student's."""
    makes = {name: index for index, group in enumerate(groups) for name, side in group.members if side == "makes"}
    takes = {name: index for index, group in enumerate(groups) for name, side in group.members if side == "takes"}
    positions = _output_positions(student, example) if target == "macs" else {}
    costs = []
    for name, layer in layers_of(student):
        outputs, *others = layer.weight.shape
        kernel = math.prod(others[1:]) if others else 0
        if target == "macs":
            per_weight, per_output = kernel * positions[name], 0
        else:
            own = sum(parameter.numel() for parameter in layer.parameters() if parameter.ndim == 1) // outputs
            folded = _INT8_BYTES_PER_CHANNEL if others else 0
            per_weight, per_output = kernel, own if target == "params" else folded
        inputs = others[0] if others else 0
        costs.append(
            LayerCost(
                outputs,
                inputs,
                makes.get(name),
                None if is_depthwise(layer) else takes.get(name),
                per_weight,
                per_output,
            )
        )
    return costs


def _output_positions(student: nn.Module, example: torch.Tensor) -> dict[str, int]:
    """Layer name -> time and frequency positions at which it computes an output channel."""
    positions: dict[str, int] = {}

    def record(name: str, output: torch.Tensor) -> None:
        positions[name] = output[0, 0].numel()

    hooks = [
        layer.register_forward_hook(lambda _layer, _inputs, output, name=name: record(name, output))
        for name, layer in layers_of(student)
    ]
    was_training = student.training
    try:
        with torch.no_grad():
            student.eval()(example.to(next(student.parameters())))
    finally:
        student.train(was_training)
        for hook in hooks:
            hook.remove()
    return positions


def _total(costs: Sequence[LayerCost], widths: Sequence[int] = ()) -> int:
    return sum(cost.at(widths) for cost in costs)


def _budget(student: nn.Module, spec: PruneSpec, example: torch.Tensor) -> tuple[int, int]:
    """What the student has of the target, and what it may have."""
    groups = channel_groups(student, example)
    costs = layer_costs(student, groups, spec.target, example)
    start = _total(costs, [group.width for group in groups])
    least = _total(costs, [_least_width(group.width, spec) for group in groups])
    field, given = ("keep", spec.keep) if spec.keep is not None else ("amount", spec.amount)
    goal = int(start * spec.keep) if spec.keep is not None else cast(int, spec.amount)
    if goal >= start:
        raise ConfigError(
            f"prune.{field} is {given}, but this student has {start} {spec.target} already: "
            "give less than that, or leave prune out"
        )
    if goal < least:
        share = math.ceil(10_000 * least / start) / 10_000
        raise ConfigError(
            f"prune.{field} is {given}, which is {goal} {spec.target}; with min_channels {spec.min_channels} and "
            f"round_to {spec.round_to} this student gets no smaller than {least} (keep {share}). "
            f"Raise prune.{field} to that, or lower prune.min_channels"
        )
    return start, goal


def _least_width(width: int, spec: PruneSpec) -> int:
    return min(width, math.ceil(spec.min_channels / spec.round_to) * spec.round_to)


def _chunks(width: int, spec: PruneSpec) -> list[int]:
    """How many channels leave together, one cut after the other, as far as one step may go.

    Each cut ends at a multiple of `round_to`. The first is always allowed, or a step could stand still.
    """
    floor = _least_width(width, spec)
    if width == floor:
        return []
    chunks = [width % spec.round_to or spec.round_to]
    allowed = int(width * spec.max_layer_share)
    while width - sum(chunks) - spec.round_to >= floor and sum(chunks) + spec.round_to <= allowed:
        chunks.append(spec.round_to)
    return chunks


def _channels_to_remove(
    groups: Sequence[ChannelGroup],
    scores: Sequence[torch.Tensor],
    costs: Sequence[LayerCost],
    spec: PruneSpec,
    aim: int,
) -> list[int]:
    """How many of its least important channels each group loses: the cheapest losses first until `aim` is met."""
    widths = [group.width for group in groups]
    whole = _total(costs, widths)
    plan: list[tuple[float, int, int, int]] = []
    for index, (group, score) in enumerate(zip(groups, scores, strict=True)):
        ascending = score.sort().values
        one_less = [width - (index == number) for number, width in enumerate(widths)]
        price = whole - _total(costs, one_less) if spec.ranking == "importance_per_cost" else 1
        start = 0
        for number, chunk in enumerate(_chunks(group.width, spec)):
            loss = float(ascending[start : start + chunk].mean())
            plan.append((loss / price, index, number, chunk))
            start += chunk
    for _loss, index, _number, chunk in sorted(plan):
        if _total(costs, widths) <= aim:
            break
        widths[index] -= chunk
    return [group.width - width for group, width in zip(groups, widths, strict=True)]


def _keep_channels(
    state: dict[str, torch.Tensor], group: ChannelGroup, kept: torch.Tensor, modules: dict[str, Layer]
) -> None:
    """Select the kept channels in every tensor of the group."""
    for name, side in group.members:
        for key in modules[name].state_dict():
            full = f"{name}.{key}"
            if state[full].ndim and (side == "makes" or key == "weight"):
                axis = 0 if side == "makes" else 1
                state[full] = state[full].index_select(axis, kept.to(state[full].device))


def _importance(student: nn.Module, spec: PruneSpec, batches: Sequence[Batch], loss: Loss[Batch]) -> Importance:
    if spec.importance == "taylor":
        return taylor_importance(student, batches, loss)
    return magnitude_importance(student)


def _recovered(network: nn.Module, recover: Recover, step: int) -> nn.Module:
    result = recover(network, step)
    wanted = {name: value.shape for name, value in network.state_dict().items()}
    if {name: value.shape for name, value in result.state_dict().items()} != wanted:
        raise VerificationError(
            f"recover after prune step {step} gave back a network of other shapes than it was given"
        )
    return result
