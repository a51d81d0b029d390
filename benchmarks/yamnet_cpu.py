"""CPU per second of audio, PCM to decision: a bundle against YAMNet, side by side in one run, one thread.

    python benchmarks/yamnet_cpu.py BUNDLE.eab ../shared/peers/yamnet.tflite ../shared/data/esc10/audio --out OUT

YAMNet takes the last 15,600 samples each 0.48 s in LiteRT, its own front-end inside, and the largest of its 521 scores
is its answer. The bundle runs as `edgeaudio stream` runs it: front-end, network, smoothing and thresholds, in chunks of
0.48 s; with its own hop, with YAMNet's, and in steps where it has the stateful form. CPU is that of the thread; rounds
take turns.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from recording import write_record
from yamnet_listeners import HOP, RATE_HZ, YAMNET, Float32, Listener, forms, yamnet

from edgeaudio.audio.files import decode_file
from edgeaudio.audio.resample import resample
from edgeaudio.bench.probes.linux import cpu_description
from edgeaudio.bundle import Bundle
from edgeaudio.runtime.stream import StreamClassifier


def listeners(path: Path, frontend: str) -> Iterator[tuple[str, Listener]]:
    """The bundle's artefacts as a stream runs them: windows with both hops, and steps where it has them."""
    bundle = Bundle.read(path)
    for form in forms(bundle):
        classifier = form.open(bundle, frontend)
        yield form.name(classifier), StreamClassifier(classifier).feed


def audio(folder: Path, seconds: float) -> list[Float32]:
    """Clips of `folder` in order of name, as chunks of one hop."""
    waves: list[Float32] = []
    for path in sorted(folder.iterdir()):
        decoded = decode_file(path)
        waves.append(resample(decoded.waveform, decoded.sample_rate, RATE_HZ))
        if sum(map(len, waves)) >= seconds * RATE_HZ:
            break
    joined = np.concatenate(waves)[: int(seconds * RATE_HZ) // HOP * HOP]
    return list(joined.reshape(-1, HOP))


def cpu_us_per_s(feeds: dict[str, Listener], chunks: list[Float32], rounds: int) -> dict[str, list[float]]:
    """CPU microseconds per second of audio, one figure per round; the listeners take turns within a round."""
    seconds = len(chunks) * HOP / RATE_HZ
    found: dict[str, list[float]] = {name: [] for name in feeds}
    for number in range(rounds + 1):
        for name, feed in feeds.items():
            started = time.thread_time_ns()
            for chunk in chunks:
                feed(chunk)
            if number:  # The first round warms up.
                found[name].append((time.thread_time_ns() - started) / 1e3 / seconds)
    return found


def main() -> None:
    """See the module docstring."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("yamnet", type=Path)
    parser.add_argument("clips", type=Path)
    parser.add_argument("--seconds", type=float, default=30.0)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--frontend", default="native")
    parser.add_argument("--out", type=Path, required=True, help="without suffix")
    arguments = parser.parse_args()
    chunks = audio(arguments.clips, arguments.seconds)
    feeds = {YAMNET: yamnet(arguments.yamnet)}
    feeds |= dict(listeners(arguments.bundle, arguments.frontend))
    raw = cpu_us_per_s(feeds, chunks, arguments.rounds)
    median = {name: float(np.median(values)) for name, values in raw.items()}
    first = next(iter(median.values()))
    lines = [
        "# CPU per second of audio: a bundle against YAMNet",
        "",
        f"    python benchmarks/yamnet_cpu.py {arguments.bundle.name} yamnet.tflite CLIPS "
        f"--seconds {arguments.seconds:g} --rounds {arguments.rounds} --frontend {arguments.frontend} --out OUT",
        "",
        f"{cpu_description()[0]}, one thread, CPU time of the thread, medians of {arguments.rounds} rounds that take "
        "turns; spread is (largest - smallest) / median. *Not run on hardware.*",
        "",
        "| what | CPU us per second of audio | spread | times less than YAMNet |",
        "| --- | --- | --- | --- |",
        *(
            f"| {name} | {value:.0f} | {np.ptp(raw[name]) / value:.0%} | {first / value:.2f} |"
            for name, value in median.items()
        ),
        "",
    ]
    record = {"cpu_us_per_s": raw, "cpu": cpu_description()[0], "frontend": arguments.frontend}
    write_record(arguments.out, "\n".join(lines), record)


if __name__ == "__main__":
    main()
