"""Which layers int8 harms, and quantisation that leaves the worst ones float until the task's metric holds.

Each layer is quantised alone, the rest float: what it reads, its weight and what it gives. That is a model one
could export, so the figure means something by itself; noise powers of layers add up at the logits, so the layer
with the most of it alone is also the one whose return to float removes the most; and against the float logits even
a small harm shows, which drowns in that of all others where all but one layer are quantised.

For ONNX alone, NNCF's `quantize_with_accuracy_control` is the peer of `quantise_with_control`.
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from torch.fx import GraphModule, Interpreter, Node

from edgeaudio.compress.layers import float_layers, fold_batch_norms, weighted_layers
from edgeaudio.compress.metric import TaskKind, task_metric
from edgeaudio.compress.ptq import QuantisedStudent, check_calibration, equalised_graph, observed_graph, quantise_ptq
from edgeaudio.compress.qdq import WEIGHTED_OPS, fused_relu, module_path
from edgeaudio.compress.quiet import quiet_libraries
from edgeaudio.errors import ConfigError, ShapeError, VerificationError

logger = logging.getLogger(__name__)

_BATCH = 64
#: Beyond this share of layers a "quantised" student is a float one: `quantise_with_control` gives up.
MAX_FLOAT_SHARE = 0.5


@dataclass(frozen=True)
class LayerSensitivity:
    """What int8 does to the task when one layer alone runs in it.

    sqnr_db: power of the float logits over that of the change, in dB; the smaller, the more harm.
    drop: of the task's metric against the float student; negative where it rose.
    """

    layer: str
    sqnr_db: float
    metric: float
    drop: float


@dataclass(frozen=True)
class ControlledQuantisation:
    """An int8 student within `max_drop` of the float one, and how it got there."""

    student: QuantisedStudent
    float_metric: float
    metric: float
    #: Metric after each conversion, the all-int8 one first; layer k was left float before conversion k + 1.
    history: tuple[float, ...]
    #: Layers left float to stay within `max_drop`, the most harmful first; declared ones are not among them.
    kept_float: tuple[str, ...]
    #: Most harmful first; empty when int8 was good enough at once.
    sensitivities: tuple[LayerSensitivity, ...] = field(default=())

    @property
    def drop(self) -> float:
        """Of the metric against the float student."""
        return self.float_metric - self.metric


def sensitivity(
    student: nn.Module,
    calibration: torch.Tensor,
    windows: torch.Tensor,
    targets: torch.Tensor,
    *,
    kind: TaskKind = "single_label",
    calibration_targets: torch.Tensor | None = None,
) -> list[LayerSensitivity]:
    """Rank all Conv2d and Linear layers by the harm of int8, most harmful (smallest SQNR) first. Deterministic.

    Args:
        student: `(batch, frames, n_mels)` -> `(batch, classes)`.
        calibration: `(n, frames, n_mels)` training windows for the ranges, as in `quantise_ptq`.
        windows: `(m, frames, n_mels)` labelled training windows that the student was not trained on.
        targets: `(m, classes)` their labels.
        calibration_targets: `(n,)` class of each calibration window, to refuse a one-class calibration.
    Raises:
        ShapeError, DataError, UnsupportedError: as `quantise_ptq`; or windows and targets do not fit.
    """
    check_calibration(calibration, calibration_targets)
    _check_windows(windows, targets)
    with quiet_libraries("sensitivity"):
        from edgeaudio.compress.integer_quantizer import IntegerQuantizer

        equalised = equalised_graph(fold_batch_norms(student), calibration, any_batch=True)
        graph = observed_graph(equalised, calibration, IntegerQuantizer())
    with torch.no_grad():
        qparams = _activation_and_weight_qparams(graph)
        reference = _run(graph, windows, {}, qparams)
        float_metric = task_metric(reference.numpy(), targets.numpy(), kind)
        found = []
        for layer, nodes in _nodes_by_layer(graph, weighted_layers(student)).items():
            logits = _run(graph, windows, nodes, qparams)
            metric = task_metric(logits.numpy(), targets.numpy(), kind)
            found.append(LayerSensitivity(layer, _sqnr_db(reference, logits), metric, float_metric - metric))
    return sorted(found, key=lambda item: item.sqnr_db)


def quantise_with_control(
    student: nn.Module,
    calibration: torch.Tensor,
    windows: torch.Tensor,
    targets: torch.Tensor,
    max_drop: float,
    *,
    kind: TaskKind = "single_label",
    calibration_targets: torch.Tensor | None = None,
    keep_float: Sequence[str] = (),
    symmetric: bool = False,
) -> ControlledQuantisation:
    """Quantise all layers; while the metric drops by more than `max_drop`, leave the most harmful one float.

    The drop is measured on the converted student. Arguments as `sensitivity` and `quantise_ptq`.

    Args:
        max_drop: largest loss of accuracy or mean average precision on `windows`, in [0, 1).
    Raises:
        ConfigError: `max_drop` is out of range.
        VerificationError: the drop is larger even with `MAX_FLOAT_SHARE` of the layers left float.
        Others: as `quantise_ptq`.
    """
    if not 0 <= max_drop < 1:
        raise ConfigError(f"max_drop is {max_drop}, wanted a part of the metric from 0 to below 1 (0.01 is one point)")
    _check_windows(windows, targets)
    declared = float_layers(student, keep_float)
    n_layers = len(weighted_layers(student))
    with torch.no_grad():
        module = copy.deepcopy(student).cpu().eval()
        reference = torch.cat([module(batch) for batch in torch.split(windows, _BATCH)])
    float_metric = task_metric(reference.numpy(), targets.numpy(), kind)
    ranking: list[LayerSensitivity] = []
    kept: list[str] = []
    history: list[float] = []
    while True:
        quantised = quantise_ptq(
            student,
            calibration,
            targets=calibration_targets,
            keep_float=[*keep_float, *kept],
            symmetric=symmetric,
        )
        history.append(task_metric(quantised.logits(windows).numpy(), targets.numpy(), kind))
        if float_metric - history[-1] <= max_drop:
            return ControlledQuantisation(
                quantised, float_metric, history[-1], tuple(history), tuple(kept), tuple(ranking)
            )
        if not ranking:
            ranking = sensitivity(student, calibration, windows, targets, kind=kind)
        left = [item.layer for item in ranking if item.layer not in (*declared, *kept)]
        if not left or len(declared) + len(kept) + 1 > MAX_FLOAT_SHARE * n_layers:
            raise VerificationError(
                f"int8 costs {float_metric - max(history):.4f} of the metric at best, max_drop is {max_drop}: "
                f"{len(declared) + len(kept)} of {n_layers} layers float do not mend it ({', '.join(kept)}). "
                "Raise max_drop, quantise with method qat, or give more calibration windows."
            )
        logger.info("int8 costs %.4f of the metric; %s stays float", float_metric - history[-1], left[0])
        kept.append(left[0])


def _check_windows(windows: torch.Tensor, targets: torch.Tensor) -> None:
    if windows.ndim != 3 or windows.dtype != torch.float32 or targets.ndim != 2 or len(windows) != len(targets):
        raise ShapeError(
            f"windows are {windows.dtype} {tuple(windows.shape)} with targets {tuple(targets.shape)}, "
            "wanted float32 (n, frames, n_mels) with (n, classes)"
        )


def _sqnr_db(reference: torch.Tensor, logits: torch.Tensor) -> float:
    noise = (logits - reference).double().square().mean()
    # A layer that int8 holds exactly (weights of all zeros) changes nothing: bounded, not infinite.
    noise = noise.clamp(min=torch.finfo(torch.float64).tiny)
    return float(10 * torch.log10(reference.double().square().mean().clamp(min=1e-300) / noise))


def _nodes_by_layer(graph: GraphModule, layers: Sequence[str]) -> dict[str, dict[Node, Node]]:
    """Per layer its ops, each with the node that gives the kernel's output: itself or the ReLU fused into it."""
    found: dict[str, dict[Node, Node]] = {layer: {} for layer in layers}
    for node in graph.graph.nodes:
        path = module_path(node)
        if node.op == "call_function" and node.target in WEIGHTED_OPS and path in found:
            found[path][node] = fused_relu(node) or node
    return {layer: nodes for layer, nodes in found.items() if nodes}


def _activation_and_weight_qparams(graph: GraphModule) -> dict[str, _Rounding]:
    """What each observer of a calibrated graph would round to, by its name in the graph."""
    return {
        str(node.target): _Rounding.of(graph.get_submodule(str(node.target)))
        for node in graph.graph.nodes
        if node.op == "call_module" and hasattr(graph.get_submodule(str(node.target)), "calculate_qparams")
    }


@dataclass(frozen=True)
class _Rounding:
    """Fake quantisation with an observer's parameters."""

    scale: torch.Tensor
    zero_point: torch.Tensor
    quant_min: int
    quant_max: int
    channel_axis: int | None

    @classmethod
    def of(cls, observer: Any) -> _Rounding:
        scale, zero_point = observer.calculate_qparams()
        per_channel = observer.qscheme in (torch.per_channel_symmetric, torch.per_channel_affine)
        axis = int(observer.ch_axis) if per_channel else None
        return cls(scale.float(), zero_point.int(), observer.quant_min, observer.quant_max, axis)

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        limits = (self.quant_min, self.quant_max)
        if self.channel_axis is None:
            return torch.fake_quantize_per_tensor_affine(x, self.scale, self.zero_point, *limits)
        return torch.fake_quantize_per_channel_affine(x, self.scale, self.zero_point, self.channel_axis, *limits)


class _OneLayerInt8(Interpreter):  # type: ignore[misc,unused-ignore]
    """Runs a calibrated graph in float but for the given ops; observers look no more."""

    def __init__(self, graph: GraphModule, nodes: dict[Node, Node], rounding: dict[str, _Rounding]) -> None:
        super().__init__(graph)
        self._nodes, self._rounding = nodes, rounding
        self._outputs = {
            output: rounding[str(user.target)]
            for output in nodes.values()
            for user in output.users
            if user.op == "call_module" and user.target in rounding
        }

    def run_node(self, n: Node) -> Any:
        if n.op == "call_module" and n.target in self._rounding:
            (observed,) = n.all_input_nodes
            return self.env[observed]
        if n not in self._nodes:
            result = super().run_node(n)
        else:
            args, kwargs = self.fetch_args_kwargs_from_env(n)
            rounded = [self._round_input(source, value) for source, value in zip(n.args[:2], args[:2], strict=True)]
            result = self.call_function(n.target, (*rounded, *args[2:]), kwargs)
        return self._outputs[n](result) if n in self._outputs else result

    def _round_input(self, source: Any, value: torch.Tensor) -> torch.Tensor:
        rounding = self._rounding.get(str(source.target)) if source.op == "call_module" else None
        return rounding(value) if rounding else value


def _run(
    graph: GraphModule, windows: torch.Tensor, nodes: dict[Node, Node], rounding: dict[str, _Rounding]
) -> torch.Tensor:
    interpreter = _OneLayerInt8(graph, nodes, rounding)
    return torch.cat([interpreter.run(batch) for batch in torch.split(windows, _BATCH)])
