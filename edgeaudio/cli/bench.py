"""`bench`: how fast a bundle runs on a device, and whether the figures may be used."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from edgeaudio.cli.options import BundleFile, Frontend, Json, Threads, examples
from edgeaudio.cli.output import print_json
from edgeaudio.cli.trust import RequiredTrust, RequireSignature, required_trust

if TYPE_CHECKING:
    from edgeaudio.bench.accuracy import AccuracyClips
    from edgeaudio.bench.schema import BenchOptions, BenchResult
    from edgeaudio.bundle import Bundle

# Of `--clips`: seconds of work for each artefact, and enough to see one that answers otherwise.
_CLIPS = 40


def register(app: typer.Typer) -> None:
    """Add the verbs of this file to `app`."""
    bench_examples = examples(
        "edgeaudio bench x.eab",
        "edgeaudio bench x.eab --artefact tflite-int8 --out result.json",
        "edgeaudio bench x.eab --form stateful --baseline yamnet.tflite",
        "edgeaudio bench x.eab --clips ESC-50 --pace 30 --cold-starts 10 --sounds 20",
        "edgeaudio bench x.eab --engine tensorrt             not run on hardware",
    )
    app.command("bench", epilog=bench_examples)(bench)


def bench(
    bundle: BundleFile,
    device: Annotated[str, typer.Option(help="Where to run; see 'edgeaudio list devices'.")] = "local",
    artefact: Annotated[
        list[str] | None, typer.Option(help="Only this artefact, such as onnx-int8. Default: all.")
    ] = None,
    frontend: Frontend = "auto",
    engine: Annotated[
        str | None,
        typer.Option(help="Only what this engine runs: onnx, litert or tensorrt (NVIDIA GPUs; not run on hardware)."),
    ] = None,
    threads: Threads = 1,
    min_hops: Annotated[int, typer.Option(min=1, help="Hops to time, per artefact.")] = 600,
    min_seconds: Annotated[float, typer.Option(min=0, metavar="S", help="Seconds to time, per artefact.")] = 3.0,
    input_rate: Annotated[
        int | None, typer.Option(metavar="HZ", help="Rate of the audio that comes in. Default: the bundle's.")
    ] = None,
    form: Annotated[
        list[str] | None, typer.Option(help="Only this form: windowed, stateful, exits or stateful-exits.")
    ] = None,
    baseline: Annotated[
        list[Path] | None, typer.Option(metavar="FILE", help="Time this .onnx or .tflite file too; ratios are of it.")
    ] = None,
    clips: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Labelled clips: answers must be those of this machine.")
    ] = None,
    pace: Annotated[float, typer.Option(min=0, metavar="S", help="Also run in real time, so long per artefact.")] = 0,
    cold_starts: Annotated[int, typer.Option(min=0, help="Fresh processes per artefact, up to the first answer.")] = 0,
    sounds: Annotated[int, typer.Option(min=0, help="Sounds in a live stream whose events are timed.")] = 0,
    affinity: Annotated[str, typer.Option(metavar="CORES", help="Run on these cores, such as 2,3.")] = "",
    nice: Annotated[int | None, typer.Option(min=-20, max=19, help="Run with this priority; 19 is the least.")] = None,
    out: Annotated[
        Path | None, typer.Option("--out", metavar="FILE", help="Also write the whole result, for 'report'.")
    ] = None,
    require_signature: RequireSignature = False,
    trust: RequiredTrust = None,
    as_json: Json = False,
) -> None:
    """Time every artefact of a bundle, as in a live stream.

    Exit code 4 when the figures must not be used; the reasons say why.
    """
    from edgeaudio.bench.foreign import ForeignModel
    from edgeaudio.bench.schema import BenchOptions, write_result
    from edgeaudio.bundle import Bundle
    from edgeaudio.catalog import resolve
    from edgeaudio.errors import BenchInvalidError

    given: dict[str, Any] = {"min_hops": min_hops, "min_seconds": min_seconds, "input_rate_hz": input_rate}
    given |= {
        "frontend": frontend,
        "forms": form or (),
        "paced_s": pace,
        "cold_starts": cold_starts,
        "marked_sounds": sounds,
    }
    given |= {"affinity": [core for core in affinity.split(",") if core], "nice": nice}
    options = BenchOptions.parse(given, source="bench options")
    opened = Bundle.read(bundle, require_signature=required_trust(require_signature, trust))
    result: BenchResult = resolve("devices", device)().bench(
        opened,
        artefacts=artefact or "all",
        engine=engine,
        threads=threads,
        options=options,
        foreign=[ForeignModel.read(path) for path in baseline or ()],
        clips=None if clips is None else _answered(clips, opened, artefact, engine, options),
    )
    if out is not None:
        write_result(result, out)
    if as_json:
        print_json({**result.model_dump(mode="json"), "verdict": result.verdict.model_dump(mode="json")})
    else:
        print_bench(result)
    if result.verdict.level == "invalid":
        reasons = "; ".join(reason.message for reason in result.verdict.reasons)
        raise BenchInvalidError(f"these figures must not be used: {reasons}")


def _answered(
    root: Path, bundle: Bundle, artefacts: list[str] | None, engine: str | None, options: BenchOptions
) -> AccuracyClips:
    """A fixed subset of the clips in `root`, with what this machine makes of them."""
    from edgeaudio.bench.accuracy import AccuracyClips
    from edgeaudio.bench.subjects import bundle_subjects

    subjects = bundle_subjects(bundle, engine, options.forms)
    chosen = [subject for subject in subjects if artefacts is None or subject.name in artefacts]
    sample_rate = bundle.manifest.frontend.sample_rate
    return AccuracyClips.from_dataset(root, _CLIPS, 0, sample_rate=sample_rate).answered(chosen)


def print_bench(result: BenchResult) -> None:
    """The table of a benchmark, its verdict last."""
    from edgeaudio.bench.table import format_table

    print(format_table(result), end="")
