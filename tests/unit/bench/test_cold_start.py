"""Cold starts run in processes of their own, and say it when they cannot."""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from edgeaudio.bench import cold_start, memory
from edgeaudio.bench.candidate import Candidate
from edgeaudio.bench.foreign import ForeignModel
from edgeaudio.bench.harness import Progress, bench_bundle
from edgeaudio.bench.metrics import METRICS
from edgeaudio.bench.schema import BenchOptions, read_result, write_result
from edgeaudio.bench.table import format_table
from edgeaudio.report.bench import render_bench_report
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


def spoilt(monkeypatch: pytest.MonkeyPatch, name: str, change: Callable[[dict[str, Any]], object]) -> None:
    """`change` what the processes of one artefact are asked to do."""
    real = cold_start._request

    def request(candidate: Candidate, *arguments: Any) -> dict[str, Any]:
        asked = real(candidate, *arguments)
        if candidate.name == name:
            change(asked)
        return asked

    monkeypatch.setattr(cold_start, "_request", request)


def test_a_fresh_process_that_fails_costs_its_artefact_the_cold_start_and_nothing_else(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    spoilt(monkeypatch, NAMES[0], lambda asked: asked["classifier"].update(precision="fp16"))
    told: list[Progress] = []
    result = bench_bundle(chained_bundle(), NAMES[:2], options=COLD, on_progress=told.append)
    bad, good = result.artefacts
    assert (bad.cold_start, list(bad.failures)) == (None, ["cold_start"])
    assert re.fullmatch(r"a fresh process failed \(1\): .*has no onnx-fp16 artefact.*", bad.failures["cold_start"])
    assert good.cold_start is not None
    assert len(good.cold_start.to_first_answer_ms) == 1
    assert [item.n_hops for item in result.artefacts] == [5, 5]
    assert result.incomplete is None
    # It is not tried again, and everyone copes with a figure that is not there.
    assert [one.artefact for one in told if one.stage == "cold-start"] == [*NAMES[:2], NAMES[1], None]
    write_result(result, tmp_path / "bench.json")
    assert read_result(tmp_path / "bench.json") == result
    assert METRICS["cold_start_ms"].read(bad, result).value is None
    assert METRICS["cold_start_rss_bytes"].read(bad, result).value is None
    assert NAMES[0] in format_table(result)
    assert NAMES[0] in render_bench_report([result])


def test_what_answered_before_a_process_was_killed_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    real, calls = subprocess.run, 0

    def killed_at_last(command: list[str], **options: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == 3:
            command = [sys.executable, "-c", "import os; os.kill(os.getpid(), 9)"]
        return real(command, **options)

    monkeypatch.setattr(cold_start.subprocess, "run", killed_at_last)
    options = COLD.model_copy(update={"cold_starts": 3})
    [item] = bench_bundle(chained_bundle(), NAMES[:1], options=options).artefacts
    said = "a fresh process was killed, as the kernel does when memory runs out: no word"
    assert item.failures == {"cold_start": said}
    assert item.cold_start is not None
    assert len(item.cold_start.to_first_answer_ms) == 1


def test_cold_starts_that_are_interrupted_make_the_run_incomplete(monkeypatch: pytest.MonkeyPatch) -> None:
    real, calls = cold_start._start, 0

    def interrupted(request: dict[str, Any]) -> dict[str, Any]:
        nonlocal calls
        calls += 1
        if calls == 3:
            raise KeyboardInterrupt
        return real(request)

    monkeypatch.setattr(cold_start, "_start", interrupted)
    options = COLD.model_copy(update={"cold_starts": 3})
    result = bench_bundle(chained_bundle(), NAMES[:1], options=options)
    assert result.incomplete == "broken off by Ctrl-C"
    [item] = result.artefacts
    assert item.failures == {}
    assert item.cold_start is not None
    assert len(item.cold_start.to_first_answer_ms) == 1


@pytest.mark.parametrize(
    ("where", "name", "value", "message"),
    [
        (sys, "executable", "/nowhere/python", "cold starts need fresh processes, which cannot be started here"),
        (cold_start, "_DEADLINE_S", 0.01, "no answer from a fresh process in 0.01 s"),
        (tempfile, "tempdir", "/nowhere", "FileNotFoundError: "),
    ],
)
def test_why_there_is_no_cold_start_is_noted(
    where: Any, name: str, value: object, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(where, name, value)
    [item] = bench_bundle(chained_bundle(), NAMES[:1], options=COLD).artefacts
    assert item.cold_start is None
    assert item.failures["cold_start"].startswith(message)
    assert item.n_hops == 5


def test_memory_is_what_the_kernel_says(tmp_path: Path) -> None:
    assert memory.peak_rss_bytes() > 2**20
    assert memory._bytes(tmp_path / "status", "Pss:") is None
    (tmp_path / "status").write_text("Name: x\nPss:      12 kB\nPss_Anon: 4 kB\n")
    assert memory._bytes(tmp_path / "status", "Pss:") == 12 * 1024
    assert memory._bytes(tmp_path / "status", "VmHWM:") is None
