"""`inspect_dataset` names what is wrong with a dataset and counts what is in it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf

from edgeaudio.data.datasets import inspect_dataset, load_dataset


@pytest.fixture
def report(tmp_path: Path) -> dict[str, object]:
    rng = np.random.default_rng(0)
    noise = rng.uniform(-0.5, 0.5, 16_000)
    sf.write(tmp_path / "good.wav", noise, 16_000)
    sf.write(tmp_path / "copy.wav", noise, 16_000)
    sf.write(tmp_path / "other.flac", rng.uniform(-0.5, 0.5, (88_200, 2)), 44_100)
    sf.write(tmp_path / "silent.wav", noise * 1e-4, 16_000)
    (tmp_path / "broken.wav").write_bytes(b"no")
    (tmp_path / "clips.csv").write_text(
        "file,label,fold\ngood.wav,dog,1\ncopy.wav,cat,2\nother.flac,dog,2\nsilent.wav,cat,1\nbroken.wav,cat,1\n"
    )
    return inspect_dataset(load_dataset("csv", tmp_path, csv_path=tmp_path / "clips.csv"))


def test_counts_per_class_and_fold(report: dict[str, object]) -> None:
    assert report["clips"] == 5
    assert report["clips_per_class"] == {"cat": 3, "dog": 2}
    assert report["clips_per_fold"] == {"1": {"cat": 2, "dog": 1}, "2": {"cat": 1, "dog": 1}}


def test_durations_rates_channels_and_formats(report: dict[str, object]) -> None:
    assert report["duration_s"] == {"total": 5.0, "min": 1.0, "median": 1.0, "max": 2.0}
    assert report["sample_rates"] == {"16000": 3, "44100": 1}
    assert report["channels"] == {"1": 3, "2": 1}
    assert report["formats"] == {"FLAC/PCM_16": 1, "WAV/PCM_16": 3}


def test_broken_silent_and_leaking_clips_are_named(report: dict[str, object]) -> None:
    (skipped,) = report["skipped"]  # type: ignore[misc]
    assert (skipped["clip"], skipped["reason"]) == ("broken.wav", "undecodable")
    assert report["near_silent"] == ["silent.wav"]
    assert report["duplicates"] == [{"clips": ["copy.wav", "good.wav"], "labels_differ": True, "leaks": True}]


def test_report_is_json(report: dict[str, object]) -> None:
    assert json.loads(json.dumps(report)) == report
