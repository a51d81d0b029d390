"""Keep a finished run: its summary (with every clip's prediction) and a table that a person can read.

    python benchmarks/record_run.py work/esc10 --command "edgeaudio run ..." --out benchmarks/results/esc10

writes OUT.json and OUT.md. Nothing is computed anew: counts come from the summary that the run sealed.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from recording import write_record

from edgeaudio.bench.probes.linux import cpu_description
from edgeaudio.pipeline.report_build import read_summary
from edgeaudio.pipeline.report_stats import accuracy_interval, paired_difference_interval
from edgeaudio.pipeline.summary import RunSummary


def row(name: str, per_fold: list[int], summary: RunSummary, size_bytes: int | None) -> str:
    """One line of the table."""
    total = sum(per_fold)
    low, high = accuracy_interval(total, summary.n_clips)
    size = "" if size_bytes is None else f"{size_bytes:,}"
    folds = " | ".join(map(str, per_fold))
    return f"| {name} | {folds} | **{total}** | {total / summary.n_clips:.2%} | {low:.1%} to {high:.1%} | {size} |"


def table(summary: RunSummary) -> list[str]:
    """Clips right per fold for the teacher and every artefact of every arm."""
    folds = " | ".join(f"fold {fold.fold}" for fold in summary.folds)
    lines = [
        f"| model | {folds} | of {summary.n_clips} | accuracy | 95 % (Wilson) | largest file, bytes |",
        "| --- |" + " --- |" * (len(summary.folds) + 4),
        row(f"teacher {summary.teacher}, whole clips", [f.teacher_correct for f in summary.folds], summary, None),
    ]
    for arm in [result.arm for result in summary.folds[0].arms]:
        for name in summary.artefact_names(arm):
            sizes = summary.sizes(arm, name)
            lines.append(row(f"{arm}: {name}", summary.per_fold(arm, name), summary, max(sizes) if sizes else None))
    return lines


def paired(summary: RunSummary) -> list[str]:
    """The comparison of the two arms, if both were trained."""
    result = summary.paired
    if result is None:
        return []
    low, high = paired_difference_interval(result.only_first, result.only_second, summary.n_clips)
    return [
        f"Distilled against labels only, {result.artefact}, same student, same windows seen: "
        f"both right {result.both_right}, only distilled {result.only_first}, only labels {result.only_second}, "
        f"neither {result.both_wrong}; difference {(result.only_first - result.only_second) / summary.n_clips:+.2%} "
        f"(95 %: {low:+.1%} to {high:+.1%}), McNemar exact p = {result.p_value:.2g}.",
        "",
    ]


def agreement(summary: RunSummary) -> list[str]:
    """Clips on which each artefact names the class that torch names, and the largest logit difference."""
    lines = ["| artefact (distilled) | same class as torch | windows with the same class | largest logit difference |"]
    lines.append("| --- | --- | --- | --- |")
    arms = [arm for fold in summary.folds if (arm := fold.arm("distilled")) is not None]
    for name in summary.artefact_names("distilled")[1:]:
        same = sum(
            a == b for arm in arms for a, b in zip(arm.predictions[name], arm.predictions["torch-fp32"], strict=True)
        )
        items = [item for arm in arms for item in arm.artefacts if item.name == name]
        windows = min(item.argmax_agreement or 0.0 for item in items)
        gap = max(item.max_abs_logit_diff or 0.0 for item in items)
        lines.append(f"| {name} | {same} of {summary.n_clips} | {windows:.2%} (worst fold) | {gap:.2g} |")
    return lines


def main() -> None:
    """See the module docstring."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("work", type=Path)
    parser.add_argument("--command", required=True, help="what was typed to make the run")
    parser.add_argument("--out", type=Path, required=True, help="without suffix")
    arguments = parser.parse_args()
    summary = read_summary(arguments.work)
    training_min = sum(s for stage, s in summary.stage_wall_s.items() if stage.startswith(("pretrain", "distill"))) / 60
    lines = [
        f"# {summary.name}",
        "",
        f"    {arguments.command}",
        "",
        f"Seed {summary.seed}, recipe {summary.recipe_digest[:12]}, {summary.params:,} parameters, "
        f"{summary.macs_per_window:,} multiply-accumulates per window, {training_min:.0f} minutes of training stages "
        f"in all on {cpu_description()[0]} (one thread each). Clips right per official test fold:",
        "",
        *table(summary),
        "",
        *paired(summary),
        *agreement(summary),
        "",
    ]
    write_record(arguments.out, "\n".join(lines), summary)


if __name__ == "__main__":
    main()
