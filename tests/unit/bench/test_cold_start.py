"""Cold starts run in processes of their own, and say it when they cannot."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from edgeaudio.bench import cold_start, memory
from edgeaudio.bench.foreign import ForeignModel
from edgeaudio.bench.harness import Progress, bench_bundle
from edgeaudio.bench.schema import BenchOptions
from edgeaudio.errors import EdgeAudioError, UnsupportedError
from tests import tiny_bundle as tiny
from tests.tiny_chained import NAMES, chained_bundle

COLD = BenchOptions(min_hops=5, min_seconds=0, warmup_hops=0, rounds=1, cold_starts=1)


def test_each_part_of_a_cold_start_is_timed_in_a_fresh_process() -> None:
    told: list[Progress] = []
    foreign = [ForeignModel("; rm -rf ~.tflite", tiny.tflite_model()), ForeignModel("b.onnx", tiny.onnx_model())]
    names = (NAMES[0], NAMES[3])
    result = bench_bundle(chained_bundle(), names, options=COLD, foreign=foreign, on_progress=told.append)
    for item in result.artefacts:
        cold = item.cold_start
        assert cold is not None
        parts = (cold.import_ms, cold.load_ms, cold.first_inference_ms)
        assert [len(part) for part in (*parts, cold.to_first_answer_ms)] == [1] * 4
        # The interpreter's own start comes before all of them.
        assert cold.to_first_answer_ms[0] > sum(part[0] for part in parts) > 0
        assert cold.peak_rss_bytes > 10 * 2**20
        if sys.platform == "linux":
            assert cold.pss_bytes is not None
            assert 2**20 < cold.pss_bytes <= cold.peak_rss_bytes
    own, file = result.artefacts[0].cold_start, result.artefacts[2].cold_start
    assert own is not None
    assert file is not None
    # Nothing of edgeaudio is in the start of a foreign file: far fewer modules stay in memory.
    assert file.peak_rss_bytes < own.peak_rss_bytes
    turns = [one.artefact for one in told if one.stage == "cold-start"]
    assert turns == [*(item.artefact for item in result.artefacts)] * 2 + [None]


def test_a_fresh_process_that_fails_is_an_error_with_its_last_words(monkeypatch: pytest.MonkeyPatch) -> None:
    real = cold_start._request

    def spoilt(*arguments: Any) -> dict[str, Any]:
        request = real(*arguments)
        request["classifier"]["precision"] = "fp16"
        return request

    monkeypatch.setattr(cold_start, "_request", spoilt)
    with pytest.raises(EdgeAudioError, match=r"onnx-fp32: a fresh process failed \(1\): .*has no onnx-fp16 artefact"):
        bench_bundle(chained_bundle(), NAMES[:1], options=COLD)


def test_where_no_process_can_be_started_it_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    with pytest.raises(UnsupportedError, match="cold starts need fresh processes, which cannot be started here"):
        bench_bundle(chained_bundle(), NAMES[:1], options=COLD)


def test_a_process_that_never_answers_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cold_start, "_DEADLINE_S", 0.01)
    with pytest.raises(EdgeAudioError, match=r"onnx-fp32: no answer from a fresh process in 0\.01 s"):
        bench_bundle(chained_bundle(), NAMES[:1], options=COLD)


def test_memory_is_what_the_kernel_says(tmp_path: Path) -> None:
    assert memory.peak_rss_bytes() > 2**20
    assert memory._bytes(tmp_path / "status", "Pss:") is None
    (tmp_path / "status").write_text("Name: x\nPss:      12 kB\nPss_Anon: 4 kB\n")
    assert memory._bytes(tmp_path / "status", "Pss:") == 12 * 1024
    assert memory._bytes(tmp_path / "status", "VmHWM:") is None
