"""A watched folder: each file once, when it is complete, whatever comes in between."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile as sf

from edgeaudio.audio.ring import Ring
from edgeaudio.audio.source import Sink
from edgeaudio.audio.watch import JOURNAL, Seen, WatchedFolder
from edgeaudio.errors import ConfigError

RATE = 16_000


def write(folder: Path, name: str, value: float, n_samples: int = 3_200, rate: int = RATE, age_s: float = 60) -> Path:
    path = folder / name
    sf.write(path, np.full(n_samples, value), rate, subtype="FLOAT")
    old = time.time() - age_s
    os.utime(path, (old, old))
    return path


class Listener:
    """Runs a watched folder until three polls found nothing, or until `stop_after` files were begun."""

    def __init__(self, folder: Path, *, stop_after: int | None = None, **options: Any) -> None:
        self.source = WatchedFolder(folder, sample_rate=RATE, **{"poll_s": 0.01} | options)
        self.audio = self.source.open()
        self.heard: list[tuple[str, Any]] = []
        stop, ring = threading.Event(), Ring(4 * RATE, self.audio.channels)
        sink = Sink(ring, live=False, stop=stop)
        capture = threading.Thread(target=self.source.capture, args=(sink,))
        polls, complete = [0], self.source._complete

        def counted() -> Any:
            polls[0] += 1
            return complete()

        self.source._complete = counted  # type: ignore[method-assign]
        capture.start()
        heard_at = 0
        while polls[0] < heard_at + 4:
            reading = ring.read(RATE, 0.02)
            if reading is None:
                continue
            heard_at = polls[0]
            if reading.boundary:
                self.heard.append((reading.boundary, np.empty(0, np.float32)))
                if stop_after is not None and len(self.heard) > stop_after:
                    break
            if len(reading.frames):
                name, samples = self.heard[-1]
                self.heard[-1] = (name, np.concatenate([samples, reading.frames[:, 0]]))
        stop.set()
        capture.join(10)
        self.source.close()

    @property
    def names(self) -> list[str]:
        return [name for name, _ in self.heard]


def test_files_are_heard_once_oldest_first_and_stay_heard_after_a_restart(tmp_path: Path) -> None:
    write(tmp_path, "b.wav", 0.2, age_s=100)
    write(tmp_path, "a.flac.wav", 0.1, age_s=50)
    first = Listener(tmp_path)
    assert first.names == ["b.wav", "a.flac.wav"]
    assert [len(samples) for _, samples in first.heard] == [3_200, 3_200]
    assert np.allclose(first.heard[0][1], 0.2)
    write(tmp_path, "c.wav", 0.3)
    assert Listener(tmp_path).names == ["c.wav"]
    assert Listener(tmp_path).names == []


def test_a_file_that_is_still_written_to_waits(tmp_path: Path) -> None:
    clock = [0.0]
    path = write(tmp_path, "slow.wav", 0.1, age_s=-3_600)
    source = WatchedFolder(tmp_path, sample_rate=RATE, settle_s=2.0, clock=lambda: clock[0])
    source.open()
    assert source._complete() == []
    clock[0] = 1.9
    assert source._complete() == []
    with path.open("ab") as stream:
        stream.write(b"more")
    os.utime(path, (time.time() + 3_600,) * 2)
    clock[0] = 2.1
    assert source._complete() == []
    clock[0] = 4.2
    assert [seen.name for seen in source._complete()] == ["slow.wav"]


def test_a_file_that_is_written_again_is_heard_again(tmp_path: Path) -> None:
    write(tmp_path, "door.wav", 0.1)
    assert Listener(tmp_path).names == ["door.wav"]
    write(tmp_path, "door.wav", 0.2, age_s=30)
    assert Listener(tmp_path).names == ["door.wav"]


def test_a_kill_before_the_end_means_hearing_it_again(tmp_path: Path) -> None:
    write(tmp_path, "a.wav", 0.1, age_s=100)
    write(tmp_path, "b.wav", 0.2, age_s=50)
    assert Listener(tmp_path, stop_after=1).names == ["a.wav", "b.wav"]
    assert Listener(tmp_path).names == ["b.wav"]


def test_a_cut_of_the_journal_anywhere_forgets_at_most_the_last_file(tmp_path: Path) -> None:
    write(tmp_path, "a.wav", 0.1, age_s=100)
    write(tmp_path, "b.wav", 0.2, age_s=50)
    Listener(tmp_path)
    journal = tmp_path / JOURNAL
    whole = journal.read_bytes()
    first_line = whole.index(b"\n") + 1
    for cut in sorted(
        {*range(0, len(whole), 9), first_line - 1, first_line, first_line + 1, len(whole) - 1, len(whole)}
    ):
        journal.write_bytes(whole[:cut])
        source = WatchedFolder(tmp_path, sample_rate=RATE)
        source.open()
        left = [seen.name for seen in source._complete()]
        assert left == ([] if cut == len(whole) else ["b.wav"] if cut >= first_line else ["a.wav", "b.wav"])
        # What was torn is gone from the file: the next line starts on its own.
        assert journal.read_bytes() in (whole, whole[:first_line], b"")


def test_the_journal_forgets_files_that_are_gone(tmp_path: Path) -> None:
    write(tmp_path, "a.wav", 0.1)
    Listener(tmp_path)
    (tmp_path / "a.wav").unlink()
    Listener(tmp_path)
    assert (tmp_path / JOURNAL).read_bytes() == b""


def test_other_rates_and_channels_are_converted(tmp_path: Path) -> None:
    stereo = np.stack([np.full(48_000, 0.5), np.full(48_000, 0.1)], axis=1)
    sf.write(tmp_path / "s.wav", stereo, 48_000, subtype="FLOAT")
    os.utime(tmp_path / "s.wav", (1, 1))
    ((_, mean),) = Listener(tmp_path).heard
    assert len(mean) == RATE
    assert np.allclose(mean[2_000:-2_000], 0.3, atol=1e-3)
    ((_, right),) = Listener(tmp_path, channel=2, journal=tmp_path / "other.jsonl").heard
    assert np.allclose(right[2_000:-2_000], 0.1, atol=1e-3)


def test_what_is_no_audio_is_left_out_once_and_the_rest_is_heard(tmp_path: Path, caplog: Any) -> None:
    (tmp_path / "bad.wav").write_bytes(b"RIFF")
    write(tmp_path, ".hidden.wav", 0.1)
    write(tmp_path, "note.txt.wav", 0.1, age_s=10)
    (tmp_path / "note.txt").write_text("x")
    (tmp_path / "folder.wav").mkdir()
    (tmp_path / "link.wav").symlink_to(tmp_path / ".hidden.wav")
    os.utime(tmp_path / "bad.wav", (1, 1))
    listener = Listener(tmp_path)
    assert listener.names == ["bad.wav", "note.txt.wav"]
    assert listener.source.refused == 1
    assert "left out: " in caplog.text
    assert Listener(tmp_path).names == []


def test_samples_that_are_not_finite_are_counted_before_they_are_resampled(tmp_path: Path) -> None:
    sf.write(tmp_path / "n.wav", np.array([0.1, np.nan, np.inf] * 1_000, np.float32), 48_000, subtype="FLOAT")
    os.utime(tmp_path / "n.wav", (1, 1))
    listener = Listener(tmp_path)
    assert listener.source.scrubbed.nan_samples == 2_000
    assert np.isfinite(listener.heard[0][1]).all()


def test_a_file_whose_name_is_no_text_is_heard_and_its_name_is_still_a_line(tmp_path: Path) -> None:
    path = Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff\n.wav"))
    write(tmp_path, "a.wav", 0.1).rename(path)
    listener = Listener(tmp_path)
    assert listener.names == ["\\xff\n.wav"]
    assert len(listener.heard[0][1]) > 0
    assert Listener(tmp_path).names == []


@pytest.mark.parametrize("where", ["absent", "file"])
def test_what_is_no_folder_is_refused(tmp_path: Path, where: str) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="is no folder"):
        WatchedFolder(tmp_path / where, sample_rate=RATE).open()


def test_a_journal_that_cannot_be_written_is_refused_with_the_way_out(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="--journal FILE"):
        WatchedFolder(tmp_path, sample_rate=RATE, journal=tmp_path).open()


def test_a_line_of_the_journal_is_exact() -> None:
    assert Seen("a.wav", 1, 2).line() == b'{"name": "a.wav", "size_bytes": 1, "mtime_ns": 2}\n'
