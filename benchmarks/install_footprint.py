"""What a device must carry: bytes installed, import time and peak memory of edgeaudio with one engine.

    python benchmarks/install_footprint.py BUNDLE.eab --out benchmarks/results/install_footprint

For each engine a fresh virtual environment gets `edgeaudio[runtime-ENGINE]` from this checkout, in the versions of
constraints.txt. Times are wall-clock medians of fresh processes, byte code compiled, files in the page cache; a bare
interpreter takes turns with them. Writes OUT.json and OUT.md.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from recording import command_line, write_record

from edgeaudio.bundle import Bundle

ROOT = Path(__file__).resolve().parents[1]
ENGINES = ("onnx", "litert")

# What a listening process does first: import, load, classify one window; then says how much memory that took.
FIRST_ANSWER = """
import sys, time
begun = time.perf_counter()
from edgeaudio import Classifier
imported = time.perf_counter()
import numpy as np
classifier = Classifier.load(sys.argv[1], engine=sys.argv[2], precision="int8")
loaded = time.perf_counter()
classifier(np.zeros(2 * classifier.sample_rate, np.float32), classifier.sample_rate)
answered = time.perf_counter()
peak = next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM:"))
print((imported - begun) * 1e3, (loaded - imported) * 1e3, (answered - loaded) * 1e3, peak * 1024)
"""
BARE = "print(next(int(line.split()[1]) for line in open('/proc/self/status') if line.startswith('VmHWM:')) * 1024)"


def main() -> None:
    """See the module docstring."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--runs", type=int, default=15, help="fresh processes of each kind")
    parser.add_argument("--out", type=Path, required=True, help="without suffix")
    arguments = parser.parse_args()
    Bundle.read(arguments.bundle)  # A wrong path is said before minutes of installing.
    with tempfile.TemporaryDirectory(prefix="footprint-") as folder:
        found = {name: measure(Path(folder) / name, arguments.bundle, name, arguments.runs) for name in ENGINES}
    record = {"command": command_line(), "python": sys.version.split()[0], "engines": found}
    write_record(arguments.out, markdown(record, arguments.bundle.name, arguments.runs), record)


def measure(venv: Path, bundle: Path, engine: str, runs: int) -> dict[str, Any]:
    """Install into `venv` and measure; see the module docstring."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(venv)], check=True)
    python, packages = venv / "bin/python", next(venv.glob("lib/python*/site-packages"))
    subprocess.run(
        [
            sys.executable, "-m", "pip", f"--python={python}", "install", "--quiet", "--disable-pip-version-check",
            "-c", str(ROOT / "constraints.txt"), f"{ROOT}[runtime-{engine}]",
        ],
        check=True,
    )  # fmt: skip
    starts = processes(python, runs, {"bare": [BARE], "answer": [FIRST_ANSWER, str(bundle.resolve()), engine]})
    imports, loads, answers, peaks = zip(*(said for _, said in starts["answer"]), strict=True)
    return {
        "installed_bytes": size_bytes(packages),
        "largest_bytes": dict(largest(packages, 8)),
        "start_bare_ms": statistics.median(ms for ms, _ in starts["bare"]),
        "start_to_answer_ms": statistics.median(ms for ms, _ in starts["answer"]),
        "import_ms": statistics.median(imports),
        "load_ms": statistics.median(loads),
        "first_clip_ms": statistics.median(answers),
        "peak_rss_bare_bytes": statistics.median(said[0] for _, said in starts["bare"]),
        "peak_rss_bytes": statistics.median(peaks),
        "stream_help_ms": help_ms(venv / "bin/edgeaudio", runs),
    }


def processes(python: Path, runs: int, programs: dict[str, list[str]]) -> dict[str, list[tuple[float, list[float]]]]:
    """Wall ms and printed numbers of `runs` processes of each program, which take turns; the first is dropped."""
    # A checkout on PYTHONPATH would be measured instead of what is installed.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    found: dict[str, list[tuple[float, list[float]]]] = {name: [] for name in programs}
    for number in range(runs + 1):
        for name, (code, *given) in programs.items():
            begun = time.perf_counter()
            said = subprocess.run(
                [str(python), "-c", code, *given], check=True, capture_output=True, env=environment, cwd=python.parent
            )
            if number:
                found[name].append(((time.perf_counter() - begun) * 1e3, [float(x) for x in said.stdout.split()]))
    return found


def help_ms(edgeaudio: Path, runs: int) -> float:
    """Median wall time of `edgeaudio stream --help`."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    times = []
    for _ in range(runs + 1):
        begun = time.perf_counter()
        subprocess.run([str(edgeaudio), "stream", "--help"], check=True, capture_output=True, env=environment)
        times.append((time.perf_counter() - begun) * 1e3)
    return statistics.median(times[1:])


def size_bytes(path: Path) -> int:
    """Of all files below `path`."""
    return sum(file.lstat().st_size for file in path.rglob("*") if file.is_file())


def largest(packages: Path, n: int) -> list[tuple[str, int]]:
    """The `n` largest folders of site-packages."""
    sizes = {entry.name: size_bytes(entry) for entry in packages.iterdir() if entry.is_dir()}
    return sorted(sizes.items(), key=lambda item: -item[1])[:n]


def markdown(record: dict[str, Any], bundle: str, runs: int) -> str:
    """The record as a page."""
    rows = [
        ("installed, MB", "installed_bytes", 1e6, 1),
        ("bare interpreter, ms", "start_bare_ms", 1, 0),
        ("`from edgeaudio import Classifier`, ms", "import_ms", 1, 0),
        ("load the bundle, int8, ms", "load_ms", 1, 0),
        ("first 2-s clip, ms", "first_clip_ms", 1, 1),
        ("start of the process to its end, ms", "start_to_answer_ms", 1, 0),
        ("peak memory, MiB", "peak_rss_bytes", 2**20, 1),
        ("peak memory of a bare interpreter, MiB", "peak_rss_bare_bytes", 2**20, 1),
        ("`edgeaudio stream --help`, ms", "stream_help_ms", 1, 0),
    ]
    engines = record["engines"]
    lines = [
        "# What a device must carry",
        "",
        f"    {record['command']}",
        "",
        f"{bundle} on an x86 virtual machine, Python {record['python']}, medians of {runs} processes. "
        "*Not run on hardware.*",
        "",
        f"| | {' | '.join(f'edgeaudio[runtime-{extra}]' for extra in engines)} |",
        f"| --- |{' ---: |' * len(engines)}",
        *(
            f"| {name} | {' | '.join(f'{engines[engine][key] / unit:.{digits}f}' for engine in engines)} |"
            for name, key, unit, digits in rows
        ),
        "",
        *(
            f"- {engine}: "
            + ", ".join(f"{name} {size / 1e6:.1f} MB" for name, size in engines[engine]["largest_bytes"].items())
            for engine in engines
        ),
        "",
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
