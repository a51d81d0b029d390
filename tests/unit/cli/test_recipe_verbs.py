"""Verbs that execute a recipe: what they hand to the pipeline, and how they show what it found."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from edgeaudio.bench.base import BenchJob
from edgeaudio.bench.local import LocalDevice
from edgeaudio.bench.schema import BenchOptions
from edgeaudio.cli.main import main
from edgeaudio.cli.recipe import STEPS
from edgeaudio.errors import ParityError
from edgeaudio.pipeline.summary import ArmResult, ArtefactResult, FoldResult, RunSummary, SkippedClip
from edgeaudio.spec import Spec
from tests import tiny_bundle as tiny


class TrainSpec(Spec):
    epochs: int = 3


class Recipe(Spec):
    name: str
    train: TrainSpec = TrainSpec()


def summary(*, folds: bool = True, skipped_clips: int = 0) -> RunSummary:
    artefacts = (
        ArtefactResult(name="torch-fp32", n_correct=70),
        ArtefactResult(name="onnx-int8", n_correct=69, size_bytes=20_480),
    )
    arms = tuple(
        ArmResult(arm=arm, artefacts=artefacts, predictions={}, train_wall_s=1.0, bundle=f"bundles/{arm}.eab")
        for arm in ("distilled", "labels-only")
    )
    fold = FoldResult(fold=1, n_clips=80, clips=(), labels=(), teacher_correct=76, arms=arms)
    return RunSummary(
        name="kitchen",
        seed=0,
        recipe_digest="0" * 64,
        teacher="mn04",
        labels=("a", "b"),
        params=12_345,
        macs_per_window=678_900,
        receptive_field_frames=99,
        folds=(fold,) if folds else (),
        paired=None,
        stage_wall_s={},
        skipped=tuple(SkippedClip(path=f"{i}.wav", reason="truncated") for i in range(skipped_clips)),
        until="verify" if folds else "label",
    )


class Pipeline:
    """Stands for the pipeline: notes what it was asked, answers with `answer`."""

    def __init__(self) -> None:
        self.calls: list[dict[str, Any]] = []
        self.answer: RunSummary | Exception = summary()

    def run_recipe(
        self, recipe: Recipe, work: Path, *, progress: Any, progress_bar: bool, **stages: str | None
    ) -> RunSummary:
        assert not progress_bar, "stderr is no terminal here"
        progress("labelling", 1, 2)
        self.calls.append({"recipe": recipe, "work": work, **stages})
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer

    def run_demo(self, work: Path, *, progress: Any, progress_bar: bool) -> SimpleNamespace:
        self.calls.append({"work": work})
        bench = LocalDevice().bench(
            BenchJob(tiny.tiny_bundle("onnx-fp32"), options=BenchOptions(min_hops=2, min_seconds=0))
        )
        return SimpleNamespace(
            summary=self.answer, bench=bench, bundle=work / "bundles/x.eab", report=work / "report.html"
        )

    def write_run_report(self, work: Path, out: Path) -> Path:
        self.calls.append({"work": work, "out": out})
        return out


@pytest.fixture
def pipeline(monkeypatch: pytest.MonkeyPatch) -> Pipeline:
    fake = Pipeline()
    contents = {
        "recipe": {"Recipe": Recipe},
        "run": {"run_recipe": fake.run_recipe},
        "demo": {"run_demo": fake.run_demo},
        "report_build": {"write_run_report": fake.write_run_report},
    }
    for name, members in contents.items():
        module = ModuleType(f"edgeaudio.pipeline.{name}")
        vars(module).update(members)
        monkeypatch.setitem(sys.modules, module.__name__, module)
    return fake


@pytest.fixture
def recipe_file(tmp_path: Path) -> str:
    path = tmp_path / "kitchen.yaml"
    path.write_text("name: kitchen\n")
    return str(path)


def test_run_hands_everything_on(pipeline: Pipeline, recipe_file: str) -> None:
    options = ["--set", "train.epochs=7", "--set", "name=other", "--work", "w", "--from", "export", "--until", "verify"]
    assert main(["run", recipe_file, *options]) == 0
    recipe = Recipe(name="other", train=TrainSpec(epochs=7))
    assert pipeline.calls == [{"recipe": recipe, "work": Path("w"), "from_stage": "export", "until_stage": "verify"}]


@pytest.mark.parametrize("verb", STEPS)
def test_a_single_step_is_a_run_that_stops_there(verb: str, pipeline: Pipeline, recipe_file: str) -> None:
    assert main([verb, recipe_file]) == 0
    assert pipeline.calls == [
        {"recipe": Recipe(name="kitchen"), "work": Path("work/kitchen"), "from_stage": None, "until_stage": verb}
    ]


def test_results_go_to_stdout_and_progress_to_stderr(
    pipeline: Pipeline, recipe_file: str, capsys: pytest.CaptureFixture[str]
) -> None:
    pipeline.answer = summary(skipped_clips=2)
    assert main(["run", recipe_file, "--work", "w"]) == 0
    captured = capsys.readouterr()
    assert captured.err == "labelling: 1 of 2\n"
    lines = captured.out.splitlines()
    assert lines[0] == "kitchen: 12345 parameters, 678900 MACs per window, 2 clips left out"
    assert any(line.endswith("onnx-int8   69 of 80     86.2%     69        20.0 KiB") for line in lines)
    assert any(line.split()[:2] == ["teacher", "mn04"] and "95.0%" in line for line in lines)
    assert "bundle: w/bundles/distilled.eab" in lines
    assert lines[-3:] == [
        "next:",
        "  edgeaudio bench w/bundles/distilled.eab --out w/bench.json",
        "  edgeaudio report w",
    ]


def test_a_run_that_stopped_early_says_where(
    pipeline: Pipeline, recipe_file: str, capsys: pytest.CaptureFixture[str]
) -> None:
    pipeline.answer = summary(folds=False)
    assert main(["label", recipe_file, "--work", "w"]) == 0
    assert "finished up to stage label; work directory w" in capsys.readouterr().out


def test_json_is_the_whole_summary(pipeline: Pipeline, recipe_file: str, capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in (["run", recipe_file], ["export", recipe_file]):
        assert main([*arguments, "--json"]) == 0
        assert json.loads(capsys.readouterr().out) == summary().model_dump(mode="json")


def test_a_gate_that_fails_is_exit_code_3(
    pipeline: Pipeline, recipe_file: str, capsys: pytest.CaptureFixture[str]
) -> None:
    pipeline.answer = ParityError("onnx-int8: 90 % of windows agree, wanted 97 %")
    assert main(["run", recipe_file]) == 3
    assert "onnx-int8" in capsys.readouterr().err


@pytest.mark.usefixtures("pipeline")
def test_a_wrong_recipe_is_exit_code_2_with_the_place(recipe_file: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", recipe_file, "--set", "train.epochz=1"]) == 2
    assert capsys.readouterr().err == (
        "error: --set train.epochz=1: train.epochz is not a field. Did you mean 'epochs'?\n"
    )


def test_report_says_where_it_wrote(pipeline: Pipeline, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", "w"]) == 0
    assert capsys.readouterr().out == "w/report.html\n"
    assert main(["report", "w", "--out", "x.html", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"report": "x.html"}
    assert [call["out"] for call in pipeline.calls] == [Path("w/report.html"), Path("x.html")]


def test_the_demo_ends_with_figures_a_bundle_and_a_report(
    pipeline: Pipeline, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["demo", "--work", "w"]) == 0
    page = capsys.readouterr().out
    assert pipeline.calls == [{"work": Path("w")}]
    assert "69 of 80" in page
    assert "per hop, ms" in page
    assert "\nreport: w/report.html\n" in page
    assert "next:\n  edgeaudio stream w/bundles/x.eab" in page
    assert main(["demo", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["summary"] == summary().model_dump(mode="json")
    assert found["report"] == "work/demo/report.html"
    assert found["bench"]["level"] in ("valid", "suspect", "invalid")


def test_a_bundle_where_a_recipe_is_wanted_gets_the_right_command(
    pipeline: Pipeline, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["verify", "x.eab"]) == 2
    assert "edgeaudio bundle check x.eab" in capsys.readouterr().err
    assert pipeline.calls == []
