"""`Clip` and `Dataset`: what was recorded, what it is called, and which fold it belongs to. No audio in memory."""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from edgeaudio.errors import AudioFileError, ConfigError, DataError
from edgeaudio.spec import TaskSpec, digest_json
from edgeaudio.spec.fs import sha256_file


@dataclass(frozen=True)
class Clip:
    """A recording. `labels` are positions in the task's label set; none for an unlabelled clip.

    `id` is unique in its dataset and does not depend on where the dataset lies.
    """

    id: str
    path: Path
    labels: tuple[int, ...]
    fold: int | None = None
    split: str | None = None


@dataclass(frozen=True)
class Skipped:
    """A file that was left out, with the reason (a slug, a colon, the message)."""

    path: str
    reason: str


@dataclass(frozen=True)
class Dataset:
    """Clips under `root` with the task that their labels belong to and the licence that covers them."""

    name: str
    task: TaskSpec
    clips: tuple[Clip, ...]
    licence: str
    root: Path

    def __post_init__(self) -> None:
        if not self.clips:
            raise DataError(f"dataset {self.name!r}: no clips under {self.root}")
        twice = [clip_id for clip_id, count in Counter(clip.id for clip in self.clips).items() if count > 1]
        if twice:
            raise DataError(f"dataset {self.name!r}: clip ids must be unique, twice: {twice[:5]}")

    def digest(self) -> str:
        """SHA-256 (hex) over the task and every clip's id, file content, label names, fold and split.

        Neither the order of clips nor the place of `root` matters. Reads every file once per process.

        Raises:
            AudioFileError: a file cannot be read.
        """
        names = self.task.labels.names
        rows = sorted(
            [clip.id, clip_digest(clip), sorted(names[i] for i in clip.labels), clip.fold, clip.split]
            for clip in self.clips
        )
        return digest_json({"task": self.task.model_dump(mode="json"), "clips": rows})

    def folds(self) -> tuple[int, ...]:
        """The folds that occur, ascending; empty when there are none."""
        return tuple(sorted({clip.fold for clip in self.clips if clip.fold is not None}))


@functools.lru_cache(maxsize=1 << 17)
def _file_digest(path: Path, size_bytes: int, modified_ns: int) -> str:
    # Size and time are in the key so that a file that changed under us is read again.
    return sha256_file(path)


def clip_digest(clip: Clip) -> str:
    """SHA-256 (hex) of the clip's file, remembered while size and time of the file stay.

    Raises:
        AudioFileError: the file cannot be read.
    """
    try:
        status = clip.path.stat()
        return _file_digest(clip.path, status.st_size, status.st_mtime_ns)
    except OSError as error:
        raise AudioFileError(f"{clip.path}: cannot be read: {error.strerror}", reason="missing") from error


def assign_folds(dataset: Dataset, k: int, seed: int) -> Dataset:
    """The dataset with folds 1 to `k`, stratified by label, the same for the same seed and clips.

    Clips with identical files share a fold, so that no test clip was trained on. (Takes of one
    recording cannot be recognised: give such a dataset its folds in a CSV.)

    Raises:
        ConfigError: `k` below 2, or the dataset has folds already.
        DataError: a class has fewer than `k` different clips.
    """
    if k < 2:
        raise ConfigError(f"k is {k}, wanted at least 2 folds")
    if dataset.folds():
        raise ConfigError(f"dataset {dataset.name!r} has folds {dataset.folds()} already")
    strata: dict[tuple[int, ...], dict[str, list[Clip]]] = {}
    seen: dict[str, tuple[int, ...]] = {}
    for clip in sorted(dataset.clips, key=lambda clip: clip.id):
        digest = clip_digest(clip)
        stratum = seen.setdefault(digest, clip.labels)
        strata.setdefault(stratum, {}).setdefault(digest, []).append(clip)
    rng = np.random.default_rng(seed)
    fold_of: dict[str, int] = {}
    sizes = dict.fromkeys(range(1, k + 1), 0)
    for stratum, groups in sorted(strata.items()):
        if dataset.task.kind == "single_label" and stratum and len(groups) < k:
            name = dataset.task.labels.names[stratum[0]]
            raise DataError(f"class {name!r} has {len(groups)} different clips, {k} folds need at least {k}")
        _deal(list(groups.values()), rng, sizes, fold_of)
    clips = tuple(replace(clip, fold=fold_of[clip.id]) for clip in dataset.clips)
    return replace(dataset, clips=clips)


def _deal(groups: list[list[Clip]], rng: np.random.Generator, sizes: dict[int, int], fold_of: dict[str, int]) -> None:
    """Give each group of one stratum to the fold that has fewest of the stratum, then fewest of all."""
    mine = dict.fromkeys(sizes, 0)
    for i in rng.permutation(len(groups)):
        fold = min(sizes, key=lambda fold: (mine[fold], sizes[fold], fold))
        for clip in groups[i]:
            fold_of[clip.id] = fold
        mine[fold] += len(groups[i])
        sizes[fold] += len(groups[i])


def label_counts(clips: Iterable[Clip], task: TaskSpec) -> dict[str, int]:
    """Clips per label name, every label of the task included."""
    counts = Counter(label for clip in clips for label in clip.labels)
    return {name: counts[i] for i, name in enumerate(task.labels.names)}
