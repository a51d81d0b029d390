"""`data inspect` and `data synth`: what is in a dataset, and one made from nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from edgeaudio.cli.options import Json, examples
from edgeaudio.cli.output import print_fields, print_json
from edgeaudio.cli.progress import Progress

DatasetKind = Annotated[
    str, typer.Option("--kind", help="How it is laid out: folder, esc50, esc10, csv, synth or unlabelled.")
]
DatasetRoot = Annotated[Path, typer.Argument(metavar="DATASET", help="Folder of the dataset.")]
Fold = Annotated[int | None, typer.Option(help="Only the clips of this fold. Default: all.")]
CsvFile = Annotated[Path | None, typer.Option("--csv", metavar="FILE", help="For --kind csv: the table.")]


def register(app: typer.Typer) -> None:
    """Add the verbs of this file to `app`."""
    group = typer.Typer(help="Look into a dataset, or make the built-in one.", rich_markup_mode=None)
    inspect_examples = examples(
        "edgeaudio data inspect sounds",
        "edgeaudio data inspect ESC-50 --kind esc50 --json",
        "edgeaudio data inspect sounds --kind csv --csv sounds/labels.csv",
    )
    group.command("inspect", epilog=inspect_examples)(inspect)
    group.command("synth", epilog=examples("edgeaudio data synth --out work/synth --clips-per-class 40"))(synth)
    app.add_typer(group, name="data")


def dataset_options(csv_file: Path | None) -> dict[str, Path]:
    """The options of `load_dataset` that were given."""
    return {} if csv_file is None else {"csv_path": csv_file}


def inspect(
    root: Annotated[Path, typer.Argument(metavar="ROOT", help="Folder of the dataset.")],
    kind: DatasetKind = "folder",
    csv_file: CsvFile = None,
    workers: Annotated[int, typer.Option(min=1, max=64, help="Processes that decode.")] = 2,
    as_json: Json = False,
) -> None:
    """Decode every clip of a dataset and tell what is in it, and what is wrong with it.

    Shows classes, folds, lengths, sample rates, unusable files, near-silence, and duplicates that
    would leak test clips into training.
    """
    from edgeaudio.data.datasets import inspect_dataset, load_dataset

    dataset = load_dataset(kind, root, **dataset_options(csv_file))
    found = inspect_dataset(dataset, workers=workers, progress=Progress().titled("decoding"))
    if as_json:
        print_json(found)
    else:
        print_fields(found)


def synth(
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="Folder to write to.")],
    clips_per_class: Annotated[int, typer.Option(min=2, help="Labelled clips per class.")] = 40,
    seed: Annotated[int, typer.Option(min=0, help="Other seeds give other sounds.")] = 0,
    folds: Annotated[int, typer.Option(min=2, help="Folds to deal the clips into.")] = 5,
    unlabelled: Annotated[int, typer.Option(min=0, help="Clips without labels.")] = 0,
    as_json: Json = False,
) -> None:
    """Write the built-in dataset: short synthetic sounds in the layout of ESC-50.

    The same options give the same bytes.
    """
    from edgeaudio.data.synth import write_synth

    write_synth(out, clips_per_class, seed, folds, unlabelled, Progress().titled("writing clips"))
    if as_json:
        print_json({"folder": out, "clips_per_class": clips_per_class, "seed": seed, "unlabelled": unlabelled})
    else:
        print(out)
