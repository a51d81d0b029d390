"""The container of an `.eab`: the one narrow form of ZIP that edgeaudio writes and accepts.

Every byte of the structure is fixed or follows from the entries (docs/SPEC.md), so whatever another
tool adds, moves, compresses or damages is refused. Any ZIP tool can read such a file.
"""

from __future__ import annotations

import re
import struct
import zlib
from collections.abc import Mapping
from dataclasses import dataclass

from edgeaudio.errors import BundleError
from edgeaudio.spec.limits import BUNDLE_BYTES, BUNDLE_ENTRIES, check_limit

ENTRY_NAME = re.compile(r"[a-z0-9_][a-z0-9_.-]*(/[a-z0-9_][a-z0-9_.-]*)?")
NAME_BYTES = 128

# APPNOTE.TXT 6.3.10, sections 4.3.7, 4.3.12 and 4.3.16.
_LOCAL = struct.Struct("<4s5H3I2H")
_CENTRAL = struct.Struct("<4s6H3I5H2I")
_END = struct.Struct("<4s4H2IH")
_VERSION_NEEDED = 10  # 1.0: stored entries need no more.
_MADE_BY = 0x0314  # Unix, 2.0
_DOS_TIME, _DOS_DATE = 0, 0x0021  # 1980-01-01 00:00:00, the earliest ZIP knows
_UNIX_FILE = 0o100644 << 16

_LOCAL_FIELDS = (
    "signature", "version needed", "flags", "compression method", "time", "date", "crc-32",
    "compressed size", "size", "name length", "extra length",
)  # fmt: skip
_CENTRAL_FIELDS = (
    "signature", "made by", "version needed", "flags", "compression method", "time", "date", "crc-32",
    "compressed size", "size", "name length", "extra length", "comment length", "disk",
    "internal attributes", "external attributes", "header offset",
)  # fmt: skip
_END_FIELDS = (
    "signature", "disk", "directory disk", "entries on this disk", "entries", "directory size",
    "directory offset", "comment length",
)  # fmt: skip


@dataclass(frozen=True)
class _Entry:
    """What the headers of one stored entry follow from."""

    name: bytes
    crc: int
    size: int
    offset: int

    @property
    def local_fields(self) -> tuple[bytes | int, ...]:
        common = (_VERSION_NEEDED, 0, 0, _DOS_TIME, _DOS_DATE, self.crc, self.size, self.size, len(self.name), 0)
        return (b"PK\3\4", *common)

    @property
    def central_fields(self) -> tuple[bytes | int, ...]:
        return (b"PK\1\2", _MADE_BY, *self.local_fields[1:], 0, 0, 0, _UNIX_FILE, self.offset)

    @property
    def payload_offset(self) -> int:
        return self.offset + _LOCAL.size + len(self.name)


def _end_fields(n_entries: int, directory_bytes: int, directory_offset: int) -> tuple[bytes | int, ...]:
    return (b"PK\5\6", 0, 0, n_entries, n_entries, directory_bytes, directory_offset, 0)


def pack(entries: Mapping[str, bytes]) -> bytes:
    """The container of `entries`, in their order. Equal entries give equal bytes.

    Raises:
        BundleError: a name outside `ENTRY_NAME`.
        LimitError: more entries or bytes than `edgeaudio.spec.limits` allows.
    """
    check_limit("bundle entries", len(entries), BUNDLE_ENTRIES)
    body: list[bytes] = []
    directory: list[bytes] = []
    offset = 0
    for name, payload in entries.items():
        _check_name(name.encode(), "new bundle")
        check_limit("bundle bytes", offset + len(payload), BUNDLE_BYTES)
        entry = _Entry(name.encode(), zlib.crc32(payload), len(payload), offset)
        body += [_LOCAL.pack(*entry.local_fields), entry.name, payload]
        directory += [_CENTRAL.pack(*entry.central_fields), entry.name]
        offset = entry.payload_offset + len(payload)
    directory_bytes = sum(map(len, directory))
    check_limit("bundle bytes", offset + directory_bytes + _END.size, BUNDLE_BYTES)
    return b"".join([*body, *directory, _END.pack(*_end_fields(len(entries), directory_bytes, offset))])


def unpack(data: bytes, source: str) -> dict[str, bytes]:
    """The entries of a container, in file order, once every byte of its structure and every CRC is checked.

    Args:
        source: file name that leads each message.
    Raises:
        BundleError: any deviation from the canonical form, with the entry and the field.
        LimitError: too many bytes or entries.
    """
    check_limit(f"{source}: bytes", len(data), BUNDLE_BYTES)
    entries = _read_directory(data, source)
    payloads: dict[str, bytes] = {}
    end_of_last = 0
    for entry in entries:
        name = entry.name.decode("ascii")
        if name in payloads:
            raise BundleError(f"{source}: entry {name!r} is there twice")
        where = f"{source}: entry {name!r}"
        if entry.offset != end_of_last:
            raise BundleError(
                f"{where}: header offset is {entry.offset}, the entry before ends at {end_of_last}: "
                "bytes outside entries, overlaps and other orders are refused"
            )
        payloads[name] = _read_payload(data, entry, where)
        end_of_last = entry.payload_offset + entry.size
    directory_offset = len(data) - _END.size - sum(_CENTRAL.size + len(entry.name) for entry in entries)
    if end_of_last != directory_offset:
        raise BundleError(f"{source}: {directory_offset - end_of_last} bytes lie outside entries and directory")
    return payloads


def _read_directory(data: bytes, source: str) -> list[_Entry]:
    if len(data) < _END.size:
        raise BundleError(f"{source}: {len(data)} bytes are too few for a bundle; it is cut off or empty")
    end = _END.unpack_from(data, len(data) - _END.size)
    if end[0] != b"PK\5\6":
        raise BundleError(f"{source}: no end-of-directory record at the end; not an .eab, cut off, or extended")
    n_entries, directory_offset = end[4], end[6]
    check_limit(f"{source}: entries", n_entries, BUNDLE_ENTRIES)
    directory_bytes = len(data) - _END.size - directory_offset
    _compare(end, _end_fields(n_entries, directory_bytes, directory_offset), _END_FIELDS, f"{source}: end record")
    entries = []
    at = directory_offset
    for index in range(n_entries):
        where = f"{source}: directory record {index}"
        if at + _CENTRAL.size > len(data) - _END.size:
            raise BundleError(f"{where}: cut off")
        fields = _CENTRAL.unpack_from(data, at)
        name_length = fields[10]
        name = data[at + _CENTRAL.size : at + _CENTRAL.size + name_length]
        _check_name(name, where)
        entry = _Entry(name, crc=fields[7], size=fields[9], offset=fields[16])
        _compare(fields, entry.central_fields, _CENTRAL_FIELDS, where)
        entries.append(entry)
        at += _CENTRAL.size + name_length
    return entries


def _read_payload(data: bytes, entry: _Entry, where: str) -> bytes:
    if entry.payload_offset + entry.size > len(data):
        raise BundleError(f"{where}: size {entry.size} reaches beyond the end of the file")
    _compare(_LOCAL.unpack_from(data, entry.offset), entry.local_fields, _LOCAL_FIELDS, f"{where}: local header")
    local_name = data[entry.offset + _LOCAL.size : entry.payload_offset]
    if local_name != entry.name:
        raise BundleError(f"{where}: local header names it {local_name!r:.140}")
    payload = data[entry.payload_offset : entry.payload_offset + entry.size]
    crc = zlib.crc32(payload)
    if crc != entry.crc:
        raise BundleError(f"{where}: crc-32 is {crc:08x}, the directory says {entry.crc:08x}: the content is damaged")
    return payload


def _check_name(name: bytes, where: str) -> None:
    text = name.decode("ascii", errors="replace")
    if len(name) > NAME_BYTES or not ENTRY_NAME.fullmatch(text):
        raise BundleError(
            f"{where}: entry name {name!r:.140} is not allowed: lower-case letters, digits, '_', '.', '-', "
            f"at most one folder, no '..', not absolute, at most {NAME_BYTES} bytes"
        )


def _compare(
    given: tuple[bytes | int, ...], wanted: tuple[bytes | int, ...], names: tuple[str, ...], where: str
) -> None:
    for got, want, name in zip(given, wanted, names, strict=True):
        if got != want:
            raise BundleError(
                f"{where}: {name} is {got!r}, an .eab has {want!r} there "
                "(stored entries only: no compression, encryption, links, comments or extra fields)"
            )
