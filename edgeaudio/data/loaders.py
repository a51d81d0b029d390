"""From a folder or a CSV to a `Dataset`. Reads names and tables, never audio; nothing may lie outside the root."""

from __future__ import annotations

import csv
import difflib
import logging
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from edgeaudio.data.clips import Clip, Dataset
from edgeaudio.errors import DataError, closest_match_hint
from edgeaudio.spec import LabelSet, TaskSpec

logger = logging.getLogger(__name__)

AUDIO_SUFFIXES = frozenset(
    (".wav", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".aif", ".aiff", ".aifc", ".caf", ".au", ".w64")
)
SPLITS = {"train": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}

# A task needs a label set; unlabelled audio gets one that no clip carries.
UNLABELLED_TASK = TaskSpec(kind="multi_label", labels=LabelSet(names=("unlabelled",)))


def load_esc50(root: Path, *, esc10: bool = False) -> Dataset:
    """ESC-50 in its canonical layout: `audio/` and `meta/esc50.csv`.

    With `esc10` only the rows flagged so. A row names a file; where it is absent, the one file in
    `audio/` with the same stem and another audio suffix stands for it (the data circulates as
    `.wav` and as `.ogg`).

    Raises:
        DataError: the layout or a cell is wrong, or files are missing; names file, line and column.
    """
    required = ("filename", "fold", "target", "category", *(("esc10",) if esc10 else ()))
    table = _Table.read(root / "meta" / "esc50.csv", required=required)
    rows = [row for row in table.rows if not esc10 or row.cell("esc10").lower() == "true"]
    if not rows:
        raise DataError(f"{table.path}: column 'esc10' is True in no row. Load it as 'esc50'.")
    categories: dict[int, str] = {}
    for row in rows:
        target, category = row.integer("target"), row.cell("category")
        if categories.setdefault(target, category) != category:
            raise row.error("category", f"target {target} is {categories[target]!r} in an earlier line")
    task = _task("single_label", [name for _, name in sorted(categories.items())], table.path)
    position = {target: i for i, target in enumerate(sorted(categories))}
    by_stem: dict[str, list[str]] = {}
    for path in audio_files(root / "audio"):
        by_stem.setdefault(path.stem, []).append(path.name)
    clips, missing = [], []
    for row in rows:
        name = row.cell("filename")
        found = _same_recording(row, name, by_stem.get(Path(name).stem, []))
        if found is None:
            missing.append(name)
            continue
        path = inside(root / "audio", found, where=row.where("filename"))
        clips.append(Clip(Path(name).stem, path, (position[row.integer("target")],), row.integer("fold")))
    _refuse_missing(table.path, missing, len(rows), root / "audio")
    name, licence = ("esc10", "CC BY 3.0") if esc10 else ("esc50", "CC BY-NC 3.0")
    return Dataset(name, task, tuple(clips), licence, root)


def load_folder(root: Path, *, licence: str = "unknown") -> Dataset:
    """A folder per class, its name the label; optionally below `train/`, `val/` and `test/`.

    Files may lie deeper; hidden ones and those without an audio suffix are passed over.

    Raises:
        DataError: no classes, a class without audio, or splits and classes side by side.
    """
    folders = _subfolders(root, root)
    splits = {folder for folder in folders if folder.name in SPLITS}
    if splits and splits != set(folders):
        raise DataError(
            f"{root}: has the splits {sorted(f.name for f in splits)} and other folders beside them "
            f"({sorted(f.name for f in set(folders) - splits)[:5]}). Use either splits or classes at the top."
        )
    classes: list[tuple[str | None, Path]] = [(None, folder) for folder in folders]
    if splits:
        classes = [(SPLITS[folder.name], inner) for folder in folders for inner in _subfolders(root, folder)]
    if not classes:
        raise DataError(f"{root}: no class folders. Wanted {root.name}/CLASS/*.wav or {root.name}/train/CLASS/*.wav")
    names = sorted({folder.name for _, folder in classes})
    clips: list[Clip] = []
    for split, folder in classes:
        files = list(audio_files(folder))
        if not files:
            raise DataError(f"{folder}: a class folder without audio files ({', '.join(sorted(AUDIO_SUFFIXES))})")
        label = (names.index(folder.name),)
        clips += [_clip_at(root, path, label, split=split) for path in files]
    return Dataset(root.name, _task("single_label", names, root), tuple(clips), licence, root)


def load_csv(csv_path: Path, root: Path, *, licence: str = "unknown") -> Dataset:
    """A CSV with columns `file` (relative to `root`) and `label` or `labels`, optionally `fold` and `split`.

    `labels` are separated by `;` (none is allowed) and make a multi-label task. Other columns are
    passed over unless they look like a misspelt one of these.

    Raises:
        DataError: names the CSV, line and column.
    """
    table = _Table.read(csv_path, required=("file",), optional=("label", "labels", "fold", "split"))
    if ("label" in table.columns) == ("labels" in table.columns):
        raise DataError(
            f"{csv_path}:1: wanted one of the columns 'label' and 'labels', has {', '.join(table.columns)}. "
            f"{closest_match_hint('label', table.columns)}"
        )
    many = "labels" in table.columns
    rows_labels = [row.labels() if many else (row.cell("label"),) for row in table.rows]
    names = sorted({label for labels in rows_labels for label in labels})
    clips, missing, seen = [], [], dict[Path, int]()
    for row, labels in zip(table.rows, rows_labels, strict=True):
        path = inside(root, row.cell("file"), where=row.where("file"))
        if path in seen:
            raise row.error("file", f"is in line {seen[path]} already")
        seen[path] = row.line
        if not os.path.isfile(path):
            missing.append(row.cell("file"))
            continue
        fold = row.integer("fold") if "fold" in table.columns else None
        split = row.split() if "split" in table.columns else None
        clips.append(_clip_at(root, path, tuple(names.index(label) for label in labels), fold=fold, split=split))
    _refuse_missing(csv_path, missing, len(table.rows), root)
    kind: Literal["multi_label", "single_label"] = "multi_label" if many else "single_label"
    return Dataset(csv_path.stem, _task(kind, names, csv_path), tuple(clips), licence, root)


def load_unlabelled(root: Path, *, licence: str = "unknown") -> Dataset:
    """All audio under `root`; clips have no labels and the task is `UNLABELLED_TASK`.

    Raises:
        DataError: no audio there.
    """
    clips = tuple(_clip_at(root, path, ()) for path in audio_files(root))
    return Dataset(root.name, UNLABELLED_TASK, clips, licence, root)


def audio_files(folder: Path) -> Iterator[Path]:
    """Audio files at any depth, sorted, without hidden ones; links to folders are not followed.

    Raises:
        DataError: no such folder, or a link leads out of it.
    """
    if not folder.is_dir():
        raise DataError(f"{folder}: there is no such folder")
    for parent, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(names):
            if not name.startswith(".") and Path(name).suffix.lower() in AUDIO_SUFFIXES:
                path = Path(parent, name)
                yield inside(folder, str(path.relative_to(folder)), where=str(path))


def inside(root: Path, name: str, *, where: str) -> Path:
    """`root / name`, when it stays below `root` with all links resolved.

    Raises:
        DataError: it does not, or is no possible UTF-8 file name; `where` leads the message.
    """
    if "\0" in name or not _is_utf8(name):
        raise DataError(f"{where}: {name!r} is not a UTF-8 file name. Rename the file.")
    path = root / name
    try:
        stays = not Path(name).is_absolute() and path.resolve().is_relative_to(root.resolve())
    except (OSError, RuntimeError) as error:  # A ring of links is a RuntimeError before Python 3.13.
        raise DataError(f"{where}: {name!r} cannot be resolved: {error}") from error
    if not stays:
        raise DataError(f"{where}: {name!r} leads out of {root}. Copy the file into that folder.")
    return path


def _is_utf8(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


@dataclass(frozen=True)
class _Row:
    table: Path
    line: int
    cells: dict[str, str]

    def where(self, column: str) -> str:
        return f"{self.table}:{self.line}: column {column!r}"

    def error(self, column: str, problem: str) -> DataError:
        return DataError(f"{self.where(column)}: {self.cells[column]!r} {problem}")

    def cell(self, column: str) -> str:
        value = self.cells[column].strip()
        if not value:
            raise self.error(column, "is empty")
        return value

    def integer(self, column: str) -> int:
        value = self.cell(column)
        if not value.isascii() or not value.isdigit() or len(value) > 9:
            raise self.error(column, "is not a whole number")
        return int(value)

    def labels(self) -> tuple[str, ...]:
        labels = tuple(part.strip() for part in self.cells["labels"].split(";") if part.strip())
        if len(set(labels)) != len(labels):
            raise self.error("labels", "names a label twice")
        return labels

    def split(self) -> str:
        value = self.cell("split")
        if value not in SPLITS:
            raise self.error("split", f"is not a split. {closest_match_hint(value, SPLITS)}")
        return SPLITS[value]


@dataclass(frozen=True)
class _Table:
    path: Path
    columns: tuple[str, ...]
    rows: tuple[_Row, ...]

    @classmethod
    def read(cls, path: Path, *, required: tuple[str, ...], optional: tuple[str, ...] = ()) -> _Table:
        try:
            # utf-8-sig: spreadsheets put a byte order mark in front of the first column's name.
            with path.open(encoding="utf-8-sig", newline="") as stream:
                lines = csv.reader(stream, strict=True)
                columns = tuple(name.strip() for name in next(lines, []))
                _check_columns(path, columns, required, optional)
                rows = tuple(_row(path, lines.line_num, columns, cells) for cells in lines if cells)
        except OSError as error:
            raise DataError(f"{path}: cannot be read: {error.strerror}") from error
        except (UnicodeDecodeError, csv.Error) as error:
            raise DataError(f"{path}: is not a UTF-8 CSV file: {error}") from error
        if not rows:
            raise DataError(f"{path}: has a header but no rows")
        return cls(path, columns, rows)


def _row(path: Path, line: int, columns: tuple[str, ...], cells: list[str]) -> _Row:
    if len(cells) != len(columns):
        raise DataError(f"{path}:{line}: has {len(cells)} cells, the header has {len(columns)}")
    return _Row(path, line, dict(zip(columns, cells, strict=True)))


def _check_columns(path: Path, columns: tuple[str, ...], required: tuple[str, ...], optional: tuple[str, ...]) -> None:
    if len(set(columns)) != len(columns):
        raise DataError(f"{path}:1: a column is named twice: {', '.join(columns)}")
    for name in required:
        if name not in columns:
            raise DataError(f"{path}:1: no column {name!r}. {closest_match_hint(name, columns)}")
    known = (*required, *optional)
    for name in columns:
        near = difflib.get_close_matches(name.lower(), known, n=1, cutoff=0.75)
        if optional and name not in known and near and near[0] not in columns:
            raise DataError(f"{path}:1: column {name!r} is not known. Did you mean {near[0]!r}?")


def _same_recording(row: _Row, name: str, candidates: list[str]) -> str | None:
    if Path(name).name != name:
        raise row.error("filename", "is not a plain file name")
    if name in candidates or not candidates:
        return name if candidates else None
    if len(candidates) > 1:
        raise row.error("filename", f"is absent and several files could stand for it: {', '.join(candidates)}")
    return candidates[0]


def _refuse_missing(table: Path, missing: list[str], total: int, folder: Path) -> None:
    if missing:
        raise DataError(
            f"{table}: {len(missing)} of {total} files are not under {folder}, first: {', '.join(missing[:3])}. "
            "Fetch them or take their lines out."
        )


def _subfolders(root: Path, folder: Path) -> list[Path]:
    if not folder.is_dir():
        raise DataError(f"{folder}: there is no such folder")
    found = sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
    return [inside(root, str(path.relative_to(root)), where=str(path)) for path in found]


def _clip_at(
    root: Path, path: Path, labels: tuple[int, ...], *, fold: int | None = None, split: str | None = None
) -> Clip:
    return Clip(path.relative_to(root).as_posix(), path, labels, fold, split)


def _task(kind: Literal["single_label", "multi_label"], names: list[str], source: Path) -> TaskSpec:
    return TaskSpec.parse({"kind": kind, "labels": {"names": names}}, source=str(source))
