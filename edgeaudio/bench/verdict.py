"""May these figures be used? A pure function of the finished record: nothing is measured here, and nothing remembered.

Each check looks for one thing that speaks against an artefact's figures. `docs/benchmark.md` says them in words.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Final, Literal

from edgeaudio.bench.board import BoardKind, BoardSample
from edgeaudio.bench.schema import ArtefactResult, BenchResult, Reason, Summary, Turn, Verdict
from edgeaudio.bench.stats import drift_share, min_samples

# Limits, each with the effect that it guards against. Where there are two, the second makes the figures invalid.

#: A warming chip, a filling cache or a leak: the median then tells when it was measured, not what was.
SUSPECT_DRIFT_SHARE, INVALID_DRIFT_SHARE = 0.10, 0.30
#: Cores that others kept busy: they take cache, memory bandwidth and turbo clock; a whole one also takes our core.
SUSPECT_OTHER_CORES, INVALID_OTHER_CORES = 0.25, 1.0
#: Of the timed span the measuring thread held a core: below it, hops hold the waits for others.
SUSPECT_CPU_SHARE, INVALID_CPU_SHARE = 0.90, 0.50
#: The harness's own cost of a hop, which is not subtracted.
SUSPECT_OVERHEAD_SHARE = 0.01
#: How far the clock fell below its fastest while hops were timed: latency follows it in inverse proportion.
SUSPECT_CLOCK_SHARE, INVALID_CLOCK_SHARE = 0.05, 0.20
#: Where chips begin to slow themselves down: a Raspberry Pi at 80 degrees (firmware default), others later.
SUSPECT_TEMPERATURE_C: Final[dict[BoardKind, float]] = {"raspberry-pi": 80.0}
SUSPECT_TEMPERATURE_OTHERS_C = 95.0
#: Paced hops that were late: where they queue, nothing rests between hops, and paced figures are no longer paced.
SUSPECT_MISS_SHARE = 0.01
#: Instruction counts serve as a gate of 2 %; counts that differ by more among themselves cannot.
SUSPECT_SPREAD_SHARE = 0.02

#: What an engine was asked for: the key of `engine_info` that says what took the graph, and how that must begin.
WANTED_PROVIDERS: Final = {
    "onnx": ("provider", "CPUExecutionProvider"),
    "tensorrt-reference": ("provider", "CPUExecutionProvider"),
    "litert": ("delegate", "XNNPACK"),
    "tensorrt": ("provider", "TensorRT"),
}
#: What LiteRT says where nobody looked which delegate took the graph.
_UNKNOWN_PROVIDERS = ("", "library default")
_UNDER_VOLTAGE = "under-voltage"

_Finding = tuple[Literal["suspect", "invalid"], str]
Check = Callable[[ArtefactResult, BenchResult], _Finding | None]


def judged(result: BenchResult) -> BenchResult:
    """`result` with the verdict on each of its artefacts, whatever it said before."""
    items = (item.model_copy(update={"verdict": judge_artefact(item, result)}) for item in result.artefacts)
    return result.model_copy(update={"artefacts": tuple(items)})


def judge_artefact(item: ArtefactResult, result: BenchResult) -> Verdict:
    """The verdict on one artefact of `result`: all that `CHECKS` find."""
    found = ((code, check(item, result)) for code, check in CHECKS.items())
    return Verdict.of(
        tuple(Reason(level=finding[0], code=code, message=finding[1]) for code, finding in found if finding)
    )


def _incomplete(item: ArtefactResult, result: BenchResult) -> _Finding | None:
    return None if result.incomplete is None else ("invalid", f"the run broke off: {result.incomplete}")


def _parity(item: ArtefactResult, result: BenchResult) -> _Finding | None:
    if item.parity is None or item.parity.passed:
        return None
    return "invalid", f"golden vectors do not replay: {item.parity.detail}"


def _accuracy(item: ArtefactResult, result: BenchResult) -> _Finding | None:
    check = item.accuracy
    if check is None or check.passed:
        return None
    counts = f"{check.n_correct} of {check.n_clips} clips right, {check.n_correct_on_host} on the host"
    return "invalid", f"it does not hear what it heard on the host ({counts}): {check.detail}"


def _too_few_samples(item: ArtefactResult, result: BenchResult) -> _Finding | None:
    if result.kind == "estimated":
        return None if item.estimate else ("invalid", "nothing was counted")
    wanted = _wanted_hops(result)
    if _n_hops(item) < wanted:
        return "invalid", f"{_n_hops(item)} hops were timed, {wanted} are needed"
    if item.timed_s < 0.99 * result.options.min_seconds:
        return "invalid", f"hops were timed for {item.timed_s:.2f} s, {result.options.min_seconds:g} s are needed"
    return None


def _few_samples(item: ArtefactResult, result: BenchResult) -> _Finding | None:
    n = _n_hops(item)
    # Fewer than were asked for is another reason, and says enough.
    if result.kind == "estimated" or n < _wanted_hops(result) or n >= min_samples(0.99):
        return None
    return "suspect", f"{n} hops carry no p99, which needs {min_samples(0.99)}"


def _drift(item: ArtefactResult, result: BenchResult) -> _Finding | None:
    total = item.stage("total")
    # What the record says of itself counts only where it kept no samples.
    share = drift_share(total.samples_us) if total and total.samples_us else item.drift_share
    if share is None or abs(share) <= SUSPECT_DRIFT_SHARE:
        return None
    message = f"the last third is {share:+.0%} against the first, {SUSPECT_DRIFT_SHARE:.0%} is allowed"
    return _level(abs(share) > INVALID_DRIFT_SHARE), message


def _other_load(item: ArtefactResult, result: BenchResult) -> _Finding | None:
    cores = max(_other_busy_cores(item, result), default=0.0)
    if cores <= SUSPECT_OTHER_CORES:
        return None
    message = f"other processes kept {cores:.2f} cores busy, {SUSPECT_OTHER_CORES} are allowed"
    return _level(cores > INVALID_OTHER_CORES), message


def _off_cpu(item: ArtefactResult, result: BenchResult) -> _Finding | None:
    # Where threads of the engine's own or a GPU do the work, the measuring thread waits: its share says nothing.
    if item.load is None or result.threads > 1 or "gpu" in item.engine_info:
        return None
    share = item.load.cpu_share
    if share >= SUSPECT_CPU_SHARE:
        return None
    message = f"the measuring thread held a core for only {share:.0%} of the timed span"
    return _level(share < INVALID_CPU_SHARE), message


def _overhead(item: ArtefactResult, result: BenchResult) -> _Finding | None:
    total = _total(item)
    median_us = total.p50.value_us if total else None
    own_us = result.overhead.p50_us
    if median_us is None or own_us <= SUSPECT_OVERHEAD_SHARE * median_us:
        return None
    return "suspect", f"the harness adds {own_us:.2f} us to {median_us:.0f} us, above {SUSPECT_OVERHEAD_SHARE:.0%}"


def _throttled(item: ArtefactResult, result: BenchResult) -> _Finding | None:
    flags = sorted(_flags(result) - {_UNDER_VOLTAGE})
    return ("invalid", f"the board slowed itself down: {', '.join(flags)}") if flags else None


def _under_voltage(item: ArtefactResult, result: BenchResult) -> _Finding | None:
    if _UNDER_VOLTAGE not in _flags(result):
        return None
    return "invalid", "the supply fell below what the board needs; it slows itself down then"


def _clock_moved(item: ArtefactResult, result: BenchResult) -> _Finding | None:
    clocks = _clocks_mhz(item, result)
    fastest, slowest = max(clocks, default=0.0), min(clocks, default=0.0)
    share = 1 - slowest / fastest if fastest > 0 else 0.0
    if share <= SUSPECT_CLOCK_SHARE:
        return None
    message = f"the clock moved between {slowest:.0f} and {fastest:.0f} MHz while hops were timed"
    return _level(share > INVALID_CLOCK_SHARE), message


def _temperature(item: ArtefactResult, result: BenchResult) -> _Finding | None:
    limit = SUSPECT_TEMPERATURE_C.get(_board_kind(result), SUSPECT_TEMPERATURE_OTHERS_C)
    hottest = max(_temperatures_c(result), default=None)
    if hottest is None or hottest < limit:
        return None
    return "suspect", f"{hottest:.0f} degrees Celsius were reached; from {limit:.0f} on such a board slows itself down"


def _provider(item: ArtefactResult, result: BenchResult) -> _Finding | None:
    if not item.engine_info and item.estimate is None and not _n_hops(item):  # Nothing was loaded.
        return None
    if item.engine not in WANTED_PROVIDERS:
        return "suspect", f"engine {item.engine!r:.60} is not known, and so is not what should have taken the graph"
    key, name = WANTED_PROVIDERS[item.engine]
    found = item.engine_info.get(key, "")
    # Stages of early exits say it once each where they differ.
    if all(part.casefold().startswith(name.casefold()) for part in found.split("; ")):
        return None
    if found in _UNKNOWN_PROVIDERS:
        return "suspect", f"nobody looked whether {name} took the graph"
    # An emulator's processor is not quite the board's: whether that board has it is not known.
    return _level(result.kind == "measured"), f"{name} was asked for, but {found!r} took the graph"


def _unwatched(item: ArtefactResult, result: BenchResult) -> _Finding | None:
    if result.kind == "estimated" or (result.board is not None and result.board.of("during")):
        return None
    return "suspect", "nobody watched the board: its clock, heat, throttling and load are not known"


def _unheard(item: ArtefactResult, result: BenchResult) -> _Finding | None:
    sound = item.sound_to_event
    if sound is None or (sound.n_heard and sound.n_heard >= (sound.n_able or 0)):
        return None
    if not sound.n_heard:
        return "suspect", f"none of {sound.n_sounds} marked sounds gave an event"
    return "suspect", f"{sound.n_heard} marked sounds gave an event, without a clock {sound.n_able} do"


def _deadline(item: ArtefactResult, result: BenchResult) -> _Finding | None:
    paced = item.paced
    if paced is None or paced.deadline_misses <= SUSPECT_MISS_SHARE * paced.n_hops:
        return None
    return "suspect", f"{paced.deadline_misses} of {paced.n_hops} paced hops were late: the board does not keep up"


def _spread(item: ArtefactResult, result: BenchResult) -> _Finding | None:
    if item.estimate is None or item.estimate.spread_share <= SUSPECT_SPREAD_SHARE:
        return None
    return "suspect", f"instruction counts differ by {item.estimate.spread_share:.1%} among themselves"


#: Reason code -> what finds it. Codes are in records and documentation: they are never renamed.
CHECKS: dict[str, Check] = {
    "incomplete": _incomplete,
    "parity": _parity,
    "accuracy": _accuracy,
    "too-few-samples": _too_few_samples,
    "few-samples": _few_samples,
    "provider": _provider,
    "throttled": _throttled,
    "under-voltage": _under_voltage,
    "clock-moved": _clock_moved,
    "temperature": _temperature,
    "drift": _drift,
    "other-load": _other_load,
    "off-cpu": _off_cpu,
    "overhead": _overhead,
    "deadline": _deadline,
    "unheard": _unheard,
    "unwatched": _unwatched,
    "spread": _spread,
}


def _level(invalid: bool) -> Literal["suspect", "invalid"]:
    return "invalid" if invalid else "suspect"


def _total(item: ArtefactResult) -> Summary | None:
    total = item.stage("total")
    return total.summary if total else None


def _n_hops(item: ArtefactResult) -> int:
    total = item.stage("total")
    if total is None or total.summary is None:
        return 0
    return len(total.samples_us) or total.summary.n


def _wanted_hops(result: BenchResult) -> int:
    return max(result.options.min_hops, min_samples(0.5))


def _other_busy_cores(item: ArtefactResult, result: BenchResult) -> Iterator[float]:
    """Means over the turns, over the paced run, and by the watch over all that came after the turns."""
    for load in (item.load, item.paced.load if item.paced else None):
        if load is not None and load.other_busy_cores is not None:
            yield load.other_busy_cores
    energy_mj = item.energy.per_inference_mj if item.energy else None
    if item.paced or item.cold_start or item.sound_to_event or energy_mj is not None:
        yield from _other_busy_cores_later(result)


def _other_busy_cores_later(result: BenchResult) -> Iterator[float]:
    samples, begin_s = _samples(result), max((turn.end_s for turn in _all_turns(result)), default=-math.inf)
    # Each sample tells of the time since the one before.
    spans = [
        (now.t_s - before.t_s, now.other_busy_cores)
        for before, now in itertools.pairwise(samples)
        if now.phase == "during" and now.t_s > begin_s and now.other_busy_cores is not None
    ]
    seconds = sum(span_s for span_s, _ in spans)
    if seconds > 0:
        yield sum(span_s * cores for span_s, cores in spans) / seconds


def _all_turns(result: BenchResult) -> list[Turn]:
    return [turn for item in result.artefacts for turn in item.turns]


def _samples(result: BenchResult) -> tuple[BoardSample, ...]:
    return result.board.samples if result.board else ()


def _board_kind(result: BenchResult) -> BoardKind:
    return result.board.board.kind if result.board else "unknown"


def _flags(result: BenchResult) -> set[str]:
    """What throttled at a sample, or between two: what has been seen since boot is old news if it was there before."""
    samples = _samples(result)
    now = {flag for sample in samples for flag in sample.throttled_now or ()}
    known = [set(sample.throttled_since_boot) for sample in samples if sample.throttled_since_boot is not None]
    return now | (set().union(*known) - known[0] if known else set())


def _clocks_mhz(item: ArtefactResult, result: BenchResult) -> list[float]:
    """While hops ran back to back; between paced hops a clock may rest. Of its own turns, else of all: a board that is
    asked every few seconds may tell too little in those of one artefact, and they alternate."""
    for turns in (item.turns, _all_turns(result)):
        samples = [sample for sample in _samples(result) if sample.phase == "during" and _is_in(sample, turns)]
        clocks = [mhz for sample in samples if (mhz := fastest_mhz(sample, result)) is not None]
        if len(clocks) > 1:
            break
    return clocks


def _is_in(sample: BoardSample, turns: Sequence[Turn]) -> bool:
    return not turns or any(turn.start_s <= sample.t_s <= turn.end_s for turn in turns)


def fastest_mhz(sample: BoardSample, result: BenchResult) -> float | None:
    """The fastest core that the run may use: idle cores rest at their lowest clock. None: it was not told."""
    clocks = sample.frequencies_mhz
    usable = [clocks[core] for core in result.options.affinity if core < len(clocks)]
    return max(usable or clocks, default=None)


def _temperatures_c(result: BenchResult) -> list[float]:
    return [temperature_c for sample in _samples(result) for temperature_c in sample.temperatures_c.values()]
