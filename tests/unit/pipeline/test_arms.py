"""The arms of a run: each lacks exactly its part, and all see as many windows."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from edgeaudio.data.clips import Clip, Dataset
from edgeaudio.errors import ConfigError
from edgeaudio.pipeline.arms import DISTILLED, LABELS_ONLY, ArmPlan, arm_plan, arms
from edgeaudio.pipeline.prepare import Prepared, _without_folds
from edgeaudio.pipeline.recipe import Recipe
from edgeaudio.pipeline.teaching import FoldTeacher
from edgeaudio.spec import LabelSet, TaskSpec

ABLATED = ("blocks", "embedding", "logits", "pool")
TASK = TaskSpec(labels=LabelSet(names=("dog", "rain")))


def recipe(**changes: object) -> Recipe:
    """An mn recipe with a pretraining and unlabelled sounds."""
    return Recipe.parse(
        {
            "name": "arms",
            "data": {"kind": "folder", "root": "sounds", "unlabelled": "pool"},
            "student": {"family": "mn", "blocks": 6, "frozen": 2},
            "pretrain": {
                "windows_seen": 1000,
                "loss": {"labels": 0, "logits": 0, "embedding": 1, "foundation_logits": 0.5},
            },
            "train": {"windows_seen": 4000, "unlabelled_share": 0.5, "loss": {"relational_distance": 2.0}},
            "ablate": ABLATED,
            **changes,
        },
        source="test",
    )


def seen(plan: ArmPlan) -> int:
    """Windows of both trainings."""
    return plan.train.windows_seen + (plan.pretrain.windows_seen if plan.pretrain else 0)


def test_arms_are_named_in_the_order_of_training():
    assert arms(recipe()) == (DISTILLED, LABELS_ONLY, *(f"without-{part}" for part in ABLATED))
    assert arms(recipe(control=False, ablate=())) == (DISTILLED,)


def test_every_arm_sees_as_many_windows_in_batches_of_one_size():
    plans = [arm_plan(recipe(), arm) for arm in arms(recipe())]
    assert {seen(plan) for plan in plans} == {5000}
    assert len({plan.train.batch_size for plan in plans}) == 1


def test_labels_only_has_nothing_of_the_teacher():
    plan = arm_plan(recipe(), LABELS_ONLY)
    assert not plan.taught
    assert not plan.starts_from_teacher
    assert plan.pretrain is None
    assert plan.train.unlabelled_share == 0
    assert plan.student.frozen == 0
    assert not plan.uses_teacher
    assert not plan.uses_unlabelled


def test_an_arm_says_what_it_owes_to_teacher_and_unlabelled_sounds():
    for part in ABLATED:
        plan = arm_plan(recipe(), f"without-{part}")
        assert plan.uses_teacher
        assert plan.uses_unlabelled == (part != "pool")


@pytest.mark.parametrize("changes", [{"keep_float": ["head"]}, {"max_drop": 0.01}, {"method": "qat"}])
def test_exits_are_refused_where_their_stages_would_be_quantised_otherwise(changes):
    with pytest.raises(ConfigError, match="exits: their stages"):
        recipe(exits={"after": [1]}, quantize=changes)


@pytest.mark.parametrize("changes", [{"initial": "random", "frozen": 1}, {"blocks": 3, "frozen": 4}])
def test_blocks_that_cannot_be_frozen_are_refused(changes):
    with pytest.raises(ConfigError, match="frozen"):
        recipe(student={"family": "mn", **changes})


def test_each_ablation_lacks_its_part_alone():
    full = arm_plan(recipe(), DISTILLED)
    blocks, embedding, logits, pool = (arm_plan(recipe(), f"without-{part}") for part in ABLATED)
    assert (blocks.starts_from_teacher, blocks.student.frozen, blocks.train) == (False, 0, full.train)
    assert blocks.pretrain == full.pretrain
    loss = embedding.train.loss
    assert (loss.embedding, loss.relational_distance, loss.logits) == (0, 0, full.train.loss.logits)
    assert embedding.pretrain is not None
    assert (embedding.pretrain.loss.embedding, embedding.pretrain.loss.foundation_logits) == (0, 0.5)
    assert (logits.train.loss.logits, logits.train.loss.labels) == (0, 1.0)
    assert logits.train.loss.embedding == full.train.loss.embedding
    assert (pool.pretrain, pool.train.unlabelled_share) == (None, 0)
    assert pool.train.loss == full.train.loss


def test_a_pretraining_that_loses_its_only_term_is_left_out():
    only = {"windows_seen": 1000, "loss": {"labels": 0, "logits": 0, "embedding": 1}}
    plan = arm_plan(recipe(pretrain=only), "without-embedding")
    assert plan.pretrain is None
    assert seen(plan) == 5000


def dataset() -> Dataset:
    """Six clips of each of two classes in three folds."""
    clips = [
        Clip(id=f"{label}-{number}", path=Path(f"{label}-{number}.wav"), labels=(label,), fold=number % 3 + 1)
        for label in (0, 1)
        for number in range(6)
    ]
    return Dataset(name="d", root=Path("d"), licence="x", task=TASK, clips=tuple(clips))


def prepared(few: int | None, seed: int = 0) -> Prepared:
    """That dataset with few labels."""
    return Prepared(dataset(), None, (), cache_folder=None, labels_per_class=few, seed=seed)  # type: ignore[arg-type]


def test_few_labels_leave_the_other_training_clips_unlabelled():
    some = prepared(1)
    used, rest = some.train_clips(1), some.rest_clips(1)
    assert sorted(clip.labels[0] for clip in used) == [0, 1]
    assert len(rest) == 6
    assert {clip.id for clip in used}.isdisjoint(clip.id for clip in rest)
    assert all(clip.fold != 1 for clip in (*used, *rest))
    assert prepared(1).train_clips(1) == used
    assert len({prepared(1, seed).train_clips(1) for seed in range(8)}) > 1
    assert not prepared(None).rest_clips(1)


def test_excluded_folds_are_gone_and_unknown_ones_refused():
    assert _without_folds(dataset(), (2,)).folds() == (1, 3)
    with pytest.raises(ConfigError, match=r"data.exclude_folds: no fold 9; there are \[1, 2, 3\]|\(1, 2, 3\)"):
        _without_folds(dataset(), (9,))
    with pytest.raises(ConfigError, match=r"fold 1 is in data\.test_folds too"):
        recipe(data={"kind": "folder", "root": "s", "unlabelled": "p", "test_folds": [1], "exclude_folds": [1]})


@pytest.mark.parametrize(("view", "first"), [("window", 3.0), ("clip", np.log(0.75)), ("both", (3 + np.log(0.75)) / 2)])
def test_the_teacher_hears_the_window_its_clips_or_both(view, first):
    teacher = FoldTeacher(None, TASK, None, None, view, 0)  # type: ignore[arg-type]
    fields = {
        "embedding": np.zeros((1, 4), np.float16),
        "foundation_logits": np.array([[3.0, 1.0]], np.float16),
        "source_clips": np.array([[0, 1, -1]], np.int32),
        "source_shares": np.array([[0.75, 0.25, 0.0]], np.float32),
    }
    certain = np.array([[50.0, 0.0], [0.0, 50.0]], np.float32)
    logits = teacher.task_logits(fields, certain)
    assert logits.dtype == np.float32
    assert logits[0, 0] == pytest.approx(first, abs=1e-4)
