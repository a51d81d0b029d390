"""Early exits in the runtime: both engines and precisions, thresholds at their ends, streams, and refusals."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from edgeaudio.bundle import Bundle, Golden
from edgeaudio.catalog import resolve
from edgeaudio.errors import ConfigError, ShapeError
from edgeaudio.runtime import Cascade, Classifier, StreamClassifier, check_bundle
from edgeaudio.runtime.confidence import confidence, sigmoid, softmax
from tests import tiny_bundle as tiny
from tests import tiny_exits

RATE = tiny.FRONTEND.sample_rate
FORMS = [("onnx", "fp32"), ("onnx", "int8"), ("litert", "fp32"), ("litert", "int8")]
every_form = pytest.mark.parametrize(("engine", "precision"), FORMS)
# The int8 forms answer in steps; one may tip over.
STEPS = 2 * tiny.OUTPUT_SCALE


@pytest.fixture(scope="module")
def bundle() -> Bundle:
    return tiny_exits.exits_bundle()


@every_form
@pytest.mark.parametrize("never", [1.5, None])
def test_an_exit_that_is_never_taken_gives_the_whole_answer(
    bundle: Bundle, engine: str, precision: str, never: float | None
) -> None:
    cascade = Cascade.of_bundle(bundle, engine=engine, precision=precision, thresholds=[never])
    engine_class = resolve("engines", engine)
    whole = bundle.manifest.artefact(engine_class.format, precision)
    runner = engine_class(whole, bundle.payload(whole))
    # Made by hand, the int8 stages in ONNX sum in float in another order than the whole.
    allowed = STEPS if (engine, precision) == ("onnx", "int8") else 0
    for log_mel in _windows():
        answer = cascade.run(log_mel)
        assert answer.exit == 1
        assert np.abs(answer.logits - runner.run(log_mel)).max() <= allowed


def test_clips_report_the_exit_of_each_window(bundle: Bundle) -> None:
    result = Classifier(bundle, exits=True)(tiny.scene(), RATE)
    assert result.window_exits is not None
    assert result.window_exits.shape == result.window_starts_s.shape
    assert set(result.window_exits) == {0, 1}
    assert Classifier(bundle)(tiny.scene(), RATE).window_exits is None


@every_form
def test_threshold_zero_always_takes_the_first_exit(bundle: Bundle, engine: str, precision: str) -> None:
    cascade = Cascade.of_bundle(bundle, engine=engine, precision=precision, thresholds=[0.0])
    for log_mel in bundle.golden.log_mel:
        answer = cascade.run(log_mel)
        assert answer.exit == 0
        assert answer.logits == pytest.approx(tiny_exits.exit_linear(log_mel), abs=STEPS)


@every_form
def test_a_window_stops_at_the_first_exit_that_is_sure(bundle: Bundle, engine: str, precision: str) -> None:
    cascade = Cascade.of_bundle(bundle, engine=engine, precision=precision)
    taken = Counter()
    for log_mel in _windows():
        every = cascade.run_all(log_mel)
        sure = confidence(softmax(every[0]), "single_label") >= 0.9
        answer = cascade.run(log_mel)
        assert answer.exit == (0 if sure else 1)
        assert np.array_equal(answer.logits, every[answer.exit])
        taken[answer.exit] += 1
    assert set(taken) == {0, 1}, "the test must see both"


def test_a_sure_window_costs_only_the_first_stage(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    cascade = Cascade.of_bundle(bundle, engine="onnx", precision="fp32", thresholds=[0.0])

    def refuse(values: object) -> None:
        raise AssertionError("stage 1 ran")

    monkeypatch.setattr(cascade.engines[1], "run_stage", refuse)
    assert cascade.run(bundle.golden.log_mel[0]).exit == 0


def test_quantised_hidden_tensors_are_handed_on_untouched(bundle: Bundle) -> None:
    cascade = Cascade.of_bundle(bundle, engine="onnx", precision="int8")
    hidden, _ = cascade.engines[0].run_stage(bundle.golden.log_mel[0])
    assert hidden is not None
    assert hidden.dtype == np.uint8
    with pytest.raises(ShapeError, match="onnx-int8-stage1 wants uint8"):
        cascade.engines[1].run_stage(hidden.astype(np.float32))


@every_form
def test_streams_report_the_exit_of_each_event(bundle: Bundle, engine: str, precision: str) -> None:
    classifier = Classifier(bundle, engine=engine, precision=precision, exits=True)
    stream = StreamClassifier(classifier)
    scene = tiny.scene()
    events = [event for at in range(0, len(scene), 1_234) for event in stream.feed(scene[at : at + 1_234])]
    assert events
    assert all(event.exit in (0, 1) for event in events)
    result = classifier(scene, RATE)
    assert result.window_exits is not None
    assert stream.stats.exit_counts == tuple(np.bincount(result.window_exits, minlength=2))
    stream.reset()
    assert stream.stats.exit_counts == (0, 0)


def test_without_exits_nothing_about_them_is_said(bundle: Bundle) -> None:
    stream = StreamClassifier(Classifier(bundle))
    events = stream.feed(tiny.scene())
    assert stream.stats.exit_counts == ()
    assert all(event.exit is None for event in events)


def test_the_self_check_replays_every_stage(bundle: Bundle) -> None:
    report = check_bundle(bundle)
    assert report.complete, [str(item) for item in report.failed]
    stages = {item.subject for item in report.items if "stage" in item.subject}
    assert stages == {stage.name for stage in tiny_exits.exits().stages}


def test_a_stage_that_answers_otherwise_fails_the_self_check(bundle: Bundle) -> None:
    from edgeaudio.bundle import bundle_bytes, golden_entry

    logits = dict(bundle.golden.logits)
    logits["tflite-int8-stage0"] = logits["tflite-int8-stage0"] + 1
    golden = Golden(bundle.golden.waveform, bundle.golden.log_mel, logits)
    manifest = bundle.manifest.model_copy(update={"golden": golden_entry(golden)})
    files = {file.path: bundle.payload(file) for file in bundle.manifest.model_files}
    report = check_bundle(Bundle.read(bundle_bytes(manifest, files, golden)))
    assert [item.subject for item in report.failed] == ["tflite-int8-stage0"]


def test_a_bundle_without_exits_says_so() -> None:
    with pytest.raises(ConfigError, match="'tiny' has no early exits as onnx-fp32"):
        Classifier(tiny.tiny_bundle(), exits=True)


@pytest.mark.parametrize(
    ("thresholds", "message"),
    [([0.5, 0.5], "2 exit thresholds, onnx-fp32 has 1"), ([-0.1], "exit 0 is -0.1"), ([float("nan")], "is nan")],
)
def test_thresholds_that_make_no_sense_are_refused(bundle: Bundle, thresholds: list[float], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Classifier(bundle, exits=True, thresholds=thresholds)


def test_thresholds_without_exits_are_refused(bundle: Bundle) -> None:
    with pytest.raises(ConfigError, match="without exits"):
        Classifier(bundle, thresholds=[0.5])


def test_several_labels_are_as_sure_as_the_least_certain_one() -> None:
    probs = sigmoid(np.array([[8.0, -8.0, 0.0], [8.0, -8.0, 4.0]], np.float32))
    unsure, sure = confidence(probs, "multi_label")
    assert unsure == 0
    assert sure == pytest.approx(2 * probs[1, 2] - 1)


def _windows() -> list[tiny.Float32]:
    from edgeaudio.runtime.windows import WindowStream

    return [window.log_mel for window in WindowStream(tiny.FRONTEND, tiny.WINDOW).feed(tiny.scene())]
