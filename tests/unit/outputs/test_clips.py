"""Clips on disk: the right samples, safe names, never half a file, never over the quota."""

from __future__ import annotations

import json
import os
import stat
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile as sf
from hypothesis import given
from hypothesis import strategies as st

from edgeaudio.errors import ConfigError
from edgeaudio.outputs.clip_folder import ClipFolder, clip_stem, slug
from edgeaudio.outputs.clips import ClipOptions, ClipSaver
from edgeaudio.outputs.info import StreamInfo
from edgeaudio.runtime import Classifier
from tests import stream_driver as driver
from tests import tiny_bundle as tiny

RATE = tiny.FRONTEND.sample_rate
OPTIONS = ClipOptions(pre_roll_s=0.25, post_roll_s=0.125, max_s=5.0, max_bytes=10_000_000)
WHEN = "2026-11-20T15:03:22.417+01:00"


def numbered(n_samples: int) -> np.ndarray[Any, np.dtype[np.float32]]:
    """Samples that say where they are and survive 16 bits."""
    return ((np.arange(n_samples) % 32_768) / 32_768).astype(np.float32)


def clips_in(folder: Path) -> list[tuple[dict[str, Any], np.ndarray[Any, Any]]]:
    """Sidecar and samples of every clip, in the order of the stream."""
    found = []
    for path in folder.glob("*.json"):
        (line,) = path.read_text().splitlines()
        sidecar = json.loads(line)
        samples, rate = sf.read(folder / sidecar["file"], dtype="float32")
        assert rate == sidecar["sample_rate"] == RATE
        assert len(samples) == round(sidecar["duration_s"] * RATE)
        found.append((sidecar, samples))
    return sorted(found, key=lambda clip: float(clip[0]["clip_start_s"]))


@pytest.mark.parametrize("format", ["flac", "wav"])
@pytest.mark.parametrize("chunk_samples", [160, 1601, 32_000])
def test_every_event_of_a_stream_becomes_a_clip_of_exactly_its_samples(
    classifier: Classifier, info: StreamInfo, tmp_path: Path, format: str, chunk_samples: int
) -> None:
    saver = ClipSaver(tmp_path / "clips", info, replace(OPTIONS, format=format))
    stream, scene = driver.Driver(classifier, [saver]), tiny.scene()
    stream.feed(scene, chunk_samples)
    stream.end()
    clips = clips_in(tmp_path / "clips")
    ends = [record for record in stream.records if record.event == "end"]
    assert [(clip["label"], clip["t_start_s"], clip["t_end_s"], clip["score"]) for clip, _ in clips] == [
        (end.label, end.t_start_s, end.t_end_s, round(end.score or 0, 6)) for end in ends
    ]
    for sidecar, samples in clips:
        start = max(0, round((sidecar["t_start_s"] - 0.25) * RATE))
        stop = min(len(scene), round((sidecar["t_end_s"] + info.window_s + 0.125) * RATE))
        assert (sidecar["clip_start_s"], sidecar["cut"]) == (start / RATE, False)
        np.testing.assert_allclose(samples, scene[start:stop], atol=1 / 32_768)
    assert saver.counts.sent == 3


def saver_of(folder: Path, info: StreamInfo, **changes: Any) -> ClipSaver:
    return ClipSaver(folder, info, replace(OPTIONS, **changes))


def test_a_long_sound_is_cut(info: StreamInfo, tmp_path: Path) -> None:
    saver, audio = saver_of(tmp_path, info, max_s=1.0), numbered(10 * RATE)
    for second in range(10):
        saver.on_audio(audio[second * RATE : (second + 1) * RATE], second * RATE)
        if second == 2:
            saver.on_event(driver.record(t_start_s=1.5))
    saver.on_event(driver.record("end", t_start_s=1.5, t_end_s=9.0))
    saver.close()
    ((sidecar, samples),) = clips_in(tmp_path)
    assert (sidecar["cut"], sidecar["t_end_s"], sidecar["clip_start_s"]) == (True, None, 1.25)
    np.testing.assert_array_equal(samples, audio[20_000:36_000])


def test_a_gap_ends_the_clip_and_no_clip_reaches_across_it(info: StreamInfo, tmp_path: Path) -> None:
    saver, audio = saver_of(tmp_path, info), numbered(4 * RATE)
    saver.on_audio(audio[: 2 * RATE], 0)
    saver.on_event(driver.record("start", "before", t_start_s=1.0))
    saver.on_event(driver.record("end", "before", t_start_s=1.0, t_end_s=1.9))
    saver.on_event(driver.record("gap", None, t_start_s=2.0, t_end_s=3.0, score=None))
    saver.on_audio(audio[3 * RATE :], 3 * RATE)
    saver.on_event(driver.record("start", "after", t_start_s=3.125))
    saver.close()
    (before, its_samples), (after, other_samples) = clips_in(tmp_path)
    assert (before["label"], before["pre_roll_s"]) == ("before", 0.25)
    np.testing.assert_array_equal(its_samples, audio[12_000 : 2 * RATE])
    assert (after["label"], after["pre_roll_s"], after["t_end_s"]) == ("after", 0.125, None)
    np.testing.assert_array_equal(other_samples, audio[3 * RATE :])


def test_a_jump_of_the_position_without_a_gap_event_ends_the_clip_too(info: StreamInfo, tmp_path: Path) -> None:
    saver, audio = saver_of(tmp_path, info), numbered(4 * RATE)
    saver.on_audio(audio[:RATE], 0)
    saver.on_event(driver.record(t_start_s=0.5))
    saver.on_audio(audio[3 * RATE :], 3 * RATE)
    saver.close()
    ((sidecar, samples),) = clips_in(tmp_path)
    assert sidecar["clip_start_s"] == 0.25
    np.testing.assert_array_equal(samples, audio[4_000:RATE])


def test_sounds_that_overlap_get_a_clip_each(info: StreamInfo, tmp_path: Path) -> None:
    saver, audio = saver_of(tmp_path, info), numbered(4 * RATE)
    saver.on_audio(audio[: 2 * RATE], 0)
    saver.on_event(driver.record("start", "rain", t_start_s=0.5))
    saver.on_event(driver.record("start", "dog", t_start_s=1.0))
    saver.on_event(driver.record("end", "dog", t_start_s=1.0, t_end_s=1.5))
    saver.on_audio(audio[2 * RATE :], 2 * RATE)
    saver.on_event(driver.record("end", "rain", t_start_s=0.5, t_end_s=3.0))
    saver.close()
    assert [sidecar["label"] for sidecar, _ in clips_in(tmp_path)] == ["rain", "dog"]


def test_overload_is_clipped_and_does_not_wrap_around(info: StreamInfo, tmp_path: Path) -> None:
    saver = saver_of(tmp_path, info)
    saver.on_audio(np.full(RATE, 16.0, np.float32), 0)
    saver.on_event(driver.record(t_start_s=0.5))
    saver.close()
    ((_, samples),) = clips_in(tmp_path)
    assert samples.min() > 0.99


@given(label=st.text(max_size=80))
def test_no_label_leaves_the_folder_or_the_safe_characters(label: str) -> None:
    stem = clip_stem(WHEN, label)
    assert stem.startswith("20261120T140322.417Z_")
    assert set(slug(label)) <= set("abcdefghijklmnopqrstuvwxyz0123456789-")
    assert 1 <= len(slug(label)) <= 40


def test_slugs_can_be_read() -> None:
    assert slug("Dog bark") == "dog-bark"
    assert slug("../../etc/passwd") == "etc-passwd"
    assert slug("Hühnerhof (außen)") == "huhnerhof-auen"
    assert slug("犬") == "sound"


def test_clips_of_the_same_moment_do_not_overwrite_each_other(tmp_path: Path) -> None:
    folder = ClipFolder(tmp_path, max_bytes=100_000)
    names = [folder.save(clip_stem(WHEN, "a"), ".wav", bytes([i]), {}).name for i in range(3)]
    assert len(set(names)) == 3
    assert names[1] == "20261120T140322.417Z_a_2.wav"


def test_the_oldest_clips_make_room_and_foreign_files_stay(tmp_path: Path) -> None:
    folder = ClipFolder(tmp_path, max_bytes=10_000)
    strangers = ["notes.txt", "20261120T140322.417Z_a.mp3", "x20261120T140322.417Z_a.wav"]
    for name in strangers:
        (tmp_path / name).write_bytes(bytes(5_000))
    (tmp_path / "20260101T000000.000Z_link.wav").symlink_to(tmp_path / "notes.txt")
    for number in range(20):
        stem = clip_stem(f"2026-11-20T14:03:{number:02d}.000+00:00", "a")
        path = folder.save(stem, ".wav", bytes(2_000), {"number": number})
        for one in (path, path.with_suffix(".json")):
            os.utime(one, ns=(number * 10**9, number * 10**9))
        ours = [one for one in tmp_path.iterdir() if one.name.startswith("20261120T1403") and one.suffix != ".mp3"]
        assert sum(one.stat().st_size for one in ours) <= 10_000
    kept = sorted(json.loads(path.read_text())["number"] for path in tmp_path.glob("*.json"))
    assert kept == [16, 17, 18, 19]
    assert all(path.with_suffix(".wav").exists() for path in tmp_path.glob("*.json"))
    assert all((tmp_path / name).exists() for name in strangers)
    assert (tmp_path / "20260101T000000.000Z_link.wav").is_symlink()


def test_what_a_power_cut_left_half_written_is_removed(tmp_path: Path) -> None:
    half = tmp_path / ".20261120T140322.417Z_a.flac.k3j2.tmp"
    other = tmp_path / ".somebody-elses.tmp"
    for path in (half, other):
        path.write_bytes(b"x")
    ClipFolder(tmp_path, max_bytes=1)
    assert not half.exists()
    assert other.exists()


def test_the_folder_is_made_for_its_owner_only(tmp_path: Path) -> None:
    ClipFolder(tmp_path / "new", max_bytes=1)
    assert stat.S_IMODE((tmp_path / "new").stat().st_mode) == 0o700


def test_a_disk_error_costs_the_clip_and_not_the_stream(
    info: StreamInfo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    saver = saver_of(tmp_path / "clips", info)

    def full(path: Path, data: bytes) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("edgeaudio.outputs.clip_folder.atomic_write", full)
        saver.on_audio(numbered(RATE), 0)
        saver.on_event(driver.record(t_start_s=0.5))
        saver.on_event(driver.record("gap", None, score=None))
        driver.eventually(lambda: saver.counts.failed == 1)
    saver.on_audio(numbered(RATE), RATE)
    saver.on_event(driver.record(t_start_s=1.5))
    saver.close()
    assert (saver.counts.sent, saver.counts.failed) == (1, 1)
    assert "No space left on device" in caplog.text
    assert len(clips_in(tmp_path / "clips")) == 1


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"max_s": 0.2}, "--clips-pre-roll-s"),
        ({"max_bytes": 100_000}, "--clips-max-mb"),
        ({"format": "flaq"}, "Did you mean 'flac'"),
    ],
)
def test_options_that_exclude_each_other_are_refused(
    info: StreamInfo, tmp_path: Path, changes: dict[str, Any], named: str
) -> None:
    with pytest.raises(ConfigError, match=named):
        saver_of(tmp_path, info, **changes)


def test_a_folder_that_cannot_be_is_refused(info: StreamInfo, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="clips cannot be saved there"):
        saver_of(tmp_path / "file" / "clips", info)
