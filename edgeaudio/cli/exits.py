"""`exits`: what a bundle's early exits cost and save on a dataset."""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer

from edgeaudio.cli.data import CsvFile, DatasetKind, DatasetRoot, Fold, dataset_options
from edgeaudio.cli.options import BundleFile, Engine, Json, Precision, Threads, examples
from edgeaudio.cli.output import print_json, print_table
from edgeaudio.cli.progress import Progress
from edgeaudio.cli.trust import RequiredTrust, RequireSignature, required_trust

if TYPE_CHECKING:
    from edgeaudio.pipeline.exit_curve import CurvePoint, ExitCurve
    from edgeaudio.spec import ExitCalibration


def register(app: typer.Typer) -> None:
    """Add the verb of this file to `app`."""
    shown = examples(
        "edgeaudio exits x.eab sounds",
        "edgeaudio exits x.eab ESC-50 --kind esc10 --fold 1 --precision int8",
    )
    app.command("exits", epilog=shown)(exits)


def exits(
    bundle: BundleFile,
    root: DatasetRoot,
    kind: DatasetKind = "folder",
    csv_file: CsvFile = None,
    fold: Fold = None,
    engine: Engine = "onnx",
    precision: Precision = "fp32",
    threads: Threads = 1,
    require_signature: RequireSignature = False,
    trust: RequiredTrust = None,
    as_json: Json = False,
) -> None:
    """Show what early exits save on a dataset, and what they cost.

    Sweeps one threshold for all exits: mean MACs of a window, where windows stop, and how often clips
    are right. The bundle's own thresholds are marked with *.
    """
    from edgeaudio.bundle import Bundle
    from edgeaudio.data.datasets import load_dataset
    from edgeaudio.pipeline.exit_curve import exit_curve

    opened = Bundle.read(bundle, require_signature=required_trust(require_signature, trust))
    dataset = load_dataset(kind, root, **dataset_options(csv_file))
    curve = exit_curve(
        opened,
        dataset,
        engine=engine,
        precision=precision,
        threads=threads,
        fold=fold,
        progress=Progress().titled("all stages"),
    )
    if as_json:
        print_json(curve)
    else:
        _print(curve)


def _print(curve: ExitCurve) -> None:
    fold = "" if curve.fold is None else f" fold {curve.fold}"
    print(f"{curve.bundle} {curve.chain} on {curve.dataset}{fold}: {curve.n_clips} clips, {curve.n_windows} windows")
    exits_at = ["a first student" if section is None else f"section {section}" for section in curve.exits_after]
    exits_at.append("the end")
    costs = [f"{macs:,} after {place}" for macs, place in zip(curve.macs_to_exit, exits_at, strict=True)]
    print(f"MACs per window: {', '.join(costs)};")
    alone = "of the last student alone" if None in curve.exits_after else "without exit heads"
    print(f"{curve.macs_per_window:,} {alone}.")
    if curve.skipped:
        print(f"{len(curve.skipped)} clips cannot be decoded: {', '.join(sorted(curve.skipped)[:3])} ...")
    print()
    names = [f"EXIT{number}" for number in range(len(curve.exits_after))] + ["FINAL"]
    right = "CORRECT" if curve.points[0].n_correct is not None else "OVERLAP"
    print_table(["", "THRESHOLD", "KMACS", "OF ALL", *names, right], list(map(_row, curve.points)))
    print("\n* the bundle's own thresholds" + ("" if curve.calibration is None else _promise(curve.calibration)))


def _promise(calibration: ExitCalibration) -> str:
    return (
        f", for at most {calibration.max_drop:.2%} lost; on held-out data "
        f"{calibration.full_accuracy:.2%} became {calibration.accuracy:.2%}"
    )


def _row(point: CurvePoint) -> list[str]:
    same = len(set(point.thresholds)) == 1
    thresholds = point.thresholds[:1] if same else point.thresholds
    return [
        "*" if point.operating else "",
        " ".join("never" if threshold is None else f"{threshold:.3g}" for threshold in thresholds),
        f"{point.mean_macs / 1e3:,.0f}",
        f"{point.macs_share:.1%}",
        *(f"{share:.0%}" for share in point.share),
        f"{point.accuracy:.2%}" + ("" if point.n_correct is None else f" ({point.n_correct})"),
    ]
