"""The local history: one line per finished run, appended and never changed. What it keeps are medians and verdicts.

The whole record is where `--out` wrote it; the line says where that was.
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Final, Literal

from pydantic import Field

from edgeaudio.bench.metrics import METRICS
from edgeaudio.bench.schema import ArtefactResult, BenchResult, ResultKind, VerdictLevel
from edgeaudio.errors import ConfigError
from edgeaudio.spec import Spec
from edgeaudio.spec.text import printable

logger = logging.getLogger(__name__)

LINE_VERSION: Final = 1
#: The figures that a line keeps of each artefact.
KEPT: Final = ("latency_ms_p50", "latency_ms_p95", "inference_ms_p50", "size_bytes", "accuracy", "instructions")


class PastArtefact(Spec):
    """One artefact of a past run. `figures`: metric name -> value, those of `KEPT` that it has."""

    artefact: str
    engine: str
    verdict: VerdictLevel
    figures: dict[str, float]


class PastRun(Spec):
    """One line of the history."""

    line_version: Literal[1] = LINE_VERSION
    run_id: str
    started_at: str
    kind: ResultKind
    device: str
    board: str | None
    bundle_name: str
    bundle_sha256: str
    edgeaudio_version: str
    threads: int
    verdict: VerdictLevel
    reasons: tuple[str, ...] = Field((), description="codes")
    artefacts: tuple[PastArtefact, ...]
    result: str | None = Field(None, description="path of the whole record; None: it was not kept")

    @classmethod
    def of(cls, result: BenchResult, path: Path | None) -> PastRun:
        """The line about `result`, which was written to `path`."""
        verdict = result.verdict
        return cls(
            run_id=result.run_id,
            started_at=result.started_at,
            kind=result.kind,
            device=result.environment.device,
            board=result.board.board.name if result.board else None,
            bundle_name=result.bundle_name,
            bundle_sha256=result.bundle_sha256,
            edgeaudio_version=result.edgeaudio_version,
            threads=result.threads,
            verdict=verdict.level,
            reasons=tuple(sorted({reason.code for reason in verdict.reasons})),
            artefacts=tuple(_past(item, result) for item in result.artefacts),
            result=None if path is None else str(path.resolve()),
        )


def _past(item: ArtefactResult, result: BenchResult) -> PastArtefact:
    values = ((name, METRICS[name].read(item, result).value) for name in KEPT)
    figures = {name: value for name, value in values if value is not None}
    return PastArtefact(artefact=item.artefact, engine=item.engine, verdict=item.verdict.level, figures=figures)


def history_path(environment: Mapping[str, str] = os.environ) -> Path:
    """`edgeaudio/bench/history.jsonl` in `$XDG_DATA_HOME`, else in `~/.local/share`."""
    base = environment.get("XDG_DATA_HOME", "")
    # The XDG specification says that a relative path must be ignored.
    return (Path(base) if os.path.isabs(base) else Path.home() / ".local/share") / "edgeaudio/bench/history.jsonl"


def append_history(result: BenchResult, saved: Path | None = None, path: Path | None = None) -> None:
    """Add a finished run; one that broke off is left out. Trouble with the file is logged: the run itself was fine.

    Args:
        saved: where the whole record is.
        path: the history; None is the user's own.
    """
    if result.incomplete is not None:
        return
    path = path or history_path()
    # JSON escapes line breaks in names, so that a line is a line.
    line = json.dumps(PastRun.of(result, saved).model_dump(mode="json"), separators=(",", ":")).encode() + b"\n"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _append(path, line)
    except OSError as error:
        logger.warning("%s: this run is not in the history: %s", path, error.strerror or error)


def _append(path: Path, line: bytes) -> None:
    # Several boards finish at once, perhaps in several processes: one at a time.
    with path.open("a+b") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        end = stream.seek(0, os.SEEK_END)
        if end:
            stream.seek(end - 1)
            # A power cut can leave half a line; it must not spoil the next one too.
            line = line if stream.read(1) == b"\n" else b"\n" + line
        stream.write(line)
        stream.flush()
        os.fsync(stream.fileno())


def read_history(path: Path | None = None, *, device: str | None = None, bundle: str | None = None) -> list[PastRun]:
    """All past runs, oldest first. Damaged lines are skipped and logged.

    Args:
        device: only runs on this device.
        bundle: only runs of the bundle with this name, or whose SHA-256 begins so.
    Raises:
        ConfigError: the file is there but cannot be read.
    """
    path = path or history_path()
    try:
        lines = path.read_bytes().split(b"\n")
    except FileNotFoundError:
        return []
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from error
    runs = (_read_line(line, f"{path}:{number}") for number, line in enumerate(lines, 1) if line.strip())
    return [run for run in runs if run is not None and _is_wanted(run, device, bundle)]


def _read_line(line: bytes, where: str) -> PastRun | None:
    try:
        return PastRun.parse(json.loads(line), source=where)
    except (ValueError, RecursionError, ConfigError) as error:
        logger.warning("%s: skipped, not a line of this history: %s", where, printable(str(error), 200))
        return None


def _is_wanted(run: PastRun, device: str | None, bundle: str | None) -> bool:
    right_bundle = bundle is None or bundle == run.bundle_name or (bundle and run.bundle_sha256.startswith(bundle))
    return bool(right_bundle) and device in (None, run.device)
