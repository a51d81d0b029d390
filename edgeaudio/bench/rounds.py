"""Rounds in which the artefacts take turns, hop behind hop; and what the harness itself costs.

Turns, because a machine that grows warm or busy half-way then slows all artefacts alike. Hops run back to
back: a live stream rests between hops and finds colder caches and a lower clock, so it can be slower.
"""

from __future__ import annotations

import gc
import logging
import math
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from edgeaudio.bench import stats
from edgeaudio.bench.candidate import Candidate, Tell
from edgeaudio.bench.golden_audio import LoopedAudio
from edgeaudio.bench.hop import HopTimer, null_stages
from edgeaudio.bench.schema import MAX_HOPS, MAX_RUN_HOPS, BenchOptions, Overhead
from edgeaudio.bundle import Bundle

logger = logging.getLogger(__name__)

# Hops after each change of artefact that only fetch code and weights back into the caches.
_REWARM_HOPS = 5
_OVERHEAD_HOPS = 2_000


@contextmanager
def garbage_collector(*, enabled: bool) -> Iterator[None]:
    """Hold the collector in the wanted state, then give back the state that was found."""
    was_enabled = gc.isenabled()
    (gc.enable if enabled else gc.disable)()
    try:
        yield
    finally:
        (gc.enable if was_enabled else gc.disable)()


def measure_overhead(bundle: Bundle, input_rate_hz: int) -> Overhead:
    """What a hop of stages that do nothing takes."""
    manifest = bundle.manifest
    timer = HopTimer(null_stages(manifest.window.frames, manifest.frontend.n_mels, len(manifest.task.labels)))
    audio = LoopedAudio(bundle, input_rate_hz, manifest.window.hop_samples(manifest.frontend))
    for _ in range(_OVERHEAD_HOPS):
        timer.feed(audio.next_hop())
    summary = stats.summarise(timer.columns_us()["total"], interval=False)
    assert summary.p50.value_us is not None
    return Overhead(p50_us=summary.p50.value_us, max_us=summary.max_us, n_hops=_OVERHEAD_HOPS)


def run_rounds(candidates: Sequence[Candidate], options: BenchOptions, tell: Tell) -> None:
    """Time all `candidates`, in another order each round."""
    hops, seconds = math.ceil(options.min_hops / options.rounds), options.min_seconds / options.rounds
    most = most_hops(len(candidates)) // options.rounds
    turns = options.rounds * len(candidates)
    for number in range(options.rounds):
        # Nobody is always the one who comes after the same neighbour.
        first = number % len(candidates) if candidates else 0
        for place, candidate in enumerate([*candidates[first:], *candidates[:first]]):
            tell("timing", candidate.name, number * len(candidates) + place, turns)
            gc.collect()
            run_turn(candidate, hops, seconds, most)
        logger.info("round %d of %d done", number + 1, options.rounds)
    for candidate in candidates:
        if most and (n := len(candidate.stream()[0])) >= most * options.rounds:
            logger.warning("%s: ended after %d hops, whatever seconds were asked for", candidate.name, n)
    if candidates:
        tell("timing", None, turns, turns)


def most_hops(n_artefacts: int) -> int:
    """Hops of each artefact after which seconds no longer count: more samples could not come back."""
    return min(MAX_HOPS, MAX_RUN_HOPS // max(1, n_artefacts))


def run_turn(candidate: Candidate, hops: int, seconds: float, most: int = MAX_HOPS) -> None:
    """At least `hops` hops, and at least `seconds` unless that were more than `most` hops."""
    timer, audio = candidate.stream()
    rewarm(timer, audio)
    before, start = len(timer), time.perf_counter()
    candidate.meter.start()
    try:
        end = time.perf_counter() + seconds
        while len(timer) < before + hops or (len(timer) < before + most and time.perf_counter() < end):
            timer.feed(audio.next_hop())
    finally:
        candidate.meter.stop()
        candidate.turns.append((start, time.perf_counter(), len(timer) - before))


def rewarm(timer: HopTimer, audio: LoopedAudio) -> None:
    """A few hops that do not count, on the same stages."""
    uncounted = HopTimer(timer.stages)
    for _ in range(_REWARM_HOPS):
        uncounted.feed(audio.next_hop())
