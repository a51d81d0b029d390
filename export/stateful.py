"""The stateful form of a student in all formats and precisions, and what shows that it equals the windowed form."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import nn
from torch.fx import GraphModule

from edgeaudio import catalog
from edgeaudio.bundle import (
    Bundle,
    Manifest,
    Stateful,
    StatefulArtefact,
    StatefulChain,
    bundle_bytes,
    golden_entry,
)
from edgeaudio.bundle.manifest import ArtefactFormat, Parity, Precision
from edgeaudio.compress.layers import fold_batch_norms
from edgeaudio.compress.ptq import QuantisedStudent
from edgeaudio.errors import ConfigError
from edgeaudio.runtime.engines.base import Float32
from edgeaudio.runtime.stateful import StatefulRunner, stream_logits
from edgeaudio.runtime.stateful_cascade import StatefulCascade, chain_logits
from edgeaudio.runtime.stream_check import both_ways, chain_both_ways, stream_tolerance
from edgeaudio.students.exits import EarlyExitStudent, StagedGraph

from .artefact import ExportedStateful
from .export import PRECISIONS
from .parity import ParityGate, engine_for, engine_name, measure_parity
from .stateful_graph import StatefulGraph, stateful_stages

# A step is microseconds of work: handing it to a GPU costs more than it saves.
FORMATS: tuple[ArtefactFormat, ...] = ("onnx", "tflite")


def export_stateful(
    student: nn.Module,
    quantised: QuantisedStudent | None,
    frames: int,
    n_mels: int,
    step_frames: int,
    *,
    formats: Sequence[ArtefactFormat] = FORMATS,
    precisions: Sequence[Precision] = PRECISIONS,
) -> list[ExportedStateful]:
    """Export a student over windows `(1, frames, n_mels)` as steps of `step_frames`, in the order of `export_student`.

    Args:
        quantised: the int8 student; its stateful form has the same weights, scales and zero points. May be None when
            int8 is not asked for.
    Raises:
        ConfigError: int8 without `quantised`, a format without stateful form, or a step that does not fit (see
            `stateful_graph`).
        UnsupportedError: a student that cannot be streamed, or an operator that a format lacks.
    """
    return _exported(student, quantised, (frames, n_mels), step_frames, formats, precisions)


def export_stateful_stages(
    student: EarlyExitStudent,
    quantised: QuantisedStudent | None,
    frames: int,
    n_mels: int,
    step_frames: int,
    *,
    formats: Sequence[ArtefactFormat] = FORMATS,
    precisions: Sequence[Precision] = PRECISIONS,
) -> list[ExportedStateful]:
    """As `export_stateful`, each form cut into its stages, in their order.

    Args:
        quantised: of `StagedGraph(student)`, as for `export_stages`.
    Raises:
        VerificationError: a later section reads more than what the section before an exit gives. Others as
            `export_stateful`.
    """
    return _exported(StagedGraph(student), quantised, (frames, n_mels), step_frames, formats, precisions)


def _exported(
    student: nn.Module,
    quantised: QuantisedStudent | None,
    window_shape: tuple[int, int],
    step_frames: int,
    formats: Sequence[ArtefactFormat],
    precisions: Sequence[Precision],
) -> list[ExportedStateful]:
    unknown = [format for format in formats if format not in FORMATS]
    if unknown:
        raise ConfigError(f"the stateful form comes as {', '.join(FORMATS)}, not as {', '.join(unknown)}")
    if "int8" in precisions and quantised is None:
        raise ConfigError("stateful int8 was asked for, but the student was not quantised")
    windowed: GraphModule | None = None
    exported = []
    for format in formats:
        for precision in precisions:
            if precision == "int8":
                assert quantised is not None
                graph = quantised.folded if format == "onnx" else quantised.unfolded
                graphs = stateful_stages(graph, step_frames, integer_states=format == "onnx")
            else:
                windowed = windowed or _graph_of(student, window_shape)
                graphs = stateful_stages(windowed, step_frames)
            exported += [_written(graph, format, precision, quantised) for graph in graphs]
    return exported


def _graph_of(student: nn.Module, window_shape: tuple[int, int]) -> GraphModule:
    graph: GraphModule = torch.export.export(fold_batch_norms(student), (torch.zeros(1, *window_shape),)).module()
    return graph


def _written(
    graph: StatefulGraph, format: ArtefactFormat, precision: Precision, quantised: QuantisedStudent | None
) -> ExportedStateful:
    # Each imports its format's library.
    if format == "onnx":
        from .onnx_export import export_stateful_onnx

        return export_stateful_onnx(graph, precision)
    from .tflite_export import export_stateful_tflite

    return export_stateful_tflite(graph, precision, quantised if precision == "int8" else None)


def add_stateful(bundle: Bundle, exported: Sequence[ExportedStateful]) -> bytes:
    """The bytes of `bundle` with stateful artefacts, stages and their golden logits; such as it has are replaced.

    Args:
        exported: all of one step; stages of a chain in their order.
    Raises:
        ConfigError: artefacts that do not fit the manifest. UnsupportedError: no engine here runs them.
    """
    manifest, golden = bundle.manifest, bundle.golden
    stateful = _described(manifest, exported)
    parsed = Manifest.parse(
        manifest.model_dump() | {"stateful": stateful.model_dump()}, source=f"bundle {manifest.name!r}"
    )
    kept = {file.name for file in parsed.model_files} - {file.name for file in stateful.files}
    payloads = {item.path: item.payload for item in exported}
    logits = {name: values for name, values in golden.logits.items() if name in kept}
    for entry in stateful.artefacts:
        runner = StatefulRunner(engine_for(entry, payloads[entry.path]), entry)
        logits[entry.name] = np.concatenate([stream_logits(runner, stateful, window) for window in golden.log_mel])
    for chain in stateful.chains:
        cascade = StatefulCascade(
            stateful,
            chain,
            lambda stage: payloads[stage.path],
            engine=engine_name(chain.stages[0].format),
            kind=parsed.task.kind,
            thresholds=[None] * (len(chain.stages) - 1),
        )
        answers = [chain_logits(cascade.open(), stateful, window) for window in golden.log_mel]
        names = [stage.name for stage in chain.stages]
        logits |= dict(zip(names, np.concatenate(answers, axis=1), strict=True))
    files = {file.path: bundle.payload(file) for file in manifest.model_files if file.name in kept}
    vectors = replace(golden, logits=logits)
    return bundle_bytes(parsed.model_copy(update={"golden": golden_entry(vectors)}), files | payloads, vectors)


def _described(manifest: Manifest, exported: Sequence[ExportedStateful]) -> Stateful:
    whole = [item for item in exported if item.stage is None]
    chains: dict[tuple[str, str], list[ExportedStateful]] = {}
    for item in exported:
        if item.stage is not None:
            chains.setdefault((item.format, item.precision), []).append(item)
    first = next(iter(chains.values()), [])
    return Stateful.of(
        manifest.window,
        whole[0].input.shape[1],
        whole[0].macs_per_step,
        [item.manifest_entry() for item in whole],
        macs_per_stage=[item.macs_per_step for item in first],
        chains=[
            StatefulChain.model_validate({"stages": [item.manifest_entry().model_dump() for item in stages]})
            for stages in chains.values()
        ],
    )


def stateful_parity(bundle: Bundle, artefact: StatefulArtefact, streams: Sequence[Float32]) -> Parity:
    """The artefact against its windowed form on the same engine, over streams `(frames, n_mels)`.

    The top class must agree wherever the two best are further apart than the tolerance.
    """
    engine_class = catalog.resolve("engines", engine_name(artefact.format))
    pairs = [both_ways(bundle, artefact, engine_class, stream) for stream in streams]
    streamed, windowed = (np.concatenate(side) for side in zip(*pairs, strict=True))
    tolerance = stream_tolerance(artefact, windowed)
    return measure_parity(
        streamed, windowed, reference=artefact.window_name, gate=ParityGate(tolerance, 1.0, tie_margin=tolerance)
    )


def stateful_chain_parity(bundle: Bundle, chain: StatefulChain, streams: Sequence[Float32]) -> list[Parity]:
    """As `stateful_parity`, for each stage of a chain, over windows that stop there; stages catch up in between."""
    engine = engine_name(chain.stages[0].format)
    found = [chain_both_ways(bundle, chain, engine, stream) for stream in streams]
    parities = []
    for stage, *pairs in zip(chain.stages, *found, strict=True):
        streamed, windowed = (np.concatenate(side) for side in zip(*pairs, strict=True))
        tolerance = stream_tolerance(stage, windowed)
        gate = ParityGate(tolerance, 1.0, tie_margin=tolerance)
        parities.append(measure_parity(streamed, windowed, reference=stage.window_name, gate=gate))
    return parities
