"""Fine-tuning is a function of its inputs: resumed or not, it gives the same bits."""

from __future__ import annotations

import copy
import csv
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from edgeaudio.audio.resample import resample
from edgeaudio.errors import ConfigError, DataError, ShapeError, VerificationError, WorkDirError
from edgeaudio.spec import LabelSet, TaskSpec
from edgeaudio.teachers import finetune as finetune_module
from edgeaudio.teachers.adapt import AdaptedTeacher, FinetuneSpec, FinetuneWindow, LinearHead, finetune
from edgeaudio.teachers.augment import draw_batch, step_generator
from edgeaudio.teachers.finetune import one_cycle
from edgeaudio.teachers.mn04 import MN04, WEIGHTS_FILE, MN04Teacher

TASK = TaskSpec(labels=LabelSet(names=("low", "high")))
MULTI = TaskSpec(kind="multi_label", labels=TASK.labels)
STEPS = 5
SPEC = FinetuneSpec(
    steps=STEPS,
    windows=(
        FinetuneWindow(duration_s=0.2, probability=0.5, batch=3),
        FinetuneWindow(duration_s=0.3, probability=0.5, batch=2),
    ),
)


class Killed(Exception):
    """Stands for a kill between two steps."""


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    """For the whole module: several threads add in another order, and `unbroken` is made once for all tests."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def teacher() -> MN04Teacher:
    with torch.random.fork_rng():
        torch.manual_seed(3)
        return MN04Teacher(MN04())


@pytest.fixture(scope="module")
def clips() -> list[torch.Tensor]:
    """Noises and tones, one of them shorter than any window."""
    generator = torch.Generator().manual_seed(5)
    lengths = (9_000, 12_000, 3_000, 16_000)
    return [torch.randn(n, generator=generator) * 0.1 for n in lengths]


TARGETS = torch.tensor([0, 1, 0, 1])


@pytest.fixture(scope="module")
def unbroken(teacher: MN04Teacher, clips: list[torch.Tensor]) -> AdaptedTeacher:
    return finetune(teacher, clips, TARGETS, TASK, SPEC)


@pytest.mark.parametrize("kill_after", range(1, STEPS + 1))
@pytest.mark.parametrize("save_every_steps", [1, 2])
def test_a_run_killed_after_any_step_ends_with_the_same_bits(
    tmp_path: Path,
    teacher: MN04Teacher,
    clips: list[torch.Tensor],
    unbroken: AdaptedTeacher,
    kill_after: int,
    save_every_steps: int,
) -> None:
    checkpoint, seen = tmp_path / "run.ckpt", list[int]()

    def kill(done: int, steps: int) -> None:
        if done == kill_after:
            raise Killed

    with pytest.raises(Killed):
        finetune(
            teacher,
            clips,
            TARGETS,
            TASK,
            SPEC,
            checkpoint=checkpoint,
            save_every_steps=save_every_steps,
            progress=kill,
        )
    torch.randn(100)  # a resumed process has another global generator
    resumed = finetune(
        teacher,
        clips,
        TARGETS,
        TASK,
        SPEC,
        checkpoint=checkpoint,
        save_every_steps=save_every_steps,
        progress=lambda done, steps: seen.append(done),
    )
    assert resumed.digest == unbroken.digest
    saved = kill_after if kill_after == STEPS else kill_after - kill_after % save_every_steps
    assert seen == list(range(saved + 1, STEPS + 1)), "only what was not saved is done again"


def test_teacher_and_global_generator_are_left_as_they_were(
    teacher: MN04Teacher, clips: list[torch.Tensor], unbroken: AdaptedTeacher
) -> None:
    before, state = torch.get_rng_state(), copy.deepcopy(teacher.network.state_dict())
    again = finetune(teacher, clips, TARGETS, TASK, SPEC)
    assert again.digest == unbroken.digest
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(tensor, state[name]) for name, tensor in teacher.network.state_dict().items())
    assert not teacher.network.training


def test_another_seed_gives_another_teacher(
    teacher: MN04Teacher, clips: list[torch.Tensor], unbroken: AdaptedTeacher
) -> None:
    other = finetune(teacher, clips, TARGETS, TASK, SPEC.model_copy(update={"seed": 1}))
    assert other.digest != unbroken.digest


def test_a_checkpoint_of_another_run_is_refused(
    tmp_path: Path, teacher: MN04Teacher, clips: list[torch.Tensor]
) -> None:
    checkpoint, short = tmp_path / "run.ckpt", SPEC.model_copy(update={"steps": 1})
    finetune(teacher, clips, TARGETS, TASK, short, checkpoint=checkpoint)
    louder = [clips[0] * 1.001, *clips[1:]]
    for changed in (
        (teacher, clips, TARGETS, TASK, SPEC),
        (teacher, louder, TARGETS, TASK, short),
        (teacher, clips, 1 - TARGETS, TASK, short),
        (MN04Teacher(MN04()), clips, TARGETS, TASK, short),
    ):
        with pytest.raises(WorkDirError, match="of another teacher, task, data or settings"):
            finetune(*changed, checkpoint=checkpoint)


def test_a_damaged_checkpoint_is_refused(tmp_path: Path, teacher: MN04Teacher, clips: list[torch.Tensor]) -> None:
    checkpoint, short = tmp_path / "run.ckpt", SPEC.model_copy(update={"steps": 1})
    finetune(teacher, clips, TARGETS, TASK, short, checkpoint=checkpoint)
    good = checkpoint.read_bytes()
    for position in range(0, len(good), len(good) // 10):
        broken = bytearray(good)
        broken[position] ^= 1
        checkpoint.write_bytes(broken)
        with pytest.raises(VerificationError, match="damaged"):
            finetune(teacher, clips, TARGETS, TASK, short, checkpoint=checkpoint)


def test_a_disk_that_fails_at_a_save_leaves_the_last_checkpoint(
    tmp_path: Path,
    teacher: MN04Teacher,
    clips: list[torch.Tensor],
    unbroken: AdaptedTeacher,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    checkpoint, real, saves = tmp_path / "run.ckpt", finetune_module.atomic_write, list[int]()

    def full_at_third(path: Path, data: bytes) -> None:
        saves.append(len(data))
        if len(saves) == 3:
            raise OSError(28, "No space left on device")
        real(path, data)

    monkeypatch.setattr(finetune_module, "atomic_write", full_at_third)
    with pytest.raises(WorkDirError, match=r"run\.ckpt.*No space left.*bytes are needed"):
        finetune(teacher, clips, TARGETS, TASK, SPEC, checkpoint=checkpoint, save_every_steps=1)
    resumed = finetune(teacher, clips, TARGETS, TASK, SPEC, checkpoint=checkpoint, save_every_steps=1)
    assert resumed.digest == unbroken.digest
    assert len(saves) == 3 + STEPS - 2


def test_bad_steps_change_no_weight_and_ten_in_a_row_stop_the_run(
    teacher: MN04Teacher, clips: list[torch.Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    real, calls = finetune_module._Run._loss, list[int]()

    def bad_from_third(run: finetune_module._Run, *args: object) -> torch.Tensor:
        calls.append(1)
        loss = real(run, *args)  # type: ignore[arg-type]
        return loss * torch.inf if len(calls) >= 3 else loss

    monkeypatch.setattr(finetune_module._Run, "_loss", bad_from_third)
    two_good = SPEC.model_copy(update={"steps": 8})
    adapted = finetune(teacher, clips, TARGETS, TASK, two_good)
    assert len(calls) == 8
    assert all(torch.isfinite(tensor).all() for tensor in adapted.network.state_dict().values())
    assert int(adapted.network.state_dict()["features.0.1.num_batches_tracked"]) == 2
    calls.clear()
    with pytest.raises(DataError, match="10 steps in a row, up to step 12"):
        finetune(teacher, clips, TARGETS, TASK, SPEC.model_copy(update={"steps": 100}))


def test_the_loss_falls(teacher: MN04Teacher, monkeypatch: pytest.MonkeyPatch) -> None:
    time_s = torch.arange(12_000) / 32_000
    tones = [0.3 * torch.sin(2 * torch.pi * f * time_s) for f in (200.0, 220.0, 5_000.0, 5_200.0)]
    window = FinetuneWindow(duration_s=0.2, probability=1.0, batch=8)
    spec = FinetuneSpec(steps=16, lr_body=1e-3, lr_last_layer=1e-2, mixup_beta=0.0, windows=(window,))
    real, losses = finetune_module._Run._loss, list[float]()

    def recorded(run: finetune_module._Run, *args: object) -> torch.Tensor:
        loss = real(run, *args)  # type: ignore[arg-type]
        losses.append(float(loss.detach()))
        return loss

    monkeypatch.setattr(finetune_module._Run, "_loss", recorded)
    finetune(teacher, tones, torch.tensor([0, 0, 1, 1]), TASK, spec)
    assert np.mean(losses[:3]) > 0.5
    assert np.mean(losses[-3:]) < 0.3


@pytest.mark.assets
@pytest.mark.slow
def test_mn04_learns_rain_from_dogs_in_a_few_steps(shared_dir: Path) -> None:
    teacher = MN04Teacher.load(shared_dir / "data" / "weights" / WEIGHTS_FILE)
    with (shared_dir / "data/esc10/meta/esc50.csv").open() as stream:
        rows = [row for row in csv.DictReader(stream) if row["category"] in ("rain", "dog")]

    def fold(*numbers: int) -> tuple[torch.Tensor, torch.Tensor]:
        chosen = [row for row in rows if int(row["fold"]) in numbers]
        waveforms = []
        for row in chosen:
            clip, sample_rate = soundfile.read(shared_dir / "data/esc10/audio" / row["filename"], dtype="float32")
            waveforms.append(torch.from_numpy(resample(clip[: 4 * sample_rate], sample_rate, 32_000)))
        return torch.stack(waveforms), torch.tensor([row["category"] == "rain" for row in chosen]).long()

    spec = FinetuneSpec(steps=12, windows=(FinetuneWindow(duration_s=1.0, probability=1.0, batch=16),))
    adapted = finetune(teacher, *fold(2, 3), TaskSpec(labels=LabelSet(names=("dog", "rain"))), spec)
    waveforms, targets = fold(1)
    logits, embedding = adapted.task_logits_and_embedding(waveforms)
    assert int((logits.argmax(1) == targets).sum()) >= 15
    assert embedding.shape == (16, 384)


def test_multi_label_targets_train(teacher: MN04Teacher, clips: list[torch.Tensor]) -> None:
    targets = torch.tensor([[1, 1], [0, 0], [1, 0], [0, 1]])
    adapted = finetune(teacher, clips, targets, MULTI, SPEC.model_copy(update={"steps": 2}))
    assert adapted.task_logits_and_embedding(clips[0][None])[0].shape == (1, 2)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (lambda c: [c[0][None], *c[1:]], ShapeError, "clip 0"),
        (lambda c: [*c[:3], c[3].double()], ShapeError, "clip 3 is torch.float64"),
        (lambda c: [c[0], c[1] * torch.nan, *c[2:]], DataError, "clip 1 holds NaN"),
        (lambda c: c[:3], ShapeError, r"targets have shape \(4,\), wanted \(3,\)"),
    ],
)
def test_unusable_clips_are_refused(
    teacher: MN04Teacher, clips: list[torch.Tensor], change: object, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        finetune(teacher, change(clips), TARGETS, TASK, SPEC)  # type: ignore[operator]


def test_spec_refuses_probabilities_that_do_not_sum_to_one() -> None:
    window = {"duration_s": 1.0, "probability": 0.5, "batch": 4}
    with pytest.raises(ConfigError, match=r"probabilities sum to 0\.5"):
        FinetuneSpec.parse({"windows": [window]}, source="recipe.yaml")


def test_one_cycle_rises_to_one_and_falls() -> None:
    rates = [one_cycle(step, 100) for step in range(100)]
    assert rates[0] == pytest.approx(1 / 25)
    assert rates[30] == pytest.approx(1)
    assert rates[99] == pytest.approx(1e-4)
    assert np.all(np.diff(rates[:31]) > 0)
    assert np.all(np.diff(rates[30:]) < 0)
    assert all(0 < one_cycle(step, steps) <= 1 for steps in (1, 2, 3) for step in range(steps))


def test_a_batch_is_a_function_of_seed_and_step(clips: list[torch.Tensor]) -> None:
    soft = torch.eye(2)[TARGETS]
    first, same, other = (draw_batch(clips, soft, SPEC, 32_000, step_generator(0, step)) for step in (7, 7, 8))
    assert torch.equal(first.waveform, same.waveform)
    assert torch.equal(first.targets, same.targets)
    assert first.waveform.shape != other.waveform.shape or not torch.equal(first.waveform, other.waveform)
    torch.testing.assert_close(first.targets.sum(1), torch.ones(len(first.targets)))


def test_windows_of_digital_silence_are_avoided() -> None:
    clip = torch.zeros(64_000)
    clip[:32_000] = 0.5
    spec = SPEC.model_copy(
        update={"windows": (FinetuneWindow(duration_s=0.25, probability=1.0, batch=64),), "mixup_beta": 0.0}
    )
    batch = draw_batch([clip], torch.ones(1, 1), spec, 32_000, step_generator(0, 0))
    # Nearly half of all cuts are silent; eight draws leave under 0.5 % of them.
    assert int((batch.waveform.abs().amax(1) == 0).sum()) <= 2


@pytest.mark.parametrize("kind", ["finetuned", "head"])
def test_save_and_load_give_the_same_teacher(
    tmp_path: Path, teacher: MN04Teacher, clips: list[torch.Tensor], unbroken: AdaptedTeacher, kind: str
) -> None:
    with torch.random.fork_rng():
        head = LinearHead(384, 2)
    adapted = unbroken if kind == "finetuned" else AdaptedTeacher(copy.deepcopy(teacher.network), TASK, head)
    path = tmp_path / "teacher.safetensors"
    adapted.save(path)
    loaded = AdaptedTeacher.load(path)
    assert (loaded.name, loaded.task, loaded.digest) == (adapted.name, TASK, adapted.digest)
    for mine, theirs in zip(
        loaded.task_logits_and_embedding(clips[0][None]), adapted.task_logits_and_embedding(clips[0][None]), strict=True
    ):
        assert torch.equal(mine, theirs)


def test_a_changed_teacher_file_is_refused(tmp_path: Path, unbroken: AdaptedTeacher) -> None:
    path = tmp_path / "teacher.safetensors"
    unbroken.save(path)
    good = path.read_bytes()
    for broken in (
        good[:-4] + b"\0\0\1\0",  # a weight
        good.replace(b"low", b"LOW", 1),  # a label, in the metadata
        good.replace(b"edgeaudio-adapted-teacher-1", b"edgeaudio-adapted-teacher-2", 1),
        good[: len(good) // 2],
        b"",
    ):
        assert broken != good
        path.write_bytes(broken)
        with pytest.raises(VerificationError):
            AdaptedTeacher.load(path)
    path.unlink()
    with pytest.raises(DataError, match="does not exist"):
        AdaptedTeacher.load(path)


def test_a_head_of_another_task_is_refused(teacher: MN04Teacher) -> None:
    with pytest.raises(ShapeError, match="answers 527 classes, the task has 2"):
        AdaptedTeacher(teacher.network, TASK)
