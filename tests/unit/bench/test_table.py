"""What a terminal of 80 columns shows of a run."""

from __future__ import annotations

import pytest

from edgeaudio.bench.markdown import markdown_text
from edgeaudio.bench.metrics import fair_ratios, refusals
from edgeaudio.bench.schema import BenchResult, Ratio
from edgeaudio.bench.table import WIDTH, format_table
from edgeaudio.report.bench_words import not_measured
from tests import bench_records as records

LONG = "onnx-int8-stateful-exits"
RUNS = {
    "full": records.result(),
    "long names": records.result(records.artefact("onnx-fp32"), records.artefact(LONG, hop_ms=20.0)),
    "foreign": records.result(records.artefact("x" * 128, form="foreign"), records.artefact("a b " * 60)),
    "estimated": records.estimated(),
    "bare": records.result(
        records.artefact(paced=None, cold_start=None, sound_to_event=None, energy=None, accuracy=None), board=None,
        ratios=(), not_run=(),
    ),
    **records.planted(),
}  # fmt: skip


@pytest.mark.parametrize("run", RUNS.values(), ids=RUNS)
def test_it_fits_80_columns_and_ends_with_the_verdict(run: BenchResult) -> None:
    lines = format_table(run).splitlines()
    assert max(map(len, lines)) <= WIDTH
    assert lines[-1] == f"verdict: {run.verdict.level}"


def test_everything_that_was_measured_is_there() -> None:
    text = format_table(RUNS["full"])
    for item in RUNS["full"].artefacts:
        assert text.count(f"\n{item.artefact}  ") == 4
    for word in (
        "Raspberry Pi 4 Model B Rev 1.4, 4 cores, 1 thread",
        "governor ondemand, clock 600 to 1800 MHz, 47 to 62 degrees, not throttled",
        "real-time pace, ms", "0 of 300", "19 of 20", "73 of 80",
        "onnx-int8-exits answered 62% at exit 0, 38% at the end",
        "inference against onnx-fp32: onnx-int8 0.50 (0.48-0.52)",
        "tensorrt-int8 not run: engine 'tensorrt' needs an NVIDIA GPU",
    ):  # fmt: skip
        assert word in " ".join(text.split()) or word in text


def test_what_was_not_measured_takes_no_room() -> None:
    text = format_table(RUNS["bare"])
    assert "real-time pace" not in text
    assert "beyond the hop" not in text
    assert "a board not looked at" in text


def test_a_name_that_is_too_long_stands_above_its_figures() -> None:
    lines = format_table(RUNS["long names"]).splitlines()
    at = lines.index(LONG)
    assert lines[at + 1].split()[-1] == "valid"
    assert f"{LONG} answers every 20 ms" in lines


def test_ratios_of_unlike_hops_are_per_second_of_sound() -> None:
    """0.39 a hop, but ten hops for one: 3.9 times the work."""
    items = records.artefact("onnx-int8"), records.artefact("onnx-int8-stateful", hop_ms=records.HOP_MS / 10)
    old = Ratio(artefact=items[1].artefact, baseline=items[0].artefact, stage="total", value=0.39, interval=(0.3, 0.5))
    new = old.model_copy(update={"value": 3.9, "interval": (3.0, 5.0), "per": "second"})
    for ratio in (old, new):
        text = " ".join(format_table(records.result(*items, ratios=(ratio,))).split())
        assert "total per second of sound against onnx-int8: onnx-int8-stateful 3.90 (3.00-5.00)" in text
    backwards = old.model_copy(update={"artefact": old.baseline, "baseline": old.artefact, "interval": None})
    (turned,) = fair_ratios(records.result(*items, ratios=(backwards,)))
    assert (turned.value, turned.interval, turned.per) == (pytest.approx(0.039), None, "second")


def test_a_percentile_that_the_hops_cannot_carry_says_why() -> None:
    assert refusals(records.artefact(n=20)) == ["20 samples, p95 needs 59", "20 samples, p99 needs 299"]
    assert refusals(records.artefact(stages=())) == []


def test_a_column_that_nobody_fills_is_left_out() -> None:
    head = next(line for line in format_table(RUNS["full"]).splitlines() if line.startswith("beyond the hop"))
    assert head.split("  ")[-1] == "mJ"
    no_power = records.result(records.artefact(energy=None))
    assert " mJ" not in format_table(no_power)


def test_an_estimate_is_called_one_and_has_no_times() -> None:
    text = format_table(RUNS["estimated"])
    assert "estimated, no device" in text
    assert "p50" not in text
    assert "Harness overhead" not in text


def test_reasons_and_a_broken_run_are_said() -> None:
    assert "the run broke off: the connection to pi4 was lost" in format_table(RUNS["incomplete"])
    assert "onnx-int8 is invalid: the board slowed itself down: throttled." in format_table(RUNS["throttled"])


def test_what_broke_off_is_said_in_every_form() -> None:
    run = records.result(records.artefact("onnx-int8", failures={"cold_start": "killed on the device; out of memory?"}))
    said = "onnx-int8: cold starts broke off: killed on the device; out of memory?."
    assert said in " ".join(format_table(run).split())
    assert "cold starts broke off" in markdown_text([run])
    assert any("cold starts broke off" in text for text in not_measured(run))
