"""Rewrites a TFLite flatbuffer in fewer bytes. Weights and operators stay the same, and so does every output bit."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import flatbuffers  # type: ignore[import-untyped]
import numpy as np
from ai_edge_litert import schema_py_generated as schema
from numpy.typing import NDArray

from .artefact import INPUT_NAME, OUTPUT_NAME

_FILE_IDENTIFIER = b"TFL3"
# The schema asks for it on constant data; Python's builder would align bytes to 4 only.
_DATA_ALIGNMENT_BYTES = 16
_WEIGHTED = (
    schema.BuiltinOperator.CONV_2D,
    schema.BuiltinOperator.DEPTHWISE_CONV_2D,
    schema.BuiltinOperator.FULLY_CONNECTED,
)


class _SharingBuilder(flatbuffers.Builder):  # type: ignore[misc]
    """Writes equal vectors and equal tables once, and the fields of a table from wide to narrow.

    Per-channel zero points are 8 bytes of zeros each, twice per layer; most convolutions have the same options;
    a byte between two offsets takes four.
    """

    def __init__(self) -> None:
        super().__init__(0)
        self._vectors: dict[tuple[str, bytes], int] = {}
        self._tables: dict[tuple[tuple[int, int, object], ...], int] = {}
        #: Of the table being built: slot, bytes, value, and what writes it.
        self._fields: list[tuple[int, int, object, Callable[[], None]]] = []

    def CreateNumpyVector(self, x: NDArray[Any]) -> int:
        key = (x.dtype.str, x.tobytes())
        if key not in self._vectors:
            self._vectors[key] = super().CreateNumpyVector(x)
        return self._vectors[key]

    def StartVector(self, elemSize: int, numElems: int, alignment: int) -> int:
        wanted = _DATA_ALIGNMENT_BYTES if elemSize == 1 else alignment
        offset: int = super().StartVector(elemSize, numElems, wanted)
        return offset

    def PrependSlot(self, flags: Any, o: int, x: Any, d: Any) -> None:
        if x != d:
            write = super().PrependSlot
            self._fields.append((o, flags.bytewidth, x, lambda: write(flags, o, x, d)))

    def PrependUOffsetTRelativeSlot(self, o: int, x: int, d: int) -> None:
        if x != d:
            write = super().PrependUOffsetTRelativeSlot
            # Equal offsets are equal contents, because what they point to is shared already.
            self._fields.append((o, flatbuffers.number_types.UOffsetTFlags.bytewidth, x, lambda: write(o, x, d)))

    def EndObject(self) -> int:
        fields = sorted(self._fields, key=lambda field: (-field[1], field[0]))
        self._fields = []
        key = tuple(field[:3] for field in fields)
        if key in self._tables:
            # Nothing of this table is written yet: forget that it was begun.
            self.current_vtable, self.nested = None, False
        else:
            for *_, write in fields:
                write()
            self._tables[key] = super().EndObject()
        return self._tables[key]


def compact(
    payload: bytes, *, input_names: Sequence[str] = (INPUT_NAME,), output_names: Sequence[str] = (OUTPUT_NAME,)
) -> bytes:
    """The same model in fewer bytes, its first inputs and outputs named as given.

    What goes, interpreters do not read: other names, signatures (they repeat the names), descriptions, metadata,
    quantisation without a scale, and the empty buffer of each activation (buffer 0 stands for "no data").
    """
    model = schema.ModelT.InitFromPackedBuf(payload, 0)
    model.signatureDefs = model.metadata = model.metadataBuffer = model.description = None
    for subgraph in model.subgraphs:
        subgraph.name = None
        for tensor in subgraph.tensors:
            tensor.name = None
            if tensor.quantization is not None and tensor.quantization.scale is None:
                tensor.quantization = None
        ends = [
            *zip(subgraph.inputs, input_names, strict=False),
            *zip(subgraph.outputs, output_names, strict=False),
        ]
        for position, name in ends:
            subgraph.tensors[position].name = name
    _drop_empty_buffers(model)
    builder = _SharingBuilder()
    builder.Finish(model.Pack(builder), file_identifier=_FILE_IDENTIFIER)
    return bytes(builder.Output())


def float_activations(payload: bytes) -> tuple[str, ...]:
    """Names of float tensors that are not constants: what an int8 file still computes in float.

    A tensor without a name is named by its position: `t12`.
    """
    model = schema.ModelT.InitFromPackedBuf(payload, 0)
    return tuple(
        _tensor_name(subgraph, position)
        for subgraph in model.subgraphs
        for position, tensor in enumerate(subgraph.tensors)
        if tensor.type == schema.TensorType.FLOAT32 and model.buffers[tensor.buffer].data is None
    )


def float_weights(payload: bytes) -> tuple[tuple[int, ...], tuple[str, ...]]:
    """What the layers that compute in float are.

    Returns:
        Elements of the weights of each, sorted; and the float activations that are neither connected to such
        a layer nor input or output of the file.
    """
    model = schema.ModelT.InitFromPackedBuf(payload, 0)
    sizes: list[int] = []
    stray: list[str] = []
    for subgraph in model.subgraphs:
        activations = {
            number
            for number, tensor in enumerate(subgraph.tensors)
            if tensor.type == schema.TensorType.FLOAT32 and model.buffers[tensor.buffer].data is None
        }
        touched = [activations & {*operator.inputs, *operator.outputs} for operator in subgraph.operators]
        connected: set[int] = set()
        for operator, tensors in zip(subgraph.operators, touched, strict=True):
            weight = _weight(model, subgraph, operator)
            if weight is not None and weight.type == schema.TensorType.FLOAT32:
                sizes.append(int(np.prod(weight.shape)))
                connected |= tensors
        while grown := [tensors for tensors in touched if tensors & connected and not tensors <= connected]:
            connected.update(*grown)
        apart = activations - connected - {*subgraph.inputs, *subgraph.outputs}
        stray += [_tensor_name(subgraph, number) for number in sorted(apart)]
    return tuple(sorted(sizes)), tuple(stray)


def _tensor_name(subgraph: Any, position: int) -> str:
    name = subgraph.tensors[position].name
    return name.decode() if name else f"t{position}"


def _weight(model: Any, subgraph: Any, operator: Any) -> Any:
    code = model.operatorCodes[operator.opcodeIndex]
    # Files of old schemas hold the operator in the deprecated field; the larger one counts.
    builtin = max(code.builtinCode, code.deprecatedBuiltinCode)
    return subgraph.tensors[operator.inputs[1]] if builtin in _WEIGHTED else None


def is_aligned(payload: bytes) -> bool:
    """Whether all constant data starts at a multiple of 16 bytes in the file."""
    start = np.frombuffer(payload, dtype=np.uint8).__array_interface__["data"][0]
    model = schema.Model.GetRootAs(payload, 0)
    arrays = [model.Buffers(i).DataAsNumpy() for i in range(model.BuffersLength()) if not model.Buffers(i).DataIsNone()]
    return all((array.__array_interface__["data"][0] - start) % _DATA_ALIGNMENT_BYTES == 0 for array in arrays)


def _drop_empty_buffers(model: Any) -> None:
    kept = [schema.BufferT()]
    moved = {}
    for subgraph in model.subgraphs:
        for tensor in subgraph.tensors:
            buffer = model.buffers[tensor.buffer]
            if buffer.data is not None and tensor.buffer not in moved:
                moved[tensor.buffer] = len(kept)
                kept.append(buffer)
            tensor.buffer = moved.get(tensor.buffer, 0)
    model.buffers = kept
