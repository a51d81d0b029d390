"""The stateful form in the manifest: states that close, steps that fit the window, bundles without it as they were."""

from __future__ import annotations

import json
from typing import Any

import pytest

from edgeaudio.bundle import Bundle, Manifest, describe, with_manifest
from edgeaudio.errors import BundleError, ConfigError
from tests import tiny_bundle as tiny
from tests import tiny_exits, tiny_stateful


def refused(path: tuple[str | int, ...], value: Any, message: str) -> None:
    """The manifest of the tiny stateful bundle, one field replaced, is refused."""
    manifest: dict[str, Any] = tiny_stateful.stateful_bundle().manifest.model_dump(mode="json")
    at: Any = manifest["stateful"]
    for step in path[:-1]:
        at = at[step]
    at[path[-1]] = value
    with pytest.raises(ConfigError, match=message):
        Manifest.parse(manifest, source="manifest.json")


def test_a_stateful_bundle_reads_back_and_describes_itself() -> None:
    bundle = tiny_stateful.stateful_bundle()
    assert bundle.manifest.stateful == tiny_stateful.stateful()
    assert with_manifest(bundle, bundle.manifest) == tiny_stateful.stateful_bytes()
    shown = describe(bundle)["stateful"]
    assert (shown["step_frames"], shown["lead_in_frames"], shown["warm_up_steps"], shown["hop_s"]) == (4, 3, 2, 0.04)
    assert [artefact["name"] for artefact in shown["artefacts"]] == [
        "onnx-fp32-stateful",
        "onnx-int8-stateful",
        "tflite-fp32-stateful",
        "tflite-int8-stateful",
    ]
    assert [artefact["state_bytes"] for artefact in shown["artefacts"]] == [1280, 320, 1280, 320]


def test_a_bundle_without_a_stateful_form_has_no_such_field() -> None:
    manifest = tiny.tiny_bundle().manifest
    assert "stateful" not in json.loads(manifest.model_dump_json())
    assert "stateful" not in describe(tiny.tiny_bundle())
    with pytest.raises(ConfigError, match="has no stateful onnx-fp32 artefact; it has: none; give its recipe"):
        manifest.stateful_artefact("onnx", "fp32")
    with pytest.raises(ConfigError, match="it has: onnx-fp32, "):
        tiny_stateful.stateful_bundle().manifest.stateful_artefact("tensorrt", "fp32")


@pytest.mark.parametrize(("field", "value"), [("shape", [1, 6, 64]), ("dtype", "int8"), ("scale", 0.5)])
def test_a_state_comes_back_as_it_was_taken(field: str, value: Any) -> None:
    refused(("artefacts", 0, "states", 0, field), value, "onnx-fp32-stateful: state .*comes back as")


def test_states_are_given_back_all_and_have_sizes_and_scales() -> None:
    refused(("artefacts", 0, "states"), [], "states")
    refused(("artefacts", 0, "outputs"), [{"name": "logits", "shape": [1, 3]}], "1 outputs, wanted 1 states and")
    refused(("artefacts", 0, "states", 0, "shape"), [1, 0, 64], r"state 'state0' has shape \(1, 0, 64\)")
    refused(("artefacts", 0, "states", 0, "phases"), 0, r"phases")
    manifest = tiny_stateful.stateful_bundle().manifest.model_dump(mode="json")
    int8 = manifest["stateful"]["artefacts"][1]
    int8["states"][0]["scale"] = int8["outputs"][0]["scale"] = None
    with pytest.raises(ConfigError, match="state0 is int8 and needs scale and zero_point"):
        Manifest.parse(manifest, source="manifest.json")


def test_states_that_no_device_could_hold_are_refused() -> None:
    manifest = tiny_stateful.stateful_bundle().manifest.model_dump(mode="json")
    artefact = manifest["stateful"]["artefacts"][0]
    artefact["states"][0]["shape"] = artefact["outputs"][0]["shape"] = [1, 2**30, 64]
    with pytest.raises(ConfigError, match="states of 274877906944 bytes, at most"):
        Manifest.parse(manifest, source="manifest.json")


def test_steps_fit_the_window() -> None:
    refused(("step_frames",), 3, "step_frames is 3, which does not divide the window's hop of 4")
    refused(("lead_in_frames",), 0, "lead_in_frames is 0 and warm_up_steps 2, the window wants 3 and 2")
    refused(("warm_up_steps",), 1, "the window wants 3 and 2")
    refused(("artefacts", 2, "input", "shape"), [1, 2, 64], r"tflite-fp32-stateful: input shape \(1, 2, 64\)")
    refused(("artefacts", 2, "outputs", 1, "shape"), [1, 4], "tflite-fp32-stateful: output shape .* the labels")
    refused(("artefacts", 1, "precision"), "fp32", "one for each format and precision")


def test_every_stateful_artefact_has_its_windowed_form_beside_it() -> None:
    manifest = tiny_stateful.stateful_bundle().manifest.model_dump(mode="json")
    manifest["artefacts"] = manifest["artefacts"][:2]
    with pytest.raises(ConfigError, match=r"\['tflite-fp32', 'tflite-int8'\] have no windowed form beside them"):
        Manifest.parse(manifest, source="manifest.json")


def test_a_damaged_step_is_named() -> None:
    data = bytearray(tiny_stateful.stateful_bytes())
    at = data.index(tiny_stateful.step_payload("onnx", "fp32"))
    data[at + 100] ^= 1
    with pytest.raises(BundleError, match=r"stateful/fp32\.onnx"):
        Bundle.read(bytes(data))


def chain(**changes: Any) -> dict[str, Any]:
    """A stateful chain of two stages; `changes` replace fields of the first."""
    state = {"name": "state0", "shape": [1, 2, 64]}
    back = {"name": "state0_next", "shape": [1, 2, 64]}
    hidden, logits = {"name": "hidden0", "shape": [1, 4, 8]}, {"name": "logits", "shape": [1, 3]}
    common = {"size_bytes": 0, "sha256": "0" * 64, "format": "onnx", "precision": "fp32", "states": [state]}
    first = {"path": "stateful/fp32-0.onnx", "stage": 0, "input": {"name": "log_mel", "shape": [1, 4, 64]}}
    last = {"path": "stateful/fp32-1.onnx", "stage": 1, "input": hidden, "outputs": [back, logits]}
    return {"stages": [common | first | {"outputs": [back, hidden, logits]} | changes, common | last]}


def moved(again: dict[str, Any]) -> dict[str, Any]:
    """The same chain at other paths."""
    return {"stages": [stage | {"path": f"other/{stage['stage']}.onnx"} for stage in again["stages"]]}


def with_chains(*chains: dict[str, Any], macs: tuple[int, ...] = (1, 2)) -> dict[str, Any]:
    """The manifest of the tiny bundle with exits and a stateful form of these chains."""
    manifest = tiny_stateful.stateful_bundle().manifest.model_dump(mode="json")
    manifest["exits"] = tiny_exits.exits().model_dump(mode="json")
    manifest["stateful"] |= {"chains": list(chains), "macs_per_stage": list(macs)}
    return manifest


def test_stages_come_as_steps_too() -> None:
    manifest = Manifest.parse(with_chains(chain()), source="manifest.json")
    stages = manifest.stateful_chain("onnx", "fp32").stages
    assert [stage.name for stage in stages] == ["onnx-fp32-stage0-stateful", "onnx-fp32-stage1-stateful"]
    assert [stage.window_name for stage in stages] == ["onnx-fp32-stage0", "onnx-fp32-stage1"]
    assert manifest.model_files[-2:] == stages
    assert stages[0].hidden == stages[1].input
    with pytest.raises(ConfigError, match="no stateful stages as tflite-fp32; it has: onnx-fp32"):
        manifest.stateful_chain("tflite", "fp32")


@pytest.mark.parametrize(
    ("manifest", "message"),
    [
        (with_chains(chain(stage=1)), r"stateful stages are \[1, 1\]"),
        (with_chains(chain(precision="int8")), "one format and precision"),
        (with_chains(chain(outputs=chain()["stages"][1]["outputs"])), "stage0-stateful: leaves None"),
        (with_chains({"stages": [chain()["stages"][0]] * 2}), r"stateful stages are \[0, 0\]"),
        (with_chains(chain(), moved(chain())), "stateful.chains: one for each"),
        (with_chains(chain(), macs=(1,)), "onnx-fp32 has 2 stages, its windowed form 2, macs_per_stage 1"),
        (with_chains(chain(input={"name": "log_mel", "shape": [1, 2, 64]})), r"input shape \(1, 2, 64\)"),
        (
            with_chains(chain()) | {"exits": None},
            r"stateful.chains: \['onnx-fp32'\] have no windowed form beside them; the bundle has \[\]",
        ),
    ],
)
def test_a_chain_of_steps_is_complete(manifest: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Manifest.parse(manifest, source="manifest.json")
