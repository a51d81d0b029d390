"""What every exporter checks before and after: the model for a precision, and which operator a format refused."""

from __future__ import annotations

import contextlib
import copy
import re
from collections.abc import Iterator

import torch
from torch import nn

from edgeaudio.bundle.manifest import Precision
from edgeaudio.compress.ptq import QuantisedStudent
from edgeaudio.errors import ConfigError, ShapeError, UnsupportedError

Model = nn.Module | QuantisedStudent

# How torch.onnx, litert_torch and MLIR spell the operator that they cannot convert.
_OPERATOR = re.compile(
    r"(?:aten|prims|quantized_decomposed|torchaudio|torchvision)(?:\.|::?)\w+(?:\.\w+)?"
    r"|Unsupported ir element type: \S+"
    r"|\b[A-Z][A-Z0-9_]+(?=\) failed to prepare)"
)


def float_model(model: Model, precision: Precision, example: torch.Tensor) -> nn.Module:
    """A copy of the fp32 student in eval mode, ready for a converter.

    Raises:
        ConfigError: the model does not fit the precision.
        ShapeError: `example` is not `(1, frames, n_mels)` float32.
    """
    if example.ndim != 3 or example.shape[0] != 1 or example.dtype != torch.float32:
        raise ShapeError(f"example is {example.dtype} {tuple(example.shape)}, wanted float32 (1, frames, n_mels)")
    if precision != "fp32" or not isinstance(model, nn.Module):
        raise ConfigError(f"precision {precision!r} with a {type(model).__name__}; fp32 needs the student itself")
    return copy.deepcopy(model).cpu().eval()


def quantised_model(model: Model, precision: Precision, example: torch.Tensor) -> QuantisedStudent:
    """The int8 student, checked against `example`; errors as `float_model`."""
    if precision != "int8" or not isinstance(model, QuantisedStudent):
        raise ConfigError(f"precision {precision!r} with a {type(model).__name__}; int8 needs quantise_ptq(...) first")
    if tuple(example.shape) != (1, model.frames, model.n_mels):
        raise ShapeError(f"example is {tuple(example.shape)}, quantised for {(1, model.frames, model.n_mels)}")
    return model


@contextlib.contextmanager
def naming_operators(format: str) -> Iterator[None]:
    """Turn a converter's failure about an operator into `UnsupportedError`; others pass through."""
    try:
        yield
    except Exception as error:
        operator = _operator_of(error)
        if operator is None:
            raise
        raise UnsupportedError(
            f"{format}: operator {operator} cannot be exported. Replace it in the student, or leave {format} out."
        ) from error


def _operator_of(error: BaseException | None) -> str | None:
    # The innermost cause knows best; outer layers quote whole graphs full of innocent operators.
    chain = []
    while error is not None and error not in chain:
        chain.append(error)
        error = error.__cause__ or error.__context__
    for link in reversed(chain):
        found = _OPERATOR.search(str(link))
        if found:
            return found.group()
    return None
