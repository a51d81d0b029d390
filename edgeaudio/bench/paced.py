"""The same hops at the rate of real time: each is due when a live input would have its last sample."""

from __future__ import annotations

import gc
import math
import time
from collections.abc import Sequence

from edgeaudio.bench.candidate import Candidate, Tell, load_state
from edgeaudio.bench.environment import LoadMeter
from edgeaudio.bench.hop import HopTimer
from edgeaudio.bench.record import stage_results
from edgeaudio.bench.rounds import rewarm
from edgeaudio.bench.schema import Paced

# What is slower than real time misses every deadline; so many times the asked-for span shows it.
_PATIENCE = 2.0


def run_paced(candidates: Sequence[Candidate], seconds: float, sample_rate: int, tell: Tell) -> None:
    """Run each for `seconds`, one after the other. `sample_rate`: the bundle's."""
    for number, candidate in enumerate(candidates):
        tell("paced", candidate.name, number, len(candidates))
        gc.collect()
        candidate.paced = _run(candidate, seconds, candidate.subject.hop_samples / sample_rate)
    if candidates:
        tell("paced", None, len(candidates), len(candidates))


def _run(candidate: Candidate, seconds: float, hop_s: float) -> Paced:
    timer, audio = candidate.stream()
    rewarm(timer, audio)
    paced, meter = HopTimer(timer.stages, paced=True), LoadMeter()
    now = time.perf_counter
    # A lump of a resampler may hold a window back: hops are counted, not chunks.
    n_hops = max(1, math.ceil(seconds / hop_s))
    meter.start()
    origin_s, give_up_s = now() - audio.position_s, now() + _PATIENCE * seconds
    while len(paced) < n_hops and (now() < give_up_s or not len(paced)):
        chunk = audio.next_hop()
        due_s = origin_s + audio.position_s
        rest_s = due_s - now()
        if rest_s > 0:
            time.sleep(rest_s)
        paced.feed(chunk, max(0, round(1e9 * (now() - due_s))))
    meter.stop()
    columns = paced.columns_us()
    return Paced(
        n_hops=len(paced),
        timed_s=meter.wall_s,
        deadline_ms=hop_s * 1e3,
        deadline_misses=int((columns["total"] > hop_s * 1e6).sum()),
        stages=stage_results(paced),
        load=load_state(meter),
    )
