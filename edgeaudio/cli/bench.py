"""`bench`: how fast a bundle runs on a device, and whether the figures may be used."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar

import typer

from edgeaudio.cli import bench_calibrate, bench_results
from edgeaudio.cli.devices import DevicesFileOption, bench_on, raise_failures
from edgeaudio.cli.groups import takes_groups
from edgeaudio.cli.options import BundleFile, Frontend, Json, Threads, examples
from edgeaudio.cli.output import print_json
from edgeaudio.cli.trust import RequiredTrust, RequireSignature, required_trust
from edgeaudio.cli.verb_group import VerbGroup

if TYPE_CHECKING:
    from edgeaudio.bench.accuracy import AccuracyClips
    from edgeaudio.bench.schema import BenchOptions, BenchResult
    from edgeaudio.bundle import Bundle


def register(app: typer.Typer) -> None:
    """Add `bench` and the verbs that read what it wrote to `app`."""
    bench_examples = examples(
        "edgeaudio bench x.eab",
        "edgeaudio bench x.eab --artefact tflite-int8 --out result.json",
        "edgeaudio bench x.eab --form stateful --baseline yamnet.tflite",
        "edgeaudio bench x.eab --clips ESC-50 --pace 30 --cold-starts 10 --sounds 20",
        "edgeaudio bench x.eab --device pi5 --device user@host --out results/",
        "edgeaudio bench x.eab --engine tensorrt             not run on hardware",
        "edgeaudio bench compare a.json b.json --fail-if 'latency_ms_p95>+5%'",
    )
    group = typer.Typer(cls=VerbGroup, rich_markup_mode=None)
    group.callback(invoke_without_command=True, epilog=bench_examples)(bench)
    bench_results.register(group)
    bench_calibrate.register(group)
    app.add_typer(group, name="bench")


#: Of a bundle's artefacts.
FORMS = ("windowed", "stateful", "exits", "stateful-exits")


@dataclass(frozen=True)
class WhereOptions:
    """Where to run (see `groups`)."""

    HEADINGS: ClassVar = {"device": "Where"}

    device: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME",
            help="local, user@host, emulated:CPU, or a name of devices.yaml. May be repeated.  [default: local]",
        ),
    ] = None
    devices: DevicesFileOption = None
    deadline: Annotated[
        float | None,
        typer.Option(min=1, metavar="S", help="End a device's run after so long. Default: from what it measures."),
    ] = None


@dataclass(frozen=True)
class WhatOptions:
    """What to time (see `groups`)."""

    HEADINGS: ClassVar = {"artefact": "What"}

    artefact: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="Only this artefact, such as onnx-int8. Default: all.")
    ] = None
    form: Annotated[
        list[str] | None,
        typer.Option(metavar="FORM", help="Only this form: windowed, stateful, exits or stateful-exits."),
    ] = None
    engine: Annotated[
        str | None,
        typer.Option(
            metavar="ENGINE",
            help="Only what this engine runs: onnx, litert or tensorrt (NVIDIA GPUs; not run on hardware).",
        ),
    ] = None
    baseline: Annotated[
        list[Path] | None, typer.Option(metavar="FILE", help="Time this .onnx or .tflite file too; ratios are of it.")
    ] = None
    frontend: Frontend = "auto"


@dataclass(frozen=True)
class MeasureOptions:
    """How much to measure (see `groups`)."""

    HEADINGS: ClassVar = {"min_hops": "Measurement"}

    min_hops: Annotated[int, typer.Option(min=1, metavar="N", help="Hops to time, per artefact.")] = 600
    min_seconds: Annotated[float, typer.Option(min=0, metavar="S", help="Seconds to time, per artefact.")] = 3.0
    input_rate: Annotated[
        int | None, typer.Option(metavar="HZ", help="Rate of the audio that comes in. Default: the bundle's.")
    ] = None
    clips: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Labelled clips: answers must be those of this machine.")
    ] = None
    # Enough to see that a board computes something else, few enough for the slowest.
    n_clips: Annotated[
        int, typer.Option(min=1, metavar="N", help="So many of --clips, as many of each class as can be.")
    ] = 40
    pace: Annotated[float, typer.Option(min=0, metavar="S", help="Also run in real time, so long per artefact.")] = 0
    cold_starts: Annotated[
        int, typer.Option(min=0, metavar="N", help="Fresh processes per artefact, up to the first answer.")
    ] = 0
    sounds: Annotated[int, typer.Option(min=0, metavar="N", help="Sounds in a live stream whose events are timed.")] = 0
    idle: Annotated[
        float, typer.Option(min=0, metavar="S", help="Measure power: so long idle, then as long for each artefact.")
    ] = 0


@dataclass(frozen=True)
class ProcessOptions:
    """How the process runs (see `groups`)."""

    HEADINGS: ClassVar = {"threads": "Process"}

    threads: Threads = 1
    affinity: Annotated[str, typer.Option(metavar="CORES", help="Run on these cores, such as 2,3 or 0-1.")] = ""
    nice: Annotated[
        int | None, typer.Option(min=-20, max=19, metavar="N", help="Run with this priority; 19 is the least.")
    ] = None
    set_performance: Annotated[
        bool, typer.Option("--set-performance", help="Hold the governor at performance, then restore it. Needs root.")
    ] = False


@takes_groups
def bench(
    bundle: BundleFile,
    where: WhereOptions,
    what: WhatOptions,
    measure: MeasureOptions,
    process: ProcessOptions,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out", metavar="FILE", help="Also write the whole result, for 'report'; of several devices into a folder."
        ),
    ] = None,
    require_signature: RequireSignature = False,
    trust: RequiredTrust = None,
    as_json: Json = False,
) -> None:
    """Time every artefact of a bundle, as in a live stream.

    Exit code 4 when the figures must not be used; the reasons say why. 5 when a device could not be reached or was
    lost; what had come back is kept, marked incomplete.
    """
    from edgeaudio.bench.base import BenchJob
    from edgeaudio.bench.foreign import ForeignModel
    from edgeaudio.bench.harness import chosen_subjects
    from edgeaudio.bench.history import append_history
    from edgeaudio.bench.schema import write_result
    from edgeaudio.bundle import Bundle

    words = where.device or ["local"]
    paths = result_paths(out, words)
    options = bench_options(what, measure, process)
    opened = Bundle.read(bundle, require_signature=required_trust(require_signature, trust))
    foreign = [ForeignModel.read(path) for path in what.baseline or ()]
    # A typo is told before any board is asked.
    chosen_subjects(opened, what.artefact or "all", what.engine, options, foreign)
    job = BenchJob(
        opened,
        what.artefact or "all",
        what.engine,
        process.threads,
        options,
        foreign=foreign,
        clips=_answered(measure, opened, what, options),
        deadline_s=where.deadline,
    )

    def keep(name: str, result: BenchResult) -> None:
        if out is not None:
            write_result(result, paths[name])
        append_history(result, paths[name] if out is not None else None)

    keep_in = None if out is None else paths[words[0]].parent
    outcomes = bench_on(words, where.devices, job, keep_in=keep_in, on_result=keep)
    results = {outcome.device: outcome.result for outcome in outcomes if outcome.result is not None}
    _show(results, as_json=as_json, alone=len(words) == 1)
    raise_failures(outcomes)
    _refuse_invalid(results)


def bench_options(what: WhatOptions, measure: MeasureOptions, process: ProcessOptions) -> BenchOptions:
    """What was given, checked.

    Raises:
        ConfigError: names the option.
    """
    from edgeaudio.bench.schema import BenchOptions
    from edgeaudio.errors import ConfigError, closest_match_hint

    for form in what.form or ():
        if form not in FORMS:
            raise ConfigError(f"--form {form!r:.40} is not known. {closest_match_hint(form, FORMS)}")

    given = {
        "input_rate_hz": measure.input_rate,
        "min_hops": measure.min_hops,
        "min_seconds": measure.min_seconds,
        "frontend": what.frontend,
        "forms": what.form or (),
        "paced_s": measure.pace,
        "cold_starts": measure.cold_starts,
        "marked_sounds": measure.sounds,
        "idle_s": measure.idle,
        "affinity": _cores(process.affinity),
        "nice": process.nice,
        "set_performance": process.set_performance,
    }
    return BenchOptions.parse(given, source="bench options")


def _cores(text: str) -> tuple[int, ...]:
    from edgeaudio.bench.probes.linux import cpu_list
    from edgeaudio.errors import ConfigError

    cores = cpu_list(text)
    if text and not cores:
        raise ConfigError(f"--affinity {text!r:.40}: wanted cores, such as 2,3 or 0-1")
    return cores


def _answered(
    measure: MeasureOptions, bundle: Bundle, what: WhatOptions, options: BenchOptions
) -> AccuracyClips | None:
    """A fixed subset of the clips that were given, with what this machine makes of them."""
    if measure.clips is None:
        return None
    from edgeaudio.bench.accuracy import AccuracyClips
    from edgeaudio.bench.subjects import bundle_subjects

    subjects = bundle_subjects(bundle, what.engine, options.forms)
    chosen = [subject for subject in subjects if what.artefact is None or subject.name in what.artefact]
    sample_rate = bundle.manifest.frontend.sample_rate
    return AccuracyClips.from_dataset(measure.clips, measure.n_clips, 0, sample_rate=sample_rate).answered(chosen)


def result_paths(out: Path | None, devices: Sequence[str]) -> dict[str, Path]:
    """Where the result of each device goes: `out` itself, or files in it where it is a folder or there are several.

    Raises:
        ConfigError: nothing can be written there, which is to be known before minutes of measuring.
    """
    from edgeaudio.bench.devices.collect import file_stem
    from edgeaudio.errors import ConfigError

    if out is None:
        return dict.fromkeys(devices, Path())
    alone = len(devices) == 1 and not out.is_dir()
    try:
        folder = out.parent if alone else out
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        wanted = "" if alone else "; the results of several devices go into a folder"
        raise ConfigError(f"--out {out}: nothing can be written there ({error.strerror}){wanted}") from error
    return {device: out if alone else out / f"{file_stem(device)}.json" for device in devices}


def _show(results: Mapping[str, BenchResult], *, as_json: bool, alone: bool) -> None:
    if not as_json:
        for result in results.values():
            print_bench(result)
        return
    shown = [
        {**item.model_dump(mode="json"), "verdict": item.verdict.model_dump(mode="json")} for item in results.values()
    ]
    print_json(shown[0] if alone and shown else shown)


def _refuse_invalid(results: Mapping[str, BenchResult]) -> None:
    """Raise `BenchInvalidError` for results that must not be used; they have been shown before."""
    from edgeaudio.errors import BenchInvalidError

    invalid = {
        name: ", ".join(dict.fromkeys(reason.code for reason in item.verdict.reasons))
        for name, item in results.items()
        if item.verdict.level == "invalid"
    }
    if invalid:
        said = "; ".join(f"{name} ({codes})" for name, codes in invalid.items())
        raise BenchInvalidError(f"the figures of {said} must not be used; each artefact says why")


def print_bench(result: BenchResult) -> None:
    """The table of a benchmark, its verdict last."""
    from edgeaudio.bench.table import format_table

    print(format_table(result), end="")
