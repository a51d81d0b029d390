"""Microseconds per 10-ms frame: our front-ends and kaldi-native-fbank, side by side in one run, one thread.

    pip install '.[benchmarks]'
    python benchmarks/frontend_speed.py --out benchmarks/results/frontend_speed

The same bands for all (checked before anything is timed). kaldi-native-fbank is used as sherpa-onnx streams with it:
AcceptWaveform with each chunk, GetFrame for each new frame, Pop. It is measured twice: from Python, as our front-ends,
and in C++ against our C, without Python around either. Chunks of 10 ms are a live stream, of 100 ms a relaxed one.
Every round times all of them, in another order each time; figures are medians over the rounds, with quartiles.
"""

from __future__ import annotations

import argparse
import importlib
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from recording import load_average, write_record

from edgeaudio.bench.probes.linux import cpu_description
from edgeaudio.errors import ParityError, UnsupportedError
from edgeaudio.frontend.choice import FrontendName, make_frontend
from edgeaudio.frontend.native import stream as native_stream
from edgeaudio.frontend.native.tables import native_tables
from edgeaudio.frontend.stream import Float32
from edgeaudio.frontend.tables import frontend_tables
from edgeaudio.spec import FrontendSpec

SPEC = FrontendSpec()
CHUNKS = {"10 ms": 160, "100 ms": 1600}
#: Seconds of audio that one contestant hears in one round.
ROUND_S = 1.0
BAR, STRETCH = 3.0, 5.0
# Relative difference in mel power that two float32 implementations of the same bands show. Measured 3e-6.
SAME_BANDS = 1e-3

Contestant = Callable[[Any], int]


class Batched:
    """numpy with all frames of a chunk at once, as one writes it offline: not the runtime's, whose bits it has not."""

    def __init__(self) -> None:
        tables = frontend_tables(SPEC)
        self._window, self._mel = tables.window.astype(np.float32), tables.mel.T.astype(np.float32)
        self._held = np.empty(0, np.float32)

    def feed(self, chunk: Float32) -> Float32:
        """As `FrontendStream.feed`."""
        samples = np.concatenate([self._held, chunk])
        n_frames = SPEC.n_frames(len(samples))
        if n_frames == 0:
            self._held = samples
            return np.empty((0, SPEC.n_mels), np.float32)
        self._held = samples[n_frames * SPEC.hop_length :]
        (step,) = samples.strides
        shape, strides = (n_frames, SPEC.win_length), (SPEC.hop_length * step, step)
        frames = np.lib.stride_tricks.as_strided(samples, shape, strides, writeable=False)
        spectrum = np.fft.rfft(frames * self._window, SPEC.n_fft)
        power = spectrum.real**2 + spectrum.imag**2
        log_mel: Float32 = (np.log(power @ self._mel + np.float32(SPEC.log_floor)) + np.float32(SPEC.offset)) * (
            np.float32(SPEC.scale)
        )
        return log_mel


class Kaldi:
    """kaldi-native-fbank from Python."""

    def __init__(self) -> None:
        fbank = _kaldi()
        options = fbank.FbankOptions()
        options.frame_opts.samp_freq = SPEC.sample_rate
        options.frame_opts.dither = 0
        options.frame_opts.preemph_coeff = 0
        options.frame_opts.remove_dc_offset = False
        options.frame_opts.window_type = "hanning"
        options.frame_opts.snip_edges = True
        options.mel_opts.num_bins = SPEC.n_mels
        options.mel_opts.low_freq = SPEC.f_min
        options.mel_opts.high_freq = SPEC.f_max
        self._fbank, self._next = fbank.OnlineFbank(options), 0

    def feed(self, chunk: list[float]) -> Float32:
        """`chunk` is a list: the binding takes an array twice as slowly, value by value."""
        self._fbank.accept_waveform(SPEC.sample_rate, chunk)
        ready = self._fbank.num_frames_ready
        frames = np.empty((ready - self._next, SPEC.n_mels), np.float32)
        for row, number in enumerate(range(self._next, ready)):
            frames[row] = self._fbank.get_frame(number)  # A view that ends with pop.
        self._fbank.pop(ready - self._next)
        self._next = ready
        return frames


def _kaldi() -> Any:
    try:
        return importlib.import_module("kaldi_native_fbank")
    except ImportError as error:
        raise UnsupportedError(f"{error}. Run: pip install '.[benchmarks]'") from error


def check_same_bands(waveform: Float32) -> float:
    """Largest relative difference in mel power to kaldi-native-fbank.

    Raises:
        ParityError: it computes something else, so that comparing speed means nothing.
    """
    theirs = np.exp(Kaldi().feed(waveform.tolist()).astype(np.float64))
    ours = np.exp(make_frontend(SPEC, "native").feed(waveform).astype(np.float64) / SPEC.scale - SPEC.offset)
    gap = float(np.abs((ours - SPEC.log_floor) / theirs - 1).max())
    if not gap <= SAME_BANDS:
        raise ParityError(f"mel power differs from kaldi-native-fbank's by {gap:.1e}, wanted at most {SAME_BANDS:.0e}")
    return gap


def contestants() -> dict[str, tuple[Contestant, Callable[[Float32], Any]]]:
    """Name -> (feed a chunk and count the frames, what makes its chunk of an array)."""

    def ours(name: FrontendName) -> Contestant:
        feed = make_frontend(SPEC, name).feed
        return lambda chunk: len(feed(chunk))

    batched, kaldi = Batched().feed, Kaldi().feed
    return {
        "native": (ours("native"), np.copy),
        "numpy, frame by frame": (ours("numpy"), np.copy),
        "numpy, batched": (lambda chunk: len(batched(chunk)), np.copy),
        "kaldi-native-fbank": (lambda chunk: len(kaldi(chunk)), np.ndarray.tolist),
    }


def time_python(waveform: Float32, chunk_samples: int, rounds: int) -> dict[str, list[float]]:
    """Microseconds per frame of each contestant, one per round."""
    found: dict[str, list[float]] = {name: [] for name in contestants()}
    entries = [
        (
            name,
            feed,
            [convert(chunk) for chunk in np.split(waveform, range(chunk_samples, len(waveform), chunk_samples))],
        )
        for name, (feed, convert) in contestants().items()
    ]
    for number in range(rounds + 2):
        for name, feed, chunks in entries[number % len(entries) :] + entries[: number % len(entries)]:
            started = time.perf_counter_ns()
            frames = 0
            for chunk in chunks:
                frames += feed(chunk)
            took_us = (time.perf_counter_ns() - started) / 1e3
            if number >= 2:  # Two rounds of warm-up.
                found[name].append(took_us / frames)
    return found


def time_c(waveform: Float32, rounds: int) -> dict[int, dict[str, list[float]]]:
    """Samples per chunk -> microseconds per frame of ea_logmel.c ("native") and of kaldi-native-fbank in C++.

    Raises:
        UnsupportedError: no C++ compiler, or the package without its library and headers.
    """
    peer = Path(str(_kaldi().__file__)).parent
    library = peer / "lib" / "libkaldi-native-fbank-core.so"
    for needed in ("cc", "c++"):
        if shutil.which(needed) is None:
            raise UnsupportedError(f"there is no {needed} here")
    if not library.exists():
        raise UnsupportedError("this build of kaldi-native-fbank comes without libkaldi-native-fbank-core.so")
    sources = Path(native_stream.__file__).parent
    with tempfile.TemporaryDirectory() as folder:
        program, core = f"{folder}/frontend_speed", f"{folder}/ea_logmel.o"
        # As setup.py compiles it.
        flags = ["-std=c99", "-O3", "-fno-fast-math", "-ffp-contract=off", "-fPIC"]
        subprocess.run(["cc", *flags, "-c", str(sources / "ea_logmel.c"), "-o", core], check=True)
        # The wheel was built with the older string type of libstdc++.
        flags = ["-std=c++17", "-O2", "-D_GLIBCXX_USE_CXX11_ABI=0", f"-I{sources}", f"-I{peer / 'include'}"]
        linked = [str(library), f"-Wl,-rpath,{library.parent}", "-o", program]
        subprocess.run(["c++", *flags, str(Path(__file__).with_suffix(".cc")), core, *linked], check=True)
        done = subprocess.run([program], input=_given(waveform, rounds + 2), stdout=subprocess.PIPE, check=True)
    found: dict[int, dict[str, list[float]]] = {}
    for line in done.stdout.decode().splitlines():
        name, chunk_samples, value = line.split()
        found.setdefault(int(chunk_samples), {}).setdefault(name, []).append(float(value))
    return {chunk: {name: values[2:] for name, values in names.items()} for chunk, names in found.items()}


def _given(waveform: Float32, rounds: int) -> bytes:
    tables = native_tables(SPEC)
    sizes = [SPEC.win_length, SPEC.hop_length, SPEC.n_fft, SPEC.n_mels, len(tables.weights), len(waveform), rounds]
    parts: list[NDArray[Any]] = [np.array([*sizes, len(CHUNKS)], "<u4")]
    parts += [np.array([SPEC.log_floor, SPEC.offset, SPEC.scale], "<f4"), *vars(tables).values(), waveform]
    return b"".join(part.tobytes() for part in [*parts, np.array([*CHUNKS.values()], "<u4")])


def rows(found: dict[str, list[float]], peer: str) -> list[tuple[str, float, float, float, float]]:
    """(name, median, lower and upper quartile, how many times faster than the peer by the medians)."""
    summaries = [(name, *np.percentile(values, [50, 25, 75]).tolist()) for name, values in found.items()]
    peer_us = float(np.median(found[peer]))
    return [(name, median, low, high, peer_us / median) for name, median, low, high in summaries]


def report(record: dict[str, Any], command: str) -> str:
    """The result as Markdown."""
    lines = [
        "# Log-mel: microseconds per 10-ms frame",
        "",
        f"    {command}",
        "",
        f"{record['cpu']}, pinned to one core, one thread; {record['rounds']} rounds of {ROUND_S:g} s of audio, "
        f"interleaved; medians, quartiles in brackets. numpy {record['numpy']}, kaldi-native-fbank {record['kaldi']}, "
        f"native front-end by {record['compiler']}, no instructions beyond the architecture's baseline. "
        f"Same bands: mel power within {record['same_bands']:.0e}. Load average {record['load_before']:.1f} before, "
        f"{record['load_after']:.1f} after. *Not run on hardware.*",
        "",
    ]
    for place, tables in record["tables"].items():
        lines += [f"## {place}", "", "| | " + " | ".join(f"chunks of {name}" for name in tables) + " |"]
        lines += ["| --- |" + " --- |" * len(tables)]
        for number, (name, *_) in enumerate(next(iter(tables.values()))):
            cells = []
            for table in tables.values():
                _, median, low, high, ratio = table[number]
                cells.append(f"**{median:.2f}** ({low:.2f} to {high:.2f}), {ratio:.1f}x")
            lines.append(f"| {name} | " + " | ".join(cells) + " |")
        lines.append("")
    lines += ["x: times as fast as kaldi-native-fbank in the same column.", "", *record["verdict"], ""]
    return "\n".join(lines)


def verdict(tables: dict[str, dict[str, list[tuple[str, float, float, float, float]]]]) -> list[str]:
    """The bar in words, for each comparison."""
    lines = []
    for place, by_chunk in tables.items():
        for chunk, table in by_chunk.items():
            ratio = next(row[4] for row in table if row[0] == "native")
            level = "stretch reached" if ratio >= STRETCH else "bar reached" if ratio >= BAR else "**below the bar**"
            lines.append(f"- {place}, chunks of {chunk}: native {ratio:.1f}x, {level} ({BAR:g}x; stretch {STRETCH:g}x)")
    return lines


def main() -> None:
    """See the module docstring."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("--out", type=Path, required=True, help="without suffix")
    arguments = parser.parse_args()
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    rng = np.random.default_rng(0)
    waveform = (0.1 * rng.standard_normal(int(ROUND_S * SPEC.sample_rate))).astype(np.float32)
    load_before = load_average()
    same_bands = check_same_bands(waveform)
    in_python = {name: time_python(waveform, samples, arguments.rounds) for name, samples in CHUNKS.items()}
    in_c = time_c(waveform, arguments.rounds)
    tables = {
        "From Python": {chunk: rows(found, "kaldi-native-fbank") for chunk, found in in_python.items()},
        "C and C++ alone": {chunk: rows(in_c[samples], "kaldi") for chunk, samples in CHUNKS.items()},
    }
    record = {
        "cpu": cpu_description()[0],
        "rounds": arguments.rounds,
        "numpy": np.__version__,
        "kaldi": metadata.version("kaldi-native-fbank"),
        "compiler": native_stream.compiler(),
        "same_bands": same_bands,
        "load_before": load_before,
        "load_after": load_average(),
        "tables": tables,
        "verdict": verdict(tables),
    }
    text = report(record, f"python benchmarks/frontend_speed.py --rounds {arguments.rounds} --out OUT")
    raw = {"python": in_python, "c": {str(chunk): found for chunk, found in in_c.items()}}
    write_record(arguments.out, text, record | {"raw_us": raw})


if __name__ == "__main__":
    main()
