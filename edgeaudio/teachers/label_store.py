"""The label store: teacher outputs computed once, in an append-only, checksummed, resumable file.

A kill or power cut at any byte costs at most the records since the last sync: `open` cuts the file at the
first bad record and labelling goes on from `next_index`. The bytes are described in `label_schema`.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import logging
import os
import socket
import zlib
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from edgeaudio.errors import ConfigError, DataError, ShapeError, WorkDirError
from edgeaudio.spec import limits
from edgeaudio.spec.fs import fsync_dir
from edgeaudio.teachers.label_schema import (
    KEY_BYTES,
    StoreField,
    StoreKey,
    StoreSchema,
    check_same_store,
    content_key,
    header_bytes,
    parse_header,
)

__all__ = ["DiskIO", "LabelStore", "StoreField", "StoreKey", "StoreSchema", "content_key"]

logger = logging.getLogger(__name__)

_HEADER_READ_BYTES = limits.MANIFEST_BYTES + 1024


class DiskIO:
    """The calls that a full or failing disk makes fail, in one place so that tests can make the n-th one fail."""

    def write(self, descriptor: int, data: memoryview) -> int:
        """As `os.write`."""
        return os.write(descriptor, data)

    def fsync(self, descriptor: int) -> None:
        """As `os.fsync`."""
        os.fsync(descriptor)

    def fsync_dir(self, folder: Path) -> None:
        """Make a new file's name survive a power cut."""
        fsync_dir(folder)

    def truncate(self, descriptor: int, n_bytes: int) -> None:
        """As `os.ftruncate`."""
        os.ftruncate(descriptor, n_bytes)


class LabelStore:
    """Record i belongs to plan entry `key.first_index + i`. Make one with `open` or `open_read`."""

    def __init__(self, path: Path, schema: StoreSchema, key: StoreKey, io: DiskIO) -> None:
        self.path, self.schema, self.key = path, schema, key
        #: Bytes of a broken tail that `open` cut off (or `open_read` ignored).
        self.dropped_bytes = 0
        self._io = io
        self._header = header_bytes(schema, key)
        self._crc_seed = zlib.crc32(self._header)
        self._dtype = schema.record_dtype
        self._n_durable = 0
        self._buffer = bytearray()
        self._sync_every = 1
        self._descriptor: int | None = None
        self._resources = contextlib.ExitStack()

    @classmethod
    def open(
        cls,
        path: Path,
        schema: StoreSchema,
        key: StoreKey,
        *,
        create: bool = True,
        sync_every: int = 256,
        io: DiskIO | None = None,
    ) -> Self:
        """Open for appending, alone: cut a broken tail and stand ready at `next_index`.

        Args:
            create: False refuses a file that does not exist.
            sync_every: records between syncs; what a power cut can cost.
        Raises:
            WorkDirError: another process has it open (its pid is named), it holds other labels (the
                differing fields are named), it is absent and `create` is False, or the disk fails.
            VerificationError: the file is not a label store or its header is damaged.
        """
        if sync_every < 1:
            raise ConfigError(f"sync_every is {sync_every}, wanted 1 or more")
        store = cls(path, schema, key, io or DiskIO())
        store._sync_every = sync_every
        if not create and not path.exists():
            raise WorkDirError(f"label store {path} does not exist. Label first.")
        with contextlib.ExitStack() as stack, _disk_errors(path, "open", len(store._header)):
            path.parent.mkdir(parents=True, exist_ok=True)
            stack.enter_context(_exclusive_lock(path))
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
            stack.callback(os.close, descriptor)
            store._descriptor = descriptor
            store._recover()
            store._resources = stack.pop_all()
        return store

    @classmethod
    def open_read(cls, path: Path, schema: StoreSchema | None = None, key: StoreKey | None = None) -> Self:
        """Open the valid records for reading, beside a writer if there is one; the file is not touched.

        Raises:
            WorkDirError: absent, or of another `schema` or `key` where these are given.
            VerificationError: not a label store, or its header is damaged.
        """
        if not path.is_file():
            raise WorkDirError(f"label store {path} does not exist. Label first.")
        with _disk_errors(path, "open"), path.open("rb") as stream:
            found_schema, found_key, _ = parse_header(stream.read(_HEADER_READ_BYTES), path)
        check_same_store(path, (found_schema, found_key), (schema, key))
        store = cls(path, found_schema, found_key, DiskIO())
        with _disk_errors(path, "read"):
            store._n_durable = store._count_valid(path.stat().st_size)
        return store

    def _recover(self) -> None:
        """Write a header where none survived, else count valid records and cut what follows them."""
        descriptor = self._writable()
        size = os.fstat(descriptor).st_size
        head = os.pread(descriptor, min(size, _HEADER_READ_BYTES), 0)
        if not head.startswith(self._header):
            if not self._is_torn_header(head, size):
                found_schema, found_key, _ = parse_header(head, self.path)
                check_same_store(self.path, (found_schema, found_key), (self.schema, self.key))
            self.dropped_bytes = size
            self._io.truncate(descriptor, 0)
            self._write_all(memoryview(self._header), 0)
            self._io.fsync(descriptor)
            self._io.fsync_dir(self.path.parent)
            return
        self._n_durable = self._count_valid(size)
        self.dropped_bytes = size - self._n_bytes(self._n_durable)
        if self.dropped_bytes:
            logger.warning(
                "%s: dropped a broken tail of %d bytes, %d records are whole",
                self.path,
                self.dropped_bytes,
                self._n_durable,
            )
            self._io.truncate(descriptor, self._n_bytes(self._n_durable))
            self._io.fsync(descriptor)

    def _is_torn_header(self, head: bytes, size: int) -> bool:
        """Whether the file is what a kill while writing this very header leaves: a prefix, then only zeros.

        Nothing else may be overwritten. Records are only ever written after a synced header.
        """
        common = 0
        while common < min(len(head), len(self._header)) and head[common] == self._header[common]:
            common += 1
        return size == len(head) and not any(head[common:])

    def _n_bytes(self, n_records: int) -> int:
        return len(self._header) + n_records * self._dtype.itemsize

    def _count_valid(self, size: int) -> int:
        """How many records from the start are whole, in order and with the right CRC."""
        n_whole = max(0, size - len(self._header)) // self._dtype.itemsize
        records = self._map(n_whole)
        for position in range(n_whole):
            record = records[position]
            body = record.tobytes()[:-4]
            if record["index"] != self.key.first_index + position or record["crc"] != self._crc(body):
                return position
        return n_whole

    def _crc(self, body: bytes) -> int:
        return zlib.crc32(body, self._crc_seed)

    def __len__(self) -> int:
        return self._n_durable + len(self._buffer) // self._dtype.itemsize

    @property
    def next_index(self) -> int:
        """The plan index that `append` takes next."""
        return self.key.first_index + len(self)

    def append(self, index: int, key: bytes, **arrays: ArrayLike) -> None:
        """Add one record: plan index, 16-byte key of what was labelled, one array per field.

        Records are written and synced every `sync_every`. When that fails, `WorkDirError` is raised, the
        records on disk are intact, and the unwritten ones (this one included) wait in memory: after making
        room, call `flush`.

        Raises:
            ConfigError: not `next_index`, a wrong key length, or other fields than the schema's.
            ShapeError: an array of another shape or of a dtype that the field cannot hold.
            DataError: a value that the field's dtype cannot hold, or NaN or infinity.
            WorkDirError: not open for appending, or the disk is full or failing.
        """
        self._writable()
        if index != self.next_index:
            raise ConfigError(
                f"{self.path}: record index {index}, wanted {self.next_index} (records are in plan order)"
            )
        if len(key) != KEY_BYTES:
            raise ConfigError(f"{self.path}: key of {len(key)} bytes, wanted {KEY_BYTES}")
        names = [field.name for field in self.schema.fields]
        if set(arrays) != set(names):
            raise ConfigError(f"{self.path}: fields {sorted(arrays)}, wanted {sorted(names)}")
        record = np.zeros((), dtype=self._dtype)
        record["index"] = index
        record["key"] = np.frombuffer(key, dtype=np.uint8)
        for field in self.schema.fields:
            record[field.name] = _checked_array(field, arrays[field.name])
        record["crc"] = self._crc(record.tobytes()[:-4])
        self._buffer += record.tobytes()
        if len(self._buffer) >= self._sync_every * self._dtype.itemsize:
            self.flush()

    def flush(self) -> None:
        """Write and sync what was appended. After an error it may be called again.

        Raises:
            WorkDirError: the disk is full or failing; says how many bytes are needed.
        """
        if not self._buffer:
            return
        descriptor = self._writable()
        start = self._n_bytes(self._n_durable)
        try:
            self._write_all(memoryview(bytes(self._buffer)), start)
            self._io.fsync(descriptor)
        except OSError as error:
            # After a failed fsync the kernel may have dropped the pages: everything is written again.
            with contextlib.suppress(OSError):  # a tail that cannot be cut now is cut by the next open
                self._io.truncate(descriptor, start)
            raise _disk_error(self.path, "append to", error, len(self._buffer)) from error
        self._n_durable = len(self)
        self._buffer = bytearray()

    def _write_all(self, data: memoryview, offset: int) -> None:
        descriptor = self._writable()
        os.lseek(descriptor, offset, os.SEEK_SET)
        while data:
            data = data[self._io.write(descriptor, data) :]

    def _writable(self) -> int:
        if self._descriptor is None:
            raise WorkDirError(f"label store {self.path} is not open for appending")
        return self._descriptor

    def field(self, name: str) -> NDArray[Any]:
        """All records of one field (or "index", "key"), `(records, *shape)`, as a view of the file, read-only.

        The view is strided and unaligned: fine for indexing, copy it (`read`) for arithmetic.

        Raises:
            ConfigError: no such field.
        """
        names = [item for item in self._dtype.names or () if item != "crc"]
        if name not in names:
            raise ConfigError(f"{self.path}: no field {name!r}. Fields: {', '.join(names)}.")
        if self._descriptor is not None:
            self.flush()
        return self._map(self._n_durable)[name]

    def read(self, name: str) -> NDArray[Any]:
        """As `field`, but a contiguous copy in memory."""
        return np.array(self.field(name), order="C")

    def _map(self, n_records: int) -> NDArray[Any]:
        if n_records == 0:
            return np.empty(0, dtype=self._dtype)
        return np.memmap(self.path, dtype=self._dtype, mode="r", offset=len(self._header), shape=(n_records,))

    def close(self) -> None:
        """Flush and let go of the lock (also when the flush fails, whose `WorkDirError` is then raised)."""
        if self._descriptor is None:
            return
        try:
            self.flush()
        finally:
            self._descriptor = None
            self._resources.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _checked_array(field: StoreField, value: ArrayLike) -> NDArray[Any]:
    array = np.asarray(value)
    # Integers of any width and sign are taken when their values fit, which is checked below.
    integers = array.dtype.kind in "iub" and np.dtype(field.dtype).kind in "iu"
    if array.shape != field.shape or not (integers or np.can_cast(array.dtype, field.dtype, casting="same_kind")):
        raise ShapeError(
            f"label field {field.name!r} is {array.dtype} {array.shape}, wanted {field.dtype} {field.shape}"
        )
    with np.errstate(over="ignore"):  # an overflow gives infinity, refused below
        stored = array.astype(field.dtype)
    if stored.dtype.kind == "f" and not np.isfinite(stored).all():
        raise DataError(f"label field {field.name!r} holds NaN or infinity as {field.dtype}")
    if stored.dtype.kind in "iu" and (stored != array).any():
        raise DataError(f"label field {field.name!r} holds values that {field.dtype} cannot hold")
    return stored


@contextlib.contextmanager
def _exclusive_lock(path: Path) -> Iterator[None]:
    """Hold `<path>.lock`, which names the holder. The kernel lets go of it when the process dies."""
    lock_path = path.with_name(path.name + ".lock")
    descriptor = os.open(lock_path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            holder = os.pread(descriptor, 256, 0).decode(errors="replace").strip() or "unknown"
            raise WorkDirError(
                f"label store {path} is open in another process ({holder}). Wait for it, or stop it."
            ) from error
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"pid {os.getpid()} on {socket.gethostname()}".encode(), 0)
        yield
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def _disk_errors(path: Path, verb: str, needed_bytes: int = 0) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise _disk_error(path, verb, error, needed_bytes) from error


def _disk_error(path: Path, verb: str, error: OSError, needed_bytes: int) -> WorkDirError:
    text = f"cannot {verb} label store {path}: {error.strerror or error}"
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        text += f" ({needed_bytes} bytes are needed). Free some space and run again; nothing that was synced is lost."
    return WorkDirError(text)
