"""Every engine of the catalogue keeps the contract of `edgeaudio.runtime.engines.base.Engine`."""

from __future__ import annotations

import typing
from typing import Any

import numpy as np
import pytest

from edgeaudio.bundle.manifest import ArtefactFormat, StatefulArtefact
from edgeaudio.catalog import ENGINES, resolve
from edgeaudio.errors import BundleError, ConfigError, ShapeError
from edgeaudio.runtime.engines.tensors import initial_states
from tests import tiny_bundle as tiny
from tests import tiny_stateful

WINDOW_SHAPE = tiny.INPUT_SHAPE[1:]


@pytest.fixture(params=ENGINES)
def engine_class(request: pytest.FixtureRequest) -> Any:
    if request.param == "tensorrt":  # Not run on hardware: against a fake that computes with onnxruntime.
        request.getfixturevalue("fake_tensorrt")
    return resolve("engines", request.param)


@pytest.fixture(params=["fp32", "int8"])
def engine(request: pytest.FixtureRequest, engine_class: Any) -> Any:
    payload = tiny.all_payloads()[engine_class.format, request.param]
    return engine_class(tiny.artefact(engine_class.format, request.param, payload), payload)


@pytest.fixture(params=["fp32", "int8"])
def stepping(request: pytest.FixtureRequest, engine_class: Any) -> tuple[Any, StatefulArtefact]:
    """An engine with a stateful artefact, and that artefact."""
    if engine_class.format == "tensorrt":
        pytest.skip("TensorRT has no stateful form: a step is too little work for a GPU")
    artefact = tiny_stateful.stateful_artefact(engine_class.format, request.param)
    return engine_class(artefact, tiny_stateful.step_payload(engine_class.format, request.param)), artefact


def _log_mel(seed: int = 0) -> tiny.Float32:
    return np.random.default_rng(seed).uniform(-2, 3, WINDOW_SHAPE).astype(np.float32)


def test_its_format_is_one_of_the_manifest(engine_class: Any) -> None:
    assert engine_class.format in typing.get_args(ArtefactFormat)


def test_it_computes_the_model(engine: Any) -> None:
    for seed in range(5):
        logits = engine.run(_log_mel(seed))
        assert logits.dtype == np.float32
        assert logits.shape == (len(tiny.LABELS),)
        assert logits == pytest.approx(tiny.linear(_log_mel(seed)), abs=2 * tiny.OUTPUT_SCALE)


def test_equal_windows_give_equal_bits_whatever_ran_before(engine: Any) -> None:
    first = engine.run(_log_mel()).tobytes()
    engine.run(_log_mel(1))
    assert engine.run(_log_mel()).tobytes() == first


def test_answers_are_fresh_and_the_window_is_left_alone(engine: Any) -> None:
    log_mel = _log_mel()
    first = engine.run(log_mel)
    kept = first.copy()
    second = engine.run(_log_mel(1))
    assert np.array_equal(first, kept)
    first[:] = 0
    second[:] = 0
    assert np.array_equal(engine.run(log_mel), kept)
    assert np.array_equal(log_mel, _log_mel())


@pytest.mark.parametrize(
    "window",
    [
        np.zeros((1, *WINDOW_SHAPE), np.float32),
        np.zeros(WINDOW_SHAPE, np.float64),
        np.zeros(WINDOW_SHAPE[::-1], np.float32),
        np.zeros((0, 64), np.float32),
    ],
)
def test_other_windows_are_refused(engine: Any, window: tiny.Float32) -> None:
    with pytest.raises(ShapeError):
        engine.run(window)


def test_steps_compute_the_model_of_the_frames_heard(stepping: tuple[Any, StatefulArtefact]) -> None:
    engine, artefact = stepping
    heard = np.concatenate([_log_mel(seed) for seed in range(4)])
    states = initial_states(artefact)
    for end in range(4, len(heard) + 1, 4):
        states, logits = engine.run_step(heard[end - 4 : end], states)
        assert logits.dtype == np.float32
        if end >= WINDOW_SHAPE[0]:
            wanted = tiny.linear(heard[end - WINDOW_SHAPE[0] : end])
            assert logits == pytest.approx(wanted, abs=2 * tiny.OUTPUT_SCALE)


def test_a_step_leaves_what_it_was_given_and_gives_fresh_states(stepping: tuple[Any, StatefulArtefact]) -> None:
    engine, artefact = stepping
    given = initial_states(artefact)
    first, logits = engine.run_step(_log_mel()[:4], given)
    kept = [state.copy() for state in first]
    engine.run_step(_log_mel(1)[:4], first)
    assert all(np.array_equal(state, before) for state, before in zip(first, kept, strict=True))
    assert all(np.array_equal(*pair) for pair in zip(given, initial_states(artefact), strict=True))
    again, same = engine.run_step(_log_mel()[:4], given)
    assert same.tobytes() == logits.tobytes()
    assert all(np.array_equal(*pair) for pair in zip(again, kept, strict=True))


def test_states_of_another_artefact_are_refused(stepping: tuple[Any, StatefulArtefact]) -> None:
    engine, artefact = stepping
    (state,) = initial_states(artefact)
    for states in ([], [state, state], [state[:, 1:]], [state.astype(np.float64)]):
        with pytest.raises(ShapeError, match="states are"):
            engine.run_step(_log_mel()[:4], states)
    with pytest.raises(ShapeError, match="log_mel is"):
        engine.run_step(_log_mel()[:5], [state])


def test_it_says_what_runs(engine: Any) -> None:
    info = engine.info
    assert {"engine", "library", "version", "threads"} <= info.keys()
    assert all(isinstance(value, str) and value for value in info.values())
    assert info["engine"] in ENGINES


@pytest.mark.parametrize("payload", [b"", b"not a model", bytes(1_000)])
def test_what_is_no_model_is_refused_by_name(engine_class: Any, payload: bytes) -> None:
    artefact = tiny.artefact(engine_class.format, "fp32", payload)
    with pytest.raises(BundleError, match=rf"artefacts/fp32\.{engine_class.format}"):
        engine_class(artefact, payload)


def test_a_model_of_another_shape_than_its_manifest_is_refused(engine_class: Any) -> None:
    payload = tiny.all_payloads()[engine_class.format, "fp32"]
    artefact = tiny.artefact(engine_class.format, "fp32", payload)
    other = artefact.model_copy(update={"input": artefact.input.model_copy(update={"shape": (1, 9, 65)})})
    with pytest.raises(BundleError, match="the manifest says"):
        engine_class(other, payload)


def test_no_threads_are_refused(engine_class: Any) -> None:
    payload = tiny.all_payloads()[engine_class.format, "fp32"]
    with pytest.raises(ConfigError, match="threads is 0"):
        engine_class(tiny.artefact(engine_class.format, "fp32", payload), payload, threads=0)
