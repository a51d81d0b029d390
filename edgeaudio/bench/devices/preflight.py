"""Can a device run a benchmark? What it lacks, and the exact command that installs it. Pure functions."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Iterable, Sequence
from typing import Literal, NamedTuple

from edgeaudio.spec import Spec

#: What the agent imports, whatever it runs; soxr converts sample rates and has no build for 32 bits.
BASE_PACKAGES = ("numpy>=1.24", "pydantic>=2.11,<2.12", "psutil>=5.9", "safetensors>=0.5", "soxr>=1.0")
#: What runs a format.
ENGINE_PACKAGES = {"onnx": "onnxruntime>=1.23", "tflite": "ai-edge-litert>=2.0", "tensorrt": "tensorrt>=10"}
#: And on 32 bits; None: there is none.
ENGINE_PACKAGES_32 = {"onnx": None, "tflite": "tflite-runtime==2.14.0", "tensorrt": None}
#: What Debian has for 32 bits and the package index has not.
_DEBIAN_32 = {"numpy": "python3-numpy", "psutil": "python3-psutil"}
PYTHON_MIN = (3, 11)
#: glibc that the wheels of the engines are built for.
GLIBC_MIN = (2, 28)
ARCHITECTURES = ("x86_64", "aarch64", "armv7l")
VENV = "~/edgeaudio"
_OWN_PYTHON = f", then set 'python: {VENV}/bin/python' in devices.yaml"
_ROOM_BYTES = 64 * 2**20
# What makes int8 faster than float32, by architecture, in the kernel's words.
_DOT_PRODUCT = {"x86_64": ("avx512_vnni", "avx_vnni"), "aarch64": ("asimddp",), "armv7l": ()}

Grade = Literal["ok", "missing", "note"]


class Description(Spec):
    """What `onboard.describe` tells of a device."""

    python: str
    executable: str
    externally_managed: bool
    has_ensurepip: bool
    python_headers: bool
    compiler: str | None
    architecture: str
    userland_bits: int
    multiarch: str
    libc: str
    kernel: str
    os: str
    model: str | None
    cpu_flags: tuple[str, ...]
    cores: int
    folder: str
    folder_writable: bool
    free_disk_bytes: int
    packages: dict[str, str | None]
    apt: bool
    root: bool
    jetson: bool
    swept: int

    @property
    def can_compile(self) -> bool:
        """Whether the front-end in C can be built there."""
        return self.compiler is not None and self.python_headers


class Finding(NamedTuple):
    """One thing that was looked at. `missing` keeps a benchmark from running; `mend` is what to type, where."""

    subject: str
    grade: Grade
    found: str
    wanted: str = ""
    mend: str | None = None


def asked_packages() -> tuple[str, ...]:
    """The packages whose versions preflight needs to know."""
    wanted = (*BASE_PACKAGES, *ENGINE_PACKAGES.values(), *ENGINE_PACKAGES_32.values())
    return tuple(_name(requirement) for requirement in wanted if requirement is not None)


def preflight(
    device: Description, by_hand: Callable[[str], str], formats: Iterable[str] | None = None, sent_bytes: int = 0
) -> list[Finding]:
    """Everything that decides whether a benchmark can run.

    Args:
        by_hand: a shell command on the device -> what to type on this machine.
        formats: an engine is needed for each of them; None asks for one engine at least.
    """
    return [
        _python(device, by_hand),
        _architecture(device),
        _libc(device),
        _instructions(device),
        *_packages(device, by_hand, formats),
        _disk(device, sent_bytes),
        _native_frontend(device, by_hand),
    ]


def missing(findings: Sequence[Finding]) -> str:
    """What keeps a benchmark from running, in a sentence; empty where nothing does."""
    return "; ".join(
        f"{item.subject} is {item.found or 'missing'}, wanted {item.wanted}"
        + (f". Run: {item.mend}" if item.mend else "")
        for item in findings
        if item.grade == "missing"
    )


def _python(device: Description, by_hand: Callable[[str], str]) -> Finding:
    wanted = f">={'.'.join(map(str, PYTHON_MIN))}"
    if _version(device.python) >= PYTHON_MIN:
        return Finding("Python", "ok", device.python, wanted)
    # A Python of its own, for systems older than this one.
    steps = f"python3 -m pip install --user uv && ~/.local/bin/uv venv --python 3.11 {VENV}"
    command = by_hand(f"{steps} && ~/.local/bin/uv pip install --python {VENV}/bin/python {_all_packages(device)}")
    return Finding("Python", "missing", device.python, wanted, command + _OWN_PYTHON)


def _architecture(device: Description) -> Finding:
    found = f"{device.architecture}, {device.userland_bits} bits"
    known = device.architecture in ARCHITECTURES or device.userland_bits == 32
    return Finding("architecture", "ok" if known else "note", found, " or ".join(ARCHITECTURES))


def _libc(device: Description) -> Finding:
    wanted = f"glibc >={'.'.join(map(str, GLIBC_MIN))}"
    name, _, version = device.libc.partition(" ")
    fits = name == "glibc" and _version(version) >= GLIBC_MIN
    return Finding("libc", "ok" if fits else "note", device.libc or "unknown", f"{wanted}, for wheels of the engines")


def _instructions(device: Description) -> Finding:
    useful = _DOT_PRODUCT.get(device.architecture, ())
    there = [flag for flag in useful if flag in device.cpu_flags]
    if there:
        return Finding("int8 instructions", "ok", " ".join(there))
    return Finding("int8 instructions", "note", "none", "without a dot product int8 gains little over float32")


def _packages(device: Description, by_hand: Callable[[str], str], formats: Iterable[str] | None) -> list[Finding]:
    findings = [_package(device, requirement, by_hand) for requirement in _base_packages(device)]
    engines = [_engine(device, format, by_hand) for format in formats or ENGINE_PACKAGES]
    if formats is None and any(item.grade == "ok" for item in engines):
        engines = [item if item.grade == "ok" else item._replace(grade="note") for item in engines]
    return [*findings, *engines]


def _engine(device: Description, format: str, by_hand: Callable[[str], str]) -> Finding:
    requirement = _engine_package(device, format)
    subject = f"engine of {format}"
    if requirement is None:
        return Finding(subject, "missing", "not available", "a 64-bit system")
    found = _package(device, requirement, by_hand)._replace(subject=f"{subject}, {_name(requirement)}")
    if format != "tensorrt" or found.grade == "ok":
        return found
    mend = by_hand("sudo apt-get install -y python3-libnvinfer") if device.jetson else None
    return found._replace(wanted=f"{found.wanted}, with an NVIDIA GPU", mend=mend)


def _package(device: Description, requirement: str, by_hand: Callable[[str], str]) -> Finding:
    name = _name(requirement)
    installed, wanted = device.packages.get(name), requirement.removeprefix(name)
    if installed is not None and satisfies(installed, wanted):
        return Finding(name, "ok", installed, wanted)
    mend = by_hand(_install(device, requirement)) + (_OWN_PYTHON if device.externally_managed else "")
    return Finding(name, "missing", installed or "missing", wanted, mend)


def _install(device: Description, requirement: str) -> str:
    """A shell command that installs `requirement`; all of them, where the system's Python takes no packages."""
    if not device.externally_managed:
        return f"{shlex.quote(device.executable)} -m pip install {shlex.quote(requirement)}"
    of_debian = _DEBIAN_32 if device.userland_bits == 32 else {}
    apt = [*(() if device.has_ensurepip else ("python3-venv",)), *of_debian.values()]
    steps = [f"sudo apt-get install -y {' '.join(apt)}"] if apt else []
    shared = "--system-site-packages " if of_debian else ""
    steps.append(f"{shlex.quote(device.executable)} -m venv {shared}{VENV}")
    steps.append(f"{VENV}/bin/python -m pip install {_all_packages(device, without=of_debian)}")
    return " && ".join(steps)


def _all_packages(device: Description, without: Iterable[str] = ()) -> str:
    wanted = [*_base_packages(device), _engine_package(device, "onnx"), _engine_package(device, "tflite")]
    return shlex.join(item for item in wanted if item is not None and _name(item) not in without)


def _base_packages(device: Description) -> list[str]:
    return [item for item in BASE_PACKAGES if device.userland_bits != 32 or _name(item) != "soxr"]


def _engine_package(device: Description, format: str) -> str | None:
    return (ENGINE_PACKAGES_32 if device.userland_bits == 32 else ENGINE_PACKAGES)[format]


def _disk(device: Description, sent_bytes: int) -> Finding:
    # Archives and what comes out of them, and room for what engines write.
    wanted_bytes = _ROOM_BYTES + 4 * sent_bytes
    subject = f"disk at {device.folder}"
    if not device.folder_writable:
        return Finding(subject, "missing", "not writable", "a folder of your own; set 'folder' in devices.yaml")
    found = f"{device.free_disk_bytes / 2**20:.0f} MiB free"
    enough = device.free_disk_bytes >= wanted_bytes
    return Finding(subject, "ok" if enough else "missing", found, f"{wanted_bytes / 2**20:.0f} MiB")


def _native_frontend(device: Description, by_hand: Callable[[str], str]) -> Finding:
    if device.can_compile:
        return Finding("C compiler", "ok", device.compiler or "", "for the front-end in C")
    lacks = "no compiler" if device.compiler is None else "no Python headers"
    mend = by_hand("sudo apt-get install -y gcc python3-dev") if device.apt else None
    return Finding("C compiler", "note", lacks, "else numpy may compute log-mel", mend)


def satisfies(installed: str, wanted: str) -> bool:
    """Whether a version is in a range such as `>=2.11,<2.12` or `==2.14.0`."""
    for part in filter(None, wanted.split(",")):
        bound = _version(part.lstrip("<>="))
        if part.startswith(">=") and _version(installed) < bound:
            return False
        if part.startswith("==") and _version(installed) != bound:
            return False
        if part.startswith("<") and _version(installed) >= bound:
            return False
    return True


def _version(text: str) -> tuple[int, ...]:
    numbers = [int(number) for number in re.findall(r"\d+", text)[:3]]
    return tuple([*numbers, 0, 0, 0][:3])


def _name(requirement: str) -> str:
    return re.split(r"[<>=]", requirement, maxsplit=1)[0]
