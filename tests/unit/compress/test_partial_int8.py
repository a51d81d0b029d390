"""Layers declared float: just those are, in the graph and in both files, and a wrong declaration is an error."""

from __future__ import annotations

import dataclasses
import functools

import numpy as np
import pytest
import torch
from edgeaudio_export.onnx_export import export_onnx
from edgeaudio_export.parity import engine_for
from edgeaudio_export.tflite_export import export_tflite
from torch import nn

from edgeaudio.compress.layers import float_layers, fold_batch_norms, weighted_layers
from edgeaudio.compress.ptq import QuantisedStudent, quantise_ptq
from edgeaudio.compress.qdq import WEIGHTED_OPS, check_integer_graph, is_dequantise, module_path
from edgeaudio.errors import ConfigError, UnsupportedError, VerificationError
from tests.tiny_student import FRAMES, N_MELS, logits, tiny_quantised, tiny_student, windows
from tests.tolerances import INT8_MIN_SQNR_DB, TORCH_SAME_SUMS

EXAMPLE = torch.zeros(1, FRAMES, N_MELS)
# One layer between int8 ones (TFLite's converter would quantise it again), and a stage with the head behind the mean.
ONE, SEVERAL = ("stages.1.0.depthwise.0",), ("stages.2", "head")


@functools.cache
def partly_float(keep_float: tuple[str, ...]) -> QuantisedStudent:
    return quantise_ptq(tiny_student(), windows(64), keep_float=keep_float)


@pytest.mark.parametrize(
    ("name", "saying"),
    [
        ("stages.1.0.depthwize.0", r"is not a layer of the student\. Did you mean 'stages\.1\.0\.depthwise\.0'"),
        ("hed", "Did you mean 'head'"),
        ("stages.1.0.depthwise.1", "has no Conv2d or Linear"),
        ("", "is not a layer"),
    ],
)
def test_a_name_that_is_no_layer_is_refused_before_any_work(name: str, saying: str) -> None:
    with pytest.raises(ConfigError, match=saying):
        quantise_ptq(tiny_student(), windows(64), keep_float=[name])


def test_all_layers_float_is_no_quantisation() -> None:
    with pytest.raises(ConfigError, match="leaves none for int8"):
        float_layers(tiny_student(), ["stem", "stages", "collapse", "head"])


def test_a_submodule_stands_for_its_layers() -> None:
    assert float_layers(tiny_student(), ["collapse", "head"]) == ("collapse.0.0", "collapse.1.0", "head")
    # Not every name that starts so: stages.1 is not a part of stages.10.
    assert float_layers(nn.ModuleDict({"a1": nn.Linear(1, 1), "a": nn.Linear(1, 1)}), ["a"]) == ("a",)


def test_folded_batch_norms_leave_the_logits_and_the_names() -> None:
    folded = fold_batch_norms(tiny_student())
    assert weighted_layers(folded) == weighted_layers(tiny_student())
    assert not any(isinstance(module, nn.BatchNorm2d) for module in folded.modules())
    evaluation = windows(8, seed=2)
    torch.testing.assert_close(logits(folded, evaluation), logits(tiny_student(), evaluation), **TORCH_SAME_SUMS)


def test_a_batch_norm_without_a_convolution_cannot_be_folded() -> None:
    with pytest.raises(UnsupportedError, match="batch norm 1 cannot be folded"):
        fold_batch_norms(nn.Sequential(nn.ReLU(), nn.BatchNorm2d(3)))


@pytest.mark.slow
@pytest.mark.parametrize("keep_float", [ONE, SEVERAL])
def test_just_the_declared_layers_are_float(keep_float: tuple[str, ...]) -> None:
    quantised = partly_float(keep_float)
    assert quantised.keep_float == float_layers(tiny_student(), keep_float)
    for graph in (quantised.folded, quantised.unfolded):
        layers = [node for node in graph.graph.nodes if node.target in WEIGHTED_OPS]
        assert {module_path(node) for node in layers if not is_dequantise(node.args[1])} == set(quantised.keep_float)
    evaluation = windows(64, seed=2)
    reference = logits(tiny_student(), evaluation)
    noise = quantised.logits(evaluation) - reference
    assert 10 * torch.log10(reference.var() / noise.var()) > INT8_MIN_SQNR_DB


@pytest.mark.slow
@pytest.mark.parametrize("keep_float", [ONE, SEVERAL])
def test_both_files_hold_the_same_partly_float_student(keep_float: tuple[str, ...]) -> None:
    quantised, evaluation = partly_float(keep_float), windows(64, seed=2)
    reference = quantised.logits(evaluation).numpy()
    for export in (export_onnx, export_tflite):
        artefact = export(quantised, EXAMPLE, "int8")
        engine = engine_for(artefact.manifest_entry(), artefact.payload)
        given = np.stack([engine.run(window) for window in evaluation.numpy()])
        assert (given.argmax(1) == reference.argmax(1)).mean() >= 0.99
        noise = (given - reference).var() / reference.var()
        assert -10 * np.log10(noise) > INT8_MIN_SQNR_DB


@pytest.mark.slow
def test_a_float_layer_that_was_not_declared_is_named() -> None:
    with pytest.raises(VerificationError, match=r"stages\.1\.0\.depthwise\.0 .*float weight"):
        check_integer_graph(partly_float(ONE).folded)
    with pytest.raises(VerificationError, match=r"head .*declared float, its weight is int8"):
        check_integer_graph(tiny_quantised().folded, ["head"])


@pytest.mark.slow
def test_a_converter_that_quantises_a_float_layer_unasked_is_caught() -> None:
    undeclared = dataclasses.replace(partly_float(ONE), keep_float=())
    with pytest.raises(
        VerificationError, match=r"declared float \(weights of \[72\] elements\); in the file those of \[\]"
    ):
        export_tflite(undeclared, EXAMPLE, "int8")
