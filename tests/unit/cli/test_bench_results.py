"""What `bench` wrote is compared, reported and remembered; what must not be used is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from edgeaudio.bench.history import append_history, read_history
from edgeaudio.bench.schema import BenchResult, write_result
from edgeaudio.cli.main import main
from edgeaudio.runtime.engines.onnx_engine import OnnxEngine
from tests import bench_records as records
from tests import tiny_bundle as tiny

QUICK = ("--artefact", "onnx-fp32", "--min-hops", "20", "--min-seconds", "0")


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty folder, and a history of its own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    Path("x.eab").write_bytes(tiny.tiny_bytes())
    for name, result in {
        "a": records.result(),
        "slow": records.result(records.artefact("onnx-int8", scale=1.5, seed=2)),
        "other": records.result(environment=records.environment("pi5")),
        "bad": records.planted()["throttled"],
        "broken": records.planted()["incomplete"],
        "estimate": records.estimated(),
    }.items():
        write(name, result)


def write(name: str, result: BenchResult) -> None:
    write_result(result, Path(f"{name}.json"))


def run(capsys: pytest.CaptureFixture[str], *arguments: str, code: int = 0) -> tuple[str, str]:
    capsys.readouterr()
    found = main([*arguments])
    captured = capsys.readouterr()
    assert found == code, captured.err
    return captured.out, captured.err


def compare(capsys: pytest.CaptureFixture[str], *arguments: str, code: int = 0) -> Any:
    return json.loads(run(capsys, "bench", "compare", *arguments, "--json", code=code)[0])


def test_the_verb_and_its_verbs_live_side_by_side(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "x.eab", *QUICK]) in (0, 4)
    assert main(["bench", *QUICK, "x.eab"]) in (0, 4)
    assert "verdict: " in capsys.readouterr().out
    Path("compare").write_bytes(tiny.tiny_bytes())
    assert main(["bench", "./compare", *QUICK]) in (0, 4)


def test_a_comparison_says_what_changed_and_what_is_noise(capsys: pytest.CaptureFixture[str]) -> None:
    out, _ = run(capsys, "bench", "compare", "a.json", "a.json")
    lines = [line.split() for line in out.splitlines()]
    assert ["latency_ms_p50", "0.954", "0.954", "+0.0", "%", "within", "noise"] in lines
    assert ["size_bytes", "322.0", "KiB", "322.0", "KiB", "+0.0", "%", "exact"] in lines
    assert max(map(len, out.splitlines())) <= 80
    out, _ = run(capsys, "bench", "compare", "a.json", "slow.json")
    assert ["inference_ms_p50", "0.402", "0.604", "+50.2", "%", "apart"] in [line.split() for line in out.splitlines()]
    assert "only before: onnx-fp32, onnx-int8-exits, tflite-int8" in out


def test_rules_that_hold_fail_with_exit_code_3(capsys: pytest.CaptureFixture[str]) -> None:
    rules = ["--fail-if", "latency_ms_p95>+5%", "--fail-if", "onnx-int8:size_bytes>+0%"]
    out, err = run(capsys, "bench", "compare", "a.json", "slow.json", *rules, code=3)
    assert "FAILED  latency_ms_p95>+5%  onnx-int8: 0.662 to 0.874, +32.0 %" in out
    assert "ok      onnx-int8:size_bytes>+0%  onnx-int8: 101376 to 101376, +0.0 %" in out
    assert err.startswith("error: 1 of 2 checks failed: latency_ms_p95>+5% on onnx-int8: ")
    found = compare(capsys, "a.json", "slow.json", *rules, code=3)
    assert [item["failed"] for item in found["rules"]] == [True, False]
    assert not [item for item in compare(capsys, "a.json", "a.json", *rules)["rules"] if item["failed"]]


def test_a_rule_that_cannot_be_checked_fails_too(capsys: pytest.CaptureFixture[str]) -> None:
    _, err = run(capsys, "bench", "compare", "a.json", "a.json", "--fail-if", "instructions>+2%", code=3)
    assert "cannot be checked: not measured" in err


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["a.json", "a.json", "--fail-if", "latency_ms_p59>+5%"], 2, "Did you mean 'latency_ms_p9"),
        (["a.json", "a.json", "--fail-if", "latency>"], 2, "wanted [ARTEFACT:]METRIC OP LIMIT"),
        (["a.json", "other.json"], 2, "device pi4 and pi5. Say --allow-different"),
        (["a.json", "estimate.json"], 2, "kind measured and estimated"),
        (["a.json", "bad.json"], 4, "bad.json: these figures must not be used: onnx-int8: the board slowed itself"),
        (["broken.json", "a.json"], 4, "broken.json: these figures must not be used: onnx-int8: the run broke off"),
        (["a.json", "none.json"], 2, "none.json: not a readable benchmark result"),
    ],
)
def test_what_is_not_compared_says_why(
    arguments: list[str], code: int, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    out, err = run(capsys, "bench", "compare", *arguments, code=code)
    assert message in err
    assert out == ""


def test_what_is_refused_can_be_allowed(capsys: pytest.CaptureFixture[str]) -> None:
    assert (
        "they differ: device pi4 and pi5"
        in run(capsys, "bench", "compare", "a.json", "other.json", "--allow-different")[0]
    )
    assert "invalid" in run(capsys, "bench", "compare", "a.json", "bad.json", "--allow-invalid")[0]
    found = compare(capsys, "a.json", "other.json", "--allow-different")
    assert found["differences"] == ["device pi4 and pi5"]


def test_a_metric_that_begins_at_zero_is_still_json(capsys: pytest.CaptureFixture[str]) -> None:
    late = records.artefact(paced=records.paced(misses=2))
    write("late", records.result(late))
    found = compare(capsys, "a.json", "late.json", "--fail-if", "paced_miss_share>0.01")
    (change,) = (c for c in found["artefacts"][0]["changes"] if c["metric"] == "paced_miss_share")
    assert change["share"] is None


def test_reports_are_written_and_named(capsys: pytest.CaptureFixture[str]) -> None:
    out, _ = run(
        capsys, "bench", "report", "a.json", "other.json", "--out", "b/x.html", "--out", "x.csv", "--out", "x.md"
    )
    assert out.split() == ["b/x.html", "x.csv", "x.md"]
    assert "pi5" in Path("b/x.html").read_text()
    assert run(capsys, "bench", "report", "estimate.json")[0] == "bench.html\n"


def test_a_report_does_not_publish_invalid_figures_unasked(capsys: pytest.CaptureFixture[str]) -> None:
    _, err = run(capsys, "bench", "report", "a.json", "bad.json", code=4)
    assert "bad.json: these figures must not be used" in err
    assert not Path("bench.html").exists()
    run(capsys, "bench", "report", "a.json", "bad.json", "--allow-invalid")
    assert "These figures must not be used" in Path("bench.html").read_text()
    _, err = run(capsys, "bench", "report", "a.json", "--out", "x.pdf", code=2)
    assert "wanted a file that ends in .html, .csv, .md" in err


def test_a_silent_fallback_ends_in_exit_code_4(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    info = {"engine": "onnx", "library": "onnxruntime", "version": "1", "provider": "AzureExecutionProvider"}
    monkeypatch.setattr(OnnxEngine, "info", property(lambda self: info))
    out, err = run(capsys, "bench", "x.eab", *QUICK, code=4)
    assert "CPUExecutionProvider was asked for, but 'AzureExecutionProvider' took the graph" in " ".join(out.split())
    assert "provider" in err


def test_a_finished_run_is_remembered(capsys: pytest.CaptureFixture[str]) -> None:
    main(["bench", "x.eab", *QUICK, "--out", "first.json"])
    main(["bench", "x.eab", *QUICK])
    first, second = read_history()
    assert (first.result, second.result) == (str(Path("first.json").resolve()), None)
    assert json.loads(Path("first.json").read_text())["run_id"] == first.run_id
    found = json.loads(run(capsys, "bench", "history", "--json")[0])
    assert [item["run_id"] for item in found] == [first.run_id, second.run_id]
    out, _ = run(capsys, "bench", "history", "--device", "local", "--bundle", "tiny")
    assert len(out.splitlines()) == 3
    assert len(run(capsys, "bench", "history", "--device", "pi4")[0].splitlines()) == 1


def test_hostile_names_stay_harmless_on_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    evil = "pi\x1b[2J\n\u202e" + "x" * 4096
    result = records.result(records.artefact(evil), environment=records.environment(evil), bundle_name=evil, ratios=())
    write("evil", result)
    append_history(result)
    for arguments in (("compare", "evil.json", "evil.json"), ("history",)):
        out, _ = run(capsys, "bench", *arguments)
        assert not set(out) & {"\x1b", "\u202e"}
        assert max(map(len, out.splitlines())) < 400


@pytest.mark.parametrize(("share", "code"), [(0.01, 0), (0.03, 3)])
def test_more_instructions_than_before_fail_the_gate(
    share: float, code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    item = records.estimated().artefacts[0]
    assert item.estimate is not None
    grown = round(item.estimate.instructions_per_inference * (1 + share))
    estimate = item.estimate.model_copy(update={"instructions_per_inference": grown})
    write("grown", records.estimated(artefacts=(item.model_copy(update={"estimate": estimate}),)))
    _, err = run(capsys, "bench", "compare", "estimate.json", "grown.json", "--fail-if", "instructions>+2%", code=code)
    assert ("instructions>+2% on tflite-int8" in err) == bool(code)
