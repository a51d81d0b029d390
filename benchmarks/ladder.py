"""The ladder: the best student for each size, over seeds, with its proof.

    python benchmarks/ladder.py run ladder-128k ladder-32k --seeds 0 1 2 --root ../shared/data/esc10
    python benchmarks/ladder.py table

`run` executes `edgeaudio run recipes/NAME.yaml --set data.root=ROOT --set seed=SEED --work work/ladder` one after
the other, resumably, and keeps each summary (with every clip's prediction) in benchmarks/results/ladder/. All runs
share one work directory: stages are found by the digest of their inputs, so sounds are labelled once.
`table` writes benchmarks/results/ladder.md and ladder.svg from those summaries; it computes nothing anew.
"""

from __future__ import annotations

import argparse
import itertools
import subprocess
import sys
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from edgeaudio.pipeline.arms import DISTILLED
from edgeaudio.pipeline.report_build import read_summary
from edgeaudio.pipeline.report_stats import accuracy_interval, mcnemar_exact_p, paired_difference_interval
from edgeaudio.pipeline.summary import ArmResult, RunSummary
from edgeaudio.spec.fs import atomic_write

RESULTS = Path(__file__).parent / "results"
FOLDER = RESULTS / "ladder"
WORK = Path("work/ladder")
INT8 = ("onnx-int8", "tflite-int8")

Runs = dict[str, list[RunSummary]]


def command(name: str, seed: int, root: str, work: Path) -> list[str]:
    """What is typed to make one run."""
    sets = ["--set", f"data.root={root}", "--set", f"seed={seed}"]
    return ["edgeaudio", "run", f"recipes/{name}.yaml", *sets, "--work", str(work)]


def run(names: Sequence[str], seeds: Sequence[int], root: str, work: Path) -> None:
    """Make the runs that are asked for and keep their summaries."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    for name, seed in itertools.product(names, seeds):
        line = command(name, seed, root, work)
        print("+", " ".join(line), file=sys.stderr, flush=True)
        subprocess.run([str(Path(sys.executable).parent / line[0]), *line[1:]], check=True)
        text = read_summary(work).model_dump_json(indent=1)
        atomic_write(FOLDER / f"{name}-seed{seed}.json", text.encode() + b"\n")


def read_runs() -> Runs:
    """The kept summaries by recipe, seeds in order."""
    runs: Runs = defaultdict(list)
    # The recipe of recipes/esc10.yaml has a record of its own and is a rung like the others.
    for path in [*sorted(FOLDER.glob("*-seed*.json")), RESULTS / "esc10.json"]:
        summary = RunSummary.model_validate_json(path.read_bytes())
        runs[summary.name].append(summary)
    return {name: sorted(found, key=lambda summary: summary.seed) for name, found in sorted(runs.items())}


def arms_of(summary: RunSummary) -> list[str]:
    """Names of the trained arms."""
    return [arm.arm for arm in summary.folds[0].arms]


def best_artefact(summary: RunSummary, arm: str) -> str:
    """The smaller of the int8 files that were made: what stands for the student."""
    made = {name: max(sizes) for name in INT8 if (sizes := summary.sizes(arm, name))}
    return min(made, key=lambda name: made[name])


def size_bytes(summary: RunSummary, arm: str) -> int:
    """The largest of the folds' files of the artefact that stands for the student."""
    return max(summary.sizes(arm, best_artefact(summary, arm)))


def arm_results(summary: RunSummary, arm: str) -> list[ArmResult]:
    """The arm on every fold."""
    return [found for fold in summary.folds if (found := fold.arm(arm)) is not None]


def rows(runs: Runs) -> list[str]:
    """One line per recipe, arm and seed."""
    lines = [
        "| recipe | arm | seed | params | MACs per window | int8 file | bytes | clips right per fold | of 400 | fp32 "
        "| lost to int8 |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for name, summaries in runs.items():
        for summary, arm in ((s, arm) for s in summaries for arm in arms_of(s)):
            artefact = best_artefact(summary, arm)
            folds, before = summary.per_fold(arm, artefact), summary.per_fold(arm, "torch-fp32")
            results = arm_results(summary, arm)
            params = max(result.params or summary.params for result in results)
            macs = max(result.macs_per_window or summary.macs_per_window for result in results)
            lines.append(
                f"| {name} | {arm} | {summary.seed} | {params:,} | {macs:,} | {artefact} "
                f"| {size_bytes(summary, arm):,} | {' '.join(map(str, folds))} | **{sum(folds)}** "
                f"| {sum(before)} | {' '.join(str(a - b) for a, b in zip(before, folds, strict=True))} |"
            )
    return lines


def pooled_rows(runs: Runs) -> list[str]:
    """Recipes and arms with their seeds pooled."""
    lines = ["| recipe | arm | seeds | bytes | mean of 400 | accuracy | 95 % (Wilson, one seed's clips) |"]
    lines.append("| --- | --- | --- | --- | --- | --- | --- |")
    for name, summaries in runs.items():
        for arm in arms_of(summaries[0]):
            totals = [sum(s.per_fold(arm, best_artefact(s, arm))) for s in summaries if arm in arms_of(s)]
            n = summaries[0].n_clips
            mean = sum(totals) / len(totals)
            low, high = accuracy_interval(round(mean), n)
            largest = max(size_bytes(s, arm) for s in summaries if arm in arms_of(s))
            lines.append(
                f"| {name} | {arm} | {len(totals)} | {largest:,} | {mean:.1f} ({', '.join(map(str, totals))}) "
                f"| {mean / n:.2%} | {low:.1%} to {high:.1%} |"
            )
    return lines


def right(summary: RunSummary, arm: str) -> list[bool]:
    """For every test clip in order, whether the int8 student names one of its labels."""
    artefact = best_artefact(summary, arm)
    found = []
    for fold in summary.folds:
        result = fold.arm(arm)
        assert result is not None
        found += [top in labels for top, labels in zip(result.predictions[artefact], fold.labels, strict=True)]
    return found


def comparisons(runs: Runs) -> list[str]:
    """Every other arm against the distilled one, same clips, all seeds pooled."""
    lines = ["| recipe | against | seeds | only distilled right | only other right | difference | McNemar exact p |"]
    lines.append("| --- | --- | --- | --- | --- | --- | --- |")
    for name, summaries in runs.items():
        for arm in arms_of(summaries[0])[1:]:
            with_arm = [summary for summary in summaries if arm in arms_of(summary)]
            pairs = [p for s in with_arm for p in zip(right(s, DISTILLED), right(s, arm), strict=True)]
            only_first, only_second = pairs.count((True, False)), pairs.count((False, True))
            low, high = paired_difference_interval(only_first, only_second, len(pairs))
            clips = (only_first - only_second) / len(with_arm)
            lines.append(
                f"| {name} | {arm} | {len(with_arm)} | {only_first} | {only_second} "
                f"| {clips:+.1f} clips of 400 ({low:+.1%} to {high:+.1%}) "
                f"| {mcnemar_exact_p(only_first, only_second):.2g} |"
            )
    return lines if len(lines) > 2 else []


def exit_rows(runs: Runs) -> list[str]:
    """Chains of stages that stop where their thresholds allow, against the same student run to its end."""
    lines = [
        "| recipe | seed | chain | windows per exit | MACs saved | right per fold | of 400 | whole | lost per fold |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for name, summaries in runs.items():
        for summary in summaries:
            arms = arm_results(summary, DISTILLED)
            for chain in (found.name for found in arms[0].exits):
                lines.append(f"| {name} | {summary.seed} | {chain} | {_exit_cells(summary, arms, chain)} |")
    return lines if len(lines) > 2 else []


def _exit_cells(summary: RunSummary, arms: Sequence[ArmResult], chain: str) -> str:
    exits = [next(found for found in arm.exits if found.name == chain) for arm in arms]
    whole = [arm.correct(chain) for arm in arms]
    right = [found.n_correct for found in exits]
    # Folds have as many clips each; their windows are as good as equal in number.
    shares = [sum(column) / len(exits) for column in zip(*(found.share for found in exits), strict=True)]
    plain = [arm.macs_per_window or summary.macs_per_window for arm in arms]
    saved = sum(1 - found.mean_macs / macs for found, macs in zip(exits, plain, strict=True)) / len(exits)
    cells = [
        " / ".join(f"{share:.0%}" for share in shares),
        f"{saved:.1%}",
        " ".join(map(str, right)),
        f"**{sum(right)}**",
        str(sum(whole)),
        " ".join(str(before - after) for before, after in zip(whole, right, strict=True)),
    ]
    return " | ".join(cells)


def plot(runs: Runs, path: Path) -> None:
    """Accuracy against bytes with Wilson intervals, seeds pooled; the distilled arms alone."""
    import matplotlib

    matplotlib.use("svg")
    import matplotlib.pyplot as plt

    matplotlib.rcParams |= {"svg.hashsalt": "ladder", "svg.fonttype": "none", "font.size": 10}
    figure, axes = plt.subplots(figsize=(7.2, 3.8), layout="constrained")
    largest = {name: max(size_bytes(s, DISTILLED) for s in found) / 1024 for name, found in runs.items()}
    for name, summaries in runs.items():
        totals = [sum(s.per_fold(DISTILLED, best_artefact(s, DISTILLED))) for s in summaries]
        n, mean = summaries[0].n_clips, sum(totals) / len(totals)
        low, high = accuracy_interval(round(mean), n)
        kib = largest[name]
        share = mean / n
        errors = [[max(0.0, share - low)], [max(0.0, high - share)]]
        axes.errorbar([kib], [share], yerr=errors, fmt="o", color="#1f5fa8", capsize=4)
        # A neighbour just to the right leaves room on the left only.
        crowded = any(kib < other < 1.3 * kib for other in largest.values())
        place: dict[str, Any] = {"xytext": (-8, -4), "ha": "right"} if crowded else {"xytext": (8, -4)}
        axes.annotate(name, (kib, share), textcoords="offset points", fontsize=9, **place)
    teacher = next(iter(runs.values()))[0]
    axes.axhline(teacher.teacher_correct / teacher.n_clips, color="#888", linestyle="--", linewidth=1)
    above = {"textcoords": "offset points", "fontsize": 9}
    at = (0.01, teacher.teacher_correct / teacher.n_clips)
    axes.annotate("teacher mn04, whole clips", at, xycoords=("axes fraction", "data"), xytext=(0, 4), **above)
    axes.set_xscale("log", base=2)
    axes.set_xlabel("int8 file, KiB")
    axes.set_ylabel("ESC-10 clip accuracy")
    axes.xaxis.set_major_formatter(lambda value, _position: f"{value:g}")
    axes.yaxis.set_major_formatter(lambda value, _position: f"{value:.0%}")
    axes.grid(alpha=0.3)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    figure.savefig(path, metadata={"Date": None})


def table() -> None:
    """Write ladder.md and ladder.svg."""
    runs = read_runs()
    first = next(iter(runs.values()))[0]
    lines = [
        "# The ladder",
        "",
        "ESC-10, five official folds, int8 files run by the runtime; clip answer is the mean over windows. Each row:",
        "",
        "    python benchmarks/ladder.py run RECIPE --seeds SEED",
        "",
        f"Teacher {first.teacher}, whole clips: {first.teacher_correct} of {first.n_clips}.",
        "",
        "![accuracy against bytes](ladder.svg)",
        "",
        *pooled_rows(runs),
        "",
        *comparisons(runs),
        "",
        *exit_rows(runs),
        "",
        "## Every run",
        "",
        *rows(runs),
        "",
    ]
    atomic_write(RESULTS / "ladder.md", "\n".join(lines).encode())
    plot({name: found for name, found in runs.items() if name.startswith(("ladder-", "esc10"))}, RESULTS / "ladder.svg")
    print(f"wrote {RESULTS / 'ladder.md'} and ladder.svg")


def main() -> None:
    """See the module docstring."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    verbs = parser.add_subparsers(dest="verb", required=True)
    runner = verbs.add_parser("run")
    runner.add_argument("names", nargs="+")
    runner.add_argument("--seeds", type=int, nargs="+", default=[0])
    runner.add_argument("--root", default="../shared/data/esc10")
    runner.add_argument("--work", type=Path, default=WORK)
    verbs.add_parser("table")
    arguments = parser.parse_args()
    if arguments.verb == "run":
        run(arguments.names, arguments.seeds, arguments.root, arguments.work)
    else:
        table()


if __name__ == "__main__":
    main()
