"""What each output costs a live stream: time inside its calls, against the time of the classification itself.

    PYTHONPATH=. python benchmarks/outputs_cost.py work/esc10/bundles/esc10-fold1.eab ../shared/data/esc10/audio

A stream at the speed of sound, one output at a time, also with receivers that hang: a webhook whose server never
answers, a broker that is away, 16 browsers of which 15 read nothing. CPU time of the thread that classifies, inside
the output's calls and outside of them, in the same run; medians over repetitions. Writes Markdown to stdout.
"""

from __future__ import annotations

import argparse
import http.client
import os
import socket
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeaudio.audio.files import decode_file
from edgeaudio.audio.resample import resample
from edgeaudio.outputs.base import Output
from edgeaudio.outputs.clips import ClipSaver
from edgeaudio.outputs.homeassistant import Topics
from edgeaudio.outputs.info import StreamInfo
from edgeaudio.outputs.lines import FileLines, StreamLines
from edgeaudio.outputs.live import Address, LivePage
from edgeaudio.outputs.mqtt import Broker, MqttPublisher
from edgeaudio.outputs.webhook import Target, Webhook
from edgeaudio.runtime import Classifier
from tests.stream_driver import Driver

Make = Callable[[StreamInfo, ExitStack], Output]


class Timed:
    """Passes on to an output and adds up the CPU and the clock of its calls."""

    def __init__(self, output: Output) -> None:
        self._output = output
        self.cpu_ns = self.longest_ns = 0

    def __getattr__(self, name: str) -> Callable[..., None]:
        method = getattr(self._output, name)

        def timed(*arguments: Any) -> None:
            cpu, clock = time.thread_time_ns(), time.perf_counter_ns()
            method(*arguments)
            if name != "close":
                self.cpu_ns += time.thread_time_ns() - cpu
                self.longest_ns = max(self.longest_ns, time.perf_counter_ns() - clock)

        return timed


@dataclass(frozen=True)
class Cost:
    """Of one run: CPU per second of audio in the output's calls, in the rest of the stream, in the whole process."""

    calls_us: float
    stream_us: float
    process_us: float
    longest_ms: float


def scene(folder: Path, rate: int, duration_s: int) -> NDArray[np.float32]:
    """Clips in order of name, 2 s of each."""
    parts = []
    for path in sorted(folder.iterdir())[: duration_s // 2]:
        decoded = decode_file(path)
        parts.append(resample(decoded.waveform, decoded.sample_rate, rate)[: 2 * rate])
    return np.concatenate(parts)


def measure(classifier: Classifier, info: StreamInfo, make: Make, waveform: NDArray[np.float32]) -> Cost:
    """One stream with one output."""
    with ExitStack() as stack:
        timed = Timed(make(info, stack))
        stream = Driver(classifier, [timed], speed=1.0)  # type: ignore[list-item]
        thread, process = time.thread_time_ns(), time.process_time_ns()
        stream.feed(waveform)
        thread, process = time.thread_time_ns() - thread, time.process_time_ns() - process
        stream.end()
    seconds = len(waveform) / classifier.sample_rate * 1000
    return Cost(timed.cpu_ns / seconds, (thread - timed.cpu_ns) / seconds, process / seconds, timed.longest_ns / 1e6)


@contextmanager
def silent_server() -> Iterator[int]:
    """Accepts connections and never says anything."""
    with socket.create_server(("127.0.0.1", 0), backlog=64) as listener:
        held: list[socket.socket] = []

        def accept() -> None:
            while True:
                try:
                    held.append(listener.accept()[0])
                except OSError:
                    return

        threading.Thread(target=accept, daemon=True).start()
        yield listener.getsockname()[1]
        listener.shutdown(socket.SHUT_RDWR)


def pipe_that_nobody_reads(info: StreamInfo, stack: ExitStack) -> Output:
    """Standard output into a reader that has stopped."""
    _, writer = os.pipe()
    return StreamLines(stack.enter_context(os.fdopen(writer, "w")))


def folder_of(stack: ExitStack) -> Path:
    """A folder for this run."""
    return Path(stack.enter_context(tempfile.TemporaryDirectory()))


def viewed(readers: int, stuck: int) -> Make:
    """The live page with browsers that read and browsers that do not."""

    def make(info: StreamInfo, stack: ExitStack) -> Output:
        page = LivePage(info, Address(port=0))
        host, port = page.url.removeprefix("http://").rstrip("/").rsplit(":", 1)
        for number in range(readers + stuck):
            connection = http.client.HTTPConnection(host, int(port))
            connection.request("GET", "/events")
            stack.callback(connection.close)
            if number < readers:
                threading.Thread(target=connection.getresponse().read, daemon=True).start()
        return page

    return make


def outputs() -> dict[str, Make]:
    """Everything that is measured, by name."""
    return {
        "nothing": lambda info, stack: Output(),
        "events to a pipe that nobody reads": pipe_that_nobody_reads,
        "events to a file": lambda info, stack: FileLines(folder_of(stack) / "e", max_bytes=10**6),
        "clips (FLAC)": lambda info, stack: ClipSaver(folder_of(stack), info),
        "webhook, server never answers": lambda info, stack: Webhook(
            Target(f"http://127.0.0.1:{stack.enter_context(silent_server())}")
        ),
        "MQTT, broker never answers": lambda info, stack: MqttPublisher(
            Broker("127.0.0.1", stack.enter_context(silent_server())), info, Topics("edgeaudio", "bench")
        ),
        "live page, nobody looks": viewed(0, 0),
        "live page, 1 browser": viewed(1, 0),
        "live page, 16 browsers, 15 read nothing": viewed(1, 15),
    }


def main() -> int:
    """See the module docstring."""
    parser = argparse.ArgumentParser()
    parser.add_argument("bundle", type=Path)
    parser.add_argument("clips", type=Path)
    parser.add_argument("--seconds", type=int, default=20)
    parser.add_argument("--repeat", type=int, default=3)
    arguments = parser.parse_args()
    classifier = Classifier.load(arguments.bundle)
    info = StreamInfo.of(classifier, source="benchmark")
    waveform = scene(arguments.clips, classifier.sample_rate, arguments.seconds)
    runs: dict[str, list[Cost]] = {name: [] for name in outputs()}
    for _ in range(arguments.repeat):
        for name, make in outputs().items():
            runs[name].append(measure(classifier, info, make, waveform))
    print("| output | in its calls, % of the stream's CPU | whole process, ratio to nothing | longest call, ms |")
    print("| --- | --- | --- | --- |")
    base = statistics.median(cost.process_us for cost in runs["nothing"])
    for name, costs in runs.items():
        share = statistics.median(cost.calls_us / cost.stream_us for cost in costs)
        process = statistics.median(cost.process_us for cost in costs) / base
        print(f"| {name} | {share:.2%} | {process:.2f} | {max(cost.longest_ms for cost in costs):.2f} |")
    return 0


if __name__ == "__main__":
    sys.exit(main())
