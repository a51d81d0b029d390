"""What watching the board costs the benchmark that it watches: latencies with the watch against those without.

    PYTHONPATH=. python benchmarks/board_watch_cost.py work/esc10/bundles/esc10-fold1.eab

One window through the classifier again and again on one thread, in turns without a watch and with one on recorded
boards: a Jetson Orin (61 files a second) and a Raspberry Pi 5 (26 files, and every 5 s three commands; for each a
process is really started). Ratios to the turn without, medians over repetitions. Writes Markdown to stdout.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from edgeaudio.bench.probes import BoardWatch, Completed, run_command
from edgeaudio.bundle import Bundle
from edgeaudio.runtime import Classifier
from tests.boards import RecordedRunner, recorded_board

NOTHING = "no watch"


@dataclass
class StartedRunner:
    """The recorded replies, at the price of a process each."""

    recorded: RecordedRunner

    def __call__(self, argv: Sequence[str], deadline_s: float) -> Completed | None:
        run_command(["true"], deadline_s)
        return self.recorded(argv, deadline_s)


@dataclass(frozen=True)
class Turn:
    """Latencies of one turn, microseconds, and the cores that the watch kept busy."""

    p50_us: float
    p99_us: float
    p999_us: float
    watch_busy_cores: float


def measure(classifier: Classifier, bundle: Bundle, watch: BoardWatch | None, seconds: float) -> Turn:
    """One turn."""
    times, log_mel = [], bundle.golden.log_mel[0]
    with watch or nullcontext():
        if watch is not None:
            watch.timing()
        end = time.perf_counter() + seconds
        while time.perf_counter() < end:
            start = time.perf_counter_ns()
            classifier.window_probs(log_mel)
            times.append((time.perf_counter_ns() - start) / 1e3)
    p50, p99, p999 = np.percentile(times, [50, 99, 99.9])
    return Turn(p50, p99, p999, watch.record().watch_busy_cores or 0.0 if watch else 0.0)


def main() -> int:
    """See the module docstring."""
    parser = argparse.ArgumentParser()
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--seconds", type=float, default=11.0)
    parser.add_argument("--repeat", type=int, default=5)
    arguments = parser.parse_args()
    bundle = Bundle.read(arguments.bundle)
    classifier = Classifier(bundle, engine="onnx", precision="int8", threads=1)
    with tempfile.TemporaryDirectory() as folder:
        watches: dict[str, BoardWatch | None] = {NOTHING: None}
        for name in ("jetson-orin-nano", "raspberry-pi-5"):
            root, runner = recorded_board(name, Path(folder))
            watches[name] = BoardWatch(root, StartedRunner(runner))
        turns: dict[str, list[Turn]] = {name: [] for name in watches}
        for _ in range(arguments.repeat):
            for name, watch in watches.items():
                turns[name].append(measure(classifier, bundle, watch, arguments.seconds))
    print("| watch | p50 | p99 | p99.9 | cores it kept busy |")
    print("| --- | --- | --- | --- | --- |")
    for name, own in turns.items():
        ratios = [
            statistics.median(
                getattr(turn, field) / getattr(base, field) for turn, base in zip(own, turns[NOTHING], strict=True)
            )
            for field in ("p50_us", "p99_us", "p999_us")
        ]
        busy = statistics.median(turn.watch_busy_cores for turn in own)
        print(f"| {name} | {' | '.join(f'{ratio:.3f}' for ratio in ratios)} | {busy:.4f} |")
    base = turns[NOTHING]
    print(f"\nWithout a watch: p50 {statistics.median(turn.p50_us for turn in base):.0f} us, ", end="")
    print(f"p99 {statistics.median(turn.p99_us for turn in base):.0f} us.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
