"""`Emulator`: command lines that run Python, and edgeaudio, on an emulated CPU."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from edgeaudio.bench.emulation.steps import Said, run_step
from edgeaudio.bench.emulation.targets import GUEST_PYTHON, Cpu

#: Words for whatever is made from an emulator's figures.
LABEL = "emulated, instructions only; not run on hardware"


@dataclass(frozen=True)
class Emulator:
    """Everything that a run in the guest needs.

    root: of the guest, with its own /proc/cpuinfo. packages: folders for PYTHONPATH. no_native: why the guest has no
    front-end in C; empty where it has one.
    """

    cpu: Cpu
    qemu: str
    root: Path
    packages: tuple[Path, ...]
    plugin: Path
    no_native: str

    @property
    def version(self) -> str:
        """The first line of `qemu-... --version`."""
        return run_step("qemu version", [self.qemu, "--version"], deadline_s=30).out.splitlines()[0]

    def python(self, *arguments: str | Path, counts: Path | None = None) -> list[str]:
        """The command line of `python3.11 *arguments`; with `counts` the plugin writes its lines there."""
        environment = {
            "PYTHONPATH": ":".join(map(str, self.packages)),
            "PYTHONHASHSEED": "0",
            # NumPy's BLAS and onnxruntime's reports to its maker start threads at import, which on a busy machine
            # still start up while we count.
            "OPENBLAS_NUM_THREADS": "1",
            "ORT_DISABLE_TELEMETRY": "1",
        }
        libraries = self.cpu.architecture.library_paths
        if libraries:
            environment["LD_LIBRARY_PATH"] = ":".join(str(self.root / path) for path in libraries)
        plugin = [] if counts is None else ["-plugin", f"{_escaped(self.plugin)},out={_escaped(counts)}"]
        return [
            self.qemu, *plugin, "-cpu", self.cpu.name,
            "-L", str(self.root), *(part for pair in environment.items() for part in ("-E", "=".join(pair))),
            str(self.root / "usr/bin" / f"python{GUEST_PYTHON}"), *map(str, arguments),
        ]  # fmt: skip

    def edgeaudio(self, *arguments: str | Path) -> list[str]:
        """The command line of `edgeaudio *arguments`, whatever lies in the working directory."""
        return self.python("-P", "-m", "edgeaudio.cli.main", *arguments)

    def run(self, name: str, *arguments: str | Path, deadline_s: float, counts: Path | None = None) -> Said:
        """Run `python3.11 *arguments` in the guest; errors are those of `run_step`, which begin with `name`."""
        return run_step(name, self.python(*arguments, counts=counts), deadline_s=deadline_s)


def _escaped(path: Path) -> str:
    # A comma ends an option's value; two stand for one.
    return str(path).replace(",", ",,")
