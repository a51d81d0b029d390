"""Two tiny students joined: what is carried over, how both engines run it, thresholds on data, and refusals."""

from __future__ import annotations

import json
import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile as sf

from edgeaudio.bundle import Bundle, Golden, PrivateKey, bundle_bytes, golden_entry
from edgeaudio.bundle.manifest import Metric, Source
from edgeaudio.bundle.signing import signed_bytes
from edgeaudio.data.datasets import Dataset, load_dataset
from edgeaudio.errors import ConfigError, DataError
from edgeaudio.pipeline.cascading import calibrated, join_students, warn_of_training, with_threshold
from edgeaudio.runtime import Cascade, Classifier, check_bundle
from edgeaudio.runtime.confidence import confidence, softmax
from tests import tiny_bundle as tiny
from tests import tiny_cascade, tiny_exits, tiny_stateful

FORMS = [("onnx", "fp32"), ("onnx", "int8"), ("litert", "fp32"), ("litert", "int8")]
STEPS = 2 * tiny.OUTPUT_SCALE


@pytest.fixture(scope="module")
def both() -> Bundle:
    return tiny_cascade.cascade_bundle()


@pytest.fixture
def sounds(tmp_path: Path) -> Dataset:
    for label in tiny.LABELS:
        (tmp_path / label).mkdir()
        for seed in range(3):
            # So much noise of all bands that the first student takes "mid" for "high".
            noise = 0.02 * np.random.default_rng(seed).standard_normal(8_000)
            sf.write(tmp_path / label / f"{seed}.wav", 0.1 * (tiny.noise_band(label, 8_000, seed=seed) + noise), 16_000)
    return load_dataset("folder", tmp_path)


def first() -> Bundle:
    return Bundle.read(tiny_cascade.first_bytes())


def scene_windows() -> list[tiny.Float32]:
    from edgeaudio.runtime.windows import WindowStream

    return [window.log_mel for window in WindowStream(tiny.FRONTEND, tiny.WINDOW).feed(tiny.scene())]


@pytest.mark.parametrize(("engine", "precision"), FORMS)
def test_the_second_student_hears_the_window_where_the_first_is_not_sure(
    both: Bundle, engine: str, precision: str
) -> None:
    cascade = Cascade.of_bundle(both, engine=engine, precision=precision)
    taken = set()
    for log_mel in scene_windows():
        every = cascade.run_all(log_mel)
        assert every[0] == pytest.approx(tiny_exits.exit_linear(log_mel), abs=STEPS)
        assert every[1] == pytest.approx(tiny.linear(log_mel), abs=STEPS)
        answer = cascade.run(log_mel)
        sure = confidence(softmax(every[0]), "single_label") >= tiny_cascade.THRESHOLD
        assert answer.exit == (0 if sure else 1)
        assert np.array_equal(answer.logits, every[answer.exit])
        taken.add(answer.exit)
    assert taken == {0, 1}, "the test must see both"


def test_a_sure_window_never_reaches_the_second_student(both: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    cascade = Cascade.of_bundle(both, engine="onnx", precision="fp32", thresholds=[0.0])

    def refuse(values: object) -> None:
        raise AssertionError("the second student ran")

    monkeypatch.setattr(cascade.engines[1], "run_stage", refuse)
    assert cascade.run(both.golden.log_mel[0]).exit == 0


def test_all_that_is_not_the_cascade_is_the_second_bundle(both: Bundle) -> None:
    then, manifest = tiny.tiny_bundle().manifest, both.manifest
    kept = ("frontend", "window", "task", "decision", "artefacts", "cost", "stateful")
    assert {name: getattr(manifest, name) for name in kept} == {name: getattr(then, name) for name in kept}
    assert manifest.name == "first-then-tiny"
    cascade = manifest.lineage.cascade
    assert cascade is not None
    assert manifest.lineage.model_copy(update={"cascade": None}) == then.lineage
    assert (cascade.first.lineage, cascade.first.cost) == (first().manifest.lineage, first().manifest.cost)
    assert (cascade.first.sha256, cascade.then_sha256) == (first().sha256, tiny.tiny_bundle().sha256)
    # Without --exits it answers as the second alone.
    answers = [Classifier(bundle)(tiny.scene(), 16_000).window_probs for bundle in (both, tiny.tiny_bundle())]
    assert np.array_equal(*answers)


def test_the_self_check_replays_both_students(both: Bundle) -> None:
    report = check_bundle(both)
    assert report.complete, [str(item) for item in report.failed]
    names = {item.subject for item in report.items if "stage" in item.subject}
    assert len(names) == 8


def test_golden_windows_that_differ_are_answered_anew() -> None:
    then = tiny.tiny_bundle()
    golden = Golden(then.golden.waveform[::-1], then.golden.log_mel[::-1], {
        name: values[::-1] for name, values in then.golden.logits.items()
    })  # fmt: skip
    manifest = then.manifest.model_copy(update={"golden": golden_entry(golden)})
    files = {artefact.path: then.payload(artefact) for artefact in manifest.artefacts}
    other = Bundle.read(bundle_bytes(manifest, files, golden))
    report = check_bundle(Bundle.read(join_students(first(), other)))
    assert report.complete, [str(item) for item in report.failed]


def test_equal_bundles_give_equal_bytes(both: Bundle) -> None:
    again = with_threshold(Bundle.read(join_students(first(), tiny.tiny_bundle())), tiny_cascade.THRESHOLD)
    assert again == tiny_cascade.cascade_bytes()
    assert with_threshold(both, tiny_cascade.THRESHOLD) == again


def test_only_what_both_have_is_chained() -> None:
    joined = Bundle.read(join_students(first(), tiny.tiny_bundle("onnx-fp32", "tflite-int8")))
    assert joined.manifest.exits is not None
    assert [chain.name for chain in joined.manifest.exits.chains] == ["onnx-fp32", "tflite-int8"]
    lone = Bundle.read(tiny_cascade.biased(tiny.tiny_bundle("onnx-int8")))
    with pytest.raises(ConfigError, match=r"\['onnx-int8'\] and .*\['onnx-fp32'\]: no format and precision in common"):
        join_students(lone, tiny.tiny_bundle("onnx-fp32"))


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"window": {"frames": 9, "hop_frames": 2}}, "window.hop_frames is 4 in 'first' and 2 in 'tiny'"),
        ({"task": {"kind": "multi_label", "labels": {"names": tiny.LABELS}}}, "task.kind is 'single_label' in 'first'"),
        ({"task": {"labels": {"names": ("mid", "low", "high")}}}, "task.labels is"),
        ({"frontend": tiny.FRONTEND.model_copy(update={"f_min": 50.0}).model_dump()}, "frontend.f_min is"),
    ],
)
def test_students_that_differ_are_refused_with_the_field(fields: dict[str, Any], told: str) -> None:
    then = tiny.tiny_bundle()
    other = Bundle(then.manifest.model_copy(update={
        name: type(getattr(then.manifest, name)).parse(value, source="x") for name, value in fields.items()
    }), then.entries, then.golden, "other.eab", b"")  # fmt: skip
    with pytest.raises(ConfigError, match=told):
        join_students(first(), other)


def test_early_exits_and_signatures_are_left_out_and_it_is_said(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "edgeaudio")
    signed = Bundle.read(signed_bytes(tiny_exits.exits_bundle(), PrivateKey.generate()))
    joined = Bundle.read(join_students(first(), signed))
    assert joined.signature is None
    assert joined.manifest.exits is not None
    assert joined.manifest.exits.after == (None,)
    assert check_bundle(joined).complete
    assert "signatures are not carried over" in caplog.text
    assert "has early exits of its own; they are left out" in caplog.text


def test_thresholds_are_within_reason(both: Bundle) -> None:
    for threshold in (-0.1, 1.1, float("nan")):
        with pytest.raises(ConfigError, match="wanted a confidence from 0 to 1"):
            with_threshold(both, threshold)
    with pytest.raises(ConfigError, match="has no early exits; join two students"):
        with_threshold(tiny.tiny_bundle(), 0.5)


def test_data_chooses_the_cheapest_threshold_within_the_loss(both: Bundle, sounds: Dataset) -> None:
    found = Bundle.read(calibrated(both, sounds, [], 0.0)).manifest
    assert found.exits is not None
    for chain in found.exits.chains:
        calibration = chain.calibration
        assert calibration is not None
        assert (calibration.n_clips, calibration.full_accuracy, calibration.accuracy) == (9, 1, 1)
        assert 172 < calibration.mean_macs < 1900
        assert chain.thresholds == calibration.thresholds
    loose = Bundle.read(calibrated(both, sounds, [], 0.9)).manifest.exits
    assert loose is not None
    assert {chain.calibration and chain.calibration.share for chain in loose.chains} == {(1.0, 0.0)}
    cascade = found.lineage.cascade
    assert cascade is not None
    assert cascade.thresholds_on == Source(name=sounds.name, licence=sounds.licence, sha256=sounds.digest())
    # A threshold by hand forgets on what the last one was chosen.
    by_hand = Bundle.read(with_threshold(Bundle.read(calibrated(both, sounds, [], 0.0)), 0.5)).manifest
    assert by_hand.lineage.cascade is not None
    assert by_hand.lineage.cascade.thresholds_on is None
    assert by_hand.exits is not None
    assert by_hand.exits.chains[0].calibration is None


def test_only_the_named_folds_have_a_say(both: Bundle, sounds: Dataset) -> None:
    folded = replace(sounds, clips=tuple(replace(clip, fold=1 + n % 3) for n, clip in enumerate(sounds.clips)))
    manifest = Bundle.read(calibrated(both, folded, [2, 1, 2], 0.0)).manifest
    assert manifest.exits is not None
    assert manifest.exits.chains[0].calibration is not None
    assert manifest.exits.chains[0].calibration.n_clips == 6
    assert manifest.lineage.cascade is not None
    assert manifest.lineage.cascade.thresholds_folds == (1, 2)
    with pytest.raises(DataError, match="no clip in fold 9"):
        calibrated(both, folded, [9], 0.0)


def test_clips_that_a_student_was_trained_on_are_warned_of(sounds: Dataset, caplog: pytest.LogCaptureFixture) -> None:
    folded = replace(sounds, clips=tuple(replace(clip, fold=1 + n % 3) for n, clip in enumerate(sounds.clips)))
    plain = tiny.tiny_bundle()
    warn_of_training(plain, folded, [])
    assert not caplog.records
    source = Source(name="sounds", licence="CC0-1.0", sha256=folded.digest())
    metric = Metric(name="clip_accuracy", value=1, n_clips=3, split="sounds test fold 2", seed=0)
    trained = tiny_cascade.changed(
        plain,
        lineage=plain.manifest.lineage.model_copy(update={"datasets": (source,)}).model_dump(),
        artefacts=[artefact.model_dump() | {"metrics": [metric.model_dump()]} for artefact in plain.manifest.artefacts],
    )
    warn_of_training(trained, folded, [2])
    assert not caplog.records
    warn_of_training(trained, folded, [2, 3])
    assert f"was trained on clips of folds [3] of '{folded.name}'" in caplog.text
    caplog.clear()
    warn_of_training(trained, folded, [])
    assert "folds [1, 3]" in caplog.text


@pytest.mark.parametrize(("engine", "precision"), FORMS)
def test_stateful_forms_of_equal_steps_are_chained(engine: str, precision: str) -> None:
    both = Bundle.read(tiny_cascade.stateful_cascade_bytes())
    assert both.manifest.stateful is not None
    assert both.manifest.stateful.macs_per_stage == (172, tiny_stateful.MACS_PER_STEP)
    whole = Classifier(both, engine=engine, precision=precision, exits=True)(tiny.scene(), 16_000)
    stepped = Classifier(both, engine=engine, precision=precision, exits=True, stateful=True)(tiny.scene(), 16_000)
    assert whole.window_exits is not None
    assert set(whole.window_exits) == {0, 1}
    assert stepped.window_exits is not None
    assert stepped.window_probs == pytest.approx(whole.window_probs, abs=0.1 if precision == "int8" else 1e-5)
    assert np.mean(stepped.window_exits == whole.window_exits) > 0.9


def test_the_self_check_streams_a_stateful_cascade() -> None:
    report = check_bundle(Bundle.read(tiny_cascade.stateful_cascade_bytes()))
    assert report.complete, [str(item) for item in report.failed]
    assert sum("stage1-stateful, streamed against windows" in item.subject for item in report.items) == 4


def test_steps_that_differ_are_not_chained_and_it_is_said(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "edgeaudio")
    then = tiny_stateful.stateful_bundle()
    for other, told in ((first(), "has no stateful form"), (tiny_stateful.stateful_bundle(2), "has steps of 2 frames")):
        joined = Bundle.read(join_students(other, then))
        assert joined.manifest.stateful == then.manifest.stateful
        assert told in caplog.text
        assert check_bundle(joined).complete
        Classifier(joined, stateful=True)
        with pytest.raises(ConfigError, match=r"no stateful stages as onnx-fp32; .*join two with equal steps"):
            Classifier(joined, exits=True, stateful=True)


def test_lineage_survives_as_json(both: Bundle) -> None:
    lineage = json.loads(both.entries["manifest.json"])["lineage"]
    assert lineage["cascade"]["first"]["lineage"]["seed"] == 7
    assert "cascade" not in lineage["cascade"]["first"]["lineage"]
