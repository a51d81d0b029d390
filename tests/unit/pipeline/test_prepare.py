"""From a recipe's data section to clips: what is left out, and what may not leak into training."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from edgeaudio.errors import DataError
from edgeaudio.pipeline.prepare import Context, prepare
from edgeaudio.pipeline.recipe import Recipe
from edgeaudio.pipeline.workdir import WorkDir

RATE = 16_000


@pytest.fixture
def work(tmp_path: Path) -> Iterator[WorkDir]:
    with WorkDir(tmp_path / "work") as work:
        yield work


@pytest.fixture
def sounds(tmp_path: Path) -> Path:
    """Two classes of five clips, and a folder of ten unlabelled ones."""
    rng = np.random.default_rng(0)
    for folder, n_files in (("labelled/a", 5), ("labelled/b", 5), ("pool", 10)):
        (tmp_path / folder).mkdir(parents=True)
        for number in range(n_files):
            soundfile.write(tmp_path / folder / f"{number}.wav", 0.1 * rng.standard_normal(1_600), RATE)
    return tmp_path


def context(work: WorkDir, sounds: Path, **data: Any) -> Context:
    fields = {"kind": "folder", "root": str(sounds / "labelled"), "unlabelled": str(sounds / "pool"), **data}
    recipe = Recipe.parse({"name": "x", "data": fields}, source="recipe")
    return Context(recipe, work, lambda *_: None)


def test_files_lost_from_the_labelled_clips_are_not_held_against_the_unlabelled(work: WorkDir, sounds: Path) -> None:
    (sounds / "labelled/a/broken.wav").write_bytes(b"RIFF")
    for number in range(5, 10):
        (sounds / f"pool/{number}.wav").unlink()
    prepared = prepare(context(work, sounds, max_skipped=0.1), RATE)
    assert [Path(item.path).name for item in prepared.skipped] == ["broken.wav"]
    assert prepared.unlabelled is not None
    assert len(prepared.unlabelled.clips) == 5


def test_copies_of_labelled_clips_are_left_out_of_the_unlabelled(
    work: WorkDir, sounds: Path, caplog: pytest.LogCaptureFixture
) -> None:
    shutil.copy(sounds / "labelled/b/3.wav", sounds / "pool/another-name.wav")
    with caplog.at_level(logging.WARNING):
        prepared = prepare(context(work, sounds), RATE)
    assert prepared.unlabelled is not None
    assert sorted(clip.path.stem for clip in prepared.unlabelled.clips) == [str(number) for number in range(10)]
    assert "1 files are labelled clips too and are left out" in caplog.text


def test_an_unlabelled_folder_of_labelled_clips_only_is_refused(work: WorkDir, sounds: Path) -> None:
    with pytest.raises(DataError, match=r"data\.unlabelled: all 10 files are labelled clips too"):
        prepare(context(work, sounds, unlabelled=str(sounds / "labelled")), RATE)


def test_a_test_clip_that_is_also_a_training_clip_is_warned_of(
    work: WorkDir, sounds: Path, caplog: pytest.LogCaptureFixture
) -> None:
    shutil.copy(sounds / "labelled/a/0.wav", sounds / "labelled/a/copy.wav")
    table = sounds / "clips.csv"
    rows = [f"{label}/{number}.wav,{label},{1 + number % 2}" for label in "ab" for number in range(5)]
    table.write_text("\n".join(["file,label,fold", *rows, "a/copy.wav,a,2"]))
    with caplog.at_level(logging.WARNING):
        prepare(context(work, sounds, kind="csv", csv=str(table), test_folds=[1]), RATE)
    assert "fold 1: 1 of 6 test clips are training clips too" in caplog.text


@pytest.mark.parametrize("field", ["root", "unlabelled"])
def test_a_missing_folder_is_named_by_its_field(field: str, work: WorkDir, sounds: Path) -> None:
    with pytest.raises(DataError, match=rf"data\.{field}: there is no folder '.*nowhere'.*--set data\.{field}=FOLDER"):
        prepare(context(work, sounds, **{field: str(sounds / "nowhere")}), RATE)


def test_folds_beside_splits_are_refused(work: WorkDir, sounds: Path) -> None:
    rows = [f"{label}/{n}.wav,{label},{n % 2 + 1},{'test' if n == 0 else 'train'}" for label in "ab" for n in range(5)]
    table = sounds / "table.csv"
    table.write_text("file,label,fold,split\n" + "\n".join(rows) + "\n")
    with pytest.raises(DataError, match="folds and splits"):
        prepare(context(work, sounds, kind="csv", csv=str(table)), RATE)
