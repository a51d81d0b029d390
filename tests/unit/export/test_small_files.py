"""Small int8 files: what is left out of them changes no output bit, fuses as before, and is counted in bytes."""

from __future__ import annotations

import collections
import functools
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from edgeaudio_export import onnx_export, onnx_graph, tflite_export
from edgeaudio_export.artefact import ExportedArtefact
from edgeaudio_export.parity import ParityGate, engine_for, measure_parity, run_windows
from onnx import numpy_helper

from edgeaudio.compress.ptq import QuantisedStudent, quantise_ptq
from tests.tiny_student import FRAMES, N_MELS, logits, tiny_quantised, tiny_student, windows
from tests.tolerances import (
    INT8_ONNX_GRAPH_BYTES,
    INT8_PER_TENSOR_MIN_SQNR_DB,
    INT8_TFLITE_GRAPH_BYTES,
)

pytestmark = pytest.mark.slow
EXAMPLE = torch.zeros(1, FRAMES, N_MELS)
EXPORTERS = {"onnx": onnx_export.export_onnx, "tflite": tflite_export.export_tflite}
every_format = pytest.mark.parametrize("format", sorted(EXPORTERS))
every_scheme = pytest.mark.parametrize("per_channel", [True, False])


@functools.cache
def quantised(per_channel: bool) -> QuantisedStudent:
    return tiny_quantised() if per_channel else quantise_ptq(tiny_student(), windows(64), per_channel=False)


@functools.cache
def exported(format: str, per_channel: bool) -> tuple[ExportedArtefact, bytes]:
    """The artefact, and the bytes that the converter gave before anything was left out."""
    converted: list[bytes] = []
    with pytest.MonkeyPatch.context() as patch:
        from edgeaudio_export import tflite_graph

        strip, compact = onnx_graph.strip, tflite_graph.compact
        patch.setattr(onnx_graph, "strip", lambda model: (converted.append(model.SerializeToString()), strip(model)))
        patch.setattr(
            tflite_graph,
            "compact",
            lambda payload, **names: (converted.append(payload), compact(payload, **names))[1],
        )
        artefact = EXPORTERS[format](quantised(per_channel), EXAMPLE, "int8")
    (before,) = converted
    return artefact, before


def answers(artefact: ExportedArtefact, payload: bytes) -> Any:
    """Logits of 50 windows through the runtime's engine."""
    return run_windows(engine_for(artefact.manifest_entry(), payload), windows(50, seed=5).numpy())


def uint8_only(converted: bytes) -> bytes:
    """The converter's ONNX with its activations shifted and nothing left out: what the fused kernels must equal."""
    model = onnx.load_from_string(converted)
    onnx_graph.strip(model)
    onnx_graph.activations_to_uint8(model.graph)
    return bytes(model.SerializeToString())


def fused_kinds(payload: bytes, folder: Path) -> collections.Counter[str]:
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(folder / "optimised.onnx")
    options.log_severity_level = 3
    onnxruntime.InferenceSession(payload, options, providers=["CPUExecutionProvider"])
    return collections.Counter(node.op_type for node in onnx.load(folder / "optimised.onnx").graph.node)


@every_scheme
def test_onnx_answers_bit_by_bit_as_before(per_channel: bool) -> None:
    artefact, converted = exported("onnx", per_channel)
    before = answers(artefact, uint8_only(converted))
    assert np.unique(before).size > 20
    assert np.array_equal(answers(artefact, artefact.payload), before)


@every_scheme
def test_onnx_fuses_as_before(per_channel: bool, tmp_path: Path) -> None:
    artefact, converted = exported("onnx", per_channel)
    kinds = fused_kinds(artefact.payload, tmp_path)
    assert kinds == fused_kinds(uint8_only(converted), tmp_path)
    assert (kinds["QLinearConv"], kinds["QLinearAdd"], kinds["QGemm"]) == (17, 4, 1)


@every_scheme
def test_tflite_answers_bit_by_bit_as_before(per_channel: bool) -> None:
    artefact, converted = exported("tflite", per_channel)
    before = answers(artefact, converted)
    assert np.unique(before).size > 20
    assert np.array_equal(answers(artefact, artefact.payload), before)


@every_scheme
def test_tflite_names_nothing_but_its_ends(per_channel: bool) -> None:
    artefact, converted = exported("tflite", per_channel)
    assert b"serving_default" in converted
    for trace in (b"serving_default", b"MLIR", b"min_runtime_version", b"main"):
        assert trace not in artefact.payload
    assert (artefact.input.name, artefact.outputs[0].name) == ("log_mel", "logits")


@every_format
def test_what_is_not_weights_stays_below_its_bound(format: str) -> None:
    artefact, _ = exported(format, True)
    bound = {"onnx": INT8_ONNX_GRAPH_BYTES, "tflite": INT8_TFLITE_GRAPH_BYTES}[format]
    assert len(artefact.payload) < bound + _weight_bytes()


def _weight_bytes() -> int:
    """One byte per weight; bias and scale of each channel take 4 each."""
    layers = [m for m in tiny_student().modules() if isinstance(m, torch.nn.Conv2d | torch.nn.Linear)]
    return sum(layer.weight.numel() + 8 * layer.weight.shape[0] for layer in layers)


@every_format
def test_one_scale_per_weight_makes_a_smaller_file(format: str) -> None:
    layers = [m for m in tiny_student().modules() if isinstance(m, torch.nn.Conv2d | torch.nn.Linear)]
    saved = len(exported(format, True)[0].payload) - len(exported(format, False)[0].payload)
    # All scales of channels but one per layer; TFLite has them a second time for biases.
    least = sum(4 * (layer.weight.shape[0] - 1) for layer in layers)
    assert saved > (2 * least if format == "tflite" else least)


def test_one_scale_per_weight_is_what_the_onnx_file_holds() -> None:
    graph = onnx.load_from_string(exported("onnx", False)[0].payload).graph
    constants = {constant.name: numpy_helper.to_array(constant) for constant in graph.initializer}
    scales = [constants[node.input[1]] for node in graph.node if node.op_type == "DequantizeLinear"]
    assert all(scale.ndim == 0 for scale in scales)


def test_one_scale_per_weight_is_what_the_tflite_file_holds() -> None:
    from ai_edge_litert import schema_py_generated as schema

    model = schema.ModelT.InitFromPackedBuf(exported("tflite", False)[0].payload, 0)
    scales = [tensor.quantization.scale for tensor in model.subgraphs[0].tensors if tensor.quantization]
    assert {len(scale) for scale in scales} == {1}


@every_format
def test_one_scale_per_weight_still_follows_the_student(format: str) -> None:
    artefact, _ = exported(format, False)
    reference = logits(tiny_student(), windows(50, seed=5)).numpy()
    noise = answers(artefact, artefact.payload) - reference
    assert 10 * np.log10(reference.var() / noise.var()) > INT8_PER_TENSOR_MIN_SQNR_DB


def test_per_tensor_files_of_both_formats_agree() -> None:
    first, second = (answers(artefact, artefact.payload) for artefact, _ in (exported(f, False) for f in EXPORTERS))
    assert measure_parity(second, first, reference="onnx", gate=ParityGate(None, 0.97)).passed
