"""The decision of each artefact, fitted to its own answers on streams made from the fold's training clips."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from edgeaudio_export.parity import engine_for, run_windows

from edgeaudio.bundle import Artefact
from edgeaudio.compress.thresholds import fit_decision
from edgeaudio.data.streams import LabelledStream, make_stream
from edgeaudio.data.windows import Float32
from edgeaudio.pipeline.labelling import ClipWindows
from edgeaudio.pipeline.prepare import Context, Prepared
from edgeaudio.runtime.confidence import to_probs
from edgeaudio.runtime.windows import WindowStream
from edgeaudio.spec import DecisionSpec

# About ten minutes of sound: seconds of work for each artefact.
N_STREAMS = 24


@dataclass(frozen=True)
class StreamWindows:
    """What the runtime makes of one stream: `log_mel (windows, frames, n_mels)`, `targets (windows, classes)`."""

    log_mel: Float32
    targets: Float32


def training_streams(context: Context, prepared: Prepared, fold: int) -> list[StreamWindows]:
    """Streams made of the training clips of a fold, as windows with their labels."""
    recipe = context.recipe
    cache = prepared.cache(recipe.frontend.sample_rate)
    source = ClipWindows(cache, prepared.train_clips(fold), prepared.dataset.task)
    streams = (make_stream(source, recipe.windows_seed, index) for index in range(N_STREAMS))
    return [_windows(context, source, stream) for stream in streams]


def _windows(context: Context, source: ClipWindows, stream: LabelledStream) -> StreamWindows:
    recipe = context.recipe
    windows = WindowStream(recipe.frontend, recipe.window).feed(stream.waveform)
    # A window has the labels of the clip at its middle.
    middle = recipe.window.n_samples(recipe.frontend) // 2
    owners = [int(stream.clip[window.position_samples + middle]) for window in windows]
    silence = np.zeros(len(source.silence_target), np.float32)
    targets = [silence if owner < 0 else source.target(owner) for owner in owners]
    return StreamWindows(np.stack([window.log_mel for window in windows]), np.stack(targets))


def with_fitted_decision(
    context: Context, prepared: Prepared, entry: Artefact, payload: bytes, streams: list[StreamWindows]
) -> Artefact:
    """The artefact with the smoothing and thresholds that suit its own probabilities; durations stay the recipe's."""
    kind = prepared.dataset.task.kind
    engine = engine_for(entry, payload)
    probs = [to_probs(run_windows(engine, stream.log_mel), kind) for stream in streams]
    fitted = fit_decision(probs, [stream.targets for stream in streams])
    changed = {
        "smoothing_windows": fitted.smoothing_windows,
        "threshold_on": fitted.threshold_on,
        "threshold_off": fitted.threshold_off,
    }
    decision = DecisionSpec.model_validate(context.recipe.decision.model_dump() | changed)
    return entry.model_copy(update={"decision": decision})
