"""A dataset's digest is its content, and folds are fair, stable and leak nothing."""

from __future__ import annotations

import shutil
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeaudio.data.datasets import Clip, Dataset, assign_folds, clip_digest, load_dataset
from edgeaudio.errors import AudioFileError, ConfigError, DataError
from edgeaudio.spec import LabelSet, TaskSpec

TASK = TaskSpec(labels=LabelSet(names=("cat", "dog")))


def make(root: Path, contents: dict[str, tuple[int, bytes]]) -> Dataset:
    """Clips by id: (label, file content)."""
    clips = []
    for name, (label, data) in contents.items():
        (root / name).write_bytes(data)
        clips.append(Clip(name, root / name, (label,)))
    return Dataset("test", TASK, tuple(clips), "CC0", root)


def many(root: Path, per_class: int) -> Dataset:
    return make(root, {f"{label}-{i}": (label, f"{label} {i}".encode()) for label in (0, 1) for i in range(per_class)})


def test_digest_ignores_order_and_place(tmp_path: Path) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    here.mkdir()
    dataset = many(here, 3)
    shutil.copytree(here, there)
    moved = tuple(replace(clip, path=there / clip.id) for clip in reversed(dataset.clips))
    assert replace(dataset, clips=moved, root=there).digest() == dataset.digest()


def test_digest_sees_every_change(tmp_path: Path) -> None:
    dataset = many(tmp_path, 2)
    first, *rest = dataset.clips
    digests = [dataset.digest()]
    for change in (
        replace(first, id="new"),
        replace(first, labels=(1,)),
        replace(first, fold=1),
        replace(first, split="test"),
    ):
        digests.append(replace(dataset, clips=(change, *rest)).digest())
    digests.append(replace(dataset, clips=tuple(rest)).digest())
    digests.append(replace(dataset, task=TaskSpec(labels=LabelSet(names=("dog", "cat")))).digest())
    first.path.write_bytes(b"another sound")
    digests.append(dataset.digest())
    assert len(set(digests)) == len(digests)


def test_same_id_twice_is_refused(tmp_path: Path) -> None:
    dataset = many(tmp_path, 2)
    with pytest.raises(DataError, match="twice"):
        replace(dataset, clips=(dataset.clips[0], *dataset.clips))


def test_unreadable_file_has_no_digest(tmp_path: Path) -> None:
    with pytest.raises(AudioFileError, match="gone"):
        clip_digest(Clip("gone", tmp_path / "gone", ()))


@settings(max_examples=20, deadline=None)
@given(per_class=st.integers(5, 23), k=st.integers(2, 5), seed=st.integers(0, 2**32))
def test_folds_are_stratified_and_even(
    tmp_path_factory: pytest.TempPathFactory, per_class: int, k: int, seed: int
) -> None:
    dataset = assign_folds(many(tmp_path_factory.mktemp("folds"), per_class), k, seed)
    assert dataset.folds() == tuple(range(1, k + 1))
    for label in (0, 1):
        counts = Counter(clip.fold for clip in dataset.clips if clip.labels == (label,))
        assert max(counts.values()) - min(counts.values()) <= 1
    totals = Counter(clip.fold for clip in dataset.clips)
    assert max(totals.values()) - min(totals.values()) <= 1


def test_folds_depend_on_seed_and_clips_but_not_on_their_order(tmp_path: Path) -> None:
    dataset = many(tmp_path, 20)
    folds = {clip.id: clip.fold for clip in assign_folds(dataset, 5, 1).clips}
    backwards = replace(dataset, clips=tuple(reversed(dataset.clips)))
    assert {clip.id: clip.fold for clip in assign_folds(backwards, 5, 1).clips} == folds
    assert {clip.id: clip.fold for clip in assign_folds(dataset, 5, 2).clips} != folds


def test_identical_files_share_a_fold(tmp_path: Path) -> None:
    contents = {f"{i}": (i % 2, f"{i}".encode()) for i in range(20)}
    contents |= {f"copy-{i}": (i % 2, f"{i}".encode()) for i in range(20)}
    fold_of = {clip.id: clip.fold for clip in assign_folds(make(tmp_path, contents), 5, 0).clips}
    assert all(fold_of[f"copy-{i}"] == fold_of[f"{i}"] for i in range(20))


def test_folds_that_cannot_be_are_refused(tmp_path: Path) -> None:
    dataset = many(tmp_path, 3)
    with pytest.raises(ConfigError, match="at least 2"):
        assign_folds(dataset, 1, 0)
    with pytest.raises(DataError, match=r"class 'cat' has 3 different clips, 4 folds"):
        assign_folds(dataset, 4, 0)
    with pytest.raises(ConfigError, match="already"):
        assign_folds(assign_folds(dataset, 2, 0), 2, 0)


def test_unlabelled_clips_can_have_folds(tmp_path: Path) -> None:
    for i in range(4):
        (tmp_path / f"{i}.wav").write_bytes(bytes([i]))
    assert assign_folds(load_dataset("unlabelled", tmp_path), 2, 0).folds() == (1, 2)
