"""Verbs that execute a recipe: `run`, its single steps, `demo`, and `report`."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edgeaudio.cli.bench import print_bench
from edgeaudio.cli.options import Json, Overrides, RecipeFile, Work, examples
from edgeaudio.cli.output import format_bytes, print_json, print_table
from edgeaudio.cli.progress import Progress
from edgeaudio.errors import ConfigError

if TYPE_CHECKING:
    from edgeaudio.pipeline.summary import RunSummary

STAGES = "data, label, distill, prune, exits, quantize, export or verify"

#: Verb -> (stage it ends with, what its help says).
STEPS = {
    "label": ("label", "Run a recipe up to the teacher's labels, kept for good."),
    "distill": ("distill", "Run a recipe up to the trained student."),
    "prune": ("prune", "Run a recipe up to the student cut to its budget."),
    "quantize": ("quantize", "Run a recipe up to the int8 student."),
    "export": ("export", "Run a recipe up to the exported artefacts (ONNX, TFLite)."),
    "verify": ("verify", "Run a recipe up to the gates that every artefact must pass."),
}


def register(app: typer.Typer) -> None:
    """Add the verbs of this file to `app`."""
    run_examples = examples(
        "edgeaudio run recipes/esc10.yaml",
        "edgeaudio run recipes/esc10.yaml --set seed=1 --work work/seed1",
        "edgeaudio run recipes/esc10.yaml --from export",
    )
    app.command("demo", epilog=examples("edgeaudio demo", "edgeaudio demo --work work/demo"))(demo)
    app.command("run", epilog=run_examples)(run)
    for verb, (stage, purpose) in STEPS.items():
        _register_step(app, verb, stage, purpose)
    report_examples = examples("edgeaudio report work/esc10", "edgeaudio report work/esc10 --out esc10.html")
    app.command("report", epilog=report_examples)(report)


def demo(
    work: Annotated[Path, typer.Option("--work", metavar="DIR", help="Work directory.")] = Path("work/demo"),
    as_json: Json = False,
) -> None:
    """Run the whole pipeline on the built-in dataset.

    Takes a few minutes on 2 cores. A second run does nothing; a run that was stopped goes on where it was.
    """
    from edgeaudio.pipeline.demo import run_demo

    result = run_demo(work, progress=Progress(), progress_bar=_is_live())
    if as_json:
        verdict = result.bench.verdict
        print_json({"summary": result.summary, "bundle": result.bundle, "report": result.report, "bench": verdict})
        return
    _print_summary(result.summary, work, as_json=False)
    print()
    print_bench(result.bench)
    print(f"\nreport: {result.report}")
    _print_next(
        f"edgeaudio stream {result.bundle} --input FILE.wav --precision int8",
        f"edgeaudio bundle show {result.bundle}",
        "edgeaudio run recipes/folder.yaml --set data.root=FOLDER     your own sounds",
    )


def run(
    recipe: RecipeFile,
    overrides: Overrides = None,
    work: Work = None,
    from_stage: Annotated[
        str | None, typer.Option("--from", metavar="STAGE", help=f"Redo this stage and all after it: {STAGES}.")
    ] = None,
    until_stage: Annotated[str | None, typer.Option("--until", metavar="STAGE", help="Stop after this stage.")] = None,
    as_json: Json = False,
) -> None:
    """Run all stages of a recipe, from sounds to verified bundles.

    Finished stages are skipped while their inputs stay the same; a run that was stopped goes on
    where it was.
    """
    _run(recipe, overrides, work, from_stage, until_stage, as_json)


def report(
    work: Annotated[Path, typer.Argument(metavar="WORKDIR", help="Work directory of a run.")],
    out: Annotated[
        Path | None, typer.Option("--out", metavar="FILE", help="Where to write. Default: WORKDIR/report.html.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Write one HTML page about a run.

    It shows accuracy, size, cost and learning curves, and needs no network to be read.
    """
    from edgeaudio.pipeline.report_build import write_run_report

    path = write_run_report(work, out or work / "report.html")
    if as_json:
        print_json({"report": path})
    else:
        print(path)


def _register_step(app: typer.Typer, verb: str, stage: str, purpose: str) -> None:
    def step(recipe: RecipeFile, overrides: Overrides = None, work: Work = None, as_json: Json = False) -> None:
        _run(recipe, overrides, work, None, stage, as_json)

    text = f"{purpose}\n\nStages that are finished are skipped; 'edgeaudio run' goes on from here."
    app.command(verb, help=text, epilog=examples(f"edgeaudio {verb} {_example_recipe(verb)}"))(step)


def _example_recipe(verb: str) -> str:
    return "recipes/ladder-32k.yaml" if verb == "prune" else "recipes/esc10.yaml"


def _run(
    path: Path,
    overrides: list[str] | None,
    work: Path | None,
    from_stage: str | None,
    until_stage: str | None,
    as_json: bool,
) -> None:
    from edgeaudio.pipeline.config import load_config
    from edgeaudio.pipeline.recipe import Recipe
    from edgeaudio.pipeline.run import run_recipe

    if path.suffix == ".eab":
        raise ConfigError(f"{path} is a bundle, a recipe is wanted here. For a bundle: edgeaudio bundle check {path}")
    recipe = load_config(path, Recipe, overrides or [])
    work = work or Path("work") / recipe.name
    summary = run_recipe(
        recipe,
        work,
        from_stage=from_stage,
        until_stage=until_stage,
        progress=Progress(),
        progress_bar=_is_live(),
    )
    _print_summary(summary, work, as_json)
    if as_json:
        return
    if summary.folds:
        bundle = work / summary.folds[0].arms[0].bundle
        _print_next(f"edgeaudio bench {bundle} --out {work}/bench.json", f"edgeaudio report {work}")
    else:
        # Without the overrides it would be another recipe.
        same = "".join(f" --set {shlex.quote(override)}" for override in overrides or [])
        _print_next(f"edgeaudio run {path} --work {work}{same}")


def _print_summary(summary: RunSummary, work: Path, as_json: bool) -> None:
    if as_json:
        print_json(summary)
        return
    skipped = f", {summary.skipped_clips} clips left out" if summary.skipped_clips else ""
    print(f"{summary.name}: {summary.params} parameters, {summary.macs_per_window} MACs per window{skipped}")
    if not summary.folds:
        print(f"finished up to stage {summary.until}; work directory {work}")
        return
    n_clips = summary.n_clips
    per_fold = [str(fold.teacher_correct) for fold in summary.folds]
    rows: list[tuple[object, ...]] = [
        ("teacher", summary.teacher, *_share(summary.teacher_correct, n_clips), " ".join(per_fold), None)
    ]
    for arm in [result.arm for result in summary.folds[0].arms]:
        for name in summary.artefact_names(arm):
            sizes_bytes = summary.sizes(arm, name)
            size = format_bytes(max(sizes_bytes)) if sizes_bytes else None
            right = summary.per_fold(arm, name)
            rows.append((arm, name, *_share(sum(right), n_clips), " ".join(map(str, right)), size))
    print_table(("ARM", "MODEL", "CLIPS RIGHT", "ACCURACY", "PER FOLD", "SIZE"), rows)
    _print_paired(summary)
    for fold in summary.folds:
        print(f"bundle: {work / fold.arms[0].bundle}")


def _print_paired(summary: RunSummary) -> None:
    paired = summary.paired
    if paired is None:
        return
    gain = paired.only_first - paired.only_second
    print(
        f"distilled against labels only ({paired.artefact}, same student, same windows seen): {gain:+d} clips;\n"
        f"  only distilled right {paired.only_first}, only labels right {paired.only_second}, "
        f"exact p = {paired.p_value:.2g}"
    )


def _print_next(*commands: str) -> None:
    print("\nnext:")
    for command in commands:
        print(f"  {command}")


def _is_live() -> bool:
    return sys.stderr.isatty()


def _share(n_correct: int, n_clips: int) -> tuple[str, str]:
    return f"{n_correct} of {n_clips}", f"{n_correct / n_clips:.1%}"
