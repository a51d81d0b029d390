"""Tags are what the teacher says of the right audio, in order, with bounded memory."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
import torch

from edgeaudio.errors import ConfigError, DataError, ShapeError
from edgeaudio.spec import FrontendSpec, LabelSet, TaskSpec
from edgeaudio.teachers.adapt import fit_head
from edgeaudio.teachers.mn04 import WEIGHTS_FILE, MN04Teacher
from edgeaudio.teachers.tagging import Tag, tag


class MeanLevelTeacher:
    """Logits are (mean, -mean, window seconds): answers that can be worked out by hand."""

    name, licence, embedding_dim, digest = "mean-level", "none", 1, "00"
    frontend = FrontendSpec(sample_rate=8_000, f_max=4_000.0)
    labels = LabelSet(names=("positive", "negative", "length"))

    def __init__(self) -> None:
        self.batches: list[tuple[int, ...]] = []

    def embed(self, waveform: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        self.batches.append(tuple(waveform.shape))
        mean = waveform.mean(dim=1)
        return mean[:, None], torch.stack([mean, -mean, torch.full_like(mean, waveform.shape[1] / 8_000)], dim=1)


def sigmoid(x: float) -> float:
    return 1 / (1 + np.exp(-x))


def test_tags_come_strongest_first_with_their_probabilities() -> None:
    tags = tag(MeanLevelTeacher(), np.full(800, -0.5, np.float32), 8_000, top_k=2)
    assert [t.label for t in tags] == ["length", "negative"] or [t.label for t in tags] == ["negative", "length"]
    assert tags == sorted(tags, key=lambda t: -t.prob)
    assert {t.label: pytest.approx(t.prob) for t in tags} == {"length": sigmoid(0.1), "negative": sigmoid(0.5)}
    assert tags[0] == Tag("negative", None, tags[0].prob)


def test_windows_are_averaged_and_a_short_rest_is_dropped() -> None:
    teacher = MeanLevelTeacher()
    waveform = np.concatenate([np.full(8_000, level, np.float32) for level in (0.0, 1.0)] + [np.ones(3_000, "f4")])
    tags = {t.label: t.prob for t in tag(teacher, waveform, 8_000, top_k=3, window_s=1.0)}
    assert teacher.batches == [(2, 8_000)]
    assert tags["positive"] == pytest.approx((sigmoid(0) + sigmoid(1)) / 2)


def test_a_rest_of_half_a_window_is_heard() -> None:
    teacher = MeanLevelTeacher()
    tag(teacher, np.zeros(12_000, np.float32), 8_000, window_s=1.0, top_k=1)
    assert teacher.batches == [(1, 8_000), (1, 4_000)]


def test_audio_is_resampled_to_the_teachers_rate() -> None:
    teacher = MeanLevelTeacher()
    tag(teacher, np.zeros(44_100, np.float32), 44_100, top_k=1)
    assert teacher.batches == [(1, 8_000)]


def test_a_long_recording_is_heard_in_small_batches() -> None:
    teacher = MeanLevelTeacher()
    tag(teacher, np.zeros(8_000 * 125, np.float32), 8_000, top_k=1)
    assert teacher.batches == [(8, 80_000), (4, 80_000), (1, 40_000)]


@pytest.mark.parametrize(
    ("waveform", "options", "error"),
    [
        (np.zeros((2, 100), "f4"), {}, ShapeError),
        (np.zeros(0, "f4"), {}, DataError),
        (np.array([0, np.nan], "f4"), {}, DataError),
        (np.zeros(100, "f4"), {"top_k": 0}, ConfigError),
        (np.zeros(100, "f4"), {"top_k": 4}, ConfigError),
        (np.zeros(100, "f4"), {"window_s": 0.0}, ConfigError),
        (np.zeros(100, "f4"), {"window_s": float("nan")}, ConfigError),
    ],
)
def test_unusable_input_is_refused(waveform: np.ndarray, options: dict[str, float], error: type[Exception]) -> None:
    with pytest.raises(error):
        tag(MeanLevelTeacher(), waveform, 8_000, **({"top_k": 1} | options))  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def mn04(shared_dir: Path) -> MN04Teacher:
    return MN04Teacher.load(shared_dir / "data" / "weights" / WEIGHTS_FILE)


@pytest.mark.assets
def test_mn04_hears_a_dog(mn04: MN04Teacher, shared_dir: Path) -> None:
    import soundfile

    clip, sample_rate = soundfile.read(shared_dir / "data/esc10/audio/1-100032-A-0.ogg", dtype="float32")
    tags = tag(mn04, clip[: 5 * sample_rate], sample_rate, top_k=5)
    assert [t.label for t in tags] == ["Animal", "Bark", "Dog", "Domestic animals, pets", "Bow-wow"]
    assert [round(t.prob, 2) for t in tags] == pytest.approx([0.70, 0.69, 0.64, 0.55, 0.27], abs=0.011)
    assert tags[2].mid == "/m/0bt9lr"


@pytest.mark.assets
@pytest.mark.slow
def test_a_linear_head_on_mn04_reaches_98_percent_on_esc10(mn04: MN04Teacher, shared_dir: Path) -> None:
    import soundfile

    from edgeaudio.audio.resample import resample

    with (shared_dir / "data/esc10/meta/esc50.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    names = sorted({row["category"] for row in rows})
    task = TaskSpec(labels=LabelSet(names=tuple(names)))
    embeddings = []
    for row in rows:
        clip, sample_rate = soundfile.read(shared_dir / "data/esc10/audio" / row["filename"], dtype="float32")
        waveform = resample(clip[: 5 * sample_rate], sample_rate, mn04.frontend.sample_rate)
        embeddings.append(mn04.embed(torch.from_numpy(waveform)[None])[0])
    x = torch.cat(embeddings)
    y = torch.tensor([names.index(row["category"]) for row in rows])
    fold = torch.tensor([int(row["fold"]) for row in rows])
    right = sum(
        int((fit_head(x[fold != k], y[fold != k], task)(x[fold == k]).argmax(1) == y[fold == k]).sum())
        for k in range(1, 6)
    )
    assert right >= 392  # 395 measured; folds move in steps of one clip between machines
