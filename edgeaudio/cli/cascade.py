"""`cascade`: a small student in front of a larger one, as one bundle."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from edgeaudio.cli.data import CsvFile, DatasetKind, dataset_options
from edgeaudio.cli.options import Json, examples
from edgeaudio.cli.output import format_bytes, print_json, print_table
from edgeaudio.cli.progress import Progress
from edgeaudio.cli.trust import RequiredTrust, RequireSignature, required_trust
from edgeaudio.errors import ConfigError

if TYPE_CHECKING:
    from edgeaudio.bundle import Bundle
    from edgeaudio.spec import ExitCalibration

#: As recipes have it: 1 clip in 80.
MAX_DROP = 0.0125
#: On some hundred clips, what is just within a bound is beyond it on others (docs/decisions/0010-cascade.md).
STANDARD_ERRORS = 1.0


def register(app: typer.Typer) -> None:
    """Add the verb of this file to `app`."""
    shown = examples(
        "edgeaudio cascade 8k.eab 128k.eab --out both.eab --threshold 0.6",
        "edgeaudio cascade 8k.eab 128k.eab --out both.eab --data held-out",
        "edgeaudio exits both.eab test-sounds --precision int8",
    )
    app.command("cascade", epilog=shown)(cascade)


def cascade(
    first: Annotated[Path, typer.Argument(metavar="FIRST", help="Bundle that is asked about every window.")],
    then: Annotated[Path, typer.Argument(metavar="THEN", help="Bundle that is asked where the first is not sure.")],
    out: Annotated[Path, typer.Option("--out", metavar="FILE", help="Bundle to write.")],
    threshold: Annotated[
        float | None, typer.Option(min=0, max=1, help="Confidence from which the first one's answer stands.")
    ] = None,
    data: Annotated[
        Path | None,
        typer.Option(
            "--data", metavar="DATASET", help="Choose thresholds on these clips, on which neither was trained."
        ),
    ] = None,
    kind: DatasetKind = "folder",
    csv_file: CsvFile = None,
    folds: Annotated[list[int] | None, typer.Option("--fold", help="With --data, only this fold; repeatable.")] = None,
    max_drop: Annotated[
        float | None,
        typer.Option(help=f"With --data, the share of clips that may be lost. Default: {MAX_DROP}, 1 in 80."),
    ] = None,
    standard_errors: Annotated[
        float | None,
        typer.Option(
            help=f"With --data, by so many of them the loss stays below --max-drop. Default: {STANDARD_ERRORS:g}."
        ),
    ] = None,
    require_signature: RequireSignature = False,
    trust: RequiredTrust = None,
    as_json: Json = False,
) -> None:
    """Join two students: where the first is unsure, ask the second.

    Writes both into one bundle, whose early exit is the end of the first. Both must hear the same
    windows and give the same labels. Without --exits the bundle runs as THEN alone. With --data each
    format and precision gets the threshold that costs least: choose it on clips on which neither was
    trained, and not on those you will report. A signature is not carried over: sign the result.
    """
    from edgeaudio.bundle import Bundle
    from edgeaudio.data.datasets import load_dataset
    from edgeaudio.pipeline.cascading import calibrated, join_students, warn_of_training, with_threshold
    from edgeaudio.spec.fs import atomic_write

    if (threshold is None) == (data is None):
        raise ConfigError("a cascade needs --threshold or --data, and only one of them")
    if data is None and (folds or max_drop is not None or standard_errors is not None):
        raise ConfigError("--fold, --max-drop and --standard-errors choose thresholds on clips; give --data too")
    keys = required_trust(require_signature, trust)
    students = [Bundle.read(path, require_signature=keys) for path in (first, then)]
    both = Bundle.read(join_students(*students))
    if threshold is not None:
        made = with_threshold(both, threshold)
    else:
        assert data is not None
        dataset = load_dataset(kind, data, **dataset_options(csv_file))
        for student in students:
            warn_of_training(student, dataset, folds or [])
        made = calibrated(
            both,
            dataset,
            folds or [],
            MAX_DROP if max_drop is None else max_drop,
            STANDARD_ERRORS if standard_errors is None else standard_errors,
            Progress().titled("both students"),
        )
    atomic_write(out, made)
    result = _result(Bundle.read(made))
    if as_json:
        print_json({"bundle": out, **result})
    else:
        _print(out, result)


def _result(both: Bundle) -> dict[str, Any]:
    exits = both.manifest.exits
    assert exits is not None
    return {
        "sha256": both.sha256,
        "size_bytes": both.size_bytes,
        "macs_to_exit": exits.macs_to_exit,
        "macs_per_window": both.manifest.cost.macs_per_window,
        "chains": [
            {"name": chain.name, "model_bytes": chain.size_bytes, "threshold": chain.thresholds[0]}
            | ({} if chain.calibration is None else {"calibration": chain.calibration})
            for chain in exits.chains
        ],
    }


def _print(out: Path, result: dict[str, Any]) -> None:
    (early, late), alone = result["macs_to_exit"], result["macs_per_window"]
    print(f"{out}: {format_bytes(result['size_bytes'])}")
    print(f"MACs per window: {early:,} where the first is sure, else {late:,};")
    print(f"{alone:,} of the last student alone.\n")
    header = ["CHAIN", "BYTES", "THRESHOLD"]
    if "calibration" in result["chains"][0]:
        header += ["FIRST", "MACS", "CORRECT", "LAST ALONE"]
    print_table(header, [_row(chain, alone) for chain in result["chains"]])


def _row(chain: dict[str, Any], alone: int) -> list[str]:
    threshold = "never" if chain["threshold"] is None else f"{chain['threshold']:.4g}"
    row = [chain["name"], f"{chain['model_bytes']:,}", threshold]
    found: ExitCalibration | None = chain.get("calibration")
    if found is not None:
        row += [f"{found.share[0]:.0%}", f"{found.mean_macs / alone:.0%}"]
        row += [f"{found.accuracy:.2%}", f"{found.full_accuracy:.2%}"]
    return row
