"""Every clip is decoded once; a bad file, a crash or a hang costs that clip; a damaged entry is never served."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf

from edgeaudio.audio.files import decode_file
from edgeaudio.audio.resample import resample
from edgeaudio.data import decode_cache, decode_pool
from edgeaudio.data.cache_entry import read_entry, write_entry
from edgeaudio.data.datasets import Clip, DecodeCache, Skipped, check_skipped
from edgeaudio.data.decode_pool import DecodeFacts, DecodeRequest, decode_all
from edgeaudio.data.decode_worker import READY
from edgeaudio.errors import AudioFileError, ConfigError, DataError, UnsupportedError

RATE_HZ = 16_000


def clip(folder: Path, name: str, seed: int, rate_hz: int = 44_100) -> Clip:
    path = folder / f"{name}.wav"
    sf.write(path, np.random.default_rng(seed).uniform(-0.5, 0.5, rate_hz // 4), rate_hz)
    return Clip(name, path, (0,))


def broken(folder: Path, name: str) -> Clip:
    (folder / f"{name}.wav").write_bytes(b"RIFF, it says")
    return Clip(name, folder / f"{name}.wav", (0,))


@pytest.fixture
def cache(tmp_path: Path) -> DecodeCache:
    return DecodeCache(tmp_path / "cache", RATE_HZ)


@pytest.fixture
def no_workers(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """After calling it, asking a worker for anything fails the test."""

    def refuse(requests: list[DecodeRequest], **_: object) -> list[object]:
        assert not requests
        return []

    return lambda: monkeypatch.setattr(decode_cache, "decode_all", refuse)


def entries(tmp_path: Path) -> list[Path]:
    return sorted((tmp_path / "cache").glob("*.npy"))


def test_prepared_clip_is_the_decoded_and_resampled_file(tmp_path: Path, cache: DecodeCache) -> None:
    one = clip(tmp_path, "one", 1)
    usable, skipped = cache.prepare([one])
    assert (usable, skipped) == ((one,), ())
    waveform = cache.get(one)
    assert waveform.dtype == np.float32
    assert isinstance(waveform, np.memmap)
    assert not waveform.flags.writeable
    np.testing.assert_array_equal(waveform, resample(decode_file(one.path).waveform, 44_100, RATE_HZ))


def test_second_run_decodes_nothing(tmp_path: Path, cache: DecodeCache, no_workers: Callable[[], None]) -> None:
    clips = [clip(tmp_path, str(i), i) for i in range(3)]
    calls: list[tuple[int, int]] = []
    cache.prepare(clips, progress=lambda done, total: calls.append((done, total)))
    assert calls == [(1, 3), (2, 3), (3, 3)]
    no_workers()
    assert DecodeCache(tmp_path / "cache", RATE_HZ).prepare(clips) == (tuple(clips), ())


def test_clips_of_equal_content_share_an_entry_and_rates_do_not(tmp_path: Path, cache: DecodeCache) -> None:
    clips = [clip(tmp_path, "one", 1), clip(tmp_path, "same", 1)]
    assert len(cache.prepare(clips)[0]) == 2
    assert len(entries(tmp_path)) == 1
    DecodeCache(tmp_path / "cache", 32_000).prepare(clips)
    assert len(entries(tmp_path)) == 2


def test_changed_file_is_decoded_anew(tmp_path: Path, cache: DecodeCache) -> None:
    one = clip(tmp_path, "one", 1)
    cache.prepare([one])
    before = np.array(cache.get(one))
    one = clip(tmp_path, "one", 2)
    assert not np.array_equal(cache.get(one), before)


def test_bad_files_are_skipped_in_order_with_reasons(tmp_path: Path, cache: DecodeCache) -> None:
    good = [clip(tmp_path, "a", 1), clip(tmp_path, "z", 2)]
    absent = Clip("gone", tmp_path / "gone.wav", (0,))
    usable, skipped = cache.prepare([broken(tmp_path, "b"), good[0], absent, good[1], broken(tmp_path, "c")])
    assert usable == tuple(good)
    assert [Path(item.path).name for item in skipped] == ["b.wav", "gone.wav", "c.wav"]
    assert [item.reason.partition(":")[0] for item in skipped] == ["undecodable", "missing", "undecodable"]
    with pytest.raises(AudioFileError, match=r"b\.wav"):
        cache.get(broken(tmp_path, "b"))


def test_clip_above_the_length_cap_is_skipped(tmp_path: Path) -> None:
    _, skipped = DecodeCache(tmp_path / "cache", RATE_HZ, max_clip_s=0.1).prepare([clip(tmp_path, "long", 1)])
    assert skipped[0].reason.startswith("too_long:")


def flip(path: Path, position: int) -> None:
    data = bytearray(path.read_bytes())
    data[position] ^= 0x10
    path.write_bytes(data)


def test_any_flipped_byte_of_an_entry_is_noticed(tmp_path: Path) -> None:
    path, waveform = tmp_path / "entry.npy", np.linspace(-1, 1, 20, dtype=np.float32)
    write_entry(path, waveform)
    whole = path.read_bytes()
    for position in range(len(whole)):
        path.write_bytes(whole)
        flip(path, position)
        assert read_entry(path, verify=True) is None, f"byte {position}"


def test_any_cut_of_an_entry_is_noticed_even_without_its_digest(tmp_path: Path) -> None:
    path = tmp_path / "entry.npy"
    write_entry(path, np.linspace(-1, 1, 20, dtype=np.float32))
    whole = path.read_bytes()
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        assert read_entry(path, verify=False) is None, f"{length} bytes"


def test_damaged_entry_is_redone(tmp_path: Path, cache: DecodeCache) -> None:
    one = clip(tmp_path, "one", 1)
    cache.prepare([one])
    wanted = np.array(cache.get(one))
    (entry,) = entries(tmp_path)
    flip(entry, 500)
    np.testing.assert_array_equal(DecodeCache(tmp_path / "cache", RATE_HZ).get(one), wanted)
    entry.write_bytes(entry.read_bytes()[:-50])
    np.testing.assert_array_equal(cache.get(one), wanted)
    entry.write_bytes(entry.read_bytes()[:-50])
    assert cache.prepare([one]) == ((one,), ())
    np.testing.assert_array_equal(cache.get(one), wanted)


def test_entry_is_an_ordinary_npy(tmp_path: Path) -> None:
    for n_samples in (1, 999, 1_000_000):
        waveform = np.linspace(-1, 1, n_samples, dtype=np.float32)
        write_entry(tmp_path / "entry.npy", waveform)
        np.testing.assert_array_equal(np.load(tmp_path / "entry.npy", allow_pickle=False), waveform)
        np.testing.assert_array_equal(read_entry(tmp_path / "entry.npy", verify=True), waveform)


def test_entry_with_a_pickle_inside_is_not_opened(tmp_path: Path) -> None:
    path = tmp_path / "entry.npy"
    with path.open("wb") as stream:
        np.save(stream, np.array([{"a": 1}], dtype=object), allow_pickle=True)
    assert read_entry(path, verify=False) is None


def test_cache_that_cannot_be_written_is_an_error_not_a_skip(tmp_path: Path, cache: DecodeCache) -> None:
    one = clip(tmp_path, "one", 1)
    (tmp_path / "file").write_bytes(b"")
    request = DecodeRequest(one.path, 60, tmp_path / "file" / "entry.npy", RATE_HZ)
    with pytest.raises(DataError, match=r"one\.wav: the decoder process failed: .*Error"):
        list(decode_all([request]))


def test_absurd_rate_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="sample_rate is 1,"):
        DecodeCache(tmp_path, 1)


# A worker that does to itself what a decoder could: the file's name says what.
EVIL = f"""
import json, os, sys, time
print(json.dumps({READY!r}), flush=True)
for line in sys.stdin:
    path = os.path.basename(json.loads(line)["path"])
    if "crash" in path: os.abort()
    if "hang" in path: time.sleep(600)
    print(json.dumps({{"reason": "undecodable", "message": str(os.getpid())}}), flush=True)
"""


def test_crash_and_hang_cost_one_file_each(tmp_path: Path) -> None:
    names = ["a", "crash-1", "b", "hang", "c", "crash-2", "d"]
    requests = [DecodeRequest(tmp_path / name, 60) for name in names]
    results = dict(decode_all(requests, workers=1, timeout_s=3, command=[sys.executable, "-c", EVIL]))
    assert [results[i].reason for i in range(len(names))] == [  # type: ignore[union-attr]
        "undecodable",
        "decoder_crashed",
        "undecodable",
        "decoder_timeout",
        "undecodable",
        "decoder_crashed",
        "undecodable",
    ]


def test_worker_that_does_not_start_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedError, match="does not start"):
        list(decode_all([DecodeRequest(tmp_path / "a", 60)], command=[sys.executable, "-c", "raise SystemExit(3)"]))


def test_leaving_early_leaves_no_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[decode_pool.subprocess.Popen[bytes]] = []
    real = decode_pool.subprocess.Popen

    def popen(*args: object, **options: object) -> object:
        started.append(real(*args, **options))  # type: ignore[call-overload]
        return started[-1]

    monkeypatch.setattr(decode_pool.subprocess, "Popen", popen)
    requests = [DecodeRequest(tmp_path / name, 60) for name in ("a", "hang", "hang", "b")]
    results = decode_all(requests, workers=2, timeout_s=60, command=[sys.executable, "-c", EVIL])
    next(results)
    results.close()  # type: ignore[attr-defined]
    assert started
    assert all(process.poll() is not None for process in started)


def test_facts_are_those_of_the_file(tmp_path: Path) -> None:
    sf.write(tmp_path / "s.flac", np.tile([[0.5, 0.25]], (8_000, 1)), 16_000)
    ((_, facts),) = decode_all([DecodeRequest(tmp_path / "s.flac", 60)])
    assert isinstance(facts, DecodeFacts)
    assert (facts.duration_s, facts.sample_rate, facts.channels, facts.format) == (0.5, 16_000, 2, "FLAC/PCM_16")
    assert facts.peak == facts.rms == pytest.approx(0.375)


def test_skipped_above_the_limit_stop_the_run_with_counts_and_reasons() -> None:
    skipped = [Skipped("a.wav", "truncated: a.wav: cut"), Skipped("b.wav", "decoder_crashed: b.wav: died")]
    check_skipped(skipped, 1_000, 0.002)
    check_skipped([], 10, 0.0)
    with pytest.raises(
        DataError, match=r"2 of 1000 .*1 truncated, 1 decoder_crashed.*0\.001.*a\.wav: cut.*max_skipped"
    ):
        check_skipped(skipped, 1_000, 0.001)
