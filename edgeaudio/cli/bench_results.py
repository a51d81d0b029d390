"""`bench compare`, `bench report` and `bench history`: what was measured, read again."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edgeaudio.cli.options import Json, examples
from edgeaudio.cli.output import format_bytes, print_json, print_table

if TYPE_CHECKING:
    from edgeaudio.bench.compare import ArtefactChange, Change, Comparison
    from edgeaudio.bench.history import PastRun
    from edgeaudio.bench.metrics import Figure

#: What `compare` shows without being asked, where a run has it.
SHOWN: tuple[str, ...] = (
    "latency_ms_p50",
    "latency_ms_p95",
    "latency_ms_p99",
    "inference_ms_p50",
    "paced_latency_ms_p50",
)
SHOWN += ("sound_to_event_ms_p50", "cold_start_ms", "size_bytes", "accuracy", "energy_mj", "instructions")

AllowInvalid = Annotated[
    bool, typer.Option("--allow-invalid", help="Also use runs whose figures must not be used; they stay marked.")
]


def register(bench: typer.Typer) -> None:
    """Add the verbs of this file to the group `bench`."""
    compare_examples = examples(
        "edgeaudio bench compare a.json b.json",
        "edgeaudio bench compare a.json b.json --fail-if 'latency_ms_p95>+5%'",
        "edgeaudio bench compare a.json b.json --fail-if 'onnx-int8:accuracy<-0.01'",
        "edgeaudio bench compare a.json b.json --fail-if 'load_ms>20' --json",
    )
    report_examples = examples(
        "edgeaudio bench report pi4.json pi5.json",
        "edgeaudio bench report pi4.json --out pi4.html --out pi4.csv --out pi4.md",
    )
    history_examples = examples(
        "edgeaudio bench history",
        "edgeaudio bench history --device pi5 --bundle kitchen",
    )
    bench.command("compare", epilog=compare_examples)(compare)
    bench.command("report", epilog=report_examples)(report)
    bench.command("history", epilog=history_examples)(history)


def compare(
    before: Annotated[Path, typer.Argument(metavar="BEFORE", help="Result of the first run (JSON).")],
    after: Annotated[Path, typer.Argument(metavar="AFTER", help="Result of the run that is held against it.")],
    fail_if: Annotated[
        list[str] | None,
        typer.Option(
            metavar="RULE",
            help="Fail when this holds: METRIC OP LIMIT, a LIMIT such as +5%, -0.01 (a change) or 20 (a value).",
        ),
    ] = None,
    allow_invalid: AllowInvalid = False,
    allow_different: Annotated[
        bool, typer.Option("--allow-different", help="Also compare runs of other bundles, devices, clips or options.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Hold one run against another, artefact by artefact.

    Exit code 3 when a rule holds or cannot be checked, 4 when a run is invalid. The metrics are those of
    docs/benchmark.md.
    """
    from edgeaudio.bench.compare import compare as compare_results
    from edgeaudio.bench.compare import refuse_invalid
    from edgeaudio.bench.rules import Rule
    from edgeaudio.bench.schema import read_result
    from edgeaudio.errors import VerificationError

    rules = [Rule.parse(text) for text in fail_if or ()]
    results = [read_result(path) for path in (before, after)]
    if not allow_invalid:
        for result, path in zip(results, (before, after), strict=True):
            refuse_invalid(result, path)
    comparison = compare_results(results[0], results[1], rules, allow_different=allow_different)
    if as_json:
        print_json(_comparison_json(comparison))
    else:
        _print_comparison(comparison, SHOWN + tuple(rule.metric for rule in rules))
    if comparison.failures:
        failed = "; ".join(f"{item.rule} on {item.artefact}: {item.message}" for item in comparison.failures)
        raise VerificationError(f"{len(comparison.failures)} of {len(comparison.outcomes)} checks failed: {failed}")


def _print_comparison(comparison: Comparison, shown: tuple[str, ...]) -> None:
    for name, result in (("before", comparison.before), ("after ", comparison.after)):
        where = f"{result.bundle_name} ({result.bundle_sha256[:12]}) on {result.environment.device}"
        _say(f"{name}  {result.run_id}  {where}, {result.verdict.level}")
    for difference in comparison.differences:
        _say(f"they differ: {difference}")
    for item in comparison.artefacts:
        print()
        _print_changes(item, shown)
    for when, names in (("before", comparison.only_before), ("after", comparison.only_after)):
        if names:
            _say(f"only {when}: {', '.join(names)}")
    if comparison.outcomes:
        print()
    for outcome in comparison.outcomes:
        _say(f"{'FAILED' if outcome.failed else 'ok    '}  {outcome.rule}  {outcome.artefact}: {outcome.message}")


def _say(text: str) -> None:
    """One line; names in results are those of others."""
    from edgeaudio.spec.text import printable

    print(printable(text, 300))


def _print_changes(item: ArtefactChange, shown: tuple[str, ...]) -> None:
    from edgeaudio.bench.compare import percent_change
    from edgeaudio.spec.text import printable

    rows = [
        [change.metric, _value(change, change.before), _value(change, change.after), percent_change(change.share),
         change.noise if change.noise not in (None, "unknown") else ""]
        for change in item.changes
        if change.metric in shown and _is_known(change)
    ]  # fmt: skip
    print_table([printable(f"{item.artefact} on {item.engine}", 40), "BEFORE", "AFTER", "CHANGE", ""], rows)


def _is_known(change: Change) -> bool:
    return change.before.value is not None or change.after.value is not None


def _value(change: Change, figure: Figure) -> str:
    if figure.value is None:
        return "-"
    if change.metric.endswith("_bytes"):
        return format_bytes(int(figure.value))
    if change.metric in ("accuracy", "paced_miss_share"):
        return f"{figure.value:.1%}"
    return f"{figure.value:,.0f}" if change.metric == "instructions" else f"{figure.value:.4g}"


def _comparison_json(comparison: Comparison) -> dict[str, object]:
    return {
        "before": comparison.before.run_id,
        "after": comparison.after.run_id,
        "differences": comparison.differences,
        "only_before": comparison.only_before,
        "only_after": comparison.only_after,
        "artefacts": [
            {
                "artefact": item.artefact,
                "engine": item.engine,
                "changes": [change for change in item.changes if _is_known(change)],
            }
            for item in comparison.artefacts
        ],
        "rules": [
            {"rule": str(item.rule), "artefact": item.artefact, "failed": item.failed, "message": item.message}
            for item in comparison.outcomes
        ],
    }


def report(
    results: Annotated[list[Path], typer.Argument(metavar="RESULT...", help="Results of runs (JSON), one or many.")],
    out: Annotated[
        list[Path] | None,
        typer.Option(metavar="FILE", help="A page (.html), a table (.md) or figures (.csv). Default: bench.html."),
    ] = None,
    allow_invalid: AllowInvalid = False,
) -> None:
    """Write a page, a table or a CSV file about one run or many.

    The page holds everything it shows: it can be mailed, printed and kept.
    """
    from edgeaudio.bench.compare import refuse_invalid
    from edgeaudio.bench.schema import read_result
    from edgeaudio.report.bench import write_bench_files

    read = [(path, read_result(path)) for path in results]
    if not allow_invalid:
        for path, result in read:
            refuse_invalid(result, path)
    for path in write_bench_files([result for _, result in read], out or [Path("bench.html")]):
        print(path)


def history(
    device: Annotated[str | None, typer.Option(help="Only runs on this device.")] = None,
    bundle: Annotated[
        str | None, typer.Option(metavar="NAME", help="Only runs of the bundle of this name, or digest.")
    ] = None,
    as_json: Json = False,
) -> None:
    """List the benchmarks that were run from here, oldest first.

    They are kept in edgeaudio/bench/history.jsonl in $XDG_DATA_HOME, else ~/.local/share.
    """
    from edgeaudio.bench.history import read_history

    runs = read_history(device=device, bundle=bundle)
    if as_json:
        print_json(runs)
    else:
        print_table(["WHEN", "DEVICE", "BUNDLE", "ARTEFACT", "P50 MS", "VERDICT"], _history_rows(runs))


def _history_rows(runs: list[PastRun]) -> list[list[object]]:
    from edgeaudio.spec.text import printable

    rows: list[list[object]] = []
    for run in runs:
        head: list[object] = [
            run.started_at[:16],
            printable(run.device, 20),
            f"{printable(run.bundle_name, 20)} {run.bundle_sha256[:8]}",
        ]
        for item in run.artefacts:
            rows.append([*head, printable(item.artefact, 26), item.figures.get("latency_ms_p50"), item.verdict])
            head = ["", "", ""]
    return rows
