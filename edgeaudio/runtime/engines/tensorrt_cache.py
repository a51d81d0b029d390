"""Engines that TensorRT built on this device, kept between runs in a folder that only their owner can write.

To deserialise an engine is to run native code, so an entry is used only from a folder and files of the user who runs
this, that nobody else may write, and only where its SHA-256 is the one in the record beside it. Whatever is not so is
built anew and replaced; a folder of somebody else is refused.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import logging
import os
import re
import stat
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple

from edgeaudio.errors import ConfigError
from edgeaudio.spec.fs import CACHE_VARIABLE, atomic_write, cache_folder

logger = logging.getLogger(__name__)

#: A build takes minutes on a small board; whoever has waited so long builds for itself.
LOCK_TIMEOUT_S = 900.0
#: Bundles and TensorRT releases come and go: beyond so many the oldest engines go too.
MAX_ENTRIES = 32
_MAX_ENGINE_BYTES = 2**30
_MAX_RECORD_BYTES = 4096
_POLL_S = 0.1


@dataclass(frozen=True)
class EngineKey:
    """What an engine is good for; any difference means another engine."""

    gpu: str
    compute_capability: str
    tensorrt: str
    #: SHA-256 (hex) of the artefact's bytes.
    artefact: str
    #: How it is built, such as its limit of working memory.
    settings: str

    @property
    def stem(self) -> str:
        """The name of its files, without their endings."""
        text = json.dumps(asdict(self), sort_keys=True).encode()
        readable = f"{self.artefact[:12]}-sm{self.compute_capability}-trt{self.tensorrt}"
        return re.sub(r"[^A-Za-z0-9.-]", "_", readable) + "-" + hashlib.sha256(text).hexdigest()[:16]


class Kept(NamedTuple):
    """An engine's bytes and the seconds its build took; both None where there is none to use, and why."""

    engine: bytes | None
    build_s: float | None
    reason: str


def default_folder() -> Path:
    """`$EDGEAUDIO_CACHE/tensorrt`, else `~/.cache/edgeaudio/tensorrt`."""
    return cache_folder("tensorrt")


class EngineCache:
    """The folder of one user's engines."""

    def __init__(self, folder: Path) -> None:
        """Make the folder where it is not there.

        Raises:
            ConfigError: it is a link, belongs to another user, or others may write it.
            OSError: it cannot be made or read.
        """
        self.folder = folder
        folder.parent.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(FileExistsError):
            folder.mkdir(mode=0o700)
        os.close(self._open())

    def load(self, key: EngineKey) -> Kept:
        """The engine of `key`, where there is one that can be trusted."""
        descriptor = self._open()
        try:
            record = _read_private(f"{key.stem}.json", descriptor, _MAX_RECORD_BYTES)
            engine = _read_private(f"{key.stem}.engine", descriptor, _MAX_ENGINE_BYTES)
        except FileNotFoundError:
            return Kept(None, None, "there was none")
        except (_UnsafeError, OSError) as error:
            return self._useless(key, str(error))
        finally:
            os.close(descriptor)
        try:
            written = json.loads(record)
            build_s = float(written["build_s"])
            wanted = asdict(key) | {"sha256": hashlib.sha256(engine).hexdigest(), "build_s": build_s}
        except (ValueError, KeyError, TypeError):
            return self._useless(key, "its record is damaged")
        if written != wanted:
            return self._useless(key, "its bytes are not those that were written")
        return Kept(engine, build_s, "found")

    def store(self, key: EngineKey, engine: bytes, build_s: float) -> None:
        """Keep an engine; a kill in between leaves an entry that is not used. Raises OSError."""
        record = asdict(key) | {"sha256": hashlib.sha256(engine).hexdigest(), "build_s": build_s}
        atomic_write(self.folder / f"{key.stem}.engine", engine, 0o600)
        atomic_write(self.folder / f"{key.stem}.json", json.dumps(record, sort_keys=True).encode(), 0o600)
        self._prune()

    @contextlib.contextmanager
    def building(self, key: EngineKey, *, timeout_s: float = LOCK_TIMEOUT_S) -> Iterator[None]:
        """One process at a time builds the engine of `key`; whoever waited `timeout_s` goes ahead as well."""
        descriptor = os.open(self.folder / f"{key.stem}.lock", os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
        try:
            end = time.monotonic() + timeout_s
            while not _try_lock(descriptor):
                if time.monotonic() >= end:
                    logger.warning("another process builds %s for %.0f s now; building beside it", key.stem, timeout_s)
                    break
                time.sleep(_POLL_S)
            yield
        finally:
            os.close(descriptor)

    def _open(self) -> int:
        """A descriptor of the folder after its owner and mode were checked: of it, not of what its name means later."""
        mend = f"Set {CACHE_VARIABLE} to a folder of your own, or remove this one"
        try:
            descriptor = os.open(self.folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except OSError as error:
            if self.folder.is_symlink() or (self.folder.exists() and not self.folder.is_dir()):
                raise ConfigError(f"engine cache {self.folder} is no plain folder. {mend}.") from error
            raise
        facts = os.fstat(descriptor)
        if facts.st_uid != os.geteuid() or facts.st_mode & 0o022:
            os.close(descriptor)
            who = f"belongs to user {facts.st_uid}" if facts.st_uid != os.geteuid() else "may be written by others"
            raise ConfigError(f"engine cache {self.folder} {who}, and engines are native code. {mend}.")
        return descriptor

    def _useless(self, key: EngineKey, reason: str) -> Kept:
        logger.warning("engine %s in %s is not used: %s", key.stem, self.folder, reason)
        return Kept(None, None, reason)

    def _prune(self) -> None:
        # Another process may prune at the same time.
        records = sorted(self.folder.glob("*.json"), key=_age_order, reverse=True)
        for record in records[MAX_ENTRIES:]:
            for ending in (".json", ".engine", ".lock"):
                record.with_suffix(ending).unlink(missing_ok=True)


class _UnsafeError(Exception):
    """A file that may not be used; the message says why."""


def _read_private(name: str, folder: int, limit: int) -> bytes:
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    with open(os.open(name, flags, dir_fd=folder), "rb") as stream:
        facts = os.fstat(stream.fileno())
        if not stat.S_ISREG(facts.st_mode) or facts.st_nlink != 1:
            raise _UnsafeError(f"{name} is no ordinary file")
        if facts.st_uid != os.geteuid() or facts.st_mode & 0o077:
            raise _UnsafeError(f"{name} is not private to this user (mode 0600)")
        if facts.st_size > limit:
            raise _UnsafeError(f"{name} has {facts.st_size} bytes, more than {limit}")
        return stream.read(limit + 1)


def _try_lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _age_order(path: Path) -> int:
    try:
        return path.stat().st_mtime_ns
    except FileNotFoundError:
        return 0
