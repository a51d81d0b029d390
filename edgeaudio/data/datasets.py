"""The door to the data room: load any kind of dataset by name, and everything one does with it."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from edgeaudio.data.clips import Clip, Dataset, Skipped, assign_folds, clip_digest, label_counts
from edgeaudio.data.decode_cache import DecodeCache, check_skipped
from edgeaudio.data.inspection import inspect_dataset
from edgeaudio.data.loaders import UNLABELLED_TASK, load_csv, load_esc50, load_folder, load_unlabelled
from edgeaudio.data.synth import SYNTH_LICENCE
from edgeaudio.errors import ConfigError, closest_match_hint

__all__ = [
    "KINDS",
    "UNLABELLED_TASK",
    "Clip",
    "Dataset",
    "DecodeCache",
    "Skipped",
    "assign_folds",
    "check_skipped",
    "clip_digest",
    "inspect_dataset",
    "label_counts",
    "load_csv",
    "load_dataset",
    "load_esc50",
    "load_folder",
    "load_unlabelled",
]


def _csv(root: Path, *, csv_path: str | Path, licence: str = "unknown") -> Dataset:
    return load_csv(Path(csv_path), root, licence=licence)


def _esc10(root: Path) -> Dataset:
    return load_esc50(root, esc10=True)


def _synth(root: Path) -> Dataset:
    return replace(load_esc50(root), name="synth", licence=SYNTH_LICENCE)


KINDS: dict[str, Callable[..., Dataset]] = {
    "csv": _csv,
    "esc10": _esc10,
    "esc50": load_esc50,
    "folder": load_folder,
    "synth": _synth,
    "unlabelled": load_unlabelled,
}


def load_dataset(kind: str, root: Path, **options: Any) -> Dataset:
    """Load the dataset at `root`; `options` are those of the kind's loader, such as `csv_path` for `csv`.

    Raises:
        ConfigError: unknown kind or option, with the closest match, or a missing option.
        DataError: the dataset is not what the kind says.
    """
    if kind not in KINDS:
        raise ConfigError(f"dataset kind {kind!r} is not known. {closest_match_hint(kind, KINDS)}")
    parameters = dict(inspect.signature(KINDS[kind]).parameters)
    del parameters["root"]
    for name in options:
        if name not in parameters:
            known = closest_match_hint(name, parameters) if parameters else "It takes none."
            raise ConfigError(f"dataset kind {kind!r} has no option {name!r}. {known}")
    for name, parameter in parameters.items():
        if parameter.default is parameter.empty and name not in options:
            raise ConfigError(f"dataset kind {kind!r} needs the option {name!r}")
    return KINDS[kind](root, **options)
