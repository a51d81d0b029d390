"""The stateful form of a student in all formats and precisions, and what shows that it equals the windowed form."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import nn

from edgeaudio.bundle.manifest import ArtefactFormat, Precision, StatefulArtefact
from edgeaudio.compress.layers import fold_batch_norms
from edgeaudio.compress.ptq import QuantisedStudent
from edgeaudio.errors import ConfigError, ShapeError
from edgeaudio.runtime.engines.base import Float32
from edgeaudio.runtime.stateful import StatefulRunner

from .artefact import ExportedStateful
from .export import FORMATS, PRECISIONS
from .parity import engine_for
from .stateful_graph import stateful_graph


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
        ConfigError: int8 without `quantised`, or a step that does not fit (see `stateful_graph`).
        UnsupportedError: a student that cannot be streamed, or an operator that a format lacks.
    """
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


def stream_logits(entry: StatefulArtefact, payload: bytes, log_mel: Float32, window_frames: int) -> Float32:
    """Logits `(windows, classes)` of a stream `log_mel (frames, n_mels)`, on the engine of the artefact's format.

    Window k starts at frame `k * step_frames`.

    Raises:
        ShapeError: the stream is shorter than a window.
    """
    if len(log_mel) < window_frames:
        raise ShapeError(f"a stream of {len(log_mel)} frames, the window has {window_frames}")
    runner = StatefulRunner(engine_for(entry, payload), entry)
    step = entry.input.shape[1]
    lead_in = -window_frames % step
    fed = np.concatenate([np.zeros((lead_in, log_mel.shape[1]), np.float32), log_mel])
    logits = [runner.step(fed[end - step : end]) for end in range(step, len(fed) + 1, step)]
    return np.stack(logits[(lead_in + window_frames) // step - 1 :])
