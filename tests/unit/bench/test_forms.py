"""Every form of an artefact is timed beside the others, at its own hop, and is what its name says."""

from __future__ import annotations

from collections.abc import Callable
from typing import Self

import numpy as np
import pytest

from edgeaudio.bench import rounds
from edgeaudio.bench.board import Board, BoardRecord
from edgeaudio.bench.candidate import Candidate
from edgeaudio.bench.counting import count_bundle
from edgeaudio.bench.harness import Progress, bench_bundle
from edgeaudio.bench.schema import ArtefactResult, BenchOptions, BenchResult, Energy
from edgeaudio.bench.subjects import bundle_subjects
from edgeaudio.bundle import Bundle, Golden, bundle_bytes, golden_entry
from edgeaudio.errors import ConfigError
from tests.tiny_bundle import tiny_bundle
from tests.tiny_chained import NAMES, chained_bundle
from tests.tiny_exits import exits_bundle
from tests.tiny_stateful import stateful_bundle

QUICK = BenchOptions(min_hops=40, min_seconds=0, warmup_hops=2, rounds=2)


@pytest.fixture(scope="module")
def result() -> BenchResult:
    return bench_bundle(chained_bundle(), options=QUICK)


def item(result: BenchResult, name: str) -> ArtefactResult:
    return next(item for item in result.artefacts if item.artefact == name)


def test_all_forms_are_timed_at_their_own_hop(result: BenchResult) -> None:
    assert [item.artefact for item in result.artefacts] == list(NAMES)
    assert [item.form for item in result.artefacts] == ["windowed", "stateful", "exits", "stateful-exits"]
    # Four frames of 10 ms are a window's hop, two are a step.
    assert [item.hop_ms for item in result.artefacts] == [40, 20, 40, 20]
    for one in result.artefacts:
        total = one.stage("total")
        assert total is not None
        assert total.summary is not None
        assert one.n_hops == 40
        assert one.rtf_p50 == pytest.approx((total.summary.p50.value_us or 0) / (1e3 * (one.hop_ms or 0)))
        assert one.parity is not None
        assert one.parity.passed


def test_a_form_is_checked_with_all_its_replays(result: BenchResult) -> None:
    details = {item.artefact: (item.parity.detail if item.parity else "").split("; ") for item in result.artefacts}
    # The front-end, then: one; the golden windows and the stream; two stages; both of each stage.
    assert [len(details[name]) for name in NAMES] == [2, 3, 3, 5]
    assert all("passed" in line for lines in details.values() for line in lines)
    assert "onnx-fp32-stage1-stateful, streamed against windows," in details["onnx-fp32-stateful-exits"][-1]


def test_each_exit_has_its_share_and_its_time(result: BenchResult) -> None:
    assert item(result, "onnx-fp32").exits == ()
    assert item(result, "onnx-fp32").catch_up_share is None
    for name in ("onnx-fp32-exits", "onnx-fp32-stateful-exits"):
        shares = item(result, name).exits
        assert [share.exit for share in shares] == [0, 1]
        assert sum(share.share for share in shares) == pytest.approx(1)
        for share in shares:
            assert (share.inference is None) == (share.share == 0)
            assert share.inference is None or share.inference.n == round(40 * share.share)
    assert item(result, "onnx-fp32-exits").catch_up_share is None
    assert item(result, "onnx-fp32-stateful-exits").catch_up_share is not None


def test_stages_that_were_put_off_are_told_as_a_share_of_the_work() -> None:
    def shares(threshold: float | None) -> tuple[list[float], float | None]:
        one = item(bench_bundle(chained_bundle(2, threshold), [NAMES[3]], options=QUICK), NAMES[3])
        return [exit.share for exit in one.exits], one.catch_up_share

    assert shares(0.0) == ([1, 0], 0)
    assert shares(None) == ([0, 1], 0)


def test_ratios_hold_other_forms_against_the_windows_they_stand_for(result: BenchResult) -> None:
    pairs = [(ratio.artefact, ratio.baseline, ratio.stage) for ratio in result.ratios]
    assert pairs == [(name, NAMES[0], stage) for name in NAMES[1:] for stage in ("inference", "total")]
    windowed = np.array(item(result, NAMES[0]).stage("total").samples_us)  # type: ignore[union-attr]
    stateful = np.array(item(result, NAMES[1]).stage("total").samples_us)  # type: ignore[union-attr]
    ratio = result.ratios[1]
    assert ratio.value == pytest.approx(np.median(stateful) / np.median(windowed), rel=0.05)
    assert ratio.interval is not None
    assert ratio.interval[0] <= ratio.value <= ratio.interval[1]


def test_sizes_and_digests_are_those_of_all_files(result: BenchResult) -> None:
    manifest = chained_bundle().manifest
    assert manifest.exits is not None
    assert item(result, NAMES[0]).sha256 == manifest.artefacts[0].sha256
    assert item(result, NAMES[2]).size_bytes == sum(stage.size_bytes for stage in manifest.exits.stages)
    assert len({item.sha256 for item in result.artefacts}) == 4


def test_only_the_wanted_forms_and_engines() -> None:
    def names(bundle: Bundle, engine: str | None, *forms: str) -> list[str]:
        return [subject.name for subject in bundle_subjects(bundle, engine, forms)]  # type: ignore[arg-type]

    assert names(chained_bundle(), None, "exits", "stateful") == ["onnx-fp32-stateful", "onnx-fp32-exits"]
    assert names(stateful_bundle(), "litert", "stateful") == ["tflite-fp32-stateful", "tflite-int8-stateful"]
    assert names(exits_bundle(), "onnx") == ["onnx-fp32", "onnx-int8", "onnx-fp32-exits", "onnx-int8-exits"]
    with pytest.raises(ConfigError, match=r"no artefact in form stateful; it has: windowed$"):
        names(tiny_bundle(), None, "stateful")
    options = QUICK.model_copy(update={"forms": ("exits",)})
    with pytest.raises(ConfigError, match=r"wanted each once of \['onnx-fp32-exits'\]"):
        bench_bundle(chained_bundle(), ["onnx-fp32"], options=options)


def test_a_stage_with_wrong_answers_spoils_its_form_alone() -> None:
    good = chained_bundle()
    logits = dict(good.golden.logits)
    logits["onnx-fp32-stage0"] = logits["onnx-fp32-stage0"] + np.float32(0.5)
    golden = Golden(good.golden.waveform, good.golden.log_mel, logits)
    manifest = good.manifest.model_copy(update={"golden": golden_entry(golden)})
    files = {file.path: good.payload(file) for file in good.manifest.model_files}
    result = bench_bundle(Bundle.read(bundle_bytes(manifest, files, golden)), options=QUICK)
    assert {item.artefact: item.n_hops > 0 for item in result.artefacts} == dict.fromkeys(NAMES, True) | {
        NAMES[2]: False
    }
    assert item(result, NAMES[2]).verdict.level == "invalid"


def test_progress_tells_every_turn() -> None:
    told: list[Progress] = []
    bench_bundle(chained_bundle(), NAMES[:2], options=QUICK, on_progress=told.append)
    assert [(one.stage, one.artefact, one.done, one.total) for one in told] == [
        ("check", None, 0, 1),
        ("check", None, 1, 1),
        ("warm-up", NAMES[0], 0, 2),
        ("warm-up", NAMES[1], 1, 2),
        ("warm-up", None, 2, 2),
        ("timing", NAMES[0], 0, 4),
        ("timing", NAMES[1], 1, 4),
        ("timing", NAMES[1], 2, 4),
        ("timing", NAMES[0], 3, 4),
        ("timing", None, 4, 4),
    ]


def test_what_was_measured_before_ctrl_c_comes_back_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    real, turns = rounds.run_turn, []

    def impatient(candidate: Candidate, hops: int, seconds: float, most: int) -> None:
        turns.append(candidate.name)
        if len(turns) == 4:
            raise KeyboardInterrupt
        real(candidate, hops, seconds, most)

    monkeypatch.setattr(rounds, "run_turn", impatient)
    result = bench_bundle(chained_bundle(), NAMES[:2], options=QUICK)
    assert result.incomplete == "broken off by Ctrl-C"
    assert [item.n_hops for item in result.artefacts] == [20, 40]


def test_a_hop_that_was_broken_off_does_not_count() -> None:
    candidate_options = QUICK.model_copy(update={"min_hops": 3, "rounds": 1})
    seen: list[int] = []
    real = rounds.run_turn

    def half(candidate: Candidate, hops: int, seconds: float, most: int) -> None:
        real(candidate, hops, seconds, most)
        timer, _ = candidate.stream()
        timer.samples_ns["inference"].append(1)
        seen.extend(len(column) for column in timer.columns_us().values())

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rounds, "run_turn", half)
        bench_bundle(chained_bundle(), NAMES[:1], options=candidate_options)
    assert set(seen) == {3}


class Watch:
    """Writes down what it is told."""

    start_s = 0.0

    def __init__(self, told: list[str]) -> None:
        self.told = told

    def __enter__(self) -> Self:
        self.told.append("begin")
        return self

    def __exit__(self, *_: object) -> None:
        self.told.append("end")

    def rest(self, seconds: float) -> None:
        self.told.append(f"rest {seconds:g}")

    def timing(self) -> None:
        self.told.append("timing")

    def energy(self, work: Callable[[], object], seconds: float) -> Energy:
        work()
        work()
        self.told.append(f"energy {seconds:g}")
        return Energy(per_inference_mj=len(self.told))

    def record(self) -> BoardRecord:
        self.told.append("record")
        return BoardRecord(board=Board(model="a board"))


def test_a_board_is_watched_around_all_that_is_timed() -> None:
    told: list[str] = []
    options = QUICK.model_copy(update={"idle_s": 0.5})

    def progress(one: Progress) -> None:
        if one.artefact is None and one.done:
            told.append(one.stage)

    result = bench_bundle(chained_bundle(), options=options, on_progress=progress, board=Watch(told))  # type: ignore[arg-type]
    assert told == ["begin", "rest 0.5", "check", "warm-up", "timing", "timing", *["energy 0.5"] * 4, "end", "record"]
    assert result.board is not None
    assert result.board.board.model == "a board"
    assert [item.energy.per_inference_mj for item in result.artefacts if item.energy] == [7, 8, 9, 10]


def test_counted_hops_say_where_they_were_answered() -> None:
    counted = count_bundle(chained_bundle(), hops=4, options=BenchOptions(forms=("exits", "windowed")), run_id="r")
    shares = {one.artefact: [exit.share for exit in one.exits] for one in counted.result.artefacts}
    assert shares["onnx-fp32"] == []
    assert len(shares["onnx-fp32-exits"]) == 2
    assert sum(shares["onnx-fp32-exits"]) == 1
