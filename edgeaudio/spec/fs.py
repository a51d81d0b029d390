"""The one way to put bytes on disk: temporary name, fsync, rename, fsync of the folder.

Key files alone go through `write_new`, which never replaces one."""

from __future__ import annotations

import contextlib
import hashlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

#: Names the folder of what can be made again: engines, emulated machines.
CACHE_VARIABLE = "EDGEAUDIO_CACHE"


def cache_folder(name: str) -> Path:
    """`$EDGEAUDIO_CACHE/name`, else `~/.cache/edgeaudio/name`; need not exist."""
    chosen = os.environ.get(CACHE_VARIABLE)
    return (Path(chosen) if chosen else Path.home() / ".cache" / "edgeaudio") / name


def fsync_dir(folder: Path) -> None:
    """Make renames inside `folder` survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def atomic_path(path: Path, mode: int | None = None) -> Iterator[Path]:
    """Yield a temporary path beside `path`; rename it to `path`, synced, when the block succeeds.

    For writers that insist on a file name. After an error nothing is left behind.

    Args:
        mode: of the file; None is that of ordinary files under the user's umask.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
    os.close(handle)
    temporary = Path(name)
    try:
        # mkstemp gives 0600; results are ordinary files that follow the user's umask.
        umask = os.umask(0)
        os.umask(umask)
        yield temporary
        temporary.chmod(0o666 & ~umask if mode is None else mode)
        with temporary.open("rb") as stream:
            os.fsync(stream.fileno())
        temporary.replace(path)
        fsync_dir(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def atomic_write(path: Path, data: bytes, mode: int | None = None) -> None:
    """Write `data` to `path` so that a kill or power cut leaves the old file or the new one; `mode`: `atomic_path`."""
    with atomic_path(path, mode) as temporary:
        temporary.write_bytes(data)


def write_new(path: Path, data: bytes, mode: int) -> None:
    """Write a file that must not exist yet; it has `mode` from its first byte on, whatever the umask.

    Raises:
        FileExistsError: something has that name, be it a link to nothing.
    """
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode & 0o700)
    try:
        with open(descriptor, "wb") as stream:
            os.fchmod(descriptor, mode)
            stream.write(data)
            stream.flush()
            os.fsync(descriptor)
    except BaseException:
        path.unlink()
        raise
    fsync_dir(path.parent)


def sha256_file(path: Path) -> str:
    """SHA-256 (hex) of a file's bytes."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
