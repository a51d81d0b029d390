"""The int8 form for engines that know no zero points (TensorRT): the same calibration, the same int8 weights."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch.fx import GraphModule

# A share lies between 0 and 1 and has the fixed scale 1/256 with zero point -128; without one, 127 steps reach 1.
_SHARE_SCALE = 1 / 127


def symmetric_graph(prepared: GraphModule) -> GraphModule:
    """A calibrated graph with weights folded and zero point 0 on every activation; `prepared` is left as it is.

    What observers saw stays, so that weights are those of `ptq.convert_graph` to the bit. An activation that is never
    negative has half the steps that it has there.
    """
    from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e

    graph = copy.deepcopy(prepared)
    for module in graph.modules():
        if getattr(module, "qscheme", None) == torch.per_tensor_affine and hasattr(module, "calculate_qparams"):
            _make_symmetric(module)
    folded: GraphModule = convert_pt2e(graph, fold_quantize=True)
    for part in folded.modules():
        part.training = False
    return folded


def _make_symmetric(module: Any) -> None:
    # Fake quantisation of QAT keeps its observer inside and the scheme in both places.
    for observer in (module, getattr(module, "activation_post_process", None)):
        if observer is None:
            continue
        observer.qscheme = torch.per_tensor_symmetric
        if type(observer).__name__.startswith("FixedQParams"):
            observer.scale.fill_(_SHARE_SCALE)
            observer.zero_point.fill_(0)
