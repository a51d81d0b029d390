"""The layers of a student that carry weights: their names, which of them stay float, batch norms folded into them."""

from __future__ import annotations

import copy
from collections.abc import Sequence

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils.fusion import fuse_conv_bn_eval

from edgeaudio.compress.qdq import is_within
from edgeaudio.errors import ConfigError, UnsupportedError, closest_match_hint


def weighted_layers(student: nn.Module) -> tuple[str, ...]:
    """Paths of all Conv2d and Linear layers, in the student's order."""
    return tuple(name for name, module in student.named_modules() if isinstance(module, nn.Conv2d | nn.Linear))


def float_layers(student: nn.Module, keep_float: Sequence[str]) -> tuple[str, ...]:
    """The Conv2d and Linear layers that stay float when the modules `keep_float` do.

    Raises:
        ConfigError: no such module, one without such a layer, or nothing is left to quantise.
    """
    layers = weighted_layers(student)
    modules = dict(student.named_modules())
    for name in keep_float:
        if name and any(is_within(layer, [name]) for layer in layers):
            continue
        found = "has no Conv2d or Linear" if name in modules and name else "is not a layer of the student"
        known = {part for layer in layers for part in (layer, layer.partition(".")[0])}
        raise ConfigError(f"keep_float: {name!r} {found}. {closest_match_hint(name, known)}")
    kept = tuple(layer for layer in layers if is_within(layer, keep_float))
    if kept and len(kept) == len(layers):
        raise ConfigError(f"keep_float names all {len(layers)} layers, which leaves none for int8; export fp32 instead")
    return kept


def fold_batch_norms(student: nn.Module) -> nn.Module:
    """A copy in eval mode whose batch norms are folded into the convolutions before them.

    Parameters stay trainable and layers keep their paths; logits differ by rounding only.

    Raises:
        UnsupportedError: a batch norm that does not follow a convolution within an `nn.Sequential`.
    """
    folded = copy.deepcopy(student).cpu().eval()
    for parent in folded.modules():
        if not isinstance(parent, nn.Sequential):
            continue
        for index in range(1, len(parent)):
            conv, norm = parent[index - 1], parent[index]
            if isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
                parent[index - 1], parent[index] = fuse_conv_bn_eval(conv, norm), nn.Identity()
    left = [name for name, module in folded.named_modules() if isinstance(module, _BatchNorm)]
    if left:
        raise UnsupportedError(
            f"batch norm {left[0]} cannot be folded: put it right after a Conv2d in an nn.Sequential, "
            "or quantise with method ptq"
        )
    return folded
