"""One bundle on every kind of device that there is without a board: one job, one report.

    PYTHONPATH=. python benchmarks/every_device.py BUNDLE --baseline yamnet.tflite --clips ESC-50 --out OUT

The devices are an sshd of its own on this machine (`loopback`), the emulated CPUs, and this process (`local`). All get
the same job in one `edgeaudio bench`, and prove golden vectors and clips. Writes OUT/DEVICE.json, one report of all of
them as OUT/report.html, .md and .csv, and what they agree on as OUT/README.md. The emulated CPUs must have been set up
(`edgeaudio devices setup`); 40 clips and nine artefacts take each of them about a quarter of an hour.
"""

from __future__ import annotations

import argparse
import json
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from recording import command_line

from edgeaudio.bench.devices.collect import file_stem
from edgeaudio.bench.emulation import CPUS
from edgeaudio.bench.schema import BenchResult, read_result
from edgeaudio.spec.fs import atomic_write
from tests.sshd import Sshd

EDGEAUDIO = (sys.executable, "-m", "edgeaudio.cli.main")
INVALID = 4
CPU_CHOICE = ("cortex-a72", "cortex-a76", "cortex-a7")
REPORT_ONLY = "--report-only"


def edgeaudio(*arguments: str | Path, allow_invalid: bool = False) -> None:
    """Type a command; its output is this script's."""
    command = [*EDGEAUDIO, *map(str, arguments)]
    print("$ edgeaudio", shlex.join(command[len(EDGEAUDIO) :]), flush=True)
    code = subprocess.run(command, check=False).returncode
    if code and not (allow_invalid and code == INVALID):
        sys.exit(code)


def bench(bundle: Path, devices: Sequence[str], job: Sequence[str], out: Path) -> None:
    """One job on all devices."""
    with tempfile.TemporaryDirectory(prefix="edgeaudio-every-device-") as folder:
        sshd, file = Sshd(Path(folder)), Path(folder) / "devices.yaml"
        loopback = {"kind": "ssh", "host": "board", "ssh_config": str(sshd.config), "python": sys.executable}
        file.write_text(json.dumps({"devices": {"loopback": loopback}}))  # JSON is YAML.
        chosen = [word for device in devices for word in ("--device", device)]
        sshd.start()
        try:
            edgeaudio("bench", bundle, "--devices", file, *chosen, *job, "--out", out, allow_invalid=True)
        finally:
            sshd.stop()


def agreement(result: BenchResult) -> str:
    """A line: what of a device's answers was held against the host's."""
    own = [item for item in result.artefacts if item.form != "foreign"]
    golden = sum(item.parity is not None and item.parity.passed for item in own)
    heard = [item.accuracy for item in own if item.accuracy is not None]
    right = sorted({f"{check.n_correct} of {check.n_clips}" for check in heard})
    same = sorted({check.n_same for check in heard})
    cells = [
        result.environment.device,
        result.kind,
        result.verdict.level,
        f"{golden} of {len(own)}",
        ", ".join(right),
        " to ".join(map(str, [same[0], same[-1]] if len(same) > 1 else same)),
        ", ".join(item.artefact for item in result.not_run) or "-",
    ]
    return f"| {' | '.join(cells)} |"


def summary(results: Sequence[BenchResult]) -> str:
    """The record that a person reads first."""
    command = command_line().replace(f" {REPORT_ONLY}", "")
    lines = [
        "# One bundle on every kind of device",
        "",
        f"    PYTHONPATH=. {command}",
        "",
        "One job: every artefact in every form, golden vectors, labelled clips, a foreign file beside them. `loopback`",
        "is this machine behind ssh, `local` is this process; `estimated` devices are emulated and have instruction",
        "counts in place of times. *Not run on hardware.* Figures: [report.md](report.md), [report.html](report.html).",
        "",
        "| device | kind | verdict | golden vectors replay | clips right | same class as the host | cannot run there |",
        "| --- | --- | --- | --- | --- | --- | --- |",
        *map(agreement, results),
        "",
    ]
    return "\n".join(lines)


def main() -> None:
    """See the module docstring."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--baseline", type=Path, help="a .onnx or .tflite file beside it")
    parser.add_argument("--clips", type=Path, required=True, help="labelled clips")
    parser.add_argument("--n-clips", type=int, default=40)
    parser.add_argument("--cpu", action="append", choices=sorted(CPUS), help=f"default: {', '.join(CPU_CHOICE)}")
    parser.add_argument("--out", type=Path, required=True, help="folder")
    parser.add_argument(REPORT_ONLY, action="store_true", help="of results that are there")
    arguments = parser.parse_args()
    devices = ["loopback", "local", *(f"emulated:{cpu}" for cpu in arguments.cpu or CPU_CHOICE)]
    job = ["--clips", str(arguments.clips), "--n-clips", str(arguments.n_clips)]
    job += ["--pace", "10", "--cold-starts", "3", "--sounds", "5"]
    job += [] if arguments.baseline is None else ["--baseline", str(arguments.baseline)]
    arguments.out.mkdir(parents=True, exist_ok=True)
    if not arguments.report_only:
        bench(arguments.bundle, devices, job, arguments.out)
    paths = [arguments.out / f"{file_stem(device)}.json" for device in devices]
    reports = [word for kind in ("html", "md", "csv") for word in ("--out", arguments.out / f"report.{kind}")]
    edgeaudio("bench", "report", *paths, *reports)
    text = summary([read_result(path) for path in paths])
    atomic_write(arguments.out / "README.md", text.encode())
    print(text)


if __name__ == "__main__":
    main()
