"""Rewrites a TFLite flatbuffer: short names, equal vectors stored once. Weights and operators stay the same."""

from __future__ import annotations

from typing import Any

import flatbuffers  # type: ignore[import-untyped]
import numpy as np
from ai_edge_litert import schema_py_generated as schema
from numpy.typing import NDArray

from .artefact import INPUT_NAME, OUTPUT_NAME

_FILE_IDENTIFIER = b"TFL3"
# The schema asks for it on constant data; Python's builder would align bytes to 4 only.
_DATA_ALIGNMENT_BYTES = 16


class _SharingBuilder(flatbuffers.Builder):  # type: ignore[misc]
    """Writes equal vectors once: per-channel zero points are 8 bytes of zeros each, twice per layer."""

    def __init__(self) -> None:
        super().__init__(0)
        self._written: dict[tuple[str, bytes], int] = {}

    def CreateNumpyVector(self, x: NDArray[Any]) -> int:
        key = (x.dtype.str, x.tobytes())
        if key not in self._written:
            self._written[key] = super().CreateNumpyVector(x)
        return self._written[key]

    def StartVector(self, elemSize: int, numElems: int, alignment: int) -> int:
        wanted = _DATA_ALIGNMENT_BYTES if elemSize == 1 else alignment
        offset: int = super().StartVector(elemSize, numElems, wanted)
        return offset


def compact(payload: bytes) -> bytes:
    """The same model in fewer bytes, its input named `log_mel` and its output `logits`."""
    model = schema.ModelT.InitFromPackedBuf(payload, 0)
    for subgraph in model.subgraphs:
        for position, tensor in enumerate(subgraph.tensors):
            tensor.name = f"t{position}"
        for position, name in ((subgraph.inputs[0], INPUT_NAME), (subgraph.outputs[0], OUTPUT_NAME)):
            subgraph.tensors[position].name = name
    for signature in model.signatureDefs or []:
        signature.inputs[0].name, signature.outputs[0].name = INPUT_NAME, OUTPUT_NAME
    builder = _SharingBuilder()
    builder.Finish(model.Pack(builder), file_identifier=_FILE_IDENTIFIER)
    return bytes(builder.Output())


def float_activations(payload: bytes) -> tuple[str, ...]:
    """Names of float tensors that are not constants: what an int8 file still computes in float."""
    model = schema.ModelT.InitFromPackedBuf(payload, 0)
    return tuple(
        tensor.name.decode()
        for subgraph in model.subgraphs
        for tensor in subgraph.tensors
        if tensor.type == schema.TensorType.FLOAT32 and model.buffers[tensor.buffer].data is None
    )


def is_aligned(payload: bytes) -> bool:
    """Whether all constant data starts at a multiple of 16 bytes in the file."""
    start = np.frombuffer(payload, dtype=np.uint8).__array_interface__["data"][0]
    model = schema.Model.GetRootAs(payload, 0)
    arrays = [model.Buffers(i).DataAsNumpy() for i in range(model.BuffersLength()) if not model.Buffers(i).DataIsNone()]
    return all((array.__array_interface__["data"][0] - start) % _DATA_ALIGNMENT_BYTES == 0 for array in arrays)
