"""The tiny bundle in every form at once, ONNX in float32: windows, steps, early exits, and early exits as steps."""

from __future__ import annotations

import functools

import numpy as np

from edgeaudio.bundle import Bundle, Exits, Golden, Stateful, StatefulChain, StatefulStage, bundle_bytes, file_entry
from edgeaudio.bundle.manifest import TensorInfo
from tests import tiny_bundle as tiny
from tests import tiny_exits, tiny_stateful

KEY = ("onnx", "fp32")
NAMES = ("onnx-fp32", "onnx-fp32-stateful", "onnx-fp32-exits", "onnx-fp32-stateful-exits")


@functools.cache
def stage_payload(stage: int, step: int) -> bytes:
    """The whole step: stage 0 with the bias of the exit, handing on the frames it took; stage 1 taking those."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    model = onnx.load_from_string(tiny_stateful.step_payload(*KEY, step))
    graph = model.graph
    if stage == 0:
        (bias,) = (one for one in graph.initializer if one.name == "b")
        bias.CopyFrom(numpy_helper.from_array(tiny.weights()[1] + tiny_exits.EXIT_BIAS, "b"))
        graph.node.append(helper.make_node("Identity", ["log_mel"], ["hidden0"]))
        graph.output.insert(1, helper.make_tensor_value_info("hidden0", TensorProto.FLOAT, (1, step, 64)))
    else:
        graph.input[0].name = "hidden0"
        graph.node[0].input[1] = "hidden0"
    return model.SerializeToString()


def _stage(stage: int, step: int) -> StatefulStage:
    whole = tiny_stateful.stateful_artefact(*KEY, step)
    hidden = TensorInfo(name="hidden0", shape=(1, step, 64))
    fields = whole.model_dump(exclude={"path", "size_bytes", "sha256", "input", "outputs"})
    entry = file_entry(f"stateful/stage{stage}.onnx", stage_payload(stage, step))
    state, logits = whole.outputs
    return StatefulStage(
        **fields,
        **entry.model_dump(),
        stage=stage,
        input=whole.input if stage == 0 else hidden,
        outputs=(state, hidden, logits) if stage == 0 else (state, logits),
    )


@functools.cache
def chained_bytes(step: int = 2, threshold: float | None = 0.9) -> bytes:
    """A bundle of `NAMES`."""
    whole = tiny.tiny_bundle("-".join(KEY))
    stages = [_stage(number, step) for number in range(2)]
    stateful = Stateful.of(
        tiny.WINDOW,
        step,
        tiny_stateful.MACS_PER_STEP,
        [tiny_stateful.stateful_artefact(*KEY, step)],
        macs_per_stage=tiny_exits.MACS_PER_STAGE,
        chains=[StatefulChain(stages=tuple(stages))],
    )
    windowed = tiny_exits.chain(*KEY, (threshold,))
    exits = Exits(after=(0,), macs_per_stage=tiny_exits.MACS_PER_STAGE, chains=(windowed,))
    final = whole.golden.logits["-".join(KEY)]
    early = np.stack([tiny_exits.exit_linear(row) for row in whole.golden.log_mel])
    logits = {"onnx-fp32": final, "onnx-fp32-stateful": final}
    for stage, answer in enumerate((early, final)):
        logits |= {f"onnx-fp32-stage{stage}": answer, f"onnx-fp32-stage{stage}-stateful": answer}
    golden = Golden(whole.golden.waveform, whole.golden.log_mel, logits)
    manifest = tiny.manifest(whole.manifest.artefacts, golden, exits=exits, stateful=stateful)
    files = {artefact.path: whole.payload(artefact) for artefact in whole.manifest.artefacts}
    files |= {stage.path: tiny_exits.stage_payload(*KEY, stage.stage) for stage in windowed.stages}
    files |= {"stateful/fp32.onnx": tiny_stateful.step_payload(*KEY, step)}
    files |= {stage.path: stage_payload(stage.stage, step) for stage in stages}
    return bundle_bytes(manifest, files, golden)


def chained_bundle(step: int = 2, threshold: float | None = 0.9) -> Bundle:
    """`chained_bytes`, read."""
    return Bundle.read(chained_bytes(step, threshold))
