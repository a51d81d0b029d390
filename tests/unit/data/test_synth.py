"""The built-in dataset is the same everywhere, loads like any other, and cannot be learnt by its average spectrum."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from edgeaudio.audio.files import decode_file
from edgeaudio.data.datasets import load_dataset
from edgeaudio.data.synth import SYNTH_CLASSES, synth_clip, synth_unlabelled_clip, write_synth
from edgeaudio.data.synth_sounds import CLIP_SAMPLES, SAMPLE_RATE_HZ, SOUNDS
from edgeaudio.errors import ConfigError, DataError
from edgeaudio.frontend.tables import frontend_tables
from edgeaudio.spec import FrontendSpec

CLIPS_PER_CLASS = 24
# A linear model of average spectra reaches 0.44 with 60 clips per class; guessing gives 0.1.
TOO_EASY, TOO_HARD = 0.70, 0.20


def mean_log_mel(waveform: NDArray[np.float32]) -> NDArray[np.float32]:
    spec = FrontendSpec()
    tables = frontend_tables(spec)
    frames = np.lib.stride_tricks.sliding_window_view(waveform, spec.win_length)[:: spec.hop_length]
    power = np.abs(np.fft.rfft(frames * tables.window.astype(np.float32), spec.n_fft)) ** 2
    return np.log(power @ tables.mel.T.astype(np.float32) + spec.log_floor).mean(axis=0)


def ridge_accuracy(features: NDArray[np.float32], targets: NDArray[np.int64], folds: NDArray[np.int64]) -> float:
    """Best over the ridge parameter: generous to the simple model."""

    def accuracy(ridge: float) -> float:
        right = 0
        for fold in np.unique(folds):
            train, test = folds != fold, folds == fold
            scaled = (features - features[train].mean(0)) / features[train].std(0)
            x = np.c_[scaled, np.ones(len(scaled))]
            gram = x[train].T @ x[train] + ridge * np.eye(x.shape[1])
            weights = np.linalg.solve(gram, x[train].T @ np.eye(len(SYNTH_CLASSES))[targets[train]])
            right += int((np.argmax(x[test] @ weights, axis=1) == targets[test]).sum())
        return right / len(targets)

    return max(accuracy(ridge) for ridge in (1.0, 10.0, 100.0))


def test_average_spectrum_is_not_enough_to_tell_the_classes_apart() -> None:
    pairs = [(target, index) for target in range(len(SYNTH_CLASSES)) for index in range(CLIPS_PER_CLASS)]
    features = np.array([mean_log_mel(synth_clip(target, 0, index)) for target, index in pairs])
    targets, folds = np.array(pairs)[:, 0], np.array(pairs)[:, 1] % 4
    assert TOO_HARD < ridge_accuracy(features, targets, folds) < TOO_EASY


def test_clip_depends_on_seed_class_and_index_only() -> None:
    np.testing.assert_array_equal(synth_clip(3, 1, 2), synth_clip(3, 1, 2))
    others = [synth_clip(3, 1, 2), synth_clip(4, 1, 2), synth_clip(3, 2, 2), synth_clip(3, 1, 3)]
    assert len({other.tobytes() for other in others}) == 4
    np.testing.assert_array_equal(synth_unlabelled_clip(1, 2), synth_unlabelled_clip(1, 2))


@pytest.mark.parametrize("name", SYNTH_CLASSES)
def test_every_class_is_audible_finite_and_unclipped(name: str) -> None:
    for index in range(8):
        waveform = synth_clip(SYNTH_CLASSES.index(name), 5, index)
        assert (waveform.dtype, waveform.shape) == (np.float32, (CLIP_SAMPLES,))
        assert np.isfinite(waveform).all()
        assert 0.005 < np.abs(waveform).max() < 1
        assert np.sqrt(np.mean(waveform**2)) > 0.001


@pytest.mark.parametrize("name", SYNTH_CLASSES)
def test_every_second_of_a_sound_can_be_heard(name: str) -> None:
    for index in range(8):
        sound = SOUNDS[name](np.random.default_rng(index))
        loudest = [float(np.abs(second).max()) for second in sound.reshape(-1, SAMPLE_RATE_HZ)]
        assert min(loudest) > 0.1 * max(loudest)


def test_written_dataset_loads_with_labels_folds_and_licence(tmp_path: Path) -> None:
    steps: list[tuple[int, int]] = []
    write_synth(tmp_path, 3, seed=0, folds=3, unlabelled=2, progress=lambda done, total: steps.append((done, total)))
    assert steps == [(i, 32) for i in range(1, 33)]
    dataset = load_dataset("synth", tmp_path)
    assert (dataset.name, dataset.licence) == ("synth", "CC0-1.0")
    assert dataset.task.labels.names == SYNTH_CLASSES
    assert len(dataset.clips) == 30
    for fold in (1, 2, 3):
        assert sorted(clip.labels[0] for clip in dataset.clips if clip.fold == fold) == list(range(10))
    audio = decode_file(dataset.clips[0].path)
    assert (audio.sample_rate, len(audio.waveform)) == (SAMPLE_RATE_HZ, CLIP_SAMPLES)
    np.testing.assert_allclose(audio.waveform, synth_clip(0, 0, 0), atol=2**-15)
    assert len(load_dataset("unlabelled", tmp_path / "unlabelled").clips) == 2


def test_same_call_twice_gives_the_same_bytes_and_writes_once(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_synth(tmp_path / name, 2, seed=3, folds=2)
    a, b = load_dataset("synth", tmp_path / "a"), load_dataset("synth", tmp_path / "b")
    assert a.digest() == b.digest()
    steps: list[int] = []
    write_synth(tmp_path / "a", 2, seed=3, folds=2, progress=lambda done, total: steps.append(done))
    assert steps == []


def test_half_written_dataset_is_finished(tmp_path: Path) -> None:
    class Killed(Exception):
        pass

    def kill(done: int, total: int) -> None:
        if done == 7:
            raise Killed

    with pytest.raises(Killed):
        write_synth(tmp_path, 2, seed=0, folds=2, progress=kill)
    with pytest.raises(DataError):
        load_dataset("synth", tmp_path)
    write_synth(tmp_path, 2, seed=0, folds=2)
    assert len(load_dataset("synth", tmp_path).clips) == 20


def test_other_content_is_never_overwritten(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/thesis.txt").write_text("years of work")
    with pytest.raises(DataError, match="not empty"):
        write_synth(tmp_path / "mine", 2, seed=0, folds=2)
    write_synth(tmp_path / "synth", 2, seed=0, folds=2)
    with pytest.raises(DataError, match="made otherwise"):
        write_synth(tmp_path / "synth", 2, seed=1, folds=2)


@pytest.mark.parametrize(
    ("clips", "folds", "unlabelled", "seed"), [(0, 2, 0, 0), (5, 6, 0, 0), (5, 1, 0, 0), (5, 5, -1, 0), (5, 5, 0, -1)]
)
def test_absurd_counts_are_refused(tmp_path: Path, clips: int, folds: int, unlabelled: int, seed: int) -> None:
    with pytest.raises(ConfigError, match="wanted"):
        write_synth(tmp_path, clips, seed=seed, folds=folds, unlabelled=unlabelled)
