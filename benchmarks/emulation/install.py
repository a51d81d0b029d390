"""Sets up an emulated aarch64 Python in a cache folder: interpreter, wheels, CPU descriptions, counting plugin.

Each part is made under a temporary name and renamed when complete; a part that is there is not made again.
Nothing is installed on this machine but qemu-user, and that only by root.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import NamedTuple

from edgeaudio.errors import ConfigError, UnsupportedError

SUITE = "bookworm"
KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
GUEST_PYTHON = "3.11"
# What CPython and the wheels link to; of Debian's own dependencies the rest is for its package manager.
# fmt: off
DEBIAN_PACKAGES = (
    "libc6", "libgcc-s1", "libstdc++6", "libatomic1", "zlib1g", "libexpat1", "libffi8", "libbz2-1.0", "liblzma5",
    "libssl3", "libuuid1", "libsqlite3-0", "libncursesw6", "libtinfo6", "libreadline8", "libdb5.3", "libtirpc3",
    "libnsl2", "libcrypt1", "python3.11-minimal", "libpython3.11-minimal", "python3.11", "libpython3.11-stdlib",
)
# fmt: on
# Engines and what they import; taken in the versions that this machine has, so that both run the same code.
# fmt: off
WHEELS = (
    "numpy", "onnxruntime", "ai-edge-litert", "flatbuffers", "protobuf", "packaging", "typing_extensions", "tqdm",
    "backports.strenum",
)
# fmt: on
PLATFORMS = ("manylinux2014", "manylinux_2_17", "manylinux_2_27", "manylinux_2_28", "manylinux_2_34")
_BASE_FEATURES = "fp asimd evtstrm crc32 cpuid"


@dataclass(frozen=True)
class Cpu:
    """A CPU that QEMU models, and what Linux says of it in /proc/cpuinfo."""

    name: str
    part: str
    variant: str
    features: str
    found_in: str


CPUS = {
    cpu.name: cpu
    for cpu in (
        Cpu(
            "cortex-a76",
            "0xd0b",
            "0x4",
            "fp asimd evtstrm aes pmull sha1 sha2 crc32 atomics fphp asimdhp cpuid asimdrdm lrcpc dcpop asimddp",
            "Raspberry Pi 5",
        ),
        Cpu("cortex-a72", "0xd08", "0x0", _BASE_FEATURES, "Raspberry Pi 4"),
        Cpu("cortex-a53", "0xd03", "0x0", _BASE_FEATURES, "Raspberry Pi 3 and Zero 2"),
    )
}


class Said(NamedTuple):
    """What a command wrote to standard output and standard error."""

    out: str
    err: str


@dataclass(frozen=True)
class Emulator:
    """Everything that a run in the guest needs."""

    qemu: str
    root: Path
    packages: Path
    plugin: Path

    def command(self, cpu: Cpu, counts: Path, *arguments: str | Path) -> list[str]:
        """The command line that runs `python3.11 *arguments` on `cpu` and writes the plugin's lines to `counts`."""
        # A comma ends an option's value; two stand for one.
        plugin = f"{str(self.plugin).replace(',', ',,')},out={str(counts).replace(',', ',,')}"
        return [
            self.qemu, "-plugin", plugin, "-cpu", cpu.name, "-L", str(cpu_view(self.root, cpu)),
            "-E", f"PYTHONPATH={self.packages}", "-E", "PYTHONHASHSEED=0",
            # NumPy's BLAS starts threads at import, which on a busy machine still start up while we count.
            "-E", "OPENBLAS_NUM_THREADS=1",
            str(self.root / "usr/bin" / f"python{GUEST_PYTHON}"), *map(str, arguments),
        ]  # fmt: skip

    @property
    def version(self) -> str:
        """The first line of `qemu-aarch64 --version`."""
        return run_step("qemu version", [self.qemu, "--version"], deadline_s=30).out.splitlines()[0]


def install(cache: Path, *, mirror: str) -> Emulator:
    """Make what is missing in `cache` and return the emulator. Needs the network only the first time.

    Args:
        mirror: a Debian mirror.
    Raises:
        UnsupportedError: a tool is missing, or a step failed; says which and how to mend it.
    """
    cache = cache.expanduser().resolve()
    cache.mkdir(parents=True, exist_ok=True)
    qemu = qemu_user()
    root = debian_root(cache, mirror)
    for cpu in CPUS.values():
        cpu_view(root, cpu)
    return Emulator(qemu, root, wheels(cache), plugin(cache))


def run_step(name: str, command: Sequence[str], *, deadline_s: float, cwd: Path | None = None) -> Said:
    """Run one command to its end.

    Raises:
        UnsupportedError: the program is missing, failed, or took longer than `deadline_s`.
    """
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=deadline_s, cwd=cwd, check=False)
    except FileNotFoundError as error:
        raise UnsupportedError(f"{name}: {command[0]} is not installed on this machine; install it") from error
    except subprocess.TimeoutExpired as error:
        raise UnsupportedError(f"{name}: no end after {deadline_s:.0f} s: {' '.join(command)[:200]}") from error
    if done.returncode:
        said = " ".join((done.stderr or done.stdout).split())[-600:]
        raise UnsupportedError(f"{name}: exit code {done.returncode} of {' '.join(command)[:200]}: {said}")
    return Said(done.stdout, done.stderr)


def qemu_user() -> str:
    """Path of qemu-aarch64, installed from Debian when this is root and it is missing.

    Raises:
        UnsupportedError: it is missing and cannot be installed, or it takes no plugins.
    """
    found = shutil.which("qemu-aarch64")
    if found is None and os.geteuid() == 0 and shutil.which("apt-get"):
        run_step("apt-get update", ["apt-get", "-qq", "update"], deadline_s=300)
        install_command = ["apt-get", "-qq", "install", "-y", "--no-install-recommends", "qemu-user"]
        run_step("install qemu-user", install_command, deadline_s=600)
        found = shutil.which("qemu-aarch64")
    if found is None:
        raise UnsupportedError(
            "qemu-aarch64 is missing. As root: apt-get install --no-install-recommends qemu-user "
            "(not qemu-user-static, which takes no plugins)"
        )
    if "-plugin" not in run_step("qemu options", [found, "-h"], deadline_s=30).out:
        raise UnsupportedError(f"{found} takes no -plugin; as root: apt-get install --no-install-recommends qemu-user")
    return found


def debian_root(cache: Path, mirror: str) -> Path:
    """Unpacked arm64 packages of Debian with a CPython; about 60 MB. No chroot, no root needed."""
    root = cache / f"debian-{SUITE}-arm64-{_digest(*DEBIAN_PACKAGES)}"
    if root.is_dir():
        return root
    if not KEYRING.is_file():
        raise UnsupportedError(f"{KEYRING} is missing: as root, apt-get install debian-archive-keyring")
    with _folder(root) as unpacked, tempfile.TemporaryDirectory() as name:
        state = Path(name)
        for folder in ("lists/partial", "cache/archives/partial"):
            (state / folder).mkdir(parents=True)
        (state / "sources.list").write_text(f"deb [signed-by={KEYRING}] {mirror} {SUITE} main\n")
        options = {
            "APT::Architecture": "arm64",
            "APT::Architectures": "arm64",
            "APT::Sandbox::User": "",
            "Dir::State::lists": state / "lists",
            "Dir::State::status": "/dev/null",
            "Dir::Cache": state / "cache",
            "Dir::Etc::sourceparts": "/dev/null",
            "Dir::Etc::sourcelist": state / "sources.list",
        }
        apt = ["apt-get", "-qq", *(part for key, value in options.items() for part in ("-o", f"{key}={value}"))]
        run_step("arm64 package lists", [*apt, "update"], deadline_s=300)
        run_step("arm64 packages", [*apt, "download", *DEBIAN_PACKAGES], deadline_s=600, cwd=state)
        for package in sorted(state.glob("*.deb")):
            run_step(f"unpack {package.name}", ["dpkg-deb", "-x", str(package), str(unpacked)], deadline_s=120)
    return root


def cpu_view(root: Path, cpu: Cpu) -> Path:
    """`root` by links, with the /proc/cpuinfo of `cpu`: QEMU looks here first, and elsewhere shows the host's.

    onnxruntime 1.31 crashes on the host's, and LiteRT without /sys/devices/system/cpu runs without XNNPACK, silently.
    """
    view = root.parent / f"{root.name}-{cpu.name}"
    if view.is_dir():
        return view
    core = (
        "processor\t: {index}\nBogoMIPS\t: 108.00\n"
        f"Features\t: {cpu.features}\nCPU implementer\t: 0x41\nCPU architecture: 8\n"
        f"CPU variant\t: {cpu.variant}\nCPU part\t: {cpu.part}\nCPU revision\t: 3\n\n"
    )
    with _folder(view) as made:
        for entry in root.iterdir():
            (made / entry.name).symlink_to(Path("..") / root.name / entry.name)
        (made / "proc").mkdir()
        (made / "proc/cpuinfo").write_text("".join(core.format(index=index) for index in range(4)))
        described = made / "sys/devices/system/cpu"
        described.mkdir(parents=True)
        for name in ("possible", "present"):
            (described / name).write_text("0-3\n")
    return view


def wheels(cache: Path) -> Path:
    """A folder for PYTHONPATH with the aarch64 engines, in the versions that this machine has installed."""
    pins = [f"{name}=={_installed(name)}" for name in WHEELS]
    folder = cache / f"wheels-cp311-aarch64-{_digest(*pins)}"
    if folder.is_dir():
        return folder
    tags = [f"--platform={platform}_aarch64" for platform in PLATFORMS]
    abis = [f"--abi={abi}" for abi in ("cp311", "abi3", "none")]
    with _folder(folder) as target:
        run_step(
            "aarch64 wheels",
            [
                sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps",
                "--no-compile", "--only-binary=:all:", f"--python-version={GUEST_PYTHON}", "--implementation=cp",
                *abis, *tags, "--target", str(target), *pins,
            ],
            deadline_s=900,
        )  # fmt: skip
    return folder


def plugin(cache: Path) -> Path:
    """The counting plugin, compiled for this machine."""
    source = Path(__file__).with_name("count_instructions.c")
    library = cache / f"count_instructions-{_digest(source.read_text())}.so"
    if not library.exists():
        temporary = library.with_suffix(f".{os.getpid()}.tmp")
        try:
            flags = ["-O2", "-Wall", "-Wextra", "-Werror", "-fPIC", "-shared"]
            run_step("plugin", ["gcc", *flags, "-o", str(temporary), str(source)], deadline_s=120)
            temporary.replace(library)
        finally:
            temporary.unlink(missing_ok=True)
    return library


def _installed(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError as error:
        raise ConfigError(f"{package} is not installed here: pip install 'edgeaudio[runtime]'") from error


def _digest(*texts: str) -> str:
    return hashlib.sha256("\n".join(texts).encode()).hexdigest()[:12]


@contextmanager
def _folder(path: Path) -> Iterator[Path]:
    """Yield an empty folder beside `path`; rename it to `path` when the block succeeds, else remove it."""
    temporary = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}."))
    try:
        yield temporary
        temporary.chmod(0o755)
        temporary.rename(path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
