"""The mn family: the teacher's own function where nothing was changed, clear refusals, a size dial."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from edgeaudio.errors import ConfigError
from edgeaudio.spec import FrontendSpec
from edgeaudio.students.mn import MN
from edgeaudio.students.spec import MNSpec
from edgeaudio.teachers.inherit import inherit_blocks
from edgeaudio.teachers.mn04 import MN04, MN04_FRONTEND


def lively_teacher() -> MN04:
    """Random weights, with batch-norm statistics that copying must carry over."""
    torch.manual_seed(0)
    teacher = MN04()
    for module in teacher.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.uniform_(-0.3, 0.3)
            module.running_var.uniform_(0.5, 1.5)
            module.weight.data.uniform_(0.5, 1.5)
            module.bias.data.uniform_(-0.3, 0.3)
    return teacher.eval()


@torch.no_grad()
def test_the_teachers_blocks_compute_what_they_did_in_the_teacher():
    teacher, blocks = lively_teacher(), 3
    spec = MNSpec(blocks=blocks, time_strides=5, time_kernel=5, activation="hardswish")
    student = MN(4, spec, n_mels=128).eval()
    inherit_blocks(student, teacher, MN04_FRONTEND)
    log_mel = torch.randn(1, 80, 128)
    theirs = teacher.features[: blocks + 1](log_mel.transpose(1, 2).unsqueeze(1)).transpose(2, 3)
    # The teacher's padding shifts its grid: from frame 3 on, our step k is its step k + 3.
    ours = student.stem(log_mel[:, 3:].unsqueeze(1))
    for block in student.blocks:
        ours = block(ours)
    torch.testing.assert_close(ours[:, :, :12], theirs[:, :, 3:15], rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_the_students_units_are_brought_to_the_teachers():
    teacher = lively_teacher()
    spec = MNSpec(blocks=3, dropout=0)
    same, other = MN(4, spec).eval(), MN(4, spec).eval()
    other.load_state_dict(same.state_dict())
    frontend = FrontendSpec()
    inherit_blocks(
        same, teacher, frontend.model_copy(update={"scale": MN04_FRONTEND.scale, "offset": MN04_FRONTEND.offset})
    )
    inherit_blocks(other, teacher, frontend)
    log_power = torch.randn(1, 99, 64)
    theirs = (log_power + MN04_FRONTEND.offset) * MN04_FRONTEND.scale
    ours = (log_power + frontend.offset) * frontend.scale
    # Frequency is padded with zeros of either scale, so only its middle is the same.
    inside = slice(4, -4)
    torch.testing.assert_close(
        same.stem(theirs.unsqueeze(1))[..., inside], other.stem(ours.unsqueeze(1))[..., inside], rtol=1e-3, atol=1e-4
    )


def test_a_folded_gate_is_the_gate_at_the_mean_activation():
    teacher = lively_teacher()
    folded, trailing = MN(4, MNSpec(blocks=4)), MN(4, MNSpec(blocks=4, squeeze_steps=2))
    inherit_blocks(folded, teacher, FrontendSpec())
    inherit_blocks(trailing, teacher, FrontendSpec())
    gates = folded.blocks[3].project[0].weight / trailing.blocks[3].project[0].weight
    assert torch.all((gates > 0) & (gates < 1))
    assert torch.allclose(gates.std(dim=0), torch.zeros(gates.shape[1], 1, 1), atol=1e-4)


def test_the_dial_grows_with_the_blocks():
    sizes = [sum(p.numel() for p in MN(10, MNSpec(blocks=blocks)).parameters()) for blocks in (3, 6, 10, 12, 15)]
    assert sizes == sorted(sizes)
    assert sizes[0] < 8_000 < 200_000 < sizes[-1]


def test_bands_that_cannot_be_halved_are_refused_by_field():
    with pytest.raises(ConfigError, match=r"frontend.n_mels is 50.*multiple of 8"):
        MN(10, MNSpec(blocks=10), n_mels=50)
