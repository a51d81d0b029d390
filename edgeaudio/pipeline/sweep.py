"""`run_sweep`: the same recipe with other parameters, again and again, in one resumable work directory.

    <work>/sweep.json        all finished trials; rewritten after each
    <work>/sweep/study.db    the Optuna study that chooses the parameters
    <work>/stages, bundles   those of the trials, shared by digest: labels are made once

Every trial is a run of its own. It trains without the recipe's test folds and is judged on the sweep's
validation fold, so that the recipe which is chosen meets its test folds for the first time afterwards.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

from edgeaudio.bench.harness import bench_bundle
from edgeaudio.bench.schema import BenchOptions
from edgeaudio.bundle import Bundle
from edgeaudio.errors import BenchInvalidError, ConfigError, DataError, EdgeAudioError, UnsupportedError, WorkDirError
from edgeaudio.pipeline.arms import DISTILLED
from edgeaudio.pipeline.config import parse_config, read_config
from edgeaudio.pipeline.prepare import Progress
from edgeaudio.pipeline.recipe import Recipe
from edgeaudio.pipeline.run import run_recipe
from edgeaudio.pipeline.summary import ArmResult, RunSummary
from edgeaudio.pipeline.sweep_spec import (
    MAXIMISED,
    Objective,
    SweepResult,
    SweepSpec,
    SweepTrial,
    override,
    pareto_flags,
    run_command,
)
from edgeaudio.pipeline.sweep_study import Asked, Finished, Outcome, SweepStudy
from edgeaudio.pipeline.workdir import WorkDir
from edgeaudio.spec import canonical_json, digest_json

logger = logging.getLogger(__name__)

SWEEP_FOLDER = "sweep"
STUDY_FILE = "study.db"

# Enough hops for a median that other trials can be compared with; seconds, where training takes minutes.
LATENCY_BENCH = BenchOptions(min_hops=300, min_seconds=1.0)
LATENCY_ATTEMPTS = 3

# What says nothing about the parameters of a trial and would make all that follow fail alike.
_STOPPING = (WorkDirError, DataError, UnsupportedError, BenchInvalidError)


class Runner(Protocol):
    """What runs a trial: `run_recipe`."""

    def __call__(
        self,
        recipe: Recipe,
        work: Path,
        *,
        until_stage: str | None = None,
        recorded: bool = True,
        progress: Progress,
        progress_bar: bool = False,
    ) -> RunSummary:
        """As `run_recipe`."""


@dataclass(frozen=True)
class Sweep:
    """A recipe file and its sweep, checked: what every trial is made from.

    The text is kept: a file that is edited during a sweep must not change its later trials.
    """

    text: str
    source: str
    overrides: tuple[str, ...]
    recipe: Recipe
    spec: SweepSpec

    @property
    def excluded_folds(self) -> tuple[int, ...]:
        """Folds that no trial may touch: the recipe's test folds and those it leaves out itself."""
        return tuple(sorted({*self.recipe.data.test_folds, *self.recipe.data.exclude_folds}))

    @property
    def identity(self) -> str:
        """Digest (hex) of what decides the trials; a sweep with another one starts anew."""
        recipe = self.recipe.model_copy(update={"sweep": None})
        return digest_json({"recipe": recipe.changed(), "sweep": self.spec.identity})

    def trial_recipe(self, parameters: Mapping[str, Any]) -> Recipe:
        """The recipe of one trial. Its name holds its digest, so that its bundle keeps its name to itself.

        Raises:
            ConfigError: the recipe refuses these parameters together.
        """
        fixed = {
            "sweep": None,
            "control": False,
            "ablate": [],
            "data.test_folds": [self.spec.validation_fold],
            "data.exclude_folds": list(self.excluded_folds),
        }
        overrides = [override(field, value) for field, value in (fixed | dict(parameters)).items()]
        recipe = parse_config(self.text, Recipe, [*self.overrides, *overrides], source=self.source)
        return recipe.model_copy(update={"name": f"{recipe.name[:30]}-{recipe.digest()[:8]}"})

    def command(self, parameters: Mapping[str, Any]) -> str:
        """What trains the recipe with these parameters and tests it on its own test folds."""
        overrides = [item for item in self.overrides if not item.startswith("sweep.")]
        return run_command(self.source, overrides, parameters)


def load_sweep(path: Path, overrides: tuple[str, ...] = ()) -> Sweep:
    """Read a recipe with a `sweep`, and try every value of its space on it.

    Raises:
        ConfigError: no sweep in it, a validation fold that is a test fold, an unknown field (with the
            closest match), or a value that the recipe refuses.
    """
    text = read_config(path)
    recipe = parse_config(text, Recipe, overrides, source=str(path))
    if recipe.sweep is None:
        raise ConfigError(
            f"{path}: sweep is missing: what to vary, and where to judge it. "
            "Add sweep: {validation_fold: 2, space: {student.width: [8, 16, 32]}}"
        )
    sweep = Sweep(text, str(path), tuple(overrides), recipe, recipe.sweep)
    fold = recipe.sweep.validation_fold
    for field in ("test_folds", "exclude_folds"):
        if fold in getattr(recipe.data, field):
            raise ConfigError(
                f"{path}: sweep.validation_fold {fold} is in data.{field} too: the choice would be made on it. "
                f"Name another fold, or leave it out there (--set data.{field}=[...])"
            )
    for field, dimension in sweep.spec.space.items():
        for value in dimension.probes():
            _require_accepted(sweep, field, value)
    return sweep


def _require_accepted(sweep: Sweep, field: str, value: Any) -> None:
    """Raise `ConfigError` where the recipe refuses `value` alone and beside the others' first and last values."""
    first = {name: dimension.probes()[0] for name, dimension in sweep.spec.space.items()}
    last = {name: dimension.probes()[-1] for name, dimension in sweep.spec.space.items()}
    refusal: ConfigError | None = None
    for others in ({}, first, last):
        try:
            sweep.trial_recipe({**others, field: value})
        except ConfigError as error:
            refusal = refusal or error
        else:
            return
    raise ConfigError(f"sweep.space: {refusal}")


def run_sweep(
    sweep: Sweep,
    work: Path,
    *,
    trials: int | None = None,
    progress: Progress,
    progress_bar: bool = False,
    runner: Runner = run_recipe,
) -> SweepResult:
    """Run trials until so many are finished; a sweep that was stopped goes on with the trial it was at.

    A trial that fails for its own sake (parity, an impossible size) is recorded with the reason.

    Args:
        trials: in all, those of before included; None means the sweep's own number.
        runner: runs one trial, as `run_recipe` does.
    Raises:
        WorkDirError: another sweep is in this directory.
        ConfigError: the recipe cannot run as it stands, whatever the parameters.
        BenchInvalidError: the machine is too busy to measure a latency; the trial is not lost.
        EdgeAudioError: unusable data, a library that is missing: what no other parameters would mend.
    """
    wanted = sweep.spec.trials if trials is None else trials
    if wanted < 1:
        raise ConfigError(f"trials is {wanted}, wanted at least 1")
    with WorkDir(work / SWEEP_FOLDER):
        study = SweepStudy(work / SWEEP_FOLDER / STUDY_FILE, sweep.identity[:16], sweep.spec)
        finished = study.finished()
        if len(finished) < wanted:
            # Folds that are not there would fail in every trial: find out before any is recorded.
            titled = _titled(progress, "sweep")
            runner(sweep.trial_recipe({}), work, until_stage="data", recorded=False, progress=titled)
        while len(finished) < wanted:
            asked = study.ask()
            logger.info("trial %d%s: %s", asked.number, " goes on" if asked.resumed else "", _in_words(asked))
            titled = _titled(progress, f"trial {asked.number}")
            study.tell(asked, _run_trial(sweep, work, asked, finished, titled, progress_bar, runner))
            finished = study.finished()
            _result(sweep, finished, wanted).write(work)
            progress("sweep", len(finished), wanted)
        result = _result(sweep, finished, wanted)
        result.write(work)
        return result


def _titled(progress: Progress, prefix: str) -> Progress:
    return lambda title, done, total: progress(f"{prefix}: {title}", done, total)


def _in_words(asked: Asked) -> str:
    return ", ".join(override(field, value) for field, value in asked.parameters.items())


def _run_trial(
    sweep: Sweep,
    work: Path,
    asked: Asked,
    finished: list[Finished],
    progress: Progress,
    progress_bar: bool,
    runner: Runner,
) -> Outcome:
    # As JSON, where 1, 1.0 and true differ.
    wanted = canonical_json(asked.parameters)
    same = next((trial for trial in finished if canonical_json(trial.parameters) == wanted), None)
    if same is not None:
        return replace(same.outcome, same_as=same.number)
    try:
        recipe = sweep.trial_recipe(asked.parameters)
        summary = runner(recipe, work, recorded=False, progress=progress, progress_bar=progress_bar)
        return _measured(sweep.spec.objectives, recipe, summary, work)
    except _STOPPING:
        raise
    except EdgeAudioError as error:
        logger.warning("trial %d failed: %s", asked.number, error)
        return Outcome(None, reason=str(error))


def _measured(objectives: tuple[Objective, ...], recipe: Recipe, summary: RunSummary, work: Path) -> Outcome:
    """The objectives of the int8 artefact in the recipe's first format."""
    fold = summary.folds[0]
    arm = fold.arm(DISTILLED)
    assert arm is not None
    name = f"{recipe.formats[0]}-int8"
    values: list[float] = []
    notes: tuple[str, ...] = ()
    for objective in objectives:
        if objective == "accuracy":
            values.append(arm.correct(name) / fold.n_clips)
        elif objective == "bytes":
            values.append(_size_bytes(arm, name))
        elif objective == "macs":
            values.append(summary.macs_per_window if arm.macs_per_window is None else arm.macs_per_window)
        else:
            latency_ms, notes = measure_latency(Bundle.read(work / arm.bundle), name)
            values.append(latency_ms)
    return Outcome(tuple(values), notes=notes, bundle=arm.bundle)


def _size_bytes(arm: ArmResult, name: str) -> int:
    size_bytes = next(item.size_bytes for item in arm.artefacts if item.name == name)
    assert size_bytes is not None
    return size_bytes


def measure_latency(bundle: Bundle, artefact: str) -> tuple[float, tuple[str, ...]]:
    """Median milliseconds per hop on this machine, one thread, and what speaks against the figure.

    Raises:
        BenchInvalidError: the machine was too busy, several times.
    """
    for _ in range(LATENCY_ATTEMPTS):
        item = bench_bundle(bundle, [artefact], threads=1, options=LATENCY_BENCH).artefacts[0]
        total = item.stage("total")
        reasons = tuple(f"latency is {reason.level}: {reason.message}" for reason in item.verdict.reasons)
        if item.verdict.level != "invalid" and total is not None and total.summary is not None:
            assert total.summary.p50.value_us is not None
            return total.summary.p50.value_us / 1e3, reasons
    raise BenchInvalidError(
        f"{artefact}: {LATENCY_ATTEMPTS} times no usable latency ({'; '.join(reasons)}). "
        "Sweep again when the machine is quiet, what was trained is kept; or take objective macs for latency"
    )


def _result(sweep: Sweep, finished: list[Finished], wanted: int) -> SweepResult:
    objectives = sweep.spec.objectives
    # A repeated trial would stand on the front beside itself.
    ranked = [trial for trial in finished if trial.outcome.values is not None and trial.outcome.same_as is None]
    flags = pareto_flags([trial.outcome.values or () for trial in ranked], [name in MAXIMISED for name in objectives])
    front = {trial.number for trial, flag in zip(ranked, flags, strict=True) if flag}
    return SweepResult(
        name=sweep.recipe.name,
        recipe_digest=sweep.recipe.digest(),
        study=sweep.identity[:16],
        sampler=sweep.spec.sampler,
        seed=sweep.spec.seed,
        objectives=objectives,
        validation_fold=sweep.spec.validation_fold,
        excluded_folds=sweep.excluded_folds,
        trials_wanted=wanted,
        trials=tuple(_trial(sweep, trial, trial.number in front) for trial in finished),
    )


def _trial(sweep: Sweep, trial: Finished, pareto: bool) -> SweepTrial:
    outcome = trial.outcome
    values = outcome.values
    return SweepTrial(
        number=trial.number,
        state="failed" if values is None else "complete",
        parameters=trial.parameters,
        objectives={} if values is None else dict(zip(sweep.spec.objectives, values, strict=True)),
        pareto=pareto,
        same_as=outcome.same_as,
        reason=outcome.reason,
        notes=outcome.notes,
        bundle=outcome.bundle,
        command=sweep.command(trial.parameters),
    )
