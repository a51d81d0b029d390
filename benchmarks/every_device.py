"""One bundle on every kind of device that there is without a board: one job, one report.

    PYTHONPATH=. python benchmarks/every_device.py BUNDLE --baseline yamnet.tflite --clips ESC-50 --out OUT

The devices are an sshd of its own on this machine (`loopback`), the emulated CPUs, and this process (`local`). All get
the same job in one `edgeaudio bench`, and prove golden vectors and clips. Writes OUT/DEVICE.json, and one report of all
of them as OUT/report.html, .md and .csv. The emulated CPUs must have been set up (`edgeaudio devices setup`).
"""

from __future__ import annotations

import argparse
import json
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path

from edgeaudio.bench.devices.collect import file_stem
from edgeaudio.bench.emulation import CPUS
from tests.sshd import Sshd

EDGEAUDIO = (sys.executable, "-m", "edgeaudio.cli.main")
INVALID = 4
CPU_CHOICE = ("cortex-a72", "cortex-a76", "cortex-a7")


def edgeaudio(*arguments: str | Path, allow_invalid: bool = False) -> None:
    """Type a command; its output is this script's."""
    command = [*EDGEAUDIO, *map(str, arguments)]
    print("$ edgeaudio", shlex.join(command[len(EDGEAUDIO) :]), flush=True)
    code = subprocess.run(command, check=False).returncode
    if code and not (allow_invalid and code == INVALID):
        sys.exit(code)


def main() -> None:
    """See the module docstring."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--baseline", type=Path, help="a .onnx or .tflite file beside it")
    parser.add_argument("--clips", type=Path, required=True, help="labelled clips")
    parser.add_argument("--n-clips", type=int, default=40)
    parser.add_argument("--cpu", action="append", choices=sorted(CPUS), help=f"default: {', '.join(CPU_CHOICE)}")
    parser.add_argument("--out", type=Path, required=True, help="folder")
    arguments = parser.parse_args()
    devices = ["loopback", "local", *(f"emulated:{cpu}" for cpu in arguments.cpu or CPU_CHOICE)]
    job = ["--clips", arguments.clips, "--n-clips", arguments.n_clips, "--pace", 10, "--cold-starts", 3, "--sounds", 5]
    job += [] if arguments.baseline is None else ["--baseline", arguments.baseline]
    arguments.out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="edgeaudio-every-device-") as folder:
        sshd, file = Sshd(Path(folder)), Path(folder) / "devices.yaml"
        loopback = {"kind": "ssh", "host": "board", "ssh_config": str(sshd.config), "python": sys.executable}
        file.write_text(json.dumps({"devices": {"loopback": loopback}}))  # JSON is YAML.
        chosen = [word for device in devices for word in ("--device", device)]
        sshd.start()
        try:
            edgeaudio(
                "bench", arguments.bundle, "--devices", file, *chosen, *job, "--out", arguments.out, allow_invalid=True
            )
        finally:
            sshd.stop()
    results = [arguments.out / f"{file_stem(device)}.json" for device in devices]
    reports = [word for kind in ("html", "md", "csv") for word in ("--out", arguments.out / f"report.{kind}")]
    edgeaudio("bench", "report", *results, *reports)


if __name__ == "__main__":
    main()
