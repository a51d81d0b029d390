"""Does the stateful form answer as the windowed one? Both on one engine, over one stream."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from edgeaudio.bundle import Bundle, StatefulArtefact, StatefulChain
from edgeaudio.errors import ConfigError
from edgeaudio.frontend.stream import FrontendStream
from edgeaudio.runtime.cascade import Cascade
from edgeaudio.runtime.engines.base import Engine, Float32
from edgeaudio.runtime.stateful import StatefulRunner, stream_answers, stream_logits
from edgeaudio.runtime.stateful_cascade import StatefulCascade

# Bound on |stream - window|. float32: the same products, summed by kernels that see other shapes. A logit of size 10
# has a resolution of 1e-6 and is the last of some forty sums, hence per unit of the largest logit (but at least one).
STREAM_TOLERANCE_FP32 = 1e-5
# int8: sums are whole numbers; only where float rounding inside a kernel tips over may a step differ.
STREAM_TOLERANCE_INT8_STEPS = 1
# int8 inside but a float head, with no step to count: this share of the spread of the logits.
STREAM_TOLERANCE_INT8_SPREAD = 0.05

#: Windows of random sound in `proof_stream`.
RANDOM_WINDOWS = 64
_SEED = 2026


def proof_stream(bundle: Bundle) -> Float32:
    """`(frames, n_mels)`: the golden windows one behind the other, then random sound at changing levels.

    Raises:
        ConfigError: the bundle has no stateful form.
    """
    manifest = bundle.manifest
    if manifest.stateful is None:
        raise ConfigError(f"bundle {manifest.name!r} has no stateful form to prove")
    golden = bundle.golden.log_mel.reshape(-1, manifest.frontend.n_mels)
    frames = manifest.window.frames + RANDOM_WINDOWS * manifest.stateful.step_frames
    rng = np.random.default_rng(_SEED)
    noise = rng.standard_normal(manifest.frontend.n_samples(frames))
    # From 1e-5 to 0.3 of full scale, held for a few frames each: onsets, decays and near silence.
    held = 5 * manifest.frontend.hop_length
    level = np.repeat(10 ** rng.uniform(-5, -0.5, len(noise) // held + 1), held)[: len(noise)]
    heard = FrontendStream(manifest.frontend).feed((noise * level).clip(-1, 1).astype(np.float32))
    return np.concatenate([golden, heard])


def both_ways(
    bundle: Bundle, artefact: StatefulArtefact, engine_class: Any, log_mel: Float32
) -> tuple[Float32, Float32]:
    """Logits `(windows, classes)` of a stream `(frames, n_mels)`: by the stateful artefact, and window by window.

    Raises:
        UnsupportedError, VerificationError: as the engine. ShapeError: the stream is shorter than a window.
    """
    stateful = bundle.manifest.stateful
    assert stateful is not None
    stepped: Engine = engine_class(artefact, bundle.payload(artefact), threads=1)
    streamed = stream_logits(StatefulRunner(stepped, artefact), stateful, log_mel)
    whole = bundle.manifest.artefact(artefact.format, artefact.precision)
    engine: Engine = engine_class(whole, bundle.payload(whole), threads=1)
    windows = sliding_window_view(log_mel, bundle.manifest.window.frames, axis=0)[:: stateful.step_frames]
    return streamed, np.stack([engine.run(window.T) for window in windows])


def chain_both_ways(
    bundle: Bundle, chain: StatefulChain, engine: str, log_mel: Float32
) -> list[tuple[Float32, Float32]]:
    """For each exit, logits `(windows, classes)` of the windows of a stream that stop there: by stateful stages, and
    by windowed ones.

    Where windows stop is thrown dice for, and for longer than any state remembers it is at the first exit: so stages
    catch up on a few steps, on many, and on more than they need.

    Raises:
        As `both_ways`.
    """
    stateful, precision = bundle.manifest.stateful, chain.stages[0].precision
    assert stateful is not None
    cascade = StatefulCascade.of_bundle(bundle, engine=engine, precision=precision)
    runner, n_windows = cascade.open(), (len(log_mel) - bundle.manifest.window.frames) // stateful.step_frames + 1
    stops = np.random.default_rng(_SEED).integers(0, cascade.n_exits, max(0, n_windows))
    quiet = len(stops) // 4
    stops[quiet : quiet + cascade.memory_steps + 3] = 0
    wanted = iter(stops)

    def stopped(new: Float32) -> Float32:
        stop = next(wanted)
        return runner.answer_until(new, lambda exit, _: exit == stop).logits

    streamed = np.stack(stream_answers(runner, stateful, log_mel, stopped))
    windows = sliding_window_view(log_mel, bundle.manifest.window.frames, axis=0)[:: stateful.step_frames]
    whole = Cascade.of_bundle(bundle, engine=engine, precision=precision)
    windowed = whole.logits(windows.swapaxes(1, 2))
    exits = range(cascade.n_exits)
    return [(streamed[stops == exit], windowed[exit][stops == exit]) for exit in exits]


def stream_tolerance(artefact: StatefulArtefact, windowed: Float32) -> float:
    """Largest |difference| in logits that the stateful artefact may show to those of windows `(windows, classes)`."""
    if artefact.precision == "fp32":
        return STREAM_TOLERANCE_FP32 * max(1.0, float(np.abs(windowed).max()))
    step = artefact.logit_step
    if step is not None:
        # The float form of a step count: a thousandth lets only rounding in.
        return (STREAM_TOLERANCE_INT8_STEPS + 1e-3) * step
    return STREAM_TOLERANCE_INT8_SPREAD * float(windowed.max() - windowed.min())
