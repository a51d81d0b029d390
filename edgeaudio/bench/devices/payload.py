"""What is sent to a device: the rooms that run there, as one archive, and the files of a run."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import sysconfig
import tarfile
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path

import edgeaudio

#: What the agent imports; beside these it gets the modules of the package itself that need nothing else.
ROOMS = ("spec", "frontend", "bundle", "audio", "runtime", "bench")
MODULES = ("__init__.py", "errors.py", "catalog.py")
_PACKAGE = Path(edgeaudio.__file__).parent
_COMPILED = (".so", ".pyd")


def device_files() -> Iterator[Path]:
    """The files that a device runs, relative to the package, in order."""
    rooms = (path for room in ROOMS for path in sorted((_PACKAGE / room).rglob("*")))
    for path in (*(_PACKAGE / module for module in MODULES), *rooms):
        if path.is_file() and path.suffix != ".pyc":
            yield path.relative_to(_PACKAGE)


def _same_programs(multiarch: str) -> bool:
    return bool(multiarch == sysconfig.get_config_var("MULTIARCH"))


def has_native(multiarch: str) -> bool:
    """Whether the front-end in C, compiled here, is in the runtime of a device."""
    return _same_programs(multiarch) and any(path.suffix in _COMPILED for path in device_files())


@cache
def runtime_archive(multiarch: str) -> bytes:
    """The runtime as a tar.gz; what was compiled here is in it where the device runs the same programs.

    Args:
        multiarch: of the device's Python, such as `aarch64-linux-gnu`.
    """
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        for path in device_files():
            if path.suffix in _COMPILED and not _same_programs(multiarch):
                continue
            content = (_PACKAGE / path).read_bytes()
            info = tarfile.TarInfo(f"edgeaudio/{path.as_posix()}")
            info.size, info.mode = len(content), 0o644
            archive.addfile(info, io.BytesIO(content))
    return gzip.compress(data.getvalue(), mtime=0)


def transfer(files: Mapping[str, bytes]) -> bytes:
    """`files` as `onboard.receive` reads them."""
    listed = [
        {"name": name, "bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()} for name, data in files.items()
    ]
    return b"".join([json.dumps(listed).encode() + b"\n", *files.values()])
