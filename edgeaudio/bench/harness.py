"""The benchmark: self-check, warm-up, rounds in which the artefacts take turns, then the runs that keep real time.

Read `hop.py`, `subjects.py`, `rounds.py`, `run.py`, in this order.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Literal

from edgeaudio.bench.accuracy import AccuracyClips
from edgeaudio.bench.foreign import ForeignModel
from edgeaudio.bench.foreign_subject import ForeignSubject
from edgeaudio.bench.governor import performance_governor
from edgeaudio.bench.probes import BoardWatch
from edgeaudio.bench.run import Measured, Progress, Run
from edgeaudio.bench.scheduling import scheduled
from edgeaudio.bench.schema import BenchOptions, BenchResult
from edgeaudio.bench.subjects import Subject, bundle_subjects
from edgeaudio.bundle import Bundle
from edgeaudio.catalog import resolve
from edgeaudio.errors import ConfigError

__all__ = ["BoardWatch", "Progress", "bench_bundle", "new_run_id", "run_bench"]


def run_bench(
    bundle: Bundle, engine: str, precision: str, threads: int = 1, options: BenchOptions | None = None
) -> BenchResult:
    """Benchmark one artefact on one engine, over windows.

    Raises:
        ConfigError: unknown engine, or the bundle has no such artefact.
        UnsupportedError: the engine's library is not installed.
    """
    artefact = bundle.manifest.artefact(resolve("engines", engine).format, precision)
    return bench_bundle(bundle, [artefact.name], engine=engine, threads=threads, options=options)


def bench_bundle(
    bundle: Bundle,
    artefacts: Literal["all"] | Sequence[str] = "all",
    *,
    engine: str | None = None,
    threads: int = 1,
    options: BenchOptions | None = None,
    device: str = "local",
    run_id: str | None = None,
    foreign: Sequence[ForeignModel] = (),
    clips: AccuracyClips | None = None,
    on_progress: Callable[[Progress], None] | None = None,
    board: BoardWatch | None = None,
) -> BenchResult:
    """Benchmark artefacts of a bundle, and foreign files beside them, in turns.

    After Ctrl-C while it measures, what there is so far comes back, marked `incomplete`.

    Args:
        artefacts: names such as `onnx-int8` or `onnx-int8-stateful`. With "all", those that cannot run here are listed
            in `not_run`; foreign files too.
        engine: what runs them; "all" are then those of its format. None is the first engine of each format.
        foreign: baselines; the first is what ratios are of. clips: answered by a host; None: no check of accuracy.
        on_progress: told where it is, never while anything is timed.
        board: watches the board meanwhile; None watches this machine.
    Raises:
        ConfigError: the bundle has no artefact of that name or for that engine, or a name comes twice.
        UnsupportedError: a named artefact, or all of them, cannot run here; or what an option asks for.
    """
    if threads < 1:
        raise ConfigError(f"threads is {threads}, wanted at least 1")
    options = options or BenchOptions()
    subjects = chosen_subjects(bundle, artefacts, engine, options, foreign)
    run = Run(bundle, options, threads, clips, on_progress or (lambda progress: None))
    watch = board or BoardWatch()
    measured: Measured | None = None
    run_id = run_id or new_run_id()
    try:
        # A thread stays where its starter was: the watch is to be no load on the cores that are measured.
        with performance_governor(enabled=options.set_performance), watch, scheduled(options):
            measured = run.measured(subjects, device, skip=artefacts == "all", watch=watch)
        # The machine is given back first: statistics take a slow board longer than some wait.
        return run.result(measured, watch, run_id)
    except KeyboardInterrupt:
        if measured is None:
            raise
        return run.result(measured.broken_off(), watch, run_id)


def new_run_id() -> str:
    """Unique, in order of time, and fit for a file name."""
    return f"{datetime.now(UTC):%Y%m%dT%H%M%SZ}-{secrets.token_hex(4)}"


def chosen_subjects(
    bundle: Bundle,
    artefacts: Literal["all"] | Sequence[str],
    engine: str | None,
    options: BenchOptions,
    foreign: Sequence[ForeignModel],
) -> list[Subject]:
    """What of a bundle, and beside it, is to be run.

    Raises:
        ConfigError: the bundle has no artefact of that name or for that engine, or a name comes twice.
    """
    known = {subject.name: subject for subject in bundle_subjects(bundle, engine, options.forms)}
    names = list(known) if artefacts == "all" else list(artefacts)
    unknown = [name for name in names if name not in known]
    if unknown or not names or len(set(names)) != len(names):
        raise ConfigError(f"artefacts {names} of bundle {bundle.manifest.name!r}: wanted each once of {list(known)}")
    files = [model.name for model in foreign]
    if len({*names, *files}) != len(names) + len(files):
        raise ConfigError(f"baselines {files}: each needs a name of its own; rename the file")
    return [*(known[name] for name in names), *(ForeignSubject(model, bundle) for model in foreign)]
