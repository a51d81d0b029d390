"""Which files of a folder are labelled how; on a device too, so without the loaders of training."""

from __future__ import annotations

import csv
import itertools
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np

from edgeaudio.errors import DataError

_AUDIO = {".wav", ".flac", ".ogg", ".mp3"}


def labelled_files(root: Path) -> dict[str, list[Path]]:
    """Label -> files, of a folder in ESC-50's layout or with a folder for each class.

    Raises:
        DataError: no labelled audio there, or a table that names files which are not.
    """
    by_label: dict[str, list[Path]] = {}
    for path, label in _labelled(root):
        by_label.setdefault(label, []).append(path)
    if not by_label:
        raise DataError(f"{root}: no labelled audio; wanted meta/esc50.csv with audio/, or a folder for each class")
    return by_label


def balanced(by_label: Mapping[str, list[Path]], rng: np.random.Generator) -> list[tuple[str, Path]]:
    """All clips in chance order, the classes taking turns."""
    columns = []
    for label, paths in sorted(by_label.items()):
        ordered = sorted(paths)
        columns.append([(label, ordered[index]) for index in rng.permutation(len(ordered))])
    turns = itertools.chain.from_iterable(itertools.zip_longest(*columns))
    return [item for item in turns if item is not None]


def _labelled(root: Path) -> Iterator[tuple[Path, str]]:
    table = root / "meta" / "esc50.csv"
    if table.is_file():
        yield from _listed(root, table)
        return
    folders = sorted(folder for folder in root.iterdir() if folder.is_dir()) if root.is_dir() else []
    for folder in folders:
        for path in sorted(folder.rglob("*")):
            if path.suffix.lower() in _AUDIO and path.is_file() and not path.name.startswith("."):
                yield path, folder.name


def _listed(root: Path, table: Path) -> Iterator[tuple[Path, str]]:
    try:
        with table.open(encoding="utf-8-sig", newline="") as stream:
            rows = [(row["filename"], row["category"]) for row in csv.DictReader(stream)]
    except (OSError, UnicodeDecodeError, csv.Error, KeyError) as error:
        raise DataError(f"{table}: wanted a CSV with the columns filename and category ({error!s:.200})") from error
    for name, label in rows:
        # A plain name: a table must not lead out of its folder.
        if not name or Path(name).name != name or not (root / "audio" / name).is_file():
            raise DataError(f"{table}: there is no file {name!r:.200} in {root / 'audio'}")
        yield root / "audio" / name, label
