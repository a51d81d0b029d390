"""Quantisation-aware training: the converted model learns, repeats itself to the bit, and is one model in two files."""

from __future__ import annotations

import functools
from pathlib import Path

import numpy as np
import pytest
import torch
from edgeaudio_export.onnx_export import export_onnx
from edgeaudio_export.parity import engine_for
from edgeaudio_export.tflite_export import export_tflite
from torch import nn

from edgeaudio.compress.ptq import QuantisedStudent, equalised_graph, quantise_ptq
from edgeaudio.compress.qat import _FakeQuantStudent, _FeaturesAndLogits, fine_tune, qat_training, train_qat
from edgeaudio.compress.quantize_spec import QatSpec
from edgeaudio.distill import module as distill_module
from edgeaudio.distill.losses import LossWeights
from edgeaudio.distill.module import DistillData, TrainSpec, WindowSet
from edgeaudio.errors import ConfigError, DataError
from edgeaudio.spec import FrontendSpec
from edgeaudio.students.dscnn import DSCNN

FRAMES = 51
QAT = QatSpec(windows_seen=24 * 16, batch_size=16, learning_rate=3e-3, ema_decay=0.8, checkpoint_every_steps=10)
TRAIN = TrainSpec(loss=LossWeights(labels=1, logits=0, embedding=0.1))


class Killed(BaseException):
    """Not an Exception, as a signal is not."""


def labelled(n: int, seed: int = 0) -> WindowSet:
    """Two classes that differ in level."""
    rng = np.random.default_rng(seed)
    label = rng.integers(2, size=n)
    log_mel = rng.standard_normal((n, FRAMES, 64)) + 2 * (label[:, None, None] - 0.5)
    return WindowSet(
        log_mel=log_mel.astype(np.float32),
        silent=np.zeros(n, dtype=bool),
        target=np.eye(2, dtype=np.float32)[label],
        embedding=np.eye(2, dtype=np.float32)[label],
    )


DATA, TEST = DistillData(labelled(96), labelled(32, 1)), labelled(128, 2)
CALIBRATION, WINDOWS = torch.from_numpy(DATA.windows.log_mel[:64]), torch.from_numpy(TEST.log_mel)


@functools.cache
def untrained() -> nn.Module:
    torch.manual_seed(0)
    return DSCNN(2, width=8)


def train(folder: Path, **options: object) -> QuantisedStudent:
    return train_qat(
        untrained(), DATA, QAT, TRAIN, calibration=CALIBRATION, kind="single_label", frontend=FrontendSpec(), seed=0,
        folder=folder, **options,
    )  # type: ignore[arg-type]  # fmt: skip


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> QuantisedStudent:
    return train(tmp_path_factory.mktemp("qat"))


def accuracy(logits: torch.Tensor) -> float:
    assert TEST.target is not None
    return float((logits.argmax(1).numpy() == TEST.target.argmax(1)).mean())


def test_the_training_is_the_students_own_but_for_length_and_rate() -> None:
    spec = qat_training(QatSpec(windows_seen=640), TRAIN)
    assert spec.loss == TRAIN.loss
    assert spec.augment == TRAIN.augment
    assert (spec.steps, spec.learning_rate) == (10, 3e-4)


def test_bad_calibration_and_unknown_layers_leave_nothing_behind(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="one class"):
        train(tmp_path, targets=torch.zeros(64))
    with pytest.raises(ConfigError, match="Did you mean 'head'"):
        train(tmp_path, keep_float=["heat"])
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_the_converted_student_learned(trained: QuantisedStudent, tmp_path: Path) -> None:
    before = accuracy(quantise_ptq(untrained(), CALIBRATION).logits(WINDOWS))
    after = accuracy(trained.logits(WINDOWS))
    assert after >= 0.95 > 0.75 > before
    options = {"kind": "single_label", "frontend": FrontendSpec(), "seed": 0, "folder": tmp_path}
    control = quantise_ptq(fine_tune(untrained(), DATA, QAT, TRAIN, **options), CALIBRATION)  # type: ignore[arg-type]
    assert after >= accuracy(control.logits(WINDOWS))


@pytest.mark.slow
def test_two_files_hold_the_one_student(trained: QuantisedStudent) -> None:
    example, answers = torch.zeros(1, FRAMES, 64), []
    for export in (export_onnx, export_tflite):
        artefact = export(trained, example, "int8")
        assert not artefact.float_activations
        engine = engine_for(artefact.manifest_entry(), artefact.payload)
        answers.append(np.stack([engine.run(window) for window in TEST.log_mel]).argmax(1))
    assert (answers[0] == answers[1]).mean() >= 0.99
    assert (answers[0] == trained.logits(WINDOWS).argmax(1).numpy()).mean() >= 0.99


@pytest.mark.slow
def test_a_killed_run_ends_with_the_bits_of_an_unbroken_one(
    trained: QuantisedStudent, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole_step = distill_module.DistillModule.training_step

    def step(self, batch, index):  # type: ignore[no-untyped-def]
        if self.global_step == 17:
            raise Killed
        return whole_step(self, batch, index)

    monkeypatch.setattr(distill_module.DistillModule, "training_step", step)
    with pytest.raises(Killed):
        train(tmp_path)
    monkeypatch.undo()
    again = train(tmp_path)
    weights, other = trained.folded.state_dict(), again.folded.state_dict()
    assert weights.keys() == other.keys()
    assert all(torch.equal(value, other[name]) for name, value in weights.items())
    assert torch.equal(trained.logits(WINDOWS[:16]), again.logits(WINDOWS[:16]))


@pytest.mark.slow
def test_activation_ranges_follow_training_only_and_only_at_first() -> None:
    from torchao.quantization.pt2e.quantize_pt2e import prepare_qat_pt2e

    from edgeaudio.compress.integer_quantizer import IntegerQuantizer
    from edgeaudio.compress.layers import fold_batch_norms

    graph = equalised_graph(_FeaturesAndLogits(fold_batch_norms(untrained())), CALIBRATION, any_batch=True)
    student = _FakeQuantStudent(prepare_qat_pt2e(graph, IntegerQuantizer(is_qat=True)), 48, observe_steps=2)
    student.calibrate(CALIBRATION)

    def ranges() -> list[float]:
        return [
            float(fake_quant.activation_post_process.max_val) for fake_quant in student._fake_quants(of_weights=False)
        ]

    calibrated = ranges()
    student.eval()(10 * CALIBRATION[:4])
    with torch.no_grad():
        student.train()(10 * CALIBRATION[:4])
    assert ranges() == calibrated
    student.train()(10 * CALIBRATION[:4])
    followed = ranges()
    assert followed != calibrated
    for _ in range(3):
        student(10 * CALIBRATION[:4])
    assert max(ranges()) > max(followed)
    frozen = ranges()
    student(100 * CALIBRATION[:4])
    assert ranges() == frozen
