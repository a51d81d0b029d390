"""Pruning, exits, ablations, few labels, semi-supervision and QAT through the command line, on the built-in sounds."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from edgeaudio.bundle import Bundle
from edgeaudio.pipeline.summary import RunSummary

SHARED = """\
seed: 3
data: {kind: synth, synth_clips_per_class: 6, synth_unlabelled: 12, test_folds: [2]FEW}
teacher:
  name: wide-cnn
  width: 12
  train: {windows_seen: 640, loss: {labels: 1, logits: 0, embedding: 0}}
windows: {count: 320, unlabelled_count: 128, held_out: 96}
# The machinery is on trial here: a student trained this briefly has logits too near each other for int8.
verify: {int8_min_agreement: 0.5, int8_max_clips_lost: 20}
"""
CUT_AND_EXITS = """\
name: cut
student: {family: dscnn, width: 8}
train: {windows_seen: 640, unlabelled_share: 0.25}
ablate: [pool]
prune: {target: bytes, keep: 0.7, steps: 2, recover_windows: 128, finish_windows: 128}
exits: {after: [0, 1], train: {windows_seen: 320, loss: {exit_labels: 0.1, exit_teacher: 0.9, exit_final: 0.5}}}
quantize: {calibration_windows: 64, sensitivity: true}
"""
FEW_LABELS_AND_QAT = """\
name: few
student: {family: transformer, width: 12, depth: 1, patch_frames: 9}
train: {windows_seen: 640, unlabelled_share: 0.5, semi: {method: fixmatch}}
quantize: {method: qat, calibration_windows: 64, qat: {windows_seen: 320}}
control: false
formats: [onnx, tensorrt]
"""

pytestmark = pytest.mark.slow


def edgeaudio(*arguments: str, cwd: Path) -> str:
    command = [sys.executable, "-m", "edgeaudio.cli.main", *arguments]
    done = subprocess.run(command, cwd=cwd, capture_output=True, timeout=540, check=False)
    assert done.returncode == 0, done.stderr.decode()[-2000:]
    return done.stdout.decode()


def run(folder: Path, text: str, few: str = "") -> RunSummary:
    """Run a recipe in `folder/work`."""
    (folder / "recipe.yaml").write_text(SHARED.replace("FEW", few) + text)
    edgeaudio("run", "recipe.yaml", "--work", "work", cwd=folder)
    return RunSummary.model_validate_json((folder / "work" / "summary.json").read_bytes())


@pytest.fixture(scope="module")
def cut(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, RunSummary]:
    """A run with cuts, exits and an ablation."""
    folder = tmp_path_factory.mktemp("cut")
    return folder, run(folder, CUT_AND_EXITS)


def test_every_arm_is_cut_and_gets_exits(cut):
    _, summary = cut
    assert [arm.arm for arm in summary.folds[0].arms] == ["distilled", "labels-only", "without-pool"]
    for arm in summary.folds[0].arms:
        assert arm.params is not None
        before, after_cuts = arm.chain
        assert (before.name, after_cuts.name) == ("trained", "without-exits")
        assert after_cuts.params < 0.8 * before.params
        assert before.params == summary.params
        assert sorted(item.name for item in arm.exits) == ["onnx-fp32", "onnx-int8", "tflite-fp32", "tflite-int8"]
        for item in arm.exits:
            assert sum(item.share) == pytest.approx(1)
            assert 0 < item.mean_macs <= item.worst_case_macs


def test_the_bundle_carries_exits_and_thresholds_of_its_own_for_each_artefact(cut):
    folder, summary = cut
    arm = summary.folds[0].arm("distilled")
    assert arm is not None
    manifest = Bundle.read(folder / "work" / arm.bundle).manifest
    assert manifest.exits is not None
    assert manifest.exits.after == (0, 1)
    assert manifest.cost.params == arm.params
    for artefact in manifest.artefacts:
        assert artefact.decision is not None
        assert artefact.decision.threshold_off < artefact.decision.threshold_on
    for chain in manifest.exits.chains:
        assert chain.calibration is not None
        assert chain.calibration.full_accuracy - chain.calibration.accuracy <= chain.calibration.max_drop + 1e-9
        assert chain.parity is not None
        assert chain.parity.passed


def test_the_exits_verb_draws_the_trade_off(cut):
    folder, summary = cut
    arm = summary.folds[0].arm("distilled")
    assert arm is not None
    bundle = str(Path("work") / arm.bundle)
    dataset = next((folder / "work" / "stages").glob("data-*"))
    shown = edgeaudio("exits", bundle, str(dataset), "--kind", "synth", "--fold", "2", "--json", cwd=folder)
    assert json.loads(shown)


def test_a_finished_run_gets_its_stateful_form_by_exporting_again(cut, tmp_path):
    folder, _ = cut
    options = ["stateful.step_frames=4", "formats=[onnx]", "ablate=[]", "control=false"]
    again = tmp_path / "work"
    shutil.copytree(folder / "work", again)
    command = ["run", "recipe.yaml", "--work", str(again), *(part for option in options for part in ("--set", option))]
    edgeaudio(*command, cwd=folder)
    assert {path.name for path in again.glob("stages/exits-*")} == {
        path.name for path in (folder / "work").glob("stages/exits-*")
    }
    bundle = Bundle.read(again / "bundles/cut-fold2.eab")
    stateful = bundle.manifest.stateful
    assert stateful is not None
    assert {file.name for file in stateful.files} == {
        f"onnx-{precision}{stage}-stateful"
        for stage in ("", "-stage0", "-stage1", "-stage2")
        for precision in ("fp32", "int8")
    }
    assert all(file.parity is not None and file.parity.passed for file in stateful.files)
    clip = next(again.glob("stages/data-*/audio/*.wav"))
    stream = ["stream", str(again / "bundles/cut-fold2.eab"), "--input", str(clip), "--exits", "--stateful"]
    done = subprocess.run(
        [sys.executable, "-m", "edgeaudio.cli.main", *stream], cwd=folder, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert "of them to catch up on hops that had stopped earlier" in done.stderr


def test_the_same_recipe_again_does_nothing(cut):
    folder, _ = cut
    lines = (folder / "work" / "run.jsonl").read_text().splitlines()
    edgeaudio("run", "recipe.yaml", "--work", "work", cwd=folder)
    again = [json.loads(line) for line in (folder / "work" / "run.jsonl").read_text().splitlines()[len(lines) :]]
    assert {line["event"] for line in again} == {"skipped"}


def test_few_labels_semi_supervision_a_transformer_and_qat(tmp_path):
    summary = run(tmp_path, FEW_LABELS_AND_QAT, few=", labels_per_class: 2")
    (arm,) = summary.folds[0].arms
    names = [step.name for step in arm.chain]
    assert names == ["int8 without more training", "trained on in float, then int8"]
    assert all(step.size_bytes for step in arm.chain)
    stages = {path.name.rsplit("-", 1)[0] for path in (tmp_path / "work" / "stages").iterdir()}
    assert {"label-rest-fold2", "label-fold2", "quantize-fold2-distilled"} <= stages
    (store,) = (tmp_path / "work" / "stages").glob("label-fold2-*/labels.store")
    assert store.is_file()
    manifest = Bundle.read(tmp_path / "work" / arm.bundle).manifest
    executors = {artefact.name: artefact.parity.executor for artefact in manifest.artefacts if artefact.parity}
    assert executors == {
        "onnx-fp32": None,
        "onnx-int8": None,
        "tensorrt-fp32": "onnxruntime",
        "tensorrt-int8": "onnxruntime",
    }
