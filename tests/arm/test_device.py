"""`edgeaudio bench` on an emulated processor, from the command line to the estimate."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from edgeaudio.bench.schema import BenchResult
from edgeaudio.cli.main import main
from tests.arm.guest import CPU_32, emulator, engines_of
from tests.tiny_bundle import tiny_bytes

pytestmark = pytest.mark.arm


def bench(cpu: str, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> BenchResult:
    emulator(cpu)
    monkeypatch.setenv("XDG_DATA_HOME", str(folder))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(folder))
    (folder / "tiny.eab").write_bytes(tiny_bytes("onnx-fp32", "tflite-fp32", "tflite-int8"))
    assert main(["bench", str(folder / "tiny.eab"), "--device", f"emulated:{cpu}", "--json"]) == 0
    fields: dict[str, Any] = json.loads(capsys.readouterr().out)
    fields.pop("verdict")
    return BenchResult.parse(fields, source=cpu)


@pytest.mark.parametrize("cpu", ["cortex-a72", CPU_32])
def test_an_artefact_is_checked_and_its_instructions_are_counted(
    cpu: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    result = bench(cpu, tmp_path, monkeypatch, capsys)
    assert result.kind == "estimated"
    assert {item.engine for item in result.artefacts} == set(engines_of(cpu))
    assert [item.artefact for item in result.not_run] == (["onnx-fp32"] if cpu == CPU_32 else [])
    for item in result.artefacts:
        assert item.parity is not None
        assert item.parity.passed
        assert item.estimate is not None
        assert item.estimate.spread_share < 0.01
        assert item.estimate.instructions_per_inference > 10_000
        assert set(item.estimate.instructions_per_stage) == {"frontend", "inference", "decision"}
        assert (item.stages, item.n_hops, item.load_ms) == ((), 0, None)
        if cpu != CPU_32:
            # On a board LiteRT has it: instructions of other kernels would be of no use.
            assert item.verdict.level == "valid"
