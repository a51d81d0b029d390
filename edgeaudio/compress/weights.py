"""Weights of an exported graph, and how windows are fed to one."""

from __future__ import annotations

import operator
from collections.abc import Iterator

import torch
from torch.fx import GraphModule, Node

_BATCH = 64


def parameters(graph: GraphModule, node: Node) -> list[torch.Tensor]:
    """Weight and, where there is one, bias of a Conv2d or Linear op, to be changed in place."""
    sources = [source for source in node.args[1:3] if isinstance(source, Node)]
    tensors = [operator.attrgetter(str(source.target))(graph) for source in sources]
    return [tensor.data for tensor in tensors]


def calibration_batches(graph: GraphModule, calibration: torch.Tensor) -> Iterator[torch.Tensor]:
    """`(n, frames, n_mels)` in as large batches as the graph takes: one window where it was exported for one."""
    (source,) = (node for node in graph.graph.nodes if node.op == "placeholder")
    return iter(torch.split(calibration, 1 if source.meta["val"].shape[0] == 1 else _BATCH))
