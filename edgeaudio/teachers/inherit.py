"""Give an mn student the first blocks of mn04: what AudioSet taught them is where its training starts."""

from __future__ import annotations

import math
from typing import cast

import torch
from torch import nn

from edgeaudio.spec import FrontendSpec
from edgeaudio.students.mn import MN, MNBlock, TrailingSqueezeExcite
from edgeaudio.students.mn_blocks import BLOCKS
from edgeaudio.teachers.mn04 import EMBEDDING_DIM, MN04, MN04_FRONTEND, InvertedResidual, SqueezeExcite


@torch.no_grad()
def inherit_blocks(student: MN, teacher: MN04, frontend: FrontendSpec) -> None:
    """Copy the teacher's stem and kept blocks, and its last convolution where the student kept all of it.

    What the teacher has not (the head, another last convolution) stays as it is. `frontend` is the student's: its
    units are brought to the teacher's inside the stem.
    """
    _copy_conv_bn(student.stem[0], teacher.features[0])
    _rescale_input(student.stem[0], frontend)
    for block, source in zip(student.blocks, list(teacher.features)[1:], strict=False):
        _copy_block(cast(MNBlock, block), cast(InvertedResidual, source))
    if len(student.blocks) == len(BLOCKS) and student.embedding_dim == EMBEDDING_DIM:
        _copy_conv_bn(student.last[0], teacher.features[-1])


def _conv_and_norm(layers: nn.Module) -> tuple[nn.Conv2d, nn.BatchNorm2d]:
    conv, norm, *_activation = cast(nn.Sequential, layers)
    return cast(nn.Conv2d, conv), cast(nn.BatchNorm2d, norm)


def _rescale_input(layers: nn.Module, frontend: FrontendSpec) -> None:
    """Let a stem made for the teacher's log-mel units take the student's: `(ln(power) + offset) * scale` each."""
    conv, norm = _conv_and_norm(layers)
    assert norm.running_mean is not None
    shift = MN04_FRONTEND.scale * (MN04_FRONTEND.offset - frontend.offset)
    norm.running_mean -= shift * conv.weight.sum(dim=(1, 2, 3))
    conv.weight *= MN04_FRONTEND.scale / frontend.scale


def _copy_conv_bn(target: nn.Module, source: nn.Module) -> None:
    conv, norm = _conv_and_norm(target)
    source_conv, source_norm = _conv_and_norm(source)
    weight = source_conv.weight.transpose(2, 3)  # the teacher's images are (frequency, time)
    conv.weight.copy_(_narrowed(weight, conv.weight.shape[2]))
    norm.load_state_dict(source_norm.state_dict())


def _narrowed(weight: torch.Tensor, taps: int) -> torch.Tensor:
    """A kernel with fewer taps along time that answers a sound which does not change as before: ends are folded in."""
    surplus = (weight.shape[2] - taps) // 2
    if not surplus:
        return weight
    if taps == 1:
        return weight.sum(dim=2, keepdim=True)
    first = weight[:, :, : surplus + 1].sum(dim=2, keepdim=True)
    last = weight[:, :, -surplus - 1 :].sum(dim=2, keepdim=True)
    return torch.cat([first, weight[:, :, surplus + 1 : -surplus - 1], last], dim=2)


def _copy_block(block: MNBlock, source: InvertedResidual) -> None:
    layers = list(source.block)
    if isinstance(block.expand, nn.Sequential):
        _copy_conv_bn(block.expand[0], layers.pop(0))
    depthwise = layers.pop(0)
    _copy_conv_bn(block.depthwise[0], depthwise)
    _copy_conv_bn(block.project, layers.pop())
    if not layers:
        return
    squeeze = cast(SqueezeExcite, cast(nn.ModuleList, layers[0].conc_se_layers)[0])
    if isinstance(block.gate, TrailingSqueezeExcite):
        for linear, conv in ((squeeze.fc1, block.gate.fc1), (squeeze.fc2, block.gate.fc2)):
            conv.weight.copy_(linear.weight[:, :, None, None])
            conv.load_state_dict({"weight": conv.weight, "bias": linear.bias})
    else:
        project, _norm = _conv_and_norm(block.project)
        project.weight *= _expected_gate(squeeze, _conv_and_norm(depthwise)[1])[None, :, None, None]


def _expected_gate(squeeze: SqueezeExcite, norm: nn.BatchNorm2d) -> torch.Tensor:
    """The gate at the mean activation that the batch norm before it promises, `(channels,)`.

    A normalised channel is about N(bias, weight**2), and the mean of its ReLU has a closed form.
    """
    mean, deviation = norm.bias, norm.weight.abs().clamp_min(1e-6)
    z = mean / deviation
    density = torch.exp(-z.square() / 2) / math.sqrt(2 * math.pi)
    expected = deviation * density + mean * torch.special.ndtr(z)
    return torch.sigmoid(squeeze.fc2(torch.relu(squeeze.fc1(expected))))
