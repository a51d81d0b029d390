"""From the marks of counted runs to estimates. Pure; starts nothing."""

from __future__ import annotations

import statistics
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence

from edgeaudio.bench.counting import NOTHING, OUTSIDE, Label
from edgeaudio.bench.emulation.counts import parse_segments, spread
from edgeaudio.bench.emulation.ipc import Basis
from edgeaudio.bench.schema import InstructionEstimate
from edgeaudio.errors import BenchInvalidError

#: Stage -> instructions, one per hop.
StageCounts = Mapping[str, Sequence[int]]
# The agent says now and then that it is alive: a hop in which it did is left out, but no more than half of them.
_LEAST_CLEAN_SHARE = 0.5


def counts_of(text: str, labels: Sequence[Label], source: str) -> dict[int, StageCounts]:
    """What the plugin wrote in one process -> the counts of each artefact, by its place in the result.

    What a mark itself costs is subtracted.

    Raises:
        BenchInvalidError: the marks are not those of `labels`, or other threads worked while hops were counted.
    """
    segments = parse_segments(text, source)
    if len(segments) != len(labels) - 1:
        raise BenchInvalidError(f"{source}: {len(segments) + 1} marks were counted, {len(labels)} were set")
    empty = [segment.own for segment, label in zip(segments, labels, strict=False) if label.stage == NOTHING]
    if not empty:
        raise BenchInvalidError(f"{source}: nobody counted what a mark costs")
    mark = round(statistics.median(empty))
    total: Counter[Label] = Counter()
    helped = set()
    for segment, label in zip(segments, labels, strict=False):
        if label.stage in (NOTHING, OUTSIDE):
            continue
        total[label] += max(0, segment.own - mark)
        if segment.helped:
            helped.add(label)
    return _by_artefact(total, helped, source)


def _by_artefact(total: Mapping[Label, int], helped: set[Label], source: str) -> dict[int, StageCounts]:
    kept: defaultdict[int, defaultdict[str, list[int]]] = defaultdict(lambda: defaultdict(list))
    n_hops = Counter((label.artefact, label.stage) for label in total)
    for label in sorted(total):
        if label not in helped:
            kept[label.artefact][label.stage].append(total[label])
    for (artefact, stage), n in n_hops.items():
        clean = len(kept[artefact][stage])
        if clean < _LEAST_CLEAN_SHARE * n:
            raise BenchInvalidError(
                f"{source}: other threads worked during {stage} of artefact {artefact} in {n - clean} of {n} hops; "
                "wanted one thread"
            )
    return {artefact: dict(stages) for artefact, stages in kept.items()}


def estimate(processes: Sequence[StageCounts], *, cpu: str, emulator: str, basis: Basis) -> InstructionEstimate:
    """One artefact, counted in several processes.

    The spread is that of the processes' medians: hops differ among themselves where a model may answer early.

    Raises:
        BenchInvalidError: no inference was counted, or none that ran an instruction.
    """
    inferences = [process.get("inference", ()) for process in processes]
    medians = [statistics.median(counts) for counts in inferences if counts]
    if len(medians) != len(processes) or not medians or min(medians) < 1:
        raise BenchInvalidError(f"{cpu}: an inference was not counted")
    stages = {
        stage: round(statistics.median([count for process in processes for count in process.get(stage, ())]))
        for stage in processes[0]
    }
    instructions = stages["inference"]
    return InstructionEstimate(
        cpu=cpu,
        emulator=emulator,
        instructions_per_inference=instructions,
        instructions_per_stage=stages,
        spread_share=spread(medians),
        n_counts=sum(map(len, inferences)),
        clock_mhz=basis.clock_mhz,
        ipc=basis.ipc,
        latency_ms=basis.latency_ms(instructions),
        calibrated_on=basis.calibrated_on,
    )
