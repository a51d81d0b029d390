"""The tiny bundle behind a first student: the same model with another bias, which is sure of "high" too often."""

from __future__ import annotations

import functools

import numpy as np

from edgeaudio.bundle import Bundle, Golden, bundle_bytes, file_entry, golden_entry
from edgeaudio.bundle.manifest import Manifest, ModelFile
from edgeaudio.pipeline.cascading import join_students, with_threshold
from tests import tiny_bundle as tiny
from tests import tiny_stateful
from tests.tiny_exits import EXIT_BIAS

#: What `tiny.manifest` says; the first student of a test says a tenth.
MACS_PER_WINDOW = 1728
FIRST_MACS = 172
THRESHOLD = 0.9


def _biased_onnx(payload: bytes) -> bytes:
    import onnx
    from onnx import numpy_helper

    model = onnx.load_from_string(payload)
    (bias,) = (tensor for tensor in model.graph.initializer if tensor.name == "b")
    bias.CopyFrom(numpy_helper.from_array(tiny.weights()[1] + EXIT_BIAS, "b"))
    return model.SerializeToString()


def _biased_tflite(payload: bytes) -> bytes:
    import flatbuffers
    from ai_edge_litert import schema_py_generated as schema

    model = schema.ModelT.InitFromPackedBuf(payload, 0)
    (graph,) = model.subgraphs
    bias = graph.tensors[graph.operators[-1].inputs[2]]
    values = tiny.weights()[1] + EXIT_BIAS
    if bias.quantization is not None and bias.quantization.scale is not None:
        values = np.rint(values / bias.quantization.scale[0]).astype(np.int32)
    model.buffers[bias.buffer].data = np.frombuffer(values.tobytes(), np.uint8)
    builder = flatbuffers.Builder(4096)
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())


def biased(bundle: Bundle) -> bytes:
    """The bundle of the first student: each file of `bundle` with the other bias."""
    payloads: dict[str, bytes] = {}

    def entry(file: ModelFile) -> ModelFile:
        make = _biased_onnx if file.format == "onnx" else _biased_tflite
        payloads[file.path] = make(bundle.payload(file))
        return file.model_copy(update=file_entry(file.path, payloads[file.path]).model_dump())

    logits = {name: values + EXIT_BIAS for name, values in bundle.golden.logits.items()}
    golden = Golden(bundle.golden.waveform, bundle.golden.log_mel, logits)
    manifest = bundle.manifest
    changed = {
        "name": "first",
        "artefacts": tuple(map(entry, manifest.artefacts)),
        "golden": golden_entry(golden),
        "cost": manifest.cost.model_copy(update={"macs_per_window": FIRST_MACS, "params": 17}),
        "lineage": manifest.lineage.model_copy(update={"seed": 7}),
    }
    if manifest.stateful is not None:
        stepped = tuple(map(entry, manifest.stateful.artefacts))
        changed["stateful"] = manifest.stateful.model_copy(update={"artefacts": stepped, "macs_per_step": FIRST_MACS})
    return bundle_bytes(manifest.model_copy(update=changed), payloads, golden)


@functools.cache
def first_bytes() -> bytes:
    """The first student, windowed only."""
    return biased(tiny.tiny_bundle())


@functools.cache
def cascade_bytes(threshold: float = THRESHOLD) -> bytes:
    """Both, in all four forms."""
    joined = Bundle.read(join_students(Bundle.read(first_bytes()), tiny.tiny_bundle()))
    return with_threshold(joined, threshold)


def cascade_bundle() -> Bundle:
    """`cascade_bytes`, read."""
    return Bundle.read(cascade_bytes())


@functools.cache
def stateful_cascade_bytes() -> bytes:
    """Both with their stateful forms."""
    then = tiny_stateful.stateful_bundle()
    joined = Bundle.read(join_students(Bundle.read(biased(then)), then))
    return with_threshold(joined, THRESHOLD)


def changed(bundle: Bundle, **fields: object) -> Bundle:
    """The bundle with other fields in its manifest, and its windows' labels untouched."""
    manifest = Manifest.parse(bundle.manifest.model_dump() | fields, source="changed")
    return Bundle.read(bundle_bytes(manifest, {p: bundle.entries[p] for p in manifest.paths}, bundle.golden))
