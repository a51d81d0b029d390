"""Weights rounded so that what a layer gives stays right, where rounding each to the nearest step lets errors add up.

A row of weights on a loud constant (log-mel has one: its level) is wrong by the sum of its rounding errors. Each
weight may go up or down; coordinate descent picks the steps whose error on the calibration windows is least, and
the bias takes what is left of its mean.

Sources: Behdin et al., QuantEase, arXiv 2309.01885 (coordinate descent); Nagel et al., arXiv 1906.04721 (bias).
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import torch
from torch.fx import GraphModule, Interpreter, Node

from edgeaudio.compress.qdq import WEIGHTED_OPS, aten, float_nodes
from edgeaudio.compress.weights import calibration_batches, parameters

_LARGEST = 127
_MAX_SWEEPS = 20
# What the windows hardly show must not decide: this share of the mean power is added to each input's.
_DAMPING = 1e-3


def round_weights(
    graph: GraphModule, calibration: torch.Tensor, *, keep_float: Collection[str] = (), per_channel: bool = True
) -> None:
    """Put the weights of an exported float graph on their int8 grid, in place; biases follow. Deterministic.

    The grid is the quantiser's own: symmetric, its largest weight at 127 steps. That weight stays where it is, so
    quantising the result changes no weight.

    Args:
        calibration: `(n, frames, n_mels)` windows; batched where the graph takes batches.
        keep_float: modules whose weights stay as they are.
        per_channel: one grid per output channel; off, one per weight.
    """
    kept = float_nodes(graph, keep_float)
    nodes = [node for node in graph.graph.nodes if node.target in WEIGHTED_OPS and node not in kept]
    moments = _Moments(graph, set(nodes))
    with torch.no_grad():
        for batch in calibration_batches(graph, calibration):
            moments.run(batch)
        for node in nodes:
            _round(graph, node, *moments.of(node), per_channel=per_channel)


class _Moments(Interpreter):  # type: ignore[misc,unused-ignore]
    """Runs a graph and keeps mean and second moments of what each row of some layers' weights is multiplied with."""

    def __init__(self, graph: GraphModule, nodes: set[Node]) -> None:
        super().__init__(graph)
        self._nodes = nodes
        self._sums: dict[Node, tuple[torch.Tensor, torch.Tensor, int]] = {}

    def run_node(self, n: Node) -> Any:
        if n in self._nodes:
            args, _ = self.fetch_args_kwargs_from_env(n)
            seen = _patches(n, args).double()
            first, second, count = self._sums.get(n, (0, 0, 0))
            self._sums[n] = (first + seen.sum(2), second + seen @ seen.transpose(1, 2), count + seen.shape[2])
        return super().run_node(n)

    def of(self, node: Node) -> tuple[torch.Tensor, torch.Tensor]:
        """`(groups, n)` and `(groups, n, n)`."""
        first, second, count = self._sums[node]
        return first / count, second / count


def _patches(node: Node, args: tuple[Any, ...]) -> torch.Tensor:
    """What the weights of a layer meet, `(groups, n, times)`; a row has `n` weights."""
    x, weight = args[0], args[1]
    if node.target is aten.linear.default:
        flat: torch.Tensor = x.reshape(1, -1, x.shape[-1]).transpose(1, 2)
        return flat
    given, usual = list(args[3:]), [1, 0, 1, 1]
    stride, padding, dilation, groups = given + usual[len(given) :]
    columns = torch.nn.functional.unfold(x, weight.shape[2:], dilation=dilation, padding=padding, stride=stride)
    split = columns.reshape(len(x), groups, -1, columns.shape[-1])
    return split.permute(1, 2, 0, 3).flatten(2)


def _round(graph: GraphModule, node: Node, mean: torch.Tensor, second: torch.Tensor, *, per_channel: bool) -> None:
    weight, *bias = parameters(graph, node)
    rows = weight.double().reshape(len(mean), -1, mean.shape[1])
    dims = (2,) if per_channel else (0, 1, 2)
    step = rows.abs().amax(dim=dims, keepdim=True) / _LARGEST
    step = step.clamp(min=torch.finfo(torch.float32).tiny).expand(*rows.shape[:2], 1)
    power = second - mean[:, :, None] * mean[:, None, :] if bias else second
    power = power + torch.diag_embed(
        _DAMPING * torch.diagonal(power, dim1=1, dim2=2).mean(1, keepdim=True).expand_as(mean)
    )
    rounded = _coordinate_descent(rows / step, power) * step
    for values in bias:
        values -= ((rounded - rows) @ mean[:, :, None]).reshape(values.shape).to(values.dtype)
    weight.copy_(rounded.reshape(weight.shape))


def _coordinate_descent(rows: torch.Tensor, power: torch.Tensor) -> torch.Tensor:
    """Whole numbers near `rows (groups, m, n)` whose error `e` has a small `e @ power @ e`, row by row.

    Starts from the nearest and only ever lowers the error; numbers of magnitude 127 stay.
    """
    steps = rows.round()
    pinned = steps.abs() >= _LARGEST
    for _ in range(_MAX_SWEEPS):
        before = steps.clone()
        slope = (steps - rows) @ power
        for column in range(rows.shape[2]):
            own = power[:, column, column, None].clamp(min=torch.finfo(torch.float64).tiny)
            error = steps[:, :, column] - rows[:, :, column]
            best = rows[:, :, column] - (slope[:, :, column] - error * own) / own
            chosen = best.round().clamp(1 - _LARGEST, _LARGEST - 1)
            chosen = torch.where(pinned[:, :, column], steps[:, :, column], chosen)
            slope += (chosen - steps[:, :, column])[:, :, None] * power[:, None, column]
            steps[:, :, column] = chosen
        if torch.equal(steps, before):
            break
    return steps
