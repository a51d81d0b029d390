"""A stateful ONNX artefact with its inputs and outputs in memory that stays: a step then costs two thirds as much."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from edgeaudio.bundle.manifest import ModelFile
from edgeaudio.errors import ShapeError
from edgeaudio.runtime.engines.base import Hidden
from edgeaudio.runtime.engines.tensors import check_states


class BoundSession:
    """Runs a session on arrays that onnxruntime was given once, instead of making dozens of tensors anew each step."""

    def __init__(self, session: Any, artefact: ModelFile) -> None:
        import onnxruntime

        self._session = session
        self._artefact = artefact
        self._binding = session.io_binding()
        self._inputs = [np.zeros(info.shape, info.dtype) for info in artefact.inputs]
        self._outputs = [np.zeros(info.shape, info.dtype) for info in artefact.outputs]
        self._shapes, self._dtypes = [own.shape for own in self._inputs], [own.dtype for own in self._inputs]
        # On the CPU such a value is the array's own memory, not a copy.
        make = onnxruntime.OrtValue.ortvalue_from_numpy
        for info, values in zip(artefact.inputs, self._inputs, strict=True):
            self._binding.bind_ortvalue_input(info.name, make(values))
        for info, values in zip(artefact.outputs, self._outputs, strict=True):
            self._binding.bind_ortvalue_output(info.name, make(values))

    def run(self, given: Sequence[Hidden]) -> list[Hidden]:
        """All inputs in order -> all outputs, freshly allocated.

        Raises:
            ShapeError: an array that is not what the artefact takes.
        """
        # Asked, because a copy would cast and repeat to make it fit.
        if [values.shape for values in given] != self._shapes or [values.dtype for values in given] != self._dtypes:
            check_states(given[1:], self._artefact)
            raise ShapeError(f"{self._artefact.name}: its first input is {given[0].dtype} {given[0].shape}")
        for own, values in zip(self._inputs, given, strict=True):
            np.copyto(own, values)
        self._session.run_with_iobinding(self._binding)
        return [values.copy() for values in self._outputs]
