"""From a recipe's data section to decoded clips, split into training and test."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from edgeaudio.data.datasets import (
    Clip,
    Dataset,
    DecodeCache,
    Skipped,
    assign_folds,
    check_skipped,
    clip_digest,
    load_dataset,
)
from edgeaudio.data.synth import write_synth
from edgeaudio.errors import AudioFileError, ConfigError, DataError
from edgeaudio.pipeline.recipe import DataSpec, Recipe
from edgeaudio.pipeline.workdir import WorkDir
from edgeaudio.spec import Spec

logger = logging.getLogger(__name__)

Progress = Callable[[str, int, int], None]


@dataclass
class Context:
    """What every stage gets: the recipe, its work directory, and where progress goes."""

    recipe: Recipe
    work: WorkDir
    progress: Progress
    progress_bar: bool = False


@dataclass(frozen=True)
class Prepared:
    """Decodable clips, and what was left out."""

    dataset: Dataset
    unlabelled: Dataset | None
    skipped: tuple[Skipped, ...]
    cache_folder: Path
    labels_per_class: int | None = None
    seed: int = 0

    def cache(self, sample_rate: int) -> DecodeCache:
        """Decoded clips at that rate."""
        return DecodeCache(self.cache_folder, sample_rate)

    def train_clips(self, test_fold: int) -> tuple[Clip, ...]:
        """Clips outside the test fold whose labels are used: all, or `labels_per_class` of each class."""
        outside = tuple(clip for clip in self.dataset.clips if clip.fold != test_fold)
        return outside if self.labels_per_class is None else self._few(outside, test_fold)

    def rest_clips(self, test_fold: int) -> tuple[Clip, ...]:
        """Clips outside the test fold whose labels are not used; they are heard as unlabelled sounds."""
        used = {clip.id for clip in self.train_clips(test_fold)}
        return tuple(clip for clip in self.dataset.clips if clip.fold != test_fold and clip.id not in used)

    def _few(self, clips: tuple[Clip, ...], test_fold: int) -> tuple[Clip, ...]:
        chosen: set[str] = set()
        for label in range(len(self.dataset.task.labels)):
            members = sorted(clip.id for clip in clips if clip.labels[0] == label)
            order = np.random.default_rng([self.seed, test_fold, label]).permutation(len(members))
            chosen |= {members[i] for i in order[: self.labels_per_class]}
        return tuple(clip for clip in clips if clip.id in chosen)

    def test_clips(self, test_fold: int) -> tuple[Clip, ...]:
        """Clips of the test fold, in order of their ids."""
        clips = sorted((clip for clip in self.dataset.clips if clip.fold == test_fold), key=lambda clip: clip.id)
        return tuple(clips)


class SynthInputs(Spec):
    """What decides the built-in dataset."""

    clips_per_class: int
    unlabelled: int
    seed: int


def prepare(context: Context, teacher_rate: int) -> Prepared:
    """Load the dataset and decode it at the teacher's rate, labelled clips at the student's rate too.

    Raises:
        DataError: too many unusable files, or a test fold without clips.
    """
    recipe = context.recipe
    dataset, unlabelled = _load(context)
    unlabelled = _without_labelled(unlabelled, dataset) if unlabelled and recipe.data.unlabelled else unlabelled
    dataset = _without_folds(dataset, recipe.data.exclude_folds)
    _warn_of_copies(dataset, recipe.data.test_folds)
    cache_folder = context.work.path / "cache" / "audio"
    skipped: list[Skipped] = []
    parts: list[Dataset] = []
    labelled_rates = sorted({teacher_rate, recipe.frontend.sample_rate})
    for part, rates in ((dataset, labelled_rates), (unlabelled, [teacher_rate])):
        if part is None:
            continue
        usable = part.clips
        lost: list[Skipped] = []
        for rate in rates:
            cache = DecodeCache(cache_folder, rate)
            title = f"decode {part.name} at {rate} Hz"
            kept, left_out = cache.prepare(usable, progress=functools.partial(context.progress, title))
            lost += left_out
            usable = tuple(kept)
        check_skipped(lost, len(part.clips), recipe.data.max_skipped)
        skipped += lost
        parts.append(replace(part, clips=usable))
    missing = set(recipe.data.test_folds) - set(parts[0].folds())
    if missing:
        raise ConfigError(f"data.test_folds: no clips in fold {sorted(missing)}; there are {list(parts[0].folds())}")
    if len(parts[0].folds()) < 2:
        raise DataError(f"dataset {dataset.name!r} has one fold only, so nothing is left to train on")
    few = recipe.data.labels_per_class
    if few is not None and dataset.task.kind != "single_label":
        raise ConfigError("data.labels_per_class is for single-label tasks; leave it out for this dataset")
    unlabelled_part = parts[1] if len(parts) > 1 else None
    return Prepared(parts[0], unlabelled_part, tuple(skipped), cache_folder, few, recipe.windows_seed)


def _load(context: Context) -> tuple[Dataset, Dataset | None]:
    """The labelled and the unlabelled dataset, folds assigned."""
    data = context.recipe.data
    if data.kind == "synth":
        root = _synth_root(context)
        dataset = load_dataset("synth", root)
        unlabelled = None
        if data.synth_unlabelled:
            unlabelled = load_dataset("unlabelled", root / "unlabelled", licence=dataset.licence)
        return dataset, unlabelled
    assert data.root is not None
    options = {"csv_path": data.csv} if data.kind == "csv" else {}
    dataset = load_dataset(data.kind, _folder(data.root, "data.root"), **options)
    if data.licence != "unknown":
        dataset = replace(dataset, licence=data.licence)
    if dataset.folds() and any(clip.split for clip in dataset.clips):
        raise DataError(
            f"dataset {dataset.name!r} has folds and splits; a run needs to know which of them holds the test clips. "
            f"Remove one of the two columns from {data.csv or data.root}."
        )
    if not dataset.folds():
        dataset = _folds_from_splits(dataset, data, context.recipe.seed)
    unlabelled = None
    if data.unlabelled:
        folder = _folder(data.unlabelled, "data.unlabelled")
        unlabelled = load_dataset("unlabelled", folder, licence=data.unlabelled_licence)
    return dataset, unlabelled


def _folder(name: str, field: str) -> Path:
    path = Path(name)
    if not path.is_dir():
        raise DataError(f"{field}: there is no folder {name!r}. Give the right one with --set {field}=FOLDER.")
    return path


def _without_folds(dataset: Dataset, excluded: tuple[int, ...]) -> Dataset:
    unknown = set(excluded) - set(dataset.folds())
    if unknown:
        raise ConfigError(f"data.exclude_folds: no fold {min(unknown)}; there are {list(dataset.folds())}")
    return replace(dataset, clips=tuple(clip for clip in dataset.clips if clip.fold not in excluded))


def _without_labelled(unlabelled: Dataset, dataset: Dataset) -> Dataset:
    """Without copies of labelled clips: through them a student would hear its test clips.

    Raises:
        DataError: nothing is left.
    """
    labelled = set(_digests(dataset.clips))
    digests = _digests(unlabelled.clips)
    clips = tuple(
        clip for clip, digest in zip(unlabelled.clips, digests, strict=True) if digest is None or digest not in labelled
    )
    n_copies = len(unlabelled.clips) - len(clips)
    if not n_copies:
        return unlabelled
    if not clips:
        raise DataError(f"data.unlabelled: all {n_copies} files are labelled clips too. Give a folder of other sounds.")
    logger.warning("data.unlabelled: %d files are labelled clips too and are left out", n_copies)
    return replace(unlabelled, clips=clips)


def _warn_of_copies(dataset: Dataset, test_folds: Iterable[int]) -> None:
    """Warn of test clips whose very file is also in another fold."""
    digests = _digests(dataset.clips)
    for fold in test_folds:
        train = {digest for clip, digest in zip(dataset.clips, digests, strict=True) if clip.fold != fold}
        test = [digest for clip, digest in zip(dataset.clips, digests, strict=True) if clip.fold == fold]
        copies = sum(digest is not None and digest in train for digest in test)
        if copies:
            logger.warning(
                "fold %d: %d of %d test clips are training clips too, byte for byte", fold, copies, len(test)
            )


def _digests(clips: Iterable[Clip]) -> list[str | None]:
    """Content digests; None for a file that cannot be read, which decoding will list with its reason."""
    digests: list[str | None] = []
    for clip in clips:
        try:
            digests.append(clip_digest(clip))
        except AudioFileError:
            digests.append(None)
    return digests


def _folds_from_splits(dataset: Dataset, data: DataSpec, seed: int) -> Dataset:
    """Test split as fold 1 and the rest as fold 2, or folds made at random where there is no split."""
    if any(clip.split == "test" for clip in dataset.clips):
        clips = tuple(replace(clip, fold=1 if clip.split == "test" else 2) for clip in dataset.clips)
        return replace(dataset, clips=clips)
    return assign_folds(dataset, data.assigned_folds, seed)


def _synth_root(context: Context) -> Path:
    data, seed = context.recipe.data, context.recipe.seed
    inputs = SynthInputs(clips_per_class=data.synth_clips_per_class, unlabelled=data.synth_unlabelled, seed=seed)

    def make(folder: Path) -> dict[str, int]:
        write_synth(
            folder,
            clips_per_class=inputs.clips_per_class,
            seed=seed,
            unlabelled=inputs.unlabelled,
            progress=lambda n, total: context.progress("synthesise sounds", n, total),
        )
        return inputs.model_dump()

    return context.work.run_stage("data", inputs.model_dump(mode="json"), make).folder
