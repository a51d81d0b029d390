"""What is emulated: CPU models, and what the processors of one architecture need of Debian and of the package index."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from edgeaudio.errors import ConfigError, closest_match_hint

SUITE = "bookworm"
GUEST_PYTHON = "3.11"
# What CPython links to; of Debian's own dependencies the rest is for its package manager. The last has the headers.
# fmt: off
_INTERPRETER = (
    "libc6", "libgcc-s1", "libstdc++6", "libatomic1", "zlib1g", "libexpat1", "libffi8", "libbz2-1.0", "liblzma5",
    "libssl3", "libuuid1", "libsqlite3-0", "libncursesw6", "libtinfo6", "libreadline8", "libdb5.3", "libtirpc3",
    "libnsl2", "libcrypt1", "python3.11-minimal", "libpython3.11-minimal", "python3.11", "libpython3.11-stdlib",
    "libpython3.11-dev",
)
#: What edgeaudio needs on every device, and what that needs; a unit test holds it against the installed metadata.
_EVERYWHERE = (
    "pydantic", "pydantic-core", "annotated-types", "typing-inspection", "typing-extensions", "rich", "markdown-it-py",
    "mdurl", "Pygments", "safetensors", "soundfile", "typer", "annotated-doc", "shellingham",
)
_WHEELS_64 = (
    *_EVERYWHERE, "numpy", "soxr", "psutil", "PyYAML", "cffi", "pycparser", "onnxruntime", "ai-edge-litert",
    "flatbuffers", "protobuf", "packaging", "tqdm", "backports.strenum",
    "ml_dtypes",
)
# No wheels of these for 32 bits: Debian's. libsndfile comes in soundfile's wheels for 64 bits only.
_DEBIAN_32 = (
    "python3-numpy", "libblas3", "liblapack3", "libgfortran5", "python3-pkg-resources", "python3-psutil",
    "python3-yaml", "libyaml-0-2", "python3-cffi", "python3-cffi-backend", "python3-pycparser", "libsndfile1",
    "libflac12", "libogg0", "libopus0", "libvorbis0a", "libvorbisenc2", "libmpg123-0", "libmp3lame0",
)
# fmt: on


@dataclass(frozen=True)
class Architecture:
    """Processors that run the same programs.

    name: Debian's. machine: what `uname -m` says. wheels: packages of the index, in the versions that this machine has
    installed; pins: those that only the guest has. python_paths and library_paths: below the root.
    """

    name: str
    machine: str
    triplet: str
    qemu: str
    debian_packages: tuple[str, ...]
    platforms: tuple[str, ...]
    wheels: tuple[str, ...]
    pins: Mapping[str, str] = field(default_factory=dict)
    python_paths: tuple[str, ...] = ()
    library_paths: tuple[str, ...] = ()

    @property
    def compiler(self) -> str:
        """The cross-compiler's program; Debian's package is `gcc-` and the triplet."""
        return f"{self.triplet}-gcc"


@dataclass(frozen=True)
class Cpu:
    """A CPU that QEMU models, and what Linux says of it in /proc/cpuinfo."""

    name: str
    architecture: Architecture
    part: str
    variant: str
    features: str
    found_in: str

    @property
    def cpuinfo(self) -> str:
        """/proc/cpuinfo of four such cores."""
        core = (
            "processor\t: {index}\nBogoMIPS\t: 108.00\n"
            f"Features\t: {self.features}\nCPU implementer\t: 0x41\n"
            f"CPU architecture: {8 if self.architecture is ARM64 else 7}\n"
            f"CPU variant\t: {self.variant}\nCPU part\t: {self.part}\nCPU revision\t: 3\n\n"
        )
        return "".join(core.format(index=index) for index in range(4))


ARM64 = Architecture(
    name="arm64",
    machine="aarch64",
    triplet="aarch64-linux-gnu",
    qemu="qemu-aarch64",
    debian_packages=_INTERPRETER,
    platforms=tuple(f"{tag}_aarch64" for tag in ("manylinux2014", *(f"manylinux_2_{n}" for n in (17, 27, 28, 34)))),
    wheels=_WHEELS_64,
)
ARMHF = Architecture(
    name="armhf",
    machine="armv7l",
    triplet="arm-linux-gnueabihf",
    qemu="qemu-arm",
    debian_packages=(*_INTERPRETER, *_DEBIAN_32),
    platforms=tuple(f"{tag}_armv7l" for tag in ("manylinux2014", *(f"manylinux_2_{n}" for n in (17, 31, 34)))),
    wheels=_EVERYWHERE,
    pins={"tflite-runtime": "2.14.0"},
    python_paths=("usr/lib/python3/dist-packages",),
    library_paths=("usr/lib/arm-linux-gnueabihf/blas", "usr/lib/arm-linux-gnueabihf/lapack"),
)

_V8 = "fp asimd evtstrm crc32 cpuid"
_V8_2 = "fp asimd evtstrm aes pmull sha1 sha2 crc32 atomics fphp asimdhp cpuid asimdrdm lrcpc dcpop asimddp"
_V7 = "half thumb fastmult vfp edsp neon vfpv3 tls vfpv4 idiva idivt vfpd32 lpae evtstrm"

CPUS = {
    cpu.name: cpu
    for cpu in (
        Cpu("cortex-a76", ARM64, "0xd0b", "0x4", _V8_2, "Raspberry Pi 5"),
        Cpu("cortex-a72", ARM64, "0xd08", "0x0", _V8, "Raspberry Pi 4"),
        Cpu("cortex-a53", ARM64, "0xd03", "0x0", _V8, "Raspberry Pi 3 and Zero 2"),
        Cpu("cortex-a7", ARMHF, "0xc07", "0x0", _V7, "Raspberry Pi 2, and 32-bit systems on later ones"),
    )
}


def cpu_named(name: str) -> Cpu:
    """The CPU model of that name.

    Raises:
        ConfigError: there is none.
    """
    if name not in CPUS:
        raise ConfigError(f"CPU model {name!r} is not emulated. {closest_match_hint(name, CPUS)}")
    return CPUS[name]
