"""A freshly built student cut to the widths that a pruned one's weights have, so that they load strictly.

A pruned student is its family's spec and its safetensors file, nothing else: widths are read from the tensors.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import cast

import torch
from torch import nn

from edgeaudio.distill.train import read_weights
from edgeaudio.errors import ShapeError, UnsupportedError, VerificationError
from edgeaudio.students.base import Student

#: Layers whose widths may change.
Layer = nn.Conv2d | nn.BatchNorm2d | nn.Linear
HEAD = "head"


def load_pruned_student(student: nn.Module, path: Path, *, example: torch.Tensor) -> nn.Module:
    """Cut a freshly built `student` to the widths stored in `path`, load its weights and return it in eval mode.

    Args:
        example: `(1, frames, n_mels)`, a window of the student.
    Raises:
        VerificationError: no readable weights, or weights of another student; see `fit_to_state`.
    """
    state = read_weights(path)
    try:
        fit_to_state(student, state, example=example)
    except VerificationError as error:
        raise VerificationError(f"{path}: {error}. Delete its folder to prune again.") from error
    student.load_state_dict(state, strict=True)
    return student.eval()


def fit_to_state(student: nn.Module, state: Mapping[str, torch.Tensor], *, example: torch.Tensor) -> None:
    """Cut the convolutions, batch norms and linear layers of `student` to the shapes in `state`.

    Weights are not loaded, and after an error `student` is as it was.

    Args:
        state: what the student's `load_state_dict(strict=True)` shall take afterwards.
        example: `(1, frames, n_mels)`; one pass of it proves that the layers fit together.
    Raises:
        ShapeError: `example` is not a window of the student.
        UnsupportedError: the student has parameters in layers of another kind.
        VerificationError: a tensor is missing, unknown or of a shape that no pruning of this student gives, or two
            layers disagree; the message names the tensor.
    """
    check_prunable(student)
    check_example(student, example)
    fresh = student.state_dict()
    if missing := sorted(fresh.keys() - state.keys()):
        raise VerificationError(f"the weights lack {missing[0]} ({len(missing)} tensors are missing)")
    if unknown := sorted(state.keys() - fresh.keys()):
        raise VerificationError(f"the weights hold {unknown[0]}, which this student has not")
    for name, layer in layers_of(student):
        _check_shapes(name, layer, state)
    trial = copy.deepcopy(student)
    _resize(trial, state)
    _check_flow(trial, example)
    _resize(student, state)
    _follow_widths(student)


def channel_plan(student: nn.Module) -> dict[str, int]:
    """Output channels of each convolution and linear layer, by name, in the order they were built."""
    return {name: layer.weight.shape[0] for name, layer in layers_of(student) if not isinstance(layer, nn.BatchNorm2d)}


def layers_of(student: nn.Module) -> Iterator[tuple[str, Layer]]:
    """Names and layers that have widths."""
    for name, module in student.named_modules():
        if isinstance(module, Layer):
            yield name, module


def is_depthwise(layer: Layer) -> bool:
    """Whether each output channel is made from its own input channel alone."""
    return isinstance(layer, nn.Conv2d) and 1 < layer.groups == layer.in_channels == layer.out_channels


def check_prunable(student: nn.Module) -> None:
    """Raise `UnsupportedError` where a parameter belongs to a layer whose width pruning cannot change."""
    for name, module in student.named_modules():
        if next(module.parameters(recurse=False), None) is not None and not isinstance(module, Layer):
            raise UnsupportedError(
                f"prune: {name or 'the student'} is a {type(module).__name__}; channels can be removed from students "
                "of Conv2d, BatchNorm2d and Linear alone. Use student.family dscnn or mn, or leave prune out."
            )
        if isinstance(module, nn.Conv2d) and module.groups > 1 and not is_depthwise(module):
            raise UnsupportedError(
                f"prune: {name} is a convolution in {module.groups} groups; only depthwise ones can be cut"
            )


def check_example(student: nn.Module, example: torch.Tensor) -> None:
    """Raise `ShapeError` unless `example` is `(1, frames, n_mels)` with enough frames."""
    fewest = cast(Student, student).receptive_field_frames
    if example.ndim != 3 or len(example) != 1 or example.shape[1] < fewest:
        raise ShapeError(
            f"example has shape {tuple(example.shape)}, wanted (1, frames, n_mels) with at least {fewest} frames"
        )


def _check_shapes(name: str, layer: Layer, state: Mapping[str, torch.Tensor]) -> None:
    """Each dimension is the fresh one or, where it counts channels, a smaller one; vectors fit their weight."""
    channels = 0 if isinstance(layer, nn.BatchNorm2d) else 2
    for key, fresh in layer.state_dict().items():
        full, given = f"{name}.{key}", state[f"{name}.{key}"].shape
        if given.numel() == 0 or len(given) != fresh.ndim:
            raise VerificationError(f"{full} has shape {tuple(given)}, wanted one like {tuple(fresh.shape)}")
        cut_from = 1 if name == HEAD else 0  # the classes of the head are the task's
        free = range(cut_from, channels) if key == "weight" and channels else range(cut_from, 1)
        for axis, (size, whole) in enumerate(zip(given, fresh.shape, strict=True)):
            if size > whole or (size < whole and axis not in free):
                raise VerificationError(
                    f"{full} has shape {tuple(given)}, which cannot be cut from this student's {tuple(fresh.shape)}"
                )
        width = state[f"{name}.weight"].shape[0]
        if given and given[0] != width:
            raise VerificationError(f"{full} is for {given[0]} channels, {name}.weight for {width}")


def _resize(student: nn.Module, state: Mapping[str, torch.Tensor]) -> None:
    """Empty parameters of the stored shapes, on the device and of the type they had."""
    for name, layer in layers_of(student):
        was_depthwise = is_depthwise(layer)
        for key, fresh in layer.state_dict().items():
            resized = fresh.new_zeros(state[f"{name}.{key}"].shape)
            if key in layer._parameters:
                trained = cast(nn.Parameter, layer._parameters[key]).requires_grad
                layer._parameters[key] = nn.Parameter(resized, requires_grad=trained)
            else:
                layer._buffers[key] = resized
        if isinstance(layer, nn.BatchNorm2d):
            layer.num_features = layer.weight.shape[0]
        elif isinstance(layer, nn.Linear):
            layer.out_features, layer.in_features = layer.weight.shape
        else:
            layer.out_channels = layer.weight.shape[0]
            layer.groups = layer.out_channels if was_depthwise else 1
            layer.in_channels = layer.weight.shape[1] * layer.groups


def _inputs_of(layer: Layer) -> int:
    if isinstance(layer, nn.Conv2d):
        return layer.in_channels
    return layer.in_features if isinstance(layer, nn.Linear) else layer.num_features


def _check_flow(student: nn.Module, example: torch.Tensor) -> None:
    """One pass in which every layer must be given as many channels as its weights take."""
    last = ["the input"]

    def check(name: str, layer: Layer, hidden: torch.Tensor) -> None:
        if hidden.shape[1] != _inputs_of(layer):
            raise VerificationError(
                f"{name}.weight takes {_inputs_of(layer)} channels, but after {last[0]} there are {hidden.shape[1]}"
            )
        last[0] = f"{name}.weight"

    for name, layer in layers_of(student):
        layer.register_forward_pre_hook(lambda layer, inputs, name=name: check(name, layer, inputs[0]))
    try:
        with torch.no_grad():
            student.eval()(example.to(next(student.parameters())))
    except RuntimeError as error:
        raise VerificationError(f"channels do not fit together after {last[0]}: {error}") from error


def _follow_widths(student: nn.Module) -> None:
    """Bring what a student says of its widths in line with its layers."""
    cut = cast(Student, student)
    cut.embedding_dim = cut.head.in_features
    cut.section_channels = tuple(
        [layer.weight.shape[0] for _name, layer in layers_of(section)][-1] for section in cut.sections()
    )
