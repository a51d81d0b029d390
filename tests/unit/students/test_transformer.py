"""The transformer family: what its size dial reaches, merging, clear refusals, and int8 in both formats."""

from __future__ import annotations

import collections
import functools
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from edgeaudio_export.artefact import ExportedArtefact
from edgeaudio_export.export import export_student
from edgeaudio_export.parity import ParityGate, engine_for, measure_parity, run_windows
from pydantic import ValidationError
from torch import nn

from edgeaudio.compress.ptq import QuantisedStudent, quantise_ptq
from edgeaudio.errors import ConfigError
from edgeaudio.spec import FrontendSpec, WindowSpec
from edgeaudio.students.cost import count_macs, student_cost
from edgeaudio.students.spec import TransformerSpec
from edgeaudio.students.transformer import Attention, Transformer, merged_grid, token_merge
from tests.tiny_student import CLASSES, FRAMES, N_MELS, logits, windows, with_statistics
from tests.tolerances import INT8_ENGINES_MAX_STEPS, INT8_MIN_SQNR_DB, TORCH_SAME_SUMS

SMALLEST = TransformerSpec(width=12, depth=1, patch_frames=3)
PATCHES = TransformerSpec(width=16, depth=3, patch_frames=11, patch_mels=16, merge=2)
TINY = TransformerSpec(width=16, depth=2, patch_frames=3, merge=1)


def transformer(spec: TransformerSpec) -> Transformer:
    torch.manual_seed(0)
    student = Transformer(CLASSES, spec, n_mels=N_MELS, frames=FRAMES)
    with_statistics(student)
    for block in student.modules():
        if isinstance(block, Attention):
            # The division by the root of the width, which the random statistics have just overwritten.
            block.query[1].weight.data.mul_((block.width // block.heads) ** -0.5)
    return student


def n_parameters(spec: TransformerSpec) -> int:
    return sum(parameter.numel() for parameter in transformer(spec).parameters())


@pytest.mark.parametrize("spec", [SMALLEST, PATCHES, TINY])
@torch.no_grad()
def test_sections_compose_to_the_embedding(spec: TransformerSpec) -> None:
    student, log_mel = transformer(spec), windows(2)
    sections = student.sections()
    assert len(sections) == len(student.section_channels) == spec.depth + 1
    hidden = log_mel
    for section, channels in zip(sections[:-1], student.section_channels, strict=False):
        hidden = section(hidden)
        assert student.pooled(hidden).shape == (2, channels)
    torch.testing.assert_close(sections[-1](hidden), student.forward_features(log_mel), **TORCH_SAME_SUMS)
    assert torch.equal(student(log_mel), student(log_mel))


@torch.no_grad()
def test_attention_is_the_textbooks() -> None:
    grid, width, heads = (5, 3), 8, 2
    attention = Attention(width, heads, grid)
    with_statistics(attention)
    x = torch.randn(2, width, *grid)
    query, key, value = (
        layer(x).flatten(2).unflatten(1, (heads, width // heads)).transpose(2, 3)
        for layer in (attention.query, attention.key, attention.value)
    )
    # The division by the root of the width lies in the weights of `query`.
    mixed = nn.functional.scaled_dot_product_attention(query, key, value, scale=1.0)
    expected = attention.project(mixed.transpose(2, 3).reshape(2, width, *grid))
    torch.testing.assert_close(attention(x), expected, **TORCH_SAME_SUMS)


@torch.no_grad()
def test_where_a_sound_is_in_the_window_matters() -> None:
    student, log_mel = transformer(TINY), windows(4)
    moved = log_mel.roll(TINY.patch_frames, dims=1)
    before = logits(student, log_mel) - logits(student, moved)
    student.tokens.positions.zero_()
    without = Transformer(CLASSES, TINY.model_copy(update={"merge": 0}), n_mels=N_MELS, frames=FRAMES).eval()
    without.tokens.positions.zero_()
    assert before.abs().max() > 1e-2
    # Attention and the mean know no order: it is the positions that tell.
    torch.testing.assert_close(without(log_mel), without(moved), **TORCH_SAME_SUMS)


def test_the_dial_reaches_from_six_thousand_to_half_a_million() -> None:
    assert n_parameters(SMALLEST) < 6_000
    assert 40_000 < n_parameters(TransformerSpec()) < 80_000
    assert n_parameters(TransformerSpec(width=100, depth=6)) > 500_000


@pytest.mark.parametrize(
    ("grid", "kernel", "after"),
    [((32, 1), (2, 1), (16, 1)), ((33, 1), (3, 1), (16, 1)), ((4, 4), (2, 1), (2, 4)), ((2, 7), (1, 3), (2, 3))],
)
def test_merging_halves_the_longer_side_and_leaves_no_token_out(
    grid: tuple[int, int], kernel: tuple[int, int], after: tuple[int, int]
) -> None:
    assert merged_grid(grid) == (kernel, after)
    tokens = torch.ones(1, 8, *grid, requires_grad=True)
    merged = token_merge(8, kernel).eval()(tokens)
    assert merged.shape[2:] == after
    merged.sum().backward()
    assert tokens.grad is not None
    assert bool((tokens.grad > 0).all())


def test_merging_saves_multiply_accumulates() -> None:
    log_mel = torch.zeros(1, FRAMES, N_MELS)
    student, merging = (transformer(TINY.model_copy(update={"merge": merge})) for merge in (0, 1))
    first, second = (
        count_macs(section, torch.zeros(1, TINY.width, 33, 1))
        for section in (student.sections()[1], merging.sections()[1])
    )
    assert merging.sections()[1](torch.zeros(1, TINY.width, 33, 1)).shape[2:] == (16, 1)
    assert second < first / 2
    assert count_macs(merging, log_mel) < count_macs(student, log_mel)


def test_cost_counts_both_matrix_products_of_attention() -> None:
    width, heads, grid = 8, 2, (5, 3)
    n_tokens = 15
    projections = 4 * width * width * n_tokens
    products = 2 * n_tokens * n_tokens * width
    assert count_macs(Attention(width, heads, grid), torch.zeros(1, width, *grid)) == projections + products


def test_the_whole_window_is_the_receptive_field() -> None:
    cost = student_cost(transformer(TINY), FrontendSpec(), WindowSpec(frames=FRAMES))
    assert (cost.receptive_field_frames, cost.time_stride_frames) == (FRAMES, 1)


@pytest.mark.parametrize(
    ("fields", "saying"),
    [
        ({"width": 20, "heads": 3}, r"heads is 3.*width of 20"),
        ({"depth": 2, "merge": 2}, r"merge is 2.*2 blocks have 1 places"),
        ({"width": 10}, "multiple of 4"),
    ],
)
def test_blocks_that_do_not_fit_are_refused(fields: dict[str, int], saying: str) -> None:
    with pytest.raises(ValidationError, match=saying):
        TransformerSpec(**fields)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("fields", "saying"),
    [
        ({"patch_frames": 10}, r"patch_frames is 10, window.frames is 99: 9 frames.*use 9 or 11.*of 90 or 100 frames"),
        ({"patch_mels": 24}, r"patch_mels is 24, frontend.n_mels is 64.*use 16 or 32 bands"),
        ({"patch_mels": 128}, r"use 64 bands"),
        ({"patch_frames": 33, "merge": 3}, r"merge is 3, but 3 x 1 tokens can be merged 1 times"),
    ],
)
def test_patches_that_do_not_fit_the_window_are_refused(fields: dict[str, int], saying: str) -> None:
    with pytest.raises(ConfigError, match=saying):
        Transformer(CLASSES, TransformerSpec(**fields), n_mels=N_MELS, frames=FRAMES)  # type: ignore[arg-type]


@functools.cache
def quantised() -> QuantisedStudent:
    return quantise_ptq(transformer(TINY), windows(64))


@functools.cache
def exported() -> dict[str, ExportedArtefact]:
    artefacts = export_student(transformer(TINY), quantised(), FRAMES, N_MELS, precisions=["int8"])
    return {artefact.format: artefact for artefact in artefacts}


@pytest.mark.slow
@pytest.mark.parametrize("format", ["onnx", "tflite"])
def test_int8_files_answer_as_the_float_student(format: str) -> None:
    evaluation = windows(100, seed=2)
    reference = logits(transformer(TINY), evaluation).numpy()
    artefact = exported()[format]
    answers = run_windows(engine_for(artefact.manifest_entry(), artefact.payload), evaluation.numpy())
    step = exported()["tflite"].outputs[0].scale
    assert step is not None
    # Classes that int8 itself can hardly tell apart are a tie.
    gate = ParityGate(None, 0.99, tie_margin=INT8_ENGINES_MAX_STEPS * step)
    assert measure_parity(answers, reference, reference="float", gate=gate).passed
    assert 10 * np.log10(reference.var() / (answers - reference).var()) > INT8_MIN_SQNR_DB
    assert artefact.float_activations == ()


@pytest.mark.slow
def test_onnx_runs_attention_in_integer_kernels(tmp_path: Path) -> None:
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimised.onnx")
    options.log_severity_level = 3
    onnxruntime.InferenceSession(exported()["onnx"].payload, options, providers=["CPUExecutionProvider"])
    kinds = collections.Counter(node.op_type for node in onnx.load(tmp_path / "optimised.onnx").graph.node)
    assert kinds["QLinearMatMul"] == 2 * TINY.depth
    assert kinds["QLinearSoftmax"] == TINY.depth
    # Two sums per block, and the positions.
    assert kinds["QLinearAdd"] == 2 * TINY.depth + 1
    assert (kinds["Conv"], kinds["MatMul"], kinds["Softmax"], kinds["Add"], kinds["Gemm"]) == (0, 0, 0, 0, 0)
