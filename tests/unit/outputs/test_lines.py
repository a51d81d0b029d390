"""Events as lines: whole ones only, whatever the disk or the reader does."""

from __future__ import annotations

import errno
import io
import json
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeaudio.errors import ConfigError
from edgeaudio.outputs import lines
from edgeaudio.outputs.lines import FileLines, LineFile, StreamLines
from edgeaudio.runtime import Classifier
from tests import stream_driver as driver
from tests import tiny_bundle as tiny

MIB = 2**20


def labels_in(path: Path) -> list[str]:
    return [json.loads(line)["label"] for line in path.read_text().splitlines()]


def test_events_of_a_stream_reach_the_stream_and_the_file(classifier: Classifier, tmp_path: Path) -> None:
    out, path = io.StringIO(), tmp_path / "events.jsonl"
    stream = driver.Driver(classifier, [StreamLines(out), FileLines(path, max_bytes=MIB)])
    stream.feed(tiny.scene())
    stream.end()
    wanted = "".join(f"{record.to_json()}\n" for record in stream.records)
    assert {record.label for record in stream.records} == set(tiny.LABELS)
    assert out.getvalue() == path.read_text() == wanted


def test_nobody_reading_any_more_is_a_broken_pipe() -> None:
    reader, writer = os.pipe()
    with os.fdopen(writer, "w") as stream:
        output = StreamLines(stream)
        output.on_event(driver.record(label="heard"))
        assert json.loads(os.read(reader, 65_536))["label"] == "heard"
        os.close(reader)
        output.on_event(driver.record(label="unheard"))
        with pytest.raises(BrokenPipeError):
            output.close()
        with pytest.raises(BrokenPipeError):
            output.on_event(driver.record())


def test_a_reader_that_holds_still_does_not_hold_up_the_stream() -> None:
    reader, writer = os.pipe()
    with os.fdopen(writer, "w") as stream:
        output = StreamLines(stream)
        for _ in range(lines._CAPACITY + 3000):  # More than the pipe and the queue take.
            output.on_event(driver.record())
        assert output.counts.dropped > 0
        os.close(reader)
        with pytest.raises(BrokenPipeError):
            output.close()


def test_lines_are_appended_to_what_is_there(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    for label in ("first", "second"):
        output = FileLines(path, max_bytes=MIB)
        output.on_event(driver.record(label=label))
        output.close()
    assert labels_in(path) == ["first", "second"]


def test_a_torn_last_line_does_not_spoil_the_next(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    path.write_text('{"event": "sta')
    output = FileLines(path, max_bytes=MIB)
    output.on_event(driver.record(label="whole"))
    output.close()
    torn, whole = path.read_text().splitlines()
    assert torn == '{"event": "sta'
    assert json.loads(whole)["label"] == "whole"


@given(
    texts=st.lists(st.text("ab\u00e9", min_size=1, max_size=20), max_size=40),
    max_bytes=st.integers(1, 200),
    keep=st.integers(0, 3),
)
def test_rotation_keeps_the_youngest_lines_in_order(
    tmp_path_factory: pytest.TempPathFactory, texts: list[str], max_bytes: int, keep: int
) -> None:
    path = tmp_path_factory.mktemp("rotate") / "e"
    file = LineFile(path, max_bytes=max_bytes, keep=keep)
    for text in texts:
        file.append(text)
    file.close()
    names = [path, *(path.with_name(f"e.{number}") for number in range(1, keep + 1))]
    files = [name for name in names if name.exists()]
    assert sorted(path.parent.iterdir()) == sorted(files)
    kept = "".join(name.read_text() for name in reversed(files)).splitlines()
    assert kept == texts[len(texts) - len(kept) :]
    for name in files:
        assert name.stat().st_size <= max_bytes or len(name.read_text().splitlines()) == 1
    if len(files) < len(names):
        assert kept == texts


def test_a_full_disk_leaves_whole_lines_and_is_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "events.jsonl"
    real_write, failures = os.write, iter([10, None])

    def write(descriptor: int, data: bytes | memoryview) -> int:
        fits = next(failures, -1)
        if fits == -1:
            return real_write(descriptor, data)
        if fits is None:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return real_write(descriptor, data[:fits])

    monkeypatch.setattr(lines, "_RETRY_S", 0.01)
    output = FileLines(path, max_bytes=MIB)
    monkeypatch.setattr("edgeaudio.outputs.lines.os.write", write)
    output.on_event(driver.record(label="first"))
    output.on_event(driver.record(label="second"))
    driver.eventually(lambda: output.counts.sent == 2)
    output.close()
    assert labels_in(path) == ["first", "second"]
    assert output.counts.failed == 0


def test_a_disk_that_stays_full_costs_the_lines_and_not_the_stream(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def write(descriptor: int, data: bytes) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    output = FileLines(tmp_path / "events.jsonl", max_bytes=MIB)
    monkeypatch.setattr("edgeaudio.outputs.lines.os.write", write)
    output.on_event(driver.record())
    output.close()
    assert output.counts.failed == 1
    assert "No space left on device; trying again" in caplog.text


def test_a_file_that_logrotate_moved_is_made_anew(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    file = LineFile(path, max_bytes=MIB, keep=1)
    file.append("before")
    path.rename(tmp_path / "elsewhere")
    file.append("after")
    file.close()
    assert (tmp_path / "elsewhere").read_text() == "before\n"
    assert path.read_text() == "after\n"


@pytest.mark.parametrize("kind", ["missing folder", "folder", "fifo"])
def test_what_cannot_be_appended_to_is_refused_before_the_stream_starts(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "x"
    if kind == "missing folder":
        path = path / "y"
    elif kind == "folder":
        path.mkdir()
    else:
        os.mkfifo(path)
    with pytest.raises(ConfigError, match=str(path)):
        FileLines(path, max_bytes=MIB)
