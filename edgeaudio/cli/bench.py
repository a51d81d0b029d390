"""`bench`: how fast a bundle runs on a device, and whether the figures may be used."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edgeaudio.cli import bench_results
from edgeaudio.cli.options import BundleFile, Frontend, Json, Threads, examples
from edgeaudio.cli.output import print_json
from edgeaudio.cli.trust import RequiredTrust, RequireSignature, required_trust
from edgeaudio.cli.verb_group import VerbGroup

if TYPE_CHECKING:
    from edgeaudio.bench.schema import BenchResult


def register(app: typer.Typer) -> None:
    """Add `bench` and the verbs that read what it wrote to `app`."""
    bench_examples = examples(
        "edgeaudio bench x.eab",
        "edgeaudio bench x.eab --artefact tflite-int8 --out result.json",
        "edgeaudio bench x.eab --engine tensorrt             not run on hardware",
        "edgeaudio bench compare a.json b.json --fail-if 'latency_ms_p95>+5%'",
    )
    group = typer.Typer(cls=VerbGroup, rich_markup_mode=None)
    group.callback(invoke_without_command=True, epilog=bench_examples)(bench)
    bench_results.register(group)
    app.add_typer(group, name="bench")


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
    from edgeaudio.bench.history import append_history
    from edgeaudio.bench.schema import BenchOptions, write_result
    from edgeaudio.bundle import Bundle
    from edgeaudio.catalog import resolve
    from edgeaudio.errors import BenchInvalidError

    given = {"min_hops": min_hops, "min_seconds": min_seconds, "input_rate_hz": input_rate, "frontend": frontend}
    options = BenchOptions.parse(given, source="bench options")
    opened = Bundle.read(bundle, require_signature=required_trust(require_signature, trust))
    result: BenchResult = resolve("devices", device)().bench(
        opened, artefacts=artefact or "all", engine=engine, threads=threads, options=options
    )
    if out is not None:
        write_result(result, out)
    append_history(result, out)
    if as_json:
        print_json({**result.model_dump(mode="json"), "verdict": result.verdict.model_dump(mode="json")})
    else:
        print_bench(result)
    if result.verdict.level == "invalid":
        reasons = "; ".join(reason.message for reason in result.verdict.reasons)
        raise BenchInvalidError(f"these figures must not be used: {reasons}")


def print_bench(result: BenchResult) -> None:
    """The table of a benchmark, its verdict last."""
    from edgeaudio.bench.table import format_table

    print(format_table(result), end="")
