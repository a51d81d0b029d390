"""The report shows what there is, says what there is not, and cannot be made to run anything."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from edgeaudio.bench.harness import run_bench
from edgeaudio.bench.schema import BenchOptions, BenchResult, Verdict
from edgeaudio.errors import ConfigError, ShapeError
from edgeaudio.pipeline.report import (
    Confusion,
    FrontendExample,
    LabelStoreInfo,
    LearningCurve,
    ModelResult,
    PairedComparison,
    ReportData,
    Score,
    accuracy_interval,
    render_report,
    write_report,
)
from edgeaudio.pipeline.report_stats import mcnemar_exact_p, paired_difference_interval
from edgeaudio.pipeline.report_view import (
    DENSE_CLASSES,
    accuracy_axis,
    confusion_view,
    model_rows,
    paired_views,
    tiles,
)
from edgeaudio.report.latency import latency_rows
from edgeaudio.spec import LabelSet, TaskSpec
from tests import tiny_bundle as tiny
from tests.html_page import Page

LEVELS = ("valid", "suspect", "invalid")
EVIL = "<script>alert('x')</script> & \"$\\frac"


@pytest.fixture(scope="module")
def bench() -> BenchResult:
    options = BenchOptions(min_hops=60, min_seconds=0, warmup_hops=0, rounds=1)
    return run_bench(tiny.tiny_bundle("onnx-fp32"), "onnx", "fp32", options=options)


def curve(arm: str, fold: str | None, n: int = 30) -> LearningCurve:
    steps = np.arange(n, dtype=np.float64)
    return LearningCurve(arm, fold, {"train_loss": (steps, 2 - steps / n), "val_accuracy": (steps[::10], steps[::10])})


@pytest.fixture(scope="module")
def full(bench: BenchResult) -> ReportData:
    names = ("dog", EVIL)
    manifest = tiny.tiny_bundle("onnx-fp32").manifest
    return ReportData(
        title=f"Title {EVIL}",
        subtitle=EVIL,
        models=(
            ModelResult("mn04", "teacher", (Score(76, 80, "1"), Score(75, 80, "2")), params=1_000_000),
            ModelResult(f"student {EVIL}", "student", (Score(70, 80, "1"), Score(71, 80, "2")), params=20_000),
            ModelResult("onnx-fp32", "artefact", (Score(141, 160),), size_bytes=9_000, artefact="onnx-fp32"),
        ),
        curves=(curve(f"distilled {EVIL}", "1"), curve(f"distilled {EVIL}", "2"), curve("labels only", None)),
        confusion=Confusion(EVIL, names, np.array([[9, 1], [3, 7]])),
        comparisons=(PairedComparison(EVIL, "labels only", 100, 20, 5, 10),),
        bench=bench,
        frontend_example=FrontendExample(
            EVIL, np.zeros(16_000, np.float32), 16_000, np.zeros((98, 64), np.float32), 0.01
        ),
        label_store=LabelStoreInfo(EVIL, 10, skipped=((f"{EVIL}.wav", EVIL),)),
        recipe_text=f"name: {EVIL}",
        manifest=manifest.model_copy(update={"task": TaskSpec(labels=LabelSet(names=names))}),
        environment={EVIL: EVIL},
        not_on_hardware=(EVIL,),
        notes=(EVIL,),
    )


def test_a_hostile_label_stays_text_everywhere(full: ReportData) -> None:
    html = render_report(full)
    assert "script" not in Page(html).tags
    assert html.count("&lt;script&gt;") > 15
    assert "<script" not in html
    assert not [name for _, name, _ in Page(html).attributes if name.startswith("on")]


def test_the_page_asks_for_nothing(full: ReportData) -> None:
    html = render_report(full)
    page = Page(html)
    targets = page.values("src", "href", "xlink:href", "action", "srcset")
    assert targets
    assert all(target.startswith(("#", "data:image/png;base64,")) for target in targets)
    assert all(target.startswith("#") for target in re.findall(r"url\(([^)]*)\)", html))
    assert "@import" not in html
    assert not {"link", "iframe", "object", "embed", "base", "form"} & set(page.tags)
    assert "default-src 'none'" in html


def test_ids_are_unique_and_links_lead_somewhere(full: ReportData) -> None:
    page = Page(render_report(full))
    ids = page.values("id")
    assert len(set(ids)) == len(ids)
    local = [target[1:] for target in page.values("href", "xlink:href") if target.startswith("#")]
    assert set(local) <= set(ids)


def test_a_missing_section_is_stated(full: ReportData) -> None:
    headings = Page(render_report(ReportData(title="Empty"))).headings
    sections = Page(render_report(full)).headings
    assert len(headings) == len(sections) == 12
    absent = [text for text in headings if text.endswith((": not run", ": not recorded"))]
    assert len(absent) == 11
    assert headings[-1] == sections[-1] == "Limits of these figures"
    assert not [text for text in sections if ": not" in text]


@pytest.mark.parametrize(
    ("change", "heading"),
    [
        ({"bench": None}, "Latency: not run"),
        ({"curves": ()}, "Learning curves: not run"),
        ({"confusion": None}, "Confusion matrix: not run"),
        ({"comparisons": ()}, "Paired test: not run"),
        ({"label_store": None}, "Teacher labels: not run"),
        ({"manifest": None}, "Lineage: not recorded"),
    ],
)
def test_one_missing_stage_leaves_the_rest(full: ReportData, change: dict[str, None], heading: str) -> None:
    headings = Page(render_report(replace(full, **change))).headings  # type: ignore[arg-type]
    assert [text for text in headings if ": not" in text] == [heading]


def test_equal_data_give_equal_pages(full: ReportData) -> None:
    assert render_report(full) == render_report(full)


def test_a_large_run_stays_below_2_mb(full: ReportData, bench: BenchResult, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    labels = tuple(f"class number {i}" for i in range(50))
    (item,) = bench.artefacts
    total = item.stages[-1].model_copy(update={"samples_us": tuple(rng.integers(500, 900, 20_000).tolist())})
    many = tuple(
        item.model_copy(update={"artefact": f"onnx-{i}", "stages": (*item.stages[:-1], total)}) for i in range(4)
    )
    noise = rng.standard_normal((10, 5_000))
    steps = np.arange(5_000.0)
    data = replace(
        full,
        curves=tuple(
            LearningCurve(f"arm {i % 2}", str(i), dict.fromkeys("abcdef", (steps, noise[i]))) for i in range(10)
        ),
        confusion=Confusion("student", labels, rng.integers(0, 40, (50, 50))),
        bench=bench.model_copy(update={"artefacts": many}),
        label_store=LabelStoreInfo("mn04", 9, skipped=tuple((f"{i}.wav", "empty") for i in range(5_000))),
        frontend_example=FrontendExample(
            "dog", rng.uniform(-1, 1, 480_000).astype(np.float32), 16_000, rng.random((2998, 64), np.float32), 0.01
        ),
    )
    out = tmp_path / "report.html"
    write_report(data, out)
    assert 100_000 < out.stat().st_size < 2_000_000
    assert "and 4950 more" in out.read_text(encoding="utf-8")


def test_figures_of_the_bench_reach_their_artefact_row(full: ReportData, bench: BenchResult) -> None:
    total = bench.artefacts[0].stage("total")
    assert total is not None
    assert total.summary is not None
    assert total.summary.p50.value_us is not None
    item = bench.artefacts[0].model_copy(
        update={"verdict": bench.artefacts[0].verdict.model_copy(update={"level": "valid"})}
    )
    html = render_report(replace(full, bench=bench.model_copy(update={"artefacts": (item,)})))
    assert html.count(f"{total.summary.p50.value_us / 1e3:.3f} ms") >= 2
    assert "60 samples, p99 needs 299" in html


def test_an_invalid_timing_is_no_headline(full: ReportData, bench: BenchResult) -> None:
    def with_level(level: str) -> ReportData:
        verdict = bench.artefacts[0].verdict.model_copy(update={"level": level})
        item = bench.artefacts[0].model_copy(update={"verdict": verdict})
        return replace(full, bench=bench.model_copy(update={"artefacts": (item,)}))

    details = {level: {tile.label: tile.detail for tile in tiles(with_level(level))} for level in LEVELS}
    assert "suspect" not in details["valid"]["median per hop"]
    assert details["suspect"]["median per hop"].endswith("; suspect, see Latency")
    assert "median per hop" not in details["invalid"]
    rows = {level: model_rows(with_level(level))[0][-1] for level in LEVELS}
    assert [rows[level].verdict for level in LEVELS] == list(LEVELS)
    assert rows["suspect"].p50.endswith(" ms")
    assert (rows["invalid"].p50, rows["invalid"].p95, rows["invalid"].rtf) == ("–", "–", "–")


def test_a_shorter_hop_and_a_foreign_file_are_no_headline_but_have_their_rows(
    full: ReportData, bench: BenchResult
) -> None:
    verdict = Verdict.of(())
    windowed = bench.artefacts[0].model_copy(update={"verdict": verdict})
    stages = tuple(stage for stage in windowed.stages if stage.name == "total")
    half = {"hop_ms": bench.hop_ms / 2, "form": "stateful", "artefact": "onnx-fp32-stateful", "stages": stages}
    stepped = windowed.model_copy(update=half)
    foreign = windowed.model_copy(update={"form": "foreign", "artefact": "yamnet.tflite", "load_ms": None})
    mixed = bench.model_copy(update={"artefacts": (foreign, stepped, windowed)})
    (tile,) = (tile for tile in tiles(replace(full, bench=mixed)) if tile.label == "median per hop")
    assert tile.detail.startswith(f"{windowed.artefact}, ")
    rows = {row.artefact: row for row in latency_rows(mixed)}
    assert rows["onnx-fp32-stateful"].engine.endswith(f", every {bench.hop_ms / 2:g} ms")
    assert "every" not in rows[windowed.artefact].engine
    assert rows["yamnet.tflite"].load == "–"


def test_accuracy_intervals_match_published_values() -> None:
    # Newcombe (1998), table I: 81 of 263.
    assert accuracy_interval(81, 263) == pytest.approx((0.2553, 0.3662), abs=5e-5)
    assert accuracy_interval(81, 263, method="exact") == pytest.approx((0.2527, 0.3676), abs=5e-5)
    assert accuracy_interval(0, 20)[0] == 0
    assert accuracy_interval(20, 20)[1] == 1


@pytest.mark.parametrize(("n_correct", "n"), [(1, 0), (-1, 5), (6, 5)])
def test_impossible_counts_are_refused(n_correct: int, n: int) -> None:
    with pytest.raises(ConfigError, match="wanted 0 <= right"):
        accuracy_interval(n_correct, n)
    with pytest.raises(ConfigError, match="wanted 0 <= right"):
        Score(n_correct, n)


def test_mcnemar_is_the_binomial_tail() -> None:
    assert mcnemar_exact_p(0, 5) == pytest.approx(2 / 32)
    assert mcnemar_exact_p(10, 2) == pytest.approx(2 * (1 + 12 + 66) / 4096)
    assert mcnemar_exact_p(4, 4) == 1.0
    assert mcnemar_exact_p(0, 0) == 1.0
    with pytest.raises(ConfigError, match="negative"):
        mcnemar_exact_p(-1, 2)


def test_the_paired_interval_turns_with_the_models_and_holds_the_difference() -> None:
    low, high = paired_difference_interval(28, 11, 400)
    assert low < 17 / 400 < high
    assert paired_difference_interval(11, 28, 400) == pytest.approx((-high, -low))
    with pytest.raises(ConfigError, match="do not fit"):
        paired_difference_interval(3, 3, 5)


def test_a_comparison_counts_clips_and_claims_no_more_than_its_p() -> None:
    a = np.array([True] * 30 + [False] * 10)
    b = np.array([True] * 10 + [False] * 20 + [True] * 1 + [False] * 9)
    pair = PairedComparison.from_correct("a", "b", a, b)
    assert (pair.both, pair.only_a, pair.only_b, pair.neither, pair.n) == (10, 20, 1, 9, 40)
    close = replace(pair, only_a=3)
    sentences = [view.sentence for view in paired_views((pair, close))]
    assert sentences[0].startswith("a is better")
    assert "do not tell a and b apart" in sentences[1]
    with pytest.raises(ShapeError, match="paired comparison"):
        PairedComparison.from_correct("a", "b", a, b[1:])


def test_confused_pairs_come_most_frequent_first() -> None:
    counts = np.array([[5, 0, 1], [3, 2, 0], [0, 0, 0]])
    view = confusion_view(Confusion("m", ("a", "b", "c"), counts))
    assert view.pairs == (("b", "a", 3, 5), ("a", "c", 1, 6))
    assert [right for _, right, _ in view.rows] == ["83 %", "40 %", "–"]
    assert not view.dense
    many = tuple(str(i) for i in range(DENSE_CLASSES + 1))
    assert confusion_view(Confusion("m", many, np.eye(len(many), dtype=np.int64))).dense
    with pytest.raises(ShapeError, match="confusion counts"):
        Confusion("m", ("a", "b"), counts)


def test_the_accuracy_axis_holds_every_interval_up_to_100_percent() -> None:
    models = (ModelResult("a", "student", (Score(43, 80),)), ModelResult("b", "teacher", (Score(80, 80),)))
    axis = accuracy_axis(models)
    assert axis.first == pytest.approx(0.4)
    assert axis.place(accuracy_interval(43, 80)[0]) > 0
    assert axis.ticks[-1] == (100.0, "100")
    assert axis.ticks[0][1] == "40"


def test_folds_are_pooled_by_their_clips() -> None:
    model = ModelResult("m", "student", (Score(10, 10, "1"), Score(0, 30, "2")))
    assert model.pooled == Score(10, 40)
    assert ModelResult("m", "student", (Score(9, 10, "1"), Score(7, 8))).pooled == Score(7, 8)
    assert ModelResult("m", "student").pooled is None


def test_a_training_log_is_read_with_its_blanks(tmp_path: Path) -> None:
    path = tmp_path / "metrics.csv"
    path.write_text("epoch,step,train_loss,val_loss\n0,20,0.5,\n0,9,1.5,\n0,20,,0.75\n0,30,nan,\n")
    read = LearningCurve.from_csv(path, arm="distilled", fold="1")
    assert {name: (s.tolist(), v.tolist()) for name, (s, v) in read.series.items()} == {
        "train_loss": ([9, 20], [1.5, 0.5]),
        "val_loss": ([20], [0.75]),
    }


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("epoch,loss\n0,1\n", "no column 'step'"),
        ("step,loss\n1,high\n", r"metrics\.csv:2: .*'high'"),
        ("step,loss\nx,1\n", r"metrics\.csv:2"),
    ],
)
def test_a_broken_training_log_names_file_and_line(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "metrics.csv"
    path.write_text(text)
    with pytest.raises(ConfigError, match=message):
        LearningCurve.from_csv(path, arm="a")
    with pytest.raises(ConfigError, match="not a readable training log"):
        LearningCurve.from_csv(tmp_path / "none.csv", arm="a")


def test_a_run_of_one_step_and_one_clip_still_draws() -> None:
    one = np.array([1.0])
    html = render_report(
        ReportData(
            title="One",
            models=(ModelResult("m", "student", (Score(1, 1),)),),
            curves=(LearningCurve("a", None, {"val_loss": (one, one)}),),
            confusion=Confusion("m", ("only",), np.array([[1]])),
            comparisons=(PairedComparison("a", "b", 0, 0, 0, 0),),
        )
    )
    assert "No clip was mistaken" in html
    assert "Paired test: not run" in html
