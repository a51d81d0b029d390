"""`sweep`: the same recipe with other parameters, and which of them are worth having."""

from __future__ import annotations

import sys
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edgeaudio.cli.options import Json, Overrides, RecipeFile, Work, examples
from edgeaudio.cli.output import format_bytes, print_json, print_table
from edgeaudio.cli.progress import Progress

if TYPE_CHECKING:
    from edgeaudio.pipeline.sweep_spec import SweepResult, SweepTrial

WIDTH = 80


def register(app: typer.Typer) -> None:
    """Add the verb of this file to `app`."""
    sweep_examples = examples(
        "edgeaudio sweep recipes/sweep.yaml",
        "edgeaudio sweep recipes/sweep.yaml --trials 40 --work work/sweep",
    )
    app.command("sweep", epilog=sweep_examples)(sweep)


def sweep(
    recipe: RecipeFile,
    trials: Annotated[
        int | None,
        typer.Option(min=1, help="Trials in all, finished ones included. Default: the recipe's sweep.trials."),
    ] = None,
    overrides: Overrides = None,
    work: Work = None,
    as_json: Json = False,
) -> None:
    """Try many settings of a recipe: accuracy, bytes, latency.

    What varies stands in the recipe under 'sweep'. Each trial is judged on a fold inside the training
    data, never on a test fold. A sweep that was stopped goes on where it was.
    """
    from edgeaudio.pipeline.sweep import load_sweep, run_sweep

    loaded = load_sweep(recipe, tuple(overrides or ()))
    work = work or Path("work") / loaded.recipe.name
    result = run_sweep(loaded, work, trials=trials, progress=Progress(), progress_bar=sys.stderr.isatty())
    if as_json:
        print_json(result)
    else:
        print_sweep(result, work)


def print_sweep(result: SweepResult, work: Path) -> None:
    """The Pareto-optimal trials as a table of 80 columns, then the command for the first of them."""
    failed = f", {len(result.failed)} failed" if result.failed else ""
    print(f"{result.name}: {len(result.trials)} trials{failed}, judged on fold {result.validation_fold}")
    for trial in result.failed:
        if trial.same_as is None:
            print(textwrap.shorten(f"  trial {trial.number} failed: {trial.reason}", WIDTH, placeholder=" ..."))
    if not result.front:
        return
    print("Pareto-optimal:")
    figures = [[str(trial.number), *_figures(trial)] for trial in result.front]
    header = ["TRIAL", *(objective.upper() for objective in result.objectives)]
    used = sum(max(map(len, column)) + 2 for column in zip(header, *figures, strict=True))
    rows: list[list[object]] = []
    for trial, cells in zip(result.front, figures, strict=True):
        lines = _parameters(trial, WIDTH - used)
        rows.append([*cells, lines[0]])
        rows += [[*("" for _ in cells), line] for line in lines[1:]]
    print_table([*header, "PARAMETERS"], rows)
    if any(trial.notes for trial in result.front):
        print("Some latencies were measured on a busy machine; sweep.json says which.")
    first = result.front[0]
    print(f"\nnext, with the parameters of trial {first.number}, on the recipe's own test folds:")
    print(f"  {first.command}")
    print(f"  edgeaudio report {work}")


def _figures(trial: SweepTrial) -> list[str]:
    forms = {
        "accuracy": "{:.1%}".format,
        "bytes": lambda value: format_bytes(int(value)),
        "latency": "{:.3g} ms".format,
        "macs": "{:,.0f}".format,
    }
    return [forms[objective](value) for objective, value in trial.objectives.items()]


def _parameters(trial: SweepTrial, width: int) -> list[str]:
    """`field=value` in lines of at most `width` characters; a field that is longer by itself is kept whole."""
    words = [f"{field}={_short(value)}" for field, value in trial.parameters.items()]
    return textwrap.wrap(" ".join(words), max(width, 20), break_long_words=False, break_on_hyphens=False)


def _short(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
