"""A student with exits: one pass equals its stages, no weight is registered twice, the final answer is the old one."""

from __future__ import annotations

import copy
from typing import cast

import pytest
import torch

from edgeaudio.errors import ConfigError
from edgeaudio.spec import ExitSpec
from edgeaudio.students.base import Student
from edgeaudio.students.cost import count_macs
from edgeaudio.students.dscnn import DSCNN
from edgeaudio.students.exits import EarlyExitStudent, StagedGraph, stage_macs
from edgeaudio.students.mn import MN
from tests.tiny_student import CLASSES, FRAMES, N_MELS, tiny_exits, tiny_student, windows
from tests.tolerances import TORCH_SAME_SUMS


def fresh(after: tuple[int, ...] = (0, 1), hidden: int = 0, student: torch.nn.Module | None = None) -> EarlyExitStudent:
    student = student or DSCNN(CLASSES, n_mels=N_MELS, width=8)
    return EarlyExitStudent(cast(Student, student), ExitSpec(after=after, hidden=hidden))


@pytest.mark.parametrize(
    "student",
    [
        lambda: fresh((0, 1, 2)).eval(),
        lambda: fresh((1,), hidden=8).eval(),
        lambda: fresh((0, 2), student=MN(CLASSES, n_mels=N_MELS)).eval(),
    ],
)
@torch.no_grad()
def test_one_pass_gives_what_the_stages_give_one_by_one(student) -> None:  # type: ignore[no-untyped-def]
    torch.manual_seed(0)
    model = student()
    log_mel = windows(3)
    answers, embedding = model.forward_exits(log_mel)
    hidden, composed = log_mel, []
    *exits, final = model.stages()
    for stage in exits:
        hidden, logits = stage(hidden)
        composed.append(logits)
    assert len(answers) == len(model.spec.after)
    for one, other in zip(answers, composed, strict=True):
        assert torch.equal(one, other)
        assert one.shape == (3, CLASSES)
    assert torch.equal(model.head(model.dropout(embedding)), final(hidden))
    outputs = StagedGraph(model).eval()(log_mel)
    assert all(map(torch.equal, outputs[1:-1:2], answers))
    torch.testing.assert_close(outputs[-1], model(log_mel), **TORCH_SAME_SUMS)


def test_the_final_answer_is_that_of_the_student_alone() -> None:
    log_mel = windows(4)
    with torch.no_grad():
        assert torch.equal(tiny_exits()(log_mel), tiny_student()(log_mel))
        assert torch.equal(tiny_exits().forward_features(log_mel), tiny_student().forward_features(log_mel))


def test_it_says_of_itself_what_the_student_says() -> None:
    student, wrapped = tiny_student(), tiny_exits()
    for name in ("head", "dropout", "streamable", "embedding_dim", "receptive_field_frames", "time_stride_frames"):
        assert getattr(wrapped, name) == getattr(student, name)
    assert wrapped.section_channels == student.section_channels
    with pytest.raises(AttributeError):
        _ = wrapped.no_such_thing


def test_no_weight_is_registered_twice() -> None:
    names = [name for name, _ in tiny_exits().named_parameters(remove_duplicate=False)]
    assert len(names) == len({id(p) for p in tiny_exits().parameters()})
    assert {name.partition(".")[0] for name in tiny_exits().state_dict()} == {"student", "exit_heads"}


def test_a_copy_is_independent() -> None:
    original = fresh()
    twin = copy.deepcopy(original).eval()
    before = [answer.clone() for answer in twin.forward_exits(windows(2))[0]]
    with torch.no_grad():
        for parameter in original.parameters():
            parameter.zero_()
    assert all(map(torch.equal, before, twin.forward_exits(windows(2))[0]))


@pytest.mark.parametrize("hidden", [0, 4])
def test_every_head_and_every_section_learns(hidden: int) -> None:
    model = fresh(hidden=hidden)
    answers, embedding = model.forward_exits(windows(4))
    (sum(answer.square().mean() for answer in answers) + model.head(embedding).square().mean()).backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


def test_stage_costs_add_up_to_the_student_and_its_heads() -> None:
    model = fresh()
    heads = sum(channels * CLASSES for channels in model.section_channels[:2])
    whole = count_macs(model, torch.zeros(1, FRAMES, N_MELS))
    assert sum(stage_macs(model, FRAMES, N_MELS)) == whole + heads
    assert model.training, "left as it was"


@pytest.mark.parametrize("after", [(3,), (0, 7)])
def test_an_exit_after_the_last_section_is_refused(after: tuple[int, ...]) -> None:
    with pytest.raises(ConfigError, match=r"exits\.after: no exit can follow section \d.*Use numbers from 0 to 2"):
        fresh(after)


@pytest.mark.parametrize("after", [(), (1, 0), (0, 0), (-1,), (0, 1, 2, 3)])
def test_exits_are_named_rising_and_at_most_three(after: tuple[int, ...]) -> None:
    with pytest.raises(ConfigError, match="after"):
        ExitSpec.parse({"after": after}, source="recipe.yaml")


@pytest.mark.parametrize("max_drop", [-0.1, 1.0])
def test_a_loss_outside_its_range_is_refused(max_drop: float) -> None:
    with pytest.raises(ConfigError, match="max_drop"):
        ExitSpec.parse({"after": [0], "max_drop": max_drop}, source="recipe.yaml")
