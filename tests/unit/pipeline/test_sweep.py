"""A sweep is refused early, remembers everything, goes on where it was killed, and never sees a test fold."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from edgeaudio.errors import BenchInvalidError, ConfigError, DataError, ParityError, WorkDirError
from edgeaudio.pipeline import sweep as sweep_module
from edgeaudio.pipeline.recipe import Recipe
from edgeaudio.pipeline.report_build import build_report_data, write_run_report
from edgeaudio.pipeline.summary import ArmResult, ArtefactResult, FoldResult, RunSummary
from edgeaudio.pipeline.sweep import Sweep, load_sweep, measure_latency, run_sweep
from edgeaudio.pipeline.sweep_spec import Choices, Range, SweepResult, SweepSpec, pareto_flags, read_sweep
from edgeaudio.pipeline.sweep_study import SweepStudy
from edgeaudio.pipeline.workdir import WorkDir
from tests import tiny_bundle as tiny

RECIPE = """\
name: kitchen
data: {kind: synth, synth_unlabelled: 0, test_folds: [1], exclude_folds: [5]}
windows: {unlabelled_count: 0}
ablate: [logits]
sweep:
  trials: 6
  objectives: [accuracy, bytes]
  validation_fold: 2
  sampler: random
  space:
    student.width: [4, 8, 16]
    train.learning_rate: {low: 1.0e-3, high: 6.0e-3, log: true}
"""


def load(folder: Path, text: str = RECIPE, *overrides: str) -> Sweep:
    path = folder / "kitchen.yaml"
    path.write_text(text)
    return load_sweep(path, overrides)


def spec(**changes: Any) -> SweepSpec:
    return SweepSpec.parse({"validation_fold": 2, "space": {"student.width": [4, 8]}, **changes}, source="sweep")


class Killed(BaseException):
    """As when the process ends: nothing below the runner may catch it."""


class Runner:
    """Stands for `run_recipe`: accuracy and size follow from the recipe, `before` may raise at a call."""

    def __init__(self, before: Callable[[int], None] = lambda call: None) -> None:
        self.recipes: list[Recipe] = []
        self.checked = 0
        self._before = before

    def __call__(self, recipe: Recipe, work: Path, **options: Any) -> RunSummary:
        assert options["recorded"] is False, "a trial is nobody's run"
        if options.get("until_stage") == "data":
            self.checked += 1
        else:
            self.recipes.append(recipe)
            options["progress"]("train", 1, 1)
            self._before(len(self.recipes))
        return self.summary(recipe)

    @staticmethod
    def summary(recipe: Recipe) -> RunSummary:
        width = recipe.student.width  # type: ignore[union-attr]
        n_correct = round(40 + width - 1e3 * abs(recipe.train.learning_rate - 3e-3))
        int8 = ArtefactResult(name="onnx-int8", n_correct=n_correct, size_bytes=1000 + 10 * width)
        bundle = f"bundles/{recipe.name}-fold2.eab"
        arm = ArmResult(arm="distilled", artefacts=(int8,), predictions={}, train_wall_s=1, bundle=bundle)
        fold = FoldResult(fold=2, n_clips=80, clips=(), labels=(), teacher_correct=80, arms=(arm,))
        return RunSummary(
            name=recipe.name, seed=0, recipe_digest=recipe.digest(), teacher="t", labels=("a", "b"), params=100 * width,
            macs_per_window=1000 * width, receptive_field_frames=9, folds=(fold,), paired=None, stage_wall_s={},
            skipped=(),
        )  # fmt: skip


def no_progress(title: str, done: int, total: int) -> None:
    """Nobody looks."""


def run(sweep: Sweep, work: Path, runner: Runner | None = None, **options: Any) -> SweepResult:
    return run_sweep(sweep, work, progress=no_progress, runner=runner or Runner(), **options)


def found(result: SweepResult) -> list[tuple[Any, ...]]:
    return [(t.number, t.state, t.parameters, t.objectives, t.pareto, t.same_as) for t in result.trials]


def fail_at(wanted: int, error: BaseException) -> Callable[[int], None]:
    def before(call: int) -> None:
        if call == wanted:
            raise error

    return before


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"space": {}}, "space"),
        ({"space": {"student.width": 5}}, "wanted a list of values, or {low"),
        ({"space": {"student.width": []}}, "choices"),
        ({"space": {"student.width": [4, 4]}}, "one value comes twice"),
        ({"space": {"train.learning_rate": {"low": 2, "high": 1}}}, "low 2 must be below high 1"),
        ({"space": {"train.learning_rate": {"low": 0, "high": 1, "log": True}}}, "log needs low above 0"),
        ({"space": {"train.windows_seen": {"low": 10, "high": 100, "step": 40}}}, "do not end at high 100"),
        ({"space": {"train.windows_seen": {"low": 10, "high": 20, "step": 40}}}, "step 40 leaves one value"),
        ({"space": {"train": [{}], "train.learning_rate": [1]}}, "train.learning_rate is a part of train"),
        ({"space": {"seed": [0, 1]}}, "would choose a lucky draw"),
        ({"space": {"windows.seed": [0, 1]}}, "would choose a lucky draw"),
        ({"space": {"control": [True]}}, "control is set by the sweep itself"),
        ({"space": {"data.test_folds": [[1], [2]]}}, "decides which clips are tests"),
        ({"objectives": ["accuracy", "accuracy"]}, "names one twice"),
        ({"objectives": ["beauty"]}, "objectives"),
        ({"objectives": []}, "objectives"),
        ({"trials": 0}, "trials"),
    ],
)
def test_an_impossible_sweep_names_its_field(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        spec(**changes)


def test_whole_ends_make_whole_numbers() -> None:
    assert Range(low=1, high=9, step=4).whole
    assert not Range(low=1, high=9.0).whole
    assert not Range(low=1, high=9, step=0.5).whole
    assert Choices(choices=(1, True, "1", None)).texts == ("1", "true", '"1"', "null")


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["sweep=null"], "sweep is missing"),
        (["sweep.validation_fold=1"], "validation_fold 1 is in data.test_folds too"),
        (["sweep.validation_fold=5"], "validation_fold 5 is in data.exclude_folds too"),
        (["sweep.space={student.widht: [4, 8]}"], "student.widht is not a field. Did you mean 'width'?"),
        (["sweep.space={student.width: [4, 8, 9000]}"], "student.width is 9000; wanted less than or equal to 128"),
        (["sweep.space={student.family: [dscnn, cnn]}"], "'cnn' is not known"),
        (["sweep.space={train.windows_seen: {low: 1.0e+3, high: 1.0e+4}}"], "train.windows_seen is 4437.69"),
        (["sweep.space={train.learning_rate: {low: -1, high: 1}}"], "train.learning_rate is -1; wanted greater than 0"),
    ],
)
def test_what_the_recipe_refuses_is_refused_before_the_first_trial(
    tmp_path: Path, overrides: list[str], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        load(tmp_path, RECIPE, *overrides)


def test_a_value_that_only_fits_beside_others_is_no_error(tmp_path: Path) -> None:
    text = RECIPE.partition("  space:")[0]
    text += "  space: {student.family: [transformer], student.depth: [1, 4], student.merge: [0, 3]}\n"
    sweep = load(tmp_path, text)
    with pytest.raises(ConfigError, match="merge"):
        sweep.trial_recipe({"student.family": "transformer", "student.depth": 1, "student.merge": 3})


def test_a_trial_is_judged_on_the_validation_fold_and_never_touches_a_test_fold(tmp_path: Path) -> None:
    trial = load(tmp_path).trial_recipe({"student.width": 16})
    assert trial.data.test_folds == (2,)
    assert trial.data.exclude_folds == (1, 5)
    assert (trial.control, trial.ablate, trial.sweep) == (False, (), None)
    assert trial.student.width == 16  # type: ignore[union-attr]
    other = load(tmp_path).trial_recipe({"student.width": 8})
    assert trial.name.startswith("kitchen-")
    assert trial.name != other.name


def test_a_recipe_is_the_same_with_and_without_its_sweep(tmp_path: Path) -> None:
    sweep = load(tmp_path)
    assert sweep.recipe.digest() == sweep.recipe.model_copy(update={"sweep": None}).digest()


def test_the_pareto_front_of_points_made_by_hand() -> None:
    points = [(0.9, 100), (0.9, 120), (0.8, 50), (0.7, 60), (0.8, 50), (0.95, 400)]
    assert pareto_flags(points, [True, False]) == [True, False, True, False, True, True]
    assert pareto_flags(points, [False, False]) == [False, False, True, True, True, False]
    assert pareto_flags([(1,), (3,), (3,)], [True]) == [False, True, True]
    assert pareto_flags([], [True]) == []


@pytest.mark.parametrize("sampler", ["nsga2", "tpe", "random"])
def test_a_sweep_killed_anywhere_ends_as_one_that_was_not(
    tmp_path: Path, sampler: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    sweep = load(tmp_path, RECIPE, f"sweep.sampler={sampler}", "sweep.population=2", "sweep.trials=7")
    whole = run(sweep, tmp_path / "whole")
    assert len(whole.trials) == 7

    runner = Runner(fail_at(3, Killed()))
    with pytest.raises(Killed):
        run(sweep, tmp_path / "cut", runner)
    left = read_sweep(tmp_path / "cut")
    assert left is not None
    assert found(left)[:1] == found(whole)[:1]
    # Then between the two parameters of a trial: what was drawn is kept, what was not is drawn as it would have been.
    with monkeypatch.context() as patch:
        patch.setattr("edgeaudio.pipeline.sweep_study._suggest", _killed_at_the_second_parameter(after_trials=2))
        with pytest.raises(Killed):
            run(sweep, tmp_path / "cut")
    assert found(run(sweep, tmp_path / "cut")) == found(whole)


def _killed_at_the_second_parameter(after_trials: int) -> Callable[..., Any]:
    from edgeaudio.pipeline.sweep_study import _suggest

    calls = 0

    def suggest(*arguments: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == 2 * after_trials + 2:
            raise Killed
        return _suggest(*arguments)

    return suggest


def test_an_interrupted_trial_is_run_again_with_its_parameters(tmp_path: Path) -> None:
    sweep = load(tmp_path)
    first = Runner(fail_at(3, KeyboardInterrupt()))
    with pytest.raises(KeyboardInterrupt):
        run(sweep, tmp_path / "w", first)
    left = read_sweep(tmp_path / "w")
    assert left is not None
    assert [trial.number for trial in left.trials] == [0, 1]
    second = Runner()
    result = run(sweep, tmp_path / "w", second)
    assert second.recipes[0] == first.recipes[2], "the trial that was interrupted comes first"
    assert len(result.trials) == 6
    assert run(sweep, tmp_path / "w", third := Runner()) == result
    assert (third.recipes, third.checked) == ([], 0), "a finished sweep does nothing"


def test_more_trials_go_on_with_the_same_sweep_and_another_sweep_starts_anew(tmp_path: Path) -> None:
    few = run(load(tmp_path), tmp_path / "w", trials=2)
    more = run(load(tmp_path, RECIPE, "sweep.trials=4"), tmp_path / "w")
    assert found(more)[:1] == found(few)[:1]
    assert [t.parameters for t in more.trials[:2]] == [t.parameters for t in few.trials]
    assert len(more.trials) == 4
    other = run(load(tmp_path, RECIPE, "sweep.seed=1"), tmp_path / "w", trials=2)
    assert len(other.trials) == 2
    assert [t.parameters for t in other.trials] != [t.parameters for t in few.trials]


def test_a_trial_that_fails_for_its_own_sake_is_recorded_and_the_sweep_goes_on(tmp_path: Path) -> None:
    runner = Runner(fail_at(2, ParityError("onnx-int8: 90 % agree, wanted 99 %")))
    result = run(load(tmp_path), tmp_path / "w", runner)
    assert [trial.state for trial in result.trials].count("failed") == 1
    (failed,) = result.failed
    assert failed.reason == "onnx-int8: 90 % agree, wanted 99 %"
    assert (failed.objectives, failed.pareto, failed.bundle) == ({}, False, None)
    assert len(result.trials) == 6


@pytest.mark.parametrize(
    "error", [DataError("no folder"), WorkDirError("in use"), BenchInvalidError("busy"), RuntimeError("a bug")]
)
def test_what_other_parameters_would_not_mend_stops_the_sweep(tmp_path: Path, error: Exception) -> None:
    with pytest.raises(type(error), match=str(error)):
        run(load(tmp_path), tmp_path / "w", Runner(fail_at(2, error)))
    assert len(run(load(tmp_path), tmp_path / "w").trials) == 6, "and can be mended and gone on with"


def test_parameters_that_come_again_are_not_run_again(tmp_path: Path) -> None:
    sweep = load(tmp_path, RECIPE, "sweep.space={student.width: [4, 8]}")
    runner = Runner()
    result = run(sweep, tmp_path / "w", runner)
    assert len(runner.recipes) == 2
    again = [trial for trial in result.trials if trial.same_as is not None]
    assert len(again) == 4
    for trial in again:
        assert trial.objectives == result.trials[trial.same_as or 0].objectives
    assert sorted(trial.parameters["student.width"] for trial in result.front) == [4, 8]


def test_the_front_comes_with_the_command_that_runs_it(tmp_path: Path) -> None:
    sweep = load(tmp_path, RECIPE, "sweep.space={student.width: [4, 8]}", "train.batch_size=32")
    best = run(sweep, tmp_path / "w").front[0]
    assert best.parameters == {"student.width": 8}
    assert best.command == f"edgeaudio run {sweep.source} --set train.batch_size=32 --set student.width=8"


def test_macs_and_latency_are_objectives_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sweep_module.Bundle, "read", lambda path: path.name)
    monkeypatch.setattr(sweep_module, "measure_latency", lambda bundle, name: (0.25, (f"{bundle} {name}",)))
    result = run(load(tmp_path, RECIPE, "sweep.objectives=[latency, macs]"), tmp_path / "w", trials=1)
    (trial,) = result.trials
    assert trial.objectives == {"latency": 0.25, "macs": 1000 * trial.parameters["student.width"]}
    assert trial.bundle is not None
    assert trial.notes == (f"{Path(trial.bundle).name} onnx-int8",)


def test_latency_is_a_measured_median_and_an_unusable_one_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    quick = sweep_module.LATENCY_BENCH.model_copy(update={"min_hops": 5, "min_seconds": 0.0, "warmup_hops": 0})
    monkeypatch.setattr(sweep_module, "LATENCY_BENCH", quick)
    bundle = tiny.tiny_bundle("onnx-fp32")
    measured = []

    def bench(*arguments: Any, **options: Any) -> Any:
        result = sweep_bench(*arguments, **options)
        level = "invalid" if not measured else "valid"
        item = result.artefacts[0]
        verdict = item.verdict.model_copy(update={"level": level, "reasons": ()})
        item = item.model_copy(update={"verdict": verdict})
        measured.append(item.stage("total").summary.p50.value_us)  # type: ignore[union-attr]
        return result.model_copy(update={"artefacts": (item,)})

    sweep_bench = sweep_module.bench_bundle
    monkeypatch.setattr(sweep_module, "bench_bundle", bench)
    assert measure_latency(bundle, "onnx-fp32") == (measured[1] / 1e3, ())
    assert len(measured) == 2, "an invalid one is measured again"
    monkeypatch.setattr(sweep_module, "LATENCY_ATTEMPTS", 1)
    measured.clear()
    with pytest.raises(BenchInvalidError, match="no usable latency"):
        measure_latency(bundle, "onnx-fp32")


def test_a_file_that_is_no_study_is_named_with_the_mend(tmp_path: Path) -> None:
    (tmp_path / "study.db").write_bytes(b"not a database, " * 100)
    with pytest.raises(WorkDirError, match=r"study\.db is not the study of a sweep. Remove it"):
        SweepStudy(tmp_path / "study.db", "x", spec())
    (tmp_path / "sweep.json").write_text("{}")
    with pytest.raises(WorkDirError, match=r"sweep\.json is not a sweep's result"):
        read_sweep(tmp_path)


def test_one_sweep_at_a_time(tmp_path: Path) -> None:
    with WorkDir(tmp_path / "w" / "sweep"), pytest.raises(WorkDirError, match="in use by process"):
        run(load(tmp_path), tmp_path / "w")


def test_a_work_directory_with_a_sweep_alone_has_a_report(tmp_path: Path) -> None:
    evil = "<script>alert(1)</script>"
    runner = Runner(fail_at(2, ParityError(evil)))
    result = run(load(tmp_path), tmp_path / "w", runner)
    assert build_report_data(tmp_path / "w").sweep == result
    page = write_run_report(tmp_path / "w", tmp_path / "report.html").read_text()
    section = page.partition('<section id="sweep">')[2].partition("</section>")[0]
    assert section.count("<svg") == 1, "accuracy against bytes"
    assert "judged on fold 2; fold(s) 1, 5, which the recipe is tested on, took no part" in section
    assert all(trial.command in section for trial in result.front)
    assert "&lt;script&gt;" in section
    assert evil not in page
