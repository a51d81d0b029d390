"""Post-training int8 quantisation: one calibrated graph, converted for ONNX and for TFLite.

torchao PT2E (calibrate, convert) with the annotations of `integer_quantizer`. The student itself is not changed.
Which layers to leave float is found by `sensitivity`; training with int8 in mind is `qat`.
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.fx import GraphModule

from edgeaudio.compress.equalise import equalise
from edgeaudio.compress.layers import float_layers, fold_batch_norms
from edgeaudio.compress.qdq import QdqCount, check_integer_graph
from edgeaudio.compress.quantize_spec import MIN_CALIBRATION_WINDOWS
from edgeaudio.compress.quiet import quiet_libraries
from edgeaudio.compress.rounding import round_weights
from edgeaudio.compress.symmetric import symmetric_graph
from edgeaudio.compress.weights import calibration_batches
from edgeaudio.errors import DataError, ShapeError
from edgeaudio.students.exits import EarlyExitStudent, StagedGraph

logger = logging.getLogger(__name__)

# Measured on a trained 83 k DSCNN: 16 windows give 27.1 dB against the float logits, 128 give 28.2, 512 give 29.4.
RECOMMENDED_CALIBRATION_WINDOWS = 512
#: What is done to weights before they are quantised; a work directory makes its int8 students anew when it changes.
WEIGHT_TREATMENT = "equalised, rounded by coordinate descent"
#: Largest batch of a graph that takes batches.
MAX_BATCH = 4096


@dataclass(frozen=True)
class QuantisedStudent:
    """A converted int8 student for one window shape `(1, frames, n_mels)`."""

    #: int8 weights in the graph: what ONNX export wants.
    folded: GraphModule
    #: float weights behind a quantise node: what the TFLite converter wants; it stores int8.
    unfolded: GraphModule
    #: The quantiser, which the TFLite converter asks for again.
    quantizer: Any
    frames: int
    n_mels: int
    n_calibration_windows: int
    qdq: QdqCount
    #: The Conv2d and Linear layers that were declared float; empty when all of it is int8.
    keep_float: tuple[str, ...] = ()
    #: As `folded`, with zero point 0 on every activation: what TensorRT wants. None where it was not asked for.
    symmetric: GraphModule | None = None

    def logits(self, log_mel: torch.Tensor) -> torch.Tensor:
        """`(n, frames, n_mels)` -> `(n, classes)`, simulated int8 in torch, window by window."""
        with torch.no_grad():
            return torch.cat([self.folded(window[None]) for window in log_mel])


def quantise_ptq(
    student: nn.Module,
    calibration: torch.Tensor,
    *,
    targets: torch.Tensor | None = None,
    min_windows: int = MIN_CALIBRATION_WINDOWS,
    quantizer: Any = None,
    keep_float: Sequence[str] = (),
    per_channel: bool = True,
    symmetric: bool = False,
) -> QuantisedStudent:
    """Quantise a trained student to static int8. Deterministic; batch norms are folded on the way.

    Args:
        student: `(batch, frames, n_mels)` -> `(batch, classes)`.
        calibration: `(n, frames, n_mels)` windows of training data, as the student would see them.
        targets: `(n,)` class of each window, to refuse a one-class calibration.
        quantizer: another PT2E quantizer, checked as strictly; default `IntegerQuantizer`.
        keep_float: module paths (a layer, or all layers of a submodule) that stay float in both formats.
        per_channel: one scale per output channel of a weight; off, one per weight (see `IntegerQuantizer`).
        symmetric: also make the form without zero points, for the format tensorrt.
    Raises:
        ConfigError: `keep_float` names no layer of the student, or all of them.
        ShapeError, DataError: the calibration windows cannot stand for the data.
        UnsupportedError: an op without an int8 form.
        VerificationError: a layer stayed float, or a declared one did not.
    """
    kept = float_layers(student, keep_float)
    check_calibration(calibration, targets, min_windows)
    frames, n_mels = calibration.shape[1:]
    with quiet_libraries("quantise"):
        if quantizer is None:
            from edgeaudio.compress.integer_quantizer import IntegerQuantizer

            quantizer = IntegerQuantizer(keep_float=keep_float, per_channel=per_channel)
        treated = _treated(student, calibration, keep_float=keep_float, per_channel=per_channel)
        prepared = observed_graph(_exported(treated, calibration), calibration, quantizer)
        without_zero_points = symmetric_graph(prepared) if symmetric else None
        folded, unfolded = convert_graph(prepared)
    count = check_integer_graph(folded, keep_float)
    for other in (unfolded, without_zero_points):
        if other is not None:
            check_integer_graph(other, keep_float)
    logger.info("int8 on %d windows: %d quantise, %d dequantise nodes", len(calibration), *_pair(count))
    return QuantisedStudent(
        folded, unfolded, quantizer, frames, n_mels, len(calibration), count, kept, without_zero_points
    )


def _treated(
    student: nn.Module, calibration: torch.Tensor, *, keep_float: Sequence[str], per_channel: bool
) -> nn.Module:
    """A copy with batch norms folded, channels equalised and weights on their int8 grid.

    A student with exits is treated with them, so that the whole and its stages become one int8 model.
    """
    folded = fold_batch_norms(student)
    graph = equalised_graph(StagedGraph(folded) if isinstance(folded, EarlyExitStudent) else folded, calibration)
    round_weights(graph, calibration, keep_float=keep_float, per_channel=per_channel)
    # The graph has the weights of the module that it was exported from, not copies.
    return folded


def equalised_graph(folded: nn.Module, calibration: torch.Tensor, *, any_batch: bool = False) -> GraphModule:
    """A student without batch norms as torch.export sees it, channels brought to like ranges.

    Args:
        folded: shares its weights with the graph, so it is used up.
        calibration: `(n, frames, n_mels)` windows.
        any_batch: the graph takes batches of any size, else one window.
    """
    graph = _exported(folded, calibration, any_batch=any_batch)
    equalise(graph, calibration)
    return graph


def _exported(module: nn.Module, calibration: torch.Tensor, *, any_batch: bool = False) -> GraphModule:
    example = torch.zeros(2 if any_batch else 1, *calibration.shape[1:])
    dynamic = ({0: torch.export.Dim("batch", min=1, max=MAX_BATCH)},) if any_batch else None
    graph: GraphModule = torch.export.export(module, (example,), dynamic_shapes=dynamic).module()
    return graph


def observed_graph(graph: GraphModule, calibration: torch.Tensor, quantizer: Any) -> GraphModule:
    """The graph with the quantiser's observers, after they saw `calibration`."""
    from torchao.quantization.pt2e.quantize_pt2e import prepare_pt2e

    prepared: GraphModule = prepare_pt2e(graph, quantizer)
    with torch.no_grad():
        for batch in calibration_batches(prepared, calibration):
            prepared(batch)
    return prepared


def convert_graph(prepared: GraphModule) -> tuple[GraphModule, GraphModule]:
    """The folded and the unfolded int8 form of a prepared graph (see `QuantisedStudent`), which is used up."""
    from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e

    folded: GraphModule = convert_pt2e(copy.deepcopy(prepared), fold_quantize=True)
    unfolded: GraphModule = convert_pt2e(prepared, fold_quantize=False)
    for part in (*folded.modules(), *unfolded.modules()):
        # Exported graphs refuse eval() and keep a stale flag, about which litert_torch then complains.
        part.training = False
    return folded, unfolded


def _pair(count: QdqCount) -> tuple[int, int]:
    return count.quantise, count.dequantise


def check_calibration(
    calibration: torch.Tensor, targets: torch.Tensor | None, min_windows: int = MIN_CALIBRATION_WINDOWS
) -> None:
    """Refuse windows that cannot stand for the data; arguments and errors as `quantise_ptq`."""
    if calibration.ndim != 3 or calibration.dtype != torch.float32:
        raise ShapeError(
            f"calibration is {calibration.dtype} {tuple(calibration.shape)}, wanted float32 (n, frames, n_mels)"
        )
    n = len(calibration)
    if n < min_windows:
        raise DataError(
            f"calibration has {n} windows, int8 needs at least {min_windows} "
            f"({RECOMMENDED_CALIBRATION_WINDOWS} recommended); give more training windows"
        )
    if not bool(calibration.isfinite().all()):
        raise DataError("calibration contains NaN or infinity; check the front-end and the clips")
    if bool((calibration == calibration[0]).all()):
        raise DataError(f"calibration is one window, {n} times; give distinct windows of the training data")
    if targets is not None and len(targets) != n:
        raise ShapeError(f"targets has {len(targets)} entries for {n} calibration windows")
    if targets is not None and bool((targets == targets[0]).all()):
        raise DataError(f"all {n} calibration windows are of one class; draw them from every class")
