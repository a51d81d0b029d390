"""The parity gate passes what is equal and names what is not."""

from __future__ import annotations

import numpy as np
import pytest
from edgeaudio_export.artefact import ExportedArtefact
from edgeaudio_export.parity import (
    ParityGate,
    engine_name,
    measure_parity,
    require_parity,
    run_windows,
)
from numpy.typing import NDArray

from edgeaudio.bundle.manifest import Parity, TensorInfo
from edgeaudio.errors import ConfigError, ParityError, ShapeError

N_WINDOWS, FRAMES, N_MELS, CLASSES = 200, 3, 4, 5
Float32 = NDArray[np.float32]

FP32_GATE = ParityGate(tolerance=1e-3, min_argmax_agreement=1.0, tie_margin=2e-3)
INT8_GATE = ParityGate(tolerance=None, min_argmax_agreement=0.97)


class FixedEngine:
    """Answers window i, recognised by its first value, with row i of a table."""

    format = "onnx"
    info: dict[str, str] = {}  # noqa: RUF012

    def __init__(self, table: Float32) -> None:
        self.table = table

    def run(self, log_mel: Float32) -> Float32:
        return self.table[int(log_mel[0, 0])]


@pytest.fixture
def reference() -> Float32:
    return np.random.default_rng(0).standard_normal((N_WINDOWS, CLASSES)).astype(np.float32)


def log_mels() -> Float32:
    windows = np.zeros((N_WINDOWS, FRAMES, N_MELS), dtype=np.float32)
    windows[:, 0, 0] = np.arange(N_WINDOWS)
    return windows


def artefact(precision: str, format: str = "onnx") -> ExportedArtefact:
    return ExportedArtefact(
        format,  # type: ignore[arg-type]
        precision,  # type: ignore[arg-type]
        b"",
        TensorInfo(name="log_mel", shape=(1, FRAMES, N_MELS)),
        (TensorInfo(name="logits", shape=(1, CLASSES)),),
    )


def with_flips(reference: Float32, n_flips: int) -> Float32:
    """The same logits, but on `n_flips` windows the best and the worst class change places."""
    flipped = reference.copy()
    rows = np.arange(n_flips)
    best, worst = reference[rows].argmax(axis=1), reference[rows].argmin(axis=1)
    flipped[rows, best], flipped[rows, worst] = reference[rows, worst], reference[rows, best]
    return flipped


def held(logits: Float32, reference: Float32, gate: ParityGate, name: str) -> Parity:
    """As verification does: run the windows, measure, require."""
    parity = measure_parity(run_windows(FixedEngine(logits), log_mels()), reference, reference="torch-fp32", gate=gate)
    require_parity(name, parity)
    return parity


def test_equal_logits_pass(reference: Float32) -> None:
    parity = held(reference, reference, FP32_GATE, "onnx-fp32")
    assert parity.passed
    assert (parity.n_windows, parity.max_abs_logit_diff, parity.argmax_agreement) == (N_WINDOWS, 0.0, 1.0)


def test_float_beyond_its_tolerance_fails_with_name_and_figure(reference: Float32) -> None:
    wrong = reference.copy()
    wrong[7, 2] -= 0.25
    with pytest.raises(ParityError, match=r"onnx-fp32 against torch-fp32 on 200 windows.*0\.25 \(at most 0\.001\)"):
        held(wrong, reference, FP32_GATE, "onnx-fp32")


def test_int8_may_differ_in_size_but_not_in_its_answers(reference: Float32) -> None:
    held(reference * 1.5, reference, INT8_GATE, "onnx-int8")
    with pytest.raises(ParityError, match=r"onnx-int8.*same top class on 95\.00% \(at least 97\.00%\)"):
        held(with_flips(reference, 10), reference, INT8_GATE, "onnx-int8")


def test_the_gate_is_a_parameter(reference: Float32) -> None:
    parity = held(with_flips(reference, 10), reference, ParityGate(None, min_argmax_agreement=0.9), "onnx-int8")
    assert parity.argmax_agreement == pytest.approx(0.95)


def test_a_tie_within_the_margin_is_no_disagreement() -> None:
    reference = np.array([[1.0, 1.0 + FP32_GATE.tie_margin / 2, -1.0]], dtype=np.float32)
    other = np.array([[1.0 + FP32_GATE.tie_margin / 2, 1.0, -1.0]], dtype=np.float32)
    assert measure_parity(other, reference, reference="torch", gate=FP32_GATE).argmax_agreement == 1.0
    assert measure_parity(other, reference, reference="torch", gate=INT8_GATE).argmax_agreement == 0.0


def test_two_int8_files_must_give_the_same_answers(reference: Float32) -> None:
    parity = measure_parity(with_flips(reference, 3), reference, reference="onnx-int8", gate=ParityGate(None, 0.99))
    with pytest.raises(ParityError, match=r"tflite-int8 against onnx-int8.*98\.50%"):
        require_parity("tflite-int8", parity)


def test_logits_of_other_shapes_are_refused(reference: Float32) -> None:
    for logits in (reference[:-1], reference[:, :-1]):
        with pytest.raises(ShapeError, match="wanted"):
            measure_parity(logits, reference, reference="torch", gate=FP32_GATE)
    with pytest.raises(ShapeError):
        measure_parity(reference[:0], reference[:0], reference="torch", gate=FP32_GATE)


def test_windows_are_run_in_order(reference: Float32) -> None:
    assert np.array_equal(run_windows(FixedEngine(reference), log_mels()), reference)


def test_a_format_without_engine_is_refused() -> None:
    with pytest.raises(ConfigError, match="no engine"):
        engine_name("c")


def test_the_manifest_entry_holds_digest_and_size() -> None:
    entry = artefact("int8").manifest_entry()
    assert (entry.name, entry.path, entry.size_bytes) == ("onnx-int8", "artefacts/int8.onnx", 0)
    assert entry.sha256 == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
