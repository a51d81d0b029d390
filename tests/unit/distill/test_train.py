"""Training: resumable to the bit, repeatable by seed, and it learns."""

from pathlib import Path

import numpy as np
import pytest
import torch

from edgeaudio.distill import module as distill_module
from edgeaudio.distill.losses import LossWeights
from edgeaudio.distill.module import DistillData, TrainSpec, WindowSet
from edgeaudio.distill.train import TrainingDivergedError, load_body, load_student, save_student, train_student
from edgeaudio.errors import VerificationError
from edgeaudio.spec import FrontendSpec
from edgeaudio.students.dscnn import DSCNN

SPEC = TrainSpec(windows_seen=20 * 16, batch_size=16, checkpoint_every_steps=6, unlabelled_share=0.5)


class Killed(BaseException):
    """Not an Exception, as a signal is not."""


def windows(n: int = 96) -> WindowSet:
    """Two classes that differ in level, as a teacher and labels see them."""
    rng = np.random.default_rng(0)
    label = rng.integers(2, size=n)
    log_mel = rng.standard_normal((n, 51, 64)) + 2 * (label[:, None, None] - 0.5)
    target = np.eye(2, dtype=np.float32)[label]
    return WindowSet(
        log_mel=log_mel.astype(np.float16),
        silent=np.zeros(n, dtype=bool),
        target=target,
        teacher_logits=4 * target - 2,
        embedding=rng.standard_normal((n, 12)).astype(np.float16),
        foundation_logits=rng.standard_normal((n, 7)).astype(np.float16),
    )


def train(folder: Path, spec: TrainSpec = SPEC, seed: int = 0) -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    student = DSCNN(2, width=8)
    torch.seed()  # the world's random state must not matter
    data = DistillData(windows(), windows(32), windows(64))
    trained = train_student(student, data, spec, kind="single_label", frontend=FrontendSpec(), seed=seed, folder=folder)
    return {name: value.clone() for name, value in trained.state_dict().items()}


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.slow
def test_a_run_killed_at_any_step_ends_with_the_bits_of_an_unbroken_one(tmp_path, monkeypatch):
    unbroken = train(tmp_path / "unbroken")
    whole_step = distill_module.DistillModule.training_step
    for kill_at in range(0, 20, 3):

        def step(self, batch, index, kill_at=kill_at):
            if self.global_step == kill_at:
                raise Killed
            return whole_step(self, batch, index)

        folder = tmp_path / f"killed{kill_at}"
        monkeypatch.setattr(distill_module.DistillModule, "training_step", step)
        with pytest.raises(Killed):
            train(folder)
        monkeypatch.setattr(distill_module.DistillModule, "training_step", whole_step)
        assert same(train(folder), unbroken), kill_at


@pytest.mark.slow
def test_the_seed_decides_and_training_learns(tmp_path):
    spec = TrainSpec(windows_seen=60 * 16, batch_size=16, ema_decay=0.8, loss=LossWeights(labels=1, embedding=0))
    first = train(tmp_path / "a", spec)
    assert same(first, train(tmp_path / "b", spec))
    assert not same(first, train(tmp_path / "c", spec, seed=1))
    student = DSCNN(2, width=8)
    student.load_state_dict(first)
    held_out = windows(32)
    with torch.no_grad():
        logits = student.eval()(torch.from_numpy(held_out.log_mel.astype(np.float32)))
    assert (logits.argmax(1).numpy() == held_out.target.argmax(1)).mean() > 0.9


def test_a_damaged_checkpoint_is_named_not_loaded(tmp_path):
    folder = tmp_path / "checkpoints"
    folder.mkdir()
    (folder / "step=0000001.ckpt").write_bytes(b"PK\x03\x04 nothing")
    with pytest.raises(VerificationError, match=r"step=0000001\.ckpt cannot be read"):
        train(tmp_path)


def test_a_loss_that_is_not_a_number_stops_the_run_by_name(tmp_path):
    spec = TrainSpec(windows_seen=200 * 16, batch_size=16, learning_rate=1e30)
    with pytest.raises(TrainingDivergedError, match="learning_rate"):
        train(tmp_path, spec)


def test_student_weights_survive_the_disk_and_wrong_ones_are_refused(tmp_path):
    student = DSCNN(3, width=8)
    save_student(student, tmp_path / "student.safetensors")
    other = load_student(DSCNN(3, width=8), tmp_path / "student.safetensors")
    assert same(student.state_dict(), other.state_dict())
    with pytest.raises(VerificationError, match=r"student\.safetensors"):
        load_student(DSCNN(4, width=8), tmp_path / "student.safetensors")


def test_a_pretrained_body_fits_students_of_any_number_of_classes(tmp_path: Path) -> None:
    pretrained, student = DSCNN(2, width=8), DSCNN(5, width=8)
    head = student.head.weight.clone()
    save_student(pretrained, tmp_path / "s.safetensors")
    load_body(student, tmp_path / "s.safetensors")
    assert torch.equal(student.head.weight, head)
    body = [name for name in student.state_dict() if not name.startswith("head.")]
    assert all(torch.equal(student.state_dict()[name], pretrained.state_dict()[name]) for name in body)
    with pytest.raises(VerificationError, match="Delete its folder"):
        load_body(DSCNN(2, width=16), tmp_path / "s.safetensors")


def test_pretraining_leaves_the_head_as_it_was(tmp_path: Path) -> None:
    spec = SPEC.model_copy(
        update={"loss": LossWeights(labels=0, logits=0, embedding=1, foundation_logits=0.5), "unlabelled_share": 0.0}
    )
    torch.manual_seed(0)
    fresh = DSCNN(2, width=8).state_dict()
    trained = train(tmp_path, spec)
    assert torch.equal(trained["head.weight"], fresh["head.weight"])
    assert not torch.equal(trained["stem.0.0.weight"], fresh["stem.0.0.weight"])
