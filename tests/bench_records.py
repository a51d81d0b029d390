"""Benchmark records made by hand: a quiet run on a Raspberry Pi, with everything in it, and ways to spoil it.

No figure here was measured. `result()` is valid; `planted()` has one record per reason that a verdict knows.
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np

from edgeaudio.bench.board import Board, BoardRecord, BoardSample, Phase
from edgeaudio.bench.schema import (
    AccuracyCheck,
    ArtefactResult,
    BenchOptions,
    BenchResult,
    ColdStart,
    Energy,
    Environment,
    ExitShare,
    InstructionEstimate,
    LoadState,
    NotRun,
    Overhead,
    Paced,
    ParityCheck,
    Ratio,
    SoundToEvent,
    StageName,
    StageResult,
    Turn,
)
from edgeaudio.bench.stats import drift_share, summarise
from edgeaudio.bench.verdict import judged

HOP_MS = 40.0
STAGES: dict[StageName, float] = {"frontend": 210.0, "inference": 400.0, "decision": 20.0}
ENGINE_INFO = {
    "onnx": {"engine": "onnx", "library": "onnxruntime", "version": "1.31.1", "provider": "CPUExecutionProvider"},
    "litert": {"engine": "litert", "library": "ai-edge-litert", "version": "2.3.0", "delegate": "XNNPACK"},
}


def samples_us(median_us: float, n: int = 600, *, seed: int = 0) -> tuple[int, ...]:
    """`n` latencies about `median_us` with a tail to the right and no drift."""
    tail = np.random.default_rng(seed).gamma(2.0, 0.02, n)
    return tuple(int(value) for value in (median_us * (0.97 + tail)).round())


@functools.cache
def stage(name: StageName, values_us: tuple[int, ...]) -> StageResult:
    """A stage in the path."""
    return StageResult(name=name, in_path=True, summary=summarise(values_us), samples_us=values_us)


@functools.cache
def stages(scale: float = 1.0, n: int = 600, *, seed: int = 0) -> tuple[StageResult, ...]:
    """All stages but the resampler; `scale` makes the inference faster or slower."""
    columns = {
        name: samples_us(median_us * (scale if name == "inference" else 1.0), n, seed=seed + number)
        for number, (name, median_us) in enumerate(STAGES.items())
    }
    total = tuple(int(value) for value in np.sum(list(columns.values()), axis=0))
    absent = StageResult(name="resample", in_path=False, reason="not in path: the input has the model's rate")
    return (absent, *(stage(name, values) for name, values in columns.items()), stage("total", total))


def drifting(share: float, n: int = 600) -> tuple[StageResult, ...]:
    """`stages`, but the last third of the whole hop differs by `share` from the first."""
    early, late = [10_000] * (n // 2), [round(10_000 * (1 + share))] * (n - n // 2)
    return (*stages()[:-1], stage("total", (*early, *late)))


def artefact(
    name: str = "onnx-int8", *, scale: float = 1.0, n: int = 600, seed: int = 0, **changes: Any
) -> ArtefactResult:
    """A quiet artefact, valid on its own; `changes` are fields of `ArtefactResult`."""
    engine = "litert" if name.startswith("tflite") else "onnx"
    timed = stages(scale, n, seed=seed)
    total = timed[-1].summary
    assert total is not None
    median_us = total.p50.value_us
    fields: dict[str, Any] = {
        "artefact": name,
        "form": "exits" if name.endswith("-exits") else "stateful" if name.endswith("-stateful") else "windowed",
        "engine": engine,
        "engine_info": ENGINE_INFO[engine] | {"frontend": "native", "threads": "1"},
        "precision": "int8" if "int8" in name else "fp32",
        "size_bytes": 101_376 if "int8" in name else 329_728,
        "sha256": "ab" * 32,
        "parity": ParityCheck(passed=True, n_vectors=3, detail="frontend on native passed; golden logits passed"),
        "accuracy": AccuracyCheck(
            passed=True, n_clips=80, n_correct=73 if "int8" in name else 74, n_correct_on_host=73,
            n_same=80, clips_sha256="cd" * 32, detail="all as on the host",
        ),
        "load_ms": 4.5,
        "first_inference_ms": 1.25,
        "n_hops": n,
        "timed_s": 3.2,
        "stages": timed,
        "rtf_p50": None if median_us is None else median_us / (HOP_MS * 1e3),
        "rtf_mean": total.mean_us / (HOP_MS * 1e3),
        "rtf_max": total.max_us / (HOP_MS * 1e3),
        "drift_share": drift_share(timed[-1].samples_us),
        "load": LoadState(cpu_share=0.99, other_busy_cores=0.04, involuntary_switches=3),
        "turns": tuple(Turn(start_s=2.0 + k, end_s=2.9 + k, n_hops=max(n // 5, 1)) for k in range(5)),
        "paced": paced(scale, seed=seed),
        "cold_start": ColdStart(
            to_first_answer_ms=(812.0, 824.5, 806.25), import_ms=(610.0, 615.0, 608.0), load_ms=(120.0, 118.0, 121.0),
            first_inference_ms=(2.5, 2.25, 2.75), peak_rss_bytes=74 * 2**20, pss_bytes=61 * 2**20,
        ),
        "sound_to_event": sound_to_event(seed=seed),
        "energy": Energy(per_inference_mj=1.75, idle_w=2.5, busy_w=3.9, rail="EXT5V"),
    }  # fmt: skip
    if fields["form"] == "exits":
        fields["exits"] = (
            ExitShare(exit=0, share=0.625, inference=summarise(samples_us(150.0, 375, seed=seed))),
            ExitShare(exit=1, share=0.375, inference=summarise(samples_us(420.0, 225, seed=seed))),
        )
    return ArtefactResult(**(fields | changes))


@functools.cache
def paced(scale: float = 1.0, *, seed: int = 0, n: int = 300, misses: int = 0) -> Paced:
    """A paced run; hops are slower than back to back, as on a real board."""
    timed = stages(1.2 * scale, n, seed=seed + 50)
    waits = stage("wait", samples_us(90.0, n, seed=seed + 60))
    return Paced(
        n_hops=n, timed_s=n * HOP_MS / 1e3, deadline_ms=HOP_MS, deadline_misses=misses, stages=(waits, *timed),
        load=LoadState(cpu_share=0.03, other_busy_cores=0.02, involuntary_switches=1),
    )  # fmt: skip


@functools.cache
def sound_to_event(*, seed: int = 0) -> SoundToEvent:
    """Twenty marked sounds, one of them not heard."""
    values = samples_us(1_400.0, 19, seed=seed + 70)
    return SoundToEvent(
        n_sounds=20, n_heard=19, summary=summarise(values), samples_us=values, detail="golden vector 2 every 3 s"
    )


def sample(t_s: float, phase: Phase = "during", **changes: Any) -> BoardSample:
    """The board at one moment, at rest before and after."""
    busy = phase == "during"
    fields: dict[str, Any] = {
        "t_s": t_s,
        "phase": phase,
        "governors": ("ondemand",) * 4,
        "frequencies_mhz": (1800.0, 600.0, 600.0, 600.0) if busy else (600.0,) * 4,
        "frequency_max_mhz": 1800.0,
        "temperatures_c": {"cpu-thermal": 48.0 + 2.0 * t_s if busy else 47.0},
        "throttled_now": (),
        "throttled_since_boot": (),
        "load_average_1min": 0.4,
        "power_w": {"EXT5V": 3.9 if busy else 2.5},
    }
    return BoardSample(**(fields | changes))


def board(*samples: BoardSample, **changes: Any) -> BoardRecord:
    """A Raspberry Pi 4; without `samples` one a second over a quiet run."""
    fields: dict[str, Any] = {
        "kind": "raspberry-pi", "model": "Raspberry Pi 4 Model B Rev 1.4", "soc": "BCM2711",
        "cpu_model": "Cortex-A72", "cpu_flags": ("asimd", "crc32", "fp"), "architecture": "aarch64",
        "userland_bits": 64, "cores_logical": 4, "cores_physical": 4, "memory_bytes": 4 * 2**30, "virtualised": False,
        "os": "Debian GNU/Linux 12 (bookworm)", "kernel": "6.6.31", "libc": "glibc 2.36", "firmware": "2024-05-24",
    }  # fmt: skip
    quiet = (sample(0, "before"), *(sample(t) for t in range(2, 8)), sample(9, "after"))
    return BoardRecord(board=Board(**(fields | changes)), samples=samples or quiet)


def environment(device: str = "pi4", **changes: Any) -> Environment:
    """The process that measured."""
    fields: dict[str, Any] = {
        "device": device, "affinity": (0, 1, 2, 3), "nice": 0, "python": "CPython 3.11.2",
        "packages": {"edgeaudio": "0.1.0", "numpy": "2.4.6", "onnxruntime": "1.31.1"},
    }  # fmt: skip
    return Environment(**(fields | changes))


def result(*items: ArtefactResult, **changes: Any) -> BenchResult:
    """A judged run of `items`; by default four artefacts, of which one needs an engine that is not there."""
    items = items or (
        artefact("onnx-fp32", scale=1.8, seed=1),
        artefact("onnx-int8", seed=2),
        artefact("onnx-int8-exits", scale=0.6, seed=3),
        artefact("tflite-int8", scale=0.8, seed=4),
    )
    fields: dict[str, Any] = {
        "run_id": "20261121T120000Z-0123abcd",
        "started_at": "2026-11-21T12:00:00+00:00",
        "edgeaudio_version": "0.1.0",
        "bundle_name": "kitchen",
        "bundle_sha256": "ef" * 32,
        "threads": 1,
        "options": BenchOptions(min_hops=600, min_seconds=3.0, paced_s=12.0, cold_starts=3, marked_sounds=20),
        "input_rate_hz": 16_000,
        "model_rate_hz": 16_000,
        "hop_ms": HOP_MS,
        "window_ms": 1_005.0,
        "stream_s": 4.02,
        "gc_note": "collected before each turn, off while timing",
        "overhead": Overhead(p50_us=0.42, max_us=20.0, n_hops=2_000),
        "peak_rss_bytes": 105_050_112,
        "environment": environment(),
        "board": board(),
        "artefacts": items,
        "not_run": (NotRun(artefact="tensorrt-int8", reason="engine 'tensorrt' needs an NVIDIA GPU"),),
        "ratios": _ratios(items),
    }
    return judged(BenchResult(**(fields | changes)))


def _ratios(items: tuple[ArtefactResult, ...]) -> tuple[Ratio, ...]:
    return tuple(
        Ratio(artefact=item.artefact, baseline=items[0].artefact, stage="inference", value=0.5, interval=(0.48, 0.52))
        for item in items[1:]
    )


def estimated(cpu: str = "cortex-a72", **changes: Any) -> BenchResult:
    """Counted on an emulated processor: no times at all."""
    estimate = InstructionEstimate(
        cpu=cpu, emulator="qemu-aarch64 7.2", instructions_per_inference=9_297_871,
        instructions_per_stage={"frontend": 1_200_000, "inference": 8_000_000}, spread_share=0.0003, n_counts=3,
        clock_mhz=1500.0, ipc=(1.0, 1.5), latency_ms=(4.1, 6.2),
    )  # fmt: skip
    item = artefact(
        "tflite-int8", stages=(), n_hops=0, timed_s=0.0, rtf_p50=None, rtf_mean=None, rtf_max=None, drift_share=None,
        load=None, turns=(), paced=None, cold_start=None, sound_to_event=None, load_ms=None, first_inference_ms=None,
        energy=None, estimate=estimate,
    )  # fmt: skip
    fields: dict[str, Any] = {
        "kind": "estimated", "run_id": "20261121T130000Z-4567cdef", "environment": environment("a72"),
        "board": None, "not_run": (), "ratios": (),
    }  # fmt: skip
    return result(item, **(fields | changes))


@functools.cache
def planted() -> dict[str, BenchResult]:
    """Reason code -> a run that is quiet but for that one thing. The last artefact is the one that is spoilt."""
    one = {"ratios": (), "not_run": ()}
    wrong = AccuracyCheck(
        passed=False, n_clips=80, n_correct=41, n_correct_on_host=73, n_same=44, clips_sha256="cd" * 32,
        detail="36 clips got another class",
    )  # fmt: skip
    fallback = ENGINE_INFO["litert"] | {"delegate": "none"}
    slow = board(sample(0, "before"), sample(3, throttled_now=("throttled",)))
    crowded = LoadState(cpu_share=0.98, other_busy_cores=1.5, involuntary_switches=9)
    pushed_off = LoadState(cpu_share=0.4, other_busy_cores=0.1, involuntary_switches=400)
    unheard = SoundToEvent(n_sounds=20, n_heard=0, detail="golden vector 2 every 3 s; 20 of them make an event")
    spread = estimated().artefacts[0].estimate
    assert spread is not None
    return {
        "incomplete": result(artefact(), incomplete="the connection to pi4 was lost", **one),
        "parity": result(artefact(parity=ParityCheck(passed=False, n_vectors=3, detail="0.3 logit")), **one),
        "accuracy": result(artefact(accuracy=wrong), **one),
        "too-few-samples": result(artefact(n=400), **one),
        "few-samples": result(artefact(n=250), options=BenchOptions(min_hops=200), **one),
        "provider": result(artefact("tflite-int8", engine_info=fallback), **one),
        "throttled": result(artefact(), board=slow, **one),
        "under-voltage": result(artefact(), board=board(sample(3, throttled_now=("under-voltage",))), **one),
        "clock-moved": result(
            artefact(), board=board(sample(2.5), sample(3.5, frequencies_mhz=(1000.0, 600.0, 600.0, 600.0))), **one
        ),
        "temperature": result(artefact(), board=board(sample(3, temperatures_c={"cpu-thermal": 82.0})), **one),
        "drift": result(artefact(stages=drifting(0.5), drift_share=0.0), **one),
        "other-load": result(artefact(load=crowded), **one),
        "off-cpu": result(artefact(load=pushed_off), **one),
        "overhead": result(artefact(), overhead=Overhead(p50_us=9.0, max_us=40.0, n_hops=2_000), **one),
        "deadline": result(artefact(paced=paced(misses=9)), **one),
        "unheard": result(artefact(sound_to_event=unheard), **one),
        "unwatched": result(artefact(), board=None, **one),
        "spread": estimated(
            artefacts=(
                estimated().artefacts[0].model_copy(
                    update={"estimate": spread.model_copy(update={"spread_share": 0.05})}
                ),
            )
        ),
    }  # fmt: skip
