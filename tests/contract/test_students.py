"""Every student of the catalogue: shapes, sections that compose, gradients, and the streaming property it claims."""

from __future__ import annotations

import pytest
import torch
from pydantic import TypeAdapter
from torch import nn

from edgeaudio.catalog import STUDENTS, resolve
from edgeaudio.spec import FrontendSpec, WindowSpec
from edgeaudio.students.cost import student_cost
from edgeaudio.students.spec import StudentSpec
from tests.tolerances import TORCH_SAME_SUMS

CLASSES, FRAMES, N_MELS = 7, WindowSpec().frames, FrontendSpec().n_mels
every_student = pytest.mark.parametrize("family", sorted(STUDENTS))


def built(family: str) -> nn.Module:
    """A student of the family's default size in eval mode."""
    torch.manual_seed(0)
    spec = TypeAdapter(StudentSpec).validate_python({"family": family})
    student: nn.Module = resolve("students", family).build(spec, CLASSES, n_mels=N_MELS, frames=FRAMES)
    return student.eval()


@every_student
def test_shapes_cost_and_gradients(family):
    student = built(family).train()
    cost = student_cost(student, FrontendSpec(), WindowSpec())
    assert cost.receptive_field_frames <= FRAMES
    log_mel = torch.randn(3, FRAMES, N_MELS)
    assert student.forward_features(log_mel).shape == (3, student.embedding_dim)
    logits = student(log_mel)
    assert logits.shape == (3, CLASSES)
    logits.sum().backward()
    assert all(parameter.grad is not None for parameter in student.parameters())
    assert student.head.out_features == CLASSES


@every_student
@torch.no_grad()
def test_sections_compose_to_the_embedding(family):
    student = built(family)
    log_mel = torch.randn(2, FRAMES, N_MELS)
    sections = student.sections()
    assert len(sections) == len(student.section_channels) >= 2
    assert student.section_channels[-1] == student.embedding_dim
    hidden = log_mel
    for section, channels in zip(sections[:-1], student.section_channels[:-1], strict=True):
        hidden = section(hidden)
        assert student.pooled(hidden).shape == (2, channels)
    torch.testing.assert_close(sections[-1](hidden), student.forward_features(log_mel), **TORCH_SAME_SUMS)


@every_student
@torch.no_grad()
def test_a_streamable_students_longer_input_is_the_mean_of_its_output_steps(family):
    student = built(family)
    if not student.streamable:
        assert student.receptive_field_frames == FRAMES
        return
    field, stride = student.receptive_field_frames, student.time_stride_frames
    log_mel = torch.randn(1, field + 4 * stride, N_MELS)
    steps = [student.forward_features(log_mel[:, k * stride : k * stride + field]) for k in range(5)]
    torch.testing.assert_close(student.forward_features(log_mel), torch.stack(steps).mean(0), rtol=1e-4, atol=1e-5)
