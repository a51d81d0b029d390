"""`tag` and `eval`: what a teacher hears in a file, and how often a bundle is right on a dataset."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from edgeaudio.cli.data import CsvFile, DatasetKind, DatasetRoot, Fold, dataset_options
from edgeaudio.cli.options import BundleFile, Engine, Exits, Json, Precision, Threads, examples
from edgeaudio.cli.output import print_fields, print_json, print_table
from edgeaudio.cli.progress import Progress
from edgeaudio.cli.trust import RequiredTrust, RequireSignature, required_trust
from edgeaudio.errors import ConfigError

if TYPE_CHECKING:
    from edgeaudio.teachers.base import Teacher


def register(app: typer.Typer) -> None:
    """Add the verbs of this file to `app`."""
    tag_examples = examples(
        "edgeaudio tag --fetch dog.wav            first time: downloads 4 MB",
        "edgeaudio tag --weights mn04.pt --top 3 dog.wav",
    )
    app.command("tag", epilog=tag_examples)(tag)
    eval_examples = examples(
        "edgeaudio eval x.eab sounds",
        "edgeaudio eval x.eab ESC-50 --kind esc10 --fold 1 --precision int8",
    )
    app.command("eval", epilog=eval_examples)(evaluate)


def tag(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="Audio file; any format that libsndfile reads.")],
    teacher: Annotated[str, typer.Option(help="Foundation model; see 'edgeaudio list teachers'.")] = "mn04",
    weights: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Checkpoint. Default: the one in the cache folder.")
    ] = None,
    fetch: Annotated[bool, typer.Option("--fetch", help="Download the checkpoint if it is not there.")] = False,
    top: Annotated[int, typer.Option(min=1, help="How many tags to show.")] = 5,
    as_json: Json = False,
) -> None:
    """Show what a foundation model hears in an audio file."""
    from edgeaudio.audio.files import decode_file
    from edgeaudio.teachers.tagging import tag as tag_waveform

    audio = decode_file(file)
    tags = tag_waveform(_load_teacher(teacher, weights, fetch), audio.waveform, audio.sample_rate, top)
    if as_json:
        print_json({"file": file, "teacher": teacher, "tags": tags})
    else:
        print_table(
            ("PROBABILITY", "TAG", "AUDIOSET ID"), [(f"{item.prob:.3f}", item.label, item.mid) for item in tags]
        )


def evaluate(
    bundle: BundleFile,
    root: DatasetRoot,
    kind: DatasetKind = "folder",
    csv_file: CsvFile = None,
    fold: Fold = None,
    engine: Engine = "onnx",
    precision: Precision = "fp32",
    threads: Threads = 1,
    exits: Exits = False,
    require_signature: RequireSignature = False,
    trust: RequiredTrust = None,
    as_json: Json = False,
) -> None:
    """Measure how often a bundle is right on the clips of a dataset.

    The labels of the dataset must be labels of the bundle. Clips that cannot be decoded are listed.
    """
    from edgeaudio.data.datasets import load_dataset
    from edgeaudio.pipeline.evaluation import evaluate_bundle
    from edgeaudio.runtime.classifier import Classifier

    classifier = Classifier.load(
        bundle,
        engine=engine,
        precision=precision,
        threads=threads,
        exits=exits,
        require_signature=required_trust(require_signature, trust),
    )
    dataset = load_dataset(kind, root, **dataset_options(csv_file))
    result = evaluate_bundle(classifier, dataset, fold=fold, progress=Progress().titled("classifying"))
    if as_json:
        print_json(result)
    else:
        print_fields(result)


def _load_teacher(name: str, weights: Path | None, fetch: bool) -> Teacher:
    from edgeaudio.catalog import resolve

    teacher: Any = resolve("teachers", name)
    if not hasattr(teacher, "load"):
        raise ConfigError(f"teacher {name!r} is trained inside a recipe and has no published weights. Use mn04.")
    if fetch:
        module = importlib.import_module(teacher.__module__)
        weights = module.fetch_weights(to=weights, progress=Progress().titled("downloading bytes"))
    loaded: Teacher = teacher.load(weights)
    return loaded
