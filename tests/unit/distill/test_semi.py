"""Semi-supervised methods: their parts by hand, what they show the student, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from edgeaudio.distill.augment import FeatureAugmentSpec
from edgeaudio.distill.losses import LossWeights
from edgeaudio.distill.module import Batches, DistillData, DistillModule, TrainSpec, WindowSet
from edgeaudio.distill.semi import (
    METHODS,
    ClassShares,
    SemiLearner,
    SemiRows,
    SemiSpec,
    class_probs,
    hard_guess,
    hard_guess_loss,
    mix,
    mixing_shares,
    sharpen,
)
from edgeaudio.distill.train import train_student
from edgeaudio.errors import ConfigError
from edgeaudio.spec import ExitSpec, FrontendSpec
from edgeaudio.students.dscnn import DSCNN
from edgeaudio.students.exits import EarlyExitStudent
from tests.tolerances import TORCH_SAME_SUMS

CLASSES, FRAMES, N_MELS = 3, 8, 16
UNCHANGED = FeatureAugmentSpec(gain_db=0, filter_db=0, roll=False, frequency_mask=0, time_mask=0)
LABELS = LossWeights(labels=1, logits=0, embedding=0)


class BandStudent(nn.Module):
    """A perceptron on the mean spectrum: the smallest network with a student's parts, and two early exits."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        self.embedding_dim = 12
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.first = nn.Sequential(nn.Linear(N_MELS, 32), nn.BatchNorm1d(32), nn.ReLU())
            self.second = nn.Sequential(nn.Linear(32, 12), nn.ReLU())
            self.exit_heads = nn.ModuleList([nn.Linear(N_MELS, CLASSES), nn.Linear(32, CLASSES)])
            self.head = nn.Linear(12, CLASSES)
        self.dropout = nn.Dropout(0.1)

    def forward_features(self, log_mel: torch.Tensor) -> torch.Tensor:
        embedding: torch.Tensor = self.second(self.first(log_mel.mean(dim=1)))
        return embedding

    def forward_exits(self, log_mel: torch.Tensor) -> tuple[list[torch.Tensor], torch.Tensor]:
        mean = log_mel.mean(dim=1)
        hidden = self.first(mean)
        return [self.exit_heads[0](mean), self.exit_heads[1](hidden)], self.second(hidden)

    def forward(self, log_mel: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.head(self.dropout(self.forward_features(log_mel)))
        return logits


def windows(n: int, *, seed: int = 0, teacher: bool = False, target: bool = True) -> WindowSet:
    """Classes that differ in level, above the log floor."""
    rng = np.random.default_rng(seed)
    label = rng.integers(CLASSES, size=n)
    log_mel = 3 + label[:, None, None] + rng.standard_normal((n, FRAMES, N_MELS))
    one_hot = np.eye(CLASSES, dtype=np.float32)[label]
    return WindowSet(
        log_mel.astype(np.float32),
        np.zeros(n, dtype=bool),
        one_hot if target else None,
        5 * one_hot if teacher else None,
        rng.standard_normal((n, 5)).astype(np.float32) if teacher else None,
    )


def learner(spec: SemiSpec, kind: Any = "single_label", labels: torch.Tensor | None = None) -> SemiLearner:
    labels = torch.eye(CLASSES) if labels is None else labels
    return SemiLearner(spec, labels, kind=kind, frontend=FrontendSpec(), steps=100)


def rows_of(
    spec: SemiSpec, kind: Any = "single_label", *, seed: int = 0, averaged: nn.Module | None = None
) -> SemiRows:
    """The rows for 4 labelled and 6 unlabelled windows."""
    student, batch = BandStudent(), windows(10).take(np.arange(10))
    silent = torch.zeros(6, dtype=torch.bool)
    return learner(spec, kind).rows(
        (student, averaged or student),
        (batch["log_mel"][:4], batch["target"][:4]),
        (batch["log_mel"][4:], silent),
        np.random.default_rng(seed),
    )


def module_of(spec: TrainSpec, *, kind: Any = "single_label", student: nn.Module | None = None, **sets: Any) -> Any:
    data = DistillData(**{"windows": windows(12), "held_out": windows(8), "unlabelled": windows(20), **sets})
    return DistillModule(student or BandStudent(), data, spec, kind=kind, frontend=FrontendSpec(), seed=0)


# Parts ---------------------------------------------------------------------------------------


def test_sharpening_by_hand() -> None:
    probs = torch.tensor([[0.6, 0.3, 0.1], [0.0, 1.0, 0.0]])
    by_hand = torch.tensor([[36 / 46, 9 / 46, 1 / 46], [0.0, 1.0, 0.0]])
    torch.testing.assert_close(sharpen(probs, 0.5), by_hand, **TORCH_SAME_SUMS)
    torch.testing.assert_close(sharpen(probs, 1.0), probs, **TORCH_SAME_SUMS)
    assert torch.isfinite(sharpen(probs, 1e-3)).all()


def test_guesses_below_the_threshold_teach_nothing() -> None:
    probs = torch.tensor([[0.96, 0.04], [0.9, 0.1]])
    target, sure = hard_guess(probs, 0.95, "single_label")
    assert sure.tolist() == [True, False]
    logits = torch.zeros(2, 2, requires_grad=True)
    loss = hard_guess_loss(logits, target, sure, "single_label")
    torch.testing.assert_close(loss, torch.tensor(np.log(2) / 2, dtype=torch.float32), **TORCH_SAME_SUMS)
    loss.backward()
    assert logits.grad is not None
    torch.testing.assert_close(logits.grad, torch.tensor([[-0.25, 0.25], [0.0, 0.0]]), **TORCH_SAME_SUMS)


def test_multi_label_guesses_count_per_class_present_or_absent() -> None:
    target, sure = hard_guess(torch.tensor([[0.97, 0.5, 0.02]]), 0.95, "multi_label")
    assert target.tolist() == [[1.0, 0.0, 0.0]]
    assert sure.tolist() == [[True, False, True]]
    loss = hard_guess_loss(torch.zeros(1, 3), target, sure, "multi_label")
    torch.testing.assert_close(loss, torch.tensor(2 * np.log(2) / 3, dtype=torch.float32), **TORCH_SAME_SUMS)


def test_of_two_mixed_windows_the_first_keeps_at_least_half() -> None:
    shares = mixing_shares(np.random.default_rng(0), 0.75, 1000)
    assert shares.min() >= 0.5
    assert shares.max() <= 1
    assert shares.std() > 0.05
    assert mixing_shares(np.random.default_rng(0), 0, 5).tolist() == [1.0] * 5
    mixed = mix(torch.ones(2, 3, 4), torch.zeros(2, 3, 4), torch.tensor([0.75, 1.0]))
    assert mixed[:, 0, 0].tolist() == [0.75, 1.0]


def test_alignment_brings_the_shares_of_guesses_to_those_of_the_labels() -> None:
    shares = ClassShares(torch.tensor([0.5, 0.25, 0.25]))
    guess = torch.tensor([[0.8, 0.1, 0.1], [0.6, 0.2, 0.2]])
    by_hand = guess * torch.tensor([1.5, 0.75, 0.75])  # labels' shares over the uniform ones of the start
    by_hand = by_hand / by_hand.sum(dim=1, keepdim=True)
    torch.testing.assert_close(shares.align(guess), by_hand, **TORCH_SAME_SUMS)
    for _ in range(2000):
        shares.follow(guess)
    torch.testing.assert_close(shares.guessed, guess.mean(dim=0), **TORCH_SAME_SUMS)
    assert shares.align(guess)[:, 0].mean() < guess[:, 0].mean()


def test_probabilities_are_those_in_use_and_leave_every_module_as_it_was() -> None:
    student = BandStudent().train()
    student.first[1].eval()  # a frozen batch norm
    before = {name: value.clone() for name, value in student.state_dict().items()}
    x = torch.from_numpy(windows(5).log_mel)
    probs = class_probs(student, x, "single_label")
    assert not student.first[1].training
    assert student.training
    assert student.dropout.training
    assert all(torch.equal(value, before[name]) for name, value in student.state_dict().items())
    assert not probs.requires_grad
    with torch.no_grad():
        torch.testing.assert_close(probs, student.eval()(x).softmax(dim=1))


# Methods -------------------------------------------------------------------------------------


def test_mean_teacher_follows_the_averaged_student_not_the_student() -> None:
    still = SemiSpec(method="mean-teacher", weak=UNCHANGED, strong=UNCHANGED)
    averaged = BandStudent(seed=5)
    rows = rows_of(still, averaged=averaged)
    guess = class_probs(averaged, rows.log_mel, "single_label")
    assert rows.semi_loss(guess.clamp_min(1e-12).log()).item() == pytest.approx(0, abs=1e-9)
    other = class_probs(BandStudent(), rows.log_mel, "single_label").log()
    by_hand = ((other.exp() - guess) ** 2).sum() / 6
    torch.testing.assert_close(rows.semi_loss(other), by_hand, **TORCH_SAME_SUMS)
    assert rows.semi_loss(other) > 1e-4


def test_fixmatch_teaches_the_strong_view_what_it_is_sure_of_in_the_weak_one() -> None:
    rows = rows_of(SemiSpec(method="fixmatch", threshold=0.501))
    assert rows.log_mel.shape == (6, FRAMES, N_MELS)
    assert rows.label_loss is None
    assert rows.sure is not None
    strict = rows_of(SemiSpec(method="fixmatch", threshold=0.9999))
    assert strict.sure == 0
    assert strict.semi_loss(torch.randn(6, CLASSES)) == 0
    assert torch.equal(strict.log_mel, rows.log_mel)


def test_mixmatch_mixes_labelled_windows_that_stay_themselves() -> None:
    spec = SemiSpec(method="mixmatch", n_weak=3)
    rows = rows_of(spec)
    assert rows.log_mel.shape == (4 + 3 * 6, FRAMES, N_MELS)
    labelled = windows(10).take(np.arange(10))
    first, target = labelled["log_mel"][:4], labelled["target"][:4]
    assert not torch.equal(rows.log_mel[:4], first)
    nearest = torch.cdist(rows.log_mel[:4].flatten(1), labelled["log_mel"].flatten(1)).argmin(dim=1)
    assert nearest.tolist() == [0, 1, 2, 3]
    # A student that answers a window's own class pays less than for any other: the label dominates the mixture.
    assert rows.label_loss is not None
    right = rows.label_loss(torch.cat([6 * target, torch.zeros(18, CLASSES)]))
    for turn in (1, 2):
        assert right < rows.label_loss(torch.cat([6 * target.roll(turn, dims=1), torch.zeros(18, CLASSES)]))


def test_without_mixing_mixmatch_leaves_labels_as_they_are() -> None:
    rows = rows_of(SemiSpec(method="mixmatch", mix_alpha=0))
    batch = windows(10).take(np.arange(4))
    assert torch.equal(rows.log_mel[:4], batch["log_mel"])
    logits = torch.randn(16, CLASSES, generator=torch.Generator().manual_seed(1))
    assert rows.label_loss is not None
    torch.testing.assert_close(rows.label_loss(logits), F.cross_entropy(logits[:4], batch["target"]))


def test_remixmatch_shows_strong_and_weak_views_mixed_and_one_that_is_not() -> None:
    rows = rows_of(SemiSpec(method="remixmatch", n_strong=3))
    assert rows.log_mel.shape == (4 + (3 + 1) * 6 + 6, FRAMES, N_MELS)
    logits = torch.zeros(len(rows.log_mel), CLASSES)
    # Every target sums to 1, so even logits cost ln(classes): once mixed, and a third of it unmixed.
    torch.testing.assert_close(rows.semi_loss(logits), torch.tensor(4 / 3 * np.log(CLASSES), dtype=torch.float32))


@pytest.mark.parametrize("method", METHODS)
def test_rows_are_a_function_of_their_random_numbers(method: Any) -> None:
    spec = SemiSpec(method=method)
    one, again, other = rows_of(spec, seed=1), rows_of(spec, seed=1), rows_of(spec, seed=2)
    assert torch.equal(one.log_mel, again.log_mel)
    assert not torch.equal(one.log_mel, other.log_mel)
    logits = torch.randn(len(one.log_mel), CLASSES, requires_grad=True)
    assert torch.equal(one.semi_loss(logits), again.semi_loss(logits))


@pytest.mark.parametrize("kind", ["single_label", "multi_label"])
def test_a_silent_window_is_guessed_to_hold_no_class(kind: Any) -> None:
    batch = windows(6).take(np.arange(6))
    spec = SemiSpec(method="mean-teacher", weak=UNCHANGED, strong=UNCHANGED)
    student = BandStudent()
    rows = learner(spec, kind).rows(
        (student, student),
        (batch["log_mel"], batch["target"]),
        (batch["log_mel"], torch.ones(6, dtype=torch.bool)),
        np.random.default_rng(0),
    )
    nothing = torch.full((6, CLASSES), 0.0 if kind == "single_label" else -100.0)
    assert rows.semi_loss(nothing).item() == pytest.approx(0, abs=1e-9)


def test_the_weight_rises_over_its_share_of_the_steps() -> None:
    rising = learner(SemiSpec(method="fixmatch", weight=4, ramp_share=0.2))
    assert [rising.weight(step) for step in (0, 9, 19, 20, 99)] == pytest.approx([0.2, 2, 4, 4, 4])
    assert learner(SemiSpec(method="fixmatch", weight=4, ramp_share=0)).weight(0) == 4


# In the module -------------------------------------------------------------------------------


def step_of(module: Any, monkeypatch: pytest.MonkeyPatch) -> tuple[dict[str, torch.Tensor], int]:
    """(losses of the first step, rows in its forward pass)."""
    batch = next(iter(Batches(module.data, module.spec, 0, 0, 1)))
    losses: list[dict[str, torch.Tensor]] = []
    rows: list[int] = []
    whole_losses, whole_forward = module._losses, module._forward
    monkeypatch.setattr(module, "_losses", lambda *given: losses.append(whole_losses(*given)) or losses[-1])
    monkeypatch.setattr(module, "_forward", lambda *given: rows.append(len(given[1])) or whole_forward(*given))
    module.training_step(batch, 0).backward()
    assert len(rows) == 1, "one forward pass per step"
    return losses[0], rows[0]


def spec_of(method: Any, loss: LossWeights = LABELS) -> TrainSpec:
    return TrainSpec(
        windows_seen=160, batch_size=16, unlabelled_share=0.5, loss=loss, semi=SemiSpec(method=method, ramp_share=0)
    )


@pytest.mark.parametrize(
    ("method", "rows"),
    [("fixmatch", 8 + 8), ("mean-teacher", 8 + 8), ("mixmatch", 8 + 2 * 8), ("remixmatch", 8 + 3 * 8 + 8)],
)
def test_a_method_without_a_teacher_shows_no_window_in_vain(method: str, rows: int, monkeypatch: Any) -> None:
    losses, seen = step_of(module_of(spec_of(method)), monkeypatch)
    assert list(losses) == ["labels", "semi"]
    assert seen == rows


@pytest.mark.parametrize("method", METHODS)
def test_a_method_adds_to_the_terms_of_the_teacher_and_leaves_them_as_they_are(method: str, monkeypatch: Any) -> None:
    loss = LossWeights(labels=1, logits=1, embedding=1, relational_distance=1, exit_final=1)
    sets = {"windows": windows(12, teacher=True), "held_out": windows(8, teacher=True)}
    sets["unlabelled"] = windows(20, teacher=True, target=False)
    module = module_of(spec_of(method, loss), **sets)
    # Batch norm sees the added rows: in eval mode a window's outputs do not depend on its neighbours.
    losses, _ = step_of(module.eval(), monkeypatch)
    plain, seen = step_of(
        module_of(spec_of(method, loss).model_copy(update={"semi": None}), **sets).eval(), monkeypatch
    )
    assert seen == 16
    assert set(losses) == {*plain, "semi"}
    for name in set(plain) - {"labels"}:
        torch.testing.assert_close(losses[name], plain[name], **TORCH_SAME_SUMS)
    assert (losses["labels"] == plain["labels"]).item() != METHODS[method].mixes_labels
    assert all(p.grad is None for p in module.averaged.parameters())
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in module.student.exit_heads.parameters())


def test_early_exits_learn_from_labels_teacher_and_final_exit(monkeypatch: Any) -> None:
    loss = LossWeights(labels=1, logits=0, embedding=0, exit_labels=1, exit_teacher=1, exit_final=1)
    spec = TrainSpec(windows_seen=160, batch_size=8, loss=loss)
    sets = {"windows": windows(12, teacher=True), "held_out": windows(8, teacher=True)}
    losses, _ = step_of(module_of(spec, **sets), monkeypatch)
    assert list(losses) == ["labels", "exit_labels", "exit_teacher", "exit_final"]


# Refusals ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["exit_labels", "exit_teacher", "exit_final"])
def test_exit_terms_are_refused_for_a_student_without_exits(name: str) -> None:
    student = BandStudent()
    student.forward_exits = None  # type: ignore[assignment]
    spec = TrainSpec(loss=LossWeights(labels=1, logits=0, embedding=0, **{name: 1.0}))
    taught = {"windows": windows(12, teacher=True), "held_out": windows(8, teacher=True)}
    with pytest.raises(ConfigError, match=rf"train\.loss\.{name} is 1, but this student has no early exits"):
        module_of(spec, student=student, **taught)


@pytest.mark.parametrize(
    ("name", "need"),
    [("logits", "teacher_logits"), ("embedding", "embedding"), ("relational_angle", "embedding"), ("labels", "target")],
)
def test_a_term_without_its_data_is_refused_by_name(name: str, need: str) -> None:
    spec = TrainSpec(loss=LossWeights(**{"labels": 0, "logits": 0, "embedding": 0, name: 1.0}))
    with pytest.raises(ConfigError, match=rf"train\.loss\.{name} is 1, but the training windows have no {need}"):
        module_of(spec, windows=windows(12, target=False))


def test_unlabelled_windows_that_the_teacher_did_not_hear_are_refused_for_its_terms() -> None:
    spec = TrainSpec(unlabelled_share=0.5, loss=LossWeights(labels=1, logits=1, embedding=0))
    with pytest.raises(ConfigError, match="the unlabelled windows have no teacher_logits"):
        module_of(spec, windows=windows(12, teacher=True), held_out=windows(8, teacher=True))


def test_semi_without_unlabelled_windows_is_refused_by_field() -> None:
    with pytest.raises(ConfigError, match=r"semi\.method fixmatch .* raise unlabelled_share"):
        TrainSpec.parse({"semi": {"method": "fixmatch"}}, source="recipe.yaml")
    with pytest.raises(ConfigError, match=r"train\.semi\.method fixmatch .* data\.unlabelled"):
        module_of(spec_of("fixmatch"), unlabelled=None)


def test_semi_without_labels_is_refused() -> None:
    loss = LossWeights(labels=0, logits=0, embedding=1)
    sets = {name: windows(12, teacher=True, target=False) for name in ("windows", "held_out", "unlabelled")}
    with pytest.raises(ConfigError, match="needs some labelled windows"):
        module_of(spec_of("fixmatch", loss), **sets)


@pytest.mark.parametrize("method", METHODS)
def test_methods_that_guess_one_class_are_refused_for_multi_label_tasks(method: str, monkeypatch: Any) -> None:
    if METHODS[method].multi_label:
        losses, _ = step_of(module_of(spec_of(method), kind="multi_label"), monkeypatch)
        assert torch.isfinite(losses["semi"])
        return
    with pytest.raises(ConfigError, match=rf"train\.semi\.method: {method} .* Use fixmatch or mean-teacher"):
        module_of(spec_of(method), kind="multi_label")


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ({"method": "fixmatch", "mix_alpha": 0.5}, "mix_alpha belongs to method mixmatch and remixmatch"),
        ({"method": "mixmatch", "threshold": 0.8}, "threshold belongs to method fixmatch"),
        ({"method": "mixmatch", "strong": {"gain_db": 1}}, "strong belongs to"),
        ({"method": "fixmatch", "threshold": 1.0}, "threshold"),
        ({"method": "fixmatch", "weight": 0}, "weight"),
        ({"method": "vat"}, "method"),
    ],
)
def test_a_field_that_would_do_nothing_or_wrong_is_refused(given: dict[str, Any], named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        SemiSpec.parse(given, source="recipe.yaml")


@pytest.mark.parametrize("method", METHODS)
def test_a_spec_survives_being_written_out_in_full(method: Any) -> None:
    spec = SemiSpec(method=method)
    assert SemiSpec.model_validate(spec.model_dump(mode="json")) == spec
    assert spec.full_weight == METHODS[method].weight


def test_a_real_student_with_exits_has_every_exit_taught(monkeypatch: Any) -> None:
    student = EarlyExitStudent(DSCNN(CLASSES, width=4), ExitSpec(after=(0, 1)))
    log_mel = np.random.default_rng(0).standard_normal((8, 51, 64)).astype(np.float32)
    big = WindowSet(log_mel, np.zeros(8, bool), np.eye(CLASSES, dtype=np.float32)[[0] * 8])
    loss = LossWeights(labels=1, logits=0, embedding=0, exit_labels=1, exit_final=1)
    module = module_of(TrainSpec(batch_size=4, loss=loss), student=student, windows=big, held_out=big)
    losses, _ = step_of(module, monkeypatch)
    assert list(losses) == ["labels", "exit_labels", "exit_final"]
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in student.exit_heads.parameters())


# Whole trainings -----------------------------------------------------------------------------


class Killed(BaseException):
    """Not an Exception, as a signal is not."""


def trained(folder: Path, spec: TrainSpec, data: DistillData, seed: int = 0) -> nn.Module:
    torch.seed()  # the world's random state must not matter
    return train_student(
        BandStudent(seed), data, spec, kind="single_label", frontend=FrontendSpec(), seed=seed, folder=folder
    )


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_a_killed_run_ends_with_the_bits_of_an_unbroken_one(method: str, tmp_path: Path, monkeypatch: Any) -> None:
    loss = LossWeights(labels=1, logits=0, embedding=0.5, exit_final=1)
    spec = spec_of(method, loss).model_copy(update={"checkpoint_every_steps": 4})
    data = DistillData(windows(12, teacher=True), windows(8, teacher=True), windows(20, teacher=True, target=False))
    unbroken = trained(tmp_path / "unbroken", spec, data).state_dict()
    whole_step = DistillModule.training_step

    def step(self: DistillModule, batch: Any, index: int) -> torch.Tensor:
        if self.global_step == 6:
            raise Killed
        return whole_step(self, batch, index)

    monkeypatch.setattr(DistillModule, "training_step", step)
    with pytest.raises(Killed):
        trained(tmp_path / "killed", spec, data)
    monkeypatch.setattr(DistillModule, "training_step", whole_step)
    resumed = trained(tmp_path / "killed", spec, data).state_dict()
    assert all(torch.equal(value, resumed[name]) for name, value in unbroken.items())
    other = trained(tmp_path / "other", spec, data, seed=1).state_dict()
    assert not torch.equal(other["head.weight"], unbroken["head.weight"])


def test_running_shares_travel_in_the_checkpoint() -> None:
    first, second = module_of(spec_of("remixmatch")), module_of(spec_of("remixmatch"))
    first.semi.shares.follow(torch.tensor([[0.9, 0.05, 0.05]]))
    assert not torch.equal(first.semi.shares.guessed, second.semi.shares.guessed)
    second.load_state_dict(first.state_dict())
    assert torch.equal(first.semi.shares.guessed, second.semi.shares.guessed)
    assert not any(name.startswith("semi.") for name in module_of(TrainSpec(loss=LABELS)).state_dict())


def coloured(n: int, *, seed: int) -> WindowSet:
    """Classes are spectra; every window went through another filter, so that few labels say little of a class."""
    spectra = np.random.default_rng(1).standard_normal((CLASSES, N_MELS)) * 0.6
    rng = np.random.default_rng(seed)
    label = np.arange(n) % CLASSES
    curves = np.stack([np.interp(np.linspace(0, 4, N_MELS), range(5), knots) for knots in rng.standard_normal((n, 5))])
    own = spectra[label] + curves + 0.3 * rng.standard_normal((n, N_MELS))
    log_mel = 0.35 * (own[:, None] + 0.5 * rng.standard_normal((n, FRAMES, N_MELS)))
    return WindowSet(log_mel.astype(np.float32), np.zeros(n, bool), np.eye(CLASSES, dtype=np.float32)[label])


def accuracy_with(method: Any, folder: Path) -> float:
    """On 600 windows, from 4 labels per class and 600 windows without."""
    soft = FeatureAugmentSpec(gain_db=1, filter_db=1, frequency_mask=0, time_mask=0)
    hard = FeatureAugmentSpec(gain_db=6, filter_db=12, frequency_mask=2, time_mask=2)
    # MixMatch has no strong view: what it learns from is between the windows.
    views = {"weak": soft} | ({} if method in (None, "mixmatch") else {"strong": hard})
    spec = TrainSpec(
        windows_seen=120 * 48,
        batch_size=48,
        unlabelled_share=0.75,
        learning_rate=1e-2,
        ema_decay=0.95,
        augment=soft,
        loss=LABELS,
        semi=None if method is None else SemiSpec(method=method, **views),
    )
    data = DistillData(coloured(4 * CLASSES, seed=100), coloured(32, seed=5), coloured(600, seed=6))
    student, held_out = trained(folder, spec, data), coloured(600, seed=7)
    probs = class_probs(student, torch.from_numpy(held_out.log_mel), "single_label")
    return float((probs.argmax(dim=1).numpy() == held_out.target.argmax(axis=1)).mean())


@pytest.mark.slow
def test_with_four_labels_per_class_no_method_harms_and_fixmatch_helps(tmp_path: Path) -> None:
    labels_only = accuracy_with(None, tmp_path / "labels")
    assert labels_only < 0.95, "the task leaves nothing to gain"
    reached = {method: accuracy_with(method, tmp_path / method) for method in METHODS}
    assert min(reached.values()) > labels_only - 0.05, (labels_only, reached)
    assert reached["fixmatch"] > labels_only + 0.05, (labels_only, reached)
