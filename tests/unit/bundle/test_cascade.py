"""A cascade of students in the manifest: what stages take, whose file they share, and what hostile ones are told."""

from __future__ import annotations

import json
from typing import Any

import pytest

from edgeaudio.bundle import Bundle, Manifest, describe, with_manifest
from edgeaudio.errors import ConfigError
from tests import tiny_cascade, tiny_exits


@pytest.fixture
def manifest() -> dict[str, Any]:
    """As JSON, to be changed."""
    dumped: dict[str, Any] = tiny_cascade.cascade_bundle().manifest.model_dump(mode="json")
    return dumped


def refused(manifest: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Manifest.parse(manifest, source="manifest.json")


def test_a_cascade_reads_back_and_stores_no_file_twice(manifest: dict[str, Any]) -> None:
    bundle = tiny_cascade.cascade_bundle()
    assert with_manifest(bundle, bundle.manifest) == tiny_cascade.cascade_bytes()
    for chain in bundle.manifest.exits.chains if bundle.manifest.exits else ():
        first, then = chain.stages
        whole = bundle.manifest.artefact(then.format, then.precision)
        assert (then.path, then.sha256) == (whole.path, whole.sha256)
        assert bundle.payload(then) is bundle.payload(whole)
        assert first.path not in {artefact.path for artefact in bundle.manifest.artefacts}
    assert len(bundle.entries) == 1 + 4 + 4 + 1
    shown = describe(bundle)["exits"]
    assert (shown["after"], shown["macs_to_exit"]) == ([None], [172, 1900])
    assert [stage.get("takes") for stage in shown["chains"][0]["stages"]] == [None, "window"]


def test_what_a_stage_takes_is_said_only_where_it_is_the_window(manifest: dict[str, Any]) -> None:
    assert "takes" not in json.dumps(tiny_exits.exits_bundle().manifest.model_dump(mode="json"))
    assert "cascade" not in tiny_exits.exits_bundle().manifest.model_dump(mode="json")["lineage"]
    stages = manifest["exits"]["chains"][0]["stages"]
    assert "takes" not in stages[0]
    stages[0]["takes"] = "window"
    refused(manifest, "stage 0 takes the window in any case")


def test_a_stage_that_takes_the_window_stands_behind_one_that_leaves_nothing(manifest: dict[str, Any]) -> None:
    stages = manifest["exits"]["chains"][0]["stages"]
    stages[0]["outputs"].insert(0, stages[0]["outputs"][0] | {"name": "hidden0"})
    refused(manifest, r"onnx-fp32-stage0: leaves \[.*hidden0.*onnx-fp32-stage1 takes the window")


def test_a_stage_that_takes_what_is_hidden_needs_something_hidden(manifest: dict[str, Any]) -> None:
    del manifest["exits"]["chains"][0]["stages"][1]["takes"]
    refused(manifest, r"onnx-fp32-stage0: leaves \[\], onnx-fp32-stage1 takes \{")
    manifest["exits"]["chains"][0]["stages"][1]["takes"] = "labels"
    refused(manifest, r"exits\.chains\.0\.stages\.1\.takes")


def test_a_window_is_that_of_the_bundle(manifest: dict[str, Any]) -> None:
    stage = manifest["exits"]["chains"][0]["stages"][1]
    stage["path"], stage["input"]["shape"] = "stages/fp32-1.onnx", [1, 8, 64]
    refused(manifest, r"onnx-fp32-stage1: input shape \(1, 8, 64\)")


@pytest.mark.parametrize("after", [[0], [3]])
def test_an_exit_follows_a_section_or_the_end_of_a_student(manifest: dict[str, Any], after: list[int]) -> None:
    manifest["exits"]["after"] = after
    refused(manifest, f"takes 'window' behind an exit after section {after[0]}; `after` is null where")
    plain: dict[str, Any] = tiny_exits.exits_bundle().manifest.model_dump(mode="json")
    plain["exits"]["after"] = [None]
    refused(plain, "takes 'hidden' behind an exit after section None")


@pytest.mark.parametrize(
    ("field", "value"),
    [("sha256", "0" * 64), ("size_bytes", 9), ("outputs", None), ("path", "stages/fp32-0.onnx")],
)
def test_a_file_is_shared_only_with_the_whole_artefact_that_the_stage_is(
    manifest: dict[str, Any], field: str, value: Any
) -> None:
    stage = manifest["exits"]["chains"][0]["stages"][1]
    stage[field] = [stage["outputs"][0] | {"name": "other"}] if value is None else value
    refused(manifest, "names and paths must be unique")


def test_the_first_stage_shares_no_file(manifest: dict[str, Any]) -> None:
    whole = manifest["artefacts"][0]
    manifest["exits"]["chains"][0]["stages"][0] |= {key: whole[key] for key in ("path", "sha256", "size_bytes")}
    refused(manifest, "names and paths must be unique")


def test_two_stages_share_no_file_but_the_whole_artefact(manifest: dict[str, Any]) -> None:
    chains = manifest["exits"]["chains"]
    chains[2]["stages"][0]["path"] = chains[0]["stages"][0]["path"]
    refused(manifest, "names and paths must be unique")


def test_stateful_stages_take_what_windowed_ones_take() -> None:
    bundle = Bundle.read(tiny_cascade.stateful_cascade_bytes())
    manifest: dict[str, Any] = bundle.manifest.model_dump(mode="json")
    stage = manifest["stateful"]["chains"][0]["stages"][1]
    assert stage["path"] == manifest["stateful"]["artefacts"][0]["path"]
    stage["states"][0]["name"] = "other"
    refused(manifest, "names and paths must be unique")
    manifest = bundle.manifest.model_dump(mode="json")
    del manifest["stateful"]["chains"][0]["stages"][1]["takes"]
    refused(manifest, r"onnx-fp32-stage0-stateful: leaves None, onnx-fp32-stage1-stateful takes \{")
    manifest = bundle.manifest.model_dump(mode="json")
    stage = manifest["stateful"]["chains"][0]["stages"][1]
    stage["path"], stage["input"]["shape"] = "stateful/fp32-1.onnx", [1, 3, 64]
    refused(manifest, r"onnx-fp32-stage1-stateful: input shape \(1, 3, 64\), a step is")
    manifest = bundle.manifest.model_dump(mode="json")
    manifest["exits"] = tiny_exits.exits_bundle().manifest.model_dump(mode="json")["exits"]
    refused(manifest, r"stages of onnx-fp32 take \['hidden', 'window'\], windowed ones \['hidden', 'hidden'\]")
