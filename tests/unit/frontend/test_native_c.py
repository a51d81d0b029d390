"""ea_logmel.c by itself: under sanitizers, by other compilers, on other processors (emulated), always the same bits."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from edgeaudio.frontend.native import tables as native_tables_module
from edgeaudio.frontend.native.tables import native_tables
from edgeaudio.frontend.reference import PARITY_GATE_LN, parity_gap_ln, reference_log_mel
from edgeaudio.frontend.stream import Float32
from edgeaudio.spec import FrontendSpec

SOURCES = Path(native_tables_module.__file__).parent
DRIVER = Path(__file__).resolve().parents[2] / "native" / "driver.c"
PEDANTIC = ("-std=c99", "-Wall", "-Wextra", "-Wpedantic", "-Wconversion", "-Wshadow", "-Werror", "-ffp-contract=off")
#: Debian's package without the name's default has only the version's.
CLANG = next((name for name in ("clang", *(f"clang-{n}" for n in range(22, 12, -1))) if shutil.which(name)), "clang")
pytestmark = pytest.mark.slow

SPEC = FrontendSpec()
SPECS = [
    SPEC,
    FrontendSpec(sample_rate=8_000, win_length=200, hop_length=80, n_fft=256, n_mels=32, f_max=3_900),
    FrontendSpec(win_length=160, hop_length=400, n_fft=1024),
    FrontendSpec(win_length=401, hop_length=1, n_mels=40),
    FrontendSpec(win_length=511, hop_length=511, n_mels=1),
    FrontendSpec(win_length=2, hop_length=3, n_fft=16, n_mels=2),
    FrontendSpec(win_length=31, hop_length=7, n_fft=32, n_mels=3),
    FrontendSpec(win_length=100, hop_length=5_000, n_fft=2048, n_mels=128),
]


def waveform(n_samples: int) -> Float32:
    """Noise and a full-scale tone, from integers: the same on every machine."""
    rng = np.random.default_rng(n_samples)
    n = np.arange(n_samples)
    return ((rng.integers(-1000, 1000, n_samples) + 30_000 * ((n // 16) % 2)) / 32768).astype(np.float32)


def random_cut(n_samples: int, seed: int) -> list[int]:
    rng = np.random.default_rng(seed)
    sizes: list[int] = []
    while sum(sizes) < n_samples:
        size = int(rng.choice([0, 1, 2, 159, 160, 161, 400, 401, int(rng.integers(0, 3_000))]))
        sizes.append(min(size, n_samples - sum(sizes)))
    return sizes


def build(to: Path, compiler: str, flags: Sequence[str], source: Path = SOURCES / "ea_logmel.c") -> Path:
    if shutil.which(compiler) is None:
        pytest.skip(f"there is no {compiler} here")
    command = [compiler, *PEDANTIC, *flags, f"-I{SOURCES}", str(DRIVER), str(source), "-o", str(to)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if "cannot find" in done.stderr and "san" in done.stderr:
        pytest.skip(f"{compiler} has no sanitizers here: {done.stderr.strip().splitlines()[-1]}")
    assert done.returncode == 0, done.stderr
    return to


def run(program: Sequence[str], spec: FrontendSpec, samples: Float32, cut: list[int]) -> bytes:
    tables = native_tables(spec)
    sizes = [spec.win_length, spec.hop_length, spec.n_fft, spec.n_mels, len(tables.weights), len(samples), len(cut)]
    parts = [np.array(sizes, "<u4"), np.array([spec.log_floor, spec.offset, spec.scale], "<f4")]
    parts += [*vars(tables).values(), samples, np.array(cut, "<u4")]
    given = b"".join(part.tobytes() for part in parts)
    done = subprocess.run(program, input=given, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode(errors="replace")
    return done.stdout


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built without any optimisation: what the source says."""
    return build(tmp_path_factory.mktemp("native") / "plain", "cc", ["-O0"])


@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: f"{spec.win_length}/{spec.hop_length}/{spec.n_fft}")
def test_no_sanitizer_finds_anything_and_any_cut_gives_the_same_bits(spec: FrontendSpec, sanitized: Path) -> None:
    for n_frames in (0, 1, 2, 9):
        for more in (-1, 0, 1, spec.hop_length - 1):
            n_samples = max(0, spec.n_samples(n_frames) + more)
            samples = waveform(n_samples)
            log_mel = np.frombuffer(run([str(sanitized)], spec, samples, random_cut(n_samples, n_samples)), np.float32)
            assert len(log_mel) == spec.n_frames(n_samples) * spec.n_mels
            reference = reference_log_mel(samples, spec)
            assert parity_gap_ln(log_mel.reshape(-1, spec.n_mels), reference, spec) <= PARITY_GATE_LN


@pytest.fixture(scope="module")
def sanitized(tmp_path_factory: pytest.TempPathFactory) -> Path:
    flags = ["-O1", "-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
    return build(tmp_path_factory.mktemp("native") / "sanitized", "cc", flags)


def test_the_sanitizers_see_one_sample_too_many(tmp_path: Path) -> None:
    """The planted twin: the last samples of a chunk are kept, and one that is not there."""
    source = (SOURCES / "ea_logmel.c").read_text()
    kept = "memcpy(s->history, samples + at, left * sizeof(float));"
    assert source.count(kept) == 1
    twin = tmp_path / "ea_logmel.c"
    twin.write_text(source.replace(kept, kept.replace("left *", "(left + 1) *")))
    flags = ["-O1", "-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
    program = build(tmp_path / "twin", "cc", flags, twin)
    with pytest.raises(AssertionError, match="heap-buffer-overflow"):
        run([str(program)], SPEC, waveform(1_000), [1_000])


OTHERS = {
    "cc -O3": (["cc", "-O3"], []),
    "cc -O3, all that this processor has": (["cc", "-O3", "-march=native"], []),
    "cc, for size": (["cc", "-Os"], []),
    "clang": ([CLANG, "-O3"], []),
    "aarch64": (["aarch64-linux-gnu-gcc", "-O3", "-static"], ["qemu-aarch64-static"]),
    "armv7 with NEON": (["arm-linux-gnueabihf-gcc", "-O3", "-static", "-mfpu=neon-vfpv4"], ["qemu-arm-static"]),
}


@pytest.mark.parametrize("other", OTHERS)
def test_every_compiler_and_processor_gives_the_same_bits(other: str, plain: Path, tmp_path: Path) -> None:
    (compiler, *flags), emulator = OTHERS[other]
    if emulator and shutil.which(emulator[0]) is None:
        pytest.skip(f"there is no {emulator[0]} here")
    program = build(tmp_path / "program", compiler, flags)
    for spec in SPECS:
        samples = waveform(spec.n_samples(20))
        cut = random_cut(len(samples), 3)
        assert run([*emulator, str(program)], spec, samples, cut) == run([str(plain)], spec, samples, cut)


def test_sums_regrouped_by_the_compiler_are_refused() -> None:
    if shutil.which("cc") is None:
        pytest.skip("there is no cc here")
    command = ["cc", "-std=c99", "-ffast-math", "-fsyntax-only", str(SOURCES / "ea_logmel.c")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert "-ffast-math regroups sums" in done.stderr


#: What a microcontroller's C library has at the least. No allocation, no libm, no soft-float helpers.
ALLOWED_SYMBOLS = {"memcpy", "memmove", "memset"}
STACK_BYTES = 256
CORTEX_M4 = ("-mcpu=cortex-m4", "-mthumb", "-mfloat-abi=hard", "-mfpu=fpv4-sp-d16")


@pytest.mark.parametrize(
    ("prefix", "flags"), [("", ()), ("arm-none-eabi-", CORTEX_M4)], ids=["this machine", "Cortex-M4"]
)
def test_nothing_is_called_that_a_microcontroller_lacks(prefix: str, flags: Sequence[str], tmp_path: Path) -> None:
    compiler, nm = (f"{prefix}{tool}" for tool in ("gcc", "nm"))
    if shutil.which(compiler) is None or shutil.which(nm) is None:
        pytest.skip(f"there is no {compiler} here")
    source = SOURCES / "ea_logmel.c"
    command = [compiler, *PEDANTIC, *flags, "-Os", "-fstack-usage", "-fno-stack-protector", "-c", str(source)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    listed = subprocess.run([nm, "-u", "ea_logmel.o"], cwd=tmp_path, capture_output=True, text=True, check=True).stdout
    assert set(listed.split()) - {"U", "_GLOBAL_OFFSET_TABLE_"} <= ALLOWED_SYMBOLS
    frames = [line.split("\t")[1:] for line in (tmp_path / "ea_logmel.su").read_text().splitlines()]
    assert frames
    assert all(kind in ("static", "dynamic,bounded") and int(size) <= STACK_BYTES for size, kind in frames), frames


@pytest.mark.parametrize(("compiler", "built"), [("cc", True), ("false", False)])
def test_setup_builds_it_where_it_can_and_goes_on_where_it_cannot(compiler: str, built: bool, tmp_path: Path) -> None:
    pytest.importorskip("setuptools", reason="pip builds with a setuptools of its own; this test needs one here")
    if shutil.which(compiler) is None:
        pytest.skip(f"there is no {compiler} here")
    if not (Path(sysconfig.get_path("include")) / "Python.h").exists():
        pytest.skip("there is no Python.h here")
    root = Path(__file__).resolve().parents[3]
    folder = SOURCES.relative_to(root)
    shutil.copytree(SOURCES, tmp_path / folder, ignore=shutil.ignore_patterns("*.so", "*.pyd", "__pycache__"))
    shutil.copy(root / "setup.py", tmp_path)
    command = [sys.executable, "setup.py", "build_ext", "--inplace"]
    environment = {**os.environ, "CC": compiler}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert [path.name.partition(".")[0] for path in (tmp_path / folder).glob("*.so")] == ["_logmel"] * built
    if not built:
        assert 'building extension "edgeaudio.frontend.native._logmel" failed' in done.stderr
