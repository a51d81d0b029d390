"""Stages of a real student in both formats and precisions: bit for bit the whole, from window to final answer."""

from __future__ import annotations

import functools

import numpy as np
import pytest
import torch
from edgeaudio_export.export import export_student
from edgeaudio_export.onnx_cut import cut_onnx
from edgeaudio_export.onnx_export import export_onnx
from edgeaudio_export.parity import ParityGate
from edgeaudio_export.staged import (
    ExportedChain,
    add_exits,
    chain_parity,
    export_stages,
    logits_by_exit,
    staged_layers,
)
from torch import nn

from edgeaudio.bundle import Bundle, Exits, bundle_bytes
from edgeaudio.compress.exit_calibration import ExitAnswers, calibrate_exits
from edgeaudio.compress.ptq import QuantisedStudent, quantise_ptq
from edgeaudio.errors import ConfigError, VerificationError
from edgeaudio.pipeline.packing import make_golden
from edgeaudio.runtime import Classifier, check_bundle
from edgeaudio.spec import FrontendSpec, LabelSet, TaskSpec, WindowSpec
from edgeaudio.students.exits import StagedGraph, stage_macs
from tests import tiny_bundle as tiny
from tests.tiny_student import CLASSES, FRAMES, N_MELS, tiny_exits, tiny_student, windows
from tests.tolerances import FP32_EXPORT_MAX_ABS_LOGIT

NAMES = ("onnx-fp32", "onnx-int8", "tflite-fp32", "tflite-int8")
every_chain = pytest.mark.parametrize("name", NAMES)


@functools.cache
def quantised() -> QuantisedStudent:
    return quantise_ptq(StagedGraph(tiny_exits()), windows(64))


@functools.cache
def chains() -> dict[str, ExportedChain]:
    return {chain.name: chain for chain in export_stages(tiny_exits(), quantised(), FRAMES, N_MELS)}


@functools.cache
def bundle() -> Bundle:
    """Whole artefacts first, then exits added, calibrated on the int8 and float files themselves."""
    frontend, window = FrontendSpec(), WindowSpec(frames=FRAMES, hop_frames=20)
    # With its exits, which share in how its weights are equalised and rounded.
    whole_int8 = quantise_ptq(tiny_exits(), windows(64))
    exported = export_student(tiny_exits(), whole_int8, FRAMES, N_MELS)
    entries = tuple(artefact.manifest_entry() for artefact in exported)
    payloads = {artefact.path: artefact.payload for artefact in exported}
    golden = make_golden(frontend, window, entries, payloads)
    task = TaskSpec(labels=LabelSet(names=tuple(f"class {i}" for i in range(CLASSES))))
    manifest = tiny.manifest(entries, golden, frontend=frontend, window=window, task=task)
    whole = Bundle.read(bundle_bytes(manifest, payloads, golden))
    macs = stage_macs(tiny_exits(), FRAMES, N_MELS)
    calibration, targets = windows(60, seed=3).numpy(), np.arange(60) % CLASSES
    described = tuple(
        chain.manifest_entry(
            calibrate_exits(ExitAnswers(chain.cascade("single_label").logits(calibration), targets, macs), 0.1)
        )
        for chain in chains().values()
    )
    exits = Exits(after=tiny_exits().spec.after, macs_per_stage=macs, chains=described)
    files = {path: payload for chain in chains().values() for path, payload in chain.payloads.items()}
    return Bundle.read(add_exits(whole, exits, files))


@pytest.mark.slow
@every_chain
def test_the_last_stage_answers_bit_for_bit_as_the_whole(name: str) -> None:
    chain = next(chain for chain in bundle().manifest.exits.chains if chain.name == name)  # type: ignore[union-attr]
    parity = chain_parity(bundle(), chain, windows(40, seed=4).numpy(), ParityGate(0.0, 1.0))
    assert parity.passed
    assert parity.max_abs_logit_diff == 0
    assert parity.reference == name


@pytest.mark.slow
@pytest.mark.parametrize("name", ["onnx-fp32", "tflite-fp32"])
def test_every_exit_answers_as_in_torch(name: str) -> None:
    log_mel = windows(40, seed=4).numpy()
    expected = logits_by_exit(tiny_exits(), log_mel)
    assert np.abs(chains()[name].cascade("single_label").logits(log_mel) - expected).max() < FP32_EXPORT_MAX_ABS_LOGIT


@pytest.mark.slow
def test_int8_exits_of_both_formats_agree() -> None:
    log_mel = windows(100, seed=5).numpy()
    onnx, tflite = (chains()[name].cascade("single_label").logits(log_mel) for name in ("onnx-int8", "tflite-int8"))
    for one, other in zip(onnx, tflite, strict=True):
        assert np.mean(one.argmax(axis=1) == other.argmax(axis=1)) >= 0.99


@pytest.mark.slow
def test_int8_hidden_tensors_stay_quantised_and_are_one_in_both_formats() -> None:
    for onnx, tflite in zip(chains()["onnx-int8"].stages[1:], chains()["tflite-int8"].stages[1:], strict=True):
        assert (onnx.input.dtype, tflite.input.dtype) == ("uint8", "int8")
        assert onnx.input.scale == pytest.approx(tflite.input.scale, rel=1e-6)
        assert onnx.input.zero_point == tflite.input.zero_point + 128


@pytest.mark.slow
def test_a_chain_holds_each_weight_once() -> None:
    for precision in ("fp32", "int8"):
        chain = chains()[f"onnx-{precision}"]
        whole = bundle().manifest.artefact("onnx", precision)
        assert chain.size_bytes < whole.size_bytes + 1000 * len(chain.stages)


@pytest.mark.slow
def test_the_bundle_checks_itself_and_runs() -> None:
    report = check_bundle(bundle())
    assert report.complete, [str(item) for item in report.failed]
    waveform = np.concatenate(list(bundle().golden.waveform))
    for engine, precision in (("onnx", "int8"), ("litert", "int8")):
        result = Classifier(bundle(), engine=engine, precision=precision, exits=True)(waveform, 16_000)
        assert result.window_exits is not None
        assert set(result.window_exits) <= {0, 1, 2}


@pytest.mark.slow
def test_exporting_twice_gives_the_same_bytes() -> None:
    (again,) = export_stages(tiny_exits(), None, FRAMES, N_MELS, formats=["onnx"], precisions=["fp32"])
    assert again.payloads == chains()["onnx-fp32"].payloads


class Leaky(nn.Module):
    """Two "stages" of which the second looks at the window again."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(N_MELS, 8), nn.Linear(8, 8)
        self.head = nn.Linear(8 + N_MELS, CLASSES)
        self.exit = nn.Linear(8, CLASSES)

    def forward(self, log_mel: torch.Tensor) -> tuple[torch.Tensor, ...]:
        hidden = self.first(log_mel).relu()
        last = self.second(hidden).relu()
        final = self.head(torch.cat([last.mean(dim=1), log_mel.mean(dim=1)], dim=1))
        return hidden, self.exit(hidden.mean(dim=1)), final


@pytest.mark.slow
def test_a_stage_that_reads_more_than_it_is_given_is_refused() -> None:
    whole = export_onnx(Leaky(), torch.zeros(1, FRAMES, N_MELS), "fp32")
    with pytest.raises(VerificationError, match=r"also reads .*log_mel"):
        cut_onnx(whole.payload)


def test_layers_keep_their_identity_in_the_staged_graph() -> None:
    graph = StagedGraph(tiny_exits())
    (found,) = staged_layers(tiny_student(), graph, ["stages.1.0.depthwise.0"])
    assert graph.get_submodule(found) is tiny_student().get_submodule("stages.1.0.depthwise.0")
    with pytest.raises(ConfigError, match=r"no\.such"):
        staged_layers(tiny_student(), graph, ["no.such"])


def test_int8_needs_the_quantised_staged_graph() -> None:
    with pytest.raises(ConfigError, match=r"quantise_ptq on StagedGraph"):
        export_stages(tiny_exits(), None, FRAMES, N_MELS, precisions=["int8"])
    with pytest.raises(ConfigError, match="nothing to export"):
        export_stages(tiny_exits(), None, FRAMES, N_MELS, formats=[])
