"""Student -> ONNX bytes: opset 20, IR 10, static batch 1, no external data, the same bytes every time."""

from __future__ import annotations

from typing import TypeVar

import onnx
import torch
from torch.fx import GraphModule

from edgeaudio.bundle.manifest import ArtefactFormat, Precision, TensorInfo
from edgeaudio.compress.quiet import quiet_libraries
from edgeaudio.errors import ConfigError, VerificationError

from . import onnx_compact, onnx_graph
from .artefact import INPUT_NAME, OUTPUT_NAME, ExportedArtefact, ExportedStateful, next_state
from .operators import Model, float_model, naming_operators, quantised_model
from .stateful_graph import StatefulGraph

# Not newer: boards with Python 3.10 get no onnxruntime after 1.23.
OPSET = 20
MAX_IR_VERSION = 10

Info = TypeVar("Info", bound=TensorInfo)


def export_onnx(
    model: Model, example: torch.Tensor, precision: Precision, *, compact: bool = False
) -> ExportedArtefact:
    """Export to ONNX; int8 files hold 8-bit weights and are fully quantised between float input and output.

    Args:
        model: the student (fp32) or its `QuantisedStudent` (int8).
        example: `(1, frames, n_mels)` float32; only its shape matters.
        compact: int8 as integer operators instead of Q/DQ pairs: the same bits in fewer bytes, for onnxruntime alone.
    Raises:
        ConfigError, ShapeError: model, precision and example do not fit together.
        UnsupportedError: names the operator that ONNX lacks.
        VerificationError: the exported graph is not what was asked for.
    """
    if compact and precision != "int8":
        raise ConfigError(f"compact with precision {precision!r}; it is a form of int8, leave it out")
    if precision == "int8":
        module: torch.nn.Module = quantised_model(model, precision, example).folded
    else:
        module = float_model(model, precision, example)
    proto = converted(module, (example,), [INPUT_NAME], [OUTPUT_NAME])
    _tidy(proto, quantised=isinstance(module, GraphModule))
    if compact:
        proto = onnx_compact.compact(proto)
        onnx.checker.check_model(proto, full_check=True)
    return with_float_ends(proto, "onnx", precision)


def with_float_ends(proto: onnx.ModelProto, format: ArtefactFormat, precision: Precision) -> ExportedArtefact:
    """The artefact of a finished graph, float from input to outputs whatever lies between."""
    graph = proto.graph
    return ExportedArtefact(
        format=format,
        precision=precision,
        payload=proto.SerializeToString(deterministic=True),
        input=TensorInfo(name=INPUT_NAME, shape=onnx_graph.tensor_shape(graph.input[0])),
        outputs=tuple(TensorInfo(name=value.name, shape=onnx_graph.tensor_shape(value)) for value in graph.output),
    )


def export_stateful_onnx(graph: StatefulGraph, precision: Precision) -> ExportedStateful:
    """The stateful form in ONNX: states of an int8 graph are uint8 inputs and outputs, as its activations are.

    Args:
        graph: of the student, or of `QuantisedStudent.folded` with integer states.
    Raises:
        UnsupportedError, VerificationError: as `export_onnx`.
    """
    given = [state.name for state in graph.states]
    left = [*map(next_state, given), *([graph.hidden.name] if graph.hidden else [])]
    proto = converted(graph.module, graph.example(), [graph.input.name, *given], [*left, OUTPUT_NAME])
    _tidy(proto, quantised=precision == "int8")
    first, *values = proto.graph.input
    states = [_as_written(state, value) for state, value in zip(graph.states, values, strict=True)]
    outputs = [state.as_output(name) for state, name in zip(states, left, strict=False)]
    if graph.hidden is not None:
        outputs.append(_as_written(graph.hidden, proto.graph.output[-2]))
    outputs.append(TensorInfo(name=OUTPUT_NAME, shape=onnx_graph.tensor_shape(proto.graph.output[-1])))
    return ExportedStateful(
        format="onnx",
        precision=precision,
        payload=proto.SerializeToString(deterministic=True),
        input=_as_written(graph.input, first),
        outputs=tuple(outputs),
        states=tuple(states),
        logit_step=graph.logit_step,
        macs_per_step=graph.macs_per_step,
        stage=graph.stage,
    )


def _as_written(info: Info, value: onnx.ValueInfoProto) -> Info:
    """Activations of a quantised graph are uint8 in the file; layers that are left float stay so."""
    if value.type.tensor_type.elem_type != onnx.TensorProto.UINT8:
        return info.model_copy(update={"dtype": "float32", "scale": None, "zero_point": None})
    assert info.zero_point is not None
    return info.model_copy(update={"dtype": "uint8", "zero_point": info.zero_point + onnx_graph.INT8_TO_UINT8})


def converted(
    module: torch.nn.Module,
    example: tuple[torch.Tensor, ...],
    input_names: list[str],
    output_names: list[str],
    format: ArtefactFormat = "onnx",
) -> onnx.ModelProto:
    """What torch makes of a module, with all its names and metadata; errors name `format`."""
    with quiet_libraries("torch.onnx"), naming_operators(format):
        program = torch.onnx.export(
            module,
            example,
            dynamo=True,
            external_data=False,
            verbose=False,
            opset_version=OPSET,
            input_names=input_names,
            output_names=output_names,
        )
        assert program is not None
        proto: onnx.ModelProto = program.model_proto
    return proto


def _tidy(proto: onnx.ModelProto, *, quantised: bool) -> None:
    onnx_graph.strip(proto)
    if quantised:
        onnx_graph.activations_to_uint8(proto.graph)
        onnx_graph.drop_kernel_zero_points(proto.graph)
    onnx_graph.share_constants(proto.graph)
    if quantised:
        onnx_graph.drop_idle_relus(proto.graph)
        onnx_graph.drop_repeated_quantisation(proto.graph)
    finish(proto)


def finish(proto: onnx.ModelProto) -> None:
    """The last steps of every ONNX file: nothing said twice, short names, and a check of the whole.

    Raises:
        VerificationError: another opset, domain or IR than wanted.
    """
    onnx_graph.drop_defaults(proto.graph, OPSET)
    onnx_graph.shorten_names(proto.graph)
    onnx.checker.check_model(proto, full_check=True)
    opsets = {entry.domain: entry.version for entry in proto.opset_import}
    if opsets != {"": OPSET} or proto.ir_version > MAX_IR_VERSION:
        raise VerificationError(
            f"onnx: exported with opsets {opsets} and IR {proto.ir_version}, wanted opset {OPSET} of the default "
            f"domain only and IR at most {MAX_IR_VERSION}"
        )
