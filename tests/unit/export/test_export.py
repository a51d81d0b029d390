"""What only one format promises: fused kernels in ONNX, no float inside TFLite, short files, silence."""

from __future__ import annotations

import collections
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from edgeaudio_export import onnx_export
from edgeaudio_export.artefact import ExportedArtefact
from edgeaudio_export.export import export_student

from edgeaudio.errors import ConfigError
from tests.tiny_student import CLASSES, FRAMES, N_MELS, tiny_quantised, tiny_student


@pytest.fixture(scope="module")
def all_four() -> dict[str, ExportedArtefact]:
    artefacts = export_student(tiny_student(), tiny_quantised(), FRAMES, N_MELS)
    return {artefact.name: artefact for artefact in artefacts}


def test_int8_without_a_quantised_student_is_refused() -> None:
    with pytest.raises(ConfigError, match="run quantise_ptq"):
        export_student(tiny_student(), None, FRAMES, N_MELS, formats=["onnx"], precisions=["int8"])


def test_asking_for_nothing_is_refused() -> None:
    with pytest.raises(ConfigError, match="nothing to export"):
        export_student(tiny_student(), None, FRAMES, N_MELS, formats=[])


def test_an_unknown_format_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"'onx' is not known.*'onnx'"):
        export_student(tiny_student(), None, FRAMES, N_MELS, formats=["onx"], precisions=["fp32"])  # type: ignore[list-item]


@pytest.mark.slow
def test_all_formats_and_precisions_are_exported(all_four: dict[str, ExportedArtefact]) -> None:
    assert list(all_four) == ["onnx-fp32", "onnx-int8", "tflite-fp32", "tflite-int8"]


@pytest.mark.slow
def test_int8_is_smaller_in_both_formats(all_four: dict[str, ExportedArtefact]) -> None:
    for format in ("onnx", "tflite"):
        assert len(all_four[f"{format}-int8"].payload) < len(all_four[f"{format}-fp32"].payload)


@pytest.mark.slow
def test_every_convolution_of_onnx_int8_fuses_into_an_integer_kernel(
    all_four: dict[str, ExportedArtefact], tmp_path: Path
) -> None:
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimised.onnx")
    options.log_severity_level = 3
    onnxruntime.InferenceSession(all_four["onnx-int8"].payload, options, providers=["CPUExecutionProvider"])
    kinds = collections.Counter(node.op_type for node in onnx.load(tmp_path / "optimised.onnx").graph.node)
    convolutions = [layer for layer in tiny_student().modules() if isinstance(layer, torch.nn.Conv2d)]
    assert kinds["QLinearConv"] == len(convolutions)
    assert (kinds["Conv"], kinds["Add"], kinds["Relu"], kinds["Gemm"]) == (0, 0, 0, 0)


@pytest.mark.slow
def test_onnx_files_load_on_older_runtimes_and_name_no_maker(all_four: dict[str, ExportedArtefact]) -> None:
    for name in ("onnx-fp32", "onnx-int8"):
        payload = all_four[name].payload
        model = onnx.load_from_string(payload)
        assert model.ir_version <= onnx_export.MAX_IR_VERSION
        assert [(entry.domain, entry.version) for entry in model.opset_import] == [("", onnx_export.OPSET)]
        assert not any(constant.external_data for constant in model.graph.initializer)
        for trace in (b"torch", b"stages", b"/"):
            assert trace not in b"".join(node.SerializeToString() for node in model.graph.node)


@pytest.mark.slow
def test_tflite_int8_is_integer_from_input_to_output(all_four: dict[str, ExportedArtefact]) -> None:
    artefact = all_four["tflite-int8"]
    for tensor in (artefact.input, *artefact.outputs):
        assert tensor.dtype == "int8"
        assert tensor.scale is not None
        assert tensor.scale > 0
        assert tensor.zero_point is not None
    assert artefact.float_activations == ()
    from edgeaudio_export import tflite_graph

    assert tflite_graph.float_activations(artefact.payload) == ()
    # The probe itself must be able to find float activations.
    assert "logits" in tflite_graph.float_activations(all_four["tflite-fp32"].payload)


@pytest.mark.slow
def test_tflite_constants_are_aligned_and_maker_free(all_four: dict[str, ExportedArtefact]) -> None:
    from edgeaudio_export import tflite_graph

    for name in ("tflite-fp32", "tflite-int8"):
        payload = all_four[name].payload
        assert tflite_graph.is_aligned(payload)
        assert b"torch" not in payload
        assert b"DSCNN" not in payload


@pytest.mark.slow
def test_compacting_tflite_twice_changes_nothing(all_four: dict[str, ExportedArtefact]) -> None:
    from edgeaudio_export import tflite_graph

    payload = all_four["tflite-int8"].payload
    assert tflite_graph.compact(payload) == payload


@pytest.mark.slow
def test_exporting_prints_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    student = tiny_student()
    export_student(student, None, FRAMES, N_MELS, precisions=["fp32"])
    assert capfd.readouterr() == ("", "")
    assert np.isfinite(student(torch.zeros(1, FRAMES, N_MELS)).detach().numpy()).all()
    assert student.head.out_features == CLASSES
