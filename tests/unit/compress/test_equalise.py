"""Equalisation changes nothing in float, and gives int8 back what a spread of channel ranges took."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from edgeaudio.compress.equalise import equalise
from edgeaudio.compress.layers import fold_batch_norms
from edgeaudio.compress.ptq import equalised_graph, quantise_ptq
from edgeaudio.students.base import Student
from edgeaudio.students.dscnn import DSCNN
from edgeaudio.students.mn import MN
from edgeaudio.students.spec import DSCNNSpec, MNSpec, TransformerSpec
from edgeaudio.students.transformer import Transformer

FRAMES, BANDS, CLASSES = 99, 64, 5


def windows(count: int, seed: int = 1) -> torch.Tensor:
    return torch.randn(count, FRAMES, BANDS, generator=torch.Generator().manual_seed(seed))


def with_statistics(student: nn.Module) -> nn.Module:
    """The student with batch norms that have seen some windows."""
    student.train()
    with torch.no_grad():
        for _ in range(3):
            student(windows(16))
    return student.eval()


def students() -> list[nn.Module]:
    torch.manual_seed(0)
    built: list[Student] = [
        DSCNN.build(DSCNNSpec(width=8), CLASSES, n_mels=BANDS, frames=FRAMES),
        MN.build(MNSpec(blocks=8), CLASSES, n_mels=BANDS, frames=FRAMES),
        MN.build(MNSpec(blocks=8, activation="hardswish", squeeze_steps=2), CLASSES, n_mels=BANDS, frames=FRAMES),
        Transformer.build(TransformerSpec(), CLASSES, n_mels=BANDS, frames=FRAMES),
    ]
    return [with_statistics(student) for student in built if isinstance(student, nn.Module)]


def sqnr_db(student: nn.Module, answers: torch.Tensor, log_mel: torch.Tensor) -> float:
    with torch.no_grad():
        wanted = student(log_mel)
    return float(10 * torch.log10(wanted.square().mean() / (answers - wanted).square().mean()))


@pytest.mark.parametrize("student", students(), ids=lambda student: type(student).__name__)
@pytest.mark.parametrize("any_batch", [False, True])
def test_float_answers_stay(student: nn.Module, any_batch: bool) -> None:
    graph = equalised_graph(fold_batch_norms(student), windows(32), any_batch=any_batch)
    fresh = windows(4, seed=2)
    with torch.no_grad():
        answers = graph(fresh) if any_batch else torch.cat([graph(window[None]) for window in fresh])
    assert sqnr_db(student, answers, fresh) > 100


def test_most_tensors_of_a_convolutional_student_gain() -> None:
    student = students()[1]
    graph = torch.export.export(fold_batch_norms(student), (windows(1),)).module()
    assert equalise(graph, windows(4)) >= 15  # type: ignore[arg-type]


def spread(student: MN) -> MN:
    """The same function with one channel of a depthwise layer's input a hundred times as loud, its reader as deaf."""
    spoiled = copy.deepcopy(student)
    with torch.no_grad():
        for block in list(spoiled.blocks)[1:4]:
            expand, depthwise = block.expand[0], block.depthwise[0]  # type: ignore[index,union-attr]
            for values in (expand[1].weight, expand[1].bias):
                values[0] *= 100
            depthwise[0].weight[0] /= 100
    return spoiled


@pytest.mark.slow
def test_what_a_spread_of_ranges_takes_is_given_back() -> None:
    student = students()[1]
    assert isinstance(student, MN)
    spoiled, fresh = spread(student), windows(32, seed=2)
    with torch.no_grad():
        assert torch.allclose(spoiled(fresh), student(fresh), atol=1e-4)
    plain, mended = (quantise_ptq(each, windows(64)).logits(fresh) for each in (student, spoiled))
    assert abs(sqnr_db(student, plain, fresh) - sqnr_db(student, mended, fresh)) < 1.0


def test_a_channel_that_is_always_silent_stays_finite() -> None:
    student = students()[1]
    with torch.no_grad():
        norm = student.blocks[1].expand[0][1]  # type: ignore[union-attr,index]
        norm.weight[2], norm.bias[2] = 0.0, -1.0  # type: ignore[operator,index]
    graph = equalised_graph(fold_batch_norms(student), windows(32))
    assert all(bool(values.isfinite().all()) for values in graph.parameters())


def test_what_leaves_the_graph_keeps_its_scale() -> None:
    """Embedding and logits together, as training with int8 in mind exports them."""

    class Both(nn.Module):
        def __init__(self, student: nn.Module) -> None:
            super().__init__()
            self.student = student

        def forward(self, log_mel: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            features = self.student.forward_features(log_mel)  # type: ignore[operator]
            return features, self.student.head(features)  # type: ignore[operator]

    both = Both(fold_batch_norms(students()[0]))
    graph = equalised_graph(both, windows(32), any_batch=True)
    with torch.no_grad():
        for wanted, found in zip(both(windows(2)), graph(windows(2)), strict=True):
            assert torch.allclose(wanted, found, atol=1e-4)
