"""Two runs are held against each other only where that means something, and noise is called noise."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeaudio.bench.compare import compare, differences, refuse_invalid
from edgeaudio.bench.metrics import METRICS, share_interval
from edgeaudio.bench.rules import Rule
from edgeaudio.bench.schema import BenchResult, Overhead
from edgeaudio.errors import BenchInvalidError, ConfigError
from edgeaudio.pipeline.report_stats import accuracy_interval
from tests import bench_records as records

RUN = records.result()


CLIPS = RUN.artefacts[0].accuracy
SOUNDS = records.sound_to_event()
assert CLIPS is not None


def slower(share: float, **changes: Any) -> BenchResult:
    return records.result(records.artefact("onnx-int8", scale=1 + share, seed=2), **changes)


def outcome(rule: str, after: BenchResult, before: BenchResult = RUN) -> tuple[bool, str]:
    (found,) = compare(before, after, [Rule.parse(rule)]).outcomes
    return found.failed, found.message


def test_a_run_is_like_itself() -> None:
    same = compare(RUN, RUN, [Rule.parse("latency_ms_p95>+0%"), Rule.parse("accuracy<-0")])
    assert same.differences == same.only_before == same.only_after == same.failures == ()
    assert len(same.outcomes) == 2 * len(RUN.artefacts)
    assert {change.share for item in same.artefacts for change in item.changes if change.share is not None} == {0.0}
    assert [item.artefact for item in same.artefacts] == [item.artefact for item in RUN.artefacts]


def test_every_metric_that_a_run_has_is_compared() -> None:
    for item in compare(RUN, RUN).artefacts:
        assert [change.metric for change in item.changes] == list(METRICS)
        missing = {change.metric.rpartition("_ms_")[0] for change in item.changes if change.share is None}
        assert missing == {"", "resample", "sound_to_event"}  # "": instructions. Of 19 sounds there is no p90.
    counts = records.estimated()
    assert compare(counts, counts).artefacts[0].change("instructions").share == 0


def test_a_rule_that_fails_says_by_how_much() -> None:
    failed, message = outcome("onnx-int8:inference_ms_p50>+5%", slower(0.2))
    assert failed
    assert message == "0.402 to 0.483, +20.1 %"
    assert outcome("onnx-int8:inference_ms_p50>+30%", slower(0.2)) == (False, "0.402 to 0.483, +20.1 %")


def test_what_lies_within_the_noise_is_said_to() -> None:
    nearly = records.result(records.artefact("onnx-int8", seed=77))
    change = compare(RUN, nearly).artefacts[0].change("latency_ms_p50")
    assert change.noise == "within noise"
    assert outcome("onnx-int8:latency_ms_p50>-50%", nearly)[1].endswith(", within noise")
    apart = compare(RUN, slower(0.2)).artefacts[0].change("latency_ms_p50")
    assert apart.noise == "apart"
    back = compare(slower(0.2), RUN).artefacts[0].change("latency_ms_p50")
    assert back.noise == "apart"
    metrics = ("size_bytes", "latency_ms_p95", "latency_ms_max")
    changes = [compare(RUN, nearly).artefacts[0].change(name) for name in metrics]
    # The longest hop of a run says nothing about that of the next one.
    assert [change.noise for change in changes] == ["exact", "within noise", "unknown"]


def test_a_rule_that_cannot_be_checked_has_failed() -> None:
    few = records.result(records.artefact("onnx-int8", n=250), options=RUN.options.model_copy(update={"min_hops": 250}))
    assert outcome("latency_ms_p99>+5%", few) == (True, "cannot be checked: 250 samples, p99 needs 299")
    assert outcome("latency_ms_p99>+5%", RUN, few) == (True, "cannot be checked: 250 samples, p99 needs 299")
    assert outcome("instructions>+2%", few) == (True, "cannot be checked: not measured")
    no_clips = records.result(records.artefact("onnx-int8", accuracy=None))
    assert outcome("accuracy<-0.01", no_clips) == (True, "cannot be checked: not measured")
    in_path = outcome("onnx-int8:resample_ms_p50>1", RUN)
    assert in_path == (True, "cannot be checked: not in path: the input has the model's rate")


def test_counts_of_instructions_are_a_gate() -> None:
    def counted(n: int) -> BenchResult:
        item = records.estimated().artefacts[0]
        assert item.estimate is not None
        estimate = item.estimate.model_copy(update={"instructions_per_inference": n})
        return records.estimated(artefacts=(item.model_copy(update={"estimate": estimate}),))

    before = counted(1_000_000)
    assert outcome("instructions>+2%", counted(1_019_000), before)[0] is False
    assert outcome("instructions>+2%", counted(1_021_000), before)[0] is True
    assert outcome("instructions>+2%", counted(1_000_100), before)[1].endswith("within noise")


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"bundle_sha256": "00" * 32}, "bundle"),
        ({"environment": records.environment("pi5")}, "device pi4 and pi5"),
        ({"board": records.board(model=None, cpu_model="Cortex-A76")}, "board Raspberry Pi 4 Model B Rev 1.4 and Cort"),
        ({"board": None}, "board Raspberry Pi 4 Model B Rev 1.4 and unknown"),
        ({"threads": 4}, "threads 1 and 4"),
        ({"input_rate_hz": 48_000}, "input rate 16000 Hz and 48000 Hz"),
        ({"hop_ms": 200.0}, "hop 40 ms and 200 ms"),
        ({"environment": records.environment(affinity=(0, 1))}, "cores 0 1 2 3 and 0 1"),
        ({"environment": records.environment(nice=-5)}, "priority 0 and -5"),
        ({"options": RUN.options.model_copy(update={"gc_enabled": True})}, "garbage collection off and on"),
        ({"options": RUN.options.model_copy(update={"set_performance": True})}, "governors as found and held at perf"),
    ],
)
def test_unlike_runs_are_refused_until_it_is_allowed(changes: dict[str, Any], word: str) -> None:
    other = records.result(**changes)
    with pytest.raises(ConfigError, match="Say --allow-different") as error:
        compare(RUN, other)
    assert word in str(error.value)
    (difference,) = compare(RUN, other, allow_different=True).differences
    assert word in difference


@pytest.mark.parametrize(
    ("name", "changes", "word"),
    [
        (
            "onnx-int8",
            {"accuracy": CLIPS.model_copy(update={"clips_sha256": "12" * 32})},
            "clips cdcdcdcdcdcd and 12121",
        ),
        ("a.tflite", {"form": "foreign", "sha256": "34" * 32}, "file abababababab and 343434343434 of a.tflite"),
        ("onnx-int8", {"hop_ms": 20.0}, "hop 40 ms and 20 ms of onnx-int8"),
        ("onnx-int8", {"paced": records.paced().model_copy(update={"deadline_ms": 80.0})}, "deadline 40 ms and 80 ms"),
        ("onnx-int8", {"sound_to_event": SOUNDS.model_copy(update={"n_sounds": 40})}, "sounds 20 golden vector 2"),
        (
            "onnx-int8",
            {"sound_to_event": SOUNDS.model_copy(update={"detail": "clips of ESC; 9"})},
            "and 20 clips of ESC",
        ),
    ],
)
def test_artefacts_that_are_unlike_are_refused_too(name: str, changes: dict[str, Any], word: str) -> None:
    form = {"form": changes["form"]} if "form" in changes else {}
    before = records.result(records.artefact(name, **form), records.artefact("onnx-fp32"))
    after = records.result(records.artefact(name, **changes), records.artefact("onnx-fp32"))
    with pytest.raises(ConfigError, match="Say --allow-different") as error:
        compare(before, after)
    assert word in str(error.value)
    (difference,) = compare(before, after, allow_different=True).differences
    assert word in difference


def test_what_only_one_run_has_and_what_a_model_changes_is_no_difference() -> None:
    able = SOUNDS.model_copy(update={"detail": f"{SOUNDS.detail}; 3 of them make an event"})
    for changes in ({"accuracy": None}, {"paced": None}, {"sound_to_event": None}, {"sound_to_event": able}):
        assert differences(RUN, records.result(*(item.model_copy(update=changes) for item in RUN.artefacts))) == ()
    # Of a bundle's own files the bundle says that they are others.
    other = records.result(records.artefact("onnx-int8", sha256="56" * 32))
    assert differences(RUN, other) == ()


def test_of_several_artefacts_the_same_difference_is_said_once() -> None:
    changes = {"accuracy": CLIPS.model_copy(update={"clips_sha256": "12" * 32})}
    other = records.result(*(item.model_copy(update=changes) for item in RUN.artefacts))
    (difference,) = differences(RUN, other)
    assert difference.endswith("of onnx-fp32, onnx-int8, onnx-int8-exits, tflite-int8")


def test_counts_do_not_depend_on_where_a_process_ran() -> None:
    other = records.estimated(environment=records.environment("a72", affinity=(0,), nice=5))
    assert differences(records.estimated(), other) == ()


def test_another_front_end_or_kind_is_another_thing() -> None:
    numpy = RUN.artefacts[1].model_copy(update={"engine_info": RUN.artefacts[1].engine_info | {"frontend": "numpy"}})
    assert differences(RUN, records.result(numpy)) == ("front-end native and numpy",)
    assert "kind measured and estimated" in differences(RUN, records.estimated())


def test_artefacts_of_one_run_only_are_named() -> None:
    found = compare(RUN, records.result(records.artefact("onnx-int8", seed=2), records.artefact("yamnet.tflite")))
    assert found.only_before == ("onnx-fp32", "onnx-int8-exits", "tflite-int8")
    assert found.only_after == ("yamnet.tflite",)
    with pytest.raises(ConfigError, match=r"no artefact in common: .*onnx-fp32 on onnx.* against yamnet"):
        compare(RUN, records.result(records.artefact("yamnet.tflite")))
    with pytest.raises(ConfigError, match=r"rule 'onnx-int4:rtf_p50>1': both runs have no artefact 'onnx-int4'"):
        compare(RUN, RUN, [Rule.parse("onnx-int4:rtf_p50>1")])


@pytest.mark.parametrize("code", [code for code, run in records.planted().items() if run.verdict.level == "invalid"])
def test_an_invalid_run_is_not_compared(code: str) -> None:
    spoilt = records.planted()[code]
    with pytest.raises(BenchInvalidError, match=r"b\.json: these figures must not be used: .*--allow-invalid"):
        refuse_invalid(spoilt, "b.json")


def test_a_suspect_run_is_compared() -> None:
    refuse_invalid(records.result(overhead=Overhead(p50_us=15.0, max_us=20.0, n_hops=2_000)), "b.json")


@given(st.integers(1, 2000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_the_interval_of_a_share_is_wilsons(counts: tuple[int, int]) -> None:
    assert share_interval(*counts) == pytest.approx(accuracy_interval(*counts), abs=1e-9)
