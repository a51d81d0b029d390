"""The label store survives every cut, refuses strangers, and never returns a wrong record."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeaudio.errors import ConfigError, DataError, LimitError, ShapeError, VerificationError, WorkDirError
from edgeaudio.teachers.label_schema import header_bytes
from edgeaudio.teachers.label_store import DiskIO, LabelStore, StoreField, StoreKey, StoreSchema, content_key

SCHEMA = StoreSchema((StoreField("logits", "f4", (3,)), StoreField("embedding", "f2", (2,)), StoreField("label", "u1")))
KEY = StoreKey(teacher="aa", frontend="bb", plan="cc")
RECORDS = 7
RECORD_BYTES = 8 + 16 + 12 + 4 + 1 + 4


class NoSync(DiskIO):
    """Skips the disk's own wait: cuts are made by hand here."""

    def fsync(self, descriptor: int) -> None:
        pass

    def fsync_dir(self, folder: Path) -> None:
        pass


def append(store: LabelStore, index: int) -> None:
    rng = np.random.default_rng(index)
    store.append(
        index,
        content_key(bytes([index])),
        logits=rng.normal(size=3).astype(np.float32),
        embedding=rng.normal(size=2),
        label=index,
    )


def fill(path: Path, until: int = RECORDS, io: DiskIO | None = None, sync_every: int = 3) -> int:
    """Label on from wherever the file stands; the number of broken bytes dropped."""
    with LabelStore.open(path, SCHEMA, KEY, sync_every=sync_every, io=io or NoSync()) as store:
        for index in range(store.next_index, until):
            append(store, index)
        return store.dropped_bytes


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("whole") / "labels.bin"
    fill(path)
    return path.read_bytes()


def line_counting_fill(path: Path, whole: bytes) -> int:
    """A broken twin: trusts the file's length, as a resume that counts lines does."""
    header = header_bytes(SCHEMA, KEY)
    data, rest = path.read_bytes(), whole[len(header) :]
    n_records = max(0, len(data) - len(header)) // RECORD_BYTES
    start = data if data.startswith(header) else header
    path.write_bytes(start + rest[n_records * RECORD_BYTES :])
    return 0


def failing_cuts(folder: Path, whole: bytes, tail: Callable[[int], bytes], resume: Callable[[Path], int]) -> list[int]:
    """Cut points after which the resumed file differs from the unbroken one."""
    path, failures = folder / "cut.bin", []
    for cut in range(len(whole) + 1):
        path.write_bytes(whole[:cut] + tail(cut))
        resume(path)
        if path.read_bytes() != whole:
            failures.append(cut)
    return failures


def test_header_and_record_have_the_documented_size(whole: bytes) -> None:
    assert len(whole) == len(header_bytes(SCHEMA, KEY)) + RECORDS * RECORD_BYTES


def test_cut_at_every_byte_resumes_byte_identically(tmp_path: Path, whole: bytes) -> None:
    assert failing_cuts(tmp_path, whole, lambda cut: b"", fill) == []


def test_zero_filled_tail_after_every_byte_resumes_byte_identically(tmp_path: Path, whole: bytes) -> None:
    assert failing_cuts(tmp_path, whole, lambda cut: bytes(len(whole) - cut), fill) == []
    assert failing_cuts(tmp_path, whole, lambda cut: bytes(3 * RECORD_BYTES), fill) == []


def test_the_cut_test_catches_a_resume_that_counts_lines(tmp_path: Path, whole: bytes) -> None:
    twin = partial(line_counting_fill, whole=whole)
    cut = failing_cuts(tmp_path, whole, lambda cut: b"", twin)
    zeros = failing_cuts(tmp_path, whole, lambda cut: bytes(len(whole) - cut), twin)
    assert len(cut) > len(whole) // 3
    assert len(zeros) > len(whole) // 3


def test_tail_of_another_store_is_never_taken_for_our_records(tmp_path: Path, whole: bytes) -> None:
    other_path = tmp_path / "other.bin"
    with LabelStore.open(other_path, SCHEMA, StoreKey("aa", "bb", "other"), io=NoSync()) as other:
        for index in range(RECORDS):
            append(other, index)
    old, header = other_path.read_bytes(), len(header_bytes(SCHEMA, KEY))
    path = tmp_path / "labels.bin"
    for cut in range(header, len(whole)):
        path.write_bytes(whole[:cut] + old[cut:])
        fill(path)
        assert path.read_bytes() == whole


def test_flipped_byte_is_dropped_with_what_follows_or_refused(tmp_path: Path, whole: bytes) -> None:
    path, header = tmp_path / "labels.bin", len(header_bytes(SCHEMA, KEY))
    for position in range(len(whole)):
        broken = bytearray(whole)
        broken[position] ^= 0x10
        path.write_bytes(broken)
        if position < header:
            with pytest.raises((VerificationError, LimitError)):
                fill(path)
            assert path.read_bytes() == bytes(broken), "a store that is refused must stay as it is"
        else:
            fill(path)
            assert path.read_bytes() == whole


@given(cut=st.integers(0, 2000), tail=st.binary(max_size=200), first=st.integers(0, RECORDS))
@settings(max_examples=100, deadline=None)
def test_any_tail_behind_any_whole_record_resumes_byte_identically(
    tmp_path_factory: pytest.TempPathFactory, whole: bytes, cut: int, tail: bytes, first: int
) -> None:
    header = len(header_bytes(SCHEMA, KEY))
    path = tmp_path_factory.getbasetemp() / "any-tail.bin"
    path.write_bytes(whole[: max(header, min(cut, len(whole)))] + tail)
    fill(path, until=first)
    fill(path)
    assert path.read_bytes()[: len(whole)] == whole


def test_a_kill_costs_less_than_one_sync_interval(tmp_path: Path) -> None:
    path = tmp_path / "labels.bin"
    with LabelStore.open(path, SCHEMA, KEY, sync_every=3) as store:
        for index in range(8):
            append(store, index)
            on_disk = LabelStore.open_read(path)
            assert len(on_disk) == (index + 1) // 3 * 3


def test_a_killed_process_leaves_no_lock_and_loses_no_synced_record(tmp_path: Path) -> None:
    path = tmp_path / "labels.bin"
    program = (
        "import sys, time; from pathlib import Path; import numpy as np\n"
        "from edgeaudio.teachers.label_store import *\n"
        "schema = StoreSchema((StoreField('x', 'f4', (2,)),))\n"
        "store = LabelStore.open(Path(sys.argv[1]), schema, StoreKey('t', 'f', 'p'), sync_every=2)\n"
        "for i in range(5): store.append(i, bytes(16), x=np.full(2, i, 'f4'))\n"
        "print('ready', flush=True); time.sleep(60)\n"
    )
    child = subprocess.Popen([sys.executable, "-c", program, str(path)], stdout=subprocess.PIPE, text=True)
    try:
        assert child.stdout is not None
        assert child.stdout.readline() == "ready\n"
        schema, key = StoreSchema((StoreField("x", "f4", (2,)),)), StoreKey("t", "f", "p")
        with pytest.raises(WorkDirError, match=rf"pid {child.pid} on "):
            LabelStore.open(path, schema, key)
    finally:
        child.send_signal(signal.SIGKILL)
        child.wait()
    with LabelStore.open(path, schema, key) as store:
        assert store.next_index == 4
        np.testing.assert_array_equal(store.read("x")[:, 0], np.arange(4, dtype="f4"))


def test_two_writers_in_one_process_are_refused_until_the_first_closes(tmp_path: Path) -> None:
    path = tmp_path / "labels.bin"
    with LabelStore.open(path, SCHEMA, KEY), pytest.raises(WorkDirError, match=f"pid {os.getpid()}"):
        LabelStore.open(path, SCHEMA, KEY)
    fill(path)


class FailingIO(NoSync):
    """Fails the n-th call (and all later ones when persistent), after writing half of what it got."""

    def __init__(self, nth: int, number: int, persistent: bool) -> None:
        self.left, self.number, self.persistent = nth, number, persistent
        self.failed = False

    def _fails(self) -> bool:
        self.left -= 1
        fails = self.left == 0 or (self.left < 0 and self.persistent)
        self.failed |= fails
        return fails

    def write(self, descriptor: int, data: memoryview) -> int:
        if self._fails():
            os.write(descriptor, data[: len(data) // 2])
            raise OSError(self.number, os.strerror(self.number))
        return super().write(descriptor, data[:50])  # short writes are legal

    def fsync(self, descriptor: int) -> None:
        if self._fails():
            raise OSError(self.number, os.strerror(self.number))

    def fsync_dir(self, folder: Path) -> None:
        self.fsync(-1)

    def truncate(self, descriptor: int, n_bytes: int) -> None:
        if self._fails():
            raise OSError(self.number, os.strerror(self.number))
        super().truncate(descriptor, n_bytes)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO, errno.EDQUOT])
@pytest.mark.parametrize("persistent", [False, True])
def test_the_nth_failing_disk_call_is_typed_and_leaves_synced_records(
    tmp_path: Path, whole: bytes, number: int, persistent: bool
) -> None:
    nth, path = 0, tmp_path / "labels.bin"
    while True:
        nth += 1
        path.unlink(missing_ok=True)
        io = FailingIO(nth, number, persistent)
        message = ""
        try:
            fill(path, io=io)
        except WorkDirError as error:
            message = str(error)
        if not io.failed:
            break
        assert ("bytes are needed" in message) == (number != errno.EIO)
        assert str(path) in message
        assert whole.startswith(path.read_bytes())
        fill(path)
        assert path.read_bytes() == whole
    assert nth > 8


def test_flush_after_making_room_writes_what_waited(tmp_path: Path, whole: bytes) -> None:
    path = tmp_path / "labels.bin"
    io = FailingIO(14, errno.ENOSPC, persistent=False)
    with LabelStore.open(path, SCHEMA, KEY, sync_every=1, io=io) as store:
        failures = 0
        for index in range(RECORDS):
            try:
                append(store, index)
            except WorkDirError:
                failures += 1
                assert store.next_index == index + 1, "the record waits in memory"
                store.flush()
    assert failures == 1
    assert path.read_bytes() == whole


def test_a_store_of_other_labels_is_refused_naming_each_difference(tmp_path: Path) -> None:
    path = tmp_path / "labels.bin"
    fill(path)
    before = path.read_bytes()
    with pytest.raises(WorkDirError, match=r"key 'teacher' is aa, wanted zz; key 'plan' is cc, wanted yy"):
        LabelStore.open(path, SCHEMA, StoreKey("zz", "bb", "yy"))
    other = StoreSchema((StoreField("logits", "f4", (4,)), StoreField("embedding", "f2", (2,))))
    with pytest.raises(WorkDirError, match=r"field 'logits' is <f4 \(3,\), wanted <f4 \(4,\); field 'label'"):
        LabelStore.open(path, other, KEY)
    swapped = StoreSchema((SCHEMA.fields[1], SCHEMA.fields[0], SCHEMA.fields[2]))
    with pytest.raises(WorkDirError, match="order of fields"):
        LabelStore.open(path, swapped, KEY)
    assert path.read_bytes() == before


def test_a_foreign_file_is_refused_and_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "thesis.txt"
    path.write_text("not labels")
    with pytest.raises(VerificationError, match="not a label store"):
        LabelStore.open(path, SCHEMA, KEY)
    with pytest.raises(VerificationError, match="not a label store"):
        LabelStore.open_read(path)
    assert path.read_text() == "not labels"


def test_absent_store_is_not_created_unless_asked(tmp_path: Path) -> None:
    for opening in (lambda p: LabelStore.open(p, SCHEMA, KEY, create=False), LabelStore.open_read):
        with pytest.raises(WorkDirError, match="does not exist"):
            opening(tmp_path / "labels.bin")
    assert list(tmp_path.iterdir()) == []


def test_reading_gives_back_what_was_appended(tmp_path: Path) -> None:
    path = tmp_path / "labels.bin"
    fill(path)
    store = LabelStore.open_read(path, SCHEMA, KEY)
    expected = np.stack([np.random.default_rng(i).normal(size=3).astype(np.float32) for i in range(RECORDS)])
    np.testing.assert_array_equal(store.read("logits"), expected)
    np.testing.assert_array_equal(store.field("logits")[2:4], expected[2:4])
    np.testing.assert_array_equal(store.read("label"), np.arange(RECORDS))
    np.testing.assert_array_equal(store.read("index"), np.arange(RECORDS))
    assert store.read("logits").flags.c_contiguous
    assert len(store) == store.next_index == RECORDS
    assert store.schema == SCHEMA
    assert store.key == KEY
    with pytest.raises(ConfigError, match="no field 'crc'"):
        store.field("crc")
    with pytest.raises(WorkDirError, match="not open for appending"):
        append(store, RECORDS)


def test_reader_ignores_a_broken_tail_without_touching_it(tmp_path: Path, whole: bytes) -> None:
    path = tmp_path / "labels.bin"
    path.write_bytes(whole[:-1])
    assert len(LabelStore.open_read(path)) == RECORDS - 1
    assert path.read_bytes() == whole[:-1]


def test_an_empty_store_reads_as_no_records(tmp_path: Path) -> None:
    path = tmp_path / "labels.bin"
    fill(path, until=0)
    assert LabelStore.open_read(path).read("logits").shape == (0, 3)


def test_a_shard_counts_from_its_first_index(tmp_path: Path) -> None:
    path, key = tmp_path / "shard.bin", StoreKey("aa", "bb", "cc", first_index=5)
    with LabelStore.open(path, SCHEMA, key) as store:
        assert store.next_index == 5
        append(store, 5)
        assert store.next_index == 6
    with LabelStore.open(path, SCHEMA, key) as store:
        assert store.next_index == 6
        np.testing.assert_array_equal(store.read("index"), [5])


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"index": 3}, ConfigError, "record index 3, wanted 0"),
        ({"key": b"short"}, ConfigError, "key of 5 bytes, wanted 16"),
        ({"logits": np.zeros(4, "f4")}, ShapeError, r"'logits' is float32 \(4,\), wanted <f4 \(3,\)"),
        ({"label": 1.5}, ShapeError, "'label' is float64"),
        ({"label": 256}, DataError, "cannot hold"),
        ({"logits": np.array([0, np.nan, 0], "f4")}, DataError, "'logits' holds NaN"),
        ({"embedding": np.array([0, 1e6])}, DataError, "'embedding' holds NaN or infinity as <f2"),
        ({"surprise": 1}, ConfigError, "surprise"),
    ],
)
def test_a_wrong_record_is_refused_and_nothing_is_added(
    tmp_path: Path, change: dict[str, object], error: type[Exception], message: str
) -> None:
    record = {"index": 0, "key": bytes(16), "logits": np.zeros(3, "f4"), "embedding": np.zeros(2), "label": 1}
    with LabelStore.open(tmp_path / "labels.bin", SCHEMA, KEY) as store:
        with pytest.raises(error, match=message):
            store.append(**(record | change))  # type: ignore[arg-type]
        assert len(store) == 0


@pytest.mark.parametrize(
    "make",
    [
        lambda: StoreField("crc", "f4"),
        lambda: StoreField("not a name", "f4"),
        lambda: StoreField("x", "object"),
        lambda: StoreField("x", "complex64"),
        lambda: StoreField("x", "nonsense"),
        lambda: StoreField("x", "f4", (0,)),
        lambda: StoreSchema(()),
        lambda: StoreSchema((StoreField("x", "f4"), StoreField("x", "f4"))),
        lambda: StoreSchema((StoreField("x", "f4", (2**20,)),)),
        lambda: StoreSchema((StoreField("x", "f4", (2**40, 2**40)),)),
        lambda: StoreKey("a", "b", "c", first_index=-1),
    ],
)
def test_impossible_schemas_are_refused(make: Callable[[], object]) -> None:
    with pytest.raises(ConfigError):
        make()
