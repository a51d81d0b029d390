"""Each field that a device derives, and each that says what was run, is held to the samples and to the job."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from edgeaudio.bench.accuracy import AccuracyClips
from edgeaudio.bench.base import BenchJob
from edgeaudio.bench.devices.recompute import check_derived
from edgeaudio.bench.foreign import ForeignModel
from edgeaudio.bench.harness import bench_bundle
from edgeaudio.bench.schema import (
    AccuracyCheck,
    ArtefactResult,
    BenchOptions,
    BenchResult,
    GpuTime,
    Ratio,
    SoundToEvent,
    StageResult,
)
from edgeaudio.bench.stats import summarise
from edgeaudio.bench.subjects import bundle_subjects
from edgeaudio.errors import VerificationError
from tests import bench_records as records
from tests import tiny_bundle as tiny
from tests.tiny_chained import chained_bundle

NAMES = ("onnx-fp32", "onnx-fp32-stateful", "onnx-fp32-exits", "onnx-fp32-stateful-exits")
WAVES = tuple((tiny.noise_band(label, 16_000) * 32767).astype(np.int16) for label in tiny.LABELS)
Change = Callable[[ArtefactResult], ArtefactResult]


@pytest.fixture(scope="module")
def job() -> BenchJob:
    """All forms, a foreign file, clips, a resampler, hops that keep real time."""
    bundle = chained_bundle()
    subjects = [subject for subject in bundle_subjects(bundle) if subject.name in NAMES]
    clips = AccuracyClips("bands", 16_000, tiny.LABELS, WAVES).answered(subjects)
    options = BenchOptions(min_hops=300, min_seconds=0, rounds=2, paced_s=0.2, input_rate_hz=48_000)
    return BenchJob(bundle, NAMES, options=options, foreign=[ForeignModel("a.onnx", tiny.onnx_model())], clips=clips)


@pytest.fixture(scope="module")
def honest(job: BenchJob) -> BenchResult:
    measured = bench_bundle(
        job.bundle, job.artefacts, options=job.options, foreign=job.foreign, clips=job.clips, device="board"
    )
    return BenchResult.parse(measured.model_dump(mode="json"), source="board")


def test_what_was_measured_honestly_is_taken(honest: BenchResult, job: BenchJob) -> None:
    assert [item.form for item in honest.artefacts] == [
        "windowed", "stateful", "exits", "stateful-exits", "foreign",
    ]  # fmt: skip
    assert honest.ratios
    assert all(item.n_hops >= 300 and item.paced for item in honest.artefacts)
    check_derived(honest, job, "board")


def refused(said: str, honest: BenchResult, job: BenchJob, change: Change, name: str = "onnx-fp32") -> None:
    items = tuple(change(item) if item.artefact == name else item for item in honest.artefacts)
    assert items != honest.artefacts
    with pytest.raises(VerificationError, match=f"board: {name}.*{said}"):
        check_derived(honest.model_copy(update={"artefacts": items}), job, "board")


def setting(**changes: Any) -> Change:
    return lambda item: item.model_copy(update=changes)


def of_stage(name: str, change: Callable[[StageResult], StageResult]) -> Change:
    """A change of one stage."""
    return lambda item: item.model_copy(
        update={"stages": tuple(change(stage) if stage.name == name else stage for stage in item.stages)}
    )


def of_summary(name: str, **changes: Any) -> Change:
    """A change of the summary of one stage."""

    def change(stage: StageResult) -> StageResult:
        assert stage.summary is not None
        return stage.model_copy(update={"summary": stage.summary.model_copy(update=changes)})

    return of_stage(name, change)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("form", "stateful"),
        ("engine", "litert"),
        ("precision", "int8"),
        ("size_bytes", 7),
        ("sha256", "ab" * 32),
        ("hop_ms", 400.0),
        ("parity", None),
        ("rtf_p50", 0.0001),
        ("rtf_p50", None),
        ("rtf_mean", -1.0),
        ("rtf_max", 0.0001),
        ("drift_share", 0.0),
        ("accuracy", None),
        ("estimate", records.estimated().artefacts[0].estimate),
    ],
)
def test_a_field_of_an_artefact(field: str, value: Any, honest: BenchResult, job: BenchJob) -> None:
    refused(field, honest, job, setting(**{field: value}))


@pytest.mark.parametrize("statistic", ["p50", "p90", "p95", "p99"])
@pytest.mark.parametrize("field", ["value_us", "upper95_us", "p"])
def test_a_percentile(statistic: str, field: str, honest: BenchResult, job: BenchJob) -> None:
    summary = next(stage.summary for stage in honest.artefacts[0].stages if stage.name == "inference")
    assert summary is not None
    one = getattr(summary, statistic)
    changed = one.model_copy(update={field: getattr(one, field) * 0.9 - (1.5 if field != "p" else 0)})
    refused(rf"inference: {statistic}\.{field}", honest, job, of_summary("inference", **{statistic: changed}))


def test_an_interval(honest: BenchResult, job: BenchJob) -> None:
    refused("interval of 1e-09 to 2e-09 us", honest, job, of_summary("total", p50_interval_us=(1e-9, 2e-9)))
    refused("inference: n ", honest, job, of_summary("inference", n=60_000))
    refused("mean_us", honest, job, of_summary("decision", mean_us=-3.0))
    refused("max_us", honest, job, of_summary("frontend", max_us=1.0))


def test_a_summary_without_samples_and_samples_of_no_hop(honest: BenchResult, job: BenchJob) -> None:
    def without(stage: StageResult) -> StageResult:
        return stage.model_copy(update={"samples_us": ()})

    def one_less(stage: StageResult) -> StageResult:
        return stage.model_copy(update={"samples_us": stage.samples_us[1:]})

    def negative(stage: StageResult) -> StageResult:
        return stage.model_copy(update={"samples_us": (-1, *stage.samples_us[1:])})

    refused("inference: samples is 0", honest, job, of_stage("inference", without))
    refused("total: samples is", honest, job, of_stage("total", one_less))
    refused("less than no time", honest, job, of_stage("decision", negative))
    refused("n_hops|samples", honest, job, setting(n_hops=10_000))
    refused("0 hops with", honest, job, setting(n_hops=0))
    refused("hops with the stages", honest, job, setting(stages=()))


def test_a_total_that_is_not_the_sum_of_its_stages(honest: BenchResult, job: BenchJob) -> None:
    def faster(stage: StageResult) -> StageResult:
        values = tuple(max(0, value - 20) for value in stage.samples_us)
        return stage.model_copy(update={"samples_us": values, "summary": summarise(values)})

    refused("is not the sum", honest, job, of_stage("total", faster))


def test_turns_exits_and_paced_hops(honest: BenchResult, job: BenchJob) -> None:
    refused("hops of turns", honest, job, lambda item: item.model_copy(update={"turns": item.turns[1:]}))
    name = "onnx-fp32-exits"
    exits = next(item for item in honest.artefacts if item.artefact == name).exits
    wrong = exits[0].model_copy(update={"share": exits[0].share / 2 + 0.01})
    refused("share of all exits", honest, job, setting(exits=(wrong, *exits[1:])), name)
    paced = honest.artefacts[0].paced
    assert paced is not None
    for field, value, said in (
        ("deadline_misses", paced.n_hops + 1, "deadline_misses"),
        ("deadline_ms", 1e6, "deadline_ms"),
        ("n_hops", paced.n_hops + 1, "samples"),
    ):
        refused(said, honest, job, setting(paced=paced.model_copy(update={field: value})))


def test_what_a_gpu_was_busy_with(honest: BenchResult, job: BenchJob) -> None:
    n = honest.artefacts[0].n_hops
    exact = np.linspace(10, 20, n)
    rounded = tuple(round(float(value), 1) for value in exact)
    gpu = GpuTime(kernels=summarise(exact), copies=summarise(exact), kernels_us=rounded, copies_us=rounded)
    item = honest.artefacts[0].model_copy(update={"gpu": gpu})
    check_derived(honest.model_copy(update={"artefacts": (item, *honest.artefacts[1:])}), job, "board")
    lying = gpu.model_copy(update={"kernels": summarise(exact / 2)})
    refused("gpu: kernels: mean_us|gpu: kernels: ", honest, job, setting(gpu=lying))
    refused("gpu: copies", honest, job, setting(gpu=gpu.model_copy(update={"copies_us": rounded[1:]})))


def test_accuracy_is_of_the_clips_that_were_given(honest: BenchResult, job: BenchJob) -> None:
    check = honest.artefacts[0].accuracy
    assert check is not None
    for changes, said in (
        ({"n_clips": 80}, "n_clips"),
        ({"clips_sha256": "0" * 64}, "clips_sha256"),
        ({"n_correct": 81}, "more than all"),
    ):
        refused(said, honest, job, setting(accuracy=check.model_copy(update=changes)))
    foreign = AccuracyCheck(**check.model_dump())
    refused("that it was not given", honest, job, setting(accuracy=foreign), "a.onnx")


def test_cold_starts_and_sounds_that_nobody_asked_for(honest: BenchResult, job: BenchJob) -> None:
    cold = records.artefact().cold_start
    assert cold is not None
    refused("to_first_answer_ms: length", honest, job, setting(cold_start=cold))
    heard = records.sound_to_event()
    refused("n_sounds", honest, job, setting(sound_to_event=heard))
    lying = SoundToEvent(n_sounds=0 + 1, n_heard=0, summary=heard.summary, detail="")
    refused("n_sounds", honest, job, setting(sound_to_event=lying))


@pytest.mark.parametrize(
    "changes", [{"value": 1e-3}, {"artefact": "onnx-int8"}, {"baseline": "b.onnx"}, {"stage": "wait"}]
)
def test_a_ratio_is_that_of_the_samples(changes: dict[str, Any], honest: BenchResult, job: BenchJob) -> None:
    ratio: Ratio = honest.ratios[0].model_copy(update=changes)
    with pytest.raises(VerificationError, match="ratio"):
        check_derived(honest.model_copy(update={"ratios": (ratio,)}), job, "board")
