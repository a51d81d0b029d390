"""Every step of the chain is held against the right one before it, and the page shows nothing that was not run."""

from __future__ import annotations

import re
from typing import Any

import pytest

from edgeaudio.errors import ShapeError, WorkDirError
from edgeaudio.pipeline.report import ModelResult, ReportData, Score, render_report
from edgeaudio.pipeline.report_build import _comparisons, _models
from edgeaudio.pipeline.report_chain import ChainView, Figure, StepView, chain_result, chain_view, sized_results
from edgeaudio.pipeline.report_data import ChainResult, ChainRow
from edgeaudio.pipeline.report_stats import mcnemar_exact_p
from edgeaudio.pipeline.report_view import p_value
from edgeaudio.pipeline.summary import ArmResult, ArtefactResult, ChainStep, ExitResult, FoldResult, RunSummary

#: Two folds of four clips: dogs first, then rain.
LABELS = ((0,), (0,), (1,), (1,))
ALL = (0, 0, 1, 1)
RIVAL = "int8 without more training"


def artefact(name: str, tops: tuple[int, ...], size_bytes: int | None = None) -> ArtefactResult:
    return ArtefactResult(name=name, n_correct=n_right(tops), size_bytes=size_bytes)


def n_right(tops: tuple[int, ...], labels: tuple[tuple[int, ...], ...] = LABELS) -> int:
    return sum(top in row for top, row in zip(tops, labels, strict=True))


def step(name: str, tops: tuple[int, ...], params: int, macs: int, size_bytes: int | None = None) -> ChainStep:
    return ChainStep(
        name=name,
        params=params,
        macs_per_window=macs,
        size_bytes=size_bytes,
        n_correct=n_right(tops),
        predictions=tops,
    )


def exits(tops: tuple[int, ...], mean_macs: float) -> ExitResult:
    return ExitResult(
        name="onnx-int8",
        thresholds=(0.5, None),
        share=(0.5, 0.5),
        mean_macs=mean_macs,
        worst_case_macs=210_000,
        size_bytes=6_600,
        n_correct=n_right(tops),
        predictions=tops,
    )


def arm(name: str = "distilled", *, mean_macs: float = 100_000, **changes: Any) -> ArmResult:
    """Trained: 4 right; cut: 2; shipped: 3; int8: 2, of which one is a clip that float gets wrong; exits: 3."""
    torch, int8 = (0, 0, 1, 0), (0, 1, 0, 1)
    fields: dict[str, Any] = {
        "arm": name,
        "artefacts": (
            artefact("torch-fp32", torch),
            artefact("onnx-fp32", torch, 20_000),
            artefact("onnx-int8", int8, 6_000),
        ),
        "predictions": {"torch-fp32": torch, "onnx-fp32": torch, "onnx-int8": int8},
        "train_wall_s": 1.0,
        "bundle": "x.eab",
        "params": 4_000,
        "macs_per_window": 200_000,
        "chain": (
            step("trained", ALL, 8_000, 400_000),
            step("without-exits", (0, 1, 1, 0), 4_000, 200_000),
            step(RIVAL, (0, 0, 0, 0), 4_000, 200_000, 6_000),
        ),
        "exits": (exits((0, 1, 1, 1), mean_macs),),
    }
    return ArmResult(**(fields | changes))


def fold(number: int, *arms: ArmResult, **changes: Any) -> FoldResult:
    fields: dict[str, Any] = {
        "fold": number,
        "n_clips": 4,
        "clips": ("a", "b", "c", "d"),
        "labels": LABELS,
        "teacher_correct": 3,
        "teacher_predictions": (0, 0, 1, 0),
        "arms": arms or (arm(),),
    }
    return FoldResult(**(fields | changes))


def summary(*folds: FoldResult) -> RunSummary:
    return RunSummary(
        name="kitchen",
        seed=0,
        recipe_digest="",
        teacher="mn04",
        labels=("dog", "rain", "never heard"),
        params=8_000,
        macs_per_window=400_000,
        receptive_field_frames=9,
        folds=folds or (fold(1), fold(2, arm(mean_macs=60_000, params=3_900))),
        paired=None,
        stage_wall_s={},
        skipped=(),
    )


def view(given: RunSummary | None = None) -> ChainView:
    chain = chain_result(given or summary())
    assert chain is not None
    return chain_view(chain)


@pytest.fixture(scope="module")
def steps() -> dict[str, StepView]:
    return {row.name: row for row in view().steps}


def test_the_steps_come_in_the_order_of_the_chain_each_against_its_own_origin(steps: dict[str, StepView]) -> None:
    assert [(name, row.against) for name, row in steps.items()] == [
        ("teacher mn04", ""),
        ("trained, before cuts", "teacher mn04"),
        ("without exit heads", "trained, before cuts"),
        ("shipped network, float", "without exit heads"),
        (RIVAL, "shipped network, float"),
        ("onnx-int8", "shipped network, float"),
        ("onnx-int8 with exits", "onnx-int8"),
    ]


def test_clips_are_counted_over_folds_and_paired_clip_by_clip(steps: dict[str, StepView]) -> None:
    counted = {name: (row.right, row.change, row.flips, row.trend) for name, row in steps.items()}
    assert counted == {
        "teacher mn04": ("6 of 8", "–", "–", ""),
        "trained, before cuts": ("8 of 8", "+2", "0 / 2", "up"),
        "without exit heads": ("4 of 8", "−4", "4 / 0", "down"),
        "shipped network, float": ("6 of 8", "+2", "0 / 2", "up"),
        RIVAL: ("4 of 8", "−2", "2 / 0", "down"),
        "onnx-int8": ("4 of 8", "−2", "4 / 2", "down"),
        "onnx-int8 with exits": ("6 of 8", "+2", "0 / 2", "up"),
    }
    assert steps["onnx-int8"].p == p_value(mcnemar_exact_p(4, 2))
    assert steps["without exit heads"].p == p_value(2 / 2**4)
    assert steps["teacher mn04"].p == "–"


def test_costs_are_those_of_the_worst_fold_and_savings_those_of_the_step(steps: dict[str, StepView]) -> None:
    assert steps["trained, before cuts"].params == Figure("8,000")
    assert steps["without exit heads"].params == Figure("4,000", "−50.0 %")
    assert steps["shipped network, float"].params == Figure("4,000")
    assert steps["without exit heads"].macs == Figure("200.0 k", "−50.0 %")
    assert steps["onnx-int8"].macs == Figure("200.0 k")
    assert steps["onnx-int8 with exits"].macs == Figure("80.0 k", "−60.0 %", "mean; at worst 210.0 k")
    assert steps["shipped network, float"].size == Figure("–")
    assert steps["onnx-int8"].size == Figure("5.9 KiB", "−70.0 %")
    assert steps["onnx-int8 with exits"].size == Figure("6.4 KiB", "+10.0 %")
    assert steps[RIVAL].size == Figure("5.9 KiB")


def test_mean_macs_weigh_folds_by_their_clips() -> None:
    one = {"predictions": (0,)}
    small = arm(
        predictions={"torch-fp32": (0,), "onnx-int8": (0,)},
        chain=tuple(item.model_copy(update=one) for item in arm().chain),
        exits=(exits((0, 0, 0, 0), 40_000).model_copy(update=one),),
    )
    second = fold(2, small, n_clips=1, clips=("a",), labels=((0,),), teacher_correct=1, teacher_predictions=(0,))
    chain = chain_result(summary(fold(1), second))
    assert chain is not None
    assert chain.rows[-1].mean_macs == pytest.approx((4 * 100_000 + 40_000) / 5)


def test_each_class_shows_its_right_clips_and_the_change() -> None:
    found = view()
    assert [name for name, _ in found.columns] == [row.name for row in found.steps]
    cells = {row.label: (row.n_clips, [(n, change) for n, change, _ in row.cells]) for row in found.classes}
    assert cells == {
        "dog": (4, [(4, ""), (4, ""), (2, "−2"), (4, "+2"), (4, ""), (2, "−2"), (2, "")]),
        "rain": (4, [(2, ""), (4, "+2"), (2, "−2"), (2, ""), (0, "−2"), (2, ""), (4, "+2")]),
    }
    assert [trend for _, _, trend in found.classes[1].cells] == ["", "up", "down", "", "down", "", "up"]


def test_a_teacher_known_by_its_count_alone_has_a_row_but_no_column() -> None:
    older = view(summary(fold(1), fold(2, teacher_predictions=())))
    assert (older.steps[0].right, older.steps[1].change, older.steps[1].flips) == ("6 of 8", "+2", "–")
    assert older.columns[0] == ("trained, before cuts", "")
    assert [cells[1] for cells in older.classes[0].cells[:2]] == ["", "−2"]
    assert older.teacher_counted_only


def test_a_clip_of_several_classes_counts_in_each_and_one_without_is_never_right() -> None:
    labels = ((0, 1), (0,), (), (1,))
    chain = (ChainStep(name="trained", params=1, macs_per_window=1, n_correct=2, predictions=(1, 0, 0, 0)),)
    found = view(summary(fold(1, arm(chain=chain, exits=()), labels=labels, teacher_predictions=(0, 0, 0, 1))))
    assert found.several_labels
    assert found.steps[1].right == "2 of 4"
    assert [(row.label, row.n_clips, row.cells[1][:2]) for row in found.classes] == [
        ("dog", 2, (2, "")),
        ("rain", 2, (1, "−1")),
    ]


@pytest.mark.parametrize(
    "given", [summary(fold(1, arm(chain=(), exits=()))), summary().model_copy(update={"folds": ()})]
)
def test_a_run_without_steps_has_no_chain(given: RunSummary) -> None:
    assert chain_result(given) is None


@pytest.mark.parametrize(
    ("second", "missing"),
    [
        (fold(2, arm(chain=arm().chain[:1])), "'without-exits'"),
        (fold(2, arm(exits=())), "'onnx-int8'"),
        (fold(2, arm("labels-only")), "arm 'distilled' of fold 2"),
    ],
)
def test_folds_that_do_not_fit_together_are_refused(second: FoldResult, missing: str) -> None:
    with pytest.raises(WorkDirError, match=f"{missing}.*Run the recipe again"):
        chain_result(summary(fold(1), second))


def test_answers_that_do_not_fit_the_clips_are_refused() -> None:
    chain = chain_result(summary())
    assert chain is not None
    assert chain.rows[1].right is not None
    short = ChainRow("short", Score(1, 8), chain.rows[1].right[:3])
    with pytest.raises(ShapeError, match="'short'"):
        ChainResult("distilled", chain.labels, chain.members, (short,))
    with pytest.raises(ShapeError, match=r"wanted \(clips, 1\)"):
        ChainResult("distilled", ("dog",), chain.members, ())


def with_controls() -> RunSummary:
    """Two more arms: one right everywhere, one nowhere."""
    best = {"predictions": {"torch-fp32": ALL, "onnx-int8": ALL}, "artefacts": (artefact("onnx-int8", ALL, 7_000),)}
    none = (1, 1, 0, 0)
    worst = {"predictions": {"torch-fp32": none, "onnx-int8": none}, "artefacts": (artefact("onnx-int8", none, 5_000),)}
    bare: dict[str, Any] = {"chain": (), "exits": ()}
    arms = (arm(), arm("labels-only", **bare, **best), arm("without-blocks", params=4_100, **bare, **worst))
    return summary(fold(1, *arms), fold(2, *arms))


def test_everything_with_bytes_is_drawn() -> None:
    found = [
        (item.arm, item.name, item.kind, item.score.n_correct, item.size_bytes)
        for item in sized_results(with_controls())
    ]
    assert found == [
        ("distilled", "onnx-fp32", "fp32", 6, 20_000),
        ("distilled", "onnx-int8", "int8", 4, 6_000),
        ("distilled", RIVAL, "rival", 4, 6_000),
        ("distilled", "onnx-int8 with exits", "exits", 6, 6_600),
        ("labels only", "onnx-int8", "int8", 8, 7_000),
        ("without blocks", "onnx-int8", "int8", 0, 5_000),
    ]
    assert sized_results(summary().model_copy(update={"folds": ()})) == ()


def test_every_other_arm_has_its_rows_and_its_paired_comparison() -> None:
    given = with_controls()
    models = {model.name: model for model in _models(given, "onnx-int8")}
    assert models["student, without blocks: onnx-int8"].role == "control"
    assert models["student, without blocks: onnx-int8"].params == 4_100
    assert models["student, labels only: onnx-int8"].pooled == Score(8, 8)
    assert models["student, distilled: onnx-int8"].role == "artefact"
    assert models["student, distilled: torch-fp32"].role == "student"
    assert models["student, distilled: torch-fp32"].params == 4_000
    pairs = [(p.name_a, p.name_b, p.both, p.only_a, p.only_b, p.neither) for p in _comparisons(given, "onnx-int8")]
    assert pairs == [
        ("distilled (onnx-int8)", "labels only (onnx-int8)", 4, 0, 4, 0),
        ("distilled (onnx-int8)", "without blocks (onnx-int8)", 0, 4, 0, 4),
    ]
    assert _comparisons(summary(), "onnx-int8") == []


def page(given: RunSummary) -> str:
    return render_report(
        ReportData(
            title="Kitchen",
            models=(ModelResult("teacher mn04", "teacher", (Score(6, 8),)),),
            chain=chain_result(given),
            sized=sized_results(given),
        )
    )


def test_the_page_shows_the_steps_their_classes_and_the_picture() -> None:
    html = page(with_controls())
    assert html.count('id="chain"') == html.count('href="#chain"') == 1
    assert "What each step cost and saved" in html
    assert re.search(
        r'onnx-int8 with exits<small>against onnx-int8</small>.*?6 of 8.*?class="num up">\+2<.*?0 / 2', html
    )
    assert "mean; at worst 210.0 k" in html
    assert 'class="num down">2 <small>−2</small>' in html
    assert "A clip counts in each of its classes" not in html
    assert "The teacher is missing" not in html
    picture = re.search(r'<svg[^>]*aria-label="Accuracy against bytes of 6 files of ([^"]*)".*?</svg>', html, re.DOTALL)
    assert picture is not None
    assert picture[1] == "distilled, labels only, without blocks"
    for words in ("stages with exits", "int8, other training", "float file", "int8 file", "teacher"):
        assert words in picture[0]


def test_a_page_without_steps_has_neither_the_section_nor_the_picture() -> None:
    html = render_report(ReportData(title="Kitchen", models=(ModelResult("m", "teacher", (Score(6, 8),)),)))
    assert 'chain"' not in html
    assert "Accuracy against bytes" not in html


def test_a_hostile_name_stays_text() -> None:
    evil = "<script>alert(1)</script>$\\frac"
    chain = (step("trained", ALL, 1, 1), step(evil, ALL, 1, 1, 10))
    html = page(summary(fold(1, arm(chain=chain, exits=()))).model_copy(update={"labels": (evil, "rain", "x")}))
    assert "<script" not in html
    assert html.count("&lt;script&gt;") >= 3
