"""What this machine can run, and the exact pip command for the rest. Behind `edgeaudio doctor`.

Nothing heavy is imported: packages are looked up by their metadata, so the answer also comes on a
device without torch. The groups are the extras of the installed distribution (pyproject.toml).
"""

from __future__ import annotations

import os
import platform
import re
import shlex
import shutil
import sys
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from edgeaudio import __version__
from edgeaudio.bench.probes.linux import cpu_description
from edgeaudio.catalog import ENGINES
from edgeaudio.errors import UnsupportedError
from edgeaudio.frontend.native.stream import HOW_TO_BUILD, compiler, why_not_built
from edgeaudio.runtime.engines import cuda_driver

#: Instructions that decide how fast int8 and float32 run, by the kernel's names for them.
CPU_FLAGS_THAT_MATTER = {
    "x86": ("avx2", "fma", "avx512f", "avx512_vnni", "avx_vnni", "amx_int8"),
    "arm": ("neon", "asimd", "asimdhp", "asimddp", "i8mm", "sve"),
}

# JetPack writes it; there TensorRT is a package of the system.
_JETSON = Path("/etc/nv_tegra_release")
#: Of LiteRT: name and versions.
_FORERUNNER = ("tflite-runtime", ">=2.14")
_REQUIREMENT = re.compile(
    r"^(?P<name>[A-Za-z0-9._-]+)(?P<wanted>[^;]*)(?:;.*extra\s*==\s*['\"](?P<extra>[^'\"]+)['\"])?"
)


@dataclass(frozen=True)
class PackageStatus:
    """One requirement; `installed` is None where it is missing."""

    name: str
    wanted: str
    installed: str | None


@dataclass(frozen=True)
class Capability:
    """Something edgeaudio can do where `packages` are installed; `install` is the command if some are not."""

    name: str
    packages: tuple[PackageStatus, ...]
    install: str | None

    @property
    def usable(self) -> bool:
        """Whether every package is there."""
        return self.install is None


@dataclass(frozen=True)
class NativeFrontend:
    """The C front-end: what compiled it, or None, why it is not here, and how to get it."""

    compiler: str | None
    reason: str = ""
    install: str | None = None


@dataclass(frozen=True)
class Machine:
    """The parts of the machine that decide what runs and how fast."""

    python: str
    system: str
    architecture: str
    cpu: str
    cores: int
    cpu_flags: dict[str, bool]
    free_disk_bytes: int


@dataclass(frozen=True)
class Diagnosis:
    """The whole answer; `engines` is a part of `capabilities`, by engine name."""

    edgeaudio: str
    machine: Machine
    capabilities: tuple[Capability, ...]
    engines: dict[str, bool]
    native_frontend: NativeFrontend


def diagnose(folder: Path) -> Diagnosis:
    """Look at this machine; free disk space is that of `folder`.

    Raises:
        UnsupportedError: edgeaudio was not installed with pip, so its requirements are not known.
    """
    groups = _requirements()
    capabilities = [_capability("base", groups[""])]
    groups["runtime-litert"] = _tflite_runtime_instead(groups["runtime-litert"])
    of_engines = {
        name: _tensorrt() if name == "tensorrt" else _capability(f"engine {name}", groups[extra_of(name)])
        for name in sorted(ENGINES)
    }
    capabilities += of_engines.values()
    capabilities += [_capability("signatures", groups["signing"]), _capability("microphones", groups["mic"])]
    capabilities += [_capability("distil, quantise, export", groups["train"]), _capability("tests", groups["dev"])]
    engines = {name: capability.usable for name, capability in of_engines.items()}
    return Diagnosis(__version__, _machine(folder), tuple(capabilities), engines, _native_frontend())


def _native_frontend() -> NativeFrontend:
    reason = why_not_built()
    return NativeFrontend(compiler()) if reason is None else NativeFrontend(None, reason, HOW_TO_BUILD)


def extra_of(engine: str) -> str:
    """The extra of the distribution that holds an engine's packages; TensorRT's are NVIDIA's own affair."""
    # The reference of TensorRT is onnxruntime by another name.
    return "runtime-onnx" if engine == "tensorrt-reference" else f"runtime-{engine}"


def _requirements() -> dict[str, list[PackageStatus]]:
    """Extra -> its packages; the base requirements are under ''."""
    try:
        lines = metadata.requires("edgeaudio") or []
    except metadata.PackageNotFoundError as error:
        raise UnsupportedError("edgeaudio is not installed as a package. Run 'pip install -e .' beside it.") from error
    groups: dict[str, list[PackageStatus]] = {"": []}
    for line in lines:
        match = _REQUIREMENT.match(line)
        assert match is not None, line
        package = PackageStatus(match["name"], match["wanted"].strip(), _version(match["name"]))
        groups.setdefault(match["extra"] or "", []).append(package)
    return groups


def _tflite_runtime_instead(packages: list[PackageStatus]) -> list[PackageStatus]:
    """What LiteRT needs where it has no wheel: the engine also runs on its forerunner (32-bit ARM has only that)."""
    forerunner = PackageStatus(*_FORERUNNER, _version(_FORERUNNER[0]))
    if any(package.installed for package in packages) or not (forerunner.installed or sys.maxsize < 2**32):
        return packages
    return [forerunner]


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _capability(name: str, packages: list[PackageStatus]) -> Capability:
    install = None
    if any(package.installed is None for package in packages):
        # All of the group in one command: pip resolves torch and litert-torch jointly or breaks one.
        requirements = [package.name + package.wanted for package in packages]
        install = f"python -m pip install {shlex.join(requirements)}"
    return Capability(name, tuple(packages), install)


def _tensorrt() -> Capability:
    """NVIDIA's package and a driver that loads; neither is a requirement that pip could meet everywhere."""
    packages = (
        PackageStatus("tensorrt", ">=10", _version("tensorrt")),
        PackageStatus(cuda_driver.LIBRARY, "(NVIDIA driver)", "found" if cuda_driver.is_there() else None),
    )
    install = None
    if packages[1].installed is None:
        install = "(an NVIDIA GPU and its driver; on a Jetson both come with JetPack 7)"
    elif packages[0].installed is None:
        on_jetson = _JETSON.exists()
        install = "sudo apt-get install python3-libnvinfer" if on_jetson else "python -m pip install 'tensorrt>=10'"
    return Capability("engine tensorrt (not run on hardware)", packages, install)


def _machine(folder: Path) -> Machine:
    architecture = platform.machine()
    cpu, flags = cpu_description()
    family = "arm" if architecture.lower().startswith(("arm", "aarch")) else "x86"
    return Machine(
        python=platform.python_version(),
        system=f"{platform.system()} {platform.release()}",
        architecture=architecture,
        cpu=cpu,
        cores=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
        cpu_flags={flag: flag in flags for flag in CPU_FLAGS_THAT_MATTER[family]},
        free_disk_bytes=shutil.disk_usage(folder).free,
    )
