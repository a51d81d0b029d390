"""CPU per 20-ms hop, PCM to decision: the stateful form against running the 1-s window again, in one run, one thread.

    edgeaudio run recipes/ladder-128k.yaml --set stateful.step_frames=2
    edgeaudio run recipes/esc10.yaml --set stateful.step_frames=2
    python benchmarks/stateful_hop.py work/ladder-128k/bundles/ladder-128k-fold1.eab \\
        work/esc10/bundles/esc10-fold1.eab --out benchmarks/results/stateful_hop

Three ways to answer once per hop, each a `StreamClassifier` that is fed chunks of one hop, with the same artefact
precision on the same engine and the same decision behind it:

- rerun: the samples of the whole window go through front-end and network again, like a clip classifier in a loop;
- kept: the runtime's windowed stream, which keeps log-mel frames, so that only the network sees a whole window again;
- stateful: front-end and network compute what the hop adds.

Before anything is timed the three are held against each other. They take turns of some hops in another order each
round; a figure is the median over all hops of the CPU time of the thread, which other processes change less than they
change time on the wall.
"""

from __future__ import annotations

import argparse
import random
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from recording import load_average, machine_facts, write_record

from edgeaudio.bundle import Bundle, with_manifest
from edgeaudio.errors import ConfigError, EdgeAudioError, ParityError
from edgeaudio.frontend.choice import FrontendName, choose_frontend, make_frontend
from edgeaudio.runtime import Classifier, StreamClassifier
from edgeaudio.runtime.engines.base import Float32
from edgeaudio.runtime.windows import Window, WindowStream
from edgeaudio.spec import FrontendSpec, WindowSpec

BAR, STRETCH = 12.0, 20.0
WAYS = ("rerun", "kept", "stateful")
#: Hops of one turn, and how many of them come first and are not counted: caches still hold another contestant.
TURN_HOPS, UNCOUNTED_HOPS = 30, 5
#: Windows on which the three ways are compared, and the largest difference in probability.
COMPARED_HOPS, SAME_PROBS = 200, 1e-4


class RerunStream(WindowStream):
    """Windows as `WindowStream` makes them, every one from its samples anew."""

    def __init__(self, frontend: FrontendSpec, window: WindowSpec, computed_by: FrontendName) -> None:
        self._pcm = np.zeros(0, np.float32)
        super().__init__(frontend, window, computed_by=computed_by)
        self._whole = make_frontend(frontend, computed_by)
        self._window_samples, self._hop = window.n_samples(frontend), window.hop_samples(frontend)
        self._next = 0

    def feed(self, chunk: Float32) -> list[Window]:
        """See `WindowStream.feed`."""
        self._pcm = np.concatenate([self._pcm, chunk])
        windows = []
        while len(self._pcm) >= self._window_samples:
            self._whole.reset()
            windows.append(Window(self._next, self._whole.feed(self._pcm[: self._window_samples])))
            self._pcm = self._pcm[self._hop :]
            self._next += self._hop
        return windows


class RerunClassifier(Classifier):
    """A classifier whose streams keep samples only."""

    def open_windows(self, *, start_sample: int = 0) -> RerunStream:
        """See `Classifier.open_windows`."""
        manifest = self.bundle.manifest
        return RerunStream(manifest.frontend, manifest.window, self.frontend.name)


@dataclass(frozen=True)
class Row:
    """CPU microseconds per hop of one engine, precision and front-end: (first quartile, median, third) of each way."""

    bundle: str
    engine: str
    precision: str
    frontend: str
    cpu_us: dict[str, tuple[float, float, float]]
    n_hops: int
    #: Process CPU over thread CPU while it ran: above 1 an engine works in other threads too.
    other_threads: float

    def ratio(self, way: str) -> float:
        """Of medians: that way over stateful."""
        return self.cpu_us[way][1] / self.cpu_us["stateful"][1]


def at_hop(bundle: Bundle) -> Bundle:
    """The bundle with the steps of its stateful form as hop of its windows."""
    stateful = bundle.manifest.stateful
    if stateful is None:
        raise ConfigError(f"{bundle.source} has no stateful form; build it with --set stateful.step_frames=2")
    window = bundle.manifest.window.model_copy(update={"hop_frames": stateful.step_frames})
    return Bundle.read(with_manifest(bundle, bundle.manifest.model_copy(update={"window": window})))


def sound(seconds: float, sample_rate: int) -> Float32:
    """What a listener mostly hears: near silence (noise of 3 steps of 16 bit), and a second of bursts every five."""
    rng = np.random.default_rng(0)
    t = np.arange(round(seconds * sample_rate)) / sample_rate
    level = np.where((t % 5 < 1) & (t % 0.25 < 0.15), 0.2, 1e-4)
    return (rng.standard_normal(len(t)) * level).clip(-1, 1).astype(np.float32)


def contestants(bundle: Bundle, engine: str, precision: str, frontend: FrontendName) -> dict[str, Classifier]:
    """The three ways."""
    options: dict[str, Any] = {"engine": engine, "precision": precision, "frontend": frontend}
    return {
        "rerun": RerunClassifier(bundle, **options),
        "kept": Classifier(bundle, **options),
        "stateful": Classifier(bundle, **options, stateful=True),
    }


def check_equal(ways: dict[str, Classifier], waveform: Float32, name: str) -> None:
    """Raise ParityError unless all three give the same windows."""
    manifest = ways["kept"].bundle.manifest
    needed = manifest.window.n_samples(manifest.frontend) + COMPARED_HOPS * ways["kept"].hop_samples
    answers = {way: classifier(waveform[:needed], classifier.sample_rate) for way, classifier in ways.items()}
    for way in ("rerun", "stateful"):
        gap = np.abs(answers[way].window_probs - answers["kept"].window_probs).max()
        if not gap <= SAME_PROBS:
            raise ParityError(f"{name}: {way} differs from kept by {gap:.2g} in probability")


def measure(ways: dict[str, Classifier], waveform: Float32, rounds: int) -> tuple[dict[str, list[int]], float]:
    """CPU nanoseconds of every counted hop of each way, and process CPU over thread CPU."""
    hop = ways["kept"].hop_samples
    streams = {way: StreamClassifier(classifier) for way, classifier in ways.items()}
    chunks = [waveform[at : at + hop] for at in range(0, len(waveform) - hop + 1, hop)]
    for stream in streams.values():
        for chunk in chunks[: 2 * TURN_HOPS + ways["kept"].bundle.manifest.window.frames]:
            stream.feed(chunk)
    order, shuffled = list(streams), random.Random(0)
    samples: dict[str, list[int]] = {way: [] for way in streams}
    process, thread = time.process_time_ns(), time.thread_time_ns()
    at = 0
    for _ in range(rounds):
        shuffled.shuffle(order)
        turn = [chunks[(at + number) % len(chunks)] for number in range(TURN_HOPS)]
        at += TURN_HOPS
        for way in order:
            feed, taken = streams[way].feed, samples[way]
            for number, chunk in enumerate(turn):
                begun = time.thread_time_ns()
                feed(chunk)
                if number >= UNCOUNTED_HOPS:
                    taken.append(time.thread_time_ns() - begun)
    return samples, (time.process_time_ns() - process) / (time.thread_time_ns() - thread)


def table(rows: list[Row], facts: dict[str, Any]) -> str:
    """Markdown."""
    lines = [
        "# Stateful against re-running the window",
        "",
        f"    {facts['command']}",
        "",
        f"CPU µs per hop of {facts['hop_ms']:g} ms, samples to decision, one thread; median (quartiles) over "
        f"{rows[0].n_hops} hops of each, in near silence with a second of bursts every five. Clock: "
        f"{facts['clock_us']:.2f} µs per reading, not subtracted. {facts['cpu']}, {facts['cores']} cores; "
        f"{facts['packages']}. Load average {facts['load_before']:.1f} before and "
        f"{facts['load_after']:.1f} after: {facts['quiet']}.",
        "",
        *(
            f"- {name}: {cost['macs_per_window']:,} MACs per window of {cost['window_frames']} frames, "
            f"{cost['macs_per_step']:,} per step: {cost['macs_per_window'] / cost['macs_per_step']:.1f} times less."
            for name, cost in facts["bundles"].items()
        ),
        "",
        "| bundle | engine | precision | front-end | rerun | kept | stateful | rerun / stateful | kept / stateful |",
        "| --- | --- | --- | --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    for row in rows:
        figures = []
        for way in WAYS:
            low, median, high = row.cpu_us[way]
            figures.append(f"{median:.1f} ({low:.1f} to {high:.1f})")
        lines.append(
            f"| {row.bundle} | {row.engine} | {row.precision} | {row.frontend} | {' | '.join(figures)} "
            f"| **{row.ratio('rerun'):.1f}** | {row.ratio('kept'):.1f} |"
        )
    lines += [
        "",
        f"Bar: rerun / stateful at least {BAR:g}, stretch {STRETCH:g}. Best of each bundle and front-end:",
        "",
    ]
    for name, frontend in dict.fromkeys((row.bundle, row.frontend) for row in rows):
        best = max(
            (row for row in rows if (row.bundle, row.frontend) == (name, frontend)), key=lambda row: row.ratio("rerun")
        )
        verdict = "reached" if best.ratio("rerun") >= BAR else "missed"
        lines.append(
            f"- {name}, {frontend} front-end: {best.ratio('rerun'):.1f} with {best.engine} {best.precision}, {verdict}."
        )
    return "\n".join(lines) + "\n"


def clock_us() -> float:
    """What two readings of the thread's clock cost."""
    taken = []
    for _ in range(2000):
        begun = time.thread_time_ns()
        taken.append(time.thread_time_ns() - begun)
    return float(np.median(taken)) / 1e3


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("bundle", type=Path, nargs="+")
    parser.add_argument("--out", type=Path, help="without suffix")
    parser.add_argument("--engine", nargs="+", default=["onnx", "litert"])
    parser.add_argument("--precision", nargs="+", default=["fp32", "int8"])
    parser.add_argument("--frontend", nargs="+", default=["numpy", "native"])
    parser.add_argument("--rounds", type=int, default=40)
    return parser.parse_args()


def measured(bundle: Bundle, arguments: argparse.Namespace) -> list[Row]:
    """All rows of one bundle."""
    name, frontend_spec = bundle.manifest.name, bundle.manifest.frontend
    waveform = sound(30, frontend_spec.sample_rate)
    rows = []
    for frontend in arguments.frontend:
        choose_frontend(frontend_spec, frontend)
        for engine in arguments.engine:
            for precision in arguments.precision:
                ways = contestants(bundle, engine, precision, frontend)
                check_equal(ways, waveform, f"{name} {engine} {precision}")
                samples, other_threads = measure(ways, waveform, arguments.rounds)
                cpu_us = {}
                for way, taken in samples.items():
                    low, median, high = (float(found) / 1e3 for found in np.percentile(taken, (25, 50, 75)))
                    cpu_us[way] = (low, median, high)
                rows.append(Row(name, engine, precision, frontend, cpu_us, len(samples["kept"]), other_threads))
                ratio = rows[-1].ratio("rerun")
                print(f"{name} {engine} {precision}, {frontend} front-end: rerun / stateful {ratio:.1f}", flush=True)
    return rows


def costs(bundle: Bundle) -> dict[str, Any]:
    """What is computed, by the manifest."""
    manifest = bundle.manifest
    assert manifest.stateful is not None
    return {
        "sha256": bundle.sha256,
        "window_frames": manifest.window.frames,
        "macs_per_window": manifest.cost.macs_per_window,
        "macs_per_step": manifest.stateful.macs_per_step,
    }


def main() -> int:
    """See the module docstring."""
    arguments = parse_arguments()
    load_before = load_average()
    try:
        bundles = [at_hop(Bundle.read(path)) for path in arguments.bundle]
        hops_ms = {1000 * bundle.manifest.window.hop_s(bundle.manifest.frontend) for bundle in bundles}
        if len(hops_ms) > 1:
            raise ConfigError(f"the bundles step by {sorted(hops_ms)} ms; give some of one step")
        rows = [row for bundle in bundles for row in measured(bundle, arguments)]
    except EdgeAudioError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    facts = {
        "bundles": {bundle.manifest.name: costs(bundle) for bundle in bundles},
        "hop_ms": hops_ms.pop(),
        "clock_us": clock_us(),
        **machine_facts(load_before),
    }
    results = [asdict(row) | {"ratio": row.ratio("rerun"), "ratio_kept": row.ratio("kept")} for row in rows]
    write_record(arguments.out, table(rows, facts), facts | {"rows": results})
    return 0


if __name__ == "__main__":
    sys.exit(main())
