"""Student -> ONNX bytes that TensorRT builds an engine from: explicit, symmetric int8 pairs. *Not run on hardware*.

Rules and sources: docs/decisions/0008-tensorrt.md. Every file is held against them before it leaves here.
"""

from __future__ import annotations

import onnx
import torch

from edgeaudio.bundle.manifest import Precision, TensorInfo
from edgeaudio.errors import ConfigError

from . import onnx_graph, tensorrt_graph
from .artefact import INPUT_NAME, OUTPUT_NAME, ExportedArtefact
from .onnx_cut import cut_onnx
from .onnx_export import converted, export_onnx, finish, with_float_ends
from .operators import Model, naming_operators, quantised_model
from .tensorrt_rules import require_rules


def export_tensorrt(model: Model, example: torch.Tensor, precision: Precision) -> ExportedArtefact:
    """Export for TensorRT; int8 files have the weights of the other formats' and no zero points.

    fp32 files are those of the format onnx, byte for byte.

    Args and errors as `export_onnx`.

    Raises:
        ConfigError: an int8 student that was quantised without `symmetric`.
        VerificationError: the graph breaks a rule of TensorRT; names the rule and the node.
    """
    if precision == "fp32":
        with naming_operators("tensorrt"):
            proto = onnx.load_from_string(export_onnx(model, example, precision).payload)
    else:
        quantised = quantised_model(model, precision, example)
        if quantised.symmetric is None:
            raise ConfigError("tensorrt int8 needs activations without zero points: quantise with symmetric=True")
        proto = converted(quantised.symmetric, (example,), [INPUT_NAME], [OUTPUT_NAME], "tensorrt")
        onnx_graph.strip(proto)
        onnx_graph.share_constants(proto.graph)
        onnx_graph.drop_repeated_quantisation(proto.graph)
        tensorrt_graph.drop_idle_pairs(proto.graph)
        finish(proto)
    require_rules(proto, f"tensorrt-{precision}")
    return with_float_ends(proto, "tensorrt", precision)


def cut_tensorrt(payload: bytes) -> list[tuple[bytes, TensorInfo, tuple[TensorInfo, ...]]]:
    """As `cut_onnx`, but what one stage leaves for the next is float: TensorRT takes and gives no int8.

    Raises:
        VerificationError: also where a stage by itself breaks a rule of TensorRT.
    """
    stages: list[tuple[bytes, TensorInfo, tuple[TensorInfo, ...]]] = []
    for stage, given, outputs in cut_onnx(payload):
        proto = onnx.load_from_string(stage)
        given, outputs = tensorrt_graph.with_float_border(proto, given, outputs)
        onnx_graph.share_constants(proto.graph)
        tensorrt_graph.drop_idle_pairs(proto.graph)
        finish(proto)
        require_rules(proto, f"stage {len(stages)} of tensorrt")
        stages.append((proto.SerializeToString(deterministic=True), given, outputs))
    return stages
