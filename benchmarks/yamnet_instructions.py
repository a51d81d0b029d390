"""Guest instructions per second of audio, PCM to decision, on emulated ARM cores: a bundle against YAMNet.

    python benchmarks/yamnet_instructions.py BUNDLE.eab ../shared/peers/yamnet.tflite --audio CLIP.wav --out OUT

Both listen as in yamnet_cpu.py: chunks of 0.48 s, one thread, the whole runtime of the bundle against YAMNet in LiteRT.
Each listener runs in processes of its own: a pass over the clip to warm up, then one that is counted. Counts are of
instructions only, never of time. The first run sets up the emulator, as in guest_instructions.py.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from guest_listener import EMPTY, FRONTEND, INFERENCE, WHOLE
from recording import command_line, write_record
from yamnet_listeners import HOP, RATE_HZ, YAMNET, Float32, Form, forms

from edgeaudio.audio.files import decode_file
from edgeaudio.audio.resample import resample
from edgeaudio.bench.emulation import LABEL, MIRROR, Emulator, check_spread, default_cache, install, parse_counts
from edgeaudio.bundle import Bundle
from edgeaudio.errors import EdgeAudioError, ParityError

GUEST = Path(__file__).with_name("guest_listener.py")
BAR = 4.0
BAR_CPU = "cortex-a72"


@dataclass(frozen=True)
class Count:
    """One listener on one CPU model: guest instructions per second of audio, of every process.

    frontend, inference: by themselves, of the first process; None where they cannot be taken apart.
    """

    cpu: str
    name: str
    computed_by: str
    instructions_per_s: tuple[float, ...]
    frontend_per_s: float | None
    inference_per_s: float | None

    @property
    def median(self) -> float:
        """Over processes."""
        return statistics.median(self.instructions_per_s)

    @property
    def rest_per_s(self) -> float | None:
        """What is neither front-end nor inference: chunks, windows, smoothing, thresholds."""
        if self.frontend_per_s is None or self.inference_per_s is None:
            return None
        return self.median - self.frontend_per_s - self.inference_per_s


def main() -> int:
    """See the module docstring."""
    arguments = parse_arguments()
    try:
        counts, version = run(arguments)
    except EdgeAudioError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    command = command_line()
    record = {"label": LABEL, "command": command, "emulator": version, "counts": [asdict(count) for count in counts]}
    text = markdown(command, version, Bundle.read(arguments.bundle), counts, arguments.processes)
    write_record(arguments.out, text, record)
    return 0


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("yamnet", type=Path)
    parser.add_argument("--audio", type=Path, required=True, help="one clip of some seconds")
    parser.add_argument("--out", type=Path, required=True, help="without suffix")
    parser.add_argument("--cpu", nargs="+", default=["cortex-a72", "cortex-a76"])
    parser.add_argument("--cache", type=Path, default=default_cache())
    parser.add_argument("--mirror", default=MIRROR, help="Debian mirror for the guest's files")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--deadline", type=float, default=600, help="seconds for one guest process")
    return parser.parse_args()


def run(arguments: argparse.Namespace) -> tuple[list[Count], str]:
    """All counts, and what the emulator is."""
    bundle = Bundle.read(arguments.bundle)
    # All with YAMNet's hop; the bundle's own hop, steps and the front-end in NumPy where LiteRT runs them.
    wanted: list[tuple[Form | None, str]] = [(None, "inside")]
    wanted += [(form, "native") for form in forms(bundle) if form.slow or form.engine == "litert"]
    wanted += [(form, "numpy") for form in forms(bundle) if form.slow and form.engine == "litert"]
    counts = []
    for cpu in arguments.cpu:
        emulator = install(arguments.cache, cpu=cpu, mirror=arguments.mirror, progress=print)
        for form, frontend in wanted:
            counts.append(measure(emulator, arguments, form, frontend))
            print(f"{counts[-1].name}, front-end {frontend}, on {cpu}: {counts[-1].median:,.0f} per s", flush=True)
    return counts, emulator.version


def measure(emulator: Emulator, arguments: argparse.Namespace, form: Form | None, frontend: str) -> Count:
    """One listener in fresh processes.

    Raises:
        UnsupportedError: the guest failed or did not end in time.
        ParityError: it decides otherwise in another process.
        BenchInvalidError: the counts cannot be used.
    """
    name = f"{form} with {frontend} on {emulator.cpu.name}"
    chunks = clip(arguments.audio)
    seconds = len(chunks) * HOP / RATE_HZ
    pairs, answers = [], []
    with tempfile.TemporaryDirectory(prefix="guest-") as folder_name:
        folder = Path(folder_name)
        request, answer, counts = folder / "request.json", folder / "answer.json", folder / "counts.txt"
        np.save(folder / "chunks.npy", chunks)
        asked: dict[str, Any] = {"chunks": str(folder / "chunks.npy"), "frontend": frontend}
        asked |= {"bundle": str(arguments.bundle.resolve()), "yamnet": str(arguments.yamnet.resolve())}
        request.write_text(json.dumps(asked | {"form": None if form is None else asdict(form)}))
        for _ in range(arguments.processes):
            emulator.run(name, GUEST, request, answer, counts=counts, deadline_s=arguments.deadline)
            answers.append(json.loads(answer.read_text()))
            pairs.append([count / seconds for count in parse_counts(counts.read_text(), name)])
    if any(other["decisions"] != answers[0]["decisions"] for other in answers):
        raise ParityError(f"{name}: two processes decide otherwise on the same audio")
    whole = tuple(pair[WHOLE] - pair[EMPTY] for pair in pairs)
    check_spread(name, whole)
    taken_apart = len(pairs[0]) > INFERENCE
    return Count(
        cpu=emulator.cpu.name,
        name=answers[0]["name"] or YAMNET,
        computed_by=frontend,
        instructions_per_s=whole,
        frontend_per_s=pairs[0][FRONTEND] if taken_apart else None,
        inference_per_s=pairs[0][INFERENCE] if taken_apart else None,
    )


def clip(path: Path) -> Float32:
    """`(chunks, HOP)`: the clip at 16 kHz, whole hops of it."""
    decoded = decode_file(path)
    waveform = resample(decoded.waveform, decoded.sample_rate, RATE_HZ)
    return waveform[: len(waveform) // HOP * HOP].reshape(-1, HOP)


def markdown(command: str, version: str, bundle: Bundle, counts: list[Count], processes: int) -> str:
    """The result for people."""
    yamnet = {count.cpu: count.median for count in counts if count.name == YAMNET}
    lines = [
        f"# Guest instructions per second of audio: {bundle.manifest.name} against YAMNet",
        "",
        f"    {command}",
        "",
        f"**{LABEL}.** {version}, user mode, one thread, PCM to decision in chunks of 0.48 s; median of {processes} "
        f"processes, which differ by less than 1 %. Bundle {bundle.sha256[:12]}. Millions of instructions per second "
        "of audio; front-end and inference were also counted by themselves, the rest is windows, smoothing and "
        "thresholds in Python. Instructions are not time: no caches, no memory, no clock.",
        "",
        "| CPU model | what | front-end by | all | front-end | inference | rest | times fewer than YAMNet |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
        *(
            f"| {count.cpu} | {count.name} | {count.computed_by} | {_millions(count.median)} | "
            f"{_millions(count.frontend_per_s)} | {_millions(count.inference_per_s)} | {_millions(count.rest_per_s)} | "
            f"{yamnet[count.cpu] / count.median:.2f} |"
            for count in counts
        ),
        "",
        *_verdict(counts, yamnet),
        "",
    ]
    return "\n".join(lines)


def _verdict(counts: list[Count], yamnet: dict[str, float]) -> list[str]:
    """Whether int8, the file of 128 KiB, meets the bar with YAMNet's hop, and where its instructions go."""
    able = [count for count in counts if count.cpu == BAR_CPU and "int8" in count.name and "hop 0.48" in count.name]
    if not able:
        return [f"The bar is set on {BAR_CPU} in int8, which was not counted."]
    best = min(able, key=lambda count: count.median)
    ratio = yamnet[BAR_CPU] / best.median
    parts = {"front-end": best.frontend_per_s, "inference": best.inference_per_s, "rest": best.rest_per_s}
    shares = ", ".join(f"{part} {share / best.median:.0%}" for part, share in parts.items() if share is not None)
    return [
        f"Bar for int8 on {BAR_CPU}, with YAMNet's hop: {BAR:g} times fewer. {'Met' if ratio >= BAR else '**Missed**'} "
        f"with {ratio:.2f} ({best.name}, front-end by {best.computed_by}). Of its instructions: {shares}."
    ]


def _millions(instructions: float | None) -> str:
    return "" if instructions is None else f"{instructions / 1e6:.2f}"


if __name__ == "__main__":
    sys.exit(main())
