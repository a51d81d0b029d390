"""The stateful form of a student in all formats and precisions, and what shows that it equals the windowed form."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import nn

from edgeaudio import catalog
from edgeaudio.bundle import Bundle, Manifest, Stateful, StatefulArtefact, bundle_bytes, golden_entry
from edgeaudio.bundle.manifest import ArtefactFormat, Parity, Precision
from edgeaudio.compress.layers import fold_batch_norms
from edgeaudio.compress.ptq import QuantisedStudent
from edgeaudio.errors import ConfigError
from edgeaudio.runtime.engines.base import Float32
from edgeaudio.runtime.stateful import StatefulRunner, stream_logits
from edgeaudio.runtime.stream_check import both_ways, stream_tolerance

from .artefact import ExportedStateful
from .export import PRECISIONS
from .parity import ParityGate, engine_for, engine_name, measure_parity
from .stateful_graph import stateful_graph

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
    unknown = [format for format in formats if format not in FORMATS]
    if unknown:
        raise ConfigError(f"the stateful form comes as {', '.join(FORMATS)}, not as {', '.join(unknown)}")
    exported = []
    for format in formats:
        for precision in precisions:
            if precision == "int8":
                if quantised is None:
                    raise ConfigError("stateful int8 was asked for, but the student was not quantised")
                exported.append(_int8(quantised, step_frames, format))
            else:
                exported.append(_fp32(student, frames, n_mels, step_frames, format))
    return exported


def _fp32(student: nn.Module, frames: int, n_mels: int, step_frames: int, format: ArtefactFormat) -> ExportedStateful:
    windowed = torch.export.export(fold_batch_norms(student), (torch.zeros(1, frames, n_mels),)).module()
    graph = stateful_graph(windowed, step_frames)
    # Each imports its format's library.
    if format == "onnx":
        from .onnx_export import export_stateful_onnx

        return export_stateful_onnx(graph, "fp32")
    from .tflite_export import export_stateful_tflite

    return export_stateful_tflite(graph, "fp32")


def _int8(quantised: QuantisedStudent, step_frames: int, format: ArtefactFormat) -> ExportedStateful:
    if format == "onnx":
        from .onnx_export import export_stateful_onnx

        return export_stateful_onnx(stateful_graph(quantised.folded, step_frames), "int8")
    from .tflite_export import export_stateful_tflite

    graph = stateful_graph(quantised.unfolded, step_frames, integer_states=False)
    return export_stateful_tflite(graph, "int8", quantised)


def add_stateful(bundle: Bundle, exported: Sequence[ExportedStateful]) -> bytes:
    """The bytes of `bundle` with stateful artefacts and their golden logits; such as it has are replaced.

    Args:
        exported: all of one step.
    Raises:
        ConfigError: artefacts that do not fit the manifest. UnsupportedError: no engine here runs them.
    """
    manifest, golden = bundle.manifest, bundle.golden
    entries = [item.manifest_entry() for item in exported]
    step_frames = entries[0].input.shape[1]
    stateful = Stateful.of(manifest.window, step_frames, exported[0].macs_per_step, entries)
    parsed = Manifest.parse(
        manifest.model_dump() | {"stateful": stateful.model_dump()}, source=f"bundle {manifest.name!r}"
    )
    kept = {file.name for file in parsed.model_files} - {entry.name for entry in entries}
    logits = {name: values for name, values in golden.logits.items() if name in kept}
    for entry, item in zip(entries, exported, strict=True):
        runner = StatefulRunner(engine_for(entry, item.payload), entry)
        logits[entry.name] = np.concatenate([stream_logits(runner, stateful, window) for window in golden.log_mel])
    files = {file.path: bundle.payload(file) for file in manifest.model_files if file.name in kept}
    files |= {item.path: item.payload for item in exported}
    vectors = replace(golden, logits=logits)
    return bundle_bytes(parsed.model_copy(update={"golden": golden_entry(vectors)}), files, vectors)


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
