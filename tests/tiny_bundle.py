"""A tiny real bundle, made by hand in milliseconds: which third of the spectrum is loud?

One linear layer over a window, as ONNX (float) and TFLite (float and int8). No torch, no converter.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeaudio.bundle import Artefact, Bundle, Golden, Manifest, bundle_bytes, file_entry, golden_entry
from edgeaudio.bundle.manifest import Cost, Lineage, Source, TensorInfo
from edgeaudio.frontend.reference import reference_log_mel
from edgeaudio.spec import DecisionSpec, FrontendSpec, LabelSet, TaskSpec, WindowSpec

Float32 = NDArray[np.float32]

FRONTEND = FrontendSpec()
WINDOW = WindowSpec(frames=9, hop_frames=4)
LABELS = ("low", "mid", "high")
WINDOW_SAMPLES = WINDOW.n_samples(FRONTEND)
HOP_SAMPLES = WINDOW.hop_samples(FRONTEND)
INPUT_SHAPE = (1, WINDOW.frames, FRONTEND.n_mels)
DECISION = DecisionSpec(smoothing_windows=2, threshold_on=0.5, threshold_off=0.4, min_duration_s=0.08)

# int8: log-mel lies in [-2, 3], logits in [-16, 24].
INPUT_SCALE, INPUT_ZERO_POINT = 5 / 255, -26
OUTPUT_SCALE, OUTPUT_ZERO_POINT = 40 / 255, -26


def noise_band(label: str, n_samples: int, *, seed: int = 0) -> Float32:
    """Noise in the third of the mel bands that `label` names."""
    third = LABELS.index(label)
    low_hz, high_hz = [(60.0, 1100.0), (1200.0, 3300.0), (3500.0, 7700.0)][third]
    spectrum = np.fft.rfft(np.random.default_rng(seed).standard_normal(n_samples))
    frequency_hz = np.fft.rfftfreq(n_samples, 1 / FRONTEND.sample_rate)
    spectrum[(frequency_hz < low_hz) | (frequency_hz > high_hz)] = 0
    band = np.fft.irfft(spectrum, n_samples)
    return (0.3 * band / np.abs(band).max()).astype(np.float32)


def scene(seed: int = 0) -> Float32:
    """Two seconds with a low, a high, and a mid sound between stretches of near silence."""
    rng = np.random.default_rng(seed)
    waveform = (1e-4 * rng.standard_normal(32_000)).astype(np.float32)
    for label, start, length in (("low", 3_000, 7_000), ("high", 13_500, 6_001), ("mid", 23_000, 9_000)):
        waveform[start : start + length] += noise_band(label, length, seed=seed)
    return waveform


@functools.cache
def weights() -> tuple[Float32, Float32]:
    """`(classes, frames * n_mels)` and bias `(classes,)`: 8 times the mean log-mel of each third."""
    per_mel = np.zeros((len(LABELS), FRONTEND.n_mels))
    for index, mels in enumerate(np.array_split(np.arange(FRONTEND.n_mels), len(LABELS))):
        per_mel[index, mels] = 8 / (len(mels) * WINDOW.frames)
    return np.tile(per_mel, (1, WINDOW.frames)).astype(np.float32), np.array([0.5, 0.25, 0.0], np.float32)


def linear(log_mel: Float32) -> Float32:
    """The model in NumPy: `(frames, n_mels)` -> `(classes,)`."""
    matrix, bias = weights()
    return (matrix.astype(np.float64) @ log_mel.reshape(-1) + bias).astype(np.float32)


class FakeEngine:
    """The model without a library, for tests of what lies around an engine."""

    format = "onnx"

    def __init__(self, artefact: Artefact, payload: bytes, *, threads: int = 1) -> None:
        self.info = {"engine": "fake", "library": "numpy", "version": np.__version__, "threads": str(threads)}

    def run(self, log_mel: Float32) -> Float32:
        return linear(log_mel)


@functools.cache
def onnx_model(*, integer_io: bool = False) -> bytes:
    """The model as ONNX; with `integer_io` its input and output are int8, converted inside."""
    from onnx import TensorProto, helper, numpy_helper

    matrix, bias = weights()
    nodes = [
        helper.make_node("Flatten", ["float_in"], ["flat"], axis=1),
        helper.make_node("Gemm", ["flat", "w", "b"], ["float_out"], transB=1),
    ]
    constants = {"w": matrix, "b": bias}
    if integer_io:
        constants |= {"in_scale": np.float32(INPUT_SCALE), "in_zero": np.int8(INPUT_ZERO_POINT)}
        constants |= {"out_scale": np.float32(OUTPUT_SCALE), "out_zero": np.int8(OUTPUT_ZERO_POINT)}
        nodes.insert(0, helper.make_node("DequantizeLinear", ["log_mel", "in_scale", "in_zero"], ["float_in"]))
        nodes.append(helper.make_node("QuantizeLinear", ["float_out", "out_scale", "out_zero"], ["logits"]))
    else:
        nodes[0].input[0], nodes[1].output[0] = "log_mel", "logits"
    dtype = TensorProto.INT8 if integer_io else TensorProto.FLOAT
    graph = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info("log_mel", dtype, INPUT_SHAPE)],
        [helper.make_tensor_value_info("logits", dtype, (1, len(LABELS)))],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return model.SerializeToString()


@functools.cache
def tensorrt_model() -> bytes:
    """The model in int8 under the rules of TensorRT: float ends, pairs without zero points, a float bias."""
    from onnx import TensorProto, helper, numpy_helper

    matrix, bias = weights()
    scale = float(np.abs(matrix).max() / 127)
    constants = {
        "w": np.rint(matrix / scale).astype(np.int8),
        "w_scale": np.float32(scale),
        "b": bias,
        "in_scale": np.float32(3 / 127.5),
        "zero": np.int8(0),
    }
    nodes = [
        helper.make_node("DequantizeLinear", ["w", "w_scale", "zero"], ["w_float"]),
        helper.make_node("QuantizeLinear", ["log_mel", "in_scale", "zero"], ["window_int8"]),
        helper.make_node("DequantizeLinear", ["window_int8", "in_scale", "zero"], ["window"]),
        helper.make_node("Flatten", ["window"], ["flat"], axis=1),
        helper.make_node("Gemm", ["flat", "w_float", "b"], ["logits"], transB=1),
    ]
    graph = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info("log_mel", TensorProto.FLOAT, INPUT_SHAPE)],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, (1, len(LABELS)))],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return model.SerializeToString()


@functools.cache
def tflite_model(*, int8: bool = False) -> bytes:
    """The model as TFLite, written with the flatbuffer schema that LiteRT ships."""
    import flatbuffers
    from ai_edge_litert import schema_py_generated as schema

    matrix, bias = weights()
    weight_scale = float(np.abs(matrix).max() / 127)
    if int8:
        matrix = np.rint(matrix / weight_scale).astype(np.int8)
        bias = np.rint(bias / (INPUT_SCALE * weight_scale)).astype(np.int32)
    activation = schema.TensorType.INT8 if int8 else schema.TensorType.FLOAT32
    bias_type = schema.TensorType.INT32 if int8 else schema.TensorType.FLOAT32
    scales = {
        "log_mel": (INPUT_SCALE, INPUT_ZERO_POINT),
        "flat": (INPUT_SCALE, INPUT_ZERO_POINT),
        "w": (weight_scale, 0),
        "b": (INPUT_SCALE * weight_scale, 0),
        "logits": (OUTPUT_SCALE, OUTPUT_ZERO_POINT),
    }
    model = schema.ModelT()
    model.version, model.buffers = 3, [schema.BufferT()]
    graph = schema.SubGraphT()
    graph.tensors = []

    def tensor(name: str, shape: tuple[int, ...], kind: int, data: NDArray[Any] | None = None) -> int:
        entry = schema.TensorT()
        entry.name, entry.shape, entry.type, entry.buffer = name.encode(), list(shape), kind, 0
        if data is not None:
            buffer = schema.BufferT()
            buffer.data = np.frombuffer(data.tobytes(), np.uint8)
            model.buffers.append(buffer)
            entry.buffer = len(model.buffers) - 1
        if int8:
            quantisation = schema.QuantizationParametersT()
            quantisation.scale, quantisation.zeroPoint = [scales[name][0]], [scales[name][1]]
            entry.quantization = quantisation
        graph.tensors.append(entry)
        return len(graph.tensors) - 1

    inputs = tensor("log_mel", INPUT_SHAPE, activation)
    flat_size = WINDOW.frames * FRONTEND.n_mels
    flat = tensor("flat", (1, flat_size), activation)
    w = tensor("w", matrix.shape, activation, matrix)
    b = tensor("b", bias.shape, bias_type, bias)
    logits = tensor("logits", (1, len(LABELS)), activation)
    codes = []
    for builtin in (schema.BuiltinOperator.RESHAPE, schema.BuiltinOperator.FULLY_CONNECTED):
        code = schema.OperatorCodeT()
        code.builtinCode = code.deprecatedBuiltinCode = builtin
        code.version = 4 if int8 and builtin == schema.BuiltinOperator.FULLY_CONNECTED else 1
        codes.append(code)
    reshape, connect = schema.OperatorT(), schema.OperatorT()
    reshape.opcodeIndex, reshape.inputs, reshape.outputs = 0, [inputs], [flat]
    reshape.builtinOptionsType, reshape.builtinOptions = schema.BuiltinOptions.ReshapeOptions, schema.ReshapeOptionsT()
    reshape.builtinOptions.newShape = [1, flat_size]
    connect.opcodeIndex, connect.inputs, connect.outputs = 1, [flat, w, b], [logits]
    connect.builtinOptionsType = schema.BuiltinOptions.FullyConnectedOptions
    connect.builtinOptions = schema.FullyConnectedOptionsT()
    graph.inputs, graph.outputs, graph.operators = [inputs], [logits], [reshape, connect]
    model.operatorCodes, model.subgraphs = codes, [graph]
    builder = flatbuffers.Builder(4096)
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())


def artefact(format: str, precision: str, payload: bytes) -> Artefact:
    """The manifest's record of one of the models above."""
    given: dict[str, Any] = {"dtype": "float32"}
    answer: dict[str, Any] = {"dtype": "float32"}
    if precision == "int8" and format != "tensorrt":
        given = {"dtype": "int8", "scale": INPUT_SCALE, "zero_point": INPUT_ZERO_POINT}
        answer = {"dtype": "int8", "scale": OUTPUT_SCALE, "zero_point": OUTPUT_ZERO_POINT}
    return Artefact(
        **file_entry(f"artefacts/{precision}.{format}", payload).model_dump(),
        format=format,
        precision=precision,
        input=TensorInfo(name="log_mel", shape=INPUT_SHAPE, **given),
        outputs=(TensorInfo(name="logits", shape=(1, len(LABELS)), **answer),),
    )


@functools.cache
def payloads() -> Mapping[tuple[str, str], bytes]:
    """The models of ONNX and TFLite by (format, precision)."""
    return {
        ("onnx", "fp32"): onnx_model(),
        ("onnx", "int8"): onnx_model(integer_io=True),
        ("tflite", "fp32"): tflite_model(),
        ("tflite", "int8"): tflite_model(int8=True),
    }


@functools.cache
def all_payloads() -> Mapping[tuple[str, str], bytes]:
    """Also those for TensorRT, which only a GPU runs as they are meant."""
    return {**payloads(), ("tensorrt", "fp32"): onnx_model(), ("tensorrt", "int8"): tensorrt_model()}


def golden(names: tuple[str, ...], *, n_windows: int = 3) -> Golden:
    """Golden vectors by the reference front-end and the NumPy model."""
    waveform = np.stack([noise_band(LABELS[i % 3], WINDOW_SAMPLES, seed=i) for i in range(n_windows)])
    log_mel = np.stack([reference_log_mel(w, FRONTEND) for w in waveform]).astype(np.float32)
    logits = np.stack([linear(window) for window in log_mel])
    return Golden(waveform, log_mel, dict.fromkeys(names, logits))


def manifest(artefacts: tuple[Artefact, ...], vectors: Golden, **changes: Any) -> Manifest:
    """A manifest over `artefacts`; `changes` replace fields."""
    fields: dict[str, Any] = {
        "name": "tiny",
        "frontend": FRONTEND,
        "window": WINDOW,
        "task": TaskSpec(labels=LabelSet(names=LABELS)),
        "decision": DECISION,
        "artefacts": artefacts,
        "golden": golden_entry(vectors),
        "cost": Cost(params=1731, macs_per_window=1728, receptive_field_frames=9, time_stride_frames=1),
        "lineage": Lineage(
            edgeaudio_version="0.1.0",
            recipe_digest="0" * 64,
            seed=0,
            datasets=(Source(name="noise", licence="CC0-1.0", sha256="0" * 64),),
            student="linear",
        ),
    }
    return Manifest(**(fields | changes))


@functools.cache
def tiny_bytes(*names: str) -> bytes:
    """A bundle of the named artefacts ("onnx-fp32", ...; without names the four of ONNX and TFLite)."""
    wanted = [key for key in all_payloads() if "-".join(key) in names] if names else list(payloads())
    artefacts = tuple(artefact(*key, all_payloads()[key]) for key in wanted)
    vectors = golden(tuple(a.name for a in artefacts))
    files = {a.path: all_payloads()[a.format, a.precision] for a in artefacts}
    return bundle_bytes(manifest(artefacts, vectors), files, vectors)


def tiny_bundle(*names: str) -> Bundle:
    """`tiny_bytes`, read."""
    return Bundle.read(tiny_bytes(*names))
