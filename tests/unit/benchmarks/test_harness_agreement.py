"""The comparison with bare loops compares the same files with the same input, and says no where they differ."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks import harness_agreement as benchmark
from edgeaudio.bench.foreign import ForeignModel
from edgeaudio.bench.foreign_subject import ForeignSubject
from edgeaudio.runtime.selfcheck import check_bundle
from tests import tiny_bundle as tiny
from tests.tiny_stateful import stateful_bundle

FACTS = {
    "command": "x",
    "cpu": "x",
    "cores": 1,
    "packages": "x",
    "load_before": 0.1,
    "load_after": 0.2,
    "quiet": "quiet",
}


@pytest.fixture(autouse=True)
def _no_other_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(benchmark, "own_tool_ms", lambda model: None)


def test_every_file_of_the_windows_is_compared_and_foreign_ones(tmp_path: Path) -> None:
    (tmp_path / "other.onnx").write_bytes(tiny.onnx_model())
    pairs = list(benchmark.files(stateful_bundle(), [tmp_path / "other.onnx"]))
    assert [(model.name, subject.name if subject else None) for model, subject in pairs] == [
        ("fp32.onnx", "onnx-fp32"),
        ("int8.onnx", "onnx-int8"),
        ("fp32.tflite", "tflite-fp32"),
        ("int8.tflite", "tflite-int8"),
        ("other.onnx", None),
    ]


@pytest.mark.parametrize("name", ["onnx-int8", "tflite-int8", None])
def test_contestants_take_as_many_hops_each(name: str | None) -> None:
    bundle = tiny.tiny_bundle()
    check = check_bundle(bundle, ["onnx", "litert"], ["numpy"])
    if name is None:
        pair: Any = (ForeignModel("other.onnx", tiny.onnx_model()), None)
    else:
        pair = next(pair for pair in benchmark.files(bundle, []) if pair[1] is not None and pair[1].name == name)
    row = benchmark.measure(bundle, check, *pair, rounds=2)
    assert row.n_hops == 2 * benchmark.TURN_HOPS
    assert row.file_ratio == pytest.approx(row.file_us / row.bare_us)
    assert (row.artefact_us is None) == (name is None)
    if row.artefact_us is not None and row.outside_us is not None:
        assert 0 < row.outside_us < row.artefact_us


def test_the_bare_loop_has_the_input_of_the_harness() -> None:
    subject = ForeignSubject(ForeignModel("x.tflite", tiny.tflite_model(int8=True)), tiny.tiny_bundle())
    bare = benchmark.Bare(subject)
    bare.turn()
    assert len(bare.taken_us) == benchmark.TURN_HOPS
    interpreter: Any = bare._call.__self__  # type: ignore[attr-defined]
    loaded = subject.load(benchmark.OPTIONS, 1, 16_000)
    ((values,),) = loaded.stages.windows(np.zeros(640, np.float32))
    assert np.array_equal(interpreter.get_tensor(interpreter.get_input_details()[0]["index"]), values)


def test_a_harness_that_is_slower_than_the_library_is_told() -> None:
    bare, model = np.full(100, 100.0), ForeignModel("x.onnx", b"")
    fine = benchmark.row(model, bare, 1.04 * bare, 1.5 * bare, 1.3 * bare)
    slow = benchmark.row(model, bare, 1.06 * bare, None, [])
    assert (fine.agrees, slow.agrees, benchmark.row(model, bare, 0.9 * bare, None, []).agrees) == (True, False, False)
    assert (fine.outside_us, fine.inside_ratio) == (pytest.approx(20), pytest.approx(1.3))
    text = benchmark.table([fine, slow], FACTS)
    assert "| x.onnx | 100.0 | 106.0 | 1.060 (1.060 to 1.060) | **no** | - | - | - | - |" in text
    assert "The harness agrees within 5% on 1 of 2 files." in text
