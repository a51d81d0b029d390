"""What a label store holds (`StoreSchema`), whose labels they are (`StoreKey`), and the bytes of its header.

File layout, little-endian::

    header   magic "EALABELS", u32 version, u32 JSON length, JSON, spaces to a multiple of 64, u32 CRC-32
    record   i64 index, 16-byte key, the fields packed in schema order, u32 CRC-32
    record   ...

A record's CRC starts from the header's, so a record of another store, or one full of zeros, is never valid.
"""

from __future__ import annotations

import hashlib
import json
import struct
import zlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from edgeaudio.errors import ConfigError, VerificationError, WorkDirError
from edgeaudio.spec import canonical_json, limits
from edgeaudio.spec.limits import check_limit

MAGIC = b"EALABELS"
VERSION = 1
KEY_BYTES = 16
RECORD_BYTES = 2**20
FIELDS = 64
_PREFIX = struct.Struct("<8sII")
_CRC = struct.Struct("<I")
_ALIGN_BYTES = 64
_DTYPES = ("<f2", "<f4", "<f8", "|i1", "|u1", "<i2", "<u2", "<i4", "<u4", "<i8", "<u8")
_RESERVED = ("index", "key", "crc")


def content_key(data: bytes | memoryview) -> bytes:
    """The 16-byte key of a clip or window: BLAKE2b of its bytes."""
    return hashlib.blake2b(data, digest_size=KEY_BYTES).digest()


@dataclass(frozen=True)
class StoreField:
    """One array per record; `shape` () is a scalar. `dtype` is any numpy spelling, kept little-endian."""

    name: str
    dtype: str
    shape: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if not self.name.isidentifier() or self.name in _RESERVED:
            raise ConfigError(f"label store field {self.name!r} must be an identifier other than {_RESERVED}")
        try:
            dtype = np.dtype(self.dtype).newbyteorder("<").str
        except TypeError as error:
            raise ConfigError(f"label store field {self.name!r}: {self.dtype!r} is not a dtype") from error
        if dtype not in _DTYPES:
            raise ConfigError(f"label store field {self.name!r}: dtype {dtype} is not one of {_DTYPES}")
        if any(size < 1 for size in self.shape):
            raise ConfigError(f"label store field {self.name!r}: shape {self.shape} has an empty axis")
        object.__setattr__(self, "dtype", dtype)


@dataclass(frozen=True)
class StoreSchema:
    """The fields of a record, in order."""

    fields: tuple[StoreField, ...]

    def __post_init__(self) -> None:
        names = [field.name for field in self.fields]
        if not names or len(set(names)) != len(names):
            raise ConfigError(f"a label store needs fields with different names, given: {names}")
        check_limit("fields of a label store", len(names), FIELDS)
        # Counted in Python integers: numpy's own item size would overflow before the limit speaks.
        n_bytes = sum(int(np.dtype(f.dtype).itemsize) * _product(f.shape) for f in self.fields)
        check_limit("bytes of a label store record", n_bytes, RECORD_BYTES)

    @property
    def record_dtype(self) -> np.dtype[np.void]:
        """The packed numpy dtype of one record."""
        fields: list[Any] = [("index", "<i8"), ("key", "|u1", (KEY_BYTES,))]
        fields += [(field.name, field.dtype, field.shape) for field in self.fields]
        return np.dtype([*fields, ("crc", "<u4")])


@dataclass(frozen=True)
class StoreKey:
    """Digests (hex) of all that decides the labels, and the plan index of the first record (for shards)."""

    teacher: str
    frontend: str
    plan: str
    first_index: int = 0

    def __post_init__(self) -> None:
        if self.first_index < 0:
            raise ConfigError(f"label store first_index is {self.first_index}, wanted 0 or more")


def header_bytes(schema: StoreSchema, key: StoreKey) -> bytes:
    """The whole header; the same schema and key always give the same bytes."""
    fields = [{"name": f.name, "dtype": f.dtype, "shape": list(f.shape)} for f in schema.fields]
    text = canonical_json({"fields": fields, "key": asdict(key)})
    unpadded = _PREFIX.size + len(text) + _CRC.size
    text += b" " * (-unpadded % _ALIGN_BYTES)
    check_limit("bytes of a label store header", len(text), limits.MANIFEST_BYTES)
    body = _PREFIX.pack(MAGIC, VERSION, len(text)) + text
    return body + _CRC.pack(zlib.crc32(body))


def parse_header(data: bytes, path: Path) -> tuple[StoreSchema, StoreKey, int]:
    """Schema, key and header length from the first bytes of a store.

    Raises:
        VerificationError: not a label store, of another version, or damaged.
    """
    if len(data) < _PREFIX.size or not data.startswith(MAGIC):
        raise VerificationError(f"{path}: not a label store (it does not start with {MAGIC!r})")
    _, version, text_bytes = _PREFIX.unpack_from(data)
    if version != VERSION:
        raise VerificationError(f"{path}: label store version {version}, this edgeaudio reads {VERSION}")
    check_limit(f"{path}: header bytes", text_bytes, limits.MANIFEST_BYTES)
    end = _PREFIX.size + text_bytes
    if len(data) < end + _CRC.size or _CRC.unpack_from(data, end)[0] != zlib.crc32(data[:end]):
        raise VerificationError(f"{path}: the label store's header is damaged. Delete the file and label again.")
    try:
        value = json.loads(data[_PREFIX.size : end])
        schema = StoreSchema(tuple(StoreField(f["name"], f["dtype"], tuple(f["shape"])) for f in value["fields"]))
        key = StoreKey(**value["key"])
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise VerificationError(f"{path}: the label store's header is malformed: {error!r}") from error
    return schema, key, end + _CRC.size


def check_same_store(
    path: Path, found: tuple[StoreSchema, StoreKey], wanted: tuple[StoreSchema | None, StoreKey | None]
) -> None:
    """Raise `WorkDirError` naming each field in which the store differs from what is wanted."""
    differences = []
    if wanted[1] is not None:
        differences += _differences("key", asdict(found[1]), asdict(wanted[1]))
    if wanted[0] is not None:
        found_fields, wanted_fields = (
            {f.name: f"{f.dtype} {f.shape}" for f in schema.fields} for schema in (found[0], wanted[0])
        )
        differences += _differences("field", found_fields, wanted_fields)
        if not differences and list(found_fields) != list(wanted_fields):
            differences.append(f"order of fields is {list(found_fields)}, wanted {list(wanted_fields)}")
    if differences:
        raise WorkDirError(
            f"{path}: this label store is of other labels: {'; '.join(differences)}. "
            "Use another file, or delete this one to label again."
        )


def _differences(kind: str, found: Mapping[str, object], wanted: Mapping[str, object]) -> list[str]:
    names = [name for name in {**found, **wanted} if found.get(name) != wanted.get(name)]
    return [f"{kind} {name!r} is {found.get(name)}, wanted {wanted.get(name)}" for name in names]


def _product(shape: tuple[int, ...]) -> int:
    result = 1
    for size in shape:
        result *= size
    return result
