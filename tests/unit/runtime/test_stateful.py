"""The stateful form at run time: the windows and events of the windowed form, total resets, phases that take turns."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from edgeaudio.bundle import Bundle, StatefulArtefact, with_manifest
from edgeaudio.bundle.manifest import StateInfo
from edgeaudio.errors import ConfigError, ParityError, ShapeError
from edgeaudio.runtime import Classifier, StreamClassifier, check_bundle
from edgeaudio.runtime.engines.base import Float32, Hidden
from edgeaudio.runtime.stateful import StatefulRunner, stream_logits
from edgeaudio.runtime.stream_check import proof_stream
from edgeaudio.spec import DecisionSpec
from tests import tiny_bundle as tiny
from tests import tiny_stateful

RATE = tiny.FRONTEND.sample_rate
KEYS = [("onnx", "fp32"), ("onnx", "int8"), ("litert", "fp32"), ("litert", "int8")]
every_form = pytest.mark.parametrize(("engine", "precision"), KEYS)


@every_form
def test_clips_and_streams_answer_as_with_windows(engine: str, precision: str) -> None:
    bundle = tiny_stateful.stateful_bundle()
    windowed = Classifier(bundle, engine=engine, precision=precision)
    stepped = Classifier(bundle, engine=engine, precision=precision, stateful=True)
    assert stepped.stateful
    assert stepped.hop_samples == tiny.HOP_SAMPLES
    for n_samples in (1, tiny.WINDOW_SAMPLES, 20_011):
        clip = tiny.scene()[:n_samples]
        wanted, answer = windowed(clip, RATE), stepped(clip, RATE)
        assert np.array_equal(answer.window_probs, wanted.window_probs)
        assert np.array_equal(answer.window_starts_s, wanted.window_starts_s)
    one, other = StreamClassifier(windowed), StreamClassifier(stepped)
    assert other.feed(tiny.scene()) + other.flush() == one.feed(tiny.scene()) + one.flush()
    assert one.stats == other.stats


def test_shorter_steps_give_every_window_that_the_hop_gives_and_more() -> None:
    windowed = Classifier(tiny_stateful.stateful_bundle(2))
    stepped = Classifier(tiny_stateful.stateful_bundle(2), stateful=True)
    assert stepped.hop_samples == tiny.HOP_SAMPLES // 2
    wanted, answer = windowed(tiny.scene(), RATE), stepped(tiny.scene(), RATE)
    assert np.array_equal(answer.window_probs[::2], wanted.window_probs)
    assert np.array_equal(answer.window_starts_s[::2], wanted.window_starts_s)
    # The moving mean covers as many seconds.
    assert stepped.decision.smoothing_windows == 2 * windowed.decision.smoothing_windows


def test_a_mean_over_more_windows_than_there_may_be_is_refused() -> None:
    bundle = tiny_stateful.stateful_bundle(1)
    long = bundle.manifest.model_copy(update={"decision": DecisionSpec(smoothing_windows=400)})
    stepped = Classifier(Bundle.read(with_manifest(bundle, long)), stateful=True)
    with pytest.raises(ConfigError, match="decision of onnx-fp32 at 4 times the hops: smoothing_windows"):
        _ = stepped.decision


def test_a_gap_and_a_reset_forget_everything() -> None:
    stepped = Classifier(tiny_stateful.stateful_bundle(), stateful=True)
    fresh, stream = StreamClassifier(stepped), StreamClassifier(stepped)
    stream.feed(tiny.scene()[:7_001])
    stream.reset()
    assert stream.feed(tiny.scene()) == fresh.feed(tiny.scene())
    stream.gap(333)
    windowed = StreamClassifier(Classifier(tiny_stateful.stateful_bundle()))
    windowed.feed(tiny.scene())
    windowed.gap(333)
    assert stream.feed(tiny.scene()) == windowed.feed(tiny.scene())


def test_two_streams_of_one_classifier_do_not_mix() -> None:
    stepped = Classifier(tiny_stateful.stateful_bundle(), stateful=True)
    alone = [window.answer.logits for window in stepped.open_windows().feed(tiny.scene())]  # type: ignore[union-attr]
    one, other = stepped.open_windows(), stepped.open_windows()
    mixed: list[Any] = []
    for at in range(0, 32_000, 640):
        mixed += one.feed(tiny.scene()[at : at + 640])
        other.feed(tiny.scene(1)[at : at + 640])
    assert np.array_equal([window.answer.logits for window in mixed], alone)


def test_what_cannot_be_is_refused() -> None:
    bundle = tiny_stateful.stateful_bundle()
    with pytest.raises(ConfigError, match="has no stateful onnx-fp32 artefact"):
        Classifier(tiny.tiny_bundle(), stateful=True)
    with pytest.raises(ConfigError, match="has no stateful stages as onnx-fp32; it has: none"):
        Classifier(bundle, stateful=True, exits=True)
    with pytest.raises(ConfigError, match="takes steps of a stream, not windows"):
        Classifier(bundle, stateful=True).score(bundle.golden.log_mel[0])
    with pytest.raises(ConfigError, match="no stateful form to prove"):
        proof_stream(tiny.tiny_bundle())


def test_a_stream_shorter_than_a_window_is_refused() -> None:
    artefact = tiny_stateful.stateful_artefact("onnx", "fp32")
    runner = StatefulRunner(Delay(), artefact)
    with pytest.raises(ShapeError, match="a stream of 8 frames; a window has 9"):
        stream_logits(runner, tiny_stateful.stateful(), np.zeros((8, 64), np.float32))


def test_the_self_check_streams_every_artefact_on_every_engine() -> None:
    report = check_bundle(tiny_stateful.stateful_bundle(2))
    assert report.complete
    assert [item.subject for item in report.items if "stateful" in item.subject] == [
        f"{format}-{precision}-stateful{streamed}"
        for format in ("onnx", "tflite")
        for precision in ("fp32", "int8")
        for streamed in ("", ", streamed against windows,")
    ]


def test_a_stream_that_slips_by_one_frame_fails_the_self_check() -> None:
    report = check_bundle(tiny_stateful.stateful_bundle(4, 1))
    assert [item.subject for item in report.failed if "streamed" in item.subject] == [
        f"{name}-stateful, streamed against windows,"
        for name in ("onnx-fp32", "onnx-int8", "tflite-fp32", "tflite-int8")
    ]
    with pytest.raises(ParityError, match="onnx-fp32-stateful, streamed against windows, on onnx failed"):
        report.raise_if_failed()


class Delay:
    """An engine whose logits are what its states held: one of one phase, one of three."""

    format = "onnx"

    def __init__(self) -> None:
        self.info = {"engine": "delay"}

    def run_step(self, log_mel: Float32, states: list[Hidden]) -> tuple[list[Hidden], Float32]:
        newest = log_mel[:1, :1]
        return [newest, newest], np.concatenate([states[0][0], states[1][0]])


def test_phases_take_turns() -> None:
    whole = tiny_stateful.stateful_artefact("onnx", "fp32")
    states = tuple(StateInfo(name=f"state{n}", shape=(1, 1), phases=phases) for n, phases in enumerate((1, 3)))
    artefact = StatefulArtefact.model_validate(
        whole.model_dump()
        | {"states": states, "outputs": (*(state.as_output("x") for state in states), whole.outputs[-1])}
    )
    runner = StatefulRunner(Delay(), artefact)
    for _ in range(2):
        heard = [runner.step(np.full((4, 64), step, np.float32)).tolist() for step in range(1, 8)]
        assert heard == [[max(0, step - 1), max(0, step - 3)] for step in range(1, 8)]
        runner.reset()
