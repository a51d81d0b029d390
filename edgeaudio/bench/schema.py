"""The record of a benchmark: everything that was measured, and everything that could change it.

Times are microseconds. Raw samples are kept, so that every statistic can be recomputed.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Final, Literal

from pydantic import Field, field_validator

from edgeaudio.bench.board import Board, BoardRecord
from edgeaudio.errors import ConfigError
from edgeaudio.frontend.choice import FrontendChoice
from edgeaudio.spec import Spec
from edgeaudio.spec.fs import atomic_write

SCHEMA_VERSION: Final = 2

StageName = Literal["wait", "resample", "frontend", "inference", "decision", "total"]
#: How an artefact is run; `foreign` is a model file that belongs to no bundle.
Form = Literal["windowed", "stateful", "exits", "stateful-exits", "foreign"]
#: `estimated`: counted on an emulated processor, never timed.
ResultKind = Literal["measured", "estimated"]
#: What is measured beside the hops of an artefact and may fail without them.
Beside = Literal["cold_start", "sound_to_event"]
VerdictLevel = Literal["valid", "suspect", "invalid"]
_LEVELS: tuple[VerdictLevel, ...] = ("valid", "suspect", "invalid")


#: Of one artefact, and of a run: all raw samples come back from a device, at some 12 to 40 bytes a hop, and its answer
#: is bounded (`edgeaudio.spec.limits`, REPLY_LINE_BYTES and REPLY_BYTES).
MAX_HOPS, MAX_RUN_HOPS = 1_500_000, 6_000_000


class BenchOptions(Spec):
    """How long and on what to measure. Both minimums hold: hops and seconds, per artefact."""

    input_rate_hz: int | None = Field(None, ge=4_000, le=384_000, description="None: the rate of the bundle")
    min_hops: int = Field(600, ge=1, description="299 hops are the fewest that carry a p99")
    min_seconds: float = Field(3.0, ge=0, le=24 * 3600)
    warmup_hops: int = Field(20, ge=0, le=1_000_000, description="per artefact, after the first full window")
    rounds: int = Field(5, ge=1, le=1_000, description="artefacts take turns this many times")
    frontend: FrontendChoice = Field("auto", description="what was taken is in each artefact's engine_info")
    gc_enabled: bool = Field(False, description="leave Python's garbage collector on while timing")
    paced_s: float = Field(0, ge=0, le=2 * 3600, description="also at the rate of real time, so long per artefact")
    cold_starts: int = Field(0, ge=0, le=1_000, description="fresh processes per artefact, from start to first answer")
    marked_sounds: int = Field(0, ge=0, le=100_000, description="sounds in a live stream whose events are timed")
    idle_s: float = Field(0, ge=0, le=3600, description="power of the idle board, before anything is timed")
    affinity: tuple[int, ...] = Field((), description="cores to run on; empty: where the system puts it")
    nice: int | None = Field(None, ge=-20, le=19, description="priority; None: as found")
    set_performance: bool = Field(False, description="hold the governors at performance, and restore them afterwards")
    forms: tuple[Form, ...] = Field((), description="of the bundle's artefacts only these; empty: all that it has")

    @field_validator("min_hops")
    @classmethod
    def _can_come_back(cls, min_hops: int) -> int:
        if min_hops > MAX_HOPS:
            raise ValueError(f"at most {MAX_HOPS}: the raw samples of all hops come back from a device in one message")
        return min_hops


class Percentile(Spec):
    """One percentile; `upper95_us` bounds it from above at 95 % confidence. No value has a `reason`.

    `interval_us` is 95 % by block bootstrap, where enough samples lie beyond the percentile for that.
    """

    p: float = Field(gt=0, lt=1)
    value_us: float | None = None
    upper95_us: float | None = None
    interval_us: tuple[float, float] | None = None
    reason: str | None = None


class Summary(Spec):
    """Statistics of one stage; `p50_interval_us` is that of `p50`. The largest has no interval: none is sound."""

    n: int = Field(ge=1)
    mean_us: float
    min_us: float
    max_us: float
    p50: Percentile
    p90: Percentile
    p95: Percentile
    p99: Percentile
    p50_interval_us: tuple[float, float] | None


class StageResult(Spec):
    """One stage of the hop. A stage that is not in the path says why and has no samples."""

    name: StageName
    in_path: bool
    reason: str | None = None
    summary: Summary | None = None
    samples_us: tuple[int, ...] = Field((), description="one per hop, in order")


class ParityCheck(Spec):
    """Replay of the bundle's golden vectors before timing."""

    passed: bool
    n_vectors: int = Field(ge=0)
    detail: str


class AccuracyCheck(Spec):
    """Labelled clips before timing, against what the host made of them with the same artefact.

    n_same: clips that got the class that the host gave them.
    """

    passed: bool
    n_clips: int = Field(ge=1)
    n_correct: int = Field(ge=0)
    n_correct_on_host: int = Field(ge=0)
    n_same: int = Field(ge=0)
    clips_sha256: str
    detail: str


class Reason(Spec):
    """One thing that speaks against the figures."""

    level: Literal["suspect", "invalid"]
    code: str
    message: str


class Verdict(Spec):
    """`valid`, or the worst level of its reasons."""

    level: VerdictLevel
    reasons: tuple[Reason, ...] = ()

    @classmethod
    def of(cls, reasons: tuple[Reason, ...]) -> Verdict:
        """The verdict that `reasons` add up to."""
        return cls(level=max((r.level for r in reasons), key=_LEVELS.index, default="valid"), reasons=reasons)


#: Of a record that is not finished. Figures count only once `edgeaudio.bench.verdict.judged` has looked at them.
NOT_JUDGED: Final = Verdict.of((Reason(level="invalid", code="not-judged", message="nobody has judged this yet"),))


class LoadState(Spec):
    """What else the machine did while one artefact was timed.

    `cpu_share` is the measuring thread's CPU time over wall time: below 1 something else held the core, or
    an engine with several threads did the work elsewhere.
    """

    cpu_share: float = Field(ge=0)
    other_busy_cores: float | None = Field(None, ge=0, description="cores kept busy by other processes")
    involuntary_switches: int = Field(ge=0)


class Turn(Spec):
    """One turn of an artefact at the processor: `n_hops` hops back to back. Seconds as in `BoardSample.t_s`."""

    start_s: float
    end_s: float
    n_hops: int = Field(ge=1)


class Paced(Spec):
    """The same hops at the rate of real time: between them the machine rests, and caches and clock cool down.

    `wait` in `stages` is how late a hop was taken up after its last sample was there, and part of `total`.
    """

    n_hops: int = Field(ge=1)
    timed_s: float = Field(ge=0)
    deadline_ms: float = Field(
        gt=0, description="a hop that is answered later than this after its last sample is missed"
    )
    deadline_misses: int = Field(ge=0)
    stages: tuple[StageResult, ...]
    load: LoadState | None = None


class ColdStart(Spec):
    """Fresh processes: from the start of the interpreter to the first answer. Milliseconds, one per process.

    import_ms: packages, the engine's library with them. load_ms: from the file to a ready model. first_inference_ms:
    from the samples of a window to its answer. The disk's cache is warm: a process that is not counted came before.
    """

    to_first_answer_ms: tuple[float, ...]
    import_ms: tuple[float, ...]
    load_ms: tuple[float, ...]
    first_inference_ms: tuple[float, ...]
    peak_rss_bytes: int = Field(ge=0)
    pss_bytes: int | None = Field(None, ge=0, description="the share of this process in pages that others share too")


class SoundToEvent(Spec):
    """From the last sample that the event of a marked sound needed, by the source's clock, to the line of that event.

    onset_us: from the first sample of the sound to the line, with what the model and the decision wait for. Of a sound
    that makes no event in the same audio without a clock, none can be heard.
    """

    n_sounds: int = Field(ge=1)
    n_heard: int = Field(ge=0)
    n_able: int | None = Field(None, ge=0, description="that make an event in the same audio without a clock")
    summary: Summary | None = None
    samples_us: tuple[int, ...] = Field((), description="one per sound that was heard, in order")
    sound_ms: float | None = Field(None, description="from its first sample to its last")
    onset_summary: Summary | None = None
    onset_us: tuple[int, ...] = ()
    detail: str


class GpuTime(Spec):
    """What the GPU was busy with, by CUDA events, inside `inference`: kernels, copies there and back; one per hop."""

    kernels: Summary
    copies: Summary
    kernels_us: tuple[float, ...]
    copies_us: tuple[float, ...]


class Energy(Spec):
    """Of one inference, the idle board subtracted; `reason` where it was not measured."""

    per_inference_mj: float | None = None
    idle_w: float | None = None
    busy_w: float | None = None
    rail: str | None = None
    reason: str | None = None


class ExitShare(Spec):
    """What one early exit answered while the artefact was timed, or counted."""

    exit: int = Field(ge=0)
    share: float = Field(ge=0, le=1)
    inference: Summary | None = None


class InstructionEstimate(Spec):
    """Guest instructions on an emulated processor, and the band of latency that assumed IPC gives. No device was used.

    ipc: instructions per cycle, from and to. calibrated_on: the board whose measured IPC this is; None: assumed.
    """

    cpu: str
    emulator: str
    instructions_per_inference: int = Field(ge=1)
    instructions_per_stage: dict[str, int] = Field(default_factory=dict)
    spread_share: float = Field(ge=0)
    n_counts: int = Field(ge=1)
    clock_mhz: float = Field(gt=0)
    ipc: tuple[float, float]
    latency_ms: tuple[float, float]
    calibrated_on: str | None = None


class Ratio(Spec):
    """Median of one artefact's stage over that of another, timed in turns; the interval is 95 % by bootstrap.

    Per hop where their hops are as long, else per second of sound: who answers more often has more of them.
    """

    artefact: str
    baseline: str
    stage: StageName
    per: Literal["hop", "second"] = Field("hop", description="in older records of hops, also where they differ")
    value: float
    interval: tuple[float, float] | None = None


class ArtefactResult(Spec):
    """One artefact on one engine.

    `rtf_*` is processing time over hop duration: below 1 is faster than real time. An artefact that failed
    its parity check is not timed.
    """

    artefact: str = Field(description="such as onnx-int8, onnx-int8-stateful, onnx-int8-exits, yamnet.tflite")
    form: Form = "windowed"
    engine: str
    engine_info: dict[str, str]
    precision: str
    size_bytes: int = Field(ge=0)
    sha256: str = Field(description="of the file; of several stages, of their digests in order")
    hop_ms: float | None = Field(None, gt=0, description="its own: a stateful form answers each of its steps")
    parity: ParityCheck | None = Field(description="None: a foreign file has no golden vectors")
    accuracy: AccuracyCheck | None = None
    load_ms: float | None = Field(None, ge=0, description="verified bytes to a ready classifier, library imported")
    first_inference_ms: float | None = Field(None, ge=0, description="of a window, or of a step")
    n_hops: int = Field(ge=0)
    timed_s: float = Field(ge=0)
    stages: tuple[StageResult, ...] = ()
    rtf_p50: float | None = None
    rtf_mean: float | None = None
    rtf_max: float | None = None
    drift_share: float | None = Field(None, description="last third over first third of the medians, minus 1")
    load: LoadState | None = None
    turns: tuple[Turn, ...] = Field((), description="when the hops of `total` were timed, in order; empty: not kept")
    exits: tuple[ExitShare, ...] = ()
    gpu: GpuTime | None = None
    catch_up_share: float | None = Field(None, ge=0, description="of all MACs: steps that were put off and made up")
    paced: Paced | None = None
    cold_start: ColdStart | None = None
    sound_to_event: SoundToEvent | None = None
    failures: dict[Beside, str] = Field(default_factory=dict, description="what broke off, and why; the rest counts")
    energy: Energy | None = None
    estimate: InstructionEstimate | None = None
    verdict: Verdict = Field(NOT_JUDGED, description="of `edgeaudio.bench.verdict.judged`, and again by every reader")

    def stage(self, name: StageName) -> StageResult | None:
        """The stage of that name; None when nothing was timed."""
        return next((stage for stage in self.stages if stage.name == name), None)


class Overhead(Spec):
    """What the harness itself adds to each hop: the same loop around stages that do nothing.

    It is stated, not subtracted.
    """

    p50_us: float = Field(ge=0)
    max_us: float = Field(ge=0)
    n_hops: int = Field(ge=1)


class NotRun(Spec):
    """An artefact that this machine cannot run, and why."""

    artefact: str
    reason: str


class Environment(Spec):
    """The process that measured; the machine and its state are in `BenchResult.board`."""

    device: str = Field(description="its name in devices.yaml, or local")
    affinity: tuple[int, ...] | None = Field(None, description="cores that it may run on; None: the system has no such")
    nice: int | None = Field(None, description="its priority, from -20 (first) to 19")
    python: str
    packages: dict[str, str]


class BenchResult(Spec):
    """One run over one bundle: one or more artefacts, timed in turns in one process."""

    schema_version: Literal[2] = SCHEMA_VERSION
    kind: ResultKind = "measured"
    run_id: str = Field(description="unique; also the name of the run's folder on the device")
    started_at: str = Field(description="UTC, ISO 8601, by the host's clock")
    incomplete: str | None = Field(None, description="why the run broke off; what is here was never averaged")
    edgeaudio_version: str
    bundle_name: str
    bundle_sha256: str
    threads: int = Field(ge=1)
    options: BenchOptions
    input_rate_hz: int
    model_rate_hz: int
    hop_ms: float = Field(description="of the bundle's windows; each artefact tells its own")
    window_ms: float
    stream_s: float = Field(description="length of the looped golden audio")
    pacing: Literal["back-to-back"] = Field(
        "back-to-back", description="no pause between hops: caches and clock are warmer than in a live stream"
    )
    gc_note: str
    overhead: Overhead
    peak_rss_bytes: int = Field(ge=0, description="of the whole process, all artefacts loaded")
    environment: Environment
    board: BoardRecord | None = None
    artefacts: tuple[ArtefactResult, ...]
    not_run: tuple[NotRun, ...] = ()
    ratios: tuple[Ratio, ...] = ()

    @property
    def known_board(self) -> BoardRecord:
        """`board`, or an unknown one where none was watched."""
        return self.board or BoardRecord(board=Board())

    @property
    def verdict(self) -> Verdict:
        """The worst of all artefacts; each reason names its artefact."""
        if not self.artefacts:
            message = self.incomplete or "nothing was run"
            return Verdict.of((Reason(level="invalid", code="incomplete", message=message),))
        return Verdict.of(
            tuple(
                reason.model_copy(update={"message": f"{item.artefact}: {reason.message}"})
                for item in self.artefacts
                for reason in item.verdict.reasons
            )
        )


def write_result(result: BenchResult, path: Path) -> None:
    """Write `result` as JSON; a reader sees the old file or the whole new one."""
    atomic_write(path, (result.model_dump_json() + "\n").encode())


def read_result(path: Path) -> BenchResult:
    """Read what `write_result` wrote, and judge it anew: no file says itself that its figures are valid.

    Raises:
        ConfigError: the file is missing, not JSON, or of another schema; names the file and the field.
    """
    from edgeaudio.bench.verdict import judged  # It is about these classes.

    try:
        value = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise ConfigError(f"{path}: not a readable benchmark result ({error}). Run 'edgeaudio bench' again.") from error
    version = value.get("schema_version") if isinstance(value, dict) else None
    if version != SCHEMA_VERSION:
        raise ConfigError(
            f"{path}: schema_version is {version!r:.20}, wanted {SCHEMA_VERSION}. Run 'edgeaudio bench' again."
        )
    return judged(BenchResult.parse(value, source=str(path)))
