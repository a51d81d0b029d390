"""Quantisation-aware fine-tuning: the student trains on while its graph already rounds as int8 will.

Batch norms are folded first, then torchao's fake quantisation goes where `IntegerQuantizer` marks it. The training
loop, its losses and its checkpoints are those of `distill`: a killed run continues and ends with the same bits.
`fine_tune` is the control: the same folded student, steps, order and augmentation without rounding. Judge what
`train_qat` returns, the converted model; the fake-quantised one differs from it by some output steps.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.fx import GraphModule, Node
from torch.fx.graph import CodeGen

from edgeaudio.compress.layers import float_layers, fold_batch_norms
from edgeaudio.compress.ptq import QuantisedStudent, check_calibration, convert_graph, equalised_graph
from edgeaudio.compress.qdq import check_integer_graph
from edgeaudio.compress.quantize_spec import QatSpec
from edgeaudio.compress.quiet import quiet_libraries
from edgeaudio.compress.symmetric import symmetric_graph
from edgeaudio.distill.losses import TaskKind
from edgeaudio.distill.module import DistillData, TrainSpec
from edgeaudio.distill.train import train_student
from edgeaudio.spec import FrontendSpec

logger = logging.getLogger(__name__)

_CALIBRATION_BATCH = 64
# The exported module holds the student under this name, which leads all module paths of the graph.
_STUDENT = "student"
_AVERAGING = "averaging_constant"


def qat_training(spec: QatSpec, train: TrainSpec) -> TrainSpec:
    """The student's own training `train` (losses, augmentation, data), with the length and rate of `spec`."""
    return TrainSpec(**{**train.model_dump(), **spec.model_dump(exclude={"observe_share"})})


def train_qat(
    student: nn.Module,
    data: DistillData,
    spec: QatSpec,
    train: TrainSpec,
    *,
    calibration: torch.Tensor,
    kind: TaskKind,
    frontend: FrontendSpec,
    seed: int,
    folder: Path,
    targets: torch.Tensor | None = None,
    keep_float: Sequence[str] = (),
    per_channel: bool = True,
    symmetric: bool = False,
    progress_bar: bool = False,
) -> QuantisedStudent:
    """Fine-tune a trained student with fake quantisation in `folder`, and convert the averaged result to int8.

    `student` itself is not changed; its dropout is off, as shared ranges would learn its scale. Resumable after a
    kill like `train_student`; deterministic in (student, data, spec, seed) on one thread.

    Args:
        train: what the student was trained with: loss terms, augmentation, unlabelled share.
        calibration: `(n, frames, n_mels)` training windows that ranges start from.
        targets: `(n,)` class of each of them, to refuse a one-class calibration.
        keep_float, per_channel, symmetric: as `quantise_ptq`; ranges learn nothing of the symmetric form.
    Raises:
        ConfigError, ShapeError, DataError, UnsupportedError, VerificationError: as `quantise_ptq`.
        UnsupportedError: a batch norm that cannot be folded.
        TrainingDivergedError: the loss is no longer a number.
    """
    kept = float_layers(student, keep_float)
    check_calibration(calibration, targets)
    training = qat_training(spec, train)
    paths = [f"{_STUDENT}.{name}" for name in keep_float]
    with quiet_libraries("qat"):
        from torchao.quantization.pt2e.quantize_pt2e import prepare_qat_pt2e

        from edgeaudio.compress.integer_quantizer import IntegerQuantizer

        quantizer = IntegerQuantizer(keep_float=paths, is_qat=True, per_channel=per_channel)
        both = _FeaturesAndLogits(fold_batch_norms(student))
        graph = prepare_qat_pt2e(equalised_graph(both, calibration, any_batch=True), quantizer)
        observe_steps = max(1, round(training.steps * spec.observe_share))
        trainee = _FakeQuantStudent(graph, int(student.embedding_dim), observe_steps)  # type: ignore[arg-type]
        trainee.calibrate(calibration)
    trained = train_student(
        trainee, data, training, kind=kind, frontend=frontend, seed=seed, folder=folder, progress_bar=progress_bar
    )
    assert isinstance(trained, _FakeQuantStudent)
    with quiet_libraries("qat"):
        prepared = trained.logits_graph(calibration)
        without_zero_points = symmetric_graph(prepared) if symmetric else None
        folded, unfolded = convert_graph(prepared)
    count = check_integer_graph(folded, paths)
    for other in (unfolded, without_zero_points):
        if other is not None:
            check_integer_graph(other, paths)
    logger.info(
        "int8 after %d steps: %d quantise, %d dequantise nodes", training.steps, count.quantise, count.dequantise
    )
    frames, n_mels = calibration.shape[1:]
    return QuantisedStudent(
        folded, unfolded, quantizer, frames, n_mels, len(calibration), count, kept, without_zero_points
    )


def fine_tune(
    student: nn.Module,
    data: DistillData,
    spec: QatSpec,
    train: TrainSpec,
    *,
    kind: TaskKind,
    frontend: FrontendSpec,
    seed: int,
    folder: Path,
    progress_bar: bool = False,
) -> nn.Module:
    """The control of `train_qat`: the same training of the same folded student, in float.

    What `quantise_ptq` makes of the result differs from `train_qat`'s by the fake quantisation alone, so only
    the difference of the two may be called its gain. Arguments as `train_qat`.
    """
    folded = fold_batch_norms(student)
    for module in folded.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    return train_student(
        folded, data, qat_training(spec, train),
        kind=kind, frontend=frontend, seed=seed, folder=folder, progress_bar=progress_bar,
    )  # fmt: skip


class _FeaturesAndLogits(nn.Module):
    """Both outputs in one graph, as loss terms need the embedding."""

    def __init__(self, student: nn.Module) -> None:
        super().__init__()
        self.student = student

    def forward(self, log_mel: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        features = self.student.forward_features(log_mel)  # type: ignore[operator]
        return features, self.student.head(features)  # type: ignore[operator]


class _FakeQuantStudent(nn.Module):
    """A fake-quantised graph that trains like any student.

    Weight ranges are always those of the present weights. Activation ranges follow the data for `observe_steps`
    training steps, counted in a buffer so that a resumed run freezes them at the same one, and never in validation.
    """

    steps: torch.Tensor

    def __init__(self, graph: GraphModule, embedding_dim: int, observe_steps: int) -> None:
        super().__init__()
        self.graph = graph
        self.embedding_dim, self.observe_steps = embedding_dim, observe_steps
        self.dropout = nn.Identity()
        self.register_buffer("steps", torch.zeros((), dtype=torch.long))
        self._pending: tuple[torch.Tensor, torch.Tensor] | None = None
        for fake_quant in self._fake_quants(of_weights=True):
            fake_quant.activation_post_process.averaging_constant = 1.0

    def train(self, mode: bool = True) -> _FakeQuantStudent:
        """Exported graphs refuse `train` and `eval`; theirs is always the evaluation form."""
        self.training = mode
        return self

    def calibrate(self, calibration: torch.Tensor) -> None:
        """Start all ranges from the mean of what batches of `(n, frames, n_mels)` show."""
        everywhere = [*self._fake_quants(of_weights=False), *self._fake_quants(of_weights=True)]
        observers = [fake_quant.activation_post_process for fake_quant in everywhere]
        # Not all move: the scale of a softmax is fixed.
        usual = {observer: observer.averaging_constant for observer in observers if hasattr(observer, _AVERAGING)}
        for fake_quant in everywhere:
            fake_quant.disable_fake_quant()
        with torch.no_grad():
            for number, batch in enumerate(torch.split(calibration, _CALIBRATION_BATCH)):
                for observer in usual:
                    observer.averaging_constant = 1.0 / (number + 1)
                self.graph(batch)
        for observer, averaging_constant in usual.items():
            observer.averaging_constant = averaging_constant
        for fake_quant in everywhere:
            fake_quant.enable_fake_quant()

    def forward_features(self, log_mel: torch.Tensor) -> torch.Tensor:
        """`(batch, frames, n_mels)` -> `(batch, embedding_dim)`; `head` of it gives the logits computed with it."""
        learning = self.training and torch.is_grad_enabled()
        self._observe_activations(learning and int(self.steps) < self.observe_steps)
        if learning:
            self.steps += 1
        features, logits = self.graph(log_mel)
        self._pending = (features, logits)
        return features  # type: ignore[no-any-return]

    def head(self, features: torch.Tensor) -> torch.Tensor:
        """`(batch, classes)` of what `forward_features` gave last; the graph computes both at once."""
        assert self._pending is not None
        assert self._pending[0] is features
        logits, self._pending = self._pending[1], None
        return logits

    def forward(self, log_mel: torch.Tensor) -> torch.Tensor:
        """`(batch, frames, n_mels)` -> `(batch, classes)`."""
        return self.head(self.forward_features(log_mel))

    def logits_graph(self, windows: torch.Tensor) -> GraphModule:
        """The prepared graph with logits as its only output, ready to convert; this object is used up."""
        self._observe_activations(False)
        with torch.no_grad():
            self.graph(windows[:2])  # Averaged weights: their ranges are taken anew.
        graph = self.graph.graph
        output = graph.output_node()
        (outputs,) = output.args
        assert isinstance(outputs, Sequence)
        output.args = (outputs[1],)
        # Exported graphs pack their outputs into the tuple that they were exported with.
        graph.set_codegen(CodeGen())
        self.graph.recompile()
        return self.graph

    def _observe_activations(self, on: bool) -> None:
        for fake_quant in self._fake_quants(of_weights=False):
            fake_quant.enable_observer(on)
            if not on:
                # An averaged student averages ranges; what they mean as a scale follows here.
                scale, zero_point = fake_quant.calculate_qparams()
                fake_quant.scale.copy_(scale)
                fake_quant.zero_point.copy_(zero_point)

    def _fake_quants(self, *, of_weights: bool) -> list[Any]:
        found: dict[str, Any] = {}
        for node in self.graph.graph.nodes:
            if node.op != "call_module" or not hasattr(self.graph.get_submodule(node.target), "fake_quant_enabled"):
                continue
            source = node.args[0]
            if (isinstance(source, Node) and source.op == "get_attr") == of_weights:
                found[node.target] = self.graph.get_submodule(node.target)
        return list(found.values())
