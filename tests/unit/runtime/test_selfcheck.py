"""The self-check: passes on a sound bundle, names what differs, and never passes what it did not run."""

from __future__ import annotations

import dataclasses
import json
import sys

import numpy as np
import pytest

from edgeaudio.bundle import Bundle, Golden
from edgeaudio.errors import ConfigError, ParityError, UnsupportedError
from edgeaudio.frontend.choice import FrontendName, choose_frontend
from edgeaudio.runtime.selfcheck import LOGIT_TOLERANCE_FP32, check_bundle, logit_tolerance
from tests import tiny_bundle as tiny
from tests.frontends import FRONTENDS


def _with_golden(bundle: Bundle, vectors: Golden) -> Bundle:
    manifest = bundle.manifest.model_copy(update={"golden": tiny.golden_entry(vectors)})
    files = {artefact.path: bundle.payload(artefact) for artefact in manifest.artefacts}
    return Bundle.read(tiny.bundle_bytes(manifest, files, vectors))


def test_a_sound_bundle_passes_on_every_engine(bundle: Bundle) -> None:
    report = check_bundle(bundle)
    assert report.complete
    taken = choose_frontend(bundle.manifest.frontend, "auto").name
    assert [(item.subject, item.engine) for item in report.items] == [
        *(("frontend", name) for name in dict.fromkeys(("numpy", taken))),
        ("onnx-fp32", "onnx"),
        ("onnx-int8", "onnx"),
        ("tflite-fp32", "litert"),
        ("tflite-int8", "litert"),
    ]
    assert all(item.figure is not None and item.gate is not None and item.figure <= item.gate for item in report.items)
    report.raise_if_failed()
    assert json.loads(json.dumps(report.to_dict()))["complete"] is True
    assert all(item.library in str(item) for item in report.items)
    assert {item.library.partition(" ")[0] for item in report.items} == {"", "onnxruntime", "ai-edge-litert"}


@pytest.mark.parametrize("name", ["onnx-fp32", "tflite-int8"])
def test_other_logits_are_named_with_their_figure(bundle: Bundle, name: str) -> None:
    good = bundle.golden
    artefact = next(artefact for artefact in bundle.manifest.artefacts if artefact.name == name)
    off = good.logits[name] + np.float32(2 * logit_tolerance(artefact, good.logits[name]))
    report = check_bundle(_with_golden(bundle, dataclasses.replace(good, logits={**good.logits, name: off})))
    assert [item.subject for item in report.failed] == [name]
    with pytest.raises(ParityError, match=rf"'tiny': {name} on \w+ failed: \d\.\d\de.\d+ logit, gate"):
        report.raise_if_failed()


@pytest.mark.parametrize("frontend", FRONTENDS)
def test_another_front_end_is_found(bundle: Bundle, frontend: FrontendName) -> None:
    log_mel = bundle.golden.log_mel + np.float32(1e-3)  # 4e-3 in ln units.
    logits = {name: np.stack([tiny.linear(window) for window in log_mel]) for name in bundle.golden.logits}
    report = check_bundle(_with_golden(bundle, Golden(bundle.golden.waveform, log_mel, logits)), None, [frontend])
    assert [(item.subject, item.engine) for item in report.failed] == [("frontend", frontend)]
    with pytest.raises(ParityError, match=f"frontend on {frontend} failed: 4"):
        report.raise_if_failed()


def test_a_changed_top_class_fails_even_within_the_gate() -> None:
    log_mel = np.full((1, *tiny.INPUT_SHAPE[1:]), -1.0, np.float32)
    log_mel[..., 22:43] += (0.25 - 0.4 * LOGIT_TOLERANCE_FP32) / 8  # "low" leads "mid" by 0.4 gates...
    logits = tiny.linear(log_mel[0])
    golden = logits + np.array([-0.8, 0.8, 0], np.float32) * LOGIT_TOLERANCE_FP32  # ...or lags by 1.2.
    vectors = Golden(np.zeros((1, tiny.WINDOW_SAMPLES), np.float32), log_mel, {"onnx-fp32": golden[None]})
    item = check_bundle(_with_golden(tiny.tiny_bundle("onnx-fp32"), vectors)).items[-1]
    assert item.figure is not None
    assert item.figure < LOGIT_TOLERANCE_FP32
    assert item.argmax_agreement == 0.0
    assert item.status == "failed"
    assert "another top class" in item.reason


def test_a_near_tie_in_the_golden_vectors_may_fall_either_way() -> None:
    log_mel = np.full((1, *tiny.INPUT_SHAPE[1:]), -1.0, np.float32)
    log_mel[..., 22:43] += (0.25 - 0.2 * LOGIT_TOLERANCE_FP32) / 8
    golden = tiny.linear(log_mel[0]) + np.array([-0.5, 0.2, 0], np.float32) * LOGIT_TOLERANCE_FP32
    vectors = Golden(np.zeros((1, tiny.WINDOW_SAMPLES), np.float32), log_mel, {"onnx-fp32": golden[None]})
    item = check_bundle(_with_golden(tiny.tiny_bundle("onnx-fp32"), vectors)).items[-1]
    assert item.argmax_agreement == 0.0
    assert item.status == "passed"


def test_missing_engines_are_listed_as_not_run(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    report = check_bundle(bundle)
    assert [item.subject for item in report.not_run] == ["onnx-fp32", "onnx-int8"]
    assert "pip install" in report.not_run[0].reason
    assert not report.complete
    report.raise_if_failed()  # TFLite ran and passed.


def test_a_check_that_ran_nothing_does_not_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    report = check_bundle(tiny.tiny_bundle("onnx-fp32"))
    assert not report.complete
    with pytest.raises(UnsupportedError, match="no artefact ran: onnx-fp32 on onnx not run"):
        report.raise_if_failed()


def test_artefacts_without_a_chosen_engine_are_listed(bundle: Bundle) -> None:
    report = check_bundle(bundle, ["litert"])
    assert [(item.subject, item.reason) for item in report.not_run] == [
        ("onnx-fp32", "none of the engines ['litert'] runs onnx"),
        ("onnx-int8", "none of the engines ['litert'] runs onnx"),
    ]
    with pytest.raises(ConfigError, match="not known"):
        check_bundle(bundle, ["openvino"])


def test_a_broken_model_fails_and_the_others_still_run() -> None:
    payload = b"not a model"
    artefact = tiny.artefact("onnx", "fp32", payload)
    sound = tiny.artefact("tflite", "fp32", tiny.payloads()["tflite", "fp32"])
    vectors = tiny.golden(("onnx-fp32", "tflite-fp32"))
    files = {artefact.path: payload, sound.path: tiny.payloads()["tflite", "fp32"]}
    report = check_bundle(Bundle.read(tiny.bundle_bytes(tiny.manifest((artefact, sound), vectors), files, vectors)))
    assert [item.status for item in report.items if item.subject != "frontend"] == ["failed", "passed"]
    with pytest.raises(ParityError, match="onnxruntime refuses the model"):
        report.raise_if_failed()


def test_tolerances_are_as_documented() -> None:
    bundle = tiny.tiny_bundle()
    golden = np.array([[-5.0, 5.0, 0.0]], np.float32)
    by_name = {artefact.name: artefact for artefact in bundle.manifest.artefacts}
    assert logit_tolerance(by_name["onnx-fp32"], golden) == LOGIT_TOLERANCE_FP32
    assert logit_tolerance(by_name["tflite-int8"], golden) == pytest.approx(2 * tiny.OUTPUT_SCALE, rel=1e-3)
    wider = logit_tolerance(by_name["tflite-int8"], golden, "tflite-runtime")
    assert wider == pytest.approx(6 * tiny.OUTPUT_SCALE, rel=1e-3)
    assert logit_tolerance(by_name["tflite-fp32"], golden, "tflite-runtime") == LOGIT_TOLERANCE_FP32
    bare = by_name["onnx-int8"].outputs[0].model_copy(update={"scale": None})
    no_scale = by_name["onnx-int8"].model_copy(update={"outputs": (bare,)})
    assert logit_tolerance(no_scale, golden) == pytest.approx(0.5)
