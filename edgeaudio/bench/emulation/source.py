"""edgeaudio itself in the guest: the rooms of a device as they are here, and the front-end in C compiled for it."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable, Iterator
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from typing import NamedTuple

from edgeaudio.bench.emulation.steps import digest, run_step, whole_folder
from edgeaudio.bench.emulation.targets import Architecture
from edgeaudio.errors import ConfigError
from edgeaudio.frontend.native.flags import COMPILER_FLAGS, LIMITED_API, SOURCES

#: What a device runs; beside these it gets the modules of the package itself.
ROOMS = ("spec", "frontend", "bundle", "audio", "runtime", "outputs", "bench", "cli")
_PACKAGE = Path(__file__).parents[2]
_NATIVE = Path("frontend/native")
# Each change of a source file makes a copy: so many stay.
_KEPT_COPIES = 8


class Copy(NamedTuple):
    """A folder for PYTHONPATH; `no_native` says why the front-end in C is not in it, and is empty where it is."""

    folder: Path
    no_native: str


def copy_edgeaudio(cache: Path, architecture: Architecture, root: Path, progress: Callable[[str], None]) -> Copy:
    """Put edgeaudio into the cache as `architecture` runs it; `root` has Python's headers.

    Raises:
        UnsupportedError: there is a cross-compiler, and it failed.
        ConfigError: edgeaudio is not installed as a package.
    """
    files = sorted(device_files(_PACKAGE))
    compiler = shutil.which(architecture.compiler)
    built_by = run_step("compiler", [compiler, "--version"], deadline_s=30).out if compiler else ""
    contents = (f"{path} {hashlib.sha256((_PACKAGE / path).read_bytes()).hexdigest()}" for path in files)
    prefix = f"edgeaudio-{architecture.machine}-"
    folder = cache / f"{prefix}{digest(*contents, _metadata(), built_by, root.name)}"
    if not folder.is_dir():
        progress(f"edgeaudio for {architecture.machine}: {len(files)} files")
        with whole_folder(folder) as made:
            for path in files:
                (made / "edgeaudio" / path).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(_PACKAGE / path, made / "edgeaudio" / path)
            described = made / f"edgeaudio-{version('edgeaudio')}.dist-info"
            described.mkdir()
            (described / "METADATA").write_text(_metadata())
            if compiler:
                _compile_frontend(made / "edgeaudio" / _NATIVE, compiler, architecture, root)
        _forget_old(cache, prefix)
    if compiler:
        return Copy(folder, "")
    return Copy(
        folder,
        f"{architecture.compiler} is not installed: log-mel is by numpy there "
        f"(as root: apt-get install gcc-{architecture.triplet} libc6-dev-{architecture.name}-cross)",
    )


def device_files(package: Path) -> Iterator[Path]:
    """The files of `package` that a device runs, relative to it; nothing that was compiled on this machine."""
    folders = [package / room for room in ROOMS]
    for path in (*package.glob("*"), *(path for folder in folders for path in folder.rglob("*"))):
        if path.is_file() and path.suffix not in (".pyc", ".so", ".pyd"):
            yield path.relative_to(package)


def _compile_frontend(folder: Path, compiler: str, architecture: Architecture, root: Path) -> None:
    # Debian's own pyconfig.h beside the others includes that of the architecture.
    headers = [f"-I{root / 'usr/include/python3.11'}", f"-I{root / 'usr/include'}", f"-I{folder}"]
    flags = [*COMPILER_FLAGS["unix"], "-D{}={}".format(*LIMITED_API), "-fPIC", "-shared"]
    sources = [str(folder / name) for name in SOURCES]
    library = str(folder / "_logmel.abi3.so")
    name = f"front-end for {architecture.machine}"
    run_step(name, [compiler, *flags, *headers, "-o", library, *sources], deadline_s=120)


def _metadata() -> str:
    """What `edgeaudio doctor` and reports read of an installed package."""
    try:
        needs = requires("edgeaudio") or []
    except PackageNotFoundError as error:
        raise ConfigError("edgeaudio is not installed as a package. Run 'pip install -e .' beside it.") from error
    head = ["Metadata-Version: 2.4", "Name: edgeaudio", f"Version: {version('edgeaudio')}"]
    return "\n".join([*head, *(f"Requires-Dist: {need}" for need in needs), ""])


def _forget_old(cache: Path, prefix: str) -> None:
    copies = sorted(cache.glob(f"{prefix}*"), key=lambda path: path.stat().st_mtime)
    for old in copies[:-_KEPT_COPIES]:
        shutil.rmtree(old, ignore_errors=True)
