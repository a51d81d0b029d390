"""Sets up an emulated ARM machine in a cache folder: Python, packages, edgeaudio, CPU description, counting plugin.

Each part is made under a temporary name and renamed when complete; a part that is there is not made again. Nothing is
installed on this machine but qemu-user, and that only by root.
"""

from __future__ import annotations

import functools
import os
import shutil
import sys
import tempfile
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from edgeaudio.bench.emulation.emulator import Emulator
from edgeaudio.bench.emulation.source import copy_edgeaudio
from edgeaudio.bench.emulation.steps import digest, run_step, whole_folder
from edgeaudio.bench.emulation.targets import GUEST_PYTHON, SUITE, Architecture, Cpu, cpu_named
from edgeaudio.errors import ConfigError, UnsupportedError
from edgeaudio.spec.fs import atomic_path, cache_folder

MIRROR = "http://deb.debian.org/debian"
_KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")

Progress = Callable[[str], None]


def default_cache() -> Path:
    """`$EDGEAUDIO_CACHE/emulation`, else `~/.cache/edgeaudio/emulation`."""
    return cache_folder("emulation")


def install(cache: Path, *, cpu: str, mirror: str = MIRROR, progress: Progress, offline: str | None = None) -> Emulator:
    """Make what is missing in `cache` and return the emulator. Needs the network only the first time.

    Args:
        cpu: a name of `CPUS`.
        mirror: a Debian mirror.
        progress: is told in one line what is made, before it is.
        offline: fetch nothing; the command to name where something would have to be.
    Raises:
        ConfigError: no such CPU model, or this machine lacks a package whose version the guest is to have.
        UnsupportedError: a tool is missing, or a step failed; says which and how to mend it.
    """
    model = cpu_named(cpu)
    cache = cache.expanduser().resolve()
    cache.mkdir(parents=True, exist_ok=True)
    fetching = progress if offline is None else functools.partial(_refuse, cpu, offline)
    qemu = _qemu_user(model.architecture, fetching)
    root = _debian_root(cache, model.architecture, mirror, fetching)
    packages = _wheels(cache, model.architecture, fetching)
    copy = copy_edgeaudio(cache, model.architecture, root, progress)
    beside = (root / path for path in model.architecture.python_paths)
    plugin = _plugin(cache, progress)
    progress(f"{cpu} is ready" + (f"; {copy.no_native}" if copy.no_native else ""))
    return Emulator(model, qemu, _cpu_view(root, model), (copy.folder, packages, *beside), plugin, copy.no_native)


def _refuse(cpu: str, command: str, what: str) -> None:
    raise UnsupportedError(f"{cpu} is not set up on this machine, or not for its packages ({what}). Run: {command}")


def _qemu_user(architecture: Architecture, fetching: Progress) -> str:
    found = shutil.which(architecture.qemu)
    if found is None and os.geteuid() == 0 and shutil.which("apt-get"):
        fetching("qemu-user: 12 MB by apt-get")
        run_step("apt-get update", ["apt-get", "-qq", "update"], deadline_s=300)
        install_command = ["apt-get", "-qq", "install", "-y", "--no-install-recommends", "qemu-user"]
        run_step("install qemu-user", install_command, deadline_s=600)
        found = shutil.which(architecture.qemu)
    if found is None:
        raise UnsupportedError(
            f"{architecture.qemu} is missing. As root: apt-get install --no-install-recommends qemu-user "
            "(not qemu-user-static, which takes no plugins)"
        )
    if "-plugin" not in run_step("qemu options", [found, "-h"], deadline_s=30).out:
        raise UnsupportedError(f"{found} takes no -plugin; as root: apt-get install --no-install-recommends qemu-user")
    return found


def _debian_root(cache: Path, architecture: Architecture, mirror: str, fetching: Progress) -> Path:
    """Unpacked packages of Debian with a CPython; no chroot, no root needed."""
    packages = architecture.debian_packages
    root = cache / f"debian-{SUITE}-{architecture.name}-{digest(*packages)}"
    if root.is_dir():
        return root
    if not _KEYRING.is_file():
        raise UnsupportedError(f"{_KEYRING} is missing: as root, apt-get install debian-archive-keyring")
    fetching(f"Debian {SUITE} for {architecture.name}: {len(packages)} packages, some 20 MB")
    with whole_folder(root) as unpacked, tempfile.TemporaryDirectory() as name:
        state = Path(name)
        apt = _private_apt(state, architecture, mirror)
        run_step(f"{architecture.name} package lists", [*apt, "update"], deadline_s=300)
        run_step(f"{architecture.name} packages", [*apt, "download", *packages], deadline_s=600, cwd=state)
        for package in sorted(state.glob("*.deb")):
            run_step(f"unpack {package.name}", ["dpkg-deb", "-x", str(package), str(unpacked)], deadline_s=120)
    return root


def _private_apt(state: Path, architecture: Architecture, mirror: str) -> list[str]:
    """apt-get on files of its own below `state`: this machine's lists and packages are not touched."""
    for folder in ("lists/partial", "cache/archives/partial"):
        (state / folder).mkdir(parents=True)
    (state / "sources.list").write_text(f"deb [signed-by={_KEYRING}] {mirror} {SUITE} main\n")
    options = {
        "APT::Architecture": architecture.name,
        "APT::Architectures": architecture.name,
        "APT::Sandbox::User": "",
        "Dir::State::lists": state / "lists",
        "Dir::State::status": "/dev/null",
        "Dir::Cache": state / "cache",
        "Dir::Etc::sourceparts": "/dev/null",
        "Dir::Etc::sourcelist": state / "sources.list",
    }
    return ["apt-get", "-qq", *(part for key, value in options.items() for part in ("-o", f"{key}={value}"))]


def _cpu_view(root: Path, cpu: Cpu) -> Path:
    """`root` by links, with the /proc/cpuinfo of `cpu`: QEMU looks here first, and elsewhere shows the host's.

    onnxruntime 1.31 crashes on the host's, and LiteRT without /sys/devices/system/cpu runs without XNNPACK, silently.
    """
    view = root.parent / f"{root.name}-{cpu.name}-{digest(cpu.cpuinfo)}"
    if view.is_dir():
        return view
    with whole_folder(view) as made:
        for entry in root.iterdir():
            (made / entry.name).symlink_to(Path("..") / root.name / entry.name)
        (made / "proc").mkdir()
        (made / "proc/cpuinfo").write_text(cpu.cpuinfo)
        described = made / "sys/devices/system/cpu"
        described.mkdir(parents=True)
        for name in ("possible", "present"):
            (described / name).write_text("0-3\n")
    return view


def _wheels(cache: Path, architecture: Architecture, fetching: Progress) -> Path:
    """A folder for PYTHONPATH with the packages of a device, in the versions that this machine has installed."""
    pins = [f"{name}=={_installed(name)}" for name in architecture.wheels]
    pins += [f"{name}=={wanted}" for name, wanted in architecture.pins.items()]
    folder = cache / f"wheels-cp311-{architecture.machine}-{digest(*pins)}"
    if folder.is_dir():
        return folder
    fetching(f"packages for {architecture.machine}: {len(pins)} wheels, up to 70 MB")
    tags = [f"--platform={platform}" for platform in architecture.platforms]
    abis = [f"--abi={abi}" for abi in ("cp311", "abi3", "none")]
    with whole_folder(folder) as target:
        run_step(
            f"{architecture.machine} wheels",
            [
                sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps",
                "--no-compile", "--only-binary=:all:", f"--python-version={GUEST_PYTHON}", "--implementation=cp",
                *abis, *tags, "--target", str(target), *pins,
            ],
            deadline_s=900,
        )  # fmt: skip
    return folder


def _plugin(cache: Path, progress: Progress) -> Path:
    """The counting plugin, compiled for this machine."""
    source = Path(__file__).with_name("count_instructions.c")
    library = cache / f"count_instructions-{digest(source.read_text())}.so"
    if not library.exists():
        progress("counting plugin: by gcc")
        with atomic_path(library) as temporary:
            flags = ["-O2", "-Wall", "-Wextra", "-Werror", "-fPIC", "-shared"]
            run_step("plugin", ["gcc", *flags, "-o", str(temporary), str(source)], deadline_s=120)
    return library


def _installed(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError as error:
        raise ConfigError(f"{package} is not installed here: pip install 'edgeaudio[runtime]'") from error
