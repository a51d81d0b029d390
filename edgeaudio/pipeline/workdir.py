"""A run is a work directory: every stage keeps its output in a folder named by its inputs' digest.

    <path>/.lock                          one writer at a time, with pid and host
    <path>/run.jsonl                      what was done, skipped or failed, and how long it took
    <path>/stages/<name>-<digest[:12]>/   a stage's files; done.json, written last, seals them

Running the same stage with the same inputs again does nothing; after a kill the stage function gets
the same folder again and goes on from what it finds there.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import logging
import os
import re
import shutil
import socket
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

from pydantic import ValidationError

from edgeaudio.errors import ConfigError, WorkDirError, closest_match_hint
from edgeaudio.spec import Spec, canonical_json, digest_json
from edgeaudio.spec.fs import atomic_write, sha256_file

logger = logging.getLogger(__name__)

DONE = "done.json"
_NAME = re.compile(r"[a-z][a-z0-9_]*(-[a-z0-9_]+)*")


class DoneRecord(Spec):
    """`done.json`: the inputs that were given, the JSON result, and the digest of every file."""

    schema_version: Literal[1] = 1
    stage: str
    inputs_digest: str
    inputs: Any
    outputs: dict[str, str]
    result: Any
    wall_s: float


@dataclass(frozen=True)
class StageResult:
    """What `WorkDir.run_stage` hands back. `outputs` maps relative paths to SHA-256 (hex)."""

    name: str
    digest: str
    folder: Path
    outputs: dict[str, str]
    result: Any
    wall_s: float
    skipped: bool

    @property
    def outputs_digest(self) -> str:
        """SHA-256 (hex) over all outputs: what a later stage puts among its inputs."""
        return digest_json(self.outputs)

    def output(self, relative: str) -> Path:
        """The path of one output.

        Raises:
            WorkDirError: the stage wrote no such file.
        """
        if relative not in self.outputs:
            raise WorkDirError(
                f"stage {self.name} wrote no {relative!r}. {closest_match_hint(relative, self.outputs)} "
                f"Folder: {self.folder}"
            )
        return self.folder / relative


class Stage:
    """One stage with one set of inputs: its folder, and what is known about it."""

    def __init__(self, root: Path, name: str, inputs: Any) -> None:
        if not _NAME.fullmatch(name):
            raise ValueError(f"stage name {name!r} must be lower-case words joined by '-' or '_'")
        self.name = name
        # Through JSON and back: a tuple given today must equal the list read tomorrow.
        self.inputs = _as_json(inputs, f"the inputs of stage {name}")
        self.digest = digest_json({"stage": name, "inputs": self.inputs})
        self.folder = root / "stages" / f"{name}-{self.digest[:12]}"

    @property
    def record(self) -> DoneRecord | None:
        """The seal, or None while unfinished. A damaged seal counts as unfinished and is logged."""
        path = self.folder / DONE
        try:
            record = DoneRecord.model_validate_json(path.read_bytes())
        except FileNotFoundError:
            return None
        except (ValidationError, RecursionError):
            logger.warning("%s is damaged; stage %s will run again", path, self.name)
            return None
        if record.inputs_digest != self.digest:
            logger.warning("%s seals other inputs; stage %s will run again", path, self.name)
            return None
        return record

    @property
    def done(self) -> bool:
        """Whether the stage was finished. Says nothing about damage since: see `damaged`."""
        return self.record is not None

    @property
    def outputs(self) -> dict[str, str]:
        """Relative path -> SHA-256 (hex); empty while unfinished."""
        record = self.record
        return {} if record is None else record.outputs

    @property
    def result(self) -> Any:
        """The JSON that the stage returned; None while unfinished."""
        record = self.record
        return None if record is None else record.result

    def damaged(self, record: DoneRecord) -> list[Path]:
        """Outputs of `record` that are missing or are not the bytes that were sealed."""
        paths = ((self.folder / relative, digest) for relative, digest in record.outputs.items())
        return [path for path, digest in paths if not path.is_file() or sha256_file(path) != digest]

    def seal(self, result: Any, wall_s: float) -> DoneRecord:
        """Digest every file of the folder and write `done.json`, the last act of a stage."""
        outputs = {path.relative_to(self.folder).as_posix(): sha256_file(path) for path in _files(self.folder)}
        record = DoneRecord(
            stage=self.name,
            inputs_digest=self.digest,
            inputs=self.inputs,
            outputs=outputs,
            result=result,
            wall_s=wall_s,
        )
        atomic_write(self.folder / DONE, canonical_json(record.model_dump(mode="json")) + b"\n")
        return record


class WorkDir:
    """The folder of a run. Reading needs no lock; `with WorkDir(path) as work:` takes it for writing."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock: int | None = None
        self._invalid: frozenset[str] = frozenset()
        self._renewed: set[Path] = set()
        #: Every stage that this object ran or found done, in order, by folder.
        self.used: dict[Path, StageResult] = {}
        try:
            path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise WorkDirError(f"work directory {path} cannot be made: {error.strerror}. Choose another.") from error

    def __enter__(self) -> Self:
        """Take the lock.

        Raises:
            WorkDirError: another run holds it (the message names its pid and host), or the folder is read-only.
        """
        try:
            descriptor = os.open(self.path / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        except OSError as error:
            raise WorkDirError(f"work directory {self.path} cannot be written: {error.strerror}") from error
        try:
            # The kernel drops the lock with the process, so a killed run never leaves a stale one.
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            holder = _holder(descriptor)
            os.close(descriptor)
            raise WorkDirError(
                f"work directory {self.path} is in use by {holder}. Wait for it, stop it, or choose another directory."
            ) from error
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, canonical_json({"pid": os.getpid(), "host": socket.gethostname()}), 0)
        self._lock = descriptor
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Give the lock back. The file stays: removing it would let two runs lock two files."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def stage(self, name: str, inputs: Any) -> Stage:
        """The stage `name` with these JSON-able `inputs`; its folder need not exist."""
        return Stage(self.path, name, inputs)

    def run_stage(self, name: str, inputs: Any, fn: Callable[[Path], Any]) -> StageResult:
        """Run `fn(folder)` unless its sealed outputs are there and undamaged.

        `fn` writes its files below `folder` and returns small JSON. When it was cut off before, it gets
        the folder as it was left (without half-written temporary files). A damaged output is logged,
        removed, and the stage runs again.

        Raises:
            WorkDirError: this `WorkDir` does not hold the lock, or `fn` returned something that is not JSON.
        """
        stage = self._prepare(name, inputs)
        result = self.used[stage.folder] = self._result(stage, fn)
        return result

    def _result(self, stage: Stage, fn: Callable[[Path], Any]) -> StageResult:
        record = stage.record
        if record is not None:
            damaged = stage.damaged(record)
            if not damaged:
                self._log(stage, "skipped", 0.0)
                return _stage_result(stage, record, skipped=True)
            for path in damaged:
                logger.warning("%s is damaged or missing; stage %s runs again", path, stage.name)
        else:
            damaged = []
        for path in (stage.folder / DONE, *damaged, *_temporary_files(stage.folder)):
            path.unlink(missing_ok=True)
        return self._execute(stage, fn)

    def invalidate(self, from_stage: str, order: Sequence[str]) -> None:
        """Make this run redo `from_stage` and all that follow it in `order`, from empty folders.

        Only the folders that this run comes to are emptied; those of other inputs stay.

        Raises:
            ConfigError: `from_stage` is not in `order`, with the closest match.
        """
        if from_stage not in order:
            raise ConfigError(f"no stage {from_stage!r}. {closest_match_hint(from_stage, order)}")
        self._invalid = frozenset(order[list(order).index(from_stage) :])

    def stage_folders(self) -> list[Path]:
        """All stage folders, finished or not, by name."""
        return sorted(path for path in (self.path / "stages").glob("*") if path.is_dir())

    def history(self) -> list[dict[str, Any]]:
        """The lines of `run.jsonl`, oldest first; a line cut off by a crash is left out."""
        try:
            lines = (self.path / "run.jsonl").read_bytes().splitlines()
        except FileNotFoundError:
            return []
        events = []
        for line in lines:
            with contextlib.suppress(ValueError):
                events.append(json.loads(line))
        return events

    def _prepare(self, name: str, inputs: Any) -> Stage:
        self._require_lock()
        stage = self.stage(name, inputs)
        if name in self._invalid and stage.folder not in self._renewed:
            self._renewed.add(stage.folder)
            _remove_tree(stage.folder)
        stage.folder.mkdir(parents=True, exist_ok=True)
        return stage

    def _execute(self, stage: Stage, fn: Callable[[Path], Any]) -> StageResult:
        started = time.monotonic()
        self._log(stage, "started", 0.0)
        try:
            result = _as_json(fn(stage.folder), f"the result of stage {stage.name}")
        except BaseException as error:
            self._log(stage, f"failed: {type(error).__name__}", time.monotonic() - started)
            raise
        wall_s = round(time.monotonic() - started, 3)
        record = stage.seal(result, wall_s)
        self._log(stage, "done", wall_s)
        return _stage_result(stage, record, skipped=False)

    def _require_lock(self) -> None:
        if self._lock is None:
            raise WorkDirError(f"work directory {self.path} is not locked; use 'with WorkDir(path) as work:'")

    def _log(self, stage: Stage, event: str, wall_s: float) -> None:
        at = datetime.now(UTC).isoformat(timespec="seconds")
        line = {"at": at, "stage": stage.name, "digest": stage.digest[:12], "event": event, "wall_s": round(wall_s, 3)}
        with (self.path / "run.jsonl").open("ab+") as stream:
            # A line cut off by a power cut must not swallow the next one.
            end = stream.seek(0, os.SEEK_END)
            stream.seek(max(0, end - 1))
            torn = end > 0 and stream.read(1) != b"\n"
            stream.write((b"\n" if torn else b"") + canonical_json(line) + b"\n")


def _stage_result(stage: Stage, record: DoneRecord, *, skipped: bool) -> StageResult:
    return StageResult(
        stage.name, stage.digest, stage.folder, record.outputs, record.result, record.wall_s, skipped=skipped
    )


def _as_json(value: Any, what: str) -> Any:
    try:
        return json.loads(canonical_json(value))
    except (TypeError, ValueError) as error:
        raise WorkDirError(f"{what} cannot be written as JSON: {error}") from error


def _is_temporary(path: Path) -> bool:
    # The names that edgeaudio.spec.fs.atomic_path gives.
    return path.name.startswith(".") and path.name.endswith(".tmp")


def _temporary_files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob(".*.tmp") if path.is_file()]


def _files(folder: Path) -> list[Path]:
    inside = (path for path in folder.rglob("*") if path.is_file() and not _is_temporary(path))
    return sorted(path for path in inside if path != folder / DONE)


def _remove_tree(folder: Path) -> None:
    # The seal goes first: a kill half-way must not leave a folder that looks finished.
    (folder / DONE).unlink(missing_ok=True)
    if folder.exists():
        shutil.rmtree(folder)


def _holder(descriptor: int) -> str:
    try:
        holder = json.loads(os.pread(descriptor, 4096, 0))
        return f"process {int(holder['pid'])} on {holder['host']}"
    except (ValueError, KeyError, TypeError):
        return "another process"
