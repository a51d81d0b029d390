"""The `sweep` verb: what it hands on, and its table of 80 columns."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from edgeaudio.cli.main import main
from edgeaudio.pipeline import sweep as sweep_module
from edgeaudio.pipeline.sweep_spec import SweepResult, SweepTrial

RECIPES = Path(__file__).resolve().parents[3] / "recipes"


def trial(number: int, accuracy: float, **changes: Any) -> SweepTrial:
    parameters = {"student.width": 4 * number, "train.learning_rate": 0.0012345678, "train.windows_seen": 16_000}
    return SweepTrial(
        number=number,
        state="complete",
        parameters=parameters,
        objectives={"accuracy": accuracy, "bytes": 20_480.0, "latency": 0.51234},
        command=f"edgeaudio run x.yaml --set student.width={4 * number}",
        **changes,
    )


def result() -> SweepResult:
    failed = SweepTrial(
        number=3, state="failed", parameters={}, objectives={}, reason="too large " * 20, command="edgeaudio run x.yaml"
    )
    return SweepResult(
        name="kitchen",
        recipe_digest="0" * 64,
        study="0" * 16,
        sampler="nsga2",
        seed=0,
        objectives=("accuracy", "bytes", "latency"),
        validation_fold=2,
        excluded_folds=(1,),
        trials_wanted=4,
        trials=(trial(0, 0.9), trial(1, 0.91, pareto=True), trial(2, 0.95, pareto=True, notes=("busy",)), failed),
    )


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    seen: list[dict[str, Any]] = []

    def run_sweep(sweep: sweep_module.Sweep, work: Path, *, trials: int | None, progress: Any, **_: Any) -> SweepResult:
        progress("sweep", 1, 4)
        seen.append({"sweep": sweep, "work": work, "trials": trials})
        return result()

    monkeypatch.setattr(sweep_module, "run_sweep", run_sweep)
    return seen


def test_a_sweep_hands_everything_on(calls: list[dict[str, Any]], capsys: pytest.CaptureFixture[str]) -> None:
    recipe = str(RECIPES / "sweep.yaml")
    assert main(["sweep", recipe, "--trials", "4", "--set", "student.dropout=0.2", "--work", "w", "--json"]) == 0
    (call,) = calls
    assert (call["work"], call["trials"]) == (Path("w"), 4)
    assert call["sweep"].recipe.student.dropout == 0.2
    captured = capsys.readouterr()
    assert json.loads(captured.out) == result().model_dump(mode="json")
    assert captured.err == "sweep: 1 of 4\n"


@pytest.mark.usefixtures("calls")
def test_the_front_fits_80_columns_best_first(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["sweep", str(RECIPES / "sweep.yaml")]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "kitchen: 4 trials, 1 failed, judged on fold 2"
    assert max(map(len, lines)) <= 80
    figures = [line.split()[:6] for line in lines if line[:1].isdecimal()]
    assert figures == [["2", "95.0%", "20.0", "KiB", "0.512", "ms"], ["1", "91.0%", "20.0", "KiB", "0.512", "ms"]]
    assert any("train.learning_rate=0.001235" in line for line in lines)
    assert "  edgeaudio run x.yaml --set student.width=8" in lines
    assert "  edgeaudio report work/sweep" in lines


@pytest.mark.usefixtures("calls")
def test_a_recipe_without_a_sweep_is_exit_code_2(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["sweep", str(RECIPES / "sweep.yaml"), "--set", "sweep=null"]) == 2
    assert "sweep is missing" in capsys.readouterr().err
