"""How much faster than mn04 itself a bundle is: one window of each, side by side in one run, one thread.

    python benchmarks/mn04_latency.py WEIGHTS.pt BUNDLE.eab... --out benchmarks/results/mn04_latency

mn04 is exported to float32 ONNX as it is (128 bands, 100 frames, its 527 classes). Networks alone, without
front-ends. Inferences are interleaved; the figure is the median, the ratio is of medians.
"""

from __future__ import annotations

import argparse
import io
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from edgeaudio_export.parity import engine_for
from recording import write_record

from edgeaudio.bench.probes.linux import cpu_description
from edgeaudio.bundle import Bundle
from edgeaudio.compress.quiet import quiet_libraries
from edgeaudio.runtime.engines.onnx_engine import open_session
from edgeaudio.teachers.mn04 import MN04Teacher

FRAMES = 100


def mn04_runner(weights: Path) -> tuple[Callable[[], object], int]:
    """One inference of mn04 in ONNX Runtime, and its parameters."""
    network = MN04Teacher.load(weights).network
    buffer = io.BytesIO()
    example = torch.zeros(1, FRAMES, 128)
    with quiet_libraries("mn04"):
        torch.onnx.export(network, (example,), buffer, dynamo=True, external_data=False, input_names=["log_mel"])
    session = open_session("mn04", buffer.getvalue(), threads=1)
    log_mel = np.random.default_rng(0).standard_normal((1, FRAMES, 128)).astype(np.float32)
    return lambda: session.run(None, {"log_mel": log_mel}), sum(p.numel() for p in network.parameters())


def bundle_runners(path: Path) -> dict[str, Callable[[], object]]:
    """One inference of every artefact of a bundle."""
    bundle = Bundle.read(path)
    window = bundle.golden.log_mel[1]
    runners: dict[str, Callable[[], object]] = {}
    for artefact in bundle.manifest.artefacts:
        engine = engine_for(artefact, bundle.payload(artefact))
        runners[f"{bundle.manifest.name}: {artefact.name}"] = lambda engine=engine: engine.run(window)
    return runners


def medians_ms(runners: dict[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Median milliseconds of each, taken in turn."""
    samples: dict[str, list[int]] = {name: [] for name in runners}
    for number in range(rounds + 20):
        for name, run in runners.items():
            started = time.perf_counter_ns()
            run()
            if number >= 20:
                samples[name].append(time.perf_counter_ns() - started)
    return {name: float(np.median(values)) / 1e6 for name, values in samples.items()}


def main() -> None:
    """See the module docstring."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("weights", type=Path)
    parser.add_argument("bundles", type=Path, nargs="+")
    parser.add_argument("--rounds", type=int, default=400)
    parser.add_argument("--out", type=Path, required=True, help="without suffix")
    arguments = parser.parse_args()
    reference, params = mn04_runner(arguments.weights)
    runners = {"mn04: onnx-fp32": reference}
    cost = {"mn04: onnx-fp32": params}
    for path in arguments.bundles:
        found = bundle_runners(path)
        runners |= found
        cost |= dict.fromkeys(found, Bundle.read(path).manifest.cost.params)
    latency_ms = medians_ms(runners, arguments.rounds)
    first = latency_ms["mn04: onnx-fp32"]
    names = " ".join(path.name for path in arguments.bundles)
    lines = [
        "# One window: mn04 against students",
        "",
        f"    python benchmarks/mn04_latency.py WEIGHTS {names} --rounds {arguments.rounds}",
        "",
        f"{cpu_description()[0]}, one thread, interleaved, medians of {arguments.rounds}. *Not run on hardware.*",
        "",
        "| network | parameters | fewer | ms per window | times faster than mn04 |",
        "| --- | --- | --- | --- | --- |",
        *(
            f"| {name} | {cost[name]:,} | {1 - cost[name] / params:.1%} | {ms:.4f} | {first / ms:.1f} |"
            for name, ms in latency_ms.items()
        ),
        "",
    ]
    record = {"latency_ms": latency_ms, "params": cost, "rounds": arguments.rounds, "cpu": cpu_description()[0]}
    write_record(arguments.out, "\n".join(lines), record)


if __name__ == "__main__":
    main()
