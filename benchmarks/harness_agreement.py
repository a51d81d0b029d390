"""Does the harness time what a library's own user would time? Its inference stage against bare loops, in one process.

    python benchmarks/harness_agreement.py work/ladder-128k/bundles/ladder-128k-fold1.eab \\
        ../shared/peers/yamnet.tflite --out benchmarks/results/harness_agreement

For every ONNX and TFLite file, those of the bundle's windows and foreign ones, contestants take turns of some hops, in
another order each round, each on a session of its own with the same settings and input:

- bare: a loop that times `InferenceSession.run`, or `Interpreter.invoke`, and nothing else;
- file: the same file as the harness times a foreign one, which is its inference stage;
- artefact: the same file as the harness times an artefact of a bundle, front-end and decision before and behind it. Its
  inference stage also holds what an answer needs besides the library: the window to int8 and back where the model is
  that, checks, probabilities. A clock around the library's call inside the stage tells the two apart.

File must agree with bare within 5 %. LiteRT's own tool, `ai_edge_litert.tools.benchmark_litert_model`, is run too, in
a process of its own and with the library's other interface; it tells hundredths of a millisecond. onnxruntime's
profiler is not: noting every node, it doubles what a small model takes.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from recording import load_average, machine_facts, write_record

from edgeaudio.bench.candidate import Candidate, load_candidate, warm_up
from edgeaudio.bench.foreign import ForeignModel, open_foreign
from edgeaudio.bench.foreign_subject import ForeignSubject
from edgeaudio.bench.rounds import garbage_collector, run_turn
from edgeaudio.bench.schema import BenchOptions
from edgeaudio.bench.stats import ratio_interval
from edgeaudio.bench.subjects import BundleSubject, bundle_subjects
from edgeaudio.bundle import Bundle
from edgeaudio.errors import EdgeAudioError
from edgeaudio.frontend.choice import choose_frontend
from edgeaudio.runtime.engines.litert_engine import open_interpreter
from edgeaudio.runtime.engines.onnx_engine import open_session
from edgeaudio.runtime.selfcheck import CheckReport, check_bundle

GATE = 0.05
#: Hops of one turn, and how many more come first and are not counted, as in the harness.
TURN_HOPS, UNCOUNTED_HOPS = 40, 5
OPTIONS = BenchOptions()


class Bare:
    """A loop around the library's own call."""

    def __init__(self, subject: ForeignSubject) -> None:
        model = subject.model
        inputs = subject.inputs(open_foreign(model, 1).inputs).values
        self.taken_us: list[float] = []
        self._call: Callable[[], object]
        if model.format == "onnx":
            session = open_session(model.name, model.payload, 1)
            given = {one.name: values for one, values in zip(session.get_inputs(), inputs, strict=True)}
            self._call = lambda: session.run(None, given)
        else:
            interpreter = open_interpreter(model.name, model.payload, 1)
            for one, values in zip(interpreter.get_input_details(), inputs, strict=True):
                interpreter.resize_tensor_input(one["index"], values.shape)
            interpreter.allocate_tensors()
            for one, values in zip(interpreter.get_input_details(), inputs, strict=True):
                interpreter.set_tensor(one["index"], values)
            self._call = interpreter.invoke

    def turn(self) -> None:
        """As many calls as a hop timer gets hops."""
        for number in range(UNCOUNTED_HOPS + TURN_HOPS):
            begun = time.perf_counter_ns()
            self._call()
            taken = time.perf_counter_ns() - begun
            if number >= UNCOUNTED_HOPS:
                self.taken_us.append(taken / 1e3)


class Clocked:
    """A session or an interpreter with a clock around the call that computes."""

    def __init__(self, library: Any) -> None:
        self._library = library
        self.taken_ns: list[int] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._library, name)

    def run(self, *given: Any) -> Any:
        begun = time.perf_counter_ns()
        answer = self._library.run(*given)
        self.taken_ns.append(time.perf_counter_ns() - begun)
        return answer

    def invoke(self) -> None:
        begun = time.perf_counter_ns()
        self._library.invoke()
        self.taken_ns.append(time.perf_counter_ns() - begun)


@dataclass(frozen=True)
class Row:
    """One file: medians in microseconds, and ratios to `bare` with their 95 % intervals.

    outside_us: of the artefact's inference stage, what is not in the library. tool_ms: what LiteRT's own tool says.
    """

    file: str
    bare_us: float
    file_us: float
    file_ratio: float
    file_interval: tuple[float, float] | None
    artefact_us: float | None
    outside_us: float | None
    inside_ratio: float | None
    inside_interval: tuple[float, float] | None
    tool_ms: float | None
    n_hops: int

    @property
    def agrees(self) -> bool:
        """Whether the harness times the file as the bare loop does."""
        return abs(self.file_ratio - 1) <= GATE


def files(bundle: Bundle, foreign: Sequence[Path]) -> Iterator[tuple[ForeignModel, BundleSubject | None]]:
    """The windowed artefacts as files, each with its artefact; then foreign files, which have none."""
    for subject in bundle_subjects(bundle, forms=["windowed"]):
        (file,) = subject.files
        if file.format in ("onnx", "tflite"):
            yield ForeignModel(f"{file.precision}.{file.format}", bundle.payload(file)), subject
    for path in foreign:
        yield ForeignModel.read(path), None


def clocked(candidate: Candidate) -> Clocked:
    """Put a clock around the library inside an artefact's engine."""
    assert candidate.loaded is not None
    assert candidate.loaded.classifier is not None
    (engine,) = candidate.loaded.classifier.engines
    name = "_session" if hasattr(engine, "_session") else "_interpreter"
    clock = Clocked(getattr(engine, name))
    setattr(engine, name, clock)
    return clock


def measure(bundle: Bundle, check: CheckReport, model: ForeignModel, subject: BundleSubject | None, rounds: int) -> Row:
    """All contestants of one file, in turns."""
    foreign = ForeignSubject(model, bundle)
    subjects = [foreign, *([subject] if subject is not None else [])]
    candidates = [load_candidate(one, bundle, check, OPTIONS, 1) for one in subjects]
    bare, inside_us = Bare(foreign), []
    clock = clocked(candidates[1]) if subject is not None else None
    turns: list[Callable[[], None]] = [bare.turn, lambda: run_turn(candidates[0], TURN_HOPS, 0)]

    def artefact_turn() -> None:
        assert clock is not None
        clock.taken_ns.clear()
        run_turn(candidates[1], TURN_HOPS, 0)
        inside_us.extend(ns / 1e3 for ns in clock.taken_ns[-TURN_HOPS:])

    turns += [artefact_turn] if subject is not None else []
    for candidate in candidates:
        warm_up(candidate, bundle, OPTIONS)
    with garbage_collector(enabled=False):
        for number in range(rounds):
            first = number % len(turns)
            for turn in (*turns[first:], *turns[:first]):
                turn()
    stages = [candidate.stream()[0].columns_us()["inference"] for candidate in candidates]
    return row(model, bare.taken_us, stages[0], stages[1] if subject is not None else None, inside_us)


def row(model: ForeignModel, bare_us: Any, file_us: Any, artefact_us: Any, inside_us: Any) -> Row:
    """The figures of one file from the samples of its contestants."""
    whole = artefact_us is not None
    return Row(
        file=model.name,
        bare_us=float(np.median(bare_us)),
        file_us=float(np.median(file_us)),
        file_ratio=float(np.median(file_us) / np.median(bare_us)),
        file_interval=ratio_interval(file_us, bare_us),
        artefact_us=float(np.median(artefact_us)) if whole else None,
        outside_us=float(np.median(np.subtract(artefact_us, inside_us))) if whole else None,
        inside_ratio=float(np.median(inside_us) / np.median(bare_us)) if whole else None,
        inside_interval=ratio_interval(inside_us, bare_us) if whole else None,
        tool_ms=own_tool_ms(model),
        n_hops=len(bare_us),
    )


def own_tool_ms(model: ForeignModel) -> float | None:
    """The median that LiteRT's own tool tells; None for ONNX, and where the package has no tool."""
    if model.format != "tflite":
        return None
    with tempfile.TemporaryDirectory() as folder:
        path, answer = Path(folder, "model.tflite"), Path(folder, "answer.json")
        path.write_bytes(model.payload)
        command = [sys.executable, "-m", "ai_edge_litert.tools.benchmark_litert_model", "--model", str(path)]
        command += ["--num_runs", "1000", "--warmup_runs", "100", "--num_threads", "1", "--result_json", str(answer)]
        done = subprocess.run(command, capture_output=True, check=False, timeout=300)
        if done.returncode or not answer.is_file():
            return None
        return float(json.loads(answer.read_text())["latency"]["median_ms"])


def table(rows: Sequence[Row], facts: dict[str, Any]) -> str:
    """Markdown."""
    lines = [
        "# The harness against bare loops",
        "",
        f"    {facts['command']}",
        "",
        f"Medians of {rows[0].n_hops} calls each, in turns of {TURN_HOPS}, one thread; 95 % intervals by bootstrap. "
        f"{facts['cpu']}, {facts['cores']} cores; {facts['packages']}. Load average {facts['load_before']:.1f} before "
        f"and {facts['load_after']:.1f} after: {facts['quiet']}. *Not run on hardware.*",
        "",
        "- bare: a loop around the library's own call. file: the harness on the same file, its inference stage.",
        "- artefact: the inference stage in the live path; outside: what of it is not the library's (int8 conversion,",
        "  checks, probabilities); inside / bare: the library's call within the stage, which finds colder caches.",
        "- LiteRT's tool: in a process of its own, told in hundredths of a millisecond.",
        "",
        f"| file | bare, µs | file, µs | file / bare | within {GATE:.0%} | artefact, µs | outside, µs | inside / bare "
        "| LiteRT's tool, ms |",
        "| --- | ---: | ---: | ---: | --- | ---: | ---: | ---: | ---: |",
    ]
    lines += [
        f"| {one.file} | {one.bare_us:.1f} | {one.file_us:.1f} | {_ratio(one.file_ratio, one.file_interval)} "
        f"| {'yes' if one.agrees else '**no**'} | {_figure(one.artefact_us)} | {_figure(one.outside_us)} "
        f"| {_ratio(one.inside_ratio, one.inside_interval)} | {_figure(one.tool_ms, 2)} |"
        for one in rows
    ]
    agreeing = sum(one.agrees for one in rows)
    return "\n".join([*lines, "", f"The harness agrees within {GATE:.0%} on {agreeing} of {len(rows)} files.", ""])


def _figure(value: float | None, digits: int = 1) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


def _ratio(value: float | None, interval: tuple[float, float] | None) -> str:
    if value is None:
        return "-"
    return f"{value:.3f}" + (f" ({interval[0]:.3f} to {interval[1]:.3f})" if interval else "")


def main() -> int:
    """See the module docstring."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("foreign", type=Path, nargs="*", help=".onnx or .tflite files beside it")
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--out", type=Path, help="without suffix")
    arguments = parser.parse_args()
    load_before = load_average()
    try:
        bundle = Bundle.read(arguments.bundle)
        taken = choose_frontend(bundle.manifest.frontend, OPTIONS.frontend).name
        check = check_bundle(bundle, ["onnx", "litert"], [taken])
        check.raise_if_failed()
        rows = [measure(bundle, check, *pair, arguments.rounds) for pair in files(bundle, arguments.foreign)]
    except EdgeAudioError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    facts = {"bundle_sha256": bundle.sha256} | machine_facts(load_before)
    results = [asdict(one) | {"within_gate": one.agrees} for one in rows]
    write_record(arguments.out, table(rows, facts), facts | {"gate": GATE, "rows": results})
    return 0


if __name__ == "__main__":
    sys.exit(main())
