"""Figures that must not be used are called so, with the reason; and each check is one that the verdict cannot miss."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from edgeaudio.bench import verdict
from edgeaudio.bench.schema import (
    ArtefactResult,
    BenchOptions,
    BenchResult,
    LoadState,
    Paced,
    Turn,
    Verdict,
    read_result,
    write_result,
)
from edgeaudio.bench.verdict import CHECKS, judge_artefact
from edgeaudio.catalog import ENGINES
from tests import bench_records as records

PLANTED = records.planted()
INVALID = {
    "incomplete",
    "parity",
    "accuracy",
    "too-few-samples",
    "provider",
    "throttled",
    "under-voltage",
    "clock-moved",
}
INVALID |= {"drift", "other-load", "off-cpu"}


def judge(item: ArtefactResult, **changes: Any) -> Verdict:
    """The verdict on `item` alone, on a quiet board unless `changes` say otherwise."""
    return records.result(item, ratios=(), **changes).artefacts[0].verdict


def found(result: Verdict) -> list[tuple[str, str]]:
    return [(reason.code, reason.level) for reason in result.reasons]


def test_a_quiet_run_is_valid() -> None:
    assert records.result().verdict == Verdict(level="valid")
    assert records.estimated().verdict == Verdict(level="valid")
    bare = records.artefact(drift_share=None, load=None, paced=None, accuracy=None, parity=None, turns=())
    assert judge(bare).level == "valid"


def test_there_is_a_planted_record_for_every_check() -> None:
    assert set(PLANTED) == set(CHECKS)


@pytest.mark.parametrize("code", CHECKS)
def test_a_planted_fault_is_caught(code: str) -> None:
    level = "invalid" if code in INVALID else "suspect"
    assert found(PLANTED[code].artefacts[-1].verdict) == [(code, level)]
    assert PLANTED[code].verdict.level == level


@pytest.mark.parametrize("code", CHECKS)
def test_without_its_check_the_planted_fault_would_pass(code: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(CHECKS, code)
    assert judge_artefact(PLANTED[code].artefacts[-1], PLANTED[code]) == Verdict(level="valid")


@pytest.mark.parametrize("code", CHECKS)
def test_a_file_cannot_call_itself_valid(code: str, tmp_path: Path) -> None:
    spoilt = PLANTED[code]
    claims = [item.model_copy(update={"verdict": Verdict(level="valid")}) for item in spoilt.artefacts]
    write_result(spoilt.model_copy(update={"artefacts": tuple(claims)}), tmp_path / "bench.json")
    assert read_result(tmp_path / "bench.json") == spoilt


@pytest.mark.parametrize("code", CHECKS)
def test_every_message_is_a_sentence_without_its_code(code: str) -> None:
    (reason,) = PLANTED[code].artefacts[-1].verdict.reasons
    assert len(reason.message) > 20
    assert not reason.message.endswith(".")


def test_a_record_that_nobody_judged_is_not_valid() -> None:
    fresh = ArtefactResult(
        artefact="onnx-int8", engine="onnx", engine_info={}, precision="int8", size_bytes=1, sha256="", parity=None,
        n_hops=0, timed_s=0,
    )  # fmt: skip
    assert found(fresh.verdict) == [("not-judged", "invalid")]


def test_nothing_run_is_invalid() -> None:
    def empty(**changes: Any) -> BenchResult:
        return records.result().model_copy(update={"artefacts": (), **changes})

    assert found(empty().verdict) == [("incomplete", "invalid")]
    assert empty(incomplete="the board went away").verdict.reasons[0].message == "the board went away"


@pytest.mark.parametrize(
    ("share", "level"),
    [(0.0999, "valid"), (0.1001, "suspect"), (-0.11, "suspect"), (0.31, "invalid"), (-0.31, "invalid")],
)
def test_drift(share: float, level: str) -> None:
    assert judge(records.artefact(stages=records.drifting(share))).level == level
    no_samples = [stage.model_copy(update={"samples_us": ()}) for stage in records.stages()]
    assert judge(records.artefact(stages=tuple(no_samples), drift_share=share)).level == level


def test_samples_are_believed_and_what_a_record_says_of_them_is_not() -> None:
    assert judge(records.artefact(drift_share=0.9)).level == "valid"
    assert found(judge(records.artefact(stages=records.drifting(4.0), drift_share=0.0))) == [("drift", "invalid")]
    total = records.stages()[-1].model_copy(update={"samples_us": (600,) * 20})
    few = records.artefact(stages=(*records.stages()[:-1], total))
    assert found(judge(few)) == [("too-few-samples", "invalid")]


@pytest.mark.parametrize(
    ("cpu_share", "other_busy_cores", "level"),
    [
        (0.9, 0.25, "valid"),
        (0.99, None, "valid"),
        (0.99, 0.26, "suspect"),
        (0.99, 1.1, "invalid"),
        (0.89, 0.0, "suspect"),
        (0.49, 0.0, "invalid"),
    ],
)
def test_load(cpu_share: float, other_busy_cores: float | None, level: str) -> None:
    load = LoadState(cpu_share=cpu_share, other_busy_cores=other_busy_cores, involuntary_switches=0)
    assert judge(records.artefact(load=load)).level == level


def test_others_disturb_a_paced_run_too() -> None:
    busy = LoadState(cpu_share=0.03, other_busy_cores=0.4, involuntary_switches=1)
    paced: Paced = records.paced().model_copy(update={"load": busy})
    assert found(judge(records.artefact(paced=paced))) == [("other-load", "suspect")]


NO_FIGURES: dict[str, Any] = {"paced": None, "cold_start": None, "sound_to_event": None, "energy": None}


@pytest.mark.parametrize("figure", NO_FIGURES)
@pytest.mark.parametrize(("cores", "level"), [(0.2, "valid"), (0.3, "suspect"), (4.0, "invalid")])
def test_the_watch_tells_who_disturbed_what_came_after_the_turns(figure: str, cores: float, level: str) -> None:
    samples = [records.sample(t, other_busy_cores=0.0 if t < 7 else cores) for t in range(12)]
    item = records.artefact(**{name: None for name in NO_FIGURES if name != figure})
    assert judge(item, board=records.board(*samples)).level == level
    # Nothing was measured then: the turns have their own count.
    assert judge(records.artefact(**NO_FIGURES), board=records.board(*samples)).level == "valid"


def test_a_moment_of_others_after_the_turns_counts_by_its_length() -> None:
    blip = [records.sample(t, temperatures_c={}, other_busy_cores=2.0 if t == 10 else 0.0) for t in range(27)]
    assert judge(records.artefact(), board=records.board(*blip)).level == "valid"
    slow = (*(records.sample(t, other_busy_cores=0.0) for t in range(8)), records.sample(15, other_busy_cores=2.0))
    assert found(judge(records.artefact(), board=records.board(*slow))) == [("other-load", "invalid")]
    later = (records.sample(8), records.sample(9, "after", other_busy_cores=4.0))
    assert judge(records.artefact(), board=records.board(*later)).level == "valid"


def test_a_watch_without_a_sample_while_hops_were_timed_is_none() -> None:
    board = records.board(records.sample(0, "before"), records.sample(9, "after"))
    assert found(judge(records.artefact(), board=board)) == [("unwatched", "suspect")]


def test_one_sound_that_is_heard_is_enough_to_say_how_fast() -> None:
    some = records.sound_to_event().model_copy(update={"n_heard": 1})
    assert judge(records.artefact(sound_to_event=some)).level == "valid"
    all_that_can = some.model_copy(update={"n_able": 1})
    assert judge(records.artefact(sound_to_event=all_that_can)).level == "valid"


def test_a_live_stream_that_loses_an_event_is_suspect() -> None:
    lost = records.sound_to_event().model_copy(update={"n_heard": 19, "n_able": 20})
    [reason] = judge(records.artefact(sound_to_event=lost)).reasons
    assert (reason.code, reason.level) == ("unheard", "suspect")
    assert reason.message == "19 marked sounds gave an event, without a clock 20 do"


def test_where_others_do_the_work_the_share_of_the_measuring_thread_says_nothing() -> None:
    item = records.artefact(load=LoadState(cpu_share=0.3, other_busy_cores=0.0, involuntary_switches=0))
    assert judge(item).level == "invalid"
    assert judge(item, threads=2).level == "valid"
    assert judge(item.model_copy(update={"engine_info": item.engine_info | {"gpu": "Orin"}})).level == "valid"


def test_both_minimums_hold() -> None:
    short = records.artefact(timed_s=1.0)
    assert found(judge(short)) == [("too-few-samples", "invalid")]
    assert judge(short, options=BenchOptions(min_seconds=1.0)).level == "valid"
    # Five hops carry a median; fewer carry nothing, whatever was asked for.
    few = records.artefact(n=4, drift_share=None)
    assert found(judge(few, options=BenchOptions(min_hops=1))) == [("too-few-samples", "invalid")]
    assert found(judge(records.artefact(n=298), options=BenchOptions(min_hops=1))) == [("few-samples", "suspect")]
    assert judge(records.artefact(n=299), options=BenchOptions(min_hops=1)).level == "valid"


def test_an_artefact_that_was_not_timed_says_so() -> None:
    item = records.artefact(stages=(), n_hops=0, engine_info={}, drift_share=None, load=None, paced=None)
    assert found(judge(item)) == [("too-few-samples", "invalid")]
    estimated = records.estimated().artefacts[0].model_copy(update={"estimate": None})
    assert found(records.estimated(artefacts=(estimated,)).verdict) == [("too-few-samples", "invalid")]


@pytest.mark.parametrize(
    ("name", "info", "level"),
    [
        ("onnx-int8", {"provider": "CUDAExecutionProvider"}, "invalid"),
        ("onnx-int8", {}, "suspect"),
        ("tflite-int8", {"delegate": "xnnpack, 31 of 31 nodes"}, "valid"),
        ("tflite-int8", {"delegate": "library default"}, "suspect"),
        ("tflite-int8", {"delegate": "none"}, "invalid"),
        ("tflite-int8", {"delegate": "XNNPACK; none"}, "invalid"),
        ("onnx-int8", {"provider": "CPUExecutionProvider, AzureExecutionProvider"}, "valid"),
    ],
)
def test_a_provider_that_is_absent_or_unknown(name: str, info: dict[str, str], level: str) -> None:
    assert judge(records.artefact(name, engine_info={"library": "x"} | info)).level == level


def test_an_engine_that_nobody_knows_or_that_tells_nothing_is_suspect() -> None:
    unknown = judge(records.artefact(engine="other", engine_info={"library": "x"}))
    assert found(unknown) == [("provider", "suspect")]
    assert "'other'" in unknown.reasons[0].message
    assert found(judge(records.artefact(engine_info={}))) == [("provider", "suspect")]
    silent = records.estimated().artefacts[0].model_copy(update={"engine_info": {}})
    assert found(records.estimated(artefacts=(silent,)).verdict) == [("provider", "suspect")]


def test_every_engine_of_the_catalogue_is_asked_what_took_the_graph() -> None:
    assert set(verdict.WANTED_PROVIDERS) == set(ENGINES)


@pytest.mark.parametrize(
    ("before", "after", "codes"),
    [
        (("throttled",), ("throttled",), []),
        ((), ("throttled",), ["throttled"]),
        (("throttled",), ("throttled", "under-voltage"), ["under-voltage"]),
        (None, None, []),
        ((), ("frequency-capped", "under-voltage"), ["throttled", "under-voltage"]),
    ],
)
def test_what_throttled_since_boot_counts_only_where_it_is_new(
    before: tuple[str, ...] | None, after: tuple[str, ...] | None, codes: list[str]
) -> None:
    samples = (
        records.sample(0, "before", throttled_since_boot=before),
        records.sample(3),
        records.sample(9, "after", throttled_since_boot=after),
    )
    if before is None:
        samples = tuple(s.model_copy(update={"throttled_since_boot": None, "throttled_now": None}) for s in samples)
    assert [code for code, _ in found(judge(records.artefact(), board=records.board(*samples)))] == codes


def test_only_the_fastest_core_and_the_turns_count_for_the_clock() -> None:
    resting = records.sample(3.95, frequencies_mhz=(600.0,) * 4)
    moved = records.board(records.sample(2.5), resting)
    assert judge(records.artefact(), board=moved).level == "valid"  # Between two turns.
    assert judge(records.artefact(turns=()), board=moved).level == "invalid"
    others = records.board(
        records.sample(2.5, frequencies_mhz=(1800.0, 600.0)), records.sample(3.5, frequencies_mhz=(1800.0, 1800.0))
    )
    assert judge(records.artefact(), board=others).level == "valid"
    options = BenchOptions(affinity=(1,))
    assert found(judge(records.artefact(), board=others, options=options)) == [("clock-moved", "invalid")]
    slightly = records.board(records.sample(2.5), records.sample(3.5, frequencies_mhz=(1700.0,)))
    assert found(judge(records.artefact(), board=slightly)) == [("clock-moved", "suspect")]


def test_a_core_that_the_board_did_not_tell_of_is_passed_over() -> None:
    board = records.board(
        records.sample(2.5, frequencies_mhz=(1800.0,)), records.sample(3.5, frequencies_mhz=(1800.0,))
    )
    assert judge(records.artefact(), board=board, options=BenchOptions(affinity=(7,))).level == "valid"


def test_heat_is_judged_by_the_board() -> None:
    hot = (records.sample(3, temperatures_c={"cpu-thermal": 85.0}),)
    assert judge(records.artefact(), board=records.board(*hot)).level == "suspect"
    assert judge(records.artefact(), board=records.board(*hot, kind="jetson")).level == "valid"
    hotter = records.board(records.sample(3, temperatures_c={"CPU-therm": 96.0}), kind="jetson")
    assert found(judge(records.artefact(), board=hotter)) == [("temperature", "suspect")]


def test_the_worst_reason_decides_and_all_are_kept() -> None:
    load = LoadState(cpu_share=0.1, other_busy_cores=0.5, involuntary_switches=0)
    result = judge(records.artefact(stages=records.drifting(0.2), load=load))
    assert result.level == "invalid"
    assert [code for code, _ in found(result)] == ["drift", "other-load", "off-cpu"]


def test_the_verdict_on_a_run_names_the_artefact_of_each_reason() -> None:
    run = records.result(records.artefact("onnx-fp32"), records.artefact("onnx-int8", stages=records.drifting(0.2)))
    assert run.verdict.level == "suspect"
    assert [reason.message.partition(":")[0] for reason in run.verdict.reasons] == ["onnx-int8"]


def test_turns_that_hold_no_sample_leave_the_clock_unknown() -> None:
    moved = records.board(records.sample(2.5), records.sample(3.5, frequencies_mhz=(600.0,)))
    item = records.artefact(turns=(Turn(start_s=50.0, end_s=51.0, n_hops=600),))
    assert judge(item, board=moved).level == "valid"


def test_where_its_own_turns_hold_too_few_clocks_those_of_all_count() -> None:
    moved = records.board(records.sample(2.5), records.sample(10.5, frequencies_mhz=(1000.0,)))
    other = records.artefact("onnx-fp32", turns=(Turn(start_s=10.0, end_s=11.0, n_hops=600),))
    for items in ((records.artefact(), other), (other, records.artefact())):
        run = records.result(*items, ratios=(), board=moved)
        assert [found(item.verdict) for item in run.artefacts] == [[("clock-moved", "invalid")]] * 2
    own = records.board(records.sample(2.5), records.sample(3.5), records.sample(10.5, frequencies_mhz=(1000.0,)))
    assert records.result(records.artefact(), other, ratios=(), board=own).artefacts[0].verdict.level == "valid"


def test_limits_that_come_in_pairs_are_in_order() -> None:
    assert verdict.SUSPECT_DRIFT_SHARE < verdict.INVALID_DRIFT_SHARE
    assert verdict.SUSPECT_OTHER_CORES < verdict.INVALID_OTHER_CORES
    assert verdict.SUSPECT_CPU_SHARE > verdict.INVALID_CPU_SHARE
    assert verdict.SUSPECT_CLOCK_SHARE < verdict.INVALID_CLOCK_SHARE
