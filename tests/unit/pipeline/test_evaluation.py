from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile as sf
from hypothesis import given
from hypothesis import strategies as st

from edgeaudio.data.clips import Clip, Dataset
from edgeaudio.errors import ConfigError, DataError
from edgeaudio.pipeline.evaluation import average_precision, evaluate_bundle
from edgeaudio.runtime.classifier import Classifier
from edgeaudio.spec import LabelSet, TaskSpec
from tests import tiny_bundle as tiny


@pytest.fixture
def classifier() -> Classifier:
    return Classifier(tiny.tiny_bundle("onnx-fp32"))


def dataset(root: Path, labels: tuple[str, ...] = ("high", "low")) -> Dataset:
    """Two clips per label in two folds; the labels in another order than the bundle's."""
    clips = []
    for i, label in enumerate(("high", "low")):
        for fold in (1, 2):
            path = root / f"{label}{fold}.wav"
            sf.write(path, tiny.noise_band(label, 8_000, seed=fold), 16_000)
            clips.append(Clip(path.stem, path, (i,), fold))
    return Dataset("bands", TaskSpec(labels=LabelSet(names=labels)), tuple(clips), "CC0-1.0", root)


def test_labels_are_matched_by_name_not_by_position(classifier: Classifier, tmp_path: Path) -> None:
    result = evaluate_bundle(classifier, dataset(tmp_path))
    assert (result.n_correct, result.n_clips, result.accuracy) == (4, 4, 1.0)
    assert result.by_label == {"low": 1.0, "high": 1.0}


def test_one_fold_is_only_that_fold(classifier: Classifier, tmp_path: Path) -> None:
    assert evaluate_bundle(classifier, dataset(tmp_path), fold=2).n_clips == 2
    with pytest.raises(DataError, match=r"no clip in fold 3; it has the folds \(1, 2\)"):
        evaluate_bundle(classifier, dataset(tmp_path), fold=3)


def test_another_kind_of_task_or_label_is_refused(classifier: Classifier, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="Did you mean 'high'"):
        evaluate_bundle(classifier, dataset(tmp_path, labels=("higher", "low")))
    multi = Dataset(
        "multi",
        TaskSpec(kind="multi_label", labels=LabelSet(names=("low",))),
        dataset(tmp_path).clips[2:],
        "",
        tmp_path,
    )
    with pytest.raises(ConfigError, match="is multi_label, the bundle answers single_label"):
        evaluate_bundle(classifier, multi)


def test_a_dataset_without_one_usable_clip_is_refused(classifier: Classifier, tmp_path: Path) -> None:
    data = dataset(tmp_path)
    for clip in data.clips:
        clip.path.write_bytes(b"RIFF")
    with pytest.raises(DataError, match="none of 4 clips can be decoded"):
        evaluate_bundle(classifier, data)


def test_average_precision_of_known_orders() -> None:
    targets = np.array([True, False, True, False])
    assert average_precision(np.array([0.9, 0.1, 0.8, 0.2]), targets) == 1.0
    assert average_precision(np.array([0.9, 0.8, 0.7, 0.1]), targets) == pytest.approx((1 + 2 / 3) / 2)
    # All equal: one step, precision is the share of positives.
    assert average_precision(np.zeros(4), targets) == 0.5


@given(
    st.lists(st.tuples(st.integers(0, 5), st.booleans()), min_size=1, max_size=30).filter(
        lambda p: any(t for _, t in p)
    )
)
def test_average_precision_does_not_depend_on_the_order_of_clips(pairs: list[tuple[int, bool]]) -> None:
    scores, targets = np.array([s for s, _ in pairs], float), np.array([t for _, t in pairs])
    forward = average_precision(scores, targets)
    assert forward == pytest.approx(average_precision(scores[::-1], targets[::-1]))
    assert 0 < forward <= 1
