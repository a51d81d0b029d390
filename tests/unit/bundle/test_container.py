"""The narrow ZIP: what we write anyone can read, and nothing else is accepted."""

from __future__ import annotations

import io
import struct
import zipfile
from collections.abc import Callable

import pytest

from edgeaudio.bundle.container import pack, unpack
from edgeaudio.errors import BundleError, LimitError
from edgeaudio.spec.limits import BUNDLE_BYTES, BUNDLE_ENTRIES

ENTRIES = {"manifest.json": b"{}", "artefacts/fp32.onnx": b"model" * 9, "golden.safetensors": b""}


def _zip(write: Callable[[zipfile.ZipFile], object]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        write(archive)
    return buffer.getvalue()


def test_entries_survive_the_round_trip_in_order() -> None:
    assert list(unpack(pack(ENTRIES), "x").items()) == list(ENTRIES.items())


def test_equal_entries_give_equal_bytes() -> None:
    assert pack(ENTRIES) == pack(dict(ENTRIES))


def test_ordinary_zip_tools_read_it() -> None:
    with zipfile.ZipFile(io.BytesIO(pack(ENTRIES))) as archive:
        assert archive.testzip() is None
        assert {name: archive.read(name) for name in archive.namelist()} == ENTRIES
        assert {info.date_time for info in archive.infolist()} == {(1980, 1, 1, 0, 0, 0)}


@pytest.mark.parametrize(
    "name",
    ["../x", "/x", "a/../x", "a/b/c", "a\\b", "A", "", ".", "..", "a/", "a/.", "\x00", "ä", "a\n", "c:x", "x" * 129],
)
def test_names_that_could_escape_are_refused(name: str) -> None:
    with pytest.raises(BundleError, match="name"):
        pack({name: b""})
    placeholder = "b" * len(name.encode())
    data = pack({placeholder: b""}) if 0 < len(placeholder) < 129 else None
    if data is not None:
        with pytest.raises(BundleError, match="name"):
            unpack(data.replace(placeholder.encode(), name.encode()), "x")


def _compressed(archive: zipfile.ZipFile) -> None:
    archive.writestr("manifest.json", b"x" * 10_000, compress_type=zipfile.ZIP_DEFLATED)


def _symlink(archive: zipfile.ZipFile) -> None:
    info = zipfile.ZipInfo("manifest.json", (1980, 1, 1, 0, 0, 0))
    info.external_attr = 0o120777 << 16
    archive.writestr(info, b"/etc/passwd")


def _directory(archive: zipfile.ZipFile) -> None:
    archive.writestr(zipfile.ZipInfo("artefacts/", (1980, 1, 1, 0, 0, 0)), b"")


def _zip64(archive: zipfile.ZipFile) -> None:
    with archive.open("manifest.json", "w", force_zip64=True) as entry:
        entry.write(b"x")


def _commented(archive: zipfile.ZipFile) -> None:
    archive.writestr("manifest.json", b"x")
    archive.comment = b"hello"


@pytest.mark.parametrize("write", [_compressed, _symlink, _directory, _zip64, _commented])
def test_what_other_zip_writers_make_is_refused(write: Callable[[zipfile.ZipFile], None]) -> None:
    with pytest.raises(BundleError, match=r"^x\.eab: "):
        unpack(_zip(write), "x.eab")


def test_duplicate_names_are_refused() -> None:
    data = pack({"manifest.json": b"a", "manifest.jsoo": b"a"}).replace(b"manifest.jsoo", b"manifest.json")
    with pytest.raises(BundleError, match=r"'manifest\.json' is there twice"):
        unpack(data, "x")


@pytest.mark.parametrize(
    ("offset", "value", "field"),
    [
        (6, 1, "flags"),  # Encrypted.
        (6, 8, "flags"),  # Data descriptor follows.
        (8, 8, "compression method"),
        (4, 45, "version needed"),  # ZIP64.
        (10, 1, "time"),
        (28, 4, "extra length"),
    ],
)
def test_a_local_header_that_differs_is_refused_by_its_field(offset: int, value: int, field: str) -> None:
    data = bytearray(pack(ENTRIES))
    struct.pack_into("<H", data, offset, value)
    with pytest.raises(BundleError, match=f"'manifest.json': local header: {field} is {value}"):
        unpack(bytes(data), "x")


def test_bytes_outside_entries_are_refused() -> None:
    data = pack(ENTRIES)
    directory = data.index(b"PK\1\2")
    for damaged in (b"\0" + data, data + b"\0", data[:directory] + b"\0" + data[directory:], data + data, data[1:]):
        with pytest.raises(BundleError):
            unpack(damaged, "x")


def test_a_gap_hidden_by_a_moved_directory_is_refused() -> None:
    data = bytearray(pack(ENTRIES))
    directory = data.index(b"PK\1\2")
    data[directory:directory] = b"hidden"
    (offset,) = struct.unpack_from("<I", data, len(data) - 6)
    struct.pack_into("<I", data, len(data) - 6, offset + 6)
    with pytest.raises(BundleError, match="6 bytes lie outside entries and directory"):
        unpack(bytes(data), "x")


def test_a_gap_hidden_between_two_entries_is_refused() -> None:
    data = bytearray(pack({"a": b"", "b": b""}))
    second, directory = data.index(b"PK\3\4", 1), data.index(b"PK\1\2")
    second_record = data.index(b"PK\1\2", directory + 1)
    struct.pack_into("<I", data, second_record + 42, second + 6)
    struct.pack_into("<I", data, len(data) - 6, directory + 6)
    data[second:second] = b"hidden"
    with pytest.raises(
        BundleError, match=f"entry 'b': header offset is {second + 6}, the entry before ends at {second}"
    ):
        unpack(bytes(data), "x")


def test_a_directory_longer_than_its_records_is_refused() -> None:
    data = bytearray(pack(ENTRIES))
    (size,) = struct.unpack_from("<I", data, len(data) - 10)
    struct.pack_into("<I", data, len(data) - 10, size + 6)
    data[-22:-22] = b"hidden"
    with pytest.raises(BundleError, match="6 bytes lie outside"):
        unpack(bytes(data), "x")


def test_every_truncation_is_refused() -> None:
    data = pack(ENTRIES)
    for length in range(len(data)):
        with pytest.raises(BundleError):
            unpack(data[:length], "x")


def test_damaged_content_is_named() -> None:
    data = pack(ENTRIES).replace(b"modelmodel", b"modelModel", 1)
    with pytest.raises(BundleError, match=r"'artefacts/fp32.onnx': crc-32 is \w+, the directory says \w+"):
        unpack(data, "x")


def test_limits_hold_when_writing_and_reading() -> None:
    with pytest.raises(LimitError, match=f"limit is {BUNDLE_ENTRIES}"):
        pack({f"e{i}": b"" for i in range(BUNDLE_ENTRIES + 1)})
    with pytest.raises(LimitError, match=f"limit is {BUNDLE_BYTES}"):
        pack({"a": bytes(BUNDLE_BYTES - 50)})
    with pytest.raises(LimitError, match=f"limit is {BUNDLE_BYTES}"):
        unpack(bytes(BUNDLE_BYTES + 1), "x")
    end = struct.pack("<4s4H2IH", b"PK\5\6", 0, 0, 65_535, 65_535, 0, 0, 0)
    with pytest.raises(LimitError, match="65535"):
        unpack(end, "x")
