"""The same clips must be the same classes on a device as on the host, or nothing is timed."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf

from edgeaudio.bench.accuracy import MARGIN, AccuracyClips, Answers
from edgeaudio.bench.harness import Progress, bench_bundle
from edgeaudio.bench.schema import BenchOptions
from edgeaudio.bench.subjects import bundle_subjects
from edgeaudio.errors import AudioFileError, ConfigError, DataError, LimitError
from edgeaudio.runtime.classifier import Classifier
from tests import tiny_bundle as tiny
from tests.tiny_chained import NAMES, chained_bundle

QUICK = BenchOptions(min_hops=20, min_seconds=0, warmup_hops=2, rounds=2)


def write_esc(root: Path, per_class: int = 4) -> None:
    (root / "meta").mkdir(parents=True)
    (root / "audio").mkdir()
    rows = ["filename,fold,target,category,esc10,src_file,take"]
    for number in range(per_class):
        for target, label in enumerate(tiny.LABELS):
            name = f"1-{number}-A-{target}.wav"
            sf.write(root / "audio" / name, tiny.noise_band(label, 8_000, seed=number), 16_000)
            rows.append(f"{name},1,{target},{label},True,{number},A")
    (root / "meta" / "esc50.csv").write_text("\n".join(rows) + "\n")


@pytest.fixture
def clips(tmp_path: Path) -> AccuracyClips:
    write_esc(tmp_path / "esc")
    return AccuracyClips.from_dataset(tmp_path / "esc", 7, 3)


def test_a_subset_is_balanced_and_the_same_each_time(tmp_path: Path, clips: AccuracyClips) -> None:
    assert len(clips.labels) == len(clips.waveforms) == 7
    assert sorted(clips.labels.count(label) for label in tiny.LABELS) == [2, 2, 3]
    again = AccuracyClips.from_dataset(tmp_path / "esc", 7, 3)
    assert again.sha256 == clips.sha256
    assert AccuracyClips.from_dataset(tmp_path / "esc", 7, 4).sha256 != clips.sha256
    assert len(AccuracyClips.from_dataset(tmp_path / "esc", 100, 3).labels) == 12
    with pytest.raises(ConfigError, match="0 clips for accuracy: wanted at least 1"):
        AccuracyClips.from_dataset(tmp_path / "esc", 0, 3)


def test_a_folder_for_each_class_and_another_rate(tmp_path: Path) -> None:
    for label in ("low", "high"):
        (tmp_path / label / "deeper").mkdir(parents=True)
        sf.write(tmp_path / label / "deeper" / "a.flac", tiny.noise_band(label, 24_000), 48_000)
        (tmp_path / label / "notes.txt").write_text("no audio")
    clips = AccuracyClips.from_dataset(tmp_path, 5, 0, sample_rate=16_000)
    assert sorted(clips.labels) == ["high", "low"]
    assert {len(waveform) for waveform in clips.waveforms} == {8_000}


def test_folders_without_labelled_audio_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no labelled audio; wanted meta/esc50\.csv"):
        AccuracyClips.from_dataset(tmp_path / "nowhere", 5, 0)
    (tmp_path / "meta").mkdir()
    table = tmp_path / "meta" / "esc50.csv"
    table.write_text("name,label\nx.wav,low\n")
    with pytest.raises(DataError, match="wanted a CSV with the columns filename and category"):
        AccuracyClips.from_dataset(tmp_path, 5, 0)
    (tmp_path / "secret.wav").write_bytes(b"")
    for name in ("../secret.wav", "missing.wav", ""):
        table.write_text(f"filename,category\n{name},low\n")
        with pytest.raises(DataError, match="there is no file"):
            AccuracyClips.from_dataset(tmp_path, 5, 0)
    (tmp_path / "audio").mkdir()
    (tmp_path / "audio" / "x.wav").write_bytes(b"RIFF")
    table.write_text("filename,category\nx.wav,low\n")
    with pytest.raises(AudioFileError):
        AccuracyClips.from_dataset(tmp_path, 5, 0)


def test_the_file_brings_back_clips_and_answers(tmp_path: Path, clips: AccuracyClips) -> None:
    answered = clips.answered(bundle_subjects(chained_bundle()))
    assert set(answered.answers) == set(NAMES)
    assert answered.sha256 == clips.sha256
    path = tmp_path / "clips.npz"
    answered.write(path)
    back = AccuracyClips.read(path)
    assert (back.sha256, back.source, back.labels) == (clips.sha256, "esc", clips.labels)
    for name, answer in answered.answers.items():
        assert np.array_equal(back.answers[name].classes, answer.classes)
        assert np.array_equal(back.answers[name].margins, answer.margins)
    clips.write(path)
    assert AccuracyClips.read(path).answers == {}


def test_a_damaged_file_is_refused(tmp_path: Path, clips: AccuracyClips, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "clips.npz"
    with pytest.raises(ConfigError, match=r"clips\.npz: not a file of clips"):
        AccuracyClips.read(path)
    clips.write(path)
    good = path.read_bytes()
    for data in (b"", good[:100], good[:-40], b"x" * 500, good.replace(b"lengths", b"langths")):
        path.write_bytes(data)
        with pytest.raises(ConfigError, match=r"clips\.npz: not a file of clips"):
            AccuracyClips.read(path)
    replace(clips, labels=clips.labels[:-1]).write(path)
    with pytest.raises(ConfigError, match="counts differ"):
        AccuracyClips.read(path)
    monkeypatch.setattr("edgeaudio.bench.accuracy.CLIPS_FILE_BYTES", 10)
    with pytest.raises(LimitError):
        AccuracyClips.read(path)


def test_an_array_of_objects_is_never_unpickled(tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> tuple[object, ...]:
            return (open, (str(tmp_path / "sprung"), "w"))

    path = tmp_path / "clips.npz"
    np.savez(path, samples=np.array([Trap()], dtype=object))
    with pytest.raises(ConfigError, match=r"clips\.npz: not a file of clips"):
        AccuracyClips.read(path)
    assert not (tmp_path / "sprung").exists()


def test_answers_like_the_hosts_pass_and_are_counted(clips: AccuracyClips) -> None:
    bundle = chained_bundle()
    told: list[Progress] = []
    answered = clips.answered(bundle_subjects(bundle))
    result = bench_bundle(bundle, options=QUICK, clips=answered, on_progress=told.append)
    assert [one.artefact for one in told if one.stage == "check"][2:] == list(NAMES)
    for item in result.artefacts:
        assert item.accuracy is not None
        assert (item.accuracy.passed, item.accuracy.n_clips, item.accuracy.n_same) == (True, 7, 7)
        assert item.accuracy.n_correct == item.accuracy.n_correct_on_host
        assert item.accuracy.clips_sha256 == clips.sha256
        assert item.n_hops > 0
    assert result.artefacts[0].accuracy is not None
    assert result.artefacts[0].accuracy.n_correct == 7


@pytest.mark.parametrize("margin", [0.0, 0.009, 0.011, 0.9])
def test_another_class_is_allowed_only_where_it_was_close(margin: float, clips: AccuracyClips) -> None:
    bundle = chained_bundle()
    subjects = bundle_subjects(bundle)[:2]
    answered = clips.answered(subjects)
    host = answered.answers[NAMES[0]]
    classes, margins = host.classes.copy(), host.margins.copy()
    classes[2], margins[2] = (classes[2] + 1) % 3, margin
    planted = replace(answered, answers={**answered.answers, NAMES[0]: Answers(classes, margins)})
    first, second = bench_bundle(bundle, NAMES[:2], options=QUICK, clips=planted).artefacts
    assert first.accuracy is not None
    assert second.accuracy is not None
    assert second.accuracy.passed
    assert first.accuracy.passed == (margin < MARGIN["fp32"])
    assert first.accuracy.n_same == 6
    assert (first.n_hops > 0) == first.accuracy.passed
    assert second.n_hops > 0
    assert "1 of 7 clips of esc got another class than on the host" in first.accuracy.detail


def test_without_the_hosts_answers_nothing_passes(clips: AccuracyClips) -> None:
    (item,) = bench_bundle(chained_bundle(), NAMES[:1], options=QUICK, clips=clips).artefacts
    assert item.accuracy is not None
    assert not item.accuracy.passed
    assert "the host could not run onnx-fp32" in item.accuracy.detail


def test_labels_that_the_bundle_has_not_are_named(clips: AccuracyClips) -> None:
    odd = replace(clips, labels=("dog", *clips.labels[1:]))
    with pytest.raises(ConfigError, match=r"the bundle has no label \['dog'\]"):
        odd.answered(bundle_subjects(chained_bundle()))
    with pytest.raises(ConfigError, match=r"the bundle has no label \['dog'\]"):
        odd.check(bundle_subjects(chained_bundle())[0], Classifier(chained_bundle()))


def test_what_the_host_cannot_run_is_answered_by_its_reference_or_left_out(
    clips: AccuracyClips, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    bundle = tiny.tiny_bundle("onnx-fp32", "tflite-fp32", "tensorrt-int8")
    monkeypatch.setitem(sys.modules, "ai_edge_litert.interpreter", None)
    monkeypatch.setitem(sys.modules, "tflite_runtime", None)
    answered = clips.answered(bundle_subjects(bundle))
    assert set(answered.answers) == {"onnx-fp32", "tensorrt-int8"}
    assert "tflite-fp32 has no answers to compare with" in caplog.text
