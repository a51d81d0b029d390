"""The tiny bundle with early exits: two stages in all four forms, made by hand in milliseconds. No torch.

Stage 0 flattens the window and answers with another bias than stage 1, which gives the whole model's answer.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

import numpy as np

from edgeaudio.bundle import Bundle, ExitChain, Exits, Golden, StageArtefact, bundle_bytes, file_entry
from edgeaudio.bundle.manifest import TensorInfo
from tests import tiny_bundle as tiny
from tests.tiny_bundle import Float32

#: What is added to the logits of the exit: it hears "high" more often than the final answer does.
EXIT_BIAS = np.array([0.0, 0.0, 6.0], np.float32)
HIDDEN_SHAPE = (1, tiny.WINDOW.frames * tiny.FRONTEND.n_mels)
MACS_PER_STAGE = (1000, 3000)
UINT8_ZERO_POINT = tiny.INPUT_ZERO_POINT + 128


def exit_linear(log_mel: Float32) -> Float32:
    """The exit in NumPy: `(frames, n_mels)` -> `(classes,)`."""
    return tiny.linear(log_mel) + EXIT_BIAS


def _bias(stage: int) -> Float32:
    return tiny.weights()[1] + (EXIT_BIAS if stage == 0 else 0)


def _onnx_stage(stage: int, *, int8: bool) -> bytes:
    from onnx import TensorProto, helper, numpy_helper

    constants: dict[str, Any] = {"w": tiny.weights()[0], "b": _bias(stage)}
    nodes = [helper.make_node("Gemm", ["flat", "w", "b"], ["float_out"], transB=1)]
    outputs = [helper.make_tensor_value_info("logits", TensorProto.INT8 if int8 else TensorProto.FLOAT, (1, 3))]
    hidden_type = TensorProto.UINT8 if int8 else TensorProto.FLOAT
    hidden = helper.make_tensor_value_info("hidden0", hidden_type, HIDDEN_SHAPE)
    if stage == 0:
        nodes.insert(0, helper.make_node("Flatten", ["float_in"], ["flat"], axis=1))
        outputs.insert(0, hidden)
    if int8:
        constants |= {"s": np.float32(tiny.INPUT_SCALE), "z8": np.int8(tiny.INPUT_ZERO_POINT)}
        constants |= {"zu8": np.uint8(UINT8_ZERO_POINT)}
        constants |= {"os": np.float32(tiny.OUTPUT_SCALE), "oz": np.int8(tiny.OUTPUT_ZERO_POINT)}
        nodes.append(helper.make_node("QuantizeLinear", ["float_out", "os", "oz"], ["logits"]))
        if stage == 0:
            nodes.insert(0, helper.make_node("DequantizeLinear", ["log_mel", "s", "z8"], ["float_in"]))
            nodes.append(helper.make_node("QuantizeLinear", ["flat", "s", "zu8"], ["hidden0"]))
        else:
            nodes.insert(0, helper.make_node("DequantizeLinear", ["hidden0", "s", "zu8"], ["flat"]))
    else:
        names = {"float_out": "logits", "float_in": "log_mel", "flat": "hidden0"}
        for node in nodes:
            node.input[:] = [names.get(name, name) for name in node.input]
            node.output[:] = [names.get(name, name) for name in node.output]
    given = hidden
    if stage == 0:
        given_type = TensorProto.INT8 if int8 else TensorProto.FLOAT
        given = helper.make_tensor_value_info("log_mel", given_type, tiny.INPUT_SHAPE)
    used = {name for node in nodes for name in node.input}
    initialisers = [numpy_helper.from_array(np.asarray(v), n) for n, v in constants.items() if n in used]
    graph = helper.make_graph(nodes, "tiny", [given], outputs, initialisers)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return model.SerializeToString()


def _tflite_stage(stage: int, *, int8: bool) -> bytes:
    """The whole model, shown one tensor earlier or begun one tensor later."""
    import flatbuffers
    from ai_edge_litert import schema_py_generated as schema

    model = schema.ModelT.InitFromPackedBuf(tiny.tflite_model(int8=int8), 0)
    (graph,) = model.subgraphs
    reshape, connect = graph.operators
    flat, _, bias = connect.inputs
    if stage == 0:
        graph.outputs = [reshape.outputs[0], connect.outputs[0]]
        values = _bias(0)
        if int8:
            values = np.rint(values / graph.tensors[bias].quantization.scale[0]).astype(np.int32)
        model.buffers[graph.tensors[bias].buffer].data = np.frombuffer(values.tobytes(), np.uint8)
    else:
        graph.inputs, graph.operators = [flat], [connect]
    builder = flatbuffers.Builder(4096)
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())


@functools.cache
def stage_payload(format: str, precision: str, stage: int) -> bytes:
    make = _onnx_stage if format == "onnx" else _tflite_stage
    return make(stage, int8=precision == "int8")


@functools.cache
def chain(format: str, precision: str, thresholds: tuple[float | None, ...] = (0.9,)) -> ExitChain:
    """The stages of one format and precision."""
    whole = tiny.artefact(format, precision, b"")
    quantised: dict[str, Any] = {}
    if precision == "int8":
        dtype, zero = ("uint8", UINT8_ZERO_POINT) if format == "onnx" else ("int8", tiny.INPUT_ZERO_POINT)
        quantised = {"dtype": dtype, "scale": tiny.INPUT_SCALE, "zero_point": zero}
    hidden = TensorInfo(name="hidden0", shape=HIDDEN_SHAPE, **quantised)
    stages = []
    for stage, (given, outputs) in enumerate(
        [(whole.input, (hidden, *whole.outputs)), (hidden, whole.outputs)],
    ):
        entry = file_entry(f"stages/{precision}-{stage}.{format}", stage_payload(format, precision, stage))
        stages.append(
            StageArtefact(
                **entry.model_dump(), format=format, precision=precision, stage=stage, input=given, outputs=outputs
            )
        )
    return ExitChain(stages=tuple(stages), thresholds=thresholds)


def exits(thresholds: tuple[float | None, ...] = (0.9,), **changes: Any) -> Exits:
    """All four chains; `changes` replace fields."""
    chains = tuple(chain(*key, thresholds) for key in tiny.payloads())
    return Exits(**({"after": (0,), "macs_per_stage": MACS_PER_STAGE, "chains": chains} | changes))


def payloads() -> Mapping[str, bytes]:
    """Entry path -> bytes of every stage."""
    return {
        stage.path: stage_payload(stage.format, stage.precision, stage.stage)
        for key in tiny.payloads()
        for stage in chain(*key).stages
    }


@functools.cache
def exits_bytes(thresholds: tuple[float | None, ...] = (0.9,)) -> bytes:
    """`tiny.tiny_bytes()` with exits in all four forms."""
    whole = tiny.tiny_bundle()
    logits = dict(whole.golden.logits)
    for format, precision in tiny.payloads():
        logits[f"{format}-{precision}-stage0"] = np.stack([exit_linear(row) for row in whole.golden.log_mel])
        logits[f"{format}-{precision}-stage1"] = np.stack([tiny.linear(row) for row in whole.golden.log_mel])
    golden = Golden(whole.golden.waveform, whole.golden.log_mel, logits)
    manifest = tiny.manifest(whole.manifest.artefacts, golden, exits=exits(thresholds))
    files = {artefact.path: whole.payload(artefact) for artefact in whole.manifest.artefacts}
    return bundle_bytes(manifest, {**files, **payloads()}, golden)


def exits_bundle(thresholds: tuple[float | None, ...] = (0.9,)) -> Bundle:
    """`exits_bytes`, read."""
    return Bundle.read(exits_bytes(thresholds))
