"""The table of int8 against fp32 that guest_instructions.py writes."""

from __future__ import annotations

import json

import pytest

from benchmarks.guest_ratios import BAR, STRETCH, Measurement, Ratio, Result, markdown


def counted(artefact: str, cpu: str, *instructions: int) -> Measurement:
    return Measurement(
        artefact=artefact,
        cpu=cpu,
        size_bytes=1000,
        instructions=instructions,
        marker_instructions=30,
        input_conversion=700 if artefact == "tflite-int8" else 0,
        max_abs_logit_diff=0.0,
        tolerance=0.001,
        operators={"CONV_2D": 8},
        whole_delegate=True if artefact.startswith("tflite") else None,
        packages={"numpy": "2.0"},
    )


def result(*measurements: Measurement) -> Result:
    return Result(
        command="python benchmarks/guest_instructions.py x.eab",
        bundle="x",
        bundle_sha256="a" * 64,
        emulator="qemu",
        processes=1,
        inferences=3,
        measurements=measurements,
    )


def test_ratios_pair_the_precisions_of_one_format_on_one_cpu() -> None:
    ratios = result(
        counted("onnx-fp32", "cortex-a76", 1000),
        counted("onnx-int8", "cortex-a76", 300, 301, 500),
        counted("onnx-fp32", "cortex-a72", 1000),
        counted("onnx-int8", "cortex-a72", 900),
        counted("tflite-int8", "cortex-a76", 100),
    ).ratios
    assert [(r.format, r.cpu, r.value) for r in ratios] == [("onnx", "cortex-a76", 0.301), ("onnx", "cortex-a72", 0.9)]


@pytest.mark.parametrize(
    ("int8", "verdict"),
    [(350, f"within {STRETCH} (stretch)"), (351, f"within {BAR}"), (500, f"within {BAR}"), (501, f"above {BAR}")],
)
def test_the_bars_include_their_bound(int8: int, verdict: str) -> None:
    assert Ratio(format="onnx", cpu="cortex-a76", fp32=1000, int8=int8).verdict == verdict


def test_the_table_says_what_it_is_and_how_it_was_made() -> None:
    text = markdown(result(counted("tflite-fp32", "cortex-a76", 3000), counted("tflite-int8", "cortex-a76", 1200)))
    assert "emulated, instructions only; not run on hardware" in text
    assert "    python benchmarks/guest_instructions.py x.eab\n" in text
    assert "| tflite | cortex-a76 | 3,000 | 1,200 | **0.400** | within 0.5 |" in text
    assert "| tflite-int8 | cortex-a76 | 1,200 | 0.000% | 700 | 1,000 | 0 (0.001) |" in text
    assert "- tflite-int8, cortex-a76, all in one XNNPACK delegate: CONV_2D × 8" in text


def test_the_json_holds_raw_counts_medians_and_ratios() -> None:
    made = result(counted("onnx-fp32", "cortex-a76", 1000, 1002, 1001), counted("onnx-int8", "cortex-a76", 1001))
    read = json.loads(made.model_dump_json())
    assert read["measurements"][0]["instructions"] == [1000, 1002, 1001]
    assert read["measurements"][0]["median"] == 1001
    assert read["ratios"] == [{"format": "onnx", "cpu": "cortex-a76", "fp32": 1001, "int8": 1001, "value": 1.0}]
