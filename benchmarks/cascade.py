"""A cascade of two students against the larger one alone: clips right, multiply-accumulates, bytes and latency.

    python benchmarks/cascade.py FIRST_{fold}.eab THEN_{fold}.eab DATASET --out benchmarks/results/cascade

Templates name the bundles of each official fold. The threshold of a fold's cascade is chosen on the *other* folds,
where each fold's own pair of students is heard on its own test fold: no student was trained on a clip that it is
heard on, and no clip has a say in the threshold it is judged with. --bound SHARE ERRORS: what a threshold may lose
on the other folds, and by how many standard errors it stays below that; each bound is a table of its own. Clips are
classified by the runtime. Latency: thread CPU time of networks alone, one thread, windows of every fourth test clip;
cascade and student take turns clip by clip; of each window the median over rounds, of these the mean.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from recording import load_average, machine_facts, write_record

from edgeaudio.audio.files import decode_file
from edgeaudio.bundle import Bundle
from edgeaudio.compress.exit_calibration import ExitAnswers, calibrate_exits
from edgeaudio.data.datasets import Dataset, load_dataset
from edgeaudio.errors import ConfigError, EdgeAudioError
from edgeaudio.pipeline.cascading import join_students
from edgeaudio.pipeline.evaluation import clips_of, label_positions
from edgeaudio.pipeline.exit_curve import ExitLogits, clip_windows, exit_logits
from edgeaudio.pipeline.report_stats import mcnemar_exact_p
from edgeaudio.runtime import Cascade, Classifier
from edgeaudio.runtime.engines.base import Float32

ENGINES = {"onnx-int8": "onnx", "tflite-int8": "litert"}
#: Bar of early exits: at least this share of mean MACs saved, at no more than this share of clips lost.
BAR_SAVED, BAR_LOST = 0.5, 1 / 80
#: One threshold for all folds, replayed: shows the trade, chooses nothing.
SWEPT = (0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
ROUNDS = 5


@dataclass(frozen=True)
class Students:
    """The pair of one fold, and as one bundle."""

    fold: int
    first: Bundle
    then: Bundle
    both: Bundle

    @property
    def macs(self) -> tuple[int, ...]:
        """Of each stage."""
        assert self.both.manifest.exits is not None
        return self.both.manifest.exits.macs_per_stage


@dataclass(frozen=True)
class FoldResult:
    """One chain on its fold. clips: by id, whether (first, then, cascade) were right; share: of windows per exit."""

    fold: int
    threshold: float | None
    chosen_on_clips: int
    chosen_right: float
    chosen_right_alone: float
    clips: dict[str, tuple[bool, bool, bool]]
    share: tuple[float, ...]
    n_windows: int
    mean_macs: float
    macs_of_then: int
    model_bytes: int

    @property
    def right(self) -> tuple[int, int, int]:
        """Clips by first, then, cascade."""
        first, then, cascade = (sum(column) for column in zip(*self.clips.values(), strict=True))
        return first, then, cascade


@dataclass(frozen=True)
class Latency:
    """Mean over windows of medians over rounds, CPU microseconds. by_fold: (cascade, then) of each."""

    engine: str
    by_fold: dict[int, tuple[float, float]]
    cascade_us: float
    then_us: float
    n_windows: int
    #: Process CPU over thread CPU while it ran: above 1 an engine works in other threads too.
    other_threads: float


@dataclass(frozen=True)
class Bound:
    """All that was measured with thresholds chosen under one bound; results by chain, in the order of folds."""

    max_drop: float
    standard_errors: float
    results: dict[str, list[FoldResult]]
    latencies: list[Latency]


def read_students(first: str, then: str, folds: Sequence[int]) -> list[Students]:
    """The pairs of all folds.

    Raises:
        ConfigError: a template without {fold}, or folds whose students cost differently.
    """
    pairs = []
    for fold in folds:
        bundles = [Bundle.read(Path(template.format(fold=fold))) for template in (first, then)]
        pairs.append(Students(fold, *bundles, Bundle.read(join_students(*bundles))))
    if "{fold}" not in first or "{fold}" not in then or len({pair.macs for pair in pairs}) != 1:
        raise ConfigError("wanted two templates with {fold}, for folds whose students cost alike")
    return pairs


def pooled(chain: int, heard: Sequence[ExitLogits], macs: Sequence[int]) -> ExitAnswers:
    """The answers of one chain on several folds, each by its own students."""
    logits = np.concatenate([found.logits[chain] for found in heard], axis=1)
    first_of = np.cumsum([0, *(found.clips.max() + 1 for found in heard[:-1])])
    clips = np.concatenate([found.clips + first for found, first in zip(heard, first_of, strict=True)])
    return ExitAnswers(logits, np.concatenate([found.targets for found in heard]), macs, clips=clips)


def fold_result(
    students: Students, chain: str, chosen: ExitAnswers, bound: tuple[float, float], dataset: Dataset
) -> FoldResult:
    """Choose the threshold on `chosen`, then classify the fold's clips with it, and with each student alone."""
    found = calibrate_exits(chosen, bound[0], standard_errors=bound[1])
    engine, n_exits = ENGINES[chain], len(students.macs)
    options: dict[str, Any] = {"engine": engine, "precision": "int8"}
    contestants = [
        Classifier(students.first, **options),
        Classifier(students.then, **options),
        Classifier(students.both, **options, exits=True, thresholds=found.thresholds),
    ]
    position = label_positions(students.both.manifest.task, dataset)
    clips, exits = {}, np.zeros(n_exits, np.int64)
    for clip in clips_of(dataset, students.fold):
        audio = decode_file(clip.path)
        results = [classifier(audio.waveform, audio.sample_rate) for classifier in contestants]
        wanted = position[clip.labels[0]]
        first, then, cascade = (int(result.probs.argmax()) == wanted for result in results)
        clips[clip.id] = (first, then, cascade)
        taken = results[2].window_exits
        assert taken is not None
        exits += np.bincount(taken, minlength=n_exits)
    assert chosen.n_clips is not None
    format, precision = chain.split("-")
    return FoldResult(
        fold=students.fold,
        threshold=found.thresholds[0],
        chosen_on_clips=chosen.n_clips,
        chosen_right=found.accuracy,
        chosen_right_alone=found.full_accuracy,
        clips=clips,
        share=tuple((exits / exits.sum()).tolist()),
        n_windows=int(exits.sum()),
        mean_macs=float(exits @ np.cumsum(students.macs) / exits.sum()),
        macs_of_then=students.then.manifest.cost.macs_per_window,
        model_bytes=students.both.manifest.exit_chain(format, precision).size_bytes,
    )


def timed(runs: Sequence[Callable[[Float32], object]], clips: Sequence[Float32], rounds: int) -> list[float]:
    """CPU microseconds per window of each, taking turns clip by clip: the mean of medians."""
    taken: list[list[list[int]]] = [[] for _ in runs]
    for number in range(rounds + 1):
        measured: list[list[int]] = [[] for _ in runs]
        for at, windows in enumerate(clips):
            order = range(len(runs)) if (at + number) % 2 else range(len(runs) - 1, -1, -1)
            for which in order:
                run, samples = runs[which], measured[which]
                for window in windows:
                    begun = time.thread_time_ns()
                    run(window)
                    samples.append(time.thread_time_ns() - begun)
        if number:  # The first round warms up.
            for samples, kept in zip(measured, taken, strict=True):
                kept.append(samples)
    return [float(np.median(kept, axis=0).mean()) / 1e3 for kept in taken]


def latency(pairs: Sequence[Students], results: Sequence[FoldResult], chain: str, dataset: Dataset) -> Latency:
    """The cascade with its thresholds beside the larger student alone, on one engine, over all test folds."""
    engine, by_fold, weights = ENGINES[chain], {}, []
    process, thread = time.process_time_ns(), time.thread_time_ns()
    for students, result in zip(pairs, results, strict=True):
        clips = [clip_windows(clip, students.both.manifest) for clip in clips_of(dataset, students.fold)[::4]]
        cascade = Cascade.of_bundle(students.both, engine=engine, precision="int8", thresholds=[result.threshold])
        alone = Cascade.of_bundle(students.both, engine=engine, precision="int8", thresholds=[None])
        student = alone._stages[1]
        found = timed([cascade.run, student.run], clips, ROUNDS)
        by_fold[students.fold] = (found[0], found[1])
        weights.append(sum(map(len, clips)))
    means = np.average(np.array(list(by_fold.values())), axis=0, weights=weights)
    other_threads = (time.process_time_ns() - process) / (time.thread_time_ns() - thread)
    return Latency(engine, by_fold, float(means[0]), float(means[1]), sum(weights), other_threads)


def verdict(chain: str, results: Sequence[FoldResult]) -> tuple[str, str]:
    """The row of all folds together, and a line on the bar."""
    n_clips = sum(len(result.clips) for result in results)
    first, then, cascade = (sum(column) for column in zip(*(result.right for result in results), strict=True))
    windows = [result.n_windows for result in results]
    shares = np.average([result.share for result in results], axis=0, weights=windows)
    of_then = float(np.average([result.mean_macs / result.macs_of_then for result in results], weights=windows))
    right = [flags for result in results for flags in result.clips.values()]
    gained = sum(both and not alone for _, alone, both in right)
    lost = sum(alone and not both for _, alone, both in right)
    p = mcnemar_exact_p(lost, gained)
    reached = 1 - of_then >= BAR_SAVED and then - cascade <= BAR_LOST * n_clips
    row = (
        f"| {chain} | all | | {first} | {then} | **{cascade}** | {shares[0]:.1%} | {shares[1]:.1%} "
        f"| **{of_then:.1%}** | {max(result.model_bytes for result in results):,} | {lost} : {gained} | {p:.2g} |"
    )
    told = (
        f"- {chain}: {1 - of_then:.1%} of the mean MACs saved for {then - cascade} of {n_clips} clips "
        f"({lost} lost, {gained} won): {'reached' if reached else 'missed'}."
    )
    return row, told


def fold_row(chain: str, result: FoldResult) -> str:
    """One fold."""
    first, then, cascade = result.right
    lost = sum(alone and not both for _, alone, both in result.clips.values())
    gained = sum(both and not alone for _, alone, both in result.clips.values())
    threshold = "never" if result.threshold is None else f"{result.threshold:.4f}"
    return (
        f"| {chain} | {result.fold} | {threshold} | {first} | {then} | {cascade} | {result.share[0]:.1%} "
        f"| {result.share[1]:.1%} | {result.mean_macs / result.macs_of_then:.1%} | {result.model_bytes:,} "
        f"| {lost} : {gained} | {mcnemar_exact_p(lost, gained):.2g} |"
    )


def sweep_rows(chain: str, answers: ExitAnswers, macs_of_then: int) -> list[str]:
    """One threshold for all folds."""
    assert answers.n_clips is not None
    rows = []
    for threshold in (*SWEPT, None):
        found = answers.outcome([threshold])
        name = "never" if threshold is None else f"{threshold:g}"
        rows.append(
            f"| {chain} | {name} | {round(found.accuracy * answers.n_clips)} | {found.share[0]:.1%} "
            f"| {found.mean_macs / macs_of_then:.1%} |"
        )
    return rows


def section(bound: Bound) -> list[str]:
    """One bound: all folds of all chains, the verdicts, and the latency."""
    lines = [
        f"## Bound: {bound.max_drop:.2%} of the other folds' clips, "
        f"standard errors to spare: {bound.standard_errors:g}",
        "",
        "| chain | fold | threshold | first | then | cascade | stop at first | go on | MACs | bytes | lost : won | p |",
        "| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | --- | ---: |",
    ]
    verdicts = []
    for chain, found in bound.results.items():
        lines += [fold_row(chain, result) for result in found]
        row, told = verdict(chain, found)
        lines.append(row)
        verdicts.append(told)
    return [
        *lines,
        "",
        *verdicts,
        "",
        "| engine | cascade, µs per window | larger alone | cascade / alone |",
        "| --- | ---: | ---: | ---: |",
        *(
            f"| {item.engine} | {item.cascade_us:.1f} | {item.then_us:.1f} | **{item.cascade_us / item.then_us:.2f}** |"
            for item in bound.latencies
        ),
        "",
    ]


def table(facts: dict[str, Any], bounds: list[Bound], sweeps: list[str]) -> str:
    """Markdown."""
    n_windows = bounds[0].latencies[0].n_windows
    lines = [
        "# A cascade of two students against the larger one alone",
        "",
        f"    {facts['command']}",
        "",
        f"{facts['dataset']}, official folds, int8, by the runtime. First: {facts['macs'][0]:,} MACs per window, then: "
        f"{facts['macs'][1]:,}. The threshold of a fold is the cheapest that keeps the bound on the clips of the "
        "*other* folds, each heard by its own fold's students. MACs: mean per window, the first student included, "
        "over those of the larger alone. Bytes: both model files. Lost : won: clips that only the larger alone, only "
        "the cascade has right; p: McNemar, exact.",
        "",
        f"Latency: CPU of the networks alone, one thread, {n_windows:,} windows, median of {ROUNDS} rounds each, mean "
        "over windows; cascade and student take turns clip by clip. "
        f"{facts['cpu']}, {facts['cores']} cores; {facts['packages']}. Load average {facts['load_before']:.1f} before "
        f"and {facts['load_after']:.1f} after: {facts['quiet']}. *Not run on hardware.*",
        "",
        f"Bar: at least {BAR_SAVED:.0%} of mean MACs saved at no more than 1 clip per 80.",
        "",
        *(line for bound in bounds for line in section(bound)),
        "## One threshold for all folds",
        "",
        "Replayed on all test clips, to show the trade. Nothing was chosen here.",
        "",
        "| chain | threshold | clips right | stop at first | MACs |",
        "| --- | ---: | ---: | ---: | ---: |",
        *sweeps,
    ]
    return "\n".join(lines) + "\n"


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("first", help="template of the smaller bundles, with {fold}")
    parser.add_argument("then", help="template of the larger bundles, with {fold}")
    parser.add_argument("dataset", type=Path)
    parser.add_argument("--kind", default="esc10")
    parser.add_argument("--bound", type=float, nargs=2, action="append", metavar=("SHARE", "ERRORS"))
    parser.add_argument("--out", type=Path, required=True, help="without suffix")
    return parser.parse_args()


def judged(
    pairs: Sequence[Students], heard: Sequence[ExitLogits], bound: tuple[float, float], dataset: Dataset
) -> Bound:
    """Choose every fold's threshold on the other folds and measure it on its own."""
    results: dict[str, list[FoldResult]] = {}
    for number, chain in enumerate(ENGINES):
        results[chain] = []
        for students in pairs:
            others = [found for pair, found in zip(pairs, heard, strict=True) if pair.fold != students.fold]
            chosen = pooled(number, others, students.macs)
            results[chain].append(fold_result(students, chain, chosen, bound, dataset))
            print(fold_row(chain, results[chain][-1]), file=sys.stderr, flush=True)
    return Bound(*bound, results, [latency(pairs, results[chain], chain, dataset) for chain in ENGINES])


def run(arguments: argparse.Namespace) -> None:
    """Measure and write."""
    load_before = load_average()
    dataset = load_dataset(arguments.kind, arguments.dataset)
    pairs = read_students(arguments.first, arguments.then, dataset.folds())
    macs, macs_of_then = pairs[0].macs, pairs[0].then.manifest.cost.macs_per_window
    heard = []
    for students in pairs:
        cascades = [Cascade.of_bundle(students.both, engine=engine, precision="int8") for engine in ENGINES.values()]
        heard.append(exit_logits(students.both.manifest, cascades, dataset, clips_of(dataset, students.fold)))
        print(f"fold {students.fold}: all stages heard all clips", file=sys.stderr, flush=True)
    bounds = [judged(pairs, heard, bound, dataset) for bound in arguments.bound or [(BAR_LOST, 1.0)]]
    sweeps = [
        row
        for number, chain in enumerate(ENGINES)
        for row in sweep_rows(chain, pooled(number, heard, macs), macs_of_then)
    ]
    facts = {
        "dataset": dataset.name,
        "macs": list(macs),
        "bundles": {
            str(pair.fold): {
                "first": pair.first.sha256,
                "then": pair.then.sha256,
                "seed": pair.then.manifest.lineage.seed,
            }
            for pair in pairs
        },
        **machine_facts(load_before),
    }
    write_record(arguments.out, table(facts, bounds, sweeps), facts | {"bounds": [asdict(bound) for bound in bounds]})


def main() -> int:
    """See the module docstring."""
    try:
        run(parse_arguments())
    except EdgeAudioError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
