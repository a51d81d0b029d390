"""`bench`: how fast a bundle runs on a device, and whether the figures may be used."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edgeaudio.cli.devices import DevicesFileOption, bench_on, raise_failures
from edgeaudio.cli.options import BundleFile, Frontend, Json, Threads, examples
from edgeaudio.cli.output import print_json
from edgeaudio.cli.trust import RequiredTrust, RequireSignature, required_trust

if TYPE_CHECKING:
    from edgeaudio.bench.schema import BenchResult


def register(app: typer.Typer) -> None:
    """Add the verbs of this file to `app`."""
    bench_examples = examples(
        "edgeaudio bench x.eab",
        "edgeaudio bench x.eab --artefact tflite-int8 --out result.json",
        "edgeaudio bench x.eab --device pi5 --device user@host --out results/",
        "edgeaudio bench x.eab --engine tensorrt             not run on hardware",
    )
    app.command("bench", epilog=bench_examples)(bench)


def bench(
    bundle: BundleFile,
    device: Annotated[
        list[str] | None,
        typer.Option(help="Where to run: local, user@host, or a name of devices.yaml. May be given several times."),
    ] = None,
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
    idle: Annotated[
        float, typer.Option(min=0, metavar="S", help="Measure power: so long idle, then as long for each artefact.")
    ] = 0,
    set_performance: Annotated[
        bool, typer.Option("--set-performance", help="Hold the governor at performance, then restore it. Needs root.")
    ] = False,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out", metavar="FILE", help="Also write the whole result, for 'report'; of several devices into a folder."
        ),
    ] = None,
    devices: DevicesFileOption = None,
    deadline: Annotated[
        float | None,
        typer.Option(min=1, metavar="S", help="End a device's run after so long. Default: from what it measures."),
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
    from edgeaudio.bench.schema import BenchOptions, write_result
    from edgeaudio.bundle import Bundle
    from edgeaudio.errors import BenchInvalidError

    given = {"min_hops": min_hops, "min_seconds": min_seconds, "input_rate_hz": input_rate, "frontend": frontend}
    given |= {"idle_s": idle, "set_performance": set_performance}
    options = BenchOptions.parse(given, source="bench options")
    opened = Bundle.read(bundle, require_signature=required_trust(require_signature, trust))
    job = BenchJob(opened, artefact or "all", engine, threads, options, deadline_s=deadline)
    words = device or ["local"]
    paths = result_paths(out, words)
    outcomes = bench_on(words, devices, job, keep_in=None if out is None else paths[words[0]].parent)
    results = {outcome.device: outcome.result for outcome in outcomes if outcome.result is not None}
    for name, result in results.items():
        if out is not None:
            write_result(result, paths[name])
    if as_json:
        shown = [
            {**item.model_dump(mode="json"), "verdict": item.verdict.model_dump(mode="json")}
            for item in results.values()
        ]
        print_json(shown[0] if len(words) == 1 and shown else shown)
    else:
        for result in results.values():
            print_bench(result)
    raise_failures(outcomes)
    invalid = [
        f"{name}: {reason.message}"
        for name, item in results.items()
        if item.verdict.level == "invalid"
        for reason in item.verdict.reasons
    ]
    if invalid:
        raise BenchInvalidError(f"these figures must not be used: {'; '.join(invalid)}")


def result_paths(out: Path | None, devices: Sequence[str]) -> dict[str, Path]:
    """Where the result of each device goes: `out` itself, or files in it where it is a folder or there are several."""
    from edgeaudio.bench.devices.collect import file_stem

    if out is None or (len(devices) == 1 and not out.is_dir()):
        return dict.fromkeys(devices, out or Path())
    return {device: out / f"{file_stem(device)}.json" for device in devices}


def print_bench(result: BenchResult) -> None:
    """The table of a benchmark, its verdict last."""
    from edgeaudio.bench.table import format_table

    print(format_table(result), end="")
