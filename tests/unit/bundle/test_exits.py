"""Exits in the manifest: complete chains, thresholds in their range, and bundles without exits as they were."""

from __future__ import annotations

import json
from typing import Any

import pytest

from edgeaudio.bundle import Bundle, Manifest, describe, with_manifest
from edgeaudio.errors import ConfigError
from edgeaudio.spec import ExitCalibration
from tests import tiny_bundle as tiny
from tests import tiny_exits


def changed(path: tuple[str | int, ...], value: Any) -> dict[str, Any]:
    """The manifest of the tiny bundle with exits, one field replaced."""
    manifest: dict[str, Any] = tiny_exits.exits_bundle().manifest.model_dump(mode="json")
    at: Any = manifest
    for step in path[:-1]:
        at = at[step]
    at[path[-1]] = value
    return manifest


def refused(path: tuple[str | int, ...], value: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Manifest.parse(changed(path, value), source="manifest.json")


def test_a_bundle_with_exits_reads_back_and_describes_itself() -> None:
    bundle = tiny_exits.exits_bundle()
    assert bundle.manifest.exits == tiny_exits.exits()
    assert with_manifest(bundle, bundle.manifest) == tiny_exits.exits_bytes()
    shown = describe(bundle)["exits"]
    assert shown["macs_to_exit"] == [1000, 4000]
    assert [chain["name"] for chain in shown["chains"]] == ["onnx-fp32", "onnx-int8", "tflite-fp32", "tflite-int8"]
    assert shown["chains"][0]["size_bytes"] == sum(
        len(bundle.payload(stage)) for stage in tiny_exits.chain("onnx", "fp32").stages
    )


def test_a_bundle_without_exits_has_no_such_field() -> None:
    manifest = tiny.tiny_bundle().manifest
    assert "exits" not in json.loads(manifest.model_dump_json())
    assert "exits" not in describe(tiny.tiny_bundle())
    assert Manifest.parse(manifest.model_dump(mode="json"), source="x").exits is None


@pytest.mark.parametrize("threshold", [-0.01, 1.01, 40])
def test_a_threshold_outside_its_range_names_the_field(threshold: float) -> None:
    message = rf"exits\.chains\.0\.thresholds\.0: .*a confidence from 0 to 1, not {threshold:g}"
    refused(("exits", "chains", 0, "thresholds", 0), threshold, message)


def test_a_chain_must_be_complete() -> None:
    refused(("exits", "chains", 1, "stages", 1, "stage"), 2, r"onnx-int8: stages are \[0, 2\]")
    refused(("exits", "chains", 1, "stages", 1, "precision"), "fp32", "one format and precision")
    refused(("exits", "chains", 1, "thresholds"), [0.5, 0.6], "2 thresholds for 2 stages")
    refused(("exits", "macs_per_stage"), [1, 2, 3], "wanted 2 figures")
    manifest = changed(("exits", "after"), [0, 1])
    manifest["exits"]["macs_per_stage"] = [1, 2, 3]
    with pytest.raises(ConfigError, match="onnx-fp32: has 2 stages; 2 exits make 3"):
        Manifest.parse(manifest, source="manifest.json")


@pytest.mark.parametrize(("field", "value"), [("shape", [1, 2]), ("scale", 0.5), ("zero_point", 1), ("dtype", "int8")])
def test_what_a_stage_leaves_is_what_the_next_one_takes(field: str, value: Any) -> None:
    refused(("exits", "chains", 1, "stages", 1, "input", field), value, "onnx-int8-stage0: leaves .*stage1 takes")


def test_a_quantised_hidden_tensor_has_a_scale() -> None:
    manifest = changed(("exits", "chains", 1, "stages", 1, "input", "scale"), None)
    manifest["exits"]["chains"][1]["stages"][0]["outputs"][0]["scale"] = None
    with pytest.raises(ConfigError, match="its uint8 input needs scale and zero_point"):
        Manifest.parse(manifest, source="manifest.json")


def test_stages_fit_window_and_labels() -> None:
    refused(("exits", "chains", 0, "stages", 0, "input", "shape"), [1, 8, 64], "onnx-fp32-stage0: input shape")
    refused(("exits", "chains", 0, "stages", 0, "outputs", 1, "shape"), [1, 4], "stage0: output shape")
    refused(("exits", "chains", 0, "stages", 0, "path"), "artefacts/fp32.onnx", "paths must be unique")


def test_chains_stand_beside_the_whole_artefact() -> None:
    manifest = changed(("name",), "tiny")
    del manifest["artefacts"][0]
    with pytest.raises(ConfigError, match=r"\['onnx-fp32'\] have no whole artefact"):
        Manifest.parse(manifest, source="manifest.json")
    manifest = changed(("name",), "tiny")
    manifest["exits"]["chains"][1] = manifest["exits"]["chains"][0]
    with pytest.raises(ConfigError, match=r"exits: .*one for each format and precision"):
        Manifest.parse(manifest, source="manifest.json")


def test_thresholds_are_those_of_the_calibration() -> None:
    calibration = ExitCalibration(
        thresholds=(0.8,), max_drop=0, n_windows=9, accuracy=1, full_accuracy=1, share=(0.5, 0.5), mean_macs=9,
        worst_case_macs=10,
    )  # fmt: skip
    refused(("exits", "chains", 0, "calibration"), calibration.model_dump(mode="json"), "not those of its calibration")


def test_a_damaged_stage_is_found() -> None:
    data = bytearray(tiny_exits.exits_bytes())
    at = data.find(tiny_exits.stage_payload("onnx", "fp32", 1))
    data[at + 40] ^= 1
    with pytest.raises(Exception, match=r"stages/fp32-1\.onnx"):
        Bundle.read(bytes(data))
