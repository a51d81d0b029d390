"""Clips: shapes, short clips, other rates, bad samples, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from edgeaudio.audio.resample import resample
from edgeaudio.bundle import Bundle, with_manifest
from edgeaudio.errors import BundleError, ConfigError, SampleRateError, ShapeError, UnsupportedError
from edgeaudio.frontend.choice import make_frontend
from edgeaudio.runtime import Classifier
from edgeaudio.runtime.confidence import sigmoid, softmax
from edgeaudio.spec import FrontendSpec, LabelSet, TaskSpec
from tests import tiny_bundle as tiny

RATE = tiny.FRONTEND.sample_rate


@pytest.mark.parametrize("label", tiny.LABELS)
def test_a_clip_is_what_it_sounds_like(classifier: Classifier, label: str) -> None:
    result = classifier(tiny.noise_band(label, RATE, seed=9), RATE)
    assert result.label == label
    assert result.top(1) == [(label, pytest.approx(float(result.probs.max())))]
    assert [name for name, _ in result.top()] == sorted(tiny.LABELS, key=lambda n: -dict(result.top())[n])


def test_windows_hop_through_the_clip_and_the_clip_is_their_mean(classifier: Classifier) -> None:
    waveform = tiny.scene()
    result = classifier(waveform, RATE)
    n_windows = tiny.WINDOW.n_windows(tiny.FRONTEND.n_frames(len(waveform)))
    assert result.window_probs.shape == (n_windows, 3)
    assert result.window_starts_s == pytest.approx(np.arange(n_windows) * tiny.HOP_SAMPLES / RATE)
    assert result.probs == pytest.approx(result.window_probs.mean(axis=0), abs=1e-6)
    log_mel = make_frontend(tiny.FRONTEND, classifier.frontend.name).feed(waveform)
    for index in range(n_windows):
        window = log_mel[index * tiny.WINDOW.hop_frames :][: tiny.WINDOW.frames]
        assert np.array_equal(result.window_probs[index], softmax(tiny.linear(window)))


@pytest.mark.parametrize("n_samples", [1, 399, 400, tiny.WINDOW_SAMPLES - 1])
def test_a_short_clip_is_padded_at_its_end_to_one_window(classifier: Classifier, n_samples: int) -> None:
    clip = tiny.noise_band("mid", tiny.WINDOW_SAMPLES)[:n_samples]
    padded = np.concatenate([clip, np.zeros(tiny.WINDOW_SAMPLES - n_samples, np.float32)])
    result = classifier(clip, RATE)
    assert result.window_probs.shape == (1, 3)
    assert np.array_equal(result.window_probs, classifier(padded, RATE).window_probs)


@pytest.mark.parametrize("more", [0, 1, tiny.HOP_SAMPLES - 1])
def test_the_last_partial_window_is_not_scored(classifier: Classifier, more: int) -> None:
    assert len(classifier(np.zeros(tiny.WINDOW_SAMPLES + more, np.float32), RATE).window_probs) == 1


def test_one_hop_more_is_one_window_more(classifier: Classifier) -> None:
    clip = np.zeros(tiny.WINDOW_SAMPLES + tiny.HOP_SAMPLES, np.float32)
    assert len(classifier(clip, RATE).window_probs) == 2


def test_other_rates_are_resampled(classifier: Classifier) -> None:
    waveform = resample(tiny.scene(), RATE, 44_100)
    expected = classifier(resample(waveform, 44_100, RATE), RATE)
    assert np.array_equal(classifier(waveform, 44_100).window_probs, expected.window_probs)


def test_float64_is_taken_as_float32(classifier: Classifier) -> None:
    waveform = tiny.scene()
    result = classifier(waveform.astype(np.float64), RATE)
    assert np.array_equal(result.window_probs, classifier(waveform, RATE).window_probs)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_samples_that_are_not_finite_count_as_silence(classifier: Classifier, bad: float, dtype: type) -> None:
    waveform = tiny.scene().astype(dtype)
    expected = waveform.copy()
    waveform[[0, 100, 31_999]] = bad
    expected[[0, 100, 31_999]] = 0
    result = classifier(waveform, RATE)
    assert result.nan_samples == 3
    assert np.array_equal(result.window_probs, classifier(expected, RATE).window_probs)
    assert np.isnan(waveform[100]) or np.isinf(waveform[100]), "the caller's array was written to"


@pytest.mark.parametrize("value", [0.0, 1.0, -1.0, 3e38, 1e300, 1e-45])
def test_extreme_clips_give_finite_probabilities(classifier: Classifier, value: float) -> None:
    assert np.isfinite(classifier(np.full(RATE, value), RATE).probs).all()


@pytest.mark.parametrize(
    "waveform",
    [
        np.zeros((2, 100), np.float32),
        np.zeros(100, np.int16),
        np.zeros(100, np.int32),
        np.zeros(100, np.complex64),
        np.zeros(100, np.bool_),
        np.zeros(0, np.float32),
        np.float32(0.5),
        np.array(["a"]),
        np.array([None], dtype=object),
    ],
)
def test_what_is_no_waveform_is_refused(classifier: Classifier, waveform: NDArray[Any]) -> None:
    with pytest.raises(ShapeError):
        classifier(waveform, RATE)


def test_int16_is_refused_with_the_mend(classifier: Classifier) -> None:
    with pytest.raises(ShapeError, match="Divide int16 by 32768"):
        classifier(np.zeros(100, np.int16), RATE)


@pytest.mark.parametrize("sample_rate", [0, -1, 1_000, 10**9])
def test_absurd_rates_are_refused(classifier: Classifier, sample_rate: int) -> None:
    with pytest.raises(SampleRateError):
        classifier(np.zeros(100, np.float32), sample_rate)


def test_engines_and_precisions_that_are_not_there_are_named(bundle: Bundle) -> None:
    with pytest.raises(ConfigError, match="Did you mean 'onnx'"):
        Classifier(bundle, engine="onxx")
    with pytest.raises(ConfigError, match=r"no onnx-int8 artefact; it has: onnx-fp32, tflite-fp32"):
        Classifier(tiny.tiny_bundle("onnx-fp32", "tflite-fp32"), precision="int8")
    with pytest.raises(ConfigError, match="threads is 0"):
        Classifier(bundle, threads=0)


def test_a_bundle_is_loaded_from_its_file(tmp_path: Path) -> None:
    path = tmp_path / "tiny.eab"
    path.write_bytes(tiny.tiny_bytes())
    classifier = Classifier.load(path, engine="litert", precision="int8")
    path.unlink()  # Nothing is read again: what was verified is what runs.
    assert classifier(tiny.noise_band("high", RATE), RATE).label == "high"
    assert classifier.artefact.name == "tflite-int8"


def test_a_missing_library_is_an_error_with_the_command_and_no_other_engine_runs(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "onnxruntime", None)
    with pytest.raises(UnsupportedError, match=r"pip install 'edgeaudio\[runtime-onnx\]'"):
        Classifier(bundle, engine="onnx")
    for package in ("ai_edge_litert", "ai_edge_litert.interpreter", "tflite_runtime"):
        monkeypatch.setitem(__import__("sys").modules, package, None)
    with pytest.raises(UnsupportedError, match=r"pip install 'edgeaudio\[runtime-litert\]'"):
        Classifier(bundle, engine="litert")


def test_a_front_end_that_cannot_stream_is_refused(bundle: Bundle) -> None:
    frontend = FrontendSpec(centre=True)
    centred = Bundle.read(with_manifest(bundle, bundle.manifest.model_copy(update={"frontend": frontend})))
    with pytest.raises(ConfigError, match=r"frontend\.centre"):
        Classifier(centred)(np.zeros(RATE, np.float32), RATE)


def test_multi_label_bundles_answer_each_class_by_itself(bundle: Bundle) -> None:
    task = TaskSpec(kind="multi_label", labels=LabelSet(names=tiny.LABELS))
    multi = Bundle.read(with_manifest(bundle, bundle.manifest.model_copy(update={"task": task})))
    clip = tiny.noise_band("low", tiny.WINDOW_SAMPLES)
    logits = tiny.linear(make_frontend(tiny.FRONTEND, "numpy").feed(clip))
    probs = Classifier(multi, frontend="numpy")(clip, RATE).probs
    assert probs == pytest.approx(1 / (1 + np.exp(-logits.astype(np.float64))), abs=1e-6)


@pytest.mark.parametrize("logits", [[0.0, 0.0], [1e4, -1e4], [-1e4, -1e4], [88.0, 89.0], [1e38, -1e38]])
def test_activations_neither_overflow_nor_leave_their_range(logits: list[float]) -> None:
    with np.errstate(all="raise", under="ignore"):
        for probs in (softmax(np.array(logits, np.float32)), sigmoid(np.array(logits, np.float32))):
            assert probs.dtype == np.float32
            assert ((probs >= 0) & (probs <= 1)).all()
    assert softmax(np.array(logits, np.float32)).sum() == pytest.approx(1)


def test_a_model_that_gives_nan_is_an_error(bundle: Bundle) -> None:
    import onnx

    model = onnx.load_from_string(tiny.onnx_model())
    bias = next(tensor for tensor in model.graph.initializer if tensor.name == "b")
    bias.raw_data = np.full(3, np.nan, np.float32).tobytes()
    payload = model.SerializeToString()
    artefact = tiny.artefact("onnx", "fp32", payload)
    vectors = tiny.golden(("onnx-fp32",))
    data = tiny.bundle_bytes(tiny.manifest((artefact,), vectors), {artefact.path: payload}, vectors)
    with pytest.raises(Exception, match="not finite") as caught:
        Classifier(Bundle.read(data))(np.zeros(RATE, np.float32), RATE)
    assert type(caught.value).__name__ == "VerificationError"


def test_a_model_unlike_its_manifest_is_refused() -> None:
    payload = tiny.onnx_model()
    artefact = tiny.artefact("onnx", "int8", payload)
    vectors = tiny.golden(("onnx-int8",))
    data = tiny.bundle_bytes(tiny.manifest((artefact,), vectors), {artefact.path: payload}, vectors)
    with pytest.raises(BundleError, match=r"artefacts/int8\.onnx: input 'log_mel' of the model is float32"):
        Classifier(Bundle.read(data), precision="int8")
