"""Early exits of the stateful form, in every format and precision: stages catch up, and answer as the windowed ones."""

from __future__ import annotations

import numpy as np
import pytest
from edgeaudio_export.stateful import stateful_chain_parity

from edgeaudio.runtime import Classifier, StreamClassifier, check_bundle
from edgeaudio.runtime.stream_check import proof_stream
from tests.tiny_early_exits import STEP, WINDOW, heard
from tests.tiny_early_exits import cascade_bundle as bundle
from tests.tolerances import STREAM_SCORE

pytestmark = pytest.mark.slow


def test_every_stage_on_every_engine_streams_as_its_windowed_form() -> None:
    report = check_bundle(bundle())
    report.raise_if_failed()
    streamed = [item for item in report.items if "streamed" in item.subject and "stage" in item.subject]
    assert len(streamed) == 3 * 4
    assert all(item.figure is not None for item in streamed)


def test_verify_proves_every_stage() -> None:
    stateful = bundle().manifest.stateful
    assert stateful is not None
    for chain in stateful.chains:
        parities = stateful_chain_parity(bundle(), chain, [proof_stream(bundle())])
        assert all(parity.passed and parity.n_windows > 20 for parity in parities)


@pytest.mark.parametrize(("engine", "precision"), [("onnx", "fp32"), ("onnx", "int8"), ("litert", "int8")])
def test_a_stream_with_exits_answers_as_windows_with_exits(engine: str, precision: str) -> None:
    windowed = Classifier(bundle(), engine=engine, precision=precision, exits=True)
    stepped = Classifier(bundle(), engine=engine, precision=precision, exits=True, stateful=True)
    assert stepped.n_exits == 3
    wanted, answer = windowed(heard(6), 16_000), stepped(heard(6), 16_000)
    every = WINDOW.hop_frames // STEP
    assert answer.window_exits is not None
    assert wanted.window_exits is not None
    assert np.array_equal(answer.window_exits[::every], wanted.window_exits)
    assert np.abs(answer.window_probs[::every] - wanted.window_probs).max() <= STREAM_SCORE
    assert len(set(answer.window_exits)) > 1


def test_catching_up_is_counted() -> None:
    stateful = bundle().manifest.stateful
    assert stateful is not None
    stepped = Classifier(bundle(), exits=True, stateful=True)
    stream = StreamClassifier(stepped)
    stream.feed(heard(6))
    stats = stream.stats
    assert stats.macs is not None
    first, *later = stateful.macs_per_stage
    # Stage 0 hears every hop, warming up included; the others no more than that, and only when they are asked.
    least, most = (
        (stats.hops + stateful.warm_up_steps) * first,
        (stats.hops + stateful.warm_up_steps) * sum(stateful.macs_per_stage),
    )
    assert least < stats.macs < most
    assert 0 < stats.catch_up_macs < stats.macs - least
    never = Classifier(bundle(), exits=True, stateful=True, thresholds=(None, None))
    stream = StreamClassifier(never)
    stream.feed(heard(6))
    assert stream.stats.macs == most
    # The only steps put off are those before the first answer.
    assert stream.stats.catch_up_macs == stateful.warm_up_steps * sum(later)


def test_always_stopping_at_the_first_exit_runs_nothing_else() -> None:
    stateful = bundle().manifest.stateful
    assert stateful is not None
    stream = StreamClassifier(Classifier(bundle(), exits=True, stateful=True, thresholds=(0.0, 0.0)))
    stream.feed(heard(3))
    assert stream.stats.macs == (stream.stats.hops + stateful.warm_up_steps) * stateful.macs_per_stage[0]
    assert stream.stats.catch_up_macs == 0
